"""One view of a frame: its box, the decoder's scales and short cuts, resizing, turns, mirrors, colours, damage."""

from __future__ import annotations

import io
import math
import os
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mumdata import rng
from mumdata.errors import DecodeError, TruncatedError
from mumdata.headers import Header, read_header
from mumdata.images import decode
from mumdata.verify_image import verify
from mumtrain.config import DataConfig
from mumtrain.reading.crops import crop_box, on_grid, resized, shrinkage, stored_box
from mumtrain.reading.decode import decode_box
from mumtrain.reading.view import Position, draw_view, is_mirrored, jitter_factors, jittered, view_box

PLAIN = DataConfig(size=32, mirror="none")
RANDOM = replace(PLAIN, crop="random_resized")


def header_of(data: bytes) -> Header:
    return read_header(lambda at, num: data[at : at + num], len(data))


def photo_like(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth noise of several scales, and shapes with sharp edges, uint8 RGB [height, width, 3]."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 110.0)
    for period in (4, 16, 64):
        grains = random.normal(0, 1, (height // period + 2, width // period + 2, 3))
        picture += 6 * math.sqrt(period) * cv2.resize(grains, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = picture.clip(0, 255).astype(np.uint8)
    for _ in range(12):
        corners = (random.random((4, 2)) * (width, height)).astype(np.int32)
        cv2.fillConvexPoly(picture, cv2.convexHull(corners), random.integers(20, 235, 3).tolist(), cv2.LINE_AA)
    return picture


def coordinates(width: int, height: int) -> np.ndarray:
    """Red is the column, green the row, blue the diagonal: one level a pixel, up to 256 pixels."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.dstack([x, y, (x + y) // 2]).astype(np.uint8)


def jpeg(picture: np.ndarray, *options: int, quality: int = 95) -> bytes:
    pixels = picture if picture.ndim == 2 else picture[:, :, ::-1]
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality, *options])[1].tobytes()


def encoded(picture: np.ndarray, kind: str) -> bytes:
    if kind == ".jpg":
        return jpeg(picture, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, quality=100)
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == ".webp" else []
    return cv2.imencode(kind, picture[:, :, ::-1], options)[1].tobytes()


def drawn(
    data: bytes, config: DataConfig = PLAIN, number: int = 0, *, turns: int = 0, views: int = 1, step: int = 0
) -> np.ndarray:
    out = np.zeros((config.size, config.size, 3), np.uint8)
    draw_view(data, turns, config, Position(0, step, 0, number, views), out)
    return out


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


# --- words as Python integers ---


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_a_word_is_that_of_the_array(key: int, index: int) -> None:
    words = rng.words(key, 1, index)
    assert rng.word(key, index) == int(words[0])
    assert rng.fraction(key, index) == float(rng.unit(words)[0])


# --- boxes ---


def test_random_boxes_follow_their_ranges_of_area_and_aspect() -> None:
    width, height, area, aspect = 4000, 3000, (0.3, 0.6), (0.5, 2.0)
    boxes = np.array([crop_box("random_resized", width, height, key, area, aspect) for key in range(4000)])
    left, top, box_width, box_height = boxes.T.astype(float)
    shares = box_width * box_height / (width * height)
    ratios = np.log2(box_width / box_height)
    # what does not fit is drawn again: of these ranges alone what is wider or higher than the frame
    wanted_shares: list[float] = []
    wanted_ratios: list[float] = []
    places: list[tuple[float, float]] = []
    random = np.random.default_rng(0)
    while len(places) < 20_000:
        share, ratio = random.uniform(0.3, 0.6), 2 ** random.uniform(-1, 1)
        w, h = math.sqrt(share * width * height * ratio), math.sqrt(share * width * height / ratio)
        if w <= width and h <= height:
            wanted_shares.append(share)
            wanted_ratios.append(math.log2(ratio))
            places.append((random.uniform(0, width - w), random.uniform(0, height - h)))
    shown, tenths = np.array(places).T, np.linspace(0.05, 0.95, 10)
    assert np.abs(np.quantile(shares, tenths) - np.quantile(wanted_shares, tenths)).max() < 0.012
    assert np.abs(np.quantile(ratios, tenths) - np.quantile(wanted_ratios, tenths)).max() < 0.06
    assert np.abs(np.quantile(left, tenths) - np.quantile(shown[0], tenths)).max() < 60
    assert np.abs(np.quantile(top, tenths) - np.quantile(shown[1], tenths)).max() < 60


def test_the_first_draws_that_fit_give_the_box() -> None:
    for key in range(200):
        draws = rng.unit(rng.words(key, 40)).reshape(10, 4).tolist()
        area, aspect, right, down = draws[0]
        pixels, ratio = (0.2 + 0.3 * area) * 900 * 900, 0.8 * (1.2 / 0.8) ** aspect
        w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        wanted = right * (900 - w), down * (900 - h), w, h
        assert (
            np.abs(np.subtract(crop_box("random_resized", 900, 900, key, (0.2, 0.5), (0.8, 1.2)), wanted)).max() < 1.6
        )


def test_a_frame_that_no_draw_fits_gives_the_largest_centred_box() -> None:
    assert crop_box("random_resized", 1000, 10, 1, (0.9, 1.0), (0.5, 2.0)) == (490, 0, 20, 10)
    assert crop_box("random_resized", 10, 1000, 1, (0.9, 1.0), (0.5, 2.0)) == (0, 490, 10, 20)
    assert crop_box("random_resized", 1, 1, 1) == (0, 0, 1, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2**32))
def test_boxes_are_found_in_turned_frames(width: int, height: int, turns: int, key: int) -> None:
    stored = np.arange(width * height).reshape(height, width)
    upright = np.rot90(stored, -turns)
    box = crop_box("random_resized", upright.shape[1], upright.shape[0], key)
    left, top, w, h = stored_box(box, width, height, turns)
    part = np.rot90(stored[top : top + h, left : left + w], -turns)
    assert (part == upright[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 64), st.integers(0, 2**32))
def test_boxes_on_the_grid_are_near_those_drawn(width: int, height: int, size: int, key: int) -> None:
    box = crop_box("random_resized", width, height, key)
    step = shrinkage(box, size)
    assert step in (1, 2, 4) or step % 8 == 0
    assert step == 1 or min(box[2:]) >= step * size
    assert min(box[2:]) < 2 * step * size
    moved = on_grid(box, width, height, step)
    assert all(side % step == 0 for side in moved)
    assert moved[0] >= 0
    assert moved[1] >= 0
    assert moved[0] + moved[2] <= width
    assert moved[1] + moved[3] <= height
    # nothing moves by more than a pixel of the view, and a frame at its full size not at all
    assert all(0 <= side - new < step for side, new in zip(box[2:], moved[2:], strict=True))
    assert all(abs(side - new) <= (0 if step == 1 else step) for side, new in zip(box[:2], moved[:2], strict=True))
    assert step == 1 or min(moved[2:]) >= step * size


# --- resizing ---


@pytest.mark.parametrize(
    "shape", [(20, 24), (32, 32), (33, 40), (64, 50), (64, 64), (90, 70), (20, 90), (300, 25), (200, 300)]
)
def test_resizing_keeps_places(shape: tuple[int, int]) -> None:
    part = np.zeros((*shape, 3), np.uint8)
    part[:, :, 0] = np.linspace(10, 240, shape[1]).round()
    part[:, :, 1] = np.linspace(10, 240, shape[0]).round()[:, None]
    part[:, :, 2] = 77
    square = resized(part, 32).astype(float)
    for channel, length, line in ((0, shape[1], square[16, :, 0]), (1, shape[0], square[:, 16, 1])):
        # the centre of pixel i of 32 is at (i + 0.5) / 32 of the length
        wanted = 10 + ((np.arange(32) + 0.5) / 32 * length - 0.5) * 230 / (length - 1)
        assert np.abs(line - wanted)[2:-2].max() < 1.5, channel
    assert (square[:, :, 2] == 77).all()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (58, 61), (20, 62), (62, 20), (70, 64), (31, 128), (200, 20)])
def test_what_is_too_fine_for_a_square_becomes_its_mean(width: int, height: int) -> None:
    # stripes of one pixel along each side that shrinks to about half or less: little but grey is left
    for axis, length in ((1, width), (0, height)):
        if length < 1.75 * 32:
            continue
        stripes = np.where(np.arange(length) % 2 == 0, 40, 200).astype(np.uint8)
        part = np.broadcast_to(np.expand_dims(stripes, (1 - axis, 2)), (height, width, 3)).copy()
        inner = resized(part, 32)[3:-3, 3:-3].astype(float)
        assert inner.std() < 16, (axis, inner.std())  # of 80 before; each second pixel alone would keep them
        assert abs(inner.mean() - 120) < 3


@pytest.mark.parametrize(("width", "height"), [(64, 100), (98, 99), (130, 40), (20, 150), (333, 1000)])
def test_what_shrinks_much_is_averaged(width: int, height: int) -> None:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    # averaged by one axis after the other, the growing one by interpolation
    part = cv2.resize(noise, (min(width, 32), min(height, 32)), interpolation=cv2.INTER_AREA)
    wanted = cv2.resize(part, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert mean_difference(resized(noise, 32), wanted) < 0.13 * 256 / math.sqrt(width * height / 32**2)


def test_resizing_is_near_a_filter_with_antialiasing() -> None:
    for seed, (width, height) in enumerate([(70, 64), (100, 90), (127, 126), (85, 64), (160, 120), (64, 100)]):
        part = photo_like(400, 300, seed)[40 : 40 + height, 50 : 50 + width]
        wanted = np.asarray(Image.fromarray(part).resize((64, 64), Image.Resampling.BICUBIC))
        assert mean_difference(resized(part, 64), wanted) < 2


# --- decoding a box ---

SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
WAYS = {
    "baseline": (),
    "optimised": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "progressive restarts": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 5),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_stopping_early_changes_no_pixel_of_the_box(sampling: str, way: str) -> None:
    picture = photo_like(203, 157)
    data = jpeg(picture, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], *WAYS[way])
    header = header_of(data)
    for step in (1, 2, 4, 8):
        # from here to the end are too few rows to leave out
        whole = decode_box(data, header, (16, 0, 152, 152), step).copy()
        for bottom in (8, 16, 24, 56, 64, 72, 104, 136):
            part = decode_box(data, header, (16, 0, 152, bottom), step)
            assert (part == whole[: bottom // step]).all(), (step, bottom)
            lower = decode_box(data, header, (24, bottom - 8, 80, 8), step)
            assert (lower == whole[(bottom - 8) // step : bottom // step, 8 // step : 88 // step]).all()


def test_stopping_early_is_used() -> None:
    # behind the middle, the file is noise; a decoder that went there would complain
    data = bytearray(jpeg(photo_like(320, 240)))
    data[len(data) * 3 // 4 : -2] = b"\xff\x00" * ((len(data) - 2 - len(data) * 3 // 4) // 2 + 1)
    broken = bytes(data[:-2]) + b"\xff\xd9"
    part = decode_box(broken, header_of(broken), (0, 0, 320, 64), 1)
    whole = jpeg(photo_like(320, 240))
    assert (part == decode_box(whole, header_of(whole), (0, 0, 320, 64), 1)).all()


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_scaled_picture_shows_what_the_whole_one_does(sampling: str, quality: int) -> None:
    data = jpeg(photo_like(640, 480), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], quality=quality)
    header = header_of(data)
    whole = decode(data, header)
    scales = set()
    for size in (24, 48, 100, 150, 224):
        for key in range(12):
            drawn_box = crop_box("random_resized", 640, 480, key)
            step = shrinkage(drawn_box, size)
            left, top, w, h = box = on_grid(drawn_box, 640, 480, step)
            part = whole[top : top + h, left : left + w]
            small = cv2.resize(part, (w // step, h // step), interpolation=cv2.INTER_AREA)
            view = resized(decode_box(data, header, box, step), size)
            assert mean_difference(view, resized(small, size)) < (0.1 if step == 1 else 2), (size, box, step)
            # and against a filter that knows nothing of the steps
            filtered = np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC))
            assert mean_difference(view, filtered) < 4, (size, box, step)
            scales.add(step)
    assert {1, 2, 4, 8} <= scales


# --- views ---


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_place_of_a_crop_is_known_to_a_pixel(kind: str, turns: int) -> None:
    width, height = 250, 187
    upright = coordinates(*((width, height) if turns % 2 == 0 else (height, width)))
    data = encoded(np.rot90(upright, turns), kind)
    steps = set()
    for size in (16, 48, 120):
        for config in (
            replace(PLAIN, size=size),
            replace(RANDOM, size=size),
            replace(RANDOM, size=size, mirror="per_view"),
        ):
            for number in range(4):
                where = Position(0, 0, 0, number, 1)
                box, step = view_box(config, width, height, turns, where)
                steps.add(step)
                left, top, w, h = stored_box(box, upright.shape[1], upright.shape[0], -turns)
                view = drawn(data, config, number, turns=turns).astype(float)
                if is_mirrored(config.mirror, where):
                    view = view[:, ::-1]
                centres = (np.arange(size) + 0.5) / size
                inner = slice(2, -2)
                columns, rows = (left + centres * w - 0.5)[inner], (top + centres * h - 0.5)[inner]
                # values are rounded up to three times on the way, half up each time
                for shown, wanted in ((view[inner, inner, 0], columns), (view[inner, inner, 1].T, rows)):
                    assert abs(shown.mean() - wanted.mean()) < 0.9
                    assert np.abs(shown.mean(0) - wanted).max() < 1.6
                    assert np.abs(shown - wanted).max() < 3
    assert {1, 2, 4, 8} <= steps


def test_the_rule_resize_takes_the_largest_square() -> None:
    data = encoded(coordinates(250, 100), ".png")
    lefts = []
    for number in range(60):
        left, top, width, height = view_box(PLAIN, 250, 100, 0, Position(0, 0, 0, number, 1))[0]
        assert (top, width, height) == (0, 100, 100) or (top % 2 == 0 and width == height >= 98)
        lefts.append(left)
        view = drawn(data, PLAIN, number).astype(float)
        assert abs(view[16, :, 0].mean() - (left + width / 2 - 0.5)) < 1
    assert min(lefts) < 20
    assert max(lefts) > 130


def test_a_view_depends_on_its_place_alone() -> None:
    one, other = jpeg(photo_like(300, 200)), jpeg(photo_like(500, 400, 1))
    config = replace(RANDOM, jitter=0.3, mirror="per_view")
    first = [drawn(one, config, number) for number in range(8)]
    drawn(other, config, 3)
    assert all((drawn(one, config, number) == view).all() for number, view in enumerate(first))
    assert all((first[0] != view).any() for view in first[1:])
    assert (drawn(one, config, 0, step=1) != first[0]).any()


def test_threads_do_not_share_memory() -> None:
    files = [jpeg(photo_like(900, 700, seed), cv2.IMWRITE_JPEG_PROGRESSIVE, seed % 2) for seed in range(4)]
    config = replace(RANDOM, size=200)
    alone = [drawn(data, config) for data in files]
    with ThreadPoolExecutor(4) as pool:
        views = list(pool.map(lambda number: drawn(files[number % 4], config), range(60)))
    assert all((view == alone[number % 4]).all() for number, view in enumerate(views))


def test_a_view_is_written_into_its_place() -> None:
    data = jpeg(photo_like(300, 200))
    for config in (PLAIN, RANDOM, replace(RANDOM, jitter=0.2)):
        memory = np.full((3, 32, 32, 3), 9, np.uint8)
        draw_view(data, 0, config, Position(0, 0, 0, 5, 1), memory[1])
        assert (memory[1] == drawn(data, config, 5)).all()
        assert (memory[[0, 2]] == 9).all()


def test_turns_are_exact() -> None:
    picture = photo_like(64, 64)
    whole = replace(RANDOM, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    for kind in (".png", ".jpg"):
        view = drawn(encoded(picture, kind), whole)
        for turns in (1, 2, 3, 4, 7):
            assert (drawn(encoded(picture, kind), whole, turns=turns) == np.rot90(view, -turns)).all()


def test_mirrors_are_exact_and_drawn_as_the_rule_says() -> None:
    data = jpeg(photo_like(200, 150))
    counts = {}
    for rule in ("none", "per_view", "per_sequence"):
        config = replace(RANDOM, mirror=rule)
        flags = []
        for number in range(24):
            plain, view = drawn(data, RANDOM, number), drawn(data, config, number, views=4)
            flags.append(bool((view == plain[:, ::-1]).all()))
            assert flags[-1] or (view == plain).all()
            assert flags[-1] == is_mirrored(rule, Position(0, 0, 0, number, 4))
        counts[rule] = np.array(flags)
    assert not counts["none"].any()
    assert 4 <= counts["per_view"].sum() <= 20
    by_sequence = counts["per_sequence"].reshape(6, 4)
    assert (by_sequence == by_sequence[:, :1]).all()
    assert 0 < by_sequence[:, 0].sum() < 6
    many = [is_mirrored("per_view", Position(0, step, 0, 0, 1)) for step in range(2000)]
    assert abs(sum(many) - 1000) < 120


def test_exif_does_not_turn_a_frame() -> None:
    picture = photo_like(120, 80)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        files = []
        for orientation in (1, 3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = orientation
            file = io.BytesIO()
            options = {"lossless": True} if kind == "WEBP" else {"quality": 90} if kind == "JPEG" else {}
            Image.fromarray(picture).save(file, kind, exif=exif, **options)
            files.append(file.getvalue())
        assert header_of(files[2]).upright_quarter_turns == 1
        views = [drawn(data, RANDOM) for data in files]
        assert all((view == views[0]).all() for view in views)
        assert (drawn(files[2], RANDOM, turns=1) == drawn(files[0], RANDOM, turns=1)).all()


# --- colours ---


@given(st.floats(0.3, 1.7), st.floats(0.3, 1.7), st.floats(0.3, 1.7), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_jitter_is_that_of_plain_floats(brightness: float, contrast: float, saturation: float, seed: int) -> None:
    view = photo_like(24, 24, seed)
    grey_of = np.array([0.299, 0.587, 0.114])
    x = view.astype(float) * brightness
    mean = (x @ grey_of).mean()
    x = mean + contrast * (x - mean)
    grey = (x @ grey_of)[:, :, None]
    x = grey + saturation * (x - grey)
    # OpenCV rounds the nine factors to 10 binary digits
    difference = jittered(view, brightness, contrast, saturation) - x.clip(0, 255)
    assert np.abs(difference).max() <= 0.5 + 3 * 255 / 2**11
    assert abs(difference.mean()) < 0.2
    assert (jittered(view, 1, 1, 1) == view).all()


def test_jitter_factors_fill_their_range_alike() -> None:
    factors = np.array([jitter_factors(0.4, Position(0, 0, 0, number, 1)) for number in range(3000)])
    assert np.abs(np.quantile(factors, [0, 0.25, 0.5, 0.75, 1], axis=0).T - [0.6, 0.8, 1.0, 1.2, 1.4]).max() < 0.03
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.08
    data, where = jpeg(photo_like(100, 80)), Position(0, 0, 0, 2, 1)
    wanted = jittered(drawn(data, RANDOM, 2), *jitter_factors(0.4, where))
    assert (drawn(data, replace(RANDOM, jitter=0.4), 2) == wanted).all()


def test_pictures_of_other_colours() -> None:
    picture = photo_like(120, 90)
    grey = picture[:, :, 1]

    def by_pillow(image: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    alpha = np.dstack([picture[:, :, ::-1], np.full_like(grey, 255)])
    deep = picture[:, :, ::-1].astype(np.uint16) * 257
    in_grey, in_colour = np.repeat(grey[:, :, None], 3, 2), picture
    files: list[tuple[bytes, np.ndarray, float]] = [
        (jpeg(grey), in_grey, 1),
        (jpeg(grey, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), in_grey, 1),
        (cv2.imencode(".png", grey)[1].tobytes(), in_grey, 0),
        (cv2.imencode(".png", alpha)[1].tobytes(), in_colour, 0),
        (cv2.imencode(".png", deep)[1].tobytes(), in_colour, 0),
        (by_pillow(Image.fromarray(picture).convert("CMYK"), "JPEG", quality=95), in_colour, 5),
    ]
    for size in (16, 64):
        config = replace(RANDOM, size=size)
        for index, (data, wanted, most) in enumerate(files):
            view = drawn(data, config, index)
            difference = mean_difference(view, drawn(encoded(wanted, ".png"), config, index))
            assert difference <= most, (size, index, difference)


# --- what cannot be used ---


def test_cut_off_files_are_errors() -> None:
    picture = photo_like(200, 150)
    for kind in (".jpg", ".png", ".webp", ".bmp"):
        data = encoded(picture, kind)
        for share in (0.1, 0.5, 0.9, 0.999):
            out = np.full((32, 32, 3), 7, np.uint8)
            with pytest.raises(DecodeError):
                draw_view(data[: int(len(data) * share)], 0, PLAIN, Position(0, 0, 0, 0, 1), out)
            assert (out == 7).all()
    for junk in (b"", b"\0" * 100, b"../other.jpg", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9"):
        with pytest.raises(DecodeError):
            drawn(junk)


@pytest.mark.parametrize("size", [16, 32, 100])
@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)])
def test_a_jpeg_whose_rest_is_missing_is_no_grey_picture(size: int, options: tuple[int, ...]) -> None:
    # an end marker right after the middle: the file looks whole from outside
    data = jpeg(photo_like(256, 200), *options)
    cut = data[: len(data) // 2].rstrip(b"\xff") + b"\xff\xd9"
    assert header_of(cut).width == 256
    whole_frame = replace(RANDOM, size=size, crop_area=(1.0, 1.0), crop_aspect=(1.28, 1.28))
    drawn(data, whole_frame)
    with pytest.raises(TruncatedError, match="premature end"):
        drawn(cut, whole_frame)


WHOLE = replace(RANDOM, size=64, crop_area=(1.0, 1.0), crop_aspect=(1.28, 1.28))
SKY = replace(RANDOM, size=16, crop_area=(0.02, 0.02), crop_aspect=(1.0, 1.0))  # small boxes: decoding ends early


def test_bytes_left_over_are_damage_unless_few_or_zeros() -> None:
    """A decoder that lost its place reaches the last block too early, and only says that bytes are left over."""
    data = jpeg(photo_like(256, 200), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS["444"])
    clean = drawn(data, WHOLE)
    for left_over in (b"\x5a", b"\x5a\xa5", bytes(40)):
        assert (drawn(data[:-2] + left_over + b"\xff\xd9", WHOLE) == clean).all()
    for left_over in (b"\x5a" * 30, b"\x5a" * 100, bytes(39) + b"\x5a"):
        with pytest.raises(DecodeError, match=r"damaged.* \d+ extraneous bytes before marker 0xd9"):
            drawn(data[:-2] + left_over + b"\xff\xd9", WHOLE)
    # where decoding ends early, bytes are left over of course
    assert (drawn(data, SKY, 3) == drawn(data[:-2] + b"\x5a" * 30 + b"\xff\xd9", SKY, 3)).all()


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("config", [WHOLE, SKY])
def test_holes_of_zero_bytes_are_found_where_verification_finds_them(config: DataConfig, progressive: int) -> None:
    data = jpeg(photo_like(256, 200), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    begin = data.index(b"\xff\xda") + 14
    found = 0
    for number, place in enumerate(range(begin, len(data) - 1200, 997)):
        drawn(data, config, number)
        damaged = data[:place] + bytes(1024) + data[place + 1024 :]
        try:
            drawn(damaged, config, number)
        except DecodeError:
            found += 1
            assert verify(damaged).status in ("truncated", "unreadable")
        else:
            assert verify(damaged).status == "ok"
    assert found > 5


def test_what_the_decoder_stops_at_is_damage() -> None:
    """OpenCV gives a picture whose rest is grey where libjpeg meets a marker that it does not know."""
    data = jpeg(photo_like(256, 200))
    middle = len(data) // 2
    for marker in (b"\xff\x02\0\2", b"\xff\xf7\0\2", b"\xff\xd8"):
        damaged = data[:middle] + marker + data[middle + len(marker) :]
        for config in (WHOLE, SKY):
            with pytest.raises(DecodeError, match="damaged"):
                drawn(damaged, config)


def test_decoders_are_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    picture = photo_like(200, 150)
    data, png = jpeg(picture), bytearray(encoded(picture, ".png"))
    png[len(png) // 2] ^= 255
    drawn(_samsung(data), PLAIN)  # OpenCV decodes it, and libjpeg complains
    with pytest.raises(DecodeError):
        drawn(bytes(png[:-100]) + bytes(88) + bytes(png[-12:]), PLAIN)
    drawn(_odd_version(data), PLAIN)
    assert capfd.readouterr().err == ""
    # many threads at once, some of them failing, and it is heard again
    damaged = [bytes(png), encoded(picture, ".png")] * 20

    def tried(data: bytes) -> None:
        with suppress(DecodeError):
            drawn(data)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tried, damaged))
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def _samsung(data: bytes) -> bytes:
    # a sequential scan's parameters are 0, 63, 0; some phones write zeros
    at = data.index(b"\xff\xda")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[: end - 3] + bytes(3) + data[end:]


def test_data_of_another_size_than_its_header_is_an_error() -> None:
    for kind in (".jpg", ".png"):
        data = encoded(photo_like(60, 40), kind)
        for width, height in ((70, 40), (60, 30), (60, 41), (59, 40)):
            with pytest.raises(DecodeError, match="another size"):
                decode_box(data, replace(header_of(data), width=width, height=height), (0, 0, 24, 24), 1)


def _resized_header(data: bytes, width: int, height: int) -> bytes:
    header = header_of(data)
    known = struct.pack(">HH", header.height, header.width)
    return data.replace(known, struct.pack(">HH", height, width), 1)


def test_a_false_size_takes_no_memory() -> None:
    data = jpeg(photo_like(64, 64))
    for width, height in ((65_000, 65_000), (16_000, 16_000), (65_000, 300), (300, 65_000)):
        forged = _resized_header(data, width, height)
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                drawn(forged, replace(RANDOM, size=224))
            assert tracemalloc.get_traced_memory()[1] < 96 << 20
        finally:
            tracemalloc.stop()


def _odd_version(data: bytes) -> bytes:
    at = data.index(b"JFIF\0") + 5
    return data[:at] + b"\x09\x09" + data[at + 2 :]


def _junk_between_segments(data: bytes) -> bytes:
    at = data.index(b"\xff\xdb")
    return data[:at] + b"\0\0" + data[at:]


def _trailer(data: bytes) -> bytes:
    return data + b"\0" * 500


def _size_in_a_comment(data: bytes) -> bytes:
    # bytes that look like the frame header, before it
    like = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 150, 200) + b"\x03"
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(like) + 2) + like + data[2:]


@pytest.mark.parametrize("change", [_odd_version, _junk_between_segments, _trailer, _size_in_a_comment])
def test_odd_files_are_decoded_all_the_same(change: Callable[[bytes], bytes]) -> None:
    data = jpeg(photo_like(200, 150), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS["444"])
    odd = change(data)
    assert odd != data
    for size in (16, 64):
        for number in range(6):
            config = replace(RANDOM, size=size)
            assert mean_difference(drawn(odd, config, number), drawn(data, config, number)) < 0.2


@given(st.integers(0, 2**32), st.booleans())
@settings(deadline=None, max_examples=120)
def test_damage_gives_a_view_or_a_decode_error(seed: int, progressive: bool) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(DAMAGED[progressive])
    for _ in range(int(random.integers(1, 6))):
        data[random.integers(len(data))] = random.integers(256)
    out = np.full((32, 32, 3), 7, np.uint8)
    try:
        draw_view(bytes(data), int(random.integers(4)), RANDOM, Position(0, 0, 0, seed, 1), out)
    except DecodeError:
        assert (out == 7).all()


DAMAGED = {way: jpeg(photo_like(90, 70), cv2.IMWRITE_JPEG_PROGRESSIVE, int(way), quality=80) for way in (False, True)}
