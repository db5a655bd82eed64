"""`mumdata check`: which dataset and layout a folder is, what is missing, and the next command.

In: any folder. Out: a `Check`: every dataset that was recognised in the folder, below it or around it, with what is
there and what is not. The look is bounded: of every folder some entries are read, a few of those that fit are looked
into, of archives the first members are named; so that millions of files cost no more than thousands.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mumdata.bounded import (
    COMPRESSED,
    MOST_ARCHIVES,
    MOST_MATCHES,
    BoundedTree,
    Budget,
    Disk,
    Look,
    NotReadError,
    compressed_names,
    expand,
    inner_folders,
    is_hidden,
    is_wild,
    quoted,
)
from mumdata.datasets import NAMES, Layout, Spec, load
from mumdata.errors import LayoutError, MumError
from mumdata.images import looks_like_image

__all__ = ["Check", "Found", "check", "render_check"]

# of a look's budget, so much may go into counting one dataset's scenes
_COUNT_ENTRIES, _COUNT_LOOKS = 20_000, 600
_MOST_FOLDERS, _MOST_FOLDERS_BELOW = 60, 20  # sub-folders that may be roots, one level down and two
_SHOWN = 8  # names of a list that are printed

_NAMED = tuple(name for name in NAMES if name not in ("folder", "colmap"))
_OTHER_ARCHIVES = (".7z", ".rar", ".gz", ".zst")
_PART_OF_ZIP = re.compile(r".+\.z\d\d")
_VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".wmv")
_NOT_NEEDED = "(not needed)"
_BESIDE = re.compile(r"(masks|depth)\b")  # parts that hold images which are no frames

# folders of a COLMAP project: those that hold models, and those that hold images
_MODEL_FOLDERS = re.compile(r"\d+|(sparse|colmap|dense|(un)?distorted|models?)([-_]?te?xt|[-_]?bin)?")
_IMAGE_FOLDERS = re.compile(r"images?|input|imgs|rgb|photos")
_MODEL = r"((dense/\d+|colmap|distorted)/)?(sparse|colmap)(/\d+)?/(images|points3D)\.(bin|txt)"
_MODEL_FILES = [{f"{part}.{kind}" for part in ("cameras", "images", "points3D")} for kind in ("bin", "txt")]


@dataclass(frozen=True)
class Found:
    """A dataset that was recognised, and what is known of it after a bounded look.

    `place` says where its root lies: "here", "below" or "above" the folder that was checked, or "packed": in archives
    that have to be unpacked first. `present` and `missing` are what the layouts' parts are for; `num_scenes` is exact
    where `all_counted`, else at least so many are there. `archives` are (name, what becomes of it); `others` are names
    at the top that belong to no layout. `problem` says why nothing can be indexed yet, and what to do; `command` is
    the next one.
    """

    dataset: str
    title: str
    root: Path
    place: str
    command: str
    layouts: tuple[Layout, ...] = ()
    present: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    num_scenes: int | None = None
    all_counted: bool = False
    expected_scenes: int | None = None
    archives: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Check:
    """What a folder holds: the datasets that were recognised, and a remark where there is none."""

    folder: Path
    found: tuple[Found, ...]
    remark: str | None = None


def check(folder: Path) -> Check:
    """Recognise the datasets of a folder; LayoutError where it does not exist, is no folder or cannot be listed."""
    folder = Path(folder)
    if not os.path.exists(folder):
        raise LayoutError(f"{folder} does not exist or may not be looked at; give the folder that holds the dataset")
    if not os.path.isdir(folder):
        raise LayoutError(f"{folder} is not a folder; give the folder that it lies in")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise LayoutError(f"{folder} cannot be listed: {error.strerror}; ask its owner") from error
    disk = Disk(folder, Budget())
    here = _datasets_at(disk)
    below = _datasets_below(disk, here)
    found = here + below
    for above in _datasets_above(folder, disk.budget):
        # the folder above is the better root only where more of the dataset is there
        rivals = [other for other in found if other.dataset == above.dataset]
        if all(len(above.present) > len(other.present) for other in rivals):
            found = [other for other in found if other not in rivals] + [above]
    if not found:
        found = _packed(disk)
    if found:
        return Check(folder, tuple(found))
    return _own_files(disk)


# ---- datasets


def _datasets_at(disk: Disk, place: str = "here") -> list[Found]:
    found = []
    for name in _NAMED:
        spec = load(name).SPEC
        look = Look(disk, spec.archives)
        layouts = _layouts_at(look, spec)
        refused = _refused_at(look, name)
        if layouts or refused:
            found.append(_describe(look, name, layouts, refused, place))
    return found


def _datasets_below(disk: Disk, here: list[Found]) -> list[Found]:
    """Look one and two levels down; where a dataset is here already, only into what does not belong to it."""
    folders = inner_folders(disk.entries(""))
    if here:
        strange = set.intersection(*({name.rstrip("/") for name in found.others} for found in here))
        folders = [name for name in folders if name in strange]
    found = []
    for name in folders[:_MOST_FOLDERS]:
        inner = Disk(disk.root / name, disk.budget)
        own = _datasets_at(inner, "below")
        for deeper in () if own else inner_folders(inner.entries(""))[:_MOST_FOLDERS_BELOW]:
            own += _datasets_at(Disk(inner.root / deeper, disk.budget), "below")
        found += own
    return found


def _datasets_above(folder: Path, budget: Budget) -> list[Found]:
    """Find roots above a folder, which some pattern of a dataset reaches through the folder's own path."""
    absolute = Path(os.path.abspath(folder))
    own = absolute.parts[1:]
    inside = Look(Disk(absolute, budget))
    found = []
    for name in _NAMED:
        spec = load(name).SPEC
        ups = {up for components in _patterns(spec) for up in _ups(components, own, inside)}
        best: Found | None = None
        for up in sorted(ups):
            look = Look(Disk(_parent(folder, up), budget), spec.archives)
            layouts = _layouts_at(look, spec)
            if layouts:
                candidate = _describe(look, name, layouts, None, "above")
                if best is None or len(candidate.present) > len(best.present):
                    best = candidate
        found += [best] if best else []
    return found


