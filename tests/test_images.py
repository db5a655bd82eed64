"""Headers against Pillow, broken files by the hundred, pixels against OpenCV's plain reader, bytes out of archives."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mumdata.images
from mumdata.errors import DecodeError, LayoutError, TruncatedError
from mumdata.headers import TRAITS
from mumdata.images import Header, looks_like_image, read_encoded, read_header, read_image

from .conftest import picture, write_picture

FORMATS = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
)


# JPEGs of kinds that Pillow does not write, made with libjpeg-turbo's own functions
OTHER_JPEGS = {
    "2 components": """
        /9j/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/wAAOCAAIAAg
        CABEAAREA/8QAFAABAAAAAAAAAAAAAAAAAAAABf/EABgQAAIDAAAAAAAAAAAAAAAAAAAEFEFh/9oACgIAAAEAAD8ADjYBq0f/2Q==""",
    "12 bits": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYnKSopG
        R8tMC0oMCUoKSj/wQALDAAQABABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAACggM/8QAGhAAAAcAAAAAAAAAAAAAAAAAAAgJJTVCUv/aAAg
        BAQAAPwDPCJgFJiW/FAutMApMS34oIqTAKTEt+KBdSYBSYlvxQf/Z""",
    "lossless": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/wwALCAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAwj/2gAIAQEAAQAAn93d3d3d3d3dXd3d3d3
        d3d1d3d3d3d3d3V3d3d3d3d3dXd3d3d3d3d1d3d3d3d3d3V3d3d3d3d3dXd3d3d3d3d1d3d3d3d3d3V3d3d3d3d3dXd3d3d3d3d1d3d3d3d
        3d3V3d3d3d3d3dXd3d3d3d3d1d3d3d3d3d3V3d3d3d3d3f/9k=""",
}


def header_of(data: bytes) -> Header:
    def read_at(at: int, num: int) -> bytes:
        assert 0 <= at <= len(data), "nothing beyond the end is asked for"
        assert num >= 0
        return data[at : at + num]

    return read_header(read_at, len(data))


def encoded(kind: str, mode: str = "RGB", width: int = 37, height: int = 21, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(width, height)).convert(mode).save(out, kind, **options)
    return out.getvalue()


def tiff(
    photometric: int,
    bits: int,
    channels: int,
    *,
    form: int = 1,
    orientation: int = 1,
    order: str = "<",
    compression: int = 1,
    directories: int = 1,
    pixels: bytes | None = None,
    width: int = 6,
    height: int = 4,
) -> bytes:
    """A TIFF of one strip, by hand: kinds that Pillow does not write."""
    if pixels is None:
        pixels = bytes(range(30, 250)) * 10
        pixels = pixels[: (width * bits * channels + 7) // 8 * height]
    shorts = {256: [width], 257: [height], 258: [bits] * channels, 259: [compression], 262: [photometric]}
    shorts |= {274: [orientation], 277: [channels], 278: [height], 284: [1], 339: [form] * channels}
    if photometric == 3:
        shorts[320] = [value * 65535 // ((1 << bits) - 1) for value in range(1 << bits)] * 3
    longs = {273: [8], 279: [len(pixels)]}
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4) + pixels + bytes(len(pixels) % 2))
    link = 4
    for _ in range(directories):
        entries, at = b"", len(data)
        behind = at + 2 + 12 * len(shorts | longs) + 4
        values = b""
        for tag in sorted(shorts | longs):
            letter, kind = ("H", 3) if tag in shorts else ("I", 4)
            numbers = (shorts | longs)[tag]
            packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
            if len(packed) > 4:
                values += packed
                packed = struct.pack(order + "I", behind + len(values) - len(packed))
            entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
        struct.pack_into(order + "I", data, link, at)
        data += struct.pack(order + "H", len(shorts | longs)) + entries
        link = len(data)
        data += bytes(4) + values + bytes(len(values) % 2)
    return bytes(data)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def oriented(kind: str, orientation: int, **options: object) -> bytes:
    """A picture whose file says by EXIF, or by TIFF's own tag, how it is to be turned."""
    if kind == "TIFF":
        return encoded("TIFF", tiffinfo={274: orientation}, **options)
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(kind, exif=exif.tobytes(), **options)


