"""What holds for every dataset of the demo world: in folders and in archives, indexed, mined, told by `check`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mumdata import catalog
from mumdata.demo.layouts import NAMES
from mumdata.demo.world import demo
from mumdata.errors import MumError
from mumdata.images import read_image
from mumdata.index import index
from mumdata.sequences import mine_sequences

# where a frame's bytes lie, and what names them
PLACE = ["path", "archive", "codec", "offset", "bytes", "mtime_ns"]


@pytest.fixture(scope="module")
def packed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's datasets in archives, as people keep them."""
    demo_folder = tmp_path_factory.mktemp("packed") / "world"
    shutil.copytree(world, demo_folder, symlinks=True)
    demo(demo_folder, size="tiny", archives=True)
    return demo_folder / "archives"


def pixels(root: Path, row: pd.Series) -> np.ndarray:
    def maybe(value: object) -> object:
        return None if pd.isna(value) else value

    place = {key: maybe(row[key]) for key in ("archive", "codec", "offset", "bytes")}
    return read_image(
        root,
        row.path,
        archive=place["archive"],
        codec=place["codec"],
        offset=None if place["offset"] is None else int(place["offset"]),
        num_bytes=None if place["bytes"] is None else int(place["bytes"]),
    )


@pytest.mark.parametrize("name", NAMES)
def test_archives_hold_the_same_frames_as_folders(world: Path, packed: Path, tmp_path: Path, name: str) -> None:
    """Same order, cameras, statuses and scenes; the bytes of every frame decode to the same picture."""
    index(name, root=world / name, catalogs=tmp_path / "folders", workers=1)
    found = index(name, root=packed / name, catalogs=tmp_path / "archives", workers=1)
    assert found.refused == []
    plain, inside = (catalog.read_frames(name, catalogs=tmp_path / kind) for kind in ("folders", "archives"))
    assert inside.archive.notna().sum() == (inside.status != "missing").sum() > 20
    pd.testing.assert_frame_equal(plain.drop(columns=PLACE), inside.drop(columns=PLACE))
    scenes = [catalog.read_scenes(name, catalogs=tmp_path / kind) for kind in ("folders", "archives")]
    pd.testing.assert_frame_equal(*scenes)
    seen = inside[inside.archive.notna() & (inside.status == "ok")]
    for frame in seen.frame_id[:: max(1, len(seen) // 25)]:
        before, after = plain.loc[frame], inside.loc[frame]
        assert before.path.endswith(after.path.rpartition("/")[2])
        assert np.array_equal(pixels(world / name, before), pixels(packed / name, after))
    again = index(name, root=packed / name, catalogs=tmp_path / "archives", workers=1)
    whole = inside.status.isin(["ok", "size_mismatch"])
    assert again.num_read <= int((~whole).sum())
    assert not again.changed


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_is_mined_by_its_own_rule(world: Path, tmp_path: Path, name: str) -> None:
    index(name, root=world / name, catalogs=tmp_path, workers=1)
    mined = mine_sequences(name, catalogs=tmp_path, workers=1)
    frames = catalog.read_frames(name, catalogs=tmp_path)
    sequences = catalog.read_sequences(name, catalogs=tmp_path)
    assert mined.num_sequences == len(sequences) > 0
    for row in sequences.itertuples():
        own = frames.loc[list(row.frames)]
        assert own.status.eq("ok").all()
        assert own.scene.nunique() == 1
        assert own["stream"].nunique(dropna=False) == 1
        assert own.eval_of.isna().all()
        assert own.duplicate_of.isna().all()
        assert len(set(row.frames)) == row.num_frames
    # a group is never torn: it lies in one split, but for the visit that ARKitScenes itself has in both
    if frames.group.notna().any() and name != "arkitscenes":
        assert frames.groupby("group", observed=True).split.nunique(dropna=False).max() == 1


def test_scenes_without_a_split_are_mined_when_all_are_asked_for(world: Path, tmp_path: Path) -> None:
    index("wildrgbd", root=world / "wildrgbd", catalogs=tmp_path, workers=1)
    mine_sequences("wildrgbd", catalogs=tmp_path, workers=1, min_frames=2)
    train = set(catalog.read_sequences("wildrgbd", catalogs=tmp_path).split.astype(object))
    mine_sequences("wildrgbd", catalogs=tmp_path, workers=1, min_frames=2, split="all", allow_eval_scenes=True)
    everything = catalog.read_sequences("wildrgbd", catalogs=tmp_path).split
    assert train == {"train"}
    assert set(everything.dropna()) == {"train", "val"}
    assert everything.isna().any()


def test_rules_on_tracks_know_the_frames_of_archives_inside_archives(packed: Path, tmp_path: Path) -> None:
    """Members of an inner tar have another name than path; they have not changed since they were indexed."""
    index("imagenet", root=packed / "imagenet", catalogs=tmp_path, workers=1)
    with pytest.raises(MumError, match="no model"):
        mine_sequences("imagenet", rule="chain-overlap", catalogs=tmp_path, workers=1)
