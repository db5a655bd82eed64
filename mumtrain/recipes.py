"""The named training runs.

In: a recipe's name. Out: its Config. Each recipe is one function whose docstring gives the command, the cost and what
to expect, and one entry of RECIPES; an ablation is one entry of ABLATIONS. MuM, MAE, CroCo v2 and Muskie are points of
one space of settings, so that what lies between them is a `--set` away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
    apply,
    validate,
)

__all__ = ["ABLATIONS", "RECIPES", "recipe"]

# vision transformers by their usual letters
VIT_S = TowerConfig(width=384, depth=12, heads=6)
VIT_B = TowerConfig(width=768, depth=12, heads=12)
VIT_L = TowerConfig(width=1024, depth=24, heads=16)
VIT_H = TowerConfig(width=1280, depth=32, heads=16)

# the decoder of small models
SMALL_DECODER = TowerConfig(width=512, depth=8, heads=16)


# ---- MuM: two to 24 views, all masked, and a decoder over all of them


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
        model=ModelConfig(encoder=VIT_L, decoder=VIT_B),
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
        model=ModelConfig(encoder=VIT_B, decoder=SMALL_DECODER),
        mask=MaskConfig(ratio=0.75),
        optim=OptimConfig(lr=1.5e-4, warmup_steps=6_250),
        checkpoint=CheckpointConfig(every=1000, keep=3),
        log=LogConfig(every=20),
    )


def mum_vitl16_released() -> Config:
    """The configuration of the paper's released code where it differs from the paper: fewer views, other crops.

    `mumtrain pretrain catalogs/mix.parquet --recipe mum-vitl16-released`
    2 to 12 views, 128 frames a slot, each view a random resized crop, 16 decoder heads, LayerNorm with 1e-5. Another
    66 A100-days run of theirs was of this kind.
    """
    base = mum_vitl16()
    return replace(
        base,
        data=replace(base.data, views_max=12, frames_per_slot=128, crop="random_resized"),
        model=replace(base.model, decoder=TowerConfig(width=768, depth=12, heads=16), norm_eps=1e-5),
    )


def mum_vits16() -> Config:
    """The smallest encoder in use, ViT-S/16, with the decoder of the paper's ablations; not one of the paper's sizes.

    `mumtrain pretrain catalogs/mix.parquet --recipe mum-vits16`
    47.4 M parameters; otherwise as mum-vitb16, at three quarters of its cost. The loss starts near 1.20.
    """
    base = mum_vitb16()
    return replace(base, model=replace(base.model, encoder=VIT_S))


def mum_vith16() -> Config:
    """The largest size that the released code names: ViT-H/16 with a decoder 1024 wide and 24 deep.

    `mumtrain pretrain catalogs/mix.parquet --recipe mum-vith16`
    935 M parameters; otherwise as mum-vitl16, at about 2.8 times its cost. No results are known for it. The loss
    starts near 1.41.
    """
    base = mum_vitl16()
    decoder = TowerConfig(width=1024, depth=24, heads=16)
    return replace(base, model=replace(base.model, encoder=VIT_H, decoder=decoder))


# ---- MAE: one view at a time


def mae_vitb16() -> Config:
    """Masked autoencoding of single views (arXiv 2111.06377), in the frame of the paper's ablations: MuM with V = 1.

    `mumtrain pretrain catalogs/mix.parquet --recipe mae-vitb16`
    Rotary positions as in MuM; `--set model.positions=absolute` adds MAE's own instead. 111.66 M parameters; the loss
    starts near 1.20.
    """
    base = mum_vitb16()
    return replace(
        base,
        data=replace(base.data, views_min=1, views_max=1),
        model=replace(base.model, decoder_attention="frame"),
    )


def mae_vitl16() -> Config:
    """Masked autoencoding of single views with ViT-L/16 and MAE's own decoder, 512 wide and 8 deep.

    `mumtrain pretrain catalogs/mix.parquet --recipe mae-vitl16`
    329.2 M parameters; 8 slots of 512 frames are MAE's global batch of 4,096; positions are added, crops are random
    resized ones. The loss starts near 1.20.
    """
    return Config(
        steps=250_000,
        data=DataConfig(
            size=224, views_min=1, views_max=1, frames_per_slot=512, slots=8, crop="random_resized", mirror="per_view"
        ),
        model=ModelConfig(encoder=VIT_L, decoder=SMALL_DECODER, decoder_attention="frame", positions="absolute"),
        mask=MaskConfig(ratio=0.75),
        optim=OptimConfig(lr=1.5e-4, warmup_steps=12_500),
        checkpoint=CheckpointConfig(every=1000, keep=3),
        log=LogConfig(every=20),
    )


# ---- CroCo v2: pairs, one view nearly hidden, the other whole


def croco_v2_vitl16() -> Config:
    """Cross-view completion (arXiv 2211.10408): of a pair, 20 of the 196 patches of one view stay, the other is whole.

    `mumtrain pretrain catalogs/pairs.parquet --recipe croco-v2-vitl16`
    About 418 M parameters; 512 pairs a step, peak rate 3e-4 (0.75e-4 a frame is 1.5e-4 a pair). Sequences of pairs
    come from `mumdata mine-sequences --strategy pair`. Single images have no second view: a mix that holds some is
    refused. Crops are drawn from the whole frame with the share of area of a 224 px window in 256 px.
    """
    return Config(
        steps=500_000,
        data=DataConfig(
            size=224,
            views_min=2,
            views_max=2,
            frames_per_slot=128,
            slots=8,
            crop="random_resized",
            crop_area=(0.765625, 0.765625),
            crop_aspect=(1.0, 1.0),
            mirror="none",
            jitter=0.4,
        ),
        model=ModelConfig(
            encoder=VIT_L,
            decoder=VIT_B,
            decoder_attention="cross",
            positions="integer",
            class_token=False,
            initial="xavier",
        ),
        # CroCo hides int(0.9 * 196) = 176 patches
        mask=MaskConfig(ratio=0.8978, references="1"),
        optim=OptimConfig(lr=0.75e-4, warmup_steps=24_000),
        checkpoint=CheckpointConfig(every=1000, keep=3),
        log=LogConfig(every=20),
    )


def croco_v2_vitb16() -> Config:
    """CroCo v2 at the size of the paper's ablations: ViT-B/16 and a decoder 512 wide, 8 deep.

    `mumtrain pretrain catalogs/pairs.parquet --recipe croco-v2-vitb16`
    120.1 M parameters; 100,000 steps of 64 pairs a slot.
    """
    base = croco_v2_vitl16()
    return replace(
        base,
        steps=100_000,
        model=replace(base.model, encoder=VIT_B, decoder=SMALL_DECODER),
        optim=replace(base.optim, warmup_steps=6_250),
    )


# ---- Muskie: one encoder over all views, placeholders in the input, a confidence for each value


def muskie_vitb16() -> Config:
    """One encoder for all views, without a decoder (arXiv 2511.18115), 768 wide, 6 blocks of each kind.

    `mumtrain pretrain catalogs/mix.parquet --recipe muskie-vitb16`
    Of V views V/4 to V/2 stay whole; the others lose 0.9 of their patches at random, or a rectangle or an ellipse of
    nominally 0.75. Differences from Muskie: one size of 224 px, V uniform in 1 to 8 instead of {1, 2, 4, 8}, no
    vertical mirroring, no object crops, no weight decay on biases and norms, bfloat16. The paper's took eight A100 a
    week.
    """
    return Config(
        steps=400_000,
        data=DataConfig(
            size=224,
            views_min=1,
            views_max=8,
            frames_per_slot=64,
            slots=8,
            subset="window:32",
            crop="random_resized",
            crop_area=(0.8, 1.0),
        ),
        model=ModelConfig(
            encoder=VIT_B,  # six frame-wise blocks and six over all views
            encoder_attention="alternating",
            decoder_attention="none",
            hidden_tokens="replaced",
            positions="integer",
            class_token=False,
            registers=4,
            target="raw",
            confidence=True,
            pixels="half",
        ),
        mask=MaskConfig(kind="random:0.9,rectangle:0.75,ellipse:0.75", ratio=0.75, references="V/4:V/2"),
        optim=OptimConfig(lr=1e-4, warmup_steps=2_000),
        checkpoint=CheckpointConfig(every=1000, keep=3),
        log=LogConfig(every=20),
    )


def muskie_vitl16() -> Config:
    """Muskie 1024 wide, 12 blocks of each kind; otherwise as muskie-vitb16.

    `mumtrain pretrain catalogs/mix.parquet --recipe muskie-vitl16`
    304.7 M parameters. The paper's took eight A100 two weeks.
    """
    base = muskie_vitb16()
    return replace(base, model=replace(base.model, encoder=VIT_L))


def muskie_vits16() -> Config:
    """Muskie 384 wide, 6 blocks of each kind; otherwise as muskie-vitb16.

    `mumtrain pretrain catalogs/mix.parquet --recipe muskie-vits16`
    22.2 M parameters, three tenths of its cost.
    """
    base = muskie_vitb16()
    return replace(base, model=replace(base.model, encoder=VIT_S))


def muskie_vith16() -> Config:
    """Muskie 1280 wide, 16 blocks of each kind; otherwise as muskie-vitb16.

    `mumtrain pretrain catalogs/mix.parquet --recipe muskie-vith16`
    632.6 M parameters, seven times its cost.
    """
    base = muskie_vitb16()
    return replace(base, model=replace(base.model, encoder=VIT_H))


# ---- for trying things


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
        log=LogConfig(every=10, pictures_every=300, gain_every=300),
    )


def mum_cpu() -> Config:
    """A MuM that learns on a processor, within minutes, to look at other views.

    `mumtrain pretrain catalogs/mix.parquet --recipe mum-cpu`
    1.9 M parameters, most of them in a decoder of six blocks, since that is where views meet; views of 64 pixels out of
    eight neighbouring frames, and no mirroring, so that what views share lies close together. 1,500 steps of one slot
    of 16 frames take about five minutes of one core. On rendered scenes that it has never seen, patches that another
    view shows are then predicted better with the other views than without, by 0.02 to 0.03 of the loss more than
    patches that no other view shows (`mumtrain gain`).
    """
    return Config(
        steps=1500,
        data=DataConfig(
            size=64, views_min=2, views_max=8, frames_per_slot=16, slots=1, subset="window:8", mirror="none"
        ),
        model=ModelConfig(
            encoder=TowerConfig(width=128, depth=3, heads=4),
            decoder=TowerConfig(width=128, depth=6, heads=4),
            patch=8,
        ),
        mask=MaskConfig(ratio=0.75),
        # one slot of 16 frames: the peak is 1/16 of the base rate
        optim=OptimConfig(lr=0.024, warmup_steps=100),
        checkpoint=CheckpointConfig(every=300, keep=2),
        log=LogConfig(every=50, pictures_every=500, gain_every=500),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "mum-vitl16": mum_vitl16,
    "mum-vitl16-released": mum_vitl16_released,
    "mum-vits16": mum_vits16,
    "mum-vitb16": mum_vitb16,
    "mum-vith16": mum_vith16,
    "mae-vitb16": mae_vitb16,
    "mae-vitl16": mae_vitl16,
    "croco-v2-vitb16": croco_v2_vitb16,
    "croco-v2-vitl16": croco_v2_vitl16,
    "muskie-vits16": muskie_vits16,
    "muskie-vitb16": muskie_vitb16,
    "muskie-vitl16": muskie_vitl16,
    "muskie-vith16": muskie_vith16,
    "mum-cpu": mum_cpu,
    "debug-cpu": debug_cpu,
}

# the paper's ablations of mum-vitb16, each a recipe `mum-vitb16-NAME`. Behind each what the paper found for it on
# MegaDepth alone: end-point error of dense matching in pixels, and ImageNet accuracy; mum-vitb16 itself 10.6 / 47.8
ABLATIONS: dict[str, tuple[str, ...]] = {
    "views6": ("data.views_max=6",),  # 12.8 / 47.4
    "views12": ("data.views_max=12",),  # 12.5 / 47.4
    "mask65": ("mask.ratio=0.65",),  # 13.3 / 49.1
    "mask85": ("mask.ratio=0.85",),  # 12.7 / 45.6
    "reference": ("mask.references=1",),  # 11.9
    "encoder-attention": ("model.encoder_attention=alternating", "model.decoder_attention=frame"),  # 16.7
    "absolute": ("model.positions=absolute",),  # 12.1
    "raw": ("model.target=raw",),  # 13.4
}


def _ablation(settings: tuple[str, ...]) -> Callable[[], Config]:
    def make() -> Config:
        return apply(mum_vitb16(), settings)

    make.__doc__ = f"An ablation of the paper: mum-vitb16 with {', '.join(f'`{setting}`' for setting in settings)}."
    return make


RECIPES |= {f"mum-vitb16-{name}": _ablation(settings) for name, settings in ABLATIONS.items()}


def recipe(name: str) -> Config:
    """Return the Config of a recipe; a name that does not exist is a ConfigError naming the nearest one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return validate(RECIPES[name]())