@pytest.mark.parametrize(("kind", "options"), FORMATS)
def test_size_of_every_format_is_the_one_pillow_wrote(kind: str, options: dict[str, object]) -> None:
    for width, height in ((37, 21), (1, 1), (300, 2)):
        found = header_of(encoded(kind, width=width, height=height, **options))
        assert (found.width, found.height) == (width, height)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg_modes(mode: str) -> None:
    assert header_of(encoded("JPEG", mode)).width == 37


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["II", "MM"])
def test_exif_orientation_is_read_and_not_applied(tmp_path: Path, orientation: int, order: str) -> None:
    e = "<" if order == "II" else ">"
    entry = struct.pack(e + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = order.encode() + struct.pack(e + "HIH", 42, 8, 1) + entry + struct.pack(e + "I", 0)
    data = encoded("JPEG", exif=b"Exif\0\0" + tiff)
    assert header_of(data).orientation == orientation
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path, "a.jpg").shape == (21, 37, 3)
    turned = Image.open(io.BytesIO(data))
    upright = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
    if orientation in upright:
        turns = header_of(data).upright_quarter_turns
        ours = read_image(tmp_path, "a.jpg", quarter_turns=turns)
        theirs = turned if upright[orientation] is None else turned.transpose(upright[orientation])
        assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_of_every_format_is_told_and_never_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    data = oriented(kind, orientation, **options)
    found = header_of(data)
    assert (found.orientation, found.width, found.height) == (orientation, 37, 21)
    assert ("exif-rotated" in found.traits) == (orientation != 1)
    assert ("exif-mirrored" in found.traits) == (orientation in (2, 4, 5, 7))
    (tmp_path / "a").write_bytes(data)
    # OpenCV turns TIFFs by their tag although it is told to ignore it
    difference = np.abs(read_image(tmp_path, "a").astype(int) - picture(37, 21))
    assert difference.max() <= (12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_turned_tiff_of_either_byte_order_is_read_as_stored(tmp_path: Path, order: str) -> None:
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    for orientation in range(10):
        data = tiff(2, 8, 3, orientation=orientation, order=order, pixels=pixels.tobytes())
        (tmp_path / "a.tif").write_bytes(data)
        assert np.array_equal(read_image(tmp_path, "a.tif"), pixels)
        assert header_of(data).orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_orientation_is_found_far_inside_a_long_exif_block() -> None:
    directory = struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 8, 0, 0)
    tiff_block = struct.pack("<2sHI", b"II", 42, 50_000) + bytes(50_000 - 8) + directory
    data = encoded("JPEG", exif=b"Exif\0\0" + tiff_block)
    assert header_of(data).orientation == 8
    first = b"\xff\xe1" + struct.pack(">H", 8 + 26) + b"Exif\0\0" + struct.pack("<2sHI", b"II", 42, 8)
    first += struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    assert header_of(data[:2] + first + data[2:]).orientation == 6, "of several blocks the first counts"