def _ups(components: tuple[str, ...], own: tuple[str, ...], inside: Look) -> Iterator[int]:
    # how many levels up a path of components may start, if it goes through the folder
    for up in range(1, min(len(components), len(own) - 1) + 1):
        names, rest = own[len(own) - up :], components[up:]
        if all(re.fullmatch(component, name) for component, name in zip(components, names, strict=False)) and (
            not rest or next(inside.paths(rest), None)
        ):
            yield up


def _parent(folder: Path, up: int) -> Path:
    parts = folder.parts
    if ".." in parts or len(parts) <= up:
        folder = Path(os.path.abspath(folder))
    return folder.parents[up - 1]


def _patterns(spec: Spec) -> Iterator[tuple[str, ...]]:
    for layout in spec.layouts:
        for pattern in (*layout.markers, *layout.parts):
            yield from expand(pattern)


def _layouts_at(look: Look, spec: Spec) -> tuple[Layout, ...]:
    return tuple(layout for layout in spec.layouts if any(look.first(marker) for marker in layout.markers))


def _refused_at(look: Look, name: str) -> str | None:
    refused = load(name).SPEC.refused
    return next((f"it holds {reason}" for pattern, reason in refused.items() if look.first(pattern)), None)


def _describe(look: Look, name: str, layouts: tuple[Layout, ...], refused: str | None, place: str) -> Found:
    spec, root = load(name).SPEC, look.disk.root
    there: dict[str, bool] = {}
    for layout in layouts:
        for pattern, what in layout.parts.items():
            there[what] = there.get(what, False) or look.first(pattern) is not None
    problem = None
    num_scenes, all_counted, said = (None, False, None) if not layouts else _count_scenes(look, name)
    if not layouts:
        problem = refused
    elif said is not None:
        problem = said
    elif not _has_images(look, layouts):
        problem = f"no image was seen where images belong; how to get them: {spec.source}"
        problem += f"; {refused}" if refused else ""
    return Found(
        name,
        spec.title,
        root,
        place,
        f"mumdata index {name} --root {quoted(root)}",
        layouts,
        tuple(what for what, present in there.items() if present),
        # where no part fits, the parts are named for another variant of the layout
        tuple(what for what, present in there.items() if not present and not what.endswith(_NOT_NEEDED))
        if any(there.values())
        else (),
        num_scenes,
        all_counted,
        spec.num_scenes,
        tuple(_archives_at(look)),
        tuple(_others_at(look, spec)) if layouts else (),
        problem,
    )


