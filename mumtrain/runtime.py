"""Where a run computes: device and number format.

In: what the user asked for, and the machine. Out: a Runtime that the trainer passes along; nothing global.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mumdata.errors import ConfigError

__all__ = ["Runtime", "select_runtime"]


@dataclass(frozen=True)
class Runtime:
    """The device of one process and the number format of its matrix products."""

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes: bf16 matrix products on CUDA, plain float32 elsewhere."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def select_runtime(device: str | None = None, local_rank: int | None = None) -> Runtime:
    """Return the runtime for a device name; None takes CUDA where there is one, else the processor.

    `cuda` means the host's device number `local_rank`, where that is given; a launcher that shows each process one
    device alone makes it number 0. Raises ConfigError for a name that torch does not know or a device that is not
    there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and local_rank is not None:
        device = f"cuda:{local_rank if torch.cuda.device_count() > 1 else 0}"
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