def traits_of_pillow_files() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    frames = [Image.fromarray(picture(37, 21, seed)) for seed in range(3)]

    def several(kind: str) -> bytes:
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        return out.getvalue()

    sixteen = io.BytesIO()
    Image.fromarray(np.arange(37 * 21, dtype=np.uint16).reshape(21, 37) * 70).save(sixteen, "PNG")
    sixteen_tiff = io.BytesIO()
    Image.fromarray(np.arange(37 * 21, dtype=np.uint16).reshape(21, 37) * 70).save(sixteen_tiff, "TIFF")
    return {
        "jpeg": (encoded("JPEG"), ()),
        "jpeg grey": (encoded("JPEG", "L"), ("grey",)),
        "jpeg cmyk": (encoded("JPEG", "CMYK"), ("cmyk",)),
        "jpeg several": (several("MPO"), ("multi-picture",)),
        "png": (encoded("PNG"), ()),
        "png 1 bit": (encoded("PNG", "1"), ("grey",)),
        "png grey": (encoded("PNG", "L"), ("grey",)),
        "png grey, alpha": (encoded("PNG", "LA"), ("alpha", "grey")),
        "png alpha": (encoded("PNG", "RGBA"), ("alpha",)),
        "png palette": (encoded("PNG", "P"), ("palette",)),
        "png transparent palette": (encoded("PNG", "P", transparency=3), ("alpha", "palette")),
        "png transparent colour": (encoded("PNG", transparency=(1, 2, 3)), ("alpha",)),
        "png 16 bits": (sixteen.getvalue(), ("16-bit", "grey")),
        "png several": (several("PNG"), ("animated",)),
        "webp": (encoded("WEBP"), ()),
        "webp alpha": (_with_alpha("WEBP"), ("alpha",)),
        "webp lossless": (encoded("WEBP", lossless=True), ()),
        "webp lossless, alpha": (_with_alpha("WEBP", lossless=True), ("alpha",)),
        "webp several": (several("WEBP"), ("animated",)),
        "bmp": (encoded("BMP"), ()),
        "bmp grey": (encoded("BMP", "L"), ("palette",)),
        "bmp palette": (encoded("BMP", "P"), ("palette",)),
        "tiff": (encoded("TIFF"), ()),
        "tiff 1 bit": (encoded("TIFF", "1"), ("grey",)),
        "tiff grey": (encoded("TIFF", "L"), ("grey",)),
        "tiff alpha": (encoded("TIFF", "RGBA"), ("alpha",)),
        "tiff grey, alpha": (encoded("TIFF", "LA"), ("alpha", "grey")),
        "tiff cmyk": (encoded("TIFF", "CMYK", compression="tiff_lzw"), ("cmyk",)),
        "tiff palette": (encoded("TIFF", "P"), ("palette",)),
        "tiff 16 bits": (sixteen_tiff.getvalue(), ("16-bit", "grey")),
        "tiff several": (tiff(2, 8, 3, width=37, height=21, directories=3), ("multi-picture",)),
    }


def _with_alpha(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.dstack([picture(37, 21), picture(37, 21)[:, :, :1]])).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("name", traits_of_pillow_files())
def test_traits(tmp_path: Path, name: str) -> None:
    data, traits = traits_of_pillow_files()[name]
    found = header_of(data)
    assert found.traits == traits
    assert set(found.traits) <= set(TRAITS)
    opened = Image.open(io.BytesIO(data))
    assert (found.width, found.height) == opened.size
    assert ("multi-picture" in traits or "animated" in traits) == (getattr(opened, "n_frames", 1) > 1)
    (tmp_path / "a").write_bytes(data)
    assert read_image(tmp_path, "a").shape == (21, 37, 3)


def test_bmp_with_masks() -> None:
    def bmp(header_size: int, alpha: int) -> bytes:
        head = struct.pack("<IiiHHIIiiII", header_size, 3, 2, 1, 32, 3, 24, 0, 0, 0, 0)
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha).ljust(header_size - 40, b"\0")
        size = 14 + header_size + 24
        return b"BM" + struct.pack("<IHHI", size, 0, 0, size - 24) + head + masks[: header_size - 40] + bytes(24)

    assert header_of(bmp(108, 0xFF000000)).traits == ("alpha",)
    assert header_of(bmp(108, 0)).traits == ()
    assert header_of(bmp(52, 0)).traits == ()


# photometric interpretation, bits, channels, sample format
TIFF_KINDS = [
    (photometric, bits, channels, form)
    for photometric in (0, 1, 2, 3, 4, 5, 6, 8, 9, 32803)
    for bits in (1, 2, 4, 8, 12, 16, 32, 64)
    for channels in (1, 2, 3, 4, 5)
    for form in (1, 2, 3)
    if not (photometric == 3 and (bits > 16 or channels > 1)) and not (form == 3 and bits < 16)
]


