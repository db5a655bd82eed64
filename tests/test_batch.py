"""Contact sheets: their pictures are the views that the model gets, at places that can be worked out by hand."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from mumdata.catalog import open_mix
from mumdata.errors import ConfigError, MumError
from mumtrain import sheet as sheets
from mumtrain.batch import batch
from mumtrain.config import Config, apply, to_dict
from mumtrain.loader import Loader, open_frames
from mumtrain.recipes import recipe
from mumtrain.sampler import open_sampler
from mumtrain.sheet import Group, Sheet, Tile, arrange, draw_sheet, shorten, shown_size

# the package's attribute of that name is the function
_MODULE = importlib.import_module("mumtrain.batch")

SET = ("data.slots=3", "data.size=64", "data.frames_per_slot=12", "data.crop=random_resized")


def views_of(mix: Path, config: Config, step: int, slot: int) -> tuple[Any, np.ndarray]:
    opened = open_mix(mix)
    with Loader(open_sampler(opened, config), open_frames(opened), config, workers=0) as loader:
        loaded = next(iter(loader.load([(step - 1, slot)])))
        return loaded.batch, loaded.views.copy()


def find(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Return where a picture stands in a sheet, pixel by pixel: (top, left) of each place."""
    height, width = picture.shape[:2]
    view = np.ascontiguousarray(sheet).view([("", sheet.dtype)] * 3)[..., 0]
    first = np.ascontiguousarray(picture).view([("", picture.dtype)] * 3)[..., 0]
    corners = np.argwhere(view[: view.shape[0] - height + 1, : view.shape[1] - width + 1] == first[0, 0])
    return [(y, x) for y, x in corners.tolist() if np.array_equal(sheet[y : y + height, x : x + width], picture)]


@pytest.mark.parametrize(("step", "slot"), [(1, 0), (2, 2), (600, 1)])
def test_a_sheet_holds_every_view_as_the_model_gets_it(mix_path: Path, tmp_path: Path, step: int, slot: int) -> None:
    config = apply(recipe("debug-cpu"), SET)
    drawn, views = views_of(mix_path, config, step, slot)
    out = batch(mix_path, step=step, slot=slot, recipe="debug-cpu", set=SET, out=tmp_path / "sheet.png")
    assert (out.path, out.step, out.slot, out.views) == (str(tmp_path / "sheet.png"), step, slot, drawn.views)
    ids = [[frame.drawn.frame_id for frame in one.frames] for one in out.sequences]
    assert ids == [one.frame_ids.tolist() for one in drawn.sequences]
    sheet = np.asarray(Image.open(out.path))
    assert sheet.shape[1] <= 2400
    by = 224 // 64
    places = []
    for number in range(len(drawn.sequences)):
        for view in range(drawn.views):
            picture = views[number, view].transpose(1, 2, 0).repeat(by, axis=0).repeat(by, axis=1)
            places.append(find(sheet, picture))
            assert places[-1], (number, view)
    # every view has a place of its own, also where two are the same
    assert len({place for of in places for place in of}) == len(drawn.sequences) * drawn.views


