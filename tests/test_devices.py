"""What is known of devices: names as torch tells them, and the makers' figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mumtrain.devices import device_name, memory_gb, peak_bf16_tflops, reset_memory


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H800", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("A100-SXM4-40GB", 312.0),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.25),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 3090 Ti", 80.0),
        ("Tesla V100-SXM2-32GB", 125.0),
        ("Tesla V100-PCIE-16GB", 112.0),
        ("Tesla V100S-PCIE-32GB", 130.0),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI250X", 191.5),
        ("h100", 989.4),
    ],
)
def test_known_devices(name: str, tflops: float) -> None:
    assert peak_bf16_tflops(name) == tflops


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 2080 Ti",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "Quadro RTX 6000",
        "NVIDIA A10G",
        "GRID A100X-40C",
        "GRID T4-16Q",
        "NVIDIA A40-48Q",
        "NVIDIA A40-8C",
        "NVIDIA L40S-8Q",
        "NVIDIA H100-1-10C",
        "NVIDIA A100-3-20CME",
        "NVIDIA A10-24A ",
        "NVIDIA L4-24B",
        "GRID A40",
        "NVIDIA vGPU A40",
        "H100000",
        "processor, 2 threads",
        "",
    ],
)
def test_others_and_parts_of_devices_are_unknown(name: str) -> None:
    assert peak_bf16_tflops(name) is None


def test_name_of_the_processor() -> None:
    threads = torch.get_num_threads()
    assert device_name(torch.device("cpu")).startswith(f"processor, {threads} thread")


def test_memory_is_the_most_since_it_was_reset() -> None:
    device = torch.device("cpu")
    reset_memory(device)
    before = memory_gb(device)
    assert before is not None  # Linux tells
    taken = np.ones(300_000_000, np.uint8)
    del taken
    after = memory_gb(device)
    assert after is not None
    assert 0.2 < after - before < 0.5