def test_exactly_the_tiffs_that_opencv_decodes_pass_the_header() -> None:
    passed = set()
    for kind in TIFF_KINDS:
        data = tiff(*kind[:3], form=kind[3], width=8)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            assert header_of(data).width == 8, kind
            passed.add(kind)
        else:
            with pytest.raises(DecodeError, match="not supported"):
                header_of(data)
    assert {(2, 8, 3, 1), (1, 16, 1, 1), (5, 8, 4, 1), (3, 4, 1, 1)} <= passed
    assert 10 < len(passed) < len(TIFF_KINDS) // 3


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GIF89a" + bytes(50), "GIF is not supported"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC is not supported; convert it"),
        (b"\0\0\0\x1cftypavif" + bytes(50), "AVIF is not supported"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "JPEG 2000 is not supported"),
        (b"\xff\x4f\xff\x51" + bytes(50), "JPEG 2000 is not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL is not supported"),
        (b"\xff\x0a" + bytes(50), "JPEG XL is not supported"),
        (b"II+\0\x08\0\0\0" + bytes(50), "BigTIFF is not supported"),
        (b"\0\0\0\x20ftypisom" + bytes(50), "not a known image format"),
        (tiff(1, 32, 1, form=3), "floating-point samples"),
        (tiff(3, 16, 1), "16 bits a sample and a palette"),
        (tiff(2, 8, 3, compression=50000), "compression 50000"),
        (encoded("BMP")[:28] + b"\x40" + encoded("BMP")[29:], "BMP of 64 bits"),
        (encoded("PNG")[:24] + b"\x10\3" + encoded("PNG")[26:], "PNG header is broken"),  # 16 bits and a palette
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        header_of(data)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DecodeError, match=rf"a\.jpg: .*{why}"):
        read_image(tmp_path, "a.jpg")


@pytest.mark.parametrize("what", OTHER_JPEGS)
def test_jpegs_that_opencv_does_not_decode_are_named(what: str) -> None:
    data = base64.b64decode(OTHER_JPEGS[what])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None
    with pytest.raises(DecodeError, match=f"{what}.* not supported; convert it"):
        header_of(data)


def test_the_head_alone_is_enough_where_the_end_is_not_wanted() -> None:
    """EXIF comes last in WebP: with a part of the file, the orientation is not known, and all else is."""
    data = oriented("WEBP", 6)
    head = data[:60]
    found = read_header(lambda at, num: head[at : at + num], len(data), check_end=False)
    assert (found.width, found.height, found.orientation) == (37, 21, 1)


def test_few_reads_are_needed() -> None:
    def reads(data: bytes) -> list[tuple[int, int]]:
        asked = []

        def read_at(at: int, num: int) -> bytes:
            asked.append((at, num))
            return data[at : at + num]

        read_header(read_at, len(data))
        return asked

    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        assert len(reads(encoded(kind))) == 1, kind
    for kind in ("JPEG", "PNG"):
        large = encoded(kind, width=400, height=300)
        assert len(large) > 50_000
        assert len(reads(large)) == 2
        assert sum(num for _, num in reads(large)) < 10_000


def test_the_end_is_not_asked_for_where_it_is_not_wanted() -> None:
    for kind in ("JPEG", "PNG"):
        data = encoded(kind, width=400, height=300)
        cut = data[:20_000]
        found = read_header(lambda at, num, cut=cut: cut[at : at + num], len(data), check_end=False)
        assert found == header_of(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 3_000_000,
        b"\xff\xd8\xff\xfe\0\2" + bytes(3_000_000),
        b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000,
        encoded("PNG")[:33] + chunk(b"teXt", b"") * 200_000,
        encoded("PNG")[:33] + chunk(b"eXIf", b"II*\0\xff\xff\xff\0" + bytes(20_000)) * 100,
        tiff(2, 8, 3)[:4] + struct.pack("<I", 8) + b"\xff\xff" + b"\3\1\3\0\xff\xff\xff\0\0\0\0\0" * 65535,
    ],
    ids=["fill bytes", "junk", "segments", "chunks", "long chunks", "tags"],
)
def test_endless_headers_are_given_up(data: bytes) -> None:
    asked = []

    def read_at(at: int, num: int) -> bytes:
        asked.append(num)
        return data[at : at + num]

    with pytest.raises(DecodeError):
        read_header(read_at, len(data))
    assert sum(asked) < 1 << 21


