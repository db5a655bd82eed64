"""Decoders that print to standard error are not heard.

In: a `with` around their calls. Out: nothing of what the C libraries below OpenCV say, once a read and without a file's
name; what it means for a picture comes back as an exception, which has one.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

_STDERR = 2

_lock = threading.Lock()
_num_inside = 0
_kept: int | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Turn the process's standard error to nothing while any thread is inside; some microseconds.

    What other threads write meanwhile is lost as well, so only calls that hold no Python code belong inside. A process
    that wants to hear of crashes gives `faulthandler` a duplicate of standard error.
    """
    global _num_inside, _kept
    with _lock:
        if _num_inside == 0:
            _kept = _turned_off()
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0 and _kept is not None:
                os.dup2(_kept, _STDERR)
                os.close(_kept)


def _turned_off() -> int | None:
    # a duplicate of what standard error was; None where it is closed, or no file can be opened
    try:
        nothing, kept = _nothing(), os.dup(_STDERR)
    except OSError:
        return None
    os.dup2(nothing, _STDERR)
    return kept


@functools.cache
def _nothing() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _begin_anew() -> None:
    # in a child that was forked while another thread of its parent was inside: nobody here will come out
    global _lock, _num_inside
    _lock = threading.Lock()
    if _num_inside and _kept is not None:
        os.dup2(_kept, _STDERR)
    _num_inside = 0


os.register_at_fork(after_in_child=_begin_anew)