def _count_scenes(look: Look, name: str) -> tuple[int | None, bool, str | None]:
    # by the dataset's own listing of a bounded tree: (number, whether that is all, what it complained of)
    share = look.disk.budget
    own = Budget(min(share.entries, _COUNT_ENTRIES), min(share.looks, _COUNT_LOOKS))
    looks, entries = own.looks, own.entries
    look.disk.budget = own
    tree = BoundedTree(look)
    try:
        scenes = {scene.scene for scene in load(name).scenes(tree)}
    except MumError as error:
        said = str(error).replace(f"{look.disk.root}/", "")
        # what a bounded look did not find may be there
        return None, False, None if tree.cut or look.archives else said
    finally:
        share.looks -= looks - own.looks
        share.entries -= entries - own.entries
        look.disk.budget = share
    return len(scenes), not tree.cut, None


def _has_images(look: Look, layouts: tuple[Layout, ...]) -> bool:
    beside = {pattern for layout in layouts for pattern, what in layout.parts.items() if _BESIDE.match(what)}
    patterns = dict.fromkeys(pattern for layout in layouts for pattern in (*layout.parts, *layout.markers))
    patterns = {pattern: None for pattern in patterns if pattern not in beside}
    return look.disk.budget.looks <= 0 or any(
        look.has_image(path)
        for pattern in patterns
        for components in expand(pattern)
        for path in islice(look.paths(components), MOST_MATCHES)
    )


def _archives_at(look: Look) -> Iterator[tuple[str, str]]:
    for path, reason in sorted(look.archives.items()):
        yield path, reason or "read as if unpacked where it lies"
    for name in sorted(look.disk.entries("").names):
        if name not in look.archives and (reason := _why_not_read(name)):
            yield name, reason


def _why_not_read(name: str) -> str | None:
    lower = name.lower()
    if lower.endswith(COMPRESSED):
        return f"compressed, not read; unpack it: tar xf {quoted(name)}"
    if _PART_OF_ZIP.fullmatch(lower):
        return "part of a split ZIP, not read; merge the parts with zip -F"
    if lower.endswith((".zip", ".tar")):
        return "not read; unpack it"
    return "not read; unpack it" if lower.endswith(_OTHER_ARCHIVES) else None


def _why(disk: Disk, name: str) -> str | None:
    # as _why_not_read, and where an archive is broken or a part of one, that
    why = _why_not_read(name)
    if why is not None and name.lower().endswith((".zip", ".tar")):
        try:
            disk.members(name)
        except NotReadError as reason:
            return str(reason)
    return why


def _others_at(look: Look, spec: Spec) -> Iterator[str]:
    """Yield the names at the top that belong to no layout of the dataset; folders end in a slash."""
    patterns = list(_patterns(spec))
    tries = _MOST_FOLDERS
    for name, is_folder in sorted(look.disk.entries("").names.items()):
        if is_hidden(name) or name in look.archives or _why_not_read(name):
            continue
        fitting = [components for components in patterns if re.fullmatch(components[0], name)]
        known = any(not is_wild(components[0]) for components in fitting)
        if not known and fitting and is_folder:
            # the name says nothing: does anything in the folder fit?
            rests = [components[1:] for components in fitting if components[1:]]
            known = tries <= 0 or any(next(look.paths(rest, name), None) for rest in rests)
            tries -= 1
        if not known:
            yield f"{name}/" if is_folder else name


