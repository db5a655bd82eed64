"""NumPy's files with Python objects in them, read as data: a reader of pickles that cannot run anything.

In: an `.npy`, an `.npz`, or a bare pickle, from anyone. Out: arrays, numbers, strings, bytes, lists, tuples, dicts and
None. A pickle is a program; this reader carries out those instructions alone that put such values together, and makes
arrays with its own code. Whatever else a file asks for is an error that names it. Sizes are compared with what is there
before anything is allocated. Arrays may be read-only.
"""

from __future__ import annotations

import codecs
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mumdata.errors import MumError

__all__ = ["Members", "load", "loads"]

_MOST_BYTES = 1 << 31  # of a file or of an archive's member: a square matrix of 16,384 images in float64
_MOST_VALUES = 1 << 26  # instructions of one pickle: seconds each ten million, and at most about 70 bytes each
_MOST_LEVELS = 64  # containers in containers
_MOST_DIMENSIONS = 64  # as in NumPy
_MOST_DEFLATED = 1032  # bytes that one byte of DEFLATE can become

_NPY = b"\x93NUMPY"
_ZIP = b"PK"


def load(path: Path) -> Any:
    """Read a file by what it is: an `.npz` as `Members`, an `.npy` as an array, a bare pickle as its value.

    An `.npy` that holds one object gives an object array of shape (), as with NumPy. Raises MumError where the file
    cannot be read, is damaged or too large, or holds anything but plain data.
    """
    path = Path(path)
    with _opened(path) as file:
        start = file.read(len(_NPY))
        if start.startswith(_ZIP):
            return Members(path)
        file.seek(0)
        data = _read(file, path)
    return _array(data, str(path)) if start == _NPY else loads(data, str(path))


def loads(data: bytes, name: str = "data") -> Any:
    """Return the value of a pickle; MumError that begins with `name` where it is damaged or holds more than data."""
    return _Reader(data, name).value()


class Members(Mapping[str, Any]):
    """The arrays of an `.npz` by name; each is read when it is asked for, and MumErrors come then.

    Members that nobody asks for cost nothing: D2-Net's files hold hundreds of megabytes that few read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with _opened(self.path) as file, _unzipped(self.path), zipfile.ZipFile(file) as archive:
            names = (name for name in archive.namelist() if name.endswith(".npy"))
            self._names = list(dict.fromkeys(name.removesuffix(".npy") for name in names))

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        where = f"{self.path}, {name}"
        with _opened(self.path) as file, _unzipped(where), zipfile.ZipFile(file) as archive:
            info = archive.getinfo(f"{name}.npy")
            _check_member(info, file.seek(0, io.SEEK_END), where)
            with archive.open(info) as member:
                data = member.read(info.file_size)
        if len(data) != info.file_size:
            raise MumError(f"{where}: has {len(data):,} of {info.file_size:,} bytes; get the file again")
        return _array(data, where)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


# ---- files


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_file():  # opening a pipe would wait for whoever writes into it
            return open(path, "rb")
    except (OSError, ValueError) as error:
        raise MumError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    raise MumError(f"{path} is not there, or no regular file")


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size > _MOST_BYTES:
            raise MumError(f"{path}: has {size:,} bytes, more than the {_MOST_BYTES:,} that are read")
        return file.read(size)
    except OSError as error:
        raise MumError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _unzipped(where: Path | str) -> Iterator[None]:
    """Turn what `zipfile` raises on damaged archives into one MumError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, MemoryError) as error:
        raise MumError(f"{where}: damaged or no archive of NumPy's ({error}); get the file again") from error
    except (RuntimeError, ValueError, LookupError, OverflowError) as error:  # encrypted, or odd fields
        raise MumError(f"{where}: no archive of NumPy's ({error}); get the file again") from error


def _check_member(info: zipfile.ZipInfo, archive_bytes: int, where: str) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MumError(f"{where}: compressed in a way that NumPy does not write; it is not read")
    if info.file_size > _MOST_BYTES:
        raise MumError(f"{where}: has {info.file_size:,} bytes, more than the {_MOST_BYTES:,} that are read")
    if info.header_offset + info.compress_size > archive_bytes:
        raise MumError(f"{where}: claims {info.compress_size:,} bytes of an archive of {archive_bytes:,}; get it again")
    most = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _MOST_DEFLATED)
    if info.file_size > most:
        raise MumError(f"{where}: claims {info.file_size:,} bytes, which its {info.compress_size:,} cannot hold")


# ---- .npy


