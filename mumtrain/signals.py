"""Being asked to stop.

In: SIGTERM, as a machine that is taken away sends it, and SIGUSR1, as Slurm sends it ahead of the end. Out: a wish that
the training loop looks at between steps.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["STOPPED", "StopRequest", "Stopped", "stop_request"]

# the exit status of a run that stopped because it was asked to, and goes on with --resume (EX_TEMPFAIL)
STOPPED = 75

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# the request that is taken at present
_active: list[StopRequest] = []


class Stopped(Exception):
    """A run was asked to stop, and has written all that it needs to continue."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"stopped after step {step} by {why}; the same command with --resume continues")
        self.step, self.why = step, why


class StopRequest:
    """Whether, and by what, this process was asked to stop."""

    def __init__(self) -> None:
        self.why = ""

    def __bool__(self) -> bool:
        return bool(self.why)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take SIGTERM and SIGUSR1 as wishes inside the `with`; outside of the main thread there are none.

    The first one is answered with a line on standard error; more of them change nothing, as launchers pass on what the
    system has sent already. Ctrl-C ends the process at once.
    """
    request = StopRequest()
    if _active:  # a program may ask for them before it loads what takes seconds
        yield _active[-1]
        return
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: FrameType | None) -> None:
        if request:
            return
        request.why = signal.Signals(number).name
        with suppress(OSError):  # print may be what was interrupted
            os.write(2, f"{request.why}: stopping after this step, with a checkpoint\n".encode())

    before: list[Any] = [signal.signal(number, note) for number in _SIGNALS]
    _active.append(request)
    try:
        yield request
    finally:
        _active.pop()
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
