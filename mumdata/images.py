"""Image files: their bytes, from a file of their own or from an archive, and their pixels.

In: a dataset's root, and where the catalog says a frame is. Out: the encoded bytes, or the picture as uint8 RGB. What a
header says is found in `mumdata.headers`, whose public names are here too. A file without its end is a DecodeError;
damage in the middle of a JPEG that has one is not noticed, since its decoder fills in: `mumdata.verify_image` finds it.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from mumdata import tiff
from mumdata.errors import DecodeError
from mumdata.files import inside
from mumdata.headers import EXTENSIONS, TRAITS, Header, looks_like_image, read_header

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "EXTENSIONS",
    "TRAITS",
    "Header",
    "decode",
    "looks_like_image",
    "read_encoded",
    "read_header",
    "read_image",
]

# an image that unpacks to more bytes than this is refused
_MOST_BYTES = 1 << 28

# a row group of images that takes more bytes than this is not loaded: shards have some tens of megabytes
_MOST_GROUP_BYTES = 1 << 32

# compressed members are read and unpacked in pieces of this size
_PIECE = 1 << 20

# columns of Parquet shards that hold encoded images: of bytes, or a struct with a field `bytes`
_IMAGE_COLUMNS = ("image", "image_bytes", "jpg")


def read_image(
    root: Path,
    path: str,
    *,
    archive: str | None = None,
    codec: str | None = None,
    offset: int | None = None,
    num_bytes: int | None = None,
    quarter_turns: int = 0,
    reduce: int = 1,
) -> np.ndarray:
    """Read and decode one frame: uint8 RGB [H, W, 3], as stored (EXIF orientation is not applied).

    `quarter_turns` turns the picture clockwise afterwards. `reduce` (1, 2, 4, 8) decodes at that fraction of the size,
    cheaply for JPEG. Where the bytes lie is said as for `read_encoded`, and its errors are raised; DecodeError also
    where the bytes are no whole image.
    """
    import cv2

    data = read_encoded(root, path, archive=archive, codec=codec, offset=offset, num_bytes=num_bytes)
    try:
        image = decode(data, read_header(lambda at, num: data[at : at + num], len(data)), reduce)
    except DecodeError as error:
        raise type(error)(f"{path}: {error}") from error.__cause__
    turn = (None, cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarter_turns % 4]
    return image if turn is None else cv2.rotate(image, turn)


def decode(data: bytes, header: Header, reduce: int = 1) -> np.ndarray:
    """Decode an image's bytes, whose header was read, with OpenCV: uint8 RGB [H, W, 3], as stored.

    `reduce` as for `read_image`. Raises DecodeError where OpenCV gives no picture; it may give a damaged one.
    """
    import cv2
    import numpy as np

    if header.kind == "TIFF" and header.orientation != 1:
        data = tiff.unoriented(data)
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[reduce]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DecodeError(f"the {header.kind} decoder refuses it ({error.err})") from error
    if image is None:
        raise DecodeError(f"the {header.kind} data cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_encoded(
    root: Path,
    path: str,
    *,
    archive: str | None = None,
    codec: str | None = None,
    offset: int | None = None,
    num_bytes: int | None = None,
) -> bytes:
    """Return the bytes of one frame's image file.

    Without `archive` they are the file `path`; with it, by `codec`: `stored` (or None), the `num_bytes` bytes at
    `offset` of that file; `deflate`, what those bytes unpack to (raw deflate, as in ZIP); `parquet`, the image in row
    `offset` of that shard, which has `num_bytes` bytes where that is given. Raises DecodeError where the file is
    shorter than the catalog says, has no such row, or cannot be unpacked, LayoutError where a path leaves the root, and
    lets OSError pass.
    """
    file = inside(root, archive or path)
    try:
        if codec == "parquet":
            return _parquet_row(file, offset or 0, num_bytes)
        if codec not in (None, "stored", "deflate"):
            raise DecodeError(f"codec '{codec}' is not known")
        return _file_bytes(file, offset or 0, num_bytes, deflated=codec == "deflate")
    except DecodeError as error:
        where = path if archive is None else f"{path} in {archive}"
        raise type(error)(f"{where}: {error}") from error.__cause__


def _file_bytes(path: Path, begin: int, count: int | None, *, deflated: bool) -> bytes:
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if count is None:
            count = size - begin
        if begin < 0 or count < 0 or begin + count > size:
            raise DecodeError(
                f"bytes {begin} to {begin + count} exceed the file's {size}; it has changed, index the dataset again"
            )
        if deflated:
            return _inflated(file.fileno(), begin, count)
        pieces = [os.pread(file.fileno(), count, begin)]
        at = len(pieces[0])
        while at < count:
            pieces.append(os.pread(file.fileno(), count - at, begin + at))
            if not pieces[-1]:
                raise DecodeError(f"the file ends at byte {begin + at} while it is read")
            at += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _inflated(number: int, begin: int, count: int) -> bytes:
    # piece by piece, so that neither a false count nor a bomb takes memory
    engine, pieces, total, at = zlib.decompressobj(-zlib.MAX_WBITS), [], 0, begin
    while not engine.eof:
        packed = engine.unconsumed_tail
        if not packed:
            packed = os.pread(number, min(_PIECE, begin + count - at), at)
            at += len(packed)
        try:
            pieces.append(engine.decompress(packed, _PIECE))
        except zlib.error as error:
            raise DecodeError(f"its packed bytes are damaged ({error})") from error
        total += len(pieces[-1])
        if not packed and not pieces[-1] and not engine.eof:
            raise DecodeError("its packed bytes end too early; index the dataset again")
        if total > _MOST_BYTES:
            raise DecodeError(f"it unpacks to more than {_MOST_BYTES >> 20} MiB")
    if engine.unused_data or at < begin + count:
        raise DecodeError("its packed bytes end before their place does; index the dataset again")
    return b"".join(pieces)


def _parquet_row(path: Path, row: int, num_bytes: int | None) -> bytes:
    import pyarrow as pa

    # a shard that was replaced is another key
    status = os.stat(path)
    key = str(path), status.st_size, status.st_mtime_ns
    try:
        firsts = _shard(*key)[2]
        if not 0 <= row < firsts[-1]:
            raise DecodeError(f"it has {firsts[-1]} rows, no row {row}; it has changed, index the dataset again")
        group = bisect.bisect_right(firsts, row) - 1
        data = _row_group(*key, group)[row - firsts[group]].as_py()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; Arrow's own complaints about a file's content can be OSErrors too, without a number
        raise DecodeError(f"the shard cannot be read ({str(error).splitlines()[0]})") from error
    if data is None:
        raise DecodeError(f"row {row} holds no image")
    if num_bytes is not None and len(data) != num_bytes:
        raise DecodeError(f"row {row} has {len(data)} bytes, not {num_bytes}; it has changed, index the dataset again")
    return bytes(data)


@functools.lru_cache(maxsize=16)
def _shard(path: str, size: int, mtime_ns: int) -> tuple[pq.FileMetaData, str, list[int]]:
    # the footer, the dotted name of the column of images, and the first row of each row group, closed by their number
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    groups = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    firsts = list(itertools.accumulate(groups, initial=0))
    schema = metadata.schema.to_arrow_schema()
    for name in _IMAGE_COLUMNS:
        if name not in schema.names:
            continue
        kind, column = schema.field(name).type, name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, column = kind.field("bytes").type, f"{name}.bytes"
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return metadata, column, firsts
    raise DecodeError(f"the shard has no column of encoded images ({', '.join(_IMAGE_COLUMNS)})")


@functools.lru_cache(maxsize=1)
def _row_group(path: str, size: int, mtime_ns: int, group: int) -> pa.ChunkedArray:
    # the column of images of one row group; the last one is kept, since rows are mostly read in their order
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    metadata, column, firsts = _shard(path, size, mtime_ns)
    num_bytes = metadata.row_group(group).total_byte_size
    if num_bytes > _MOST_GROUP_BYTES:
        raise DecodeError(f"row group {group} of the shard takes {num_bytes:,} bytes, beyond the limit")
    with pq.ParquetFile(path, metadata=metadata) as file:
        images = file.read_row_group(group, columns=[column], use_threads=False).column(0)
    if len(images) != firsts[group + 1] - firsts[group]:
        raise DecodeError(f"row group {group} of the shard has only {len(images)} rows")
    return images if "." not in column else pc.struct_field(images, "bytes")
