"""The models against slow, plain versions of the formulas, and against what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mumdata.errors import MumError
from mumtrain.config import Config, apply
from mumtrain.masks.draw import Group, Masks, draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.model.decoder import Decoder
from mumtrain.model.encoder import Encoder
from mumtrain.model.pixels import denormalise, normalise, normalise_patches, patchify, unpatchify
from mumtrain.model.positions import Rope, RopeTable, rotate, split_rotated
from mumtrain.optim import build_optimizer, lr_at, peak_lr, set_lr
from mumtrain.recipes import recipe
from tests.plain_model import PlainModel

THIN = [
    "model.patch=8",
    "data.size=32",
    "model.encoder.width=32",
    "model.encoder.depth=2",
    "model.encoder.heads=2",
    "model.decoder.width=24",
    "model.decoder.depth=3",
    "model.decoder.heads=2",
]

CROCO = (
    "data.views_min=2",
    "data.views_max=2",
    "model.decoder_attention=cross",
    "model.positions=integer",
    "model.class_token=false",
    "model.initial=xavier",
    "mask.references=1",
    "mask.ratio=0.8",
)
MUSKIE = (
    "model.encoder.depth=4",
    "model.encoder_attention=alternating",
    "model.decoder_attention=none",
    "model.hidden_tokens=replaced",
    "model.positions=integer",
    "model.class_token=false",
    "model.registers=4",
    "model.target=raw",
    "model.confidence=true",
    "model.pixels=half",
    "mask.references=V/4:V/2",
)
MAE = ("model.decoder_attention=frame", "model.positions=absolute")

# settings beyond THIN, and the number of views
VARIANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "mum": (3, ()),
    "mum of one view": (1, ()),
    "mae": (1, MAE),
    "croco": (2, CROCO),
    "croco, absolute, with a class token": (2, (*CROCO, "model.positions=absolute", "model.class_token=true")),
    "muskie": (4, (*MUSKIE, "mask.kind=random:0.9")),
    "muskie, rectangles": (4, (*MUSKIE, "mask.kind=rectangle")),
    "muskie of one view, ellipses": (1, (*MUSKIE, "mask.kind=ellipse")),
    "references": (4, ("mask.references=1:3",)),
    "ratios": (4, ("mask.view_ratios=0.9,0.5,0,0.5", "model.registers=2")),
    "encoder attention": (3, ("model.encoder_attention=alternating", "model.decoder_attention=frame")),
    "encoder attention, absolute": (2, (*MAE, "model.encoder_attention=alternating")),
    "replaced": (3, ("model.hidden_tokens=replaced", "mask.kind=rectangle", "mask.references=0:1")),
    "raw": (2, ("model.target=raw",)),
    "blank": (3, ("model.global_class_token=blank", "model.registers=1", "model.encoder_attention=alternating")),
    "bfloat16 tables": (2, ("model.rope_precision=bfloat16", "model.norm_eps=1e-5")),
    "bfloat16 tables, integer": (2, ("model.rope_precision=bfloat16", "model.positions=integer")),
}
GRID = (3, 5)


def thin(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, *sets])


def pictures(B: int, V: int, grid: tuple[int, int] = GRID, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, V, 3, 8 * grid[0], 8 * grid[1]), generator=generator).to(torch.uint8)


def masks_of(config: Config, B: int, V: int, grid: tuple[int, int] = GRID, step: int = 0) -> Masks:
    return draw_masks(config.mask, B, V, grid, seed=0, step=step, slot=0)


def shaken(model: MaskedAutoencoder, by: float = 0.15) -> MaskedAutoencoder:
    """The model with weights large enough that attention, biases and norms all matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model


