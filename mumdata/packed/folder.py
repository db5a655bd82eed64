"""The folder of a packed copy: whose it is, how it was made, and what of it is there already.

In: a folder, and how a copy is to be made. Out: the folder for one run alone, or a ConfigError where it holds something
else; and for each dataset the shards that it is divided into, the same in every run over the same frames.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mumdata.catalog import PACKED_RECORD, MixDataset
from mumdata.errors import ConfigError, MumError
from mumdata.files import relative_to_folder, remove_abandoned, write_text
from mumdata.packed.index import ShardFiles
from mumdata.packed.plan import Chosen, divide, estimate, source_digests
from mumdata.packed.recode import Recoding
from mumdata.packed.shard import Origin, ShardTask

__all__ = ["Record", "check_room", "left_behind", "owned", "read_whole_record", "remove_others"]

_FORMAT = 1

_NAMED = 5  # datasets in a message

_KEYS = ("format", "size", "quality", "shard_gb", "mix")


@contextmanager
def owned(out: Path) -> Iterator[None]:
    """Make the folder, and keep other runs away from it; MumError where one is at work there.

    Raises ConfigError where the folder holds other things than a packed copy.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # what begins with a dot is the lock, or what the system leaves
        others = [path.name for path in out.iterdir() if not path.name.startswith(".")]
        if others and not (out / PACKED_RECORD).is_file():
            raise ConfigError(f"{out} is no packed copy, and not empty ({min(others)}); choose another folder")
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise MumError(f"cannot write {out}: {error.strerror}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MumError(f"another run is packing into {out}; wait for it, or choose another folder") from error
        remove_abandoned(out)
        yield


class Record:
    """What packed.json holds: of which mix a copy is made, how, and where one shard ends and the next begins.

    A copy is made again, or goes on, for the mix at the same place as seen from the copy, whose datasets may be others
    by now, and for one of the same datasets, wherever it lies. The copy of any other mix is left alone.

    Where it ends is found from images that are packed on trial, so it is written down: a run that goes on after some
    files have changed must find the shards of the first.
    """

    def __init__(self, out: Path, how: Recoding, shard_gb: float, mix: Path, names: list[str]) -> None:
        """Raises ConfigError where the folder holds a copy of another mix, or one that was made in another way."""
        self._path, self._how, self._shard_bytes = out / PACKED_RECORD, how, shard_gb * 1e9
        about: dict[str, Any] = {"format": _FORMAT, "size": how.size or "full", "quality": how.quality}
        about |= {"shard_gb": shard_gb}
        place = relative_to_folder(mix, out)
        before = _read(self._path) if self._path.exists() else None
        if before is not None:
            if before.get("mix") != place and set(before["shards"]) != set(names):
                other = f"of {os.path.normpath(out / str(before.get('mix', 'another mix')))} {_named(before['shards'])}"
                raise ConfigError(
                    f"{out} holds the copy {other}, not of {mix} {_named(names)}; choose another folder with -o"
                )
            if different := _first_difference(about, before):
                raise ConfigError(
                    f"{out} holds a copy made with {different} {before.get(different)}, not {about[different]}; give "
                    "the same options, or choose another folder"
                )
        known = before["shards"] if before is not None else {}
        shards = {name: known[name] for name in names if name in known}
        self._about: dict[str, Any] = about | {"mix": place, "shards": shards}
        if before != self._about:
            self._write()

    def tasks(self, dataset: MixDataset, origin: Origin, chosen: Chosen) -> list[ShardTask]:
        """Return a dataset's shards."""
        about = json.dumps([dataset.frames_digest, self._how.size, self._how.quality]).encode()
        key = hashlib.sha256(about + chosen.images.astype("<i4").tobytes()).hexdigest()
        known = self._about["shards"].get(dataset.name, {})
        if known.get("of") != key:
            sizes = estimate(self._how, origin, dataset, chosen.images)
            ends = divide(sizes, self._shard_bytes)
            self._about["shards"][dataset.name] = known = {"of": key, "ends": ends, "bytes": int(sizes.sum())}
            self._write()
        elif not _is_division(known, len(chosen.images)):
            raise _damaged(self._path, f"the shards of {dataset.name} are not {len(chosen.images):,} images")
        ends, each = known["ends"], known["bytes"] / max(1, len(chosen.images))
        digests = source_digests(dataset, chosen.images, ends)
        folder = self._path.parent / dataset.name
        return [
            ShardTask(
                origin,
                ShardFiles(folder, dataset.name, number),
                chosen.images[begin:end],
                digests[number],
                each * (end - begin),
            )
            for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._about, indent=1, sort_keys=True) + "\n")


def read_whole_record(path: Path) -> dict[str, Any]:
    """Return what packed.json holds; ConfigError where packing could not go on with it.

    `shards` says of each dataset its shards' `ends`, which rise from above 0; of which images is not looked at.
    """
    if not path.exists():
        raise _damaged(path, "it does not exist")
    record = _read(path)
    for key in _KEYS:
        if key not in record:
            raise _damaged(path, f"it does not say the {key}")
    for name, known in record["shards"].items():
        ends = known.get("ends")
        if not _is_division(known, ends[-1] if isinstance(ends, list) and ends else 0):
            raise _damaged(path, f"the shards of {name} do not follow each other")
    return record


def check_room(out: Path, needed: float) -> None:
    """Raise MumError where the disk of a folder has less room than that many bytes."""
    free = shutil.disk_usage(out).free
    if needed > free:
        raise MumError(
            f"packing needs about {needed / 1e9:,.3g} GB more under {out}, where {free / 1e9:,.3g} GB are free; free "
            "some, choose another disk, or a smaller --size"
        )


def remove_others(folder: Path, shards: list[ShardFiles]) -> None:
    """Remove the shards of an earlier division of a dataset that this one has not."""
    wanted = {path for files in shards for path in (files.tar, files.index)}
    for ending in ("tar", "parquet"):
        for path in folder.glob(f"shards/{folder.name}-*.{ending}"):
            if path not in wanted:
                path.unlink(missing_ok=True)


def left_behind(out: Path, names: list[str]) -> list[Path]:
    """Return the folders with shards of datasets that a copy does not hold any more."""
    return sorted(path.parent for path in out.glob("*/shards") if path.is_dir() and path.parent.name not in names)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, "it cannot be read") from error
    shards = found.get("shards") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(known, dict) for known in shards.values()):
        raise _damaged(path, "it is not a record of packing")
    return dict(found)


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} is damaged ({why}), and packing cannot go on without it; copy it anew, delete {path.parent}, or "
        "choose another folder with -o"
    )


def _is_division(known: dict[str, Any], num_images: int) -> bool:
    # do the ends rise to the number of images, and are the bytes a number?
    ends, num_bytes = known.get("ends"), known.get("bytes")
    if not isinstance(ends, list) or not all(type(number) is int for number in ends):
        return False
    if type(num_bytes) is not int or num_bytes < 0:
        return False
    bounds = [0, *ends]
    return bounds[-1] == num_images and all(begin < end for begin, end in itertools.pairwise(bounds))


def _named(datasets: Collection[str]) -> str:
    names = sorted(datasets)
    return f"({', '.join([*names[:_NAMED], *(['...'] if len(names) > _NAMED else [])])})"


def _first_difference(wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    return next((key for key, value in wanted.items() if found.get(key) != value), None)
