"""What a run's folder holds, read so that a file that is missing or damaged hides nothing else.

In: the files of RUN. Out: their JSON values, and notes about what could not be read.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

__all__ = ["Records", "printable"]

# levels of lists and dictionaries; no file of a run holds as many, and deeper ones may not be written again
_DEEPEST = 20


class Records:
    """Reads the files of a run; `notes` grows by a line for each that could not be read."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.notes: list[str] = []

    def values(self, name: str) -> dict[str, Any]:
        """Return the values of a JSON file; none where it is missing or damaged."""
        text = self._text(name)
        found = None if text is None else _parsed(text)
        if text is not None and not isinstance(found, dict):
            self.notes.append(f"{name} cannot be read")
        return found if isinstance(found, dict) else {}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a file with JSON values in each, without those that cannot be read."""
        lines = (self._text(name) or "").splitlines()
        found = [_parsed(line) for line in lines]
        whole = [values for values in found if isinstance(values, dict)]
        if len(whole) < len(lines):
            self.notes.append(f"{len(lines) - len(whole)} of {len(lines)} lines of {name} cannot be read")
        return whole

    def _text(self, name: str) -> str | None:
        try:
            return (self.run / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self.notes.append(f"{name} cannot be read ({error})")
            return None


def printable(value: Any) -> Any:
    """Return JSON values that any program reads and any file takes: no NaN, no infinity, no broken characters."""
    if isinstance(value, dict):
        return {printable(str(key)): printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [printable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _parsed(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if _is_flat(found, _DEEPEST) else None


def _is_flat(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_flat(part, levels - 1) for part in parts)