def test_a_runs_settings_make_the_same_sheet_as_its_recipe(mix_path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(to_dict(apply(recipe("debug-cpu"), SET))))
    sheets_ = []
    for how in ({"recipe": "debug-cpu", "set": SET}, {"config": saved}, {"config": saved, "set": ["seed=1"]}):
        out = batch(mix_path, step=7, out=tmp_path / "one.png", **how)  # type: ignore[arg-type]
        sheets_.append(np.asarray(Image.open(out.path)))
    top = 110  # below the heading, which names where the settings are from
    assert np.array_equal(sheets_[0][top:], sheets_[1][top:])
    assert sheets_[0].shape != sheets_[2].shape or not np.array_equal(sheets_[0][top:], sheets_[2][top:])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"step": 0}, "step 0 is not one of the run's steps, 1 to 600"),
        ({"step": 601}, "step 601 is not one of the run's steps, 1 to 600; debug-cpu has no more"),
        ({"step": 1, "slot": 1}, "slot 1 is not one of the run's slots, 0 to 0"),
        ({"step": 1, "slot": -1}, "slot -1 is not one"),
        ({"step": 1, "out": Path("sheet.gif")}, "does not end in .png"),
        ({"step": 1, "config": Path("absent.json")}, "cannot read absent.json"),
    ],
)
def test_what_does_not_exist_is_told(mix_path: Path, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        batch(mix_path, recipe="debug-cpu", **how)


@pytest.mark.parametrize("text", ["[1]", "{", '{"stepz": 1}', "\x00"])
def test_a_file_that_is_no_config_is_told(mix_path: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MumError, match=r"config|setting|section"):
        batch(mix_path, step=1, config=tmp_path / "config.json", out=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_bad_images_are_red_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mumdata.index import index
    from mumdata.mix import mix
    from mumdata.sequences import mine_sequences
    from tests.conftest import write_picture

    for number in range(8):
        write_picture(tmp_path / "photos" / "s" / f"{number}.jpg", 80, 60, seed=number)
    index("folder", name="mine", root=tmp_path / "photos", catalogs=tmp_path / "cat", workers=1)
    mine_sequences("mine", catalogs=tmp_path / "cat", workers=1)
    path = mix("only", weight=["mine=1"], catalogs=tmp_path / "cat").path
    drawn_sheets: list[Sheet] = []
    real = draw_sheet
    monkeypatch.setattr(_MODULE, "draw_sheet", lambda sheet: [drawn_sheets.append(sheet), real(sheet)][1])
    how: dict[str, Any] = {"step": 3, "recipe": "debug-cpu", "set": ("data.views_min=4", "data.views_max=4")}
    batch(path, out=tmp_path / "whole.png", **how)
    # half of them: what is tried in the place of one is often bad as well
    broken = [f"s/{number}.jpg" for number in (1, 4, 5, 7)]
    for name in broken:
        cut_off = tmp_path / "photos" / name
        cut_off.write_bytes(cut_off.read_bytes()[:300])
    told = batch(path, out=tmp_path / "broken.png", **how)
    whole, after = drawn_sheets
    assert not whole.notes
    notes = []
    for one, other, shown in zip(whole.groups, after.groups, told.sequences, strict=True):
        views = {tile.label: tile.picture for tile in one.tiles}
        for view, (tile, now, frame) in enumerate(zip(one.tiles, other.tiles, shown.frames, strict=True), 1):
            assert tile.label == frame.drawn.path
            assert now.is_bad == (tile.label in broken) == (frame.substitute is not None)
            assert np.array_equal(tile.picture, now.picture) == (not now.is_bad)
            if frame.substitute is None:
                assert (now.label, frame.reason) == (tile.label, None)
                continue
            other_path = frame.substitute.path
            assert other_path not in broken
            assert now.label == f"{Path(tile.label).name} → {Path(other_path).name}"
            assert frame.reason == "unreadable"
            assert not np.array_equal(views.get(other_path), tile.picture)
            reason = f"{tile.label}: unreadable ({frame.detail}); in its place {other_path}"
            notes.append(f"mine sequence 0, view {view}: {reason}")
            # it is that image: cut in the same way by itself, mirrored or not
            side, pixels = 96, np.asarray(Image.open(tmp_path / "photos" / other_path).convert("RGB")).mean(axis=(0, 1))
            assert now.picture.shape == (side, side, 3)
            assert np.abs(now.picture.mean(axis=(0, 1)) - pixels).max() < 12
    assert notes
    assert list(after.notes) == notes
    lines = [line for heading, _ in told.tables() for line in heading]
    assert lines[0] == str(tmp_path / "broken.png")
    assert lines[1].startswith("step 3, slot 0: V = 4; sequences: ")
    assert lines[1].endswith(" of mine")
    assert lines[2:] == notes
    values = json.loads(json.dumps(told.to_dict()))
    assert values["sequences"][0]["frames"][0]["drawn"]["path"].startswith("s/")
    assert told.to_frame()["substitute"].notna().sum() == len(notes)
    num_bad = len(notes)
    red = (np.asarray(Image.open(tmp_path / "broken.png")) == sheets._RED).all(axis=2).sum()
    assert red > num_bad * 4 * 192 > 0 == (np.asarray(Image.open(tmp_path / "whole.png")) == sheets._RED).all(2).sum()


def test_images_that_go_with_their_sequence_are_told(tmp_path: Path) -> None:
    from mumdata.index import index
    from mumdata.mix import mix
    from mumdata.sequences import mine_sequences
    from tests.conftest import write_picture

    for scene, number in itertools.product("ab", range(3)):
        write_picture(tmp_path / "photos" / scene / f"{number}.jpg", 80, 60, seed=number)
    index("folder", name="mine", root=tmp_path / "photos", catalogs=tmp_path / "cat", workers=1)
    mine_sequences("mine", catalogs=tmp_path / "cat", workers=1)
    path = mix("only", weight=["mine=1"], catalogs=tmp_path / "cat").path
    for number in range(3):
        (tmp_path / "photos" / "b" / f"{number}.jpg").write_bytes(b"")
    sets = ("data.views_min=2", "data.views_max=2", "data.slots=4")
    paths: list[tuple[str, str | None]] = []
    for step in range(1, 4):
        told = batch(path, step=step, recipe="debug-cpu", set=sets, out=tmp_path / "a.png")
        for one in told.sequences:
            for frame in one.frames:
                paths.append((frame.drawn.path[0], frame.substitute.path[0] if frame.substitute else None))
                assert (frame.reason is None) == (frame.substitute is None)
    # no image of the second scene can be read, so those of the first stand in their places
    assert set(paths) == {("a", None), ("b", "a")}


def test_a_window_that_is_widened_is_told_on_the_sheet(
    mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Sheet] = []
    monkeypatch.setattr(_MODULE, "draw_sheet", lambda sheet: [found.append(sheet), draw_sheet(sheet)][1])
    for views, told in ((3, "subset window:3,"), (4, "subset window:3 widened to 4,")):
        sets = (f"data.views_min={views}", f"data.views_max={views}", "data.subset=window:3")
        step = next(
            step for step in range(1, 99) if views_of(mix_path, apply(recipe("debug-cpu"), sets), step, 0)[0].views > 1
        )
        batch(mix_path, step=step, recipe="debug-cpu", set=sets, out=tmp_path / "a.png")
        assert told in found[-1].about[0]


def test_mirrored_views_are_marked(mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Sheet] = {}
    real = draw_sheet
    for rule in ("none", "per_view", "per_sequence"):
        monkeypatch.setattr(_MODULE, "draw_sheet", lambda s, rule=rule: [found.update({rule: s}), real(s)][1])
        batch(mix_path, step=4, recipe="debug-cpu", set=(f"data.mirror={rule}",), out=tmp_path / "a.png")
    marks = set()
    for rule in ("per_view", "per_sequence"):
        for plain, mirrored in zip(found["none"].groups, found[rule].groups, strict=True):
            assert rule != "per_sequence" or len({tile.mark for tile in mirrored.tiles}) == 1
            for one, other in zip(plain.tiles, mirrored.tiles, strict=True):
                assert not one.mark
                marks.add(other.mark)
                assert np.array_equal(one.picture[:, ::-1] if other.mark else one.picture, other.picture)
    assert marks == {"", "⇄"}


# ---- sheets


def group(num: int, size: int, label: str = "a.jpg") -> Group:
    picture = np.full((size, size, 3), (1, 254, 3), np.uint8)
    return Group("title", "about", 0, (Tile(picture, label),) * num)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 130), st.integers(1, 130), st.integers(1, 600))