def _array(data: bytes, where: str) -> np.ndarray:
    """Read the bytes of an `.npy` file."""
    descr, is_fortran, shape, start = _header(data, where)
    dtype = _dtype_of(descr)
    if dtype is None:
        raise MumError(f"{where}: values of type {descr[:40]!r} are not read; numbers, strings and objects are")
    if dtype.hasobject:
        value = loads(data[start:], where)
        # NumPy stores the array itself; its shape stands in the header, too
        if not isinstance(value, np.ndarray) or not value.dtype.hasobject or value.shape != shape:
            raise MumError(f"{where}: its header and its content differ; get the file again")
        return value
    found = _plain_array(dtype, shape, memoryview(data)[start:], is_fortran)
    if found is None:
        raise MumError(f"{where}: {len(data) - start:,} bytes of values do not fit the shape {_shown(shape)}")
    return found


_FIELD = re.compile(r"""\s*(['"])(\w+)\1\s*:\s*('[^'"\\]*'|"[^'"\\]*"|True|False|\([\d,L\s]*\))\s*(?:,|(?=\}))""")


def _header(data: bytes, where: str) -> tuple[str, bool, tuple[int, ...], int]:
    """Return type, order, shape, and where the values begin.

    The header is a Python dict of three fields; it is matched, not evaluated. The form 2.0 differs in the width of the
    length alone; 3.0 is for names of fields beyond Latin-1, and fields are not read.
    """
    damaged = MumError(f"{where}: its header is damaged or that of a structured array, which is not read")
    if data[: len(_NPY)] != _NPY or data[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise damaged
    width = 2 if data[6] == 1 else 4
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if not 8 + width < start <= min(len(data), 1 << 16):
        raise damaged
    text = data[8 + width : start].decode("latin-1").strip()
    fields, at = {}, 1
    while (match := _FIELD.match(text, at)) is not None:
        fields[match[2]] = match[3]
        at = match.end()
    order, descr = fields.get("fortran_order"), fields.get("descr", "")
    shape = fields.get("shape", "")
    rest = text[at:].strip()
    if set(fields) != {"descr", "fortran_order", "shape"} or text[:1] != "{" or rest != "}":
        raise damaged
    if order not in ("True", "False") or descr[0] not in "'\"" or shape[0] != "(":
        raise damaged
    lengths = [part.strip().removesuffix("L") for part in shape[1:-1].split(",")]
    if lengths[-1] == "":
        lengths.pop()
    if len(lengths) > _MOST_DIMENSIONS or not all(re.fullmatch(r"\d{1,18}", length) for length in lengths):
        raise damaged
    return descr[1:-1], order == "True", tuple(map(int, lengths)), start


_DESCR = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248]|c(?:8|16)|[SU]\d{1,8}|O[48]?)")


def _dtype_of(descr: str) -> np.dtype[Any] | None:
    """Return the type for NumPy's short name, or None where it is not numbers, strings or objects."""
    match = _DESCR.fullmatch(descr)
    if match is None:
        return None
    dtype = np.dtype(object) if match[2].startswith("O") else np.dtype(descr)
    return dtype if dtype.itemsize else None  # of strings without a character, a few bytes could claim any number


def _plain_array(
    dtype: np.dtype[Any], shape: tuple[int, ...], data: bytes | memoryview, is_fortran: bool
) -> np.ndarray | None:
    """View bytes as an array; None where they are more or fewer than the shape needs."""
    if math.prod(shape) * dtype.itemsize != len(data):
        return None
    try:
        return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    except ValueError:  # an empty array with lengths beyond the address space
        return None


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:4])) + ("x..." if len(shape) > 4 else "")


# ---- pickles


class _Global:
    """A name that plain data may refer to; NumPy's own pickles do. It is never called: `make` does its work."""

    def __init__(self, make: Callable[[_Reader, tuple[Any, ...]], Any]) -> None:
        self.make = make


class _Unfinished:
    """An array or type that was announced, and gets its content by BUILD."""

    def __init__(self, build: Callable[[_Reader, Any], Any]) -> None:
        self.build = build
        self.value: Any = None


class _DamagedError(Exception):
    """The pickle does not follow its own rules, or is not plain data."""


_SCALARS = frozenset({str, bytes, int, float, complex, bool, type(None)})
_KEYS = frozenset({str, bytes, int, float, bool, type(None)})
_CONTAINERS = frozenset({list, dict, tuple, np.ndarray})
_SPECIAL = -1  # level of a tuple that holds types or names: arguments, never part of the value


