"""NumPy's files read as data: equal to what NumPy reads, and nothing that a file says is ever carried out."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mumdata import plain_pickle
from mumdata.errors import MumError
from mumdata.plain_pickle import Members, load, loads

PROTOCOLS = range(6)


@contextlib.contextmanager
def memory(most: int) -> Iterator[None]:
    """Fail where what is inside takes more than `most` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def same(a: Any, b: Any) -> bool:
    """Equality of type, shape and content; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        # NumPy turns pickled arrays, but not those of files, into the machine's byte order
        if a.dtype.newbyteorder("=") != b.dtype.newbyteorder("=") or a.shape != b.shape:
            return False
        if a.dtype.hasobject:
            return same(a.ravel().tolist(), b.ravel().tolist())
        return a.astype(b.dtype).tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b) or (a != a and b != b)


def objects(*items: Any) -> np.ndarray:
    found = np.empty(len(items), object)
    for place, item in enumerate(items):
        found[place] = item
    return found


VALUES: list[Any] = [
    None, True, False, 0, 255, 256, 65536, -5, 2**31, 2**40, -(2**90), 1.5, -0.0, float("nan"), float("inf"), 1j,
    "", "a\xe9\u4e2d\U0001f600", "line\nbreak\\ \u2028", "\udcff", b"", b"\x00\xff'\"\\n\n", bytearray(b"ab"),
    (), (1,), (1, (2, (3,))), (1, 2, 3, 4), [], [1, [2, {}]], {"a": 1, 5: [None], b"k": (), None: 0, 1.5: 2},
    np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.arange(24).reshape(2, 3, 4).T,
    np.zeros((0, 3)), np.zeros(0), np.array(5), np.array(["a", "bcd"]), np.array([b"x"]), np.array([True]),
    np.arange(5, dtype=">i2"), np.array([2**31], "<u4"), np.array([1 + 2j], "c8"), np.ones(3, "f2"), np.array(""),
    objects(1, None, [2]), objects(), objects(np.zeros(2), None, objects("in", {})).reshape(3, 1),
    np.asfortranarray(objects(1, "x", None, ()).reshape(2, 2)), np.array({"a": np.arange(3)}, object),
    np.float64(3), np.float32(np.nan), np.str_("hi"), np.bytes_(b"b"), np.bool_(True), np.int64(-1), [np.int64(1)] * 5,
]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_come_back_as_from_pickle(protocol: int) -> None:
    shared = [1, 2]
    for value in [*VALUES, VALUES, [shared, shared, {"again": shared}]]:
        data = pickle.dumps(value, protocol)
        expected = pickle.loads(data)  # noqa: S301 - made here
        if isinstance(value, bytearray):
            if protocol == 5:
                assert loads(data) == bytes(value)
            continue
        if value is VALUES:
            value = [one for one in VALUES if not isinstance(one, bytearray)]
            data, expected = pickle.dumps(value, protocol), value
        assert same(loads(data), expected), value


def test_shared_objects_stay_shared() -> None:
    inner = [1]
    found = loads(pickle.dumps([inner, inner, (inner,)]))
    assert found[0] is found[1] is found[2][0]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(0, 99), inner),
    max_leaves=20,
)
ARRAYS = arrays.arrays(
    st.sampled_from(["<f8", ">f4", "<i4", "|b1", "<U3", "|S2", "<c16", "|u1"]).map(np.dtype),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(PLAIN | ARRAYS), st.sampled_from(PROTOCOLS))
def test_any_plain_value_comes_back(value: list[Any], protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert same(loads(data), pickle.loads(data))  # noqa: S301 - made here


# what Python 2.7 with NumPy 1.16 writes for {'a': np.array([1., 2.]), 'n': [np.float32(1)], 'u': u'\xe9', 's': '\xff'}
PYTHON_2 = {
    0: b"""(dp0
S'a'
p1
cnumpy.core.multiarray
_reconstruct
p2
(cnumpy
ndarray
p3
(I0
tp4
S'b'
p5
tp6
Rp7
(I1
(L2L
tp8
cnumpy
dtype
p9
(S'f8'
p10
I0
I1
tp11
Rp12
(I3
S'<'
p13
NNNI-1
I-1
I0
tp14
bI00
S'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00@'
p15
tp16
bsS'n'
p17
(lp18
cnumpy.core.multiarray
scalar
p19
(g9
(S'f4'
p20
I0
I1
tp21
Rp22
(I3
S'<'
p23
NNNI-1
I-1
I0
tp24
bS'\\x00\\x00\\x80?'
p25
tp26
Rp27
asS'u'
p28
V\\u00e9
p29
sS's'
p30
S'\\xff'
p31
s.""",
    2: b"\x80\x02}q\x00(U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04U\x01"
    b"bq\x05\x87q\x06Rq\x07(K\x01\x8a\x01\x02\x85q\x08cnumpy\ndtype\nq\x09U\x02f8q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<"
    b"q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x00@"
    b"q\x0ftq\x10bU\x01nq\x11]q\x12cnumpy.core.multiarray\nscalar\nq\x13h\x09U\x02f4q\x14K\x00K\x01\x87q\x15Rq\x16(K\x03U"
    b"\x01<q\x17NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x18bU\x04\x00\x00\x80?q\x19\x86q\x1aRq\x1baU\x01uq\x1cX\x02"
    b"\x00\x00\x00\xc3\xa9q\x1dU\x01sq\x1eU\x01\xffq\x1fu.",
}


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_files_of_python_2_give_latin_1_text(protocol: int) -> None:
    expected = {"a": np.array([1.0, 2.0]), "n": [np.float32(1)], "u": "\xe9", "s": "\xff"}
    assert same(loads(PYTHON_2[protocol]), expected)
    assert same(pickle.loads(PYTHON_2[protocol], encoding="latin1"), expected)  # noqa: S301 - made here


# ---- files


def write_npz(path: Path, compressed: bool = False, **values: Any) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **values)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_is_a_mapping_of_what_numpy_reads(tmp_path: Path, compressed: bool) -> None:
    values = {f"v{place}": np.asarray(one) for place, one in enumerate(VALUES) if isinstance(one, (np.ndarray, float))}
    path = write_npz(tmp_path / "a.npz", compressed, **values)
    found = load(path)
    assert isinstance(found, Members)
    assert list(found) == list(values)
    assert len(found) == len(values)
    assert all(same(found[name], values[name]) for name in values)
    with pytest.raises(KeyError):
        found["other"]


def test_an_npy_and_a_bare_pickle_are_told_apart(tmp_path: Path) -> None:
    value = {"pairs": np.arange(6).reshape(3, 2), "overlaps": np.ones(3)}
    np.save(tmp_path / "a.npy", np.array(value, object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(value))
    np.save(tmp_path / "c.npy", value["pairs"])
    assert same(load(tmp_path / "a.npy").item(), value)
    assert same(load(tmp_path / "b.npz"), value)
    assert same(load(tmp_path / "c.npy"), value["pairs"])


def test_members_nobody_asks_for_are_not_read(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", good=np.arange(3), bad=objects(os.system))
    assert load(path)["good"].tolist() == [0, 1, 2]
    assert "bad" in load(path)
    assert "other" not in load(path)
    with pytest.raises(MumError, match=r"a\.npz, bad.*system"):
        load(path)["bad"]


def header(text: str, version: int = 1) -> bytes:
    width = "<H" if version == 1 else "<I"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, len(text)) + text.encode("latin-1")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }   \n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3L,), }\n",
        '{"shape": (3,), "fortran_order": False, "descr": "<f8"}\n',
    ],
)
def test_headers_that_others_write_are_read(tmp_path: Path, text: str, version: int) -> None:
    (tmp_path / "a.npy").write_bytes(header(text, version) + np.arange(3.0).tobytes())
    assert load(tmp_path / "a.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }", b"12345678"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", bytes(23)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", bytes(25)),
        ("{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,), }", b""),
        ("{'descr': '<U99999999', 'fortran_order': False, 'shape': (9,), }", b"abcd"),
        ("{'descr': '<U999999999', 'fortran_order': False, 'shape': (9,), }", b"abcd"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4, 0), }", b""),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 99 + "), }", bytes(8)),
        ("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        ("{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        ("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'x': True}", bytes(8)),
        ("{'descr': '<f8', 'fortran_order': 'shape', 'shape': True}", bytes(8)),
        ("{'descr': True, 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        ("{'descr': '<f8', 'shape': (1,)}", bytes(8)),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)} + [0]", bytes(8)),
        ("[__import__('os')]", bytes(8)),
        ("   ", bytes(8)),
        ("", bytes(8)),
        ("{" * 9000, bytes(8)),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", pickle.dumps(np.array([None], object))),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([None])),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b""),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, text: str, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(header(text) + content)
    with pytest.raises(MumError, match=r"a\.npy"):
        load(path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(path, "a.npy")
    with pytest.raises(MumError, match=r"a\.npz, a"):
        load(tmp_path / "a.npz")["a"]


def test_headers_longer_than_the_file_and_unknown_versions_are_refused(tmp_path: Path) -> None:
    for data in (b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", header("{}", 3)):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(MumError):
            load(tmp_path / "a.npy")


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe", Path("a\0b")):
        with pytest.raises(MumError):
            load(path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(MumError, match="empty"):
        load(tmp_path / "empty")


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new)


def test_members_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    for compressed in (False, True):
        path = write_npz(tmp_path / f"{compressed}.npz", compressed, a=np.arange(1000))
        size = struct.pack("<L", zipfile.ZipFile(path).getinfo("a.npy").file_size)
        for claim in (1 << 30, (1 << 32) - 2, 8129):
            lie = tmp_path / "lie.npz"
            lie.write_bytes(patched(path.read_bytes(), size, struct.pack("<L", claim)))
            told = r"lie\.npz, a: claims" if claim == 1 << 30 else r"lie\.npz"
            with memory(2_000_000), pytest.raises(MumError, match=told):
                load(lie)["a"]


def test_large_files_and_members_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_pickle, "_MOST_BYTES", 100_000)
    path = write_npz(tmp_path / "bomb.npz", True, a=np.zeros(1_000_000))
    assert path.stat().st_size < 20_000
    np.save(tmp_path / "big.npy", np.zeros(100_000))
    with memory(200_000):
        with pytest.raises(MumError, match="more than the 100,000"):
            load(path)["a"]
        with pytest.raises(MumError, match="more than the 100,000"):
            load(tmp_path / "big.npy")


def test_other_compressions_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.save(data, np.arange(3))
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
            archive.writestr("a.npy", data.getvalue())
        with pytest.raises(MumError, match="compressed in a way"):
            load(tmp_path / "a.npz")["a"]
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", data.getvalue())
    raw = bytearray((tmp_path / "b.npz").read_bytes())
    for place in (6, raw.index(b"PK\1\2") + 8):
        raw[place] |= 1
    (tmp_path / "b.npz").write_bytes(raw)
    with pytest.raises(MumError, match=r"b\.npz, a"):
        load(tmp_path / "b.npz")["a"]


# ---- hostile pickles

SENTINEL = "sentinel"


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, (SENTINEL,)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


COMMAND = text(SENTINEL)
HOSTILE = {
    "reduce": pickle.dumps(Runs()),
    "reduce, protocol 0": pickle.dumps(Runs(), 0),
    "in an object array": pickle.dumps(objects(1, Runs())),
    "global": b"cposix\nmkdir\n(" + COMMAND + b"tR.",
    "global alone": b"cposix\nmkdir\n.",
    "stack global": b"\x80\x04" + text("os") + text("mkdir") + b"\x93" + COMMAND + b"\x85R.",
    "dotted": b"\x80\x04" + text("numpy") + text("ndarray.tofile") + b"\x93)R.",
    "getattr": b"cbuiltins\ngetattr\n(cos\nmkdir\ntR.",
    "eval": b"cbuiltins\neval\n(" + COMMAND + b"tR.",
    "inst": b"(" + COMMAND + b"iposix\nmkdir\n.",
    "obj": b"(cposix\nmkdir\n" + COMMAND + b"o.",
    "obj of a known name": b"(cnumpy\nndarray\nK\x01o.",
    "newobj": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
    "newobj_ex": b"\x80\x04cnumpy\nndarray\n)}\x92.",
    "ext": b"\x80\x02\x82\x01.",
    "persid": b"Psomething\n.",
    "binpersid": b"K\x01Q.",
    "build on a name": b"cnumpy\nndarray\n}b.",
    "build on a list": b"]}b.",
    "numpy's own loader": b"cnumpy\nload\n(" + COMMAND + b"tR.",
    "exec of numpy": b"cnumpy.testing._private.utils\nrunstring\n(" + COMMAND + b"}tR.",
    "memmap": b"cnumpy\nmemmap\n(" + COMMAND + b"tR.",
    "another class of array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmemmap\n(K\x00tC\x01btR.",
    "a name as value": b"cnumpy\ndtype\n.",
    "a name in a list": b"(cnumpy\ndtype\nl.",
    "a name in a tuple": b"cnumpy\ndtype\n\x85.",
    "a name in a tuple in a list": b"(cnumpy\ndtype\n\x85l.",
    "a name in a dict": b"(K\x01cnumpy\ndtype\nd.",
    "an unfinished array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR.",
    "values left over": b"K\x01K\x02.",
    "no value": b".",
    "dup": b"]2\x86.",
    "pop": b"K\x01K\x020.",
    "frozenset": b"(K\x01\x91.",
    "out of band": b"\x80\x05\x97.",
    "protocol": b"\x80\x06N.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_carried_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MumError, match="is not read") as caught:
        loads(HOSTILE[name], "file.npy")
    assert str(caught.value).startswith("file.npy: ")
    assert "\n" not in str(caught.value)
    (tmp_path / "a.npy").write_bytes(header("{'descr': '|O', 'fortran_order': False, 'shape': (), }") + HOSTILE[name])
    with pytest.raises(MumError):
        load(tmp_path / "a.npy")
    assert not (tmp_path / SENTINEL).exists()


def test_the_hostile_pickles_do_run_where_they_are_let(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("reduce", "reduce, protocol 0", "in an object array", "global", "stack global", "inst", "obj"):
        pickle.loads(HOSTILE[name])  # noqa: S301 - the point of the test
        (tmp_path / SENTINEL).rmdir()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"cos\nsystem\n.", "'os.system'"),
        (b"\x80\x04" + text("a\x1b[31m\nb") + text("c") + b"\x93.", r"'a\x1b[31m\nb.c'"),
        (b"(iposix\nsystem\n.", "'posix.system'"),
        (pickle.dumps(np.zeros(1, "M8[s]")), "'M8'"),
        (pickle.dumps({1, 2}), "EMPTY_SET"),
        (pickle.dumps({1, 2}, 2), "set'"),
    ],
)
def test_the_error_names_what_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(MumError) as caught:
        loads(data)
    assert told in str(caught.value)


def array_pickle(shape: bytes, dtype: bytes, rest: bytes, state: bytes = b"") -> bytes:
    """A pickle of one array with any shape, type and content."""
    state = state or b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01"
    return start + shape + b"cnumpy\ndtype\n(" + dtype + b"\x89\x88tR" + state + b"b" + rest + b"tb."


F8, OBJECT, EIGHT = text("f8"), text("O8"), b"\x89C\x08" + bytes(8)


def test_the_pickles_below_are_arrays_but_for_what_is_wrong() -> None:
    assert loads(array_pickle(b"K\x02\x85", F8, b"\x89C\x10" + bytes(16))).tolist() == [0, 0]
    assert loads(array_pickle(b"K\x02\x85", OBJECT, b"\x89(K\x07Nl")).tolist() == [7, None]


@pytest.mark.parametrize(
    "data",
    [
        array_pickle(b"K\x03\x85", F8, b"\x89C\x10" + bytes(16)),  # fewer bytes than the shape needs
        array_pickle(b"K\x01\x85", F8, b"\x89C\x10" + bytes(16)),
        array_pickle(b"J\xff\xff\xff\xff\x85", F8, b"\x89C\x10" + bytes(16)),
        array_pickle(b"\x8a\x09" + bytes(8) + b"\x01\x85", F8, b"\x89C\x10" + bytes(16)),
        array_pickle(b"(\x8a\x08" + bytes(7) + b"\x40\x8a\x01\x04K\x00t", F8, b"\x89C\x00"),
        array_pickle(b"(" + b"K\x01" * 65 + b"t", F8, b"\x89C\x08" + bytes(8)),
        array_pickle(b"K\x02\x85", F8, b"\x89(K\x01K\x02l"),  # a list where bytes should be
        array_pickle(b"K\x02\x85", OBJECT, b"\x89C\x10" + b"\x41" * 16),  # bytes that would become pointers
        array_pickle(b"K\x03\x85", OBJECT, b"\x89(K\x07Nl"),
        array_pickle(b"K\x02\x85", OBJECT, b"\x89N"),
        array_pickle(b"K\x02\x85", text("U0"), b"\x89C\x00"),
        array_pickle(b"K\x01\x85", text("V8"), b"\x89C\x08" + bytes(8)),
        array_pickle(b"K\x01\x85", text("f8,f8"), b"\x89C\x10" + bytes(16)),
        array_pickle(b"K\x01\x85", text("os"), b"\x89C\x08" + bytes(8)),
        # an object type given to plain bytes by the state of the type
        array_pickle(b"K\x01\x85", F8, EIGHT, b"(K\x03" + text("|") + b"N(" + text("a") + b"t}K\x08K\x01K\x3ft"),
        array_pickle(b"K\x01\x85", F8, b"\x89C\x08" + bytes(8), b"(K\x03" + text("?") + b"NNNK\x00K\x00K\x00t"),
        array_pickle(b"K\x01\x85", F8, EIGHT, b"(K\x04" + text("<") + b"NNNK\x00K\x00K\x00}t"),
        array_pickle(b"K\x01\x85", F8, EIGHT).replace(b"cnumpy\nndarray\n", b"K\x01"),
        array_pickle(b"N", F8, b"\x89C\x08" + bytes(8)),
        array_pickle(b"]", F8, b"\x89C\x08" + bytes(8)),
    ],
)  # fmt: skip
def test_arrays_whose_state_lies_are_refused(data: bytes) -> None:
    with pytest.raises(MumError):
        loads(data)


def test_values_that_hold_themselves_are_refused() -> None:
    looped: list[Any] = []
    looped.append(looped)
    keyed: dict[str, Any] = {}
    keyed["me"] = [keyed]
    array = np.empty(1, object)
    array[0] = array
    pair: tuple[Any, ...] = ([],)
    pair[0].append(pair)
    for value in (looped, keyed, array, pair):
        for protocol in PROTOCOLS:
            with pytest.raises(MumError):
                loads(pickle.dumps(value, protocol))
    with pytest.raises(MumError):  # changed after it was put into another
        loads(b"]q\x00(h\x00l0h\x00K\x01a.")
    with pytest.raises(MumError):
        loads(b"(]q\x00\x85h\x00K\x01al.")


def test_deep_nesting_is_an_error_and_moderate_nesting_is_not() -> None:
    for wrap in (b"\x85", b"l", b"t"):
        deep = b"N" + wrap * 100_000 if wrap == b"\x85" else b"(" * 100_000 + wrap * 100_000
        with pytest.raises(MumError, match="containers in one another"):
            loads(deep + b".")
    nested: Any = None
    for _ in range(60):
        nested = [nested]
    assert same(loads(pickle.dumps(nested)), nested)
    inner: Any = None
    for _ in range(80):
        inner = objects(inner)
    with pytest.raises(MumError, match="containers in one another"):
        loads(pickle.dumps(inner))


def claims() -> list[bytes]:
    huge = struct.pack("<Q", 1 << 50)
    far = struct.pack("<I", (1 << 32) - 1)
    return [
        b"\x8e" + huge + b"a.", b"\x96" + huge + b"a.", b"\x8d" + huge + b"a.", b"\x8e" + b"\xff" * 8 + b"a.",
        b"B" + far + b"a.", b"X" + far + b"a.", b"T" + far + b"a.", b"\x8b" + struct.pack("<I", 1 << 30) + b"a.",
        b"\x80\x04\x95" + huge + b"N", b"L" + b"9" * 5000 + b"\n.", b"I" + b"9" * 5000 + b"\n.",
        b"\x8a\xff" + bytes(255) + b".",
        b"Np" + b"9" * 30 + b"\n.", b"g99\n.", b"j" + far + b".", b"h\x07.", b"F" + b"1" * 400 + b"\n.",
    ]  # fmt: skip


@pytest.mark.parametrize("data", claims())
def test_claims_of_huge_sizes_allocate_nothing(data: bytes) -> None:
    with memory(200_000), pytest.raises(MumError):
        loads(data)


def test_far_places_in_memory_cost_nothing() -> None:
    with memory(100_000):
        assert loads(b"K\x05r\xff\xff\xff\xff.") == 5


def test_values_do_not_multiply() -> None:
    # each level doubles what the value would be as a tree; as objects it stays small
    pairs = (b"h" + bytes([n, ord("h"), n]) + b"\x86q" + bytes([n + 1]) for n in range(50))
    with memory(200_000):
        assert len(loads(b"()q\x00" + b"".join(pairs) + b"l.")) == 51
    # one text copied by each of many short instructions
    big = text("x" * 50_000)
    encoded = b"\x80\x02c_codecs\nencode\nq\x00" + big + b"q\x01" + text("latin1") + b"q\x02"
    again = b"h\x00h\x01h\x02\x86R"
    with memory(5_000_000), pytest.raises(MumError, match="multiply"):
        loads(b"(" + encoded + again * 1000 + b"l.")


def test_keys_cannot_be_chosen_to_collide() -> None:
    prime = (1 << 61) - 1
    far = [(sign * (prime << 8)).to_bytes(10, "little", signed=True) for sign in (1, -1)]
    for key in (b"\x8a\x0a" + far[0], b"\x8a\x0a" + far[1], b"K\x01\x85", b"]", b"cnumpy\nndarray\n"):
        with pytest.raises(MumError):
            loads(b"}" + key + b"Ns.")
    assert loads(b"}\x8a\x08" + (2**62).to_bytes(8, "little") + b"Ns.") == {2**62: None}


def test_too_many_instructions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "_MOST_VALUES", 1000)
    with pytest.raises(MumError, match="more than 1,000"):
        loads(b"]" * 2000)


# ---- damage


def sample(folder: Path) -> list[bytes]:
    """Files of the kinds that are read, small."""
    value = {
        "image_paths": objects("a/b.jpg", None, "c d.jpg"),
        "poses": objects(np.eye(4), None, np.eye(4)),
        "pairs": np.array([[0, 2]]),
        "overlaps": np.array([0.5]),
        "n": [1, 2.5, (True, b"x", np.float32(1))],
    }
    found = [pickle.dumps(value, protocol) for protocol in PROTOCOLS] + list(PYTHON_2.values())
    for place in range(2):
        write_npz(folder / "f.npz", bool(place), **{name: one for name, one in value.items() if name != "n"})
        found.append((folder / "f.npz").read_bytes())
    np.save(folder / "f.npy", np.array(value, object))
    return [*found, (folder / "f.npy").read_bytes()]


def mutated(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 5, 20])):
        place = source.randrange(len(changed))
        match source.randrange(5):
            case 0:
                changed[place] = source.randrange(256)
            case 1:
                changed[place] ^= 1 << source.randrange(8)
            case 2:
                del changed[place : place + source.choice([1, 4, 50])]
            case 3:
                changed[place:place] = changed[source.randrange(len(changed)) :][: source.choice([1, 8, 60])]
            case _:
                changed[place : place + 4] = source.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
        if not changed:
            return b""
    return bytes(changed)


def read_all(path: Path) -> Any:
    found = load(path)
    return dict(found) if isinstance(found, Members) else found


def survive(folder: Path, num: int, seed: int) -> int:
    """Read mutated files: each gives a value or a MumError, in little memory; return how many gave a value."""
    samples = sample(folder)
    source = random.Random(seed)
    path, good = folder / "mutant", 0
    tracemalloc.start()
    for number in range(num):
        path.write_bytes(mutated(samples[number % len(samples)], source))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(MumError):
            read_all(path)
            good += 1
        assert tracemalloc.get_traced_memory()[1] - before < 3_000_000
    tracemalloc.stop()
    return good


def test_damaged_files_give_an_error_or_a_value(tmp_path: Path) -> None:
    assert 0 < survive(tmp_path, 600, seed=1) < 600


@pytest.mark.slow
def test_thousands_of_damaged_files_give_an_error_or_a_value(tmp_path: Path) -> None:
    assert 0 < survive(tmp_path, 20_000, seed=2) < 20_000


def test_files_that_are_cut_anywhere_are_errors(tmp_path: Path) -> None:
    for data in sample(tmp_path):
        for end in range(0, len(data), max(1, len(data) // 40)):
            (tmp_path / "cut").write_bytes(data[:end])
            with pytest.raises(MumError):
                read_all(tmp_path / "cut")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_give_an_error_or_a_value(data: bytes) -> None:
    with contextlib.suppress(MumError):
        loads(data + b".")