def test_groups_fit_the_width(num_groups: int, num_tiles: int, size: int) -> None:
    side = shown_size(size)
    across, columns, rows = arrange(num_groups, num_tiles, side)
    assert columns * rows >= num_tiles > columns * (rows - 1)
    assert 1 <= across <= num_groups
    card = columns * side + (columns - 1) * sheets._TILE_GAP + 2 * sheets._PADDING
    assert 2 * sheets._MARGIN + across * card + (across - 1) * sheets._GAP <= 2400


@pytest.mark.parametrize(("size", "side"), [(16, 224), (96, 192), (112, 224), (224, 224), (256, 256), (512, 224)])
def test_pictures_are_shown_as_they_are_where_they_can_be(size: int, side: int) -> None:
    assert shown_size(size) == side


@pytest.mark.parametrize(("num_groups", "num_tiles", "size"), [(48, 2, 32), (4, 24, 224), (96, 1, 64), (1, 1, 300)])
def test_every_picture_is_there(num_groups: int, num_tiles: int, size: int) -> None:
    image = np.asarray(draw_sheet(Sheet("t", ["a"], [group(num_tiles, size)] * num_groups)))
    pixels = int((image == (1, 254, 3)).all(axis=2).sum())
    assert pixels == num_groups * num_tiles * shown_size(size) ** 2
    assert image.shape[1] <= 2400


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-zé日/]{0,90}", fullmatch=True), st.integers(40, 300))
def test_names_are_shortened_to_the_room_there_is(text: str, room: int) -> None:
    font = sheets._font(12)
    found = shorten(text, font, room)
    assert font.getlength(found) <= room
    assert isinstance(font, ImageFont.FreeTypeFont)
    if found and "…" not in found:
        assert len(found) == len(text)


def test_long_paths_keep_their_names() -> None:
    font = sheets._font(12)
    assert shorten("scene/images/DSC0001.jpg", font, 400) == "scene/images/DSC0001.jpg"
    assert shorten("a_long_folder/of_many/images/DSC0001.jpg", font, 170) == "…/images/DSC0001.jpg"
    assert shorten("0123456789" * 9 + ".jpg", font, 100).endswith("89.jpg")
    assert shorten("日本/été\n.jpg", font, 400) == "??/été?.jpg"
    assert shorten("\udce9.jpg", font, 400) == "?.jpg"


def test_texts_stay_inside_the_picture() -> None:
    long = Group("t" * 500, "a" * 500, 99, group(2, 64, "n" * 500).tiles)
    image = np.asarray(draw_sheet(Sheet("h" * 500, ["s" * 900], [long], ["note " * 200])))
    page = np.array(sheets._PAGE)
    assert (image[:, : sheets._MARGIN] == page).all()
    assert (image[:, -sheets._MARGIN + 4 :] == page).all()


def test_a_folder_that_cannot_be_written_to_is_told(mix_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MumError, match="cannot write"):
        batch(mix_path, step=1, recipe="debug-cpu", out=tmp_path / "file" / "a.png")
