"""Verdicts on whole images: damage that decoders fill in is found, oddities that everybody decodes are not damage."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mumdata.errors import DecodeError
from mumdata.images import read_header
from mumdata.verify_image import BLACK_LEVEL, FLAT_RANGE, OUTLIERS, Verdict, verify

from .test_images import chunk, tiff

STATUSES = {"ok", "truncated", "unreadable", "black", "flat"}

# grey 24 x 24 in arithmetic coding, and RGB 16 x 16 whose Cb has twice the columns of Cr, made with libjpeg-turbo's own
# functions: Pillow writes neither
ARITHMETIC = base64.b64decode("""
    /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXB
    keFxlZ2P/yQALCAAYABgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wBxzRK0OpVyu9wOALliF3gSwP/Z""")
UNEVEN = base64.b64decode("""
    /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVp
    QYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAQABA
    DASIAAiEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAABAb/xAAXEAADAQAAAAAAAAAAAAAAAAAAAwRh/8QAFgEAAwAAAAAAAAAAAAAAAAAAAgMF/
    8QAFhEBAQEAAAAAAAAAAAAAAAAABAAC/9oADAMBAAIRAxEAPwCKVLg5UuDFS4OVLhV0iRpEA1X/2Q==""")


def photo(width: int = 240, height: int = 160, seed: int = 0) -> np.ndarray:
    """Shapes of every size and a little noise, as photos have: uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for level in range(6):
        coarse = random.normal(size=(3 << level, 4 << level, 3))
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 40 / 1.6**level
    return np.clip(total + 120 + random.normal(size=total.shape), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


JPEGS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restart": {"restart_marker_rows": 1},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "full chroma": {"subsampling": 0, "quality": 97},
    "grey, progressive": {"mode": "L", "progressive": True},
}