def _packed(disk: Disk) -> list[Found]:
    """Recognise datasets by the members of archives that `mumdata index` would not read."""
    top = [name for name, is_folder in sorted(disk.entries("").names.items()) if not is_folder]
    top = [name for name in top if name.lower().endswith((*COMPRESSED, ".zip", ".tar"))][:MOST_ARCHIVES]
    found = []
    for name in _NAMED:
        spec = load(name).SPEC
        look = Look(disk, spec.archives)
        unread = {path for path, reason in look.archives.items() if reason} | set(top) - look.archives.keys()
        for path in sorted(unread):
            look.pack(path.rpartition("/")[0], _names_of(disk, path))
        layouts = _layouts_at(look, spec)
        if layouts:
            listed = ", ".join(_cut(tuple(sorted(unread)), "..."))
            told = f"not read as packed: {listed}; unpack where they lie (tar xf, unzip), then check again"
            command = f"mumdata index {name} --root {quoted(disk.root)}"
            found.append(Found(name, spec.title, disk.root, "packed", command, layouts, problem=told))
    return found


def _names_of(disk: Disk, path: str) -> list[str]:
    try:
        return disk.members(path)
    except NotReadError:
        return compressed_names(disk.root / path)


# ---- one's own pictures


@dataclass
class _Seen:
    models: list[str] = field(default_factory=list)
    num_images: int = 0
    image_folders: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    whole: bool = True


def _browse(disk: Disk) -> _Seen:
    """Look into folders level by level for COLMAP models and images."""
    seen = _Seen()
    pending = [("", 0)]
    for place, (folder, depth) in enumerate(pending):
        if place >= 200:
            seen.whole = False
            break
        listing = disk.entries(folder)
        seen.whole &= listing.whole
        files = {name for name, is_folder in listing.names.items() if not is_folder}
        if any(len(files & kind) >= 2 for kind in _MODEL_FILES):
            seen.models.append(folder)
        images = sum(map(looks_like_image, files))
        seen.num_images += images
        seen.image_folders += [folder] if images else []
        shown = (name for name in sorted(files) if not is_hidden(name))
        seen.endings.update(os.path.splitext(name)[1].lower() or "no ending" for name in shown)
        inner = inner_folders(listing)
        seen.whole &= not inner or (depth < 6 and len(inner) <= MOST_MATCHES)
        if depth < 6:
            pending += [(f"{folder}/{name}" if folder else name, depth + 1) for name in inner[:MOST_MATCHES]]
    return seen


def _own_files(disk: Disk) -> Check:
    folder, seen = disk.root, _browse(disk)
    root = _project_of(disk, seen)
    if seen.models or root != folder:
        return Check(folder, (_own("colmap", root, "here" if root == folder else "above", seen),))
    if seen.num_images:
        return Check(folder, (_own("folder", folder, "here", seen),))
    kinds = ", ".join(f"{num:,} {ending}" for ending, num in seen.endings.most_common(5)) or "no files"
    remark = f"no dataset, no COLMAP model and no image was found ({'' if seen.whole else 'at least '}{kinds})"
    if any(ending in _VIDEOS for ending in seen.endings):
        remark += "; of videos, extract the frames as images first"
    if unread := [f"{name} ({why})" for name in sorted(disk.entries("").names) if (why := _why(disk, name))]:
        remark += f"; archives: {'; '.join(unread[:_SHOWN])}"
    return Check(folder, (), remark)


def _project_of(disk: Disk, seen: _Seen) -> Path:
    """Return the root of the COLMAP project that a folder is part of; the folder itself where it is none's."""
    absolute = Path(os.path.abspath(disk.root))
    up = 0
    if seen.models and not seen.num_images:
        # a model alone: up to the folder that holds `sparse/0`, `dense/0/sparse`, ...
        while up < 4 and up + 1 < len(absolute.parts) and _MODEL_FOLDERS.fullmatch(absolute.parts[-1 - up].lower()):
            up += 1
        up = 0 if all(name.isdecimal() for name in absolute.parts[len(absolute.parts) - up :]) else up
    elif not seen.models and seen.num_images and _IMAGE_FOLDERS.fullmatch(absolute.name.lower()):
        look = Look(Disk(absolute.parent, disk.budget))
        if look.first(_MODEL):
            up = 1
    if not up or up >= len(absolute.parts) - 1:
        return disk.root
    above = _parent(disk.root, up)
    # images beside the model make it a project
    return above if seen.num_images or Look(Disk(above, disk.budget)).has_image("") else disk.root


