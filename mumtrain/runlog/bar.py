"""A progress bar that a run does not depend on.

In: standard error, which may close at any time. Out: a tqdm bar.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["open_bar"]


def open_bar(total: int, done: int, *, is_shown: bool = True) -> Any:
    """Return a bar of steps; one that is not shown takes updates all the same."""
    shown = _Shown(sys.stderr)
    return tqdm(
        total=total,
        initial=done,
        unit="step",
        file=shown,
        # a log file gets a line now and then, a terminal a moving bar
        mininterval=0.5 if shown.isatty() else 30.0,
        dynamic_ncols=True,
        disable=not is_shown,
    )


class _Shown:
    """Standard error for a progress bar: nothing is written any more once its reader has gone or it was closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        self._do("write", text)

    def flush(self) -> None:
        self._do("flush")

    def isatty(self) -> bool:
        return bool(self._do("isatty"))

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("no stream")
        return self._stream.fileno()

    def _do(self, name: str, *arguments: str) -> Any:
        # a training run of days must not end with the terminal, pipe or disk that its bar is shown on
        if self._stream is None:
            return None
        try:
            return getattr(self._stream, name)(*arguments)
        except (OSError, ValueError):
            self._stream = None
            return None
