"""Headers against Pillow, broken files by the hundred, and pixels against OpenCV's plain reader."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mumdata.errors import DecodeError, LayoutError, TruncatedError
from mumdata.images import Header, looks_like_image, read_header, read_image

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


def header_of(data: bytes) -> Header:
    return read_header(lambda at, num: data[at : at + num], len(data))


def encoded(kind: str, mode: str = "RGB", width: int = 37, height: int = 21, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(width, height)).convert(mode).save(out, kind, **options)
    return out.getvalue()


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


def test_trailing_bytes_of_cameras_are_no_damage() -> None:
    assert header_of(encoded("JPEG") + bytes(500)).width == 37


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