def scan_begin(data: bytes) -> int:
    """Where the compressed data of the first scan begin."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def opencv_decodes(data: bytes) -> bool:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


# --- JPEG ---


@pytest.mark.parametrize("form", JPEGS)
def test_whole_jpegs_are_ok(form: str) -> None:
    for seed in range(3):
        assert verify(encoded(photo(seed=seed), **JPEGS[form])) == Verdict("ok")


def test_rare_kinds_of_jpeg_are_ok() -> None:
    assert verify(ARITHMETIC) == Verdict("ok")
    assert verify(UNEVEN) == Verdict("ok"), "simplejpeg refuses this sampling, OpenCV and Pillow do not"


@pytest.mark.parametrize("form", JPEGS)
def test_a_cut_with_a_forged_end_is_found_wherever_it_is(form: str) -> None:
    data = encoded(photo(64, 48), **JPEGS[form])
    begin = scan_begin(data)
    for length in range(begin, len(data) - 2):
        cut = data[:length] + b"\xff\xd9"
        assert verify(cut).status in ("truncated", "unreadable"), length
    assert opencv_decodes(data[: len(data) - 9] + b"\xff\xd9"), "the naive way: OpenCV fills in"


@pytest.mark.parametrize("form", ["progressive", "grey, progressive"])
def test_a_progressive_jpeg_that_ends_between_two_scans_is_cut(form: str) -> None:
    """libjpeg has no complaint about such a file: each scan that is there is whole."""
    data = encoded(photo(64, 48), **JPEGS[form])
    at = data.index(b"\xff\xda")
    num = 0
    while (at := data.find(b"\xff\xda", at + 2)) > 0:
        tables = data.rfind(b"\xff\xc4", 0, at)
        for end in {at, tables}:
            found = verify(data[:end] + b"\xff\xd9")
            assert found.status == "truncated", end
            num += "scans are missing" in found.detail
    assert num >= 5


@pytest.mark.parametrize("form", JPEGS)
@pytest.mark.parametrize("size", [64, 1024, 4096])
def test_a_hole_of_zeros_is_found_wherever_it_is(form: str, size: int) -> None:
    data = encoded(photo(400, 300), **{"quality": 90, **JPEGS[form]})
    begin, end = scan_begin(data), len(data) - 2 - size
    places = np.linspace(begin, end, 40, dtype=int)
    found = 0
    for at in places:
        broken = data[:at] + bytes(size) + data[at + size :]
        found += verify(broken).status in ("truncated", "unreadable")
    # in progressive files zeros can be data, and 64 bytes of them can leave the decoder in step
    assert found >= (len(places) - 2 if "progressive" in form and size == 64 else len(places))
    assert opencv_decodes(broken), "the naive way"


def test_zeros_that_are_data_are_no_hole() -> None:
    """In an optimised file the code of "nothing more" can be all zeros: large plain areas are runs of zero bytes."""
    pixels = np.full((800, 800, 3), 200, np.uint8)
    pixels[:100, :100] = photo(100, 100)
    for options in ({"optimize": True}, {"progressive": True}):
        data = encoded(pixels, mode="L", **options)
        assert bytes(64) in data[scan_begin(data) :], "the naive rule would strike"
        assert verify(data) == Verdict("ok")


def _before_end(data: bytes, more: bytes) -> bytes:
    return data[:-2] + more + data[-2:]


def _samsung(data: bytes) -> bytes:
    at = scan_begin(data)
    return data[: at - 3] + bytes(3) + data[at:]


def _adobe(data: bytes, transform: int) -> bytes:
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform]) + data[2:]


def _jfif(data: bytes) -> bytes:
    return data.replace(b"JFIF\0\1\1", b"JFIF\0\7\1", 1)


HARMLESS = {
    "bytes after the end": lambda data: data + b"camera's own data" * 100,
    "fill bytes": lambda data: data[:2] + b"\xff" * 7 + data[2:],
    "junk in the header": lambda data: data[:20] + b"\x12\x34\x00\xff\x00" + data[20:],
    "junk before the tables": lambda data: data.replace(b"\xff\xdb", b"\1\2\3\4\5\xff\xdb", 1),
    "unknown version of JFIF": _jfif,
    "unknown colour transform": lambda data: _adobe(data, 9),
    "scan parameters of zero": _samsung,
    "broken colour profile": lambda data: data[:2] + b"\xff\xe2\x00\x20ICC_PROFILE\0\3\1" + bytes(16) + data[2:],
    "one byte before the end": lambda data: _before_end(data, b"\x7f"),
    "two bytes before the end": lambda data: _before_end(data, b"\x7f\x7f"),
    "zeros before the end": lambda data: _before_end(data, bytes(40)),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_every_decoder_takes_is_no_damage_and_does_not_hide_damage(what: str) -> None:
    """libjpeg tells its first complaint alone: a harmless one must not cover one of damage behind it."""
    data = encoded(photo())
    odd = HARMLESS[what](data)
    assert odd != data
    assert opencv_decodes(odd)
    assert Image.open(io.BytesIO(odd)).convert("RGB").size == (240, 160)
    assert verify(odd) == Verdict("ok")
    middle = scan_begin(data) + 2000
    damaged = HARMLESS[what](data[:middle] + data[middle + 700 :])
    assert verify(damaged).status in ("truncated", "unreadable")
    assert verify(HARMLESS[what](data[:middle] + bytes(700) + data[middle + 700 :])).status == "unreadable"


def test_more_than_padding_before_the_end_is_damage() -> None:
    data = encoded(photo())
    for more in (b"\x7f\x7f\x7f", b"\x35" * 30, bytes(64)):
        found = verify(_before_end(data, more))
        assert found.status == "unreadable"
        assert "damaged" in found.detail


def test_restart_markers_out_of_order_are_damage() -> None:
    data = encoded(photo(), restart_marker_rows=1)
    assert verify(data.replace(b"\xff\xd3", b"\xff\xd5", 1)).status in ("truncated", "unreadable")
    first, second = data.index(b"\xff\xd1"), data.index(b"\xff\xd2")
    assert verify(data[:first] + data[second:]).status in ("truncated", "unreadable")


def test_a_stray_byte_before_a_restart_marker_does_not_hide_a_marker_that_nobody_knows() -> None:
    data = encoded(photo(), restart_marker_rows=1)
    stray = data.replace(b"\xff\xd1", b"\x7f\xff\xd1", 1)
    assert verify(stray) == Verdict("ok")
    assert verify(stray.replace(b"\xff\xd3", b"\xff\x02\xff\xd3", 1)).status == "unreadable"


# --- PNG ---


def png(
    width: int, height: int, depth: int, colour: int, interlaced: bool, pixels: bytes, parts: int = 1, more: bytes = b""
) -> bytes:
    packed = zlib.compress(pixels)
    cuts = [len(packed) * part // parts for part in range(parts + 1)]
    body = b"".join(chunk(b"IDAT", packed[a:b]) for a, b in itertools.pairwise(cuts))
    palette = chunk(b"PLTE", bytes(range(3 << min(depth, 8))[: 3 << depth]) if depth < 8 else bytes(range(256)) * 3)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + (palette if colour == 3 else b"")
    return start + more + body + chunk(b"IEND", b"")


def _unpacked_length(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of a PNG's pixels by the definition: each pixel is in the pass that a table of 8 x 8 gives (Adam7)."""
    table = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    rows: dict[tuple[str, int], int] = {}
    for y in range(height):
        for x in range(width):
            key = (table[y % 8][x % 8] if interlaced else "", y)
            rows[key] = rows.get(key, 0) + 1
    return sum(1 + (count * bits + 7) // 8 for count in rows.values())


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [
        (0, 1),
        (0, 2),
        (0, 4),
        (0, 8),
        (0, 16),
        (2, 8),
        (2, 16),
        (3, 1),
        (3, 4),
        (3, 8),
        (4, 8),
        (4, 16),
        (6, 8),
        (6, 16),
    ],
)
def test_a_png_needs_exactly_the_bytes_of_its_pixels(interlaced: bool, colour: int, depth: int) -> None:
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    for width, height in ((1, 1), (3, 2), (5, 5), (8, 8), (9, 17), (17, 4)):
        length = _unpacked_length(width, height, bits, interlaced)
        whole = png(width, height, depth, colour, interlaced, bytes(length))
        assert verify(whole).status in ("black", "flat"), (width, height)
        found = verify(png(width, height, depth, colour, interlaced, bytes(length - 1)))
        assert found.status == "truncated"
        assert f"{length - 1} of {length} bytes" in found.detail


