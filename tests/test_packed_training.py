"""Training reads the same from files, from archives and from packed shards, batch by batch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mumdata.catalog import open_mix
from mumdata.index import index
from mumdata.mix import mix
from mumdata.pack import pack
from mumdata.sequences import mine_sequences
from mumtrain.config import Config, apply
from mumtrain.loader import Loader, open_frames
from mumtrain.recipes import recipe
from mumtrain.sampler import open_sampler
from tests.conftest import write_picture

KEYS = [(step, slot) for step in (0, 1, 10**6) for slot in (0, 1)]


def photos(root: Path) -> Path:
    """Three scenes of some photos, of several sizes and formats; one photo lies on its side."""
    for scene, num in (("a", 7), ("b", 4), ("c", 5)):
        for number in range(num):
            name = f"{number:02d}.{'png' if (number + num) % 3 == 0 else 'jpg'}"
            write_picture(root / scene / name, 70 + 9 * number, 64 + 3 * num, seed=number + 100 * num)
    return root


def zipped(root: Path, out: Path, method: int) -> Path:
    out.mkdir()
    with zipfile.ZipFile(out / "photos.zip", "w", method) as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(root))
    return out


def mix_of(root: Path, catalogs: Path) -> Path:
    index("folder", root=root, name="mine", catalogs=catalogs, workers=1)
    mine_sequences("mine", catalogs=catalogs, workers=1)
    return mix("only", weight=["mine=1"], catalogs=catalogs).path


def config(*settings: str) -> Config:
    return apply(recipe("debug-cpu"), ["data.size=32", "data.slots=2", "data.workers=0", "data.views_max=4", *settings])


def slots(path: Path, how: Config) -> list[tuple[list[tuple[int, list[int]]], np.ndarray]]:
    """The sequences, frame ids and pixels of some slots."""
    opened = open_mix(path)
    with Loader(open_sampler(opened, how), open_frames(opened), how) as loader:
        return [
            ([(drawn.sequence, drawn.frame_ids.tolist()) for drawn in loaded.batch.sequences], loaded.views.copy())
            for loaded in loader.load(KEYS)
        ]


@pytest.mark.parametrize("place", ["stored", "deflated", "packed", "packed archive"])
def test_batches_are_equal_wherever_the_bytes_lie(place: str, tmp_path: Path) -> None:
    how = config("data.crop=random_resized", "data.jitter=0.2")
    plain = mix_of(photos(tmp_path / "files"), tmp_path / "catalogs")
    wanted = slots(plain, how)
    if place == "packed":
        other = pack(plain, out=tmp_path / "packed", size="full", workers=1).path
    else:
        method = zipfile.ZIP_DEFLATED if place == "deflated" else zipfile.ZIP_STORED
        other = mix_of(zipped(tmp_path / "files", tmp_path / "archives", method), tmp_path / "other")
        if place == "packed archive":
            other = pack(other, out=tmp_path / "packed", size="full", workers=1).path
    (tmp_path / "files").rename(tmp_path / "gone")  # nothing is read from there any more
    found = slots(other, how)
    assert len(found) == len(KEYS)
    for (drawn, views), (wanted_drawn, wanted_views) in zip(found, wanted, strict=True):
        assert drawn == wanted_drawn
        assert np.array_equal(views, wanted_views)
    # and they differ from each other, so that the comparison says something
    assert len({views.tobytes() for _, views in found}) == len(KEYS)
