"""The memory of decoded views: how much it takes, and whether this machine has it.

In: a Config and a number of buffers. Out: the ring's shape, or a ConfigError in one line before anything is allocated.
"""

from __future__ import annotations

import errno
import math
import os
from contextlib import suppress
from pathlib import Path

from mumdata.errors import ConfigError
from mumtrain.config import Config

__all__ = ["check_ring", "memory_size", "no_ring", "ring_shape"]

_CGROUPS = Path("/sys/fs/cgroup")


def ring_shape(config: Config, buffers: int) -> tuple[int, int, int, int, int]:
    """Return the shape of the memory of the views: [buffers, frames_per_slot, S, S, 3], uint8."""
    data = config.data
    return buffers, data.frames_per_slot, data.size, data.size, 3


def check_ring(config: Config, buffers: int) -> None:
    """Raise ConfigError where the ring would take more than the whole memory that this process may use."""
    size, limit = math.prod(ring_shape(config, buffers)), memory_size()
    if limit is not None and size > limit:
        raise ConfigError(
            f"{_told(config, buffers)}, more than the {_amount(limit)} of memory that this process may use; "
            f"{_remedy(config)}"
        )


def no_ring(config: Config, buffers: int, error: Exception) -> ConfigError:
    """Return what to say where the ring could not be allocated."""
    too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
    why = "the limit of a file's size, 'ulimit -f', is lower" if too_large else str(error) or "not enough memory"
    return ConfigError(f"{_told(config, buffers)}, which cannot be allocated ({why}); {_remedy(config, too_large)}")


def _told(config: Config, buffers: int) -> str:
    data = config.data
    return (
        f"the ring of decoded views would take {_amount(math.prod(ring_shape(config, buffers)))} ({buffers} buffers of "
        f"data.frames_per_slot={data.frames_per_slot} views of data.size={data.size})"
    )


def _remedy(config: Config, is_file_limit: bool = False) -> str:
    more = "raise 'ulimit -f'" if is_file_limit else "allow the job more memory"
    if not config.data.workers:
        return f"lower data.frames_per_slot or data.size, or {more}"
    return (
        f"lower data.prefetch={config.data.prefetch}, data.frames_per_slot or data.size, {more}, or set "
        "data.workers=0, which needs 2 buffers and no file"
    )


def _amount(size: int) -> str:
    unit, name = (1 << 30, "GiB") if size >= 1 << 30 else (1 << 20, "MiB")
    return f"{size / unit:,.1f} {name}"


def memory_size() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, or its control group's; None if unknown."""
    sizes = []
    with suppress(OSError, ValueError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        # the line `0::/PATH` of version 2; what no group limits says `max`
        path = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = _CGROUPS / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(_CGROUPS) and (told := folder / "memory.max").exists():
                sizes += [int(text) for text in [told.read_text().strip()] if text != "max"]
    return min(sizes, default=None)
