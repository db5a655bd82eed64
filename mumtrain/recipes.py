"""The named training runs.

In: a recipe's name. Out: its Config. Each recipe is one function whose docstring gives the command, the cost and what
to expect, and one entry of RECIPES.
"""

from __future__ import annotations

from collections.abc import Callable

from mumdata.errors import unknown
from mumtrain.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    LogConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    TowerConfig,
    validate,
)

__all__ = ["RECIPES", "recipe", "mum_vitl16", "mum_vitb16", "debug_cpu"]


def mum_vitl16() -> Config:
    """The paper's model: ViT-L/16 encoder, ViT-B decoder over 2 to 24 views (arXiv 2511.17309).

    `mumtrain pretrain catalogs/mix.parquet --recipe mum-vitl16`
    389,534,464 parameters; 64 slots of 96 frames; 500,000 steps. The paper's run took about three days on 64 A100
    (4,608 A100-hours). Peak learning rate 1.5e-4 * 64 * 96 / 256 = 3.6e-3. The loss starts near 1.31; the paper's
    released weights reach about 0.23 on three views of one wall.
    """
    return Config(
        steps=500_000,
        data=DataConfig(size=224, views_min=2, views_max=24, frames_per_slot=96, slots=64),
        model=ModelConfig(
            encoder=TowerConfig(width=1024, depth=24, heads=16), decoder=TowerConfig(width=768, depth=12, heads=12)
        ),
        mask=MaskConfig(ratio=0.75),
        optim=OptimConfig(lr=1.5e-4, warmup_steps=25_000),
        checkpoint=CheckpointConfig(every=1000, keep=3),
        log=LogConfig(every=20),
    )


def mum_vitb16() -> Config:
    """The size of the paper's ablations: ViT-B/16 encoder, decoder of width 512 and depth 8.

    `mumtrain pretrain catalogs/mix.parquet --recipe mum-vitb16`
    111.66 M parameters; 128 frames a slot, 100,000 steps, warm-up 6,250. The paper does not say how many devices its
    ablations used; this recipe has 8 slots. About 7e18 operations, forward and backward: some 50 A100-hours at
    40 TFLOP/s. The loss starts near 1.20.
    """
    return Config(
        steps=100_000,
        data=DataConfig(size=224, views_min=2, views_max=24, frames_per_slot=128, slots=8),
        model=ModelConfig(
            encoder=TowerConfig(width=768, depth=12, heads=12), decoder=TowerConfig(width=512, depth=8, heads=16)
        ),
        mask=MaskConfig(ratio=0.75),
        optim=OptimConfig(lr=1.5e-4, warmup_steps=6_250),
        checkpoint=CheckpointConfig(every=1000, keep=3),
        log=LogConfig(every=20),
    )


def debug_cpu() -> Config:
    """A model small enough to watch it learn on a laptop's processor.

    `mumtrain pretrain catalogs/mix.parquet --recipe debug-cpu`
    2.3 M parameters; 600 steps of one slot of 16 frames take about two minutes on two cores. On the demo's rendered
    scenes the loss falls from 1.05 to about 0.65. Patches have 8 pixels, so its losses do not compare with others'.
    """
    return Config(
        steps=600,
        data=DataConfig(size=96, views_min=2, views_max=6, frames_per_slot=16, slots=1),
        model=ModelConfig(
            encoder=TowerConfig(width=192, depth=4, heads=3),
            decoder=TowerConfig(width=128, depth=2, heads=4),
            # patches of 8 pixels: of a view of 96 pixels only nine patches of 16 would stay visible
            patch=8,
        ),
        mask=MaskConfig(ratio=0.75),
        # one slot of 16 frames: the peak is 1/16 of the base rate
        optim=OptimConfig(lr=8e-3, warmup_steps=20),
        checkpoint=CheckpointConfig(every=100, keep=2),
        log=LogConfig(every=10),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "mum-vitl16": mum_vitl16,
    "mum-vitb16": mum_vitb16,
    "debug-cpu": debug_cpu,
}


def recipe(name: str) -> Config:
    """Return the Config of a recipe; a name that does not exist is a ConfigError naming the nearest one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return validate(RECIPES[name]())