def precise(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """The model in float64, tables of angles included where they are float32."""
    for tower in (model.encoder, model.decoder):
        rope = getattr(tower, "rope", None)
        if rope is not None and rope.dtype == torch.float32:
            rope.dtype = torch.float64
            rope._tables.clear()
    return model.double()


def plain_version(model: MaskedAutoencoder, config: Config, grid: tuple[int, int] = GRID) -> PlainModel:
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    return PlainModel(weights, config.model, grid)


# ---- against the slow version


@pytest.mark.parametrize("name", VARIANTS)
def test_predictions_and_loss_equal_the_slow_version(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model = shaken(build_model(config))
    views, masks = pictures(2, V), masks_of(config, 2, V, step=1)
    plain, hidden = plain_version(model, config), masks.is_hidden_BVN.tolist()
    with torch.no_grad():
        loss = float(model(views, masks))
        assert loss == pytest.approx(plain.loss(views.numpy(), hidden), rel=1e-5)
        found = precise(model).predict(patchify(normalise(views, config.model.pixels).double(), 8), GRID, masks)
    for b in range(2):
        slow = plain.predict(views[b].numpy(), hidden[b])
        places = list(slow)
        if masks.hidden_BH is None:
            values = found.values[b].unflatten(0, (V, -1))[tuple(torch.tensor(places).T)]
        else:
            assert [v * 15 + n for v, n in places] == masks.hidden_BH[b].tolist()
            values = found.values[b]
        expected = torch.from_numpy(np.stack(list(slow.values())))
        if config.model.confidence:
            expected = expected[:, :192]  # the other half has been through a sigmoid, and stands in the loss
        # what differs is the rounding of the views to float32
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)


def test_the_variants_mask_what_they_say() -> None:
    """The cases above are only worth something where they have views of several kinds."""
    for name, numbers in {"references": 2, "ratios": 3, "replaced": 2, "muskie": 2, "croco": 2}.items():
        V, sets = VARIANTS[name]
        masks = masks_of(thin(*sets), 2, V, step=1)
        assert len(masks.is_hidden_BVN.sum(-1).unique()) >= numbers, name
    kept = masks_of(thin(*CROCO), 2, 2, step=1)
    assert kept.is_hidden_BVN.any(-1).tolist() in ([[True, False], [False, True]], [[False, True], [True, False]])


@pytest.mark.parametrize("kind", ["axial", "integer"])
@pytest.mark.parametrize("num_special", [0, 3])
def test_rotary_tables_and_rotation_equal_the_slow_version(kind: str, num_special: int) -> None:
    rope = Rope(kind, 16, 100.0, num_special)
    table = rope(3, 5, torch.device("cpu"))
    T = num_special + 15
    assert table.cos.shape == table.sin.shape == ((T, 1, 8) if kind == "axial" else (T, 2, 4))
    config = thin(f"model.positions={kind}", "model.class_token=false", f"model.registers={num_special}")
    plain = PlainModel({}, config.model, (3, 5))
    x = torch.randn(2, 4, T, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, table)
    for token, place in enumerate(plain.all_places()):
        expected = plain.turned(x[1, 2, token].double().numpy(), place)
        torch.testing.assert_close(turned[1, 2, token].double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(turned[:, :, :num_special], x[:, :, :num_special])  # special tokens stay
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert rope(3, 5, torch.device("cpu")) is table  # cached, and no part of the weights
    assert not list(build_model(config).buffers())


@pytest.mark.parametrize("kind", ["axial", "integer"])
@pytest.mark.parametrize("of_each", [False, True])
def test_the_fast_rotation_and_its_gradient_equal_the_readable_one(kind: str, of_each: bool) -> None:
    rope = Rope(kind, 8, 100.0, 1, torch.float64)(2, 3, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    if of_each:
        rope = rope.take(torch.rand(3, 7, generator=generator).argsort(1)[:, :4])
    qkv = torch.randn(3, 4 if of_each else 7, 3, 2, 8, dtype=torch.float64, generator=generator).requires_grad_()
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    expected = rotate(q, rope), rotate(k, rope), v
    found = split_rotated(qkv, rope)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    weights = [torch.randn(part.shape, dtype=torch.float64, generator=generator) for part in expected]
    of_fast, of_slow = (
        torch.autograd.grad(sum((w * part).sum() for w, part in zip(weights, parts, strict=True)), qkv)[0]
        for parts in (found, expected)
    )
    torch.testing.assert_close(of_fast, of_slow)
    low = split_rotated(qkv.bfloat16(), RopeTable(rope.cos.float(), rope.sin.float()))
    for part, exact in zip(low, expected, strict=True):
        assert part.dtype == torch.bfloat16
        torch.testing.assert_close(part.double(), exact, rtol=0.01, atol=0.02)


def test_heads_whose_channels_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="6 is no multiple of 4"):
        Rope("axial", 6, 100.0, 1)


def test_a_table_made_under_inference_mode_serves_training() -> None:
    config = thin()
    model, views, masks = build_model(config), pictures(1, 2), masks_of(config, 1, 2)
    with torch.inference_mode():
        model(views, masks)
    model(views, masks).backward()


# ---- what the model must and must not do


def test_one_view_is_a_masked_autoencoder() -> None:
    """With V = 1 it makes no difference whether blocks see one view or all."""
    config = thin()
    frame = thin("model.decoder_attention=frame")
    model, mae = shaken(build_model(config)), shaken(build_model(frame))
    views = pictures(3, 1)
    masks = masks_of(config, 3, 1)
    with torch.no_grad():
        assert float(model(views, masks)) == pytest.approx(float(mae(views, masks)), rel=1e-6)
        two = pictures(3, 2)
        masks = masks_of(config, 3, 2)
        assert float(model(two, masks)) != pytest.approx(float(mae(two, masks)), rel=1e-4)


def reordered(masks: Masks, order: torch.Tensor) -> Masks:
    """Masks for views in another order."""
    hidden = masks.is_hidden_BVN[:, order]
    kept = [[(~of_view).nonzero().flatten() for of_view in of_sequence] for of_sequence in hidden]
    groups = []
    for number in sorted({len(places) for of_sequence in kept for places in of_sequence}):
        views = [[v for v, places in enumerate(of_sequence) if len(places) == number] for of_sequence in kept]
        chosen = [torch.stack([kept[b][v] for v in of_sequence]) for b, of_sequence in enumerate(views)]
        groups.append(Group(torch.tensor(views), torch.stack(chosen)))
    places = [of_sequence.flatten().nonzero().flatten() for of_sequence in hidden]
    return Masks(hidden, torch.stack(places), tuple(groups))


@pytest.mark.parametrize("name", ["mum", "references", "ratios", "encoder attention"])
def test_permuting_views_permutes_predictions(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model = shaken(build_model(config))
    views, masks = pictures(2, V), masks_of(config, 2, V)
    order = torch.tensor([2, 0, 3, 1] if V == 4 else [2, 0, 1])
    patches = patchify(normalise(views), 8)

    def everywhere(patches: torch.Tensor, masks: Masks) -> torch.Tensor:
        values = model.predict(patches, GRID, masks).values
        assert masks.hidden_BH is not None
        places = masks.hidden_BH[..., None].expand_as(values)
        return torch.zeros(2, V * 15, 192).scatter(1, places, values).unflatten(1, (V, 15))

    with torch.no_grad():
        straight = everywhere(patches, masks)
        permuted = everywhere(patches[:, order], reordered(masks, order))
    torch.testing.assert_close(permuted, straight[:, order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(straight, straight[:, order], atol=1e-2)


@pytest.mark.parametrize("name", ["mum", "muskie", "references", "encoder attention"])
def test_views_of_a_sequence_meet_and_sequences_of_a_batch_do_not(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model = shaken(build_model(config))
    views, masks = pictures(2, V), masks_of(config, 2, V, step=1)
    patches = patchify(normalise(views), 8).requires_grad_()
    values = model.predict(patches, GRID, masks).values
    (gradient,) = torch.autograd.grad(values[0, 0].square().sum(), patches)
    reached = gradient.abs().sum(-1) > 0  # [B, V, N]
    expected = ~masks.is_hidden_BVN
    expected[1] = False  # what is not hidden in all views of its sequence, and nothing else
    assert torch.equal(reached, expected)


def test_each_view_by_itself_is_never_met_by_others() -> None:
    config = thin(*MAE)
    model, masks = shaken(build_model(config)), masks_of(config, 1, 3)
    patches = patchify(normalise(pictures(1, 3)), 8).requires_grad_()
    (gradient,) = torch.autograd.grad(model.predict(patches, GRID, masks).values[0, 0].sum(), patches)
    reached = (gradient.abs().sum(-1) > 0)[0].any(-1)
    assert masks.hidden_BH is not None
    assert reached.nonzero().flatten().tolist() == [int(masks.hidden_BH[0, 0]) // 15]


@pytest.mark.parametrize("name", ["mum", "croco", "muskie", "ratios"])
def test_other_sequences_of_the_batch_change_nothing(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model = precise(shaken(build_model(config)))
    masks = masks_of(config, 3, V)
    patches = patchify(normalise(pictures(3, V), config.model.pixels).double(), 8)
    alone = replace(
        masks,
        is_hidden_BVN=masks.is_hidden_BVN[1:2],
        hidden_BH=masks.hidden_BH[1:2] if masks.hidden_BH is not None else None,
        groups=tuple(replace(g, views_BG=g.views_BG[1:2], kept_BGK=g.kept_BGK[1:2]) for g in masks.groups or ())
        or None,
    )
    with torch.no_grad():
        together = model.predict(patches, GRID, masks).values[1:2]
        by_itself = model.predict(patches[1:2], GRID, alone).values
    torch.testing.assert_close(together, by_itself, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mum", "croco", "muskie", "references", "encoder attention", "replaced"])
def test_gradient_reaches_all_weights(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model = shaken(build_model(config))
    model(pictures(2, V), masks_of(config, 2, V, step=1)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_gradient_reaches_the_encoder_from_each_view() -> None:
    config = thin()
    model, masks = shaken(build_model(config)), masks_of(config, 1, 3)
    patches = patchify(normalise(pictures(1, 3)), 8)
    predicted = model.predict(patches, GRID, masks)
    assert masks.hidden_BH is not None
    for v in range(3):
        model.zero_grad()
        predicted.values[:, masks.hidden_BH[0] // 15 == v].square().mean().backward(retain_graph=True)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["mum", "muskie", "muskie, rectangles", "references"])
def test_the_loss_looks_at_hidden_patches_alone_and_the_model_at_the_others(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model, masks = shaken(build_model(config)), masks_of(config, 1, V, step=1)
    patches = patchify(normalise(pictures(1, V)), 8)
    hidden = masks.is_hidden_BVN[..., None]
    with torch.no_grad():
        predicted = model.predict(patches, GRID, masks)
        before = model.loss(predicted, patches, masks)
        assert torch.equal(model.loss(predicted, torch.where(hidden, patches, 7.0), masks), before)
        assert not torch.equal(model.loss(predicted, torch.where(hidden, 7.0, patches), masks), before)
        again = model.predict(torch.where(hidden, 7.0, patches), GRID, masks)
    assert torch.equal(again.values, predicted.values)


@pytest.mark.parametrize("name", ["mum", "croco", "muskie"])
def test_activations_computed_again_change_nothing(name: str) -> None:
    V, sets = VARIANTS[name]
    found = []
    for recompute in ("false", "true"):
        config = thin(*sets, f"model.recompute={recompute}")
        model, kept = shaken(build_model(config)), [0]

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(pictures(2, V), masks_of(config, 2, V))
        loss.backward()
        grads = [parameter.grad for parameter in model.parameters()]
        found.append((loss.detach(), grads, kept[0]))
    (loss, grads, kept), (again, others, fewer) = found
    assert torch.equal(loss, again)
    for one, other in zip(grads, others, strict=True):
        torch.testing.assert_close(one, other)
    assert fewer < kept / 2


# ---- pixels and targets


def test_the_target_does_not_depend_on_light_and_contrast() -> None:
    patches = torch.randn(1, 1, 5, 768, generator=torch.Generator().manual_seed(0))
    target, mean, std = normalise_patches(patches)
    torch.testing.assert_close(normalise_patches(3 * patches + 2).patches, target, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target.var(-1), torch.ones(1, 1, 5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target * std + mean, patches)
    assert torch.isfinite(normalise_patches(torch.ones(1, 1, 1, 768)).patches).all()


def test_patchify_and_back() -> None:
    views = torch.randn(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    patches = patchify(views, 16)
    assert patches.shape == (2, 3, 6, 768)
    expected = views[1, 2, :, 16:32, 32:48].permute(1, 2, 0).flatten()  # row 1, column 2 of 2 x 3 patches
    assert torch.equal(patches[1, 2, 5], expected)
    assert torch.equal(unpatchify(patches, 16, (2, 3)), views)


@pytest.mark.parametrize("of", ["imagenet", "half"])
def test_pixels_come_back(of: str) -> None:
    views = pictures(1, 2)
    torch.testing.assert_close(denormalise(normalise(views, of), of) * 255, views.float())
    black = normalise(torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), of)[0, 0, :, 0, 0]
    expected = {"imagenet": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], "half": [-1.0, -1.0, -1.0]}[of]
    torch.testing.assert_close(black, torch.tensor(expected))


# ---- features


def reference(encoder: Encoder, images: torch.Tensor) -> list[torch.Tensor]:
    """All tokens before the first block and after each, by calling the blocks."""
    B, _, H, W = images.shape
    grid = (H // 8, W // 8)
    x = encoder.patch_embedding(patchify(images[:, None], 8)[:, 0])
    assert encoder.class_token is not None
    x = torch.cat([encoder.class_token.expand(B, -1, -1), x], dim=1)
    layers = []
    for block in encoder.blocks:
        x = block(x, encoder.table(grid, x.device))
        layers.append(x)
    return layers


def test_features_have_the_usual_names_and_shapes() -> None:
    encoder = shaken(build_model(thin("model.encoder.depth=4"))).encoder
    images = torch.randn(2, 3, 16, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layers = reference(encoder, images)
        found = encoder.forward_features(images)
        assert set(found) == {"x_norm_patchtokens", "x_norm_cls_token", "x_norm_regtokens", "x_prenorm"}
        torch.testing.assert_close(found["x_prenorm"], layers[-1])
        torch.testing.assert_close(found["x_norm_patchtokens"], encoder.norm(layers[-1])[:, 1:])
        torch.testing.assert_close(found["x_norm_cls_token"], encoder.norm(layers[-1])[:, 0])
        assert found["x_norm_regtokens"].shape == (2, 0, 32)

        (last,) = encoder.get_intermediate_layers(images)
        assert torch.equal(last, found["x_norm_patchtokens"])
        for n, numbers in ((3, [1, 2, 3]), ([2, 0], [2, 0]), (range(4), [0, 1, 2, 3])):
            some = encoder.get_intermediate_layers(images, n, norm=False)
            assert len(some) == len(numbers)
            for tokens, number in zip(some, numbers, strict=True):
                torch.testing.assert_close(tokens, layers[number][:, 1:])
        ((part, token),) = encoder.get_intermediate_layers(images, [1], return_class_token=True, reshape=True)
        assert part.shape == (2, 32, 2, 5)
        torch.testing.assert_close(part[1, :, 1, 3], encoder.norm(layers[1])[1, 1 + 8])
        torch.testing.assert_close(token, encoder.norm(layers[1])[:, 0])


def test_features_of_views_of_a_scene() -> None:
    views = torch.randn(2, 3, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    alone = shaken(build_model(thin("model.registers=2"))).encoder
    with torch.no_grad():
        found = alone.forward_features(views)
        assert found["x_norm_patchtokens"].shape == (2, 3, 6, 32)
        assert found["x_norm_cls_token"].shape == (2, 3, 32)
        assert found["x_norm_regtokens"].shape == (2, 3, 2, 32)
        of_images = alone.forward_features(views.flatten(0, 1))
        for name, part in of_images.items():
            torch.testing.assert_close(found[name].flatten(0, 1), part)
        torch.testing.assert_close(found["x_norm_regtokens"], alone.norm(found["x_prenorm"])[:, :, 1:3])
        of_views, of_images = (alone.get_intermediate_layers(x, [1, 0]) for x in (views, views.flatten(0, 1)))
        for one, other in zip(of_views, of_images, strict=True):
            torch.testing.assert_close(one.flatten(0, 1), other)
        together = shaken(build_model(thin(*MUSKIE))).encoder
        found = together.forward_features(views)
        assert "x_norm_cls_token" not in found
        single = together.forward_features(views[:, :1])
        assert not torch.allclose(found["x_norm_patchtokens"][:, 0], single["x_norm_patchtokens"][:, 0], atol=1e-3)
        (part,) = together.get_intermediate_layers(views, reshape=True)
        assert part.shape == (2, 3, 32, 3, 2)


def test_with_nothing_hidden_training_and_features_see_the_same() -> None:
    config = thin()
    encoder = shaken(build_model(config)).encoder
    images = normalise(pictures(2, 3))
    patches = patchify(images, 8)
    every = torch.arange(15).expand(2, 3, 15)
    with torch.no_grad():
        features = encoder.forward_features(images)["x_norm_patchtokens"]
        torch.testing.assert_close(encoder.encode(patches, GRID, kept_BVK=every)[:, :, 1:], features)
        # and hidden patches leave the others in their places
        kept = every.flip(-1)[..., ::2]
        some = encoder.encode(patches.gather(2, kept[..., None].expand(-1, -1, -1, 192)), GRID, kept_BVK=kept)
        ascending = encoder.encode(patches[:, :, ::2], GRID, kept_BVK=every[..., ::2])
    torch.testing.assert_close(some[:, :, 1:].flip(2), ascending[:, :, 1:])


def test_padding_fills_up_to_the_right_and_below() -> None:
    encoder = shaken(build_model(thin())).encoder
    images = torch.randn(1, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    filled = torch.zeros(1, 3, 24, 40)
    filled[:, :, :20, :33] = images
    with torch.no_grad():
        (part,) = encoder.get_intermediate_layers(images, pad=True, reshape=True)
        (expected,) = encoder.get_intermediate_layers(filled, reshape=True)
        assert part.shape == (1, 32, 3, 5)
        assert torch.equal(part, expected)
        padded = encoder.forward_features(images, pad=True)
        assert torch.equal(padded["x_prenorm"], encoder.forward_features(filled)["x_prenorm"])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 3, 20, 32), {}, "32 x 20 pixels are no whole patches of 8.*pad=True"),
        ((3, 16, 16), {}, r"not \[3, 16, 16\]"),
        ((1, 4, 16, 16), {}, r"not \[1, 4, 16, 16\]"),
        ((1, 3, 16, 16), {"n": 3}, "2 blocks, 0 to 1"),
        ((1, 3, 16, 16), {"n": [0, 2]}, "2 blocks, 0 to 1"),
        ((1, 3, 16, 16), {"n": 0}, "do not exist"),
    ],
)
def test_wrong_images_and_layers(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    encoder = build_model(thin()).encoder
    with pytest.raises(MumError, match=message):
        encoder.get_intermediate_layers(torch.zeros(shape), **options)


def test_images_that_nobody_normalised() -> None:
    with pytest.raises(MumError, match=r"not torch\.uint8"):
        build_model(thin()).encoder.forward_features(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_a_class_token_that_is_not_there() -> None:
    encoder = build_model(thin(*MUSKIE)).encoder
    with pytest.raises(MumError, match="no class token"):
        encoder.get_intermediate_layers(torch.zeros(1, 3, 16, 16), return_class_token=True)


def test_layers_of_the_decoder_know_of_the_other_views() -> None:
    model = shaken(build_model(thin()))
    views = normalise(pictures(2, 3))
    with torch.no_grad():
        layers = model.multi_view_layers(views)
        assert [layer.shape for layer in layers] == [(2, 3, 15, 24)] * 3
        assert isinstance(model.decoder, Decoder)
        # the first block sees one view, the second all of them; the third adds nothing new
        other = views.clone()
        other[:, 2] = 0.5
        for layer, changed, meets in zip(layers, model.multi_view_layers(other), [False, True, True], strict=True):
            assert torch.allclose(layer[:, :2], changed[:, :2], atol=1e-5) != meets
        x = model.decoder.embedding(model.encoder.encode(patchify(views, 8), GRID)).flatten(0, 1)
        x = model.decoder.blocks[0](x, model.decoder.table(GRID, x.device))
    torch.testing.assert_close(layers[0].flatten(0, 1), x[:, 1:])
    with pytest.raises(MumError, match="no decoder over all views"):
        build_model(thin(*MUSKIE)).multi_view_layers(views)


# ---- number formats, compiling, exporting


@pytest.mark.parametrize("name", ["mum", "croco", "muskie"])
def test_bfloat16_products_stay_near_float32(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model, views, masks = build_model(config), pictures(2, V), masks_of(config, 2, V)
    with torch.no_grad():
        exact = model(views, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(views, masks)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact), rel=0.01)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_bfloat16_products_are_added_up_in_float32() -> None:
    """What blocks add up keeps its digits: products that are next to nothing must not vanish in the sum."""
    model = build_model(thin("model.encoder.depth=1"))
    block = model.encoder.blocks[0]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.get_parameter("mlp.contract.bias").fill_(2.0**-12)
        model.encoder.class_token.fill_(1.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.encoder.forward_features(torch.zeros(1, 3, 16, 16))
    assert found["x_prenorm"].dtype == torch.float32
    assert torch.equal(found["x_prenorm"][0, 0], torch.full((32,), 1 + 2.0**-12))


def test_an_encoder_of_bfloat16_weights() -> None:
    encoder = build_model(thin()).encoder
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = encoder.forward_features(images)["x_norm_patchtokens"]
        low = encoder.bfloat16().forward_features(images)["x_norm_patchtokens"]
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["croco", "muskie, rectangles", "ratios"])
def test_compiling_the_whole_training_forward_changes_nothing(name: str) -> None:
    V, sets = VARIANTS[name]
    config = thin(*sets)
    model, views, masks = build_model(config), pictures(2, V), masks_of(config, 2, V)
    loss = model(views, masks)
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(views, masks)
    compiled.backward()
    torch.testing.assert_close(compiled, loss)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_encoder_can_be_exported() -> None:
    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = shaken(build_model(thin("model.registers=1"))).encoder.eval()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.encoder.forward_features(images)["x_norm_patchtokens"]

    module = Features()
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(module, (torch.zeros(2, 3, 16, 24),)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), module(images))


# ---- sizes, first values, optimiser


def count(name: str) -> int:
    model = build_model(recipe(name), device="meta")
    assert not list(model.buffers())
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts_are_those_known() -> None:
    assert count("mum-vitl16") == 389_534_464
    assert count("mum-vitb16") == 111_655_680
    assert count("croco-v2-vitl16") == 417_918_720
    encoder = build_model(recipe("mum-vitl16"), device="meta").encoder
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 303.1


@pytest.mark.parametrize(("width", "expected"), [(768, 1.31), (512, 1.20)])
def test_the_loss_starts_where_the_width_says(width: int, expected: float) -> None:
    """1 + 0.0004 x decoder width: the head's outputs have that variance, the target's is one."""
    config = thin(f"model.decoder.width={width}", "model.decoder.depth=1", "model.decoder.heads=16", "model.patch=16")
    views = torch.randint(0, 256, (4, 2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        loss = build_model(config)(views, masks_of(config, 4, 2, (4, 4)))
    assert float(loss) == pytest.approx(expected, abs=0.03)


def test_first_weights_have_the_stated_distributions() -> None:
    config = thin("model.encoder.width=192", "model.encoder.heads=3", "model.registers=4")
    parameters = dict(build_model(config).named_parameters())
    bound = 192**-0.5
    for part in ("weight", "bias"):
        embedding = parameters[f"encoder.patch_embedding.{part}"].detach()
        assert bound * 0.9 < float(embedding.abs().max()) <= bound
        assert float(embedding.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    for name, parameter in parameters.items():
        values = parameter.detach()
        if "patch_embedding" in name:
            continue
        if parameter.ndim > 1:
            assert float(values.std()) == pytest.approx(0.02, rel=0.35 if "token" in name else 0.05), name
            assert float(values.mean()) == pytest.approx(0, abs=0.02 * 4.5 / math.sqrt(values.numel())), name
        else:
            assert torch.equal(values, torch.full_like(values, float("norm" in name and name.endswith("weight")))), name


def test_xavier_first_weights_are_uniform_by_the_widths() -> None:
    for name, parameter in build_model(thin(*CROCO, "model.encoder.width=64")).named_parameters():
        values = parameter.detach()
        if name.endswith("token"):
            assert float(values.std()) == pytest.approx(0.02, rel=0.35)
        elif parameter.ndim == 2:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert bound * 0.98 < float(values.abs().max()) <= bound, name
            assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), name
        else:
            assert torch.equal(values, torch.full_like(values, float("norm" in name and name.endswith("weight")))), name


def test_first_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build_model(thin()).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    other, reseeded = build_model(thin()).state_dict(), build_model(thin("seed=1")).state_dict()
    deeper = build_model(thin("model.encoder.depth=3", "model.registers=2")).state_dict()
    for name, value in one.items():
        assert torch.equal(value, other[name])
        assert torch.equal(value, deeper[name])
        assert value.unique().numel() == 1 or not torch.equal(value, reseeded[name])


@pytest.mark.parametrize("sets", [(), MUSKIE, CROCO])
def test_decay_spares_one_dimensional_parameters_but_not_the_tokens(sets: tuple[str, ...]) -> None:
    config = thin(*sets)
    model = build_model(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = (
        {names[id(parameter)] for parameter in group["params"]} for group in build_optimizer(model, config).param_groups
    )
    assert {name for name in names.values() if name.endswith("token")} <= decayed
    assert "decoder.head.weight" in decayed
    assert decayed | spared == set(names.values())
    assert spared == {n for n in names.values() if n.endswith("bias") or ("norm" in n and n.endswith("weight"))}


def test_the_learning_rate_rises_in_a_line_and_falls_to_zero() -> None:
    config = recipe("mum-vitl16")
    assert peak_lr(config) == pytest.approx(3.6e-3)
    assert lr_at(config, 12_499) == pytest.approx(1.8e-3)
    assert lr_at(config, 25_000) == pytest.approx(3.6e-3)
    assert lr_at(config, 25_000 + 475_000 // 2) == pytest.approx(1.8e-3)
    assert lr_at(config, 500_000) == pytest.approx(0, abs=1e-12)
    rates = [lr_at(config, step) for step in range(0, 500_001, 500)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert lr_at(thin("steps=5", "optim.warmup_steps=10"), 4) == pytest.approx(peak_lr(thin()) / 2)


@pytest.mark.slow
def test_one_batch_can_be_learned_by_heart() -> None:
    """Of noise nothing can be guessed: a loss near zero is memory, and every part must carry its gradient."""
    config = apply(recipe("mum-cpu"), ["data.size=32"])
    model = build_model(config)
    views = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = masks_of(config, 2, 4, (4, 4))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0)
    losses = []
    for step in range(240):
        set_lr(optimizer, 1e-3 * min(1, (step + 1) / 20, 3 * (1 - step / 240)))
        optimizer.zero_grad()
        loss = model(views, masks)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.95
    assert losses[-1] < 0.002


def test_an_encoder_called_with_images_gives_a_vector_each() -> None:
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for sets in ([], ["model.class_token=false"]):
        encoder = build_model(apply(recipe("debug-cpu"), sets)).encoder.eval()
        found = encoder.forward_features(images)
        wanted = found["x_norm_patchtokens"].mean(1) if sets else found["x_norm_cls_token"]
        torch.testing.assert_close(encoder(images), wanted)
        assert encoder(images).shape == (2, encoder.embed_dim)
    assert (encoder.patch_size, encoder.n_blocks, encoder.num_heads) == (8, 4, 3)
    half = build_model(apply(recipe("debug-cpu"), ["model.pixels=half"])).encoder
    assert (half.mean, half.std) == ((0.5,) * 3, (0.5,) * 3)