@pytest.mark.parametrize("options", [{}, {"mode": "L"}, {"mode": "P"}, {"mode": "RGBA"}, {"mode": "1"}])
def test_png_damage_of_every_kind_is_found(options: dict[str, str]) -> None:
    data = encoded(photo(60, 40), "PNG", **options)
    assert verify(data) == Verdict("ok")
    begin = data.index(b"IDAT")
    for at in range(begin + 5, len(data) - 12, 97):
        flipped = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        assert verify(flipped).status in ("unreadable", "truncated"), at
        assert verify(data[:at] + data[-12:]).status in ("unreadable", "truncated"), at
        assert verify(data[:at]).status == "truncated", at


def test_what_a_png_does_not_need_for_its_pixels_may_be_wrong() -> None:
    pixels = bytes(b for y in range(30) for b in (0, *range(y, y + 120)))
    text = bytearray(chunk(b"tEXt", b"Comment\0hello"))
    text[-1] ^= 1
    for parts in (1, 2, 7, 50):
        assert verify(png(40, 30, 8, 2, False, pixels, parts, bytes(text))) == Verdict("ok")
    assert verify(png(40, 30, 8, 2, False, pixels + bytes(100))) == Verdict("ok"), "too many pixels are left alone"
    unknown = png(40, 30, 8, 2, False, b"\x09" + pixels[1:])
    assert verify(unknown).status == "unreadable", "a filter that does not exist"


