"""Writes checkpoints beside training.

In: what a checkpoint holds, whose tensors the next step changes. Out: its file, a while later; training waits only for
the copy, and for a file that is still being written when the next is due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mumdata.errors import MumError
from mumtrain.checkpoint import checkpoint_path, prune_checkpoints, write_content

__all__ = ["CheckpointWriter"]

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time, and deletes those that are kept no longer.

    One that cannot be written, on a full disk above all, is told, and training goes on with the old one kept.
    """

    def __init__(self, run: Path, keep: int, keep_every: int) -> None:
        self._run, self._keep, self._keep_every = run, keep, keep_every
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        # of tensors on a device: memory that it can write to by itself, used again each time
        self._buffers: dict[tuple[str, ...], torch.Tensor] = {}
        self._device: torch.device | None = None

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Copy what the checkpoint of `step` holds and have it written."""
        self.wait()
        copy, mark = self._copied(content, ()), None
        if self._device is not None:
            mark = torch.cuda.Event()
            mark.record(torch.cuda.current_stream(self._device))
        path = checkpoint_path(self._run, step)
        # no daemon: the interpreter waits for it when it ends
        self._thread = threading.Thread(target=self._write, args=(path, copy, mark), name="checkpoint")
        self._thread.start()

    def refuse(self, error: MumError) -> None:
        """Take it that a checkpoint could not be written, for a reason that came before it."""
        self.wait()
        self._error = error

    def wait(self) -> bool:
        """Wait for the file that is being written; return whether it was, which a first call tells as well.

        A MumError of writing is logged; anything else is raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is None:
            return True
        if not isinstance(error, MumError):
            raise error
        logger.warning("%s; training goes on, the checkpoint before stays", error)
        return False

    def _write(self, path: Path, content: dict[str, Any], mark: torch.cuda.Event | None) -> None:
        try:
            if mark is not None:
                mark.synchronize()
            write_content(path, content)
            prune_checkpoints(self._run, self._keep, self._keep_every)
        except OSError as error:
            self._error = MumError(f"cannot write {path}: {error.strerror or error}")
        except BaseException as error:
            self._error = error

    def _copied(self, value: Any, place: tuple[str, ...]) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type == "cpu":
                return value.detach().clone()
            buffer = self._buffers.get(place)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self._buffers[place] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._device = value.device
            # in the order of the device's work: the next step changes the tensor only after this
            return buffer.copy_(value.detach(), non_blocking=True)
        if isinstance(value, Mapping):
            return {key: self._copied(one, (*place, str(key))) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copied(one, (*place, str(number))) for number, one in enumerate(value))
        return value