def _own(dataset: str, root: Path, place: str, seen: _Seen) -> Found:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(os.path.abspath(root)).name).strip("-._") or "mine"
    if name in NAMES or name in ("mixes", "mix"):
        name = f"my-{name}"
    about = "at least " * (not seen.whole)
    present = [f"{about}{len(seen.models):,} COLMAP {_plural(len(seen.models), 'model')}"] if seen.models else []
    if seen.num_images:
        folders = len(seen.image_folders)
        present.append(f"{about}{seen.num_images:,} images in {folders:,} {_plural(folders, 'folder')}")
    problem = None
    if not seen.num_images and place == "here":
        problem = "no image was found beside the models; put them into a folder `images` beside the model's"
    command = f"mumdata index {dataset} --root {quoted(root)} --name {name}"
    return Found(dataset, load(dataset).SPEC.title, root, place, command, present=tuple(present), problem=problem)


def _plural(num: int, word: str) -> str:
    return word if num == 1 else f"{word}s"


# ---- text


def render_check(result: Check, width: int = 80) -> str:
    """Write what was found for a terminal; commands are never broken over lines."""
    folder = _shown(result.folder)
    if not result.found:
        text = textwrap.fill(f"{folder}: {_shown(result.remark or '')}", width, break_on_hyphens=False)
        return f"{text}\nwhat is known, and how to get it: mumdata datasets"
    if len(result.found) == 1:
        return _block(folder, result.found[0], width)
    head = f"{folder} holds {len(result.found)} datasets:"
    return "\n\n".join([head, *(_block(folder, found, width, short=True) for found in result.found)])


def _block(folder: str, found: Found, width: int, short: bool = False) -> str:
    own = found.dataset in ("folder", "colmap")
    called = found.title if own else f"{found.title} ({found.dataset})"
    where = _shown(found.root)
    head = {
        "here": f"{folder}: {called}",
        "below": f"{where}: {called}",
        "above": f"{folder} is a part of {called}, whose root is {where}",
        "packed": f"{folder}: {called}, packed",
    }[found.place]
    lines = textwrap.wrap(head, width, break_on_hyphens=False, break_long_words=False)
    rows = [("layout", layout.name if short else f"{layout.name}: {layout.shape}") for layout in found.layouts]
    if found.num_scenes is not None:
        rows.append(("scenes", _scenes(found)))
    rows += [("present", what) for what in found.present if not short]
    rows += [("missing", what) for what in found.missing]
    rows += [("archive", f"{name}: {what}") for name, what in _cut(found.archives, ("...", "more of them"))]
    if found.others:
        listed = ", ".join(_cut(found.others, "..."))
        rows.append(("other", f"{listed} (of no layout, not read)"))
    if found.problem:
        rows.append(("problem", found.problem))
    before = ""
    for label, text in rows:
        first = f"  {label if label != before else '':<9} "
        before = label
        lines += textwrap.wrap(
            _shown(text), width, initial_indent=first, subsequent_indent=" " * 12, break_on_hyphens=False
        )
    lines.append(f"{'then' if found.problem else 'next'}: {found.command}")
    return "\n".join(lines)


def _scenes(found: Found) -> str:
    num, expected = found.num_scenes or 0, found.expected_scenes
    text = f"{num:,}" if found.all_counted else f"at least {num:,}"
    if expected is None:
        return text
    if num >= expected:
        return f"{text}, all that are known"
    share = f"{num / expected:.1%}" if num >= expected / 1000 else "less than 0.1%"
    return f"{text} of {expected:,}" + (f" ({share})" if found.all_counted else "")


def _cut(items: tuple[Any, ...], more: Any) -> tuple[Any, ...]:
    return items if len(items) <= _SHOWN else (*items[: _SHOWN - 1], more)


def _shown(name: Path | str) -> str:
    # a name may hold control characters, which a terminal must not obey, or bytes that are not UTF-8
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
