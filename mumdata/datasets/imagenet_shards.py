"""ImageNet as the hub keeps it: `data/{train,validation,test}-%05d-of-%05d.parquet`, images with names and labels.

In: a tree with such shards. Out: scenes and streams as from class folders; a frame's bytes are a row of a shard. The
class is taken from the name (`n01440764_10026_n01440764.JPEG`); where the names do not tell it, the scene is
`label_<number>`, since the order of labels is not in the shards.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict

from mumdata.datasets import Scene, Stream, natural_key
from mumdata.errors import LayoutError
from mumdata.shards import rows_of
from mumdata.tree import Source, Tree

__all__ = ["PATTERN", "shard_scenes", "shard_stream"]

PATTERN = r"(train|validation|test)-\d{5}-of-\d{5}\.parquet"

_SHARD = re.compile(r"(train|validation|test)-(\d{5})-of-(\d{5})\.parquet")
_WNID = re.compile(r"n\d{8}")


def shard_scenes(tree: Tree, unlabelled: str) -> list[Scene]:
    """List (split, class) pairs of the shards; `places` hold each class's rows: (shard, time, rows, names).

    Shards that cannot be read are told in the details of their split's scenes; LayoutError where none can.
    """
    shards = [(folder, name) for folder in ("data", "") for name in tree.files(folder) if _SHARD.fullmatch(name)]
    found: dict[tuple[str, str], list[tuple[str, int, tuple[int, ...], tuple[str, ...]]]] = defaultdict(list)
    present: dict[str, tuple[int, int]] = {}
    broken: dict[str, list[str]] = defaultdict(list)
    for folder, name in shards:
        archive = f"{folder}/{name}" if folder else name
        match = _SHARD.fullmatch(name)
        assert match is not None
        split = "val" if match[1] == "validation" else match[1]
        try:
            names, labels = rows_of(tree.root / archive)
        except LayoutError as error:
            broken[split].append(str(error))
            continue
        present[split] = (present.get(split, (0, 0))[0] + 1, int(match[3]))
        stamp = os.stat(tree.root / archive).st_mtime_ns
        classes: dict[str, list[int]] = defaultdict(list)
        for row, (image, label) in enumerate(zip(names, labels.tolist(), strict=True)):
            classes[_class(image, label, split, unlabelled)].append(row)
        for wnid, rows in classes.items():
            own = tuple(names[row] or f"{match[2]}_{row:06d}.JPEG" for row in rows)
            found[split, wnid].append((archive, stamp, tuple(rows), own))
    if broken and not found:
        raise LayoutError(next(iter(broken.values()))[0])
    return [Scene(*key, ("shards", tuple(found[key]), present[key[0]], tuple(broken[key[0]]))) for key in sorted(found)]


def shard_stream(scene: Scene) -> Stream:
    """Return the rows of one class in natural order of their names."""
    _, pieces, (here, whole), broken = scene.places
    rows = [
        (name, Source(archive, name, "parquet", row, -1, -1, stamp))
        for archive, stamp, numbers, names in pieces
        for row, name in zip(numbers, names, strict=True)
    ]
    rows.sort(key=lambda item: (natural_key(item[0]), item[1].archive, item[1].offset))
    detail = "; ".join([f"{here} of {whole} shards are here", *broken]) if here < whole else None
    return Stream(None, tuple(name for name, _ in rows), sources=tuple(source for _, source in rows), detail=detail)


def _class(name: str | None, label: int, split: str, unlabelled: str) -> str:
    found = _WNID.findall(name or "")
    if found:
        return str(found[-1])
    return f"label_{label:04d}" if label >= 0 else unlabelled
