"""ImageNet in Parquet shards: the same classes, images and pixels as in folders."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mumdata import catalog, shards
from mumdata.errors import LayoutError
from mumdata.images import read_image
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences

HUB_NAMES = {"train": "train", "val": "validation"}


def write_shards(imagenet: Path, out: Path, num: int = 3, names: bool = True) -> dict[str, bytes]:
    """Lay out class folders as the hub does: rows dealt out to shards, names with the class at their end."""
    images: dict[str, bytes] = {}
    classes = sorted({path.parent.name for path in imagenet.glob("train/*/*")})
    for split, hub in HUB_NAMES.items():
        rows: list[list[tuple[bytes, str, int]]] = [[] for _ in range(num)]
        for place, path in enumerate(sorted(imagenet.glob(f"{split}/*/*"), key=lambda path: path.name[::-1])):
            name = f"{path.stem}_{path.parent.name}.JPEG"
            images[name] = path.read_bytes()
            rows[place % num].append((images[name], name, classes.index(path.parent.name)))
        for number, shard in enumerate(rows):
            image = [{"bytes": data, "path": name if names else None} for data, name, _ in shard]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            table = pa.table({"image": pa.array(image, kind), "label": [label for _, _, label in shard]})
            target = out / "data" / f"{hub}-{number:05d}-of-{num:05d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, target, row_group_size=5)
    return images


def test_shards_hold_what_folders_hold(world: Path, tmp_path: Path) -> None:
    images = write_shards(world / "imagenet", tmp_path / "hub")
    found = index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "c", workers=1)
    index("imagenet", root=world / "imagenet", catalogs=tmp_path / "f", workers=1)
    assert any("Parquet" in note for note in found.notes)
    frames, plain = (catalog.read_frames("imagenet", catalogs=tmp_path / name) for name in ("c", "f"))
    keys = ["split", "scene"]
    assert frames.groupby(keys, observed=True).size().to_dict() == plain.groupby(keys, observed=True).size().to_dict()
    assert found.num_read == len(frames) == len(images)
    assert (frames.status == "ok").all()
    for row in frames.itertuples():
        assert row.codec == "parquet"
        assert row.scene in row.path
        assert row.bytes == len(images[row.path])
        expected = cv2.imdecode(np.frombuffer(images[row.path], np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert (row.height, row.width) == expected.shape[:2]
        pixels = read_image(
            tmp_path / "hub",
            row.path,
            archive=row.archive,
            codec=row.codec,
            offset=int(row.offset),
            num_bytes=int(row.bytes),
        )
        assert np.array_equal(pixels, expected)
    again = index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "c", workers=1)
    assert (again.changed, again.num_read) == (False, 0)
    assert mine_sequences("imagenet", catalogs=tmp_path / "c", workers=1).num_sequences == sum(frames.split == "train")


def test_workers_share_the_survey_of_the_shards(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(world / "imagenet", tmp_path / "hub")
    index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "one", workers=1)
    monkeypatch.setattr("mumdata.engine._PROBE_S", -1.0)
    monkeypatch.setattr("mumdata.engine._WORTH_S", -1.0)
    index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "three", workers=3)
    for name in ("frames", "scenes", "quarantine"):
        file = f"imagenet/{name}.parquet"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes()
    # each shard is surveyed once, whichever scene asks first
    real, seen = shards._survey, []

    def counted(path: Path, judge: shards.Judge) -> pa.Table:
        seen.append(path.name)
        return real(path, judge)

    monkeypatch.setattr(shards, "_survey", counted)
    index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "count", workers=1)
    assert sorted(seen) == sorted(path.name for path in (tmp_path / "hub/data").iterdir())


def test_rows_that_are_no_images_and_shards_that_are_cut_are_told(world: Path, tmp_path: Path) -> None:
    write_shards(world / "imagenet", tmp_path / "hub", names=False)
    cut = tmp_path / "hub/data/train-00001-of-00003.parquet"
    table = pq.read_table(cut)
    first = table.column("image").to_pylist()
    first[0] = {"bytes": first[0]["bytes"][:200], "path": None}
    first[1] = {"bytes": None, "path": None}
    first[2] = {"bytes": b"hello", "path": None}
    pq.write_table(table.set_column(0, "image", pa.array(first, table.schema.field("image").type)), cut)
    (tmp_path / "hub/data/train-00002-of-00003.parquet").unlink()
    found = index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "c", workers=1, verify="decode")
    assert {key: found.frame_statuses[key] for key in ("truncated", "empty", "unreadable")} == {
        "truncated": 1,
        "empty": 1,
        "unreadable": 1,
    }
    # without names the class is not known, only the number of the label
    scenes = catalog.read_scenes("imagenet", catalogs=tmp_path / "c")
    assert set(scenes.scene) == {f"label_{number:04d}" for number in range(4)}
    assert scenes[scenes.split == "train"].detail.str.contains("2 of 3 shards are here").all()
    bad = catalog.read(QUARANTINE, tmp_path / "c/imagenet/quarantine.parquet").to_pandas()
    assert set(bad.archive) == {"data/train-00001-of-00003.parquet"}
    assert len(bad) == 3
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), buffer)
    for junk, message in ((b"PAR1 cut", "cannot be read"), (buffer.getvalue(), r"image\.bytes")):
        cut.write_bytes(junk)
        with pytest.raises(LayoutError, match=message):
            shards.rows_of(cut)
        # one broken shard does not end the run, it is told
        index("imagenet", root=tmp_path / "hub", catalogs=tmp_path / "d", workers=1)
        scenes = catalog.read_scenes("imagenet", catalogs=tmp_path / "d")
        assert scenes[scenes.split == "train"].detail.str.contains("1 of 3 shards are here; train-00001").all()
    broken = tmp_path / "broken/data"
    broken.mkdir(parents=True)
    cut.rename(broken / cut.name)
    with pytest.raises(LayoutError, match="train-00001"):
        index("imagenet", root=tmp_path / "broken", catalogs=tmp_path / "e", workers=1)
