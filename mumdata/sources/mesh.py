"""Pairs from a mesh of the scene: each frame's depth is cast from it; see `mumdata.sources.views` for the rest.

In: a stream with a mesh in the cameras' world. Out: pairs with overlaps and angles. Lenses that distort are followed,
so that pictures of a fisheye camera are compared as they are.

The rays are cast by Open3D in float32; the last digit of a depth may differ between processors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mumdata import open3d
from mumdata.covisibility import Pairs
from mumdata.datasets import Stream
from mumdata.errors import LayoutError
from mumdata.sources.depth_files import DepthMap
from mumdata.sources.ply import Mesh, parse_ply
from mumdata.sources.source import Source, SourceOptions
from mumdata.sources.views import MAP_SIDE, View, compare, map_rays
from mumdata.tree import Tree

__all__ = ["MESH", "mesh", "mesh_and_notes"]

_TOLERANCE = 0.01  # all frames see the same mesh, from where they are said to stand


def mesh_and_notes(
    tree: Tree, stream: Stream, options: SourceOptions, *, prune: bool = True
) -> tuple[Pairs | None, tuple[str, ...]]:
    """Return the pairs by the stream's mesh, and which frames could not be used.

    None where the stream has no mesh or no cameras. LayoutError where the mesh cannot be read, MumError where Open3D
    cannot be loaded.
    """
    path, cameras = stream.mesh_path, stream.cameras
    if path is None or cameras is None:
        return None, ()
    try:
        caster = _Caster(parse_ply(tree.map(path)))
    except LayoutError as error:
        raise LayoutError(f"{path}: {error}") from error

    def depth_of(row: int, view: View) -> DepthMap | None:
        return caster.depth_map(view, cameras.cam_from_world[row])

    return compare(cameras, depth_of, options, source="mesh", tolerance=_TOLERANCE, ordered=stream.ordered, prune=prune)


def mesh(tree: Tree, key: tuple[str | None, ...], stream: Stream, options: SourceOptions) -> Pairs | None:
    """Return the pairs by the stream's mesh; see `mesh_and_notes`."""
    pairs, notes = mesh_and_notes(tree, stream, options)
    return None if pairs is None else replace(pairs, notes=notes)


class _Caster:
    """A mesh that rays can be cast at."""

    def __init__(self, mesh: Mesh) -> None:
        library = open3d.load()
        # float32 is finest near the origin
        self._middle = 0.5 * (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0))
        self._tensor = library.core.Tensor
        self._scene: Any = library.t.geometry.RaycastingScene(nthreads=1)
        vertices = (mesh.vertices - self._middle).astype(np.float32)
        self._scene.add_triangles(self._tensor(vertices), self._tensor(mesh.triangles))

    def depth_map(self, view: View, cam_from_world: np.ndarray) -> DepthMap:
        """Cast the depth along the axis that a camera sees, in a picture of MAP_SIDE pixels along the longer side."""
        width, height = view.size
        long = max(width, height)
        width, height = (max(1, (2 * MAP_SIDE * length + long) // (2 * long)) for length in (width, height))
        u, v = (each.ravel() for each in map_rays(view.resized((width, height)), 1))
        r, t = cam_from_world[:, :3], cam_from_world[:, 3]
        shown = np.flatnonzero(np.isfinite(u) & np.isfinite(v))
        rays = np.empty((len(shown), 6), np.float32)
        for i in range(3):
            rays[:, i] = -(r[0, i] * t[0] + r[1, i] * t[1] + r[2, i] * t[2]) - self._middle[i]
            # of length 1 along the axis, so that what is counted in such lengths is depth
            rays[:, 3 + i] = r[0, i] * u[shown] + r[1, i] * v[shown] + r[2, i]
        values = np.zeros(width * height, np.float32)
        values[shown] = self._scene.cast_rays(self._tensor(rays), nthreads=1)["t_hit"].numpy()
        return DepthMap(values.reshape(height, width))


MESH = Source(mesh, ("window", "grid", "tolerance"))
