"""One process to a run's folder.

In: the folder. Out: a lock that the system lets go of by itself when its process ends, however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from mumdata.errors import MumError
from mumdata.files import write_errors

__all__ = ["LOCK", "RunLock"]

# the file's name in the folder
LOCK = ".lock"

logger = logging.getLogger(__name__)


class RunLock:
    """Keeps others out of a run's folder from `take` to the end of the `with`."""

    def __init__(self, run: Path) -> None:
        self._path = run / LOCK
        self._file: int | None = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def take(self) -> None:
        """Take the lock, once; MumError where another process has it."""
        if self._file is not None:
            return
        with write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            run = self._path.parent
            raise MumError(f"{run} is being trained by another process; wait for it, or end it") from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s): let no second process train there", self._path, error)
        self._file = file
