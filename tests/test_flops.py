"""Operations of a batch: against torch's own count of the real models, and against the figures known for ViT-L."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mumtrain.config import Config, apply
from mumtrain.flops import slot_flops
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import build_model
from mumtrain.recipes import RECIPES, recipe

# torch counts attention's kernels on the processor as nothing: here they count as those of a GPU
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *_, **__: sdpa_backward_flop_count(grad, query, key, value)
    ),
}

SMALL = [
    "data.size=48",
    "model.patch=8",
    "model.encoder.width=32",
    "model.encoder.depth=3",  # odd: where blocks alternate, one more of them sees a view
    "model.encoder.heads=2",
    "model.decoder.width=48",
    "model.decoder.depth=3",
    "model.decoder.heads=3",
]


def small(name: str, *sets: str) -> Config:
    return apply(recipe(name), [*SMALL, *sets])


def counted(config: Config, num_sequences: int, num_views: int, step: int = 0) -> int:
    """Operations of one forward and backward pass of the real model."""
    model, size = build_model(config), config.data.size
    grid = (size // config.model.patch,) * 2
    masks = draw_masks(config.mask, num_sequences, num_views, grid, seed=0, step=step, slot=0)
    views = torch.zeros(num_sequences, num_views, 3, size, size, dtype=torch.uint8)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        model(views, masks).backward()
    return int(counter.get_total_flops())


def families() -> list[str]:
    """One recipe for each way in which the recipes differ, sizes apart."""
    found: dict[object, str] = {}
    for name in RECIPES:
        config = small(name)
        if "," not in config.mask.kind:  # what draws its masks comes below
            found.setdefault((config.model, config.mask), name)
    return list(found.values())


@pytest.mark.parametrize("name", families())
def test_operations_are_those_that_torch_counts(name: str) -> None:
    config = small(name)
    for num_views in (2,) if config.model.decoder_attention == "cross" else (1, 4):
        assert slot_flops(config, 3, num_views) == counted(config, 3, num_views)


@pytest.mark.parametrize(
    ("name", "sets", "num_sequences", "num_views"),
    [
        ("debug-cpu", [], 3, 5),
        ("debug-cpu", ["data.size=96", "model.patch=8", "mask.ratio=0.1", "model.encoder.width=8"], 2, 7),
        ("debug-cpu", ["model.registers=3", "model.class_token=false"], 2, 2),
        ("debug-cpu", ["model.hidden_tokens=replaced", "mask.kind=ellipse"], 2, 3),
        ("debug-cpu", ["model.hidden_tokens=replaced", "mask.kind=blob"], 2, 3),
        ("debug-cpu", ["mask.view_ratios=0.9,0.5,0"], 2, 4),
        ("debug-cpu", ["model.encoder_attention=alternating", "model.encoder.depth=4"], 1, 3),
        ("croco-v2-vitb16", ["model.class_token=true", "model.registers=1"], 2, 2),
        ("muskie-vitb16", ["mask.kind=random:0.9", "mask.references=1"], 2, 4),
        ("muskie-vitb16", ["mask.kind=rectangle", "mask.references=2"], 2, 4),
    ],
)
def test_and_those_of_what_lies_between(name: str, sets: list[str], num_sequences: int, num_views: int) -> None:
    config = small(name, *sets)
    assert slot_flops(config, num_sequences, num_views) == counted(config, num_sequences, num_views)


def test_what_is_drawn_counts_in_the_mean() -> None:
    drawn = small("muskie-vitb16")
    fixed = [
        small("muskie-vitb16", f"mask.kind={kind}", f"mask.references={whole}")
        for kind in ("random:0.9", "rectangle", "ellipse")
        for whole in (1, 2)
    ]
    expected = [counted(config, 2, 4) for config in fixed]
    assert len(set(expected)) > 1
    assert slot_flops(drawn, 2, 4) == pytest.approx(fmean(expected), rel=1e-9)


@pytest.mark.parametrize(("num_views", "gflops"), [(1, 198), (2, 201), (12, 226), (24, 256)])
def test_a_frame_of_the_papers_model_costs_what_is_known(num_views: int, gflops: int) -> None:
    # the known figures are those of the released code, which embeds hidden patches, too
    found = slot_flops(recipe("mum-vitl16"), 2, num_views) / (2 * num_views) / 1e9
    assert found == pytest.approx(gflops, rel=0.005)