def test_a_png_that_unpacks_to_far_too_much_is_not_unpacked() -> None:
    data = png(40, 30, 8, 2, False, bytes(1 << 26))
    assert len(data) < 100_000
    assert verify(data).status == "black"


# --- the other formats ---


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "TIFF"])
def test_other_formats_whole_and_cut(kind: str) -> None:
    data = encoded(photo(60, 40), kind)
    assert verify(data) == Verdict("ok")
    for length in range(1, len(data), len(data) // 23):
        assert verify(data[:length]).status in ("unreadable", "truncated"), length


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_ok(orientation: int) -> None:
    pixels = photo(60, 40)
    data = tiff(2, 8, 3, orientation=orientation, pixels=pixels.tobytes(), width=60, height=40)
    assert verify(data) == Verdict("ok")


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", "unreadable", "empty"),
        (b"../../images/a.jpg", "unreadable", "not a known image"),
        (b"GIF89a" + bytes(100), "unreadable", "GIF is not supported"),
        (encoded(photo())[:5000], "truncated", "no end marker"),
        (encoded(photo(), "PNG")[:5000], "truncated", "no end chunk"),
    ],
)
def test_what_the_header_tells_comes_first(data: bytes, status: str, detail: str) -> None:
    found = verify(data)
    assert found.status == status
    assert detail in found.detail


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]),
    st.sampled_from([{}, {"progressive": True}, {"optimize": True}, {"compression": "tiff_lzw"}]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    st.floats(0.3, 1),
)
def test_mutated_files_get_a_verdict(
    kind: str, options: dict[str, object], changes: list[tuple[float, int]], cut: float
) -> None:
    if "compression" in options and kind != "TIFF":
        options = {}
    data = bytearray(encoded(photo(19, 13), kind, **options))
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    data = data[: int(cut * len(data)) + 1]
    with contextlib.suppress(DecodeError):
        header = read_header(lambda at, num: bytes(data[at : at + num]), len(data))
        assume(header.width * header.height < 1 << 20)
    found = verify(bytes(data))
    assert found.status in STATUSES
    assert bool(found.detail) == (found.status != "ok")


# --- black and flat ---


def verdict_on(pixels: np.ndarray) -> str:
    statuses = {verify(encoded(pixels, kind)).status for kind in ("PNG", "BMP")}
    assert len(statuses) == 1
    return statuses.pop()


