"""Operations of a batch: against torch's own count of the real model, and against the figures known for ViT-L."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mumtrain.config import Config, DataConfig, MaskConfig, ModelConfig, TowerConfig
from mumtrain.flops import slot_flops
from mumtrain.masking import draw_masks
from mumtrain.objectives import build_model
from mumtrain.recipes import recipe

# torch counts attention's kernels on the processor as nothing: here they count as those of a GPU
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *_, **__: sdpa_backward_flop_count(grad, query, key, value)
    ),
}


def config_of(size: int, patch: int, encoder: tuple[int, int, int], decoder: tuple[int, int, int], ratio: float) -> Any:
    towers = [TowerConfig(width=width, depth=depth, heads=heads) for width, depth, heads in (encoder, decoder)]
    return Config(
        data=DataConfig(size=size),
        model=ModelConfig(encoder=towers[0], decoder=towers[1], patch=patch),
        mask=MaskConfig(ratio=ratio),
    )


@pytest.mark.parametrize(
    ("config", "num_sequences", "num_views"),
    [
        (recipe("debug-cpu"), 3, 5),
        (recipe("debug-cpu"), 4, 1),
        (config_of(64, 8, (64, 3, 2), (48, 3, 3), 0.75), 2, 4),  # three blocks: two see a view, one all of them
        (config_of(48, 16, (32, 1, 1), (64, 1, 4), 0.6), 1, 6),
        (config_of(96, 8, (24, 2, 3), (16, 4, 2), 0.1), 2, 7),  # small widths: attention is most of it
    ],
)
def test_operations_are_those_that_torch_counts(config: Config, num_sequences: int, num_views: int) -> None:
    model = build_model(config)
    num_patches = (config.data.size // config.model.patch) ** 2
    masks = draw_masks(config.mask, num_sequences, num_views, num_patches, seed=0, step=0, slot=0)
    views = torch.zeros(num_sequences, num_views, 3, config.data.size, config.data.size, dtype=torch.uint8)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        model(views, torch.from_numpy(masks.kept), torch.from_numpy(masks.masked)).backward()
    assert slot_flops(config, num_sequences, num_views) == counter.get_total_flops()


@pytest.mark.parametrize(("num_views", "gflops"), [(1, 198), (2, 201), (12, 226), (24, 256)])
def test_a_frame_of_the_papers_model_costs_what_is_known(num_views: int, gflops: int) -> None:
    # the known figures are those of the released code, which embeds hidden patches, too
    found = slot_flops(recipe("mum-vitl16"), 2, num_views) / (2 * num_views) / 1e9
    assert found == pytest.approx(gflops, rel=0.005)
