"""Pairs from the frames' depth maps; see `mumdata.sources.views` for what overlap means here.

In: a stream with depth maps and cameras. Out: pairs with overlaps and angles.

Depth maps are taken to show the same view as their frames, whatever their sizes: intrinsics are scaled to them.
"""

from __future__ import annotations

from dataclasses import replace

from mumdata.covisibility import Pairs
from mumdata.datasets import Stream
from mumdata.sources.depth_files import DepthMap, read_depth
from mumdata.sources.source import Source, SourceOptions
from mumdata.sources.views import View, compare
from mumdata.tree import Tree

__all__ = ["DEPTH", "depth", "depth_and_notes", "TOLERANCES"]

# by form, where none is given: rendered depth, the points that many photos agree on, and what a phone's sensor measures
TOLERANCES = {"distance": 0.02, "pfm": 0.01, "float16-bits": 0.02, "megadepth": 0.02, "millimetres": 0.05}


def depth_and_notes(
    tree: Tree, stream: Stream, options: SourceOptions, *, prune: bool = True
) -> tuple[Pairs | None, tuple[str, ...]]:
    """Return the pairs by the stream's depth maps, and which frames could not be used.

    None where the stream has no depth maps or no cameras. A frame whose depth map cannot be read has no pairs; the
    MumError of the first is raised where none can be read.
    """
    form, paths, cameras = stream.depth, stream.depth_paths, stream.cameras
    if form is None or cameras is None or paths is None or not any(paths):
        return None, ()

    def depth_of(row: int, view: View) -> DepthMap | None:
        path = paths[row]
        if path is None:
            return None
        mask_path = form.mask_paths[row] if form.mask_paths is not None else None
        scale = float(form.scale[row]) if form.scale is not None else 1.0
        return read_depth(tree, form.form, path, mask_path, scale)

    tolerance = TOLERANCES[form.form]
    return compare(cameras, depth_of, options, source="depth", tolerance=tolerance, ordered=stream.ordered, prune=prune)


def depth(tree: Tree, key: tuple[str | None, ...], stream: Stream, options: SourceOptions) -> Pairs | None:
    """Return the pairs by the stream's depth maps; see `depth_and_notes`."""
    pairs, notes = depth_and_notes(tree, stream, options)
    return None if pairs is None else replace(pairs, notes=notes)


DEPTH = Source(depth, ("window", "grid", "tolerance"))
