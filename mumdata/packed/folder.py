"""The folder of a packed copy: whose it is, how it was made, and what of it is there already.

In: a folder, and how a copy is to be made. Out: the folder for one run alone, or a ConfigError where it holds something
else; and for each dataset the shards that it is divided into, the same in every run over the same frames.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mumdata.catalog import MixDataset
from mumdata.errors import ConfigError, MumError
from mumdata.files import remove_abandoned, write_text
from mumdata.packed.index import ShardFiles
from mumdata.packed.plan import Chosen, divide, estimate
from mumdata.packed.recode import Recoding
from mumdata.packed.shard import Origin, ShardTask

__all__ = ["Record", "check_room", "owned", "remove_others"]

_NAME = "packed.json"
_FORMAT = 1


@contextmanager
def owned(out: Path) -> Iterator[None]:
    """Make the folder, and keep other runs away from it; MumError where one is at work there.

    Raises ConfigError where the folder holds other things than a packed copy.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # what begins with a dot is the lock, or what the system leaves
        others = [path.name for path in out.iterdir() if not path.name.startswith(".")]
        if others and not (out / _NAME).is_file():
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
    """What packed.json holds: how a copy is made, and where one shard ends and the next begins.

    Where it ends is found from images that are packed on trial, so it is written down: a run that goes on after some
    files have changed must find the shards of the first.
    """

    def __init__(self, out: Path, how: Recoding, shard_gb: float) -> None:
        """Raises ConfigError where the folder holds a copy that was made in another way."""
        self._out, self._how, self._shard_bytes = out, how, shard_gb * 1e9
        about = {"format": _FORMAT, "size": how.size or "full", "quality": how.quality, "shard_gb": shard_gb}
        before = self._read()
        if before is not None and (other := _first_difference(about, before)):
            raise ConfigError(
                f"{out} holds a copy made with {other} {before.get(other)}, not {about[other]}; give the same options, "
                "or choose another folder"
            )
        self._about: dict[str, Any] = about | {"shards": (before or {}).get("shards", {})}

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
        ends, each = known["ends"], known["bytes"] / max(1, len(chosen.images))
        folder = self._out / dataset.name
        return [
            ShardTask(origin, ShardFiles(folder, dataset.name, number), chosen.images[begin:end], each * (end - begin))
            for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]

    def _read(self) -> dict[str, Any] | None:
        path = self._out / _NAME
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read; choose another folder, or delete this one") from error
        if not isinstance(found, dict) or not isinstance(found.get("shards"), dict):
            raise ConfigError(f"{path} is not a record of packing; choose another folder")
        return found

    def _write(self) -> None:
        write_text(self._out / _NAME, json.dumps(self._about, indent=1, sort_keys=True) + "\n")


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


def _first_difference(wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    return next((key for key, value in wanted.items() if found.get(key) != value), None)