def test_a_large_exif_block_before_the_size(tmp_path: Path) -> None:
    data = encoded("JPEG")
    filler = b"".join(b"\xff\xe2" + struct.pack(">H", 60002) + bytes(60000) for _ in range(4))
    assert header_of(data[:2] + filler + data[2:]).height == 21


@pytest.mark.parametrize(("kind", "options"), FORMATS)
def test_a_file_cut_anywhere_is_refused(kind: str, options: dict[str, object]) -> None:
    data = encoded(kind, **options)
    for length in range(0, len(data) - 12, max(1, len(data) // 60)):
        with pytest.raises(DecodeError):
            header_of(data[:length])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_whole_header_with_the_end_missing_is_called_truncated(kind: str) -> None:
    data = encoded(kind, width=200, height=100)
    with pytest.raises(TruncatedError, match="cut off"):
        header_of(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("num", [1, 500, 70_000, 3_000_000])
def test_trailing_bytes_of_cameras_are_no_damage(kind: str, num: int) -> None:
    """Some append a few zeros, some a video of megabytes."""
    whole = encoded(kind, width=200, height=100)
    assert header_of(whole + bytes(num)).width == 200
    with pytest.raises(TruncatedError):
        header_of(whole[:-20] + bytes(num))


@pytest.mark.parametrize("data", [b"", b"\0", b"../../images/a.jpg", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF"])
def test_what_is_no_image_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        header_of(data)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DecodeError, match=r"a\.jpg"):
        read_image(tmp_path, "a.jpg")


def test_a_header_that_claims_a_huge_size_allocates_nothing() -> None:
    data = bytearray(encoded("PNG"))
    data[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
    with pytest.raises(DecodeError, match="beyond the limit"):
        header_of(bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0, 1))
def test_mutated_files_give_a_header_or_a_decode_error(
    form: tuple[str, dict[str, object]], changes: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(encoded(form[0], width=9, height=7, **form[1]))
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    try:
        found = header_of(bytes(data[: int(cut * len(data)) + 1]))
    except DecodeError:
        return
    assert found.width > 0
    assert found.height > 0


@pytest.mark.parametrize("name", ["plain.png", "with space.png", "Cópia.png", "-rf.png", "日本.webp"])
def test_pixels_are_those_of_the_file_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = write_picture(tmp_path / name)
    expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert np.array_equal(read_image(tmp_path, name), expected)


def test_one_positioned_read_of_a_larger_file(tmp_path: Path) -> None:
    data = encoded("PNG")
    (tmp_path / "all.bin").write_bytes(b"x" * 100 + data + b"y" * 50)
    image = read_image(tmp_path, "a.png", archive="all.bin", codec="stored", offset=100, num_bytes=len(data))
    assert np.array_equal(image, picture(37, 21))
    with pytest.raises(DecodeError, match="exceed"):
        read_image(tmp_path, "a.png", archive="all.bin", offset=100, num_bytes=len(data) + 51)


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.jpg", "a/../../secret.jpg"])
def test_paths_do_not_leave_the_root(tmp_path: Path, path: str) -> None:
    write_picture(tmp_path / "secret.jpg")
    (tmp_path / "root").mkdir()
    with pytest.raises(LayoutError, match="leaves its root"):
        read_image(tmp_path / "root", path)


def test_reduced_decoding_gives_the_reduced_size(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", 64, 48)
    assert read_image(tmp_path, "a.jpg", reduce=4).shape == (12, 16, 3)


def test_which_names_are_images() -> None:
    assert all(map(looks_like_image, ("a.jpg", "A.JPEG", "-x.PNG", "b.webp")))
    assert not any(map(looks_like_image, ("._a.jpg", ".hidden.png", "a.txt", "jpg", "a.jpg.part")))


# --- bytes of frames, from files and archives ---


def test_a_stored_member_of_an_archive(tmp_path: Path) -> None:
    data = encoded("PNG")
    (tmp_path / "all.bin").write_bytes(b"x" * 100 + data + b"y" * 50)
    place = {"archive": "all.bin", "codec": "stored", "offset": 100}
    assert read_encoded(tmp_path, "a.png", **place, num_bytes=len(data)) == data
    assert read_encoded(tmp_path, "all.bin") == b"x" * 100 + data + b"y" * 50
    for num_bytes in (len(data) + 51, -1):
        with pytest.raises(DecodeError, match=r"a\.png in all\.bin: .*exceed.*index the dataset again"):
            read_encoded(tmp_path, "a.png", **place, num_bytes=num_bytes)
    with pytest.raises(FileNotFoundError):
        read_encoded(tmp_path, "a.png", archive="none.zip", codec="stored", offset=0, num_bytes=1)
    with pytest.raises(IsADirectoryError):
        read_encoded(tmp_path, "")
    with pytest.raises(DecodeError, match="codec 'lzma'"):
        read_encoded(tmp_path, "a.png", archive="all.bin", codec="lzma", offset=0, num_bytes=1)
    with pytest.raises(LayoutError, match="leaves its root"):
        read_encoded(tmp_path, "a.png", archive="../all.bin", codec="stored", offset=0, num_bytes=1)


def _zipped(path: Path, name: str, data: bytes) -> tuple[int, int]:
    # where the member's packed bytes are, and how many
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first.txt", b"x" * 1000)
        archive.writestr(name, data)
        info = archive.getinfo(name)
    head = path.read_bytes()[info.header_offset :]
    name_length, extra_length = struct.unpack_from("<HH", head, 26)
    return info.header_offset + 30 + name_length + extra_length, info.compress_size


def test_a_deflated_member_of_an_archive(tmp_path: Path) -> None:
    data = encoded("BMP", width=900, height=800)  # more than one piece, packed and unpacked
    offset, num_bytes = _zipped(tmp_path / "all.zip", "a.bmp", data)
    place = {"archive": "all.zip", "codec": "deflate", "offset": offset}
    assert num_bytes > 1 << 20
    assert read_encoded(tmp_path, "a.bmp", **place, num_bytes=num_bytes) == data
    assert np.array_equal(read_image(tmp_path, "a.bmp", **place, num_bytes=num_bytes), picture(900, 800))
    for wrong in (num_bytes - 1, num_bytes // 2, 0, num_bytes + 1):
        with pytest.raises(DecodeError, match=r"a\.bmp in all\.zip: its packed bytes end"):
            read_encoded(tmp_path, "a.bmp", **place, num_bytes=wrong)
    with pytest.raises(DecodeError, match="packed bytes"):
        read_encoded(tmp_path, "a.bmp", archive="all.zip", codec="deflate", offset=offset + 1, num_bytes=num_bytes - 1)
    whole = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "all.zip").write_bytes(whole[: offset + num_bytes // 2])
    with pytest.raises(DecodeError, match="exceed the file's"):
        read_encoded(tmp_path, "a.bmp", **place, num_bytes=num_bytes)


def test_an_empty_deflated_member(tmp_path: Path) -> None:
    offset, num_bytes = _zipped(tmp_path / "all.zip", "a.png", b"")
    place = {"archive": "all.zip", "codec": "deflate", "offset": offset}
    if num_bytes:
        assert read_encoded(tmp_path, "a.png", **place, num_bytes=num_bytes) == b""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    (tmp_path / "raw").write_bytes(engine.flush())
    size = (tmp_path / "raw").stat().st_size
    assert read_encoded(tmp_path, "a", archive="raw", codec="deflate", offset=0, num_bytes=size) == b""


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mumdata.images, "_MOST_BYTES", 1 << 22)
    for size, refused in (((1 << 22) + 1, True), (1 << 22, False)):
        offset, num_bytes = _zipped(tmp_path / "all.zip", "a.png", bytes(size))
        assert num_bytes < 10_000
        place = {"archive": "all.zip", "codec": "deflate", "offset": offset, "num_bytes": num_bytes}
        if refused:
            with pytest.raises(DecodeError, match="unpacks to more than 4 MiB"):
                read_encoded(tmp_path, "a.png", **place)
        else:
            assert len(read_encoded(tmp_path, "a.png", **place)) == size


def _column(form: str, pictures: list[bytes | None]) -> pa.Table:
    if form == "struct":
        rows = [None if data is None else {"bytes": data, "path": "a.jpg"} for data in pictures]
        images = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        return pa.table({"label": list(range(len(rows))), "image": images})
    kind = pa.large_binary() if form == "jpg" else pa.binary()
    return pa.table({"label": list(range(len(pictures))), form: pa.array(pictures, kind)})


@pytest.mark.parametrize("form", ["struct", "image", "image_bytes", "jpg"])
def test_rows_of_parquet_shards(tmp_path: Path, form: str) -> None:
    pictures = [encoded("PNG", width=5 + row) for row in range(23)]
    pq.write_table(_column(form, pictures), tmp_path / "0.parquet", row_group_size=10)
    order = [0, 22, 9, 10, 19, 20, 3]
    for row in order:
        place = {"archive": "0.parquet", "codec": "parquet", "offset": row}
        assert read_encoded(tmp_path, f"{row}.png", **place) == pictures[row]
        assert read_encoded(tmp_path, f"{row}.png", **place, num_bytes=len(pictures[row])) == pictures[row]
        assert read_image(tmp_path, f"{row}.png", **place).shape == (21, 5 + row, 3)
    for row in (23, -1):
        with pytest.raises(DecodeError, match=rf"a\.png in 0\.parquet: it has 23 rows, no row {row}"):
            read_encoded(tmp_path, "a.png", archive="0.parquet", codec="parquet", offset=row)
    with pytest.raises(DecodeError, match="has changed, index the dataset again"):
        read_encoded(tmp_path, "a.png", archive="0.parquet", codec="parquet", offset=3, num_bytes=7)


def test_only_the_row_group_that_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [encoded("PNG", width=5 + row) for row in range(30)]
    pq.write_table(_column("struct", pictures), tmp_path / "0.parquet", row_group_size=10)
    read: list[tuple[int, list[str]]] = []
    original: Callable[..., pa.Table] = pq.ParquetFile.read_row_group

    def watched(self: pq.ParquetFile, index: int, columns: list[str], **options: bool) -> pa.Table:
        read.append((index, columns))
        return original(self, index, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    for row in (12, 13, 19, 2):
        assert read_encoded(tmp_path, "a", archive="0.parquet", codec="parquet", offset=row) == pictures[row]
    assert read == [(1, ["image.bytes"]), (0, ["image.bytes"])]


def test_a_replaced_or_damaged_shard_is_noticed(tmp_path: Path) -> None:
    place = {"archive": "0.parquet", "codec": "parquet"}
    path = tmp_path / "0.parquet"
    pq.write_table(_column("struct", [b"old", None]), path)
    assert read_encoded(tmp_path, "a", **place, offset=0) == b"old"
    with pytest.raises(DecodeError, match="row 1 holds no image"):
        read_encoded(tmp_path, "a", **place, offset=1)
    pq.write_table(_column("struct", [b"new", None]), path)
    os.utime(path, ns=(1, 1))
    assert read_encoded(tmp_path, "a", **place, offset=0) == b"new"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"a in 0\.parquet: the shard cannot be read"):
        read_encoded(tmp_path, "a", **place, offset=0)
    pq.write_table(pa.table({"image": [1, 2], "text": ["a", "b"]}), path)
    with pytest.raises(DecodeError, match="no column of encoded images"):
        read_encoded(tmp_path, "a", **place, offset=0)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_encoded(tmp_path, "a", **place, offset=0)


def test_damaged_pages_of_a_shard_give_an_error_or_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    pq.write_table(_column("struct", [bytes([row]) * 200 for row in range(5)]), path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        os.utime(path, ns=(at, at))
        with contextlib.suppress(DecodeError):
            assert read_encoded(tmp_path, "a", archive="0.parquet", codec="parquet", offset=2)
