"""Where a run computes: device, number format, cores.

In: what the user asked for, and the machine. Out: a Runtime that the trainer passes along; nothing global.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mumdata.errors import ConfigError

__all__ = ["Runtime", "select_runtime", "num_cores"]


@dataclass(frozen=True)
class Runtime:
    """The device of one process and the number format of its matrix products."""

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes: bf16 matrix products on CUDA, plain float32 elsewhere."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Move a tensor to the device, without waiting for the copy where the device allows it."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def select_runtime(device: str | None = None) -> Runtime:
    """Return the runtime for a device name; None takes CUDA where there is one, else the processor.

    Raises ConfigError for a name that torch does not know or a device that is not there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device '{device}'; use cpu, cuda or cuda:0") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{device}' is not supported; use cpu or cuda")
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise ConfigError(f"device '{device}' is not there: torch sees {count} CUDA devices; use --device cpu")
    return Runtime(device=chosen, bf16=chosen.type == "cuda")


def num_cores() -> int:
    """Return how many cores this process may use, which on a shared machine is fewer than it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
