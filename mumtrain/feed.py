"""Slots on the device that computes: the next one is copied while the model works on the one before.

In: loaded slots in the loader's ring. Out: tensors on the device. A buffer of the ring goes back to the loader only
when its copy is through.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mumtrain.loader import Loaded, Loader, Slots
from mumtrain.runtime import Runtime

__all__ = ["Copier", "Feed", "Slot", "open_feed"]

logger = logging.getLogger(__name__)


@dataclass
class Slot:
    """A slot whose views, uint8 [B, V, 3, S, S], are on the device."""

    loaded: Loaded
    views: torch.Tensor


class Copier(Protocol):
    """Brings slots to a device."""

    def begin(self, loaded: Loaded) -> tuple[Slot, Any]:
        """Start copying a slot, and return it with a mark of that copy."""

    def order(self, slot: Slot, mark: Any) -> None:
        """Make what the device is given to do from now on wait for the copy."""

    def wait(self, mark: Any) -> None:
        """Wait until the copy has read all that it reads of the ring."""

    def close(self) -> None:
        """Let go of the ring."""


class Feed(Iterator[Slot]):
    """Hands out slots on the device in order; use it in a `with`, inside that of its loader."""

    def __init__(self, slots: Slots, copier: Copier) -> None:
        self._slots, self._copier = slots, copier
        self._ahead: tuple[Slot, Any] | None = None
        self._marks: deque[Any] = deque()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._ahead = None
        self._copier.close()

    def __next__(self) -> Slot:
        slot, mark = self._ahead or self._begin()
        self._ahead = None
        self._copier.order(slot, mark)
        # a slot that is not decoded yet is not waited for here: the device has this one to work on
        if self._slots.is_ready():
            self._ahead = self._begin()
        return slot

    def _begin(self) -> tuple[Slot, Any]:
        # the loader, when asked for a slot, fills the buffer of the one before the last anew
        if len(self._marks) == 2:
            self._copier.wait(self._marks.popleft())
        begun = self._copier.begin(next(self._slots))
        self._marks.append(begun[1])
        return begun


def open_feed(loader: Loader, slots: Slots, runtime: Runtime) -> Feed:
    """Return the feed of a loader's slots to the runtime's device."""
    on_cuda = runtime.device.type == "cuda"
    return Feed(slots, _CudaCopier(runtime.device, loader.ring) if on_cuda else _InPlace())


class _InPlace:
    """On the processor the tensors are the ring itself."""

    def begin(self, loaded: Loaded) -> tuple[Slot, None]:
        return Slot(loaded, torch.from_numpy(loaded.views)), None

    def order(self, slot: Slot, mark: None) -> None:
        pass

    def wait(self, mark: None) -> None:
        pass

    def close(self) -> None:
        pass


class _CudaCopier:
    """Copies on a stream of their own, straight from the ring, whose pages are locked for that."""

    def __init__(self, device: torch.device, ring: np.ndarray) -> None:
        self._device, self._ring = device, ring
        self._stream = torch.cuda.Stream(device)
        self._is_locked = _lock_pages(ring, device)

    def begin(self, loaded: Loaded) -> tuple[Slot, torch.cuda.Event]:
        with torch.cuda.stream(self._stream):
            # in the order of the memory, so that it is one plain copy
            views = torch.from_numpy(loaded.views.transpose(0, 1, 3, 4, 2))
            views = views if self._is_locked else views.pin_memory()
            on_device = views.to(self._device, non_blocking=True).permute(0, 1, 4, 2, 3)
            slot = Slot(loaded, on_device)
            mark = torch.cuda.Event()
            mark.record(self._stream)
        return slot, mark

    def order(self, slot: Slot, mark: torch.cuda.Event) -> None:
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(mark)
        slot.views.record_stream(computing)  # its memory, taken on the other stream, is kept until this one is done

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def close(self) -> None:
        self._stream.synchronize()
        if self._is_locked:
            torch.cuda.cudart().cudaHostUnregister(self._ring.ctypes.data)
            self._is_locked = False


def _lock_pages(ring: np.ndarray, device: torch.device) -> bool:
    # with locked pages the device reads the ring by itself; it works without, through one more copy
    with torch.cuda.device(device):
        code = int(torch.cuda.cudart().cudaHostRegister(ring.ctypes.data, ring.nbytes, 0))
        if code == 0:
            return True
        # the driver reports an error once more at the next launch: let that be one that nobody waits for
        with suppress(RuntimeError):
            torch.zeros((), device=device).add_(1)
    logger.warning(
        "the %d MB of decoded views cannot be page-locked (CUDA error %d) and are copied once more on their way to the "
        "device; 'ulimit -l' and the job's memory limit may be why",
        ring.nbytes >> 20,
        code,
    )
    return False
