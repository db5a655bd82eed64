"""What is known of the devices that training runs on.

In: a device, or the name that torch gives it. Out: its name, the rate that its maker states for products in bfloat16,
and the memory that was taken of it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["device_name", "memory_gb", "peak_bf16_tflops", "reset_memory"]

# TFLOP/s of dense matrix products (without sparsity) of bfloat16 numbers with sums in float32, as stated in the makers'
# data sheets and architecture papers, at the boost clock; of what torch sees as one device, which of an MI250 is one of
# its two dies. V100, T4 and their like have no bfloat16 units: theirs is the rate of float16. The words are those that
# must stand in the device's name; of several entries that fit the one with the most words holds.
_PEAK_TFLOPS: dict[str, float] = {
    "gb200": 2500.0,
    "b200": 2250.0,
    "gh200": 989.4,
    "h200": 989.4,
    "h200 nvl": 835.5,
    "h100": 989.4,
    "h100 nvl": 835.5,
    "h100 pcie": 756.0,
    "h800": 989.4,
    "h800 pcie": 756.0,
    "h20": 148.0,
    "a100": 312.0,
    "a800": 312.0,
    "a40": 149.7,
    "a30": 165.0,
    "a10": 125.0,
    "l40s": 362.05,
    "l40": 181.05,
    "l4": 121.0,
    "rtx 6000 ada": 364.25,
    "rtx a6000": 154.8,
    "rtx a5000": 111.1,
    "rtx 5090": 209.5,
    "rtx 4090": 165.2,
    "rtx 3090": 71.0,
    "rtx 3090 ti": 80.0,
    "v100 sxm2": 125.0,
    "v100 sxm3": 125.0,
    "v100 pcie": 112.0,
    "v100s": 130.0,
    "t4": 65.0,
    "mi300x": 1307.4,
    "mi325x": 1307.4,
    "mi250x": 191.5,
    "mi250": 181.05,
    "mi210": 181.0,
}

# words that make another device of one: slower clocks, fewer units, or only a part of it
_OTHER = {"laptop", "mobile", "max", "d", "ti", "super", "nvl", "mig", "grid", "vgpu"}

# how the name of a share of a device ends, which virtual machines see: the share's memory and a letter, as in A40-48Q,
# or how it is cut before that, as in H100-1-10C
_VIRTUAL = re.compile(r"-(?:\d+-)?\d+[abcq](?:me)?$", re.IGNORECASE)


def peak_bf16_tflops(name: str) -> float | None:
    """Return the TFLOP/s of dense bfloat16 matrix products that the maker of a device states, None where unknown.

    `name` is what `torch.cuda.get_device_name` says, or only the model's: H100. Parts of a device (MIG, vGPU) are
    unknown.
    """
    if _VIRTUAL.search(name.strip()):
        return None
    words = set(re.split(r"[\s/_-]+", name.lower()))
    fitting = [
        (len(wanted), peak)
        for key, peak in _PEAK_TFLOPS.items()
        if (wanted := set(key.split())) <= words and not (words & _OTHER) - wanted
    ]
    return max(fitting)[1] if fitting else None


def device_name(device: torch.device) -> str:
    """Return what a device is called; of the processor, the number of torch's threads is told."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"processor, {threads} thread{'s' if threads > 1 else ''}"


def reset_memory(device: torch.device) -> None:
    """Have `memory_gb` tell the most memory from now on, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it cannot be reset, the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_gb(device: torch.device) -> float | None:
    """Return the most memory that tensors took of a device so far, in 10^9 bytes.

    On the processor it is that of the whole process, None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)
