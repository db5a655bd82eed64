"""Lists of pairs of images that others chose: CroCo's crops, and plain text with two names a line.

In: a text file, and the paths of a catalog's frames. Out: the names, and for each stream the positions of its pairs.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mumdata.errors import ConfigError
from mumdata.headers import looks_like_image

__all__ = ["ListedPair", "ListedPairs", "listed_pairs", "read_pair_list", "resolve"]

_MAX_LINE_BYTES = 1 << 16
_MAX_HEADER_LINES = 16
_NUM_EXAMPLES = 3
_CROP = re.compile(r"\s*-?[0-9]{1,9}\s*(,\s*-?[0-9]{1,9}\s*){7}")


class ListedPair(NamedTuple):
    """Two names as the list has them, and the rotation in degrees where it tells one (CroCo's lists)."""

    first: str
    second: str
    rotation_deg: float | None = None


@dataclass(frozen=True)
class ListedPairs:
    """A list's pairs by stream, and how many could not be placed.

    `of_group` maps a group to int32 [m, 2]: positions in the group, in the list's order. Every pair of the list is
    either in there or counted as unmatched (a name that is no frame's, or several frames'), as crossing (its frames are
    in no stream together) or as twins (a frame and itself). `examples` are some of the unmatched names, `digest` is the
    sha256 of the file.
    """

    of_group: dict[int, np.ndarray]
    num_listed: int
    num_unmatched: int
    num_crossing: int
    num_twins: int
    examples: tuple[str, ...]
    digest: str


def read_pair_list(path: Path) -> Iterator[ListedPair]:
    """Yield the pairs of a list, line by line; ConfigError with the line's number where it is not one.

    Plain lists have two names of images at the beginning of each line; other columns are passed over. Columns are
    separated by tabs, else by commas, else by white space: the first of these by which the first two columns look like
    names of images, so that names may hold spaces, and commas too where tabs separate. CroCo's lists (naver/croco,
    crops_release.txt) have `name, name, rotation` followed by lines of eight whole numbers, left, right, top, bottom of
    a crop in either image; crops are checked and passed over. Empty lines and lines that begin with # mean nothing, nor
    do a few lines without a name of an image before the first pair. Names that are not UTF-8 are surrogate-escaped.
    """
    try:
        with open(path, "rb") as file:
            yield from _pairs(_lines(file, path), path)
    except OSError as error:
        raise ConfigError(f"the list of pairs {path} cannot be read: {error.strerror or error}") from None


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines that mean something."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES or b"\0" in line:
            raise ConfigError(f"{path}, line {number}: this is not text; a list of pairs has two names a line")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        text = line.decode("utf-8", "surrogateescape").strip(" \t\r\n")
        if text and not text.startswith("#"):
            yield number, text


def _pairs(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[ListedPair]:
    # a pair waits for the line behind it: a crop there says that its third column is a rotation
    waiting: ListedPair | None = None
    columns: list[str] = []
    skipped = 0
    for number, text in lines:
        if _is_crop(text):
            if waiting is None:
                raise ConfigError(f"{path}, line {number}: a crop before the first pair")
            if not _has_area(text):
                raise ConfigError(f"{path}, line {number}: the crops '{text[:80]}' are not left, right, top, bottom")
            if waiting.rotation_deg is None:
                waiting = waiting._replace(rotation_deg=_rotation(columns, f"{path}, before line {number}"))
            continue
        found = _columns(text)
        if found is None and waiting is None and skipped < _MAX_HEADER_LINES and not _names_an_image(text):
            skipped += 1
            continue
        if found is None:
            raise ConfigError(
                f"{path}, line {number}: '{text[:80]}' does not begin with two names of images, separated by a tab, a "
                "comma or a space"
            )
        if waiting is not None:
            yield waiting
        columns = found
        waiting = ListedPair(columns[0], columns[1])
    if waiting is None:
        raise ConfigError(f"{path} lists no pairs; it needs lines that begin with two names of images")
    yield waiting


def _columns(text: str) -> list[str] | None:
    """Split a line so that it begins with two names of images; None where no separator does."""
    for separator in ("\t", ",", None):
        columns = text.split(separator)
        if len(columns) > 1 and _is_image(columns[0].strip()) and _is_image(columns[1].strip()):
            return [column.strip() for column in columns]
    return None


def _is_image(name: str) -> bool:
    return looks_like_image(name[name.rfind("/") + 1 :])


def _names_an_image(text: str) -> bool:
    return any(_is_image(word) for word in re.split(r"[\t, ]+", text))


def _is_crop(text: str) -> bool:
    return text.count(",") == 7 and _CROP.fullmatch(text) is not None


def _has_area(text: str) -> bool:
    crop = [int(number) for number in text.split(",")]
    return all(left < right and top < bottom for left, right, top, bottom in (crop[:4], crop[4:]))


def _rotation(columns: list[str], where: str) -> float:
    try:
        rotation = float(columns[2])
    except (IndexError, ValueError):
        rotation = math.nan
    if not math.isfinite(rotation):
        raise ConfigError(f"{where}: a pair with crops needs a rotation in degrees as its third column")
    return rotation


# ---- names to frames


def resolve(names: Sequence[str], paths: Sequence[str]) -> list[tuple[int, ...]]:
    """Find the frames that names mean: their positions in `paths`, rising; empty where a name is no frame's.

    A name means a path that it equals, else the one path that ends in it, whole folders at a time: a list may be
    relative to any folder below the root. Where several different paths end in a name, it means none of them. A path
    that occurs several times (a photo that several models register) is found at all of its positions.

    Where not a single name is found, the list may be relative to a folder that is not below the root: then leading
    folders of the names are left out, as few as find anything, and the same ones for all names. Names that would need
    other ones left out are not found: else the frame 7 of one scene would pass for the frame 7 of another.

    Names are compared byte for byte, then those not found once more by Unicode NFC.
    """
    parts = [_plain(name).split("/") for name in names]
    found: list[tuple[int, ...]] = [()] * len(names)
    for num_dropped in range(max(map(len, parts), default=0)):
        tails = {at: "/".join(part[num_dropped:]) for at, part in enumerate(parts) if len(part) > num_dropped}
        for normalise in (_same, _nfc):
            rest = {at: normalise(tail) for at, tail in tails.items() if not found[at]}
            meant = _ends(set(rest.values()), paths, normalise) if rest else {}
            for at, tail in rest.items():
                found[at] = meant.get(tail, ())
        if any(found):
            dropped = {tuple(parts[at][:num_dropped]) for at in tails if found[at]}
            return found if len(dropped) == 1 else [()] * len(names)
    return found


def _plain(name: str) -> str:
    return name.removeprefix("./").lstrip("/")


def _same(name: str) -> str:
    return name


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _ends(wanted: set[str], paths: Sequence[str], normalise: Callable[[str], str]) -> dict[str, tuple[int, ...]]:
    """Map each wanted end to the positions of the one path that it is, or else that ends in it."""
    depths = sorted({end.count("/") + 1 for end in wanted})
    last_parts = {end[end.rfind("/") + 1 :] for end in wanted}
    whole: dict[str, list[int]] = {}
    longer: dict[str, dict[str, list[int]]] = {}  # end -> path -> positions
    for position, path in enumerate(paths):
        path = normalise(path)
        if path[path.rfind("/") + 1 :] not in last_parts:
            continue
        parts = path.split("/")
        for depth in depths:
            if depth > len(parts):
                break
            end = path if depth == len(parts) else "/".join(parts[-depth:])
            if end not in wanted:
                continue
            if depth == len(parts):
                whole.setdefault(end, []).append(position)
            else:
                longer.setdefault(end, {}).setdefault(path, []).append(position)
    found = {end: tuple(next(iter(by_path.values()))) for end, by_path in longer.items() if len(by_path) == 1}
    return found | {end: tuple(positions) for end, positions in whole.items()}


def listed_pairs(path: Path, paths: Sequence[str], group_of: np.ndarray, first_of_group: np.ndarray) -> ListedPairs:
    """Read a list and place its pairs in the groups (streams) of a catalog's frames.

    `paths` [n] are those of all frames, `group_of` int [n] the group of each, `first_of_group` int [g] the frame with
    which each group begins: positions count from there. A pair goes to the first group that has both of its frames.
    ConfigError as in `read_pair_list`.
    """
    number_of: dict[str, int] = {}
    numbers = array("i")
    for one in read_pair_list(path):
        numbers.append(number_of.setdefault(one.first, len(number_of)))
        numbers.append(number_of.setdefault(one.second, len(number_of)))
    names = list(number_of)
    frames_of = resolve(names, paths)
    places = [{int(group_of[frame]): frame for frame in reversed(frames)} for frames in frames_of]
    of_group: dict[int, array[int]] = {}
    num_unmatched = num_crossing = num_twins = 0
    for a, b in zip(numbers[0::2], numbers[1::2], strict=True):
        first, second = places[a], places[b]
        if not first or not second:
            num_unmatched += 1
            continue
        group = min(first.keys() & second.keys(), default=None)
        if group is None:
            num_crossing += 1
        elif first[group] == second[group]:
            num_twins += 1
        else:
            start = int(first_of_group[group])
            of_group.setdefault(group, array("i")).extend((first[group] - start, second[group] - start))
    unmatched = [name for name, place in zip(names, places, strict=True) if not place]
    return ListedPairs(
        {group: np.array(of_group[group], dtype=np.int32).reshape(-1, 2) for group in sorted(of_group)},
        len(numbers) // 2,
        num_unmatched,
        num_crossing,
        num_twins,
        tuple(unmatched[:_NUM_EXAMPLES]),
        _sha256(path),
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