class _Reader:
    """One pickle being read, as a stack machine; the manner of CPython's `pickletools`, whose names are used.

    A list or dict is open until it is put into another container or recalled from memory, and changes no more after
    that: so no value holds itself. Of containers that hold containers the number of levels is known, and bounded.
    `copied` counts characters and items that instructions copy: each may be copied about once, so that no value
    multiplies by repeating a short instruction.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.open: set[int] = set()
        self.levels: dict[int, int] = {}  # by id, of containers that hold containers
        self.copied = 0

    def value(self) -> Any:
        """Carry out the instructions up to STOP and return the one value that is left."""
        data, instructions = self.data, _INSTRUCTIONS
        try:
            for _ in range(_MOST_VALUES):
                code = data[self.at]
                self.at += 1
                if code == 46:  # STOP
                    return self.finished()
                instructions[code](self)
        except (_DamagedError, MemoryError, OverflowError, ValueError, TypeError, LookupError, struct.error) as error:
            told = str(error) if isinstance(error, _DamagedError) else "damaged"
            raise MumError(f"{self.name}: {told}, at byte {self.at:,} of a pickle; it is not read") from error
        raise MumError(f"{self.name}: more than {_MOST_VALUES:,} instructions; it is not read")

    def finished(self) -> Any:
        if self.below or len(self.stack) != 1:
            raise _DamagedError("values left over")
        value = self.stack[0]
        self.level_above([value])
        return value

    # ---- bytes and text

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise _DamagedError(f"cut off: {count:,} bytes are claimed, {len(found):,} are there")
        self.at += count
        return found

    def take_counted(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width), "little"))

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise _DamagedError("cut off")
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def number(self) -> int:
        text = self.line()
        if not re.fullmatch(rb"[+-]?\d{1,40}L?", text):
            raise _DamagedError("no number")
        return int(text.removesuffix(b"L"))

    # ---- containers

    def marked(self) -> list[Any]:
        """Return what was put on the stack since the last MARK."""
        if not self.below:
            raise _DamagedError("values without a mark")
        found = self.stack
        self.stack = self.below.pop()
        return found

    def level_above(self, items: Sequence[Any], takes_special: bool = False) -> int:
        """Return how many levels a container of the items has; they are closed by being put into it."""
        if _SCALARS.issuperset(map(type, items)):
            return 1
        level = 1
        for item in items:
            kind = type(item)
            if kind in _SCALARS:
                continue
            if kind in _CONTAINERS:
                self.open.discard(id(item))
                below = self.levels.get(id(item), 1)
                if below != _SPECIAL:
                    level = max(level, below + 1)
                    continue
            elif isinstance(item, np.generic):
                continue
            if not takes_special:
                raise _DamagedError("a type or a name where a value should be")
            level = _SPECIAL
            takes_special = True
            for rest in items:  # all of them are closed
                self.open.discard(id(rest))
            break
        if level > _MOST_LEVELS:
            raise _DamagedError(f"more than {_MOST_LEVELS} containers in one another")
        return level

    def put_container(self, value: Any, level: int) -> None:
        # ids are used again after a container has gone, so that each new one sets its own level
        if level == 1:
            self.levels.pop(id(value), None)
        else:
            self.levels[id(value)] = level
        if type(value) in (list, dict):
            self.open.add(id(value))
        self.stack.append(value)

    def extend(self, items: list[Any]) -> None:
        target = self.opened(list)
        self.raise_level(target, self.level_above(items))
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.opened(dict)
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            raise _DamagedError("a key without a value")
        # numbers beyond 64 bits could be chosen to have one hash, and tuples hash all that they hold
        whole = [key for key in keys if type(key) is int]
        if (
            not _KEYS.issuperset(map(type, keys))
            or not -(1 << 63) <= min(whole, default=0) <= max(whole, default=0) < 1 << 63
        ):
            raise _DamagedError("a key that is neither a string nor a small number")
        self.raise_level(target, self.level_above(values))
        target.update(zip(keys, values, strict=True))

    def opened(self, kind: type) -> Any:
        target = self.stack[-1]
        if type(target) is not kind or id(target) not in self.open:
            raise _DamagedError("a container that changes after it was used")
        return target

    def raise_level(self, target: Any, level: int) -> None:
        if level > self.levels.get(id(target), 1):
            self.levels[id(target)] = level

    # ---- memory

    def remember(self, index: int) -> None:
        if not 0 <= index < 1 << 32:
            raise _DamagedError("an impossible place in memory")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        value = self.memo[index]
        if type(value) is _Unfinished:
            value = value.value
            if value is None:
                raise _DamagedError("an array that holds itself")
        else:
            self.open.discard(id(value))
        self.stack.append(value)

    # ---- what stands for calls

    def refer(self, module: str, name: str) -> None:
        found = _GLOBALS.get((module, name))
        if found is None:
            shown = f"{module[:80]}.{name[:80]}"
            raise _DamagedError(f"refers to {shown!r}, which is code and no plain data")
        self.stack.append(found)

    def reduce(self) -> None:
        arguments = self.stack.pop()
        made = self.stack.pop()
        if type(made) is not _Global or type(arguments) is not tuple:
            raise _DamagedError("a call of something that is no function")
        self.put_made(made.make(self, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack.pop()
        if type(target) is not _Unfinished or target.value is not None or type(state) is not tuple:
            raise _DamagedError("state for something that takes none")
        target.value = target.build(self, state)
        self.put_made(target.value)

    def put_made(self, value: Any) -> None:
        # an array of objects has the level of the list that its items came in
        if type(value) is np.ndarray and value.dtype.hasobject:
            self.put_container(value, self.level_above(value.ravel().tolist()))
        else:
            self.levels.pop(id(value), None)
            self.stack.append(value)

    def copying(self, count: int) -> None:
        self.copied += count
        if self.copied > 2 * len(self.data) + 1024:
            raise _DamagedError("values that multiply")


# ---- the names that plain data refers to


def _reconstruct(reader: _Reader, arguments: tuple[Any, ...]) -> _Unfinished:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY or not _is_shape(arguments[1]):
        raise _DamagedError("an array of a foreign class")
    return _Unfinished(_build_array)


def _build_array(reader: _Reader, state: Any) -> np.ndarray:
    # (version, shape, type, is Fortran order, bytes or list of objects); oldest files lack the version
    if len(state) != 5 or type(state[0]) is not int:
        raise _DamagedError("an array in a form of its own")
    _, shape, dtype, is_fortran, content = state
    if not isinstance(dtype, np.dtype) or not _is_shape(shape):
        raise _DamagedError("an array of no type or shape")
    if dtype.hasobject:
        if type(content) is not list or math.prod(shape) != len(content):
            raise _DamagedError("an array whose shape does not fit its content")
        reader.copying(len(content))
        return _object_array(content, shape)
    return _checked_array(dtype, shape, _raw(reader, content), bool(is_fortran))


def _object_array(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    found = np.empty(len(items), dtype=object)
    for place, item in enumerate(items):  # one by one: assigned at once, NumPy would look into lists
        found[place] = item
    return found.reshape(shape)


def _frombuffer(reader: _Reader, arguments: tuple[Any, ...]) -> np.ndarray:
    if len(arguments) != 4:
        raise _DamagedError("an array in a form of its own")
    content, dtype, shape, order = arguments
    if not isinstance(dtype, np.dtype) or not _is_shape(shape) or dtype.hasobject or type(order) is not str:
        raise _DamagedError("an array of no type or shape")
    return _checked_array(dtype, shape, _raw(reader, content), order == "F")


def _scalar(reader: _Reader, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 2:
        raise _DamagedError("a number in a form of its own")
    dtype, content = arguments
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _DamagedError("a number of no type")
    found = _checked_array(dtype, (1,), _raw(reader, content), False)
    if dtype.kind in "SU":  # a view of bytes becomes text of its own
        reader.copying(dtype.itemsize)
    return found[0]


def _checked_array(dtype: np.dtype[Any], shape: tuple[int, ...], content: bytes, is_fortran: bool) -> np.ndarray:
    found = _plain_array(dtype, shape, content, is_fortran)
    if found is None:
        raise _DamagedError("an array whose shape does not fit its content")
    return found


def _is_shape(shape: Any) -> bool:
    if type(shape) is not tuple or len(shape) > _MOST_DIMENSIONS:
        return False
    return all(type(length) is int and 0 <= length < 1 << 63 for length in shape)


def _raw(reader: _Reader, content: Any) -> bytes:
    if type(content) is str:  # Python 2
        reader.copying(len(content))
        return content.encode("latin-1")
    if type(content) is not bytes:
        raise _DamagedError("an array without content")
    return content


def _make_dtype(reader: _Reader, arguments: tuple[Any, ...]) -> _Unfinished:
    dtype = _dtype_of(arguments[0]) if arguments and type(arguments[0]) is str else None
    if dtype is None:
        shown = arguments[0][:40] if arguments and type(arguments[0]) is str else ""
        raise _DamagedError(f"values of type '{shown}', which are not read")

    def build(reader: _Reader, state: Any) -> np.dtype[Any]:
        # (version, byte order, subtype, names, fields, size, alignment, flags)
        plain = len(state) == 8 and type(state[1]) is str and state[1] in ("<", ">", "|", "=")
        if not plain or any(part is not None for part in state[2:5]):
            raise _DamagedError("values with fields, which are not read")
        return dtype.newbyteorder(state[1])

    return _Unfinished(build)


def _encode(reader: _Reader, arguments: tuple[Any, ...]) -> bytes:
    # how protocol 2 writes bytes
    if len(arguments) != 2 or type(arguments[0]) is not str or type(arguments[1]) is not str:
        raise _DamagedError("bytes in a form of their own")
    if arguments[1] not in ("latin1", "latin-1"):
        raise _DamagedError("bytes in an encoding that pickles do not use")
    return _raw(reader, arguments[0])


def _make_bytes(reader: _Reader, arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise _DamagedError("bytes in a form of their own")
    return b""


def _make_complex(reader: _Reader, arguments: tuple[Any, ...]) -> complex:
    if len(arguments) != 2 or not all(type(part) is float for part in arguments):
        raise _DamagedError("no complex number")
    return complex(*arguments)


def _not_called(reader: _Reader, arguments: tuple[Any, ...]) -> Any:
    raise _DamagedError("an array in a form of its own")


_NDARRAY = _Global(_not_called)

_GLOBALS: dict[tuple[str, str], _Global] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Global(_make_dtype),
    ("_codecs", "encode"): _Global(_encode),
    ("builtins", "complex"): (_complex := _Global(_make_complex)),
    ("__builtin__", "complex"): _complex,
    ("builtins", "bytes"): (_bytes := _Global(_make_bytes)),
    ("__builtin__", "bytes"): _bytes,
}
for _package in ("numpy.core", "numpy._core"):
    _GLOBALS[f"{_package}.multiarray", "_reconstruct"] = _Global(_reconstruct)
    _GLOBALS[f"{_package}.multiarray", "scalar"] = _Global(_scalar)
    _GLOBALS[f"{_package}.numeric", "_frombuffer"] = _Global(_frombuffer)


# ---- instructions


def _proto(reader: _Reader) -> None:
    if reader.take(1)[0] > 5:
        raise _DamagedError("a protocol beyond 5")


def _mark(reader: _Reader) -> None:
    reader.below.append(reader.stack)
    reader.stack = []


def _int_line(reader: _Reader) -> None:
    number = reader.data[reader.at : reader.at + 3]
    if number in (b"00\n", b"01\n"):  # protocol 0 writes False and True so
        reader.at += 3
        reader.stack.append(number == b"01\n")
    else:
        reader.stack.append(reader.number())


_FLOAT = struct.Struct(">d")


def _float_line(reader: _Reader) -> None:
    text = reader.line()
    if len(text) > 64:
        raise _DamagedError("no number")
    reader.stack.append(float(text))


def _float(reader: _Reader) -> None:
    reader.stack += _FLOAT.unpack_from(reader.data, reader.at)
    reader.at += 8


def _long(width: int) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        size = int.from_bytes(reader.take(width), "little")
        if size > 16:
            raise _DamagedError("a number beyond 128 bits")
        reader.stack.append(int.from_bytes(reader.take(size), "little", signed=True))

    return read


_ESCAPES = re.compile(rb"(?:[^\\\n]|\\(?:x[0-9a-fA-F]{2}|[\\'\"nrtabfv]))*")


def _string_line(reader: _Reader) -> None:
    # what Python 2's repr wrote
    text = reader.line()
    inner, quotes = text[1:-1], (text[:1], text[-1:])
    if quotes not in ((b"'", b"'"), (b'"', b'"')) or not _ESCAPES.fullmatch(inner):
        raise _DamagedError("no string")
    reader.stack.append(codecs.escape_decode(inner)[0].decode("latin-1"))


def _text(width: int) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        reader.stack.append(reader.take_counted(width).decode("utf-8", "surrogatepass"))

    return read


def _old_text(width: int) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        reader.stack.append(reader.take_counted(width).decode("latin-1"))

    return read


def _bytes_of(width: int) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        reader.stack.append(reader.take_counted(width))

    return read


def _whole(width: int, signed: bool = False) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        reader.stack.append(int.from_bytes(reader.take(width), "little", signed=signed))

    return read


def _constant(value: Any) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(value)


def _tuple_of(count: int) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        if len(reader.stack) < count:
            raise _DamagedError("too few values")
        items = tuple(reader.stack[-count:])
        del reader.stack[-count:]
        reader.put_container(items, reader.level_above(items, takes_special=True))

    return read


def _marked_tuple(reader: _Reader) -> None:
    items = tuple(reader.marked())
    reader.put_container(items, reader.level_above(items, takes_special=True))


def _marked_list(reader: _Reader) -> None:
    items = reader.marked()
    reader.put_container([], 1)
    reader.extend(items)


def _marked_dict(reader: _Reader) -> None:
    items = reader.marked()
    reader.put_container({}, 1)
    reader.update(items)


def _appends(reader: _Reader) -> None:
    reader.extend(reader.marked())


def _append(reader: _Reader) -> None:
    reader.extend([reader.stack.pop()])


def _set_items(reader: _Reader) -> None:
    reader.update(reader.marked())


def _set_item(reader: _Reader) -> None:
    value = reader.stack.pop()
    reader.update([reader.stack.pop(), value])


def _memoize(reader: _Reader) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _global_lines(reader: _Reader) -> None:
    reader.refer(reader.line().decode("utf-8"), reader.line().decode("utf-8"))


def _stack_global(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise _DamagedError("a name that is no text")
    reader.refer(module, name)


def _instance(reader: _Reader) -> None:
    name = b".".join([reader.line()[:80], reader.line()[:80]]).decode("latin-1")
    raise _DamagedError(f"makes an object of {name!r}, which is code and no plain data")


def _frame(reader: _Reader) -> None:
    reader.take(8)  # how far one may read ahead


def _refused(name: str) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        raise _DamagedError(f"the instruction {name}, which plain data does not need")

    return read


_NAMED: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _proto,
    b"\x95": _frame,
    b"(": _mark,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _int_line,
    b"L": lambda reader: reader.stack.append(reader.number()),
    b"J": _whole(4, signed=True),
    b"K": _whole(1),
    b"M": _whole(2),
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"F": _float_line,
    b"G": _float,
    b"S": _string_line,
    b"T": _old_text(4),
    b"U": _old_text(1),
    b"V": lambda reader: reader.stack.append(str(reader.line(), "raw-unicode-escape")),
    b"X": _text(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"B": _bytes_of(4),
    b"C": _bytes_of(1),
    b"\x8e": _bytes_of(8),
    b"\x96": _bytes_of(8),  # BYTEARRAY8
    b"]": lambda reader: reader.put_container([], 1),
    b"l": _marked_list,
    b"a": _append,
    b"e": _appends,
    b"}": lambda reader: reader.put_container({}, 1),
    b"d": _marked_dict,
    b"s": _set_item,
    b"u": _set_items,
    b")": _constant(()),
    b"t": _marked_tuple,
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"c": _global_lines,
    b"\x93": _stack_global,
    b"R": lambda reader: reader.reduce(),
    b"b": lambda reader: reader.build(),
    b"p": lambda reader: reader.remember(reader.number()),
    b"q": lambda reader: reader.remember(reader.take(1)[0]),
    b"r": lambda reader: reader.remember(int.from_bytes(reader.take(4), "little")),
    b"\x94": _memoize,
    b"g": lambda reader: reader.recall(reader.number()),
    b"h": lambda reader: reader.recall(reader.take(1)[0]),
    b"j": lambda reader: reader.recall(int.from_bytes(reader.take(4), "little")),
    b"i": _instance,
    b"o": _refused("OBJ"),
    b"\x81": _refused("NEWOBJ"),
    b"\x92": _refused("NEWOBJ_EX"),
    b"\x82": _refused("EXT1"),
    b"\x83": _refused("EXT2"),
    b"\x84": _refused("EXT4"),
    b"P": _refused("PERSID"),
    b"Q": _refused("BINPERSID"),
    b"\x8f": _refused("EMPTY_SET"),
    b"\x90": _refused("ADDITEMS"),
    b"\x91": _refused("FROZENSET"),
    b"\x97": _refused("NEXT_BUFFER"),
}
_INSTRUCTIONS = tuple(_NAMED.get(bytes([code]), _refused(f"0x{code:02x}")) for code in range(256))
