"""The streams that draws belong to, as their datasets read them.

In: a dataset of a mix, and draws. Out: the stream of each, of the frames that were indexed. One
scene is held at a time.
"""

from __future__ import annotations

from mumdata import catalog
from mumdata import datasets as known
from mumdata.catalog import MixDataset
from mumdata.correspond.draw import Draw, SceneKey
from mumdata.errors import CatalogError
from mumdata.index import module_of
from mumdata.mine import same_paths
from mumdata.ranges import Range, read_range
from mumdata.scan import printable
from mumdata.tree import Tree

__all__ = ["Streams"]


class Streams:
    """Opens the streams of one dataset; LayoutError where its root is not known or not there."""

    def __init__(self, dataset: MixDataset) -> None:
        self._dataset = dataset
        self._module = known.load(module_of(dataset.name, dataset.catalog.parent))
        self.tree = Tree(catalog.dataset_root(dataset), self._module.SPEC.archives)
        self._scenes: dict[SceneKey, known.Scene] | None = None
        self._held: tuple[SceneKey, dict[str | None, known.Stream]] | None = None

    def stream(self, draw: Draw) -> known.Stream:
        """Return the stream of a draw; CatalogError where its files are not those that were indexed."""
        if self._scenes is None:
            self._scenes = {(one.split, printable(one.scene)): one for one in self._module.scenes(self.tree)}
        scene = self._scenes.get(draw.key)
        if scene is None:
            raise self._changed(f"scene {draw.scene} of {draw.dataset} is gone from {self.tree.root}")
        if self._held is None or self._held[0] != draw.key:
            self._held = None  # what is held goes before more is read
            self._held = draw.key, {one.stream: one for one in self._module.read(self.tree, scene)}
        stream = self._held[1].get(draw.stream)
        if stream is None or not same_paths(stream.paths, self._indexed(draw)):
            what = "/".join(part for part in (draw.split, draw.scene, draw.stream) if part)
            raise self._changed(f"{what} of {draw.dataset} has changed since it was indexed")
        return stream

    def _indexed(self, draw: Draw) -> list[str]:
        path = self._dataset.frames
        rows = Range(str(path), path.stat().st_mtime_ns, draw.first, draw.num)
        paths: list[str] = read_range(rows, ("path",)).column("path").to_pylist()
        return paths

    def _changed(self, what: str) -> CatalogError:
        return CatalogError(f"{what}; run 'mumdata index {self._dataset.name}' again")