def _uniform(value: int | tuple[int, int, int], size: tuple[int, int] = (120, 100)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_black_ends_at_its_level() -> None:
    assert BLACK_LEVEL == 16
    steps = np.arange(17, dtype=np.uint8).repeat(3)[:, None, None] * np.ones((1, 80, 3), np.uint8)
    assert verdict_on(steps) == "black"
    assert verdict_on(steps + 1) == "ok"
    assert verdict_on(_uniform(16)) == "black"
    assert verdict_on(_uniform(17)) == "flat"
    assert verdict_on(_uniform((0, 0, 17))) == "flat", "deep blue is not black"


@pytest.mark.parametrize(("bright", "status"), [(12, "black"), (13, "ok")])
def test_a_thousandth_of_bright_pixels_does_not_count(bright: int, status: str) -> None:
    assert OUTLIERS == 1000
    random = np.random.default_rng(0)
    pixels = random.integers(0, 9, (120, 100, 3)).astype(np.uint8)
    pixels.reshape(-1, 3)[random.permutation(12_000)[:bright]] = 255
    assert verdict_on(pixels) == status


def test_a_dark_photo_at_night_is_ok() -> None:
    """Nearly nine tenths black sky and square, a lit building: as the darkest real photos that were looked at."""
    night = np.random.default_rng(0).integers(0, 8, (480, 640, 3)).astype(np.uint8)
    night[200:300, 250:420] = photo(170, 100)
    night[350, 100:105] = 240
    assert (night.max(axis=2) <= 16).mean() > 0.85
    assert verdict_on(night) == "ok"
    assert verify(encoded(night)).status == "ok"
    lamps = np.zeros((480, 640, 3), np.uint8)
    lamps[100:105, 100:165] = 200  # hardly more than a thousandth
    assert verify(encoded(lamps, quality=60)).status == "ok"


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_black_frames_stay_black_through_jpeg(quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 6, (120, 160, 3)).astype(np.uint8)
    for pixels in (np.zeros((120, 160, 3), np.uint8), noise):
        assert verify(encoded(pixels, quality=quality)).status == "black"


def test_flat_ends_at_its_range() -> None:
    assert FLAT_RANGE == 4
    ramp = np.linspace(0, 1, 100)[None, :, None] * np.ones((120, 1, 3))
    assert verdict_on(np.rint(100 + 4 * ramp).astype(np.uint8)) == "flat"
    assert verdict_on(np.rint(100 + 5 * ramp).astype(np.uint8)) == "ok"
    one_channel = _uniform(100)
    one_channel[:, :, 2] += np.rint(5 * ramp[:, :, 0]).astype(np.uint8)
    assert verdict_on(one_channel) == "ok", "colour alone is content"
    for value in (128, 255, (0, 71, 187)):
        assert verdict_on(_uniform(value)) == "flat"
        assert verify(encoded(_uniform(value))).status == "flat"


@pytest.mark.parametrize(("deviation", "status"), [(0.3, "flat"), (1.0, "ok"), (3.0, "ok")])
def test_a_white_wall_with_noise_is_ok(deviation: float, status: str) -> None:
    noise = np.random.default_rng(0).normal(scale=deviation, size=(240, 320, 3))
    assert verdict_on(np.clip(np.rint(230 + noise), 0, 255).astype(np.uint8)) == status


def test_a_white_wall_with_shading_and_no_noise_is_ok() -> None:
    y, x = np.indices((240, 320)) / 240
    wall = 235 - 12 * ((x - 0.6) ** 2 + (y - 0.4) ** 2)  # the corners of a lens get less light
    pixels = np.repeat(np.rint(wall).astype(np.uint8)[:, :, None], 3, axis=2)
    assert verdict_on(pixels) == "ok"
    assert verify(encoded(pixels, quality=75)).status == "ok"


def test_a_date_stamp_on_a_grey_frame_does_not_count() -> None:
    grey = _uniform(128, (480, 640))
    grey[450:460, 600:630] = 255  # 300 of 307,200 pixels
    assert verdict_on(grey) == "flat"
    grey[450:460, 590:630] = 255
    assert verdict_on(grey) == "ok"


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 3),
    st.integers(0, 30),
    st.integers(0, 12),
    st.integers(0, 40),
)
def test_verdicts_equal_those_of_the_definition(
    width: int, height: int, seed: int, base: int, spread: int, bright: int
) -> None:
    """The verdict looks at every eighth pixel first; that must not change it."""
    random = np.random.default_rng(seed)
    pixels = (base + random.integers(0, spread + 1, (height, width, 3))).astype(np.uint8)
    pixels.reshape(-1, 3)[random.integers(0, width * height, bright)] = 255
    num = width * height // 1000
    ordered = np.sort(pixels.reshape(-1, 3), axis=0).astype(int)
    low, high = ordered[num], ordered[len(ordered) - 1 - num]
    expected = "black" if high.max() <= 16 else "flat" if (high - low).max() <= 4 else "ok"
    assert verify(encoded(pixels, "BMP")).status == expected


def test_one_pixel_is_flat() -> None:
    assert verdict_on(_uniform(200, (1, 1))) == "flat"
    assert verdict_on(_uniform(3, (1, 1))) == "black"
