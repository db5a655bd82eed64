"""Files of JSON lines that belong to a run's steps.

In: values. Out: lines, appended; and, where a run is continued, those of the steps that it keeps.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mumdata.files import write_errors, write_text

__all__ = ["append_line", "keep_lines", "read_lines"]


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append one line, whole or not at all; MumError where it cannot be written."""
    data = (json.dumps(values) + "\n").encode("utf-8", "surrogateescape")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                data = b"\n" + data  # a process that was killed left half a line
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.truncate(file.fileno(), end)
                raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the values of all whole lines, none where there is no file; the last one may be cut off in its middle."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


def keep_lines(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines of steps beyond `step`, which a continued run writes again, and return those that stay."""
    if not path.exists():
        return []
    kept = [values for values in read_lines(path) if values.get("step", 0) <= step]
    write_text(path, "".join(json.dumps(values) + "\n" for values in kept))
    return kept
