"""Triangle meshes in PLY files.

In: the bytes of a file, text or binary. Out: vertices and triangles. Counts are checked against the file's length
before anything is allocated, and triangles against the vertices.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass

import numpy as np

from mumdata.errors import LayoutError

__all__ = ["Mesh", "parse_ply"]

_MOST_HEADER = 1 << 16
_MOST_TEXT = 1 << 28  # bytes of a text file: its numbers take several times that
_KINDS = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_INDICES = ("vertex_indices", "vertex_index")
_END = re.compile(rb"\nend_header\r?\n")


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices float64 [n, 3], and triangles, uint32 [m, 3], as rows of vertices."""

    vertices: np.ndarray
    triangles: np.ndarray


@dataclass(frozen=True)
class _Element:
    """One kind of record; properties are (name, kind of the count or "", kind), in order."""

    name: str
    count: int
    properties: tuple[tuple[str, str, str], ...]


def parse_ply(data: bytes | mmap.mmap) -> Mesh:
    """Read the elements `vertex` and `face` of a PLY file; LayoutError where it is none, or has other faces.

    Faces must be triangles. Elements after them are not read; those before the vertices or between must be of a fixed
    size.
    """
    order, elements, at = _header(data)
    if not order:
        if len(data) > _MOST_TEXT:
            raise LayoutError(f"a text file of {len(data):,} bytes; convert it to binary PLY")
        return _from_text(data[at:].split(), elements)
    found: dict[str, np.ndarray] = {}
    for element in elements:
        kind = _record(element, order)
        size = element.count * kind.itemsize
        if size > len(data) - at:
            need = f"{element.count:,} records '{element.name}' need {size:,} bytes"
            raise LayoutError(f"it is cut off: {need}, {len(data) - at:,} are left")
        found[element.name] = np.frombuffer(data, kind, element.count, at)
        at += size
        if element.name == "face":
            break
    if not {"vertex", "face"} <= found.keys():
        raise LayoutError("it has no vertices and faces, in this order")
    faces, vertices = found["face"], found["vertex"]
    if (faces["count"] != 3).any():
        raise LayoutError("not all of its faces are triangles")
    return _mesh(np.stack([vertices[axis] for axis in "xyz"], axis=1), faces["indices"])


def _header(data: bytes | mmap.mmap) -> tuple[str, list[_Element], int]:
    # byte order ("" for text), elements, and where the header ends
    start = data[:_MOST_HEADER]
    end = _END.search(start)
    if not start.startswith(b"ply") or end is None:
        raise LayoutError("it does not begin as a PLY file does")
    order: str | None = None
    elements: list[_Element] = []
    for line in start[: end.start()].decode("latin-1").splitlines()[1:]:
        words = line.split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", str(form), "1.0"] if form in _ORDERS:
                order = _ORDERS[form]
            case ["element", str(name), str(count)] if re.fullmatch(r"[0-9]{1,12}", count):
                elements.append(_Element(name, int(count), ()))
            case ["property", str(kind), str(name)] if kind in _KINDS and elements:
                elements[-1] = _with(elements[-1], name, "", kind)
            case ["property", "list", str(count), str(kind), str(name)] if {count, kind} <= _KINDS.keys() and elements:
                elements[-1] = _with(elements[-1], name, _KINDS[count], kind)
            case _:
                raise LayoutError(f"the line {line[:80]!r} of its header is not understood")
    if order is None:
        raise LayoutError("its header names no format")
    names = [element.name for element in elements]
    if len(set(names)) != len(names):
        raise LayoutError("an element occurs twice")
    return order, elements, end.end()


def _with(element: _Element, name: str, count: str, kind: str) -> _Element:
    return _Element(element.name, element.count, (*element.properties, (name, count, _KINDS[kind])))


def _record(element: _Element, order: str) -> np.dtype:
    """Return the layout of an element's records, where lists of indices are taken to be of three."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    for name, count, kind in element.properties:
        if not count:
            fields.append((name, f"{order}{kind}"))
        elif element.name == "face" and name in _INDICES and kind[0] in "iu" and count[0] in "iu":
            fields += [("count", f"{order}{count}"), ("indices", f"{order}{kind}", (3,))]
        else:
            raise LayoutError(f"lists '{name}' of element '{element.name}' are not read")
    names = {field[0] for field in fields}
    wanted = {"vertex": {"x", "y", "z"}, "face": {"count", "indices"}}.get(element.name, set())
    if len(names) != len(fields) or not wanted <= names:
        raise LayoutError(f"element '{element.name}' has the properties {', '.join(field[0] for field in fields)}")
    return np.dtype(fields)


def _from_text(words: list[bytes], elements: list[_Element]) -> Mesh:
    found: dict[str, np.ndarray] = {}
    at = 0
    for element in elements:
        kind = _record(element, "")
        # a list of three indices is four numbers
        width = len(element.properties) + (3 if element.name == "face" else 0)
        if element.count * width > len(words) - at:
            raise LayoutError(f"{element.count:,} records '{element.name}' need more numbers than there are")
        try:
            table = np.array(words[at : at + element.count * width], np.float64).reshape(element.count, width)
        except ValueError as error:
            raise LayoutError(f"element '{element.name}' holds something else than numbers: {error}") from error
        at += element.count * width
        names = list(kind.names or ())
        if element.name == "vertex":
            found["vertex"] = table[:, [names.index(axis) for axis in "xyz"]]
        elif element.name == "face":
            first = names.index("count")
            if (table[:, first] != 3).any():
                raise LayoutError("not all of its faces are triangles")
            found["face"] = table[:, first + 1 : first + 4]
            break
    if not {"vertex", "face"} <= found.keys():
        raise LayoutError("it has no vertices and faces, in this order")
    return _mesh(found["vertex"], found["face"])


def _mesh(vertices: np.ndarray, triangles: np.ndarray) -> Mesh:
    vertices = vertices.astype(np.float64)
    if not len(vertices) or not len(triangles):
        raise LayoutError("it has no triangles")
    if not np.isfinite(vertices).all() or np.abs(vertices).max() > 1e9:
        raise LayoutError("a vertex lies nowhere")
    with np.errstate(invalid="ignore"):
        outside = ~((triangles >= 0) & (triangles < len(vertices)))
    if outside.any():
        raise LayoutError(f"a triangle names a vertex outside 0 .. {len(vertices) - 1}")
    return Mesh(vertices, triangles.astype(np.uint32))
