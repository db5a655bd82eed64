"""The model against slow, plain versions of the formulas, and against what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mumdata.errors import ConfigError
from mumtrain.config import Config, apply, num_kept
from mumtrain.layers import Attention, Block, Rope, rotate
from mumtrain.masking import draw_masks
from mumtrain.objectives import (
    MultiViewMae,
    build_model,
    masked_loss,
    normalise,
    normalise_patches,
    patchify,
    unpatchify,
)
from mumtrain.optim import build_optimizer, lr_at, peak_lr
from mumtrain.recipes import recipe

THIN = [
    "model.patch=16",
    "data.size=64",
    "model.encoder.width=32",
    "model.encoder.depth=2",
    "model.encoder.heads=2",
    "model.decoder.width=24",
    "model.decoder.depth=3",
    "model.decoder.heads=2",
]


def thin(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, *sets])


def make(config: Config) -> MultiViewMae:
    model = build_model(config)
    assert isinstance(model, MultiViewMae)
    return model


def pictures(B: int, V: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (B, V, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def masks(B: int, V: int, num: int = 16, ratio: float = 0.75, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = draw_masks(thin().mask, B, V, num, seed=0, step=step, slot=0)
    assert ratio == 0.75
    return torch.from_numpy(drawn.kept), torch.from_numpy(drawn.masked)


# ---- slow versions, one token and one head at a time


def slow_angles(rows: int, columns: int, head_dim: int, base: float) -> list[list[float]]:
    table = []
    for row in range(rows):
        for column in range(columns):
            angles = []
            for place, length in ((row, rows), (column, columns)):
                coordinate = (place + 0.5) / length * 2 - 1
                for k in range(head_dim // 4):
                    angles.append(2 * math.pi * coordinate / base ** (2 * k / (head_dim / 2)))
            table.append(angles * 2)
    return table


def slow_rotate(vector: torch.Tensor, angles: list[float] | None) -> torch.Tensor:
    if angles is None:  # a class token
        return vector
    half = len(vector) // 2
    out = torch.empty_like(vector)
    for i in range(half):
        a, b, angle = vector[i], vector[i + half], angles[i]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def slow_attention(layer: Attention, x_LD: torch.Tensor, angles: list[list[float] | None]) -> torch.Tensor:
    D = x_LD.shape[1]
    d = D // layer.heads
    qkv = x_LD @ layer.qkv.weight.T + layer.qkv.bias
    out = torch.empty_like(x_LD)
    for head in range(layer.heads):
        q, k, v = (qkv[:, part * D + head * d : part * D + (head + 1) * d] for part in range(3))
        q = torch.stack([slow_rotate(row, a) for row, a in zip(q, angles, strict=True)])
        k = torch.stack([slow_rotate(row, a) for row, a in zip(k, angles, strict=True)])
        for token in range(len(x_LD)):
            scores = torch.stack([q[token] @ other / math.sqrt(d) for other in k])
            weights = scores.exp() / scores.exp().sum()
            out[token, head * d : (head + 1) * d] = (weights[:, None] * v).sum(0)
    return out @ layer.projection.weight.T + layer.projection.bias


def slow_norm(layer: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * layer.weight + layer.bias


def slow_block(block: Block, x_LD: torch.Tensor, angles: list[list[float] | None]) -> torch.Tensor:
    x_LD = x_LD + slow_attention(block.attention, slow_norm(block.norm_attention, x_LD), angles)
    inner = slow_norm(block.norm_mlp, x_LD) @ block.mlp.expand.weight.T + block.mlp.expand.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return x_LD + inner @ block.mlp.contract.weight.T + block.mlp.contract.bias


def slow_predict(model: MultiViewMae, views_VCHW: torch.Tensor, kept: list[list[int]]) -> torch.Tensor:
    """All patches' predictions [V, N, P] for one sequence, written from the description."""
    V, _, H, W = views_VCHW.shape
    rows, columns = H // 16, W // 16
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    encoder, decoder = model.encoder, model.decoder
    of_encoder = slow_angles(rows, columns, encoder.rope.head_dim, 100)
    of_decoder = slow_angles(rows, columns, decoder.rope.head_dim, 100)
    views = []
    for v in range(V):
        tokens = [encoder.class_token[0, 0]]
        for n in kept[v]:
            r, c = n // columns * 16, n % columns * 16
            pixels = (views_VCHW[v, :, r : r + 16, c : c + 16].permute(1, 2, 0) / 255 - mean) / std
            tokens.append(encoder.patch_embedding.weight @ pixels.flatten() + encoder.patch_embedding.bias)
        x = torch.stack(tokens)
        for block in encoder.blocks:
            assert isinstance(block, Block)
            x = slow_block(block, x, [None, *(of_encoder[n] for n in kept[v])])
        x = slow_norm(encoder.norm, x) @ decoder.embedding.weight.T + decoder.embedding.bias
        full = [x[0]] + [decoder.mask_token[0, 0]] * (rows * columns)
        for place, n in enumerate(kept[v]):
            full[1 + n] = x[1 + place]
        views.append(torch.stack(full))
    one: list[list[float] | None] = [None, *of_decoder]
    for number, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        if number % 2 == 0:
            views = [slow_block(block, x, one) for x in views]
        else:
            views = list(slow_block(block, torch.cat(views), one * V).split(len(one)))
    return torch.stack([slow_norm(decoder.norm, x)[1:] @ decoder.head.weight.T + decoder.head.bias for x in views])


def slow_loss(model: MultiViewMae, views_BVCHW: torch.Tensor, kept_BVK: torch.Tensor) -> float:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    errors = []
    for views, kept in zip(views_BVCHW, kept_BVK.tolist(), strict=True):
        predictions = slow_predict(model, views, kept)
        columns = views.shape[-1] // 16
        for v in range(len(views)):
            for n in range(predictions.shape[1]):
                if n in kept[v]:
                    continue
                r, c = n // columns * 16, n % columns * 16
                pixels = ((views[v, :, r : r + 16, c : c + 16].permute(1, 2, 0) / 255 - mean) / std).flatten()
                target = (pixels - pixels.mean()) / (pixels.var(unbiased=True) + 1e-6).sqrt()
                errors.append(((predictions[v, n] - target) ** 2).mean())
    return float(torch.stack(errors).mean())


def shaken(model: MultiViewMae) -> MultiViewMae:
    """The model with weights large enough that attention, biases and norms all matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def test_model_and_loss_equal_the_slow_version() -> None:
    model = shaken(make(thin()))
    views = pictures(2, 3)
    kept, masked = masks(2, 3)
    with torch.no_grad():
        patches = patchify(normalise(views), 16)
        fast = model.predict(patches, (4, 4), kept, masked)
        for b in range(2):
            slow = slow_predict(model, views[b], kept[b].tolist())
            slow = torch.stack([slow[v][masked[b, v]] for v in range(3)])
            torch.testing.assert_close(fast[b], slow, rtol=1e-5, atol=1e-5)
        assert float(model(views, kept, masked)) == pytest.approx(slow_loss(model, views, kept), rel=1e-5)


def test_rotary_table_and_rotation_equal_the_slow_version() -> None:
    rope = Rope(16, 100.0)
    table = rope(3, 5, torch.device("cpu"))
    slow = torch.tensor([[0.0] * 16, *slow_angles(3, 5, 16, 100.0)], dtype=torch.float64)
    torch.testing.assert_close(table.cos, slow.cos().float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(table.sin, slow.sin().float(), rtol=0, atol=1e-6)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, table)
    for token in range(16):
        expected = slow_rotate(x[1, 2, token], slow[token].tolist())
        torch.testing.assert_close(turned[1, 2, token], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])  # the class token stays
    assert rope(3, 5, torch.device("cpu")) is table  # cached, and no part of the weights
    assert not rope.state_dict()


def test_a_table_made_under_inference_mode_serves_training() -> None:
    model = make(thin())
    views, (kept, masked) = pictures(1, 2), masks(1, 2)
    with torch.inference_mode():
        model(views, kept, masked)
    model(views, kept, masked).backward()


def test_one_view_is_a_masked_autoencoder() -> None:
    """With V = 1: a decoder of plain blocks over one view, written here for a single image."""
    model = shaken(make(thin()))
    views, (kept, masked) = pictures(3, 1), masks(3, 1)
    decoder, losses = model.decoder, []
    with torch.no_grad():
        for b in range(3):
            patches = patchify(normalise(views[b : b + 1]), 16)[0]
            latent = model.encoder(patches, (4, 4), kept[b])
            x = decoder.embedding(latent)
            full = torch.cat([x[:, :1], decoder.mask_token.expand(1, 16, -1)], dim=1).clone()
            full[0, 1 + kept[b, 0]] = x[0, 1:]
            for block in decoder.blocks:
                full = block(full, decoder.rope(4, 4, full.device))
            predicted = decoder.head(decoder.norm(full))[:, 1:]
            error = (predicted - normalise_patches(patches).patches).square().mean(-1)[0]
            hidden = torch.ones(16).index_fill(0, kept[b, 0], 0)
            losses.append((error * hidden).sum() / hidden.sum())
        assert float(model(views, kept, masked)) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_permuting_views_permutes_predictions() -> None:
    model = shaken(make(thin()))
    views, (kept, masked) = pictures(2, 4), masks(2, 4)
    order = torch.tensor([2, 0, 3, 1])
    patches = patchify(normalise(views), 16)
    with torch.no_grad():
        straight = model.predict(patches, (4, 4), kept, masked)
        permuted = model.predict(patches[:, order], (4, 4), kept[:, order], masked[:, order])
    torch.testing.assert_close(permuted, straight[:, order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(straight, straight[:, order], atol=1e-2)


def test_views_of_a_sequence_meet_and_sequences_of_a_batch_do_not() -> None:
    model = shaken(make(thin()))
    views, (kept, masked) = pictures(2, 3), masks(2, 3)
    patches = patchify(normalise(views), 16).requires_grad_()
    predicted = model.predict(patches, (4, 4), kept, masked)
    (gradient,) = torch.autograd.grad(predicted[0, 0].square().sum(), patches)
    reached = gradient.abs().sum(-1) > 0  # [B, V, N]
    expected = torch.zeros_like(reached)
    expected[0].scatter_(1, kept[0], True)  # the kept patches of all its views, and nothing else
    assert torch.equal(reached, expected)


def test_gradient_reaches_the_encoder_from_each_view() -> None:
    model = shaken(make(thin()))
    views, (kept, masked) = pictures(1, 3), masks(1, 3)
    patches = patchify(normalise(views), 16)
    predicted = model.predict(patches, (4, 4), kept, masked)
    for v in range(3):
        model.zero_grad()
        loss = masked_loss(predicted[:, v : v + 1], patches[:, v : v + 1], masked[:, v : v + 1])
        loss.backward(retain_graph=True)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_loss_looks_at_hidden_patches_alone() -> None:
    model = shaken(make(thin()))
    views, (kept, masked) = pictures(1, 2), masks(1, 2)
    patches = patchify(normalise(views), 16)
    predicted = model.predict(patches, (4, 4), kept, masked)
    before = masked_loss(predicted, patches, masked)
    changed = patches.scatter(2, kept[..., None].expand(-1, -1, -1, 768), 7.0)
    assert torch.equal(masked_loss(predicted, changed, masked), before)
    hidden = patches.scatter(2, masked[..., None].expand(-1, -1, -1, 768), 7.0)
    assert not torch.equal(masked_loss(predicted, hidden, masked), before)
    # and what is hidden does not reach the model
    assert torch.equal(model.predict(hidden, (4, 4), kept, masked), predicted)


def test_the_target_does_not_depend_on_light_and_contrast() -> None:
    patches = torch.randn(1, 1, 5, 768, generator=torch.Generator().manual_seed(0))
    target = normalise_patches(patches).patches
    torch.testing.assert_close(normalise_patches(3 * patches + 2).patches, target, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target.var(-1), torch.ones(1, 1, 5), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(normalise_patches(torch.ones(1, 1, 1, 768)).patches).all()


def test_patchify_and_back() -> None:
    views = torch.randn(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    patches = patchify(views, 16)
    assert patches.shape == (2, 3, 6, 768)
    expected = views[1, 2, :, 16:32, 32:48].permute(1, 2, 0).flatten()  # row 1, column 2 of 2 x 3 patches
    assert torch.equal(patches[1, 2, 5], expected)
    assert torch.equal(unpatchify(patches, 16, (2, 3)), views)


# ---- masks


@pytest.mark.parametrize(("num", "ratio"), [(196, 0.75), (36, 0.75), (256, 0.9), (16, 0.5), (196, 0.65)])
def test_masks_are_exact_and_independent(num: int, ratio: float) -> None:
    config = thin(f"mask.ratio={ratio}").mask
    drawn = draw_masks(config, 5, 4, num, seed=3, step=10**6, slot=2)
    kept = num_kept(num, ratio)
    assert drawn.kept.shape == (5, 4, kept)
    assert drawn.masked.shape == (5, 4, num - kept)
    assert drawn.kept.dtype == drawn.masked.dtype == np.int64
    rows = np.concatenate([drawn.kept, drawn.masked], axis=-1).reshape(20, num)
    assert (np.sort(rows) == np.arange(num)).all()
    assert (np.diff(drawn.kept) > 0).all()
    assert (np.diff(drawn.masked) > 0).all()
    assert len({row.tobytes() for row in drawn.kept.reshape(20, kept)}) == 20
    again = draw_masks(config, 5, 4, num, seed=3, step=10**6, slot=2)
    assert np.array_equal(drawn.kept, again.kept)
    other = draw_masks(config, 5, 4, num, seed=3, step=10**6 + 1, slot=2)
    assert not np.array_equal(drawn.kept, other.kept)
    # a position's mask does not depend on how the slot is divided into sequences
    assert np.array_equal(draw_masks(config, 10, 2, num, seed=3, step=10**6, slot=2).kept.ravel(), drawn.kept.ravel())


def test_every_patch_is_kept_equally_often() -> None:
    drawn = draw_masks(thin().mask, 2000, 1, 36, seed=0, step=0, slot=0)
    counts = np.bincount(drawn.kept.ravel(), minlength=36)
    deviation = math.sqrt(2000 * 0.25 * 0.75)
    assert (abs(counts - 500) < 4.5 * deviation).all()


def test_unknown_masks_and_objectives_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        draw_masks(thin("mask.kind=randm").mask, 1, 1, 16, seed=0, step=0, slot=0)
    with pytest.raises(ConfigError, match="unknown objective 'nope'"):
        build_model(thin("objective=nope"))


# ---- sizes, first values, optimiser


def test_parameter_counts_are_those_of_the_paper() -> None:
    def count(name: str) -> int:
        model = build_model(recipe(name), device="meta")
        assert not list(model.buffers())
        return sum(parameter.numel() for parameter in model.parameters())

    assert count("mum-vitl16") == 389_534_464
    assert round(count("mum-vitb16") / 1e6, 2) == 111.66
    encoder = build_model(recipe("mum-vitl16"), device="meta").get_submodule("encoder")
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 303.1


def test_the_loss_starts_where_the_width_says() -> None:
    """1 + 0.0004 x decoder width: the head's outputs have that variance, the target's is one."""
    config = thin("model.decoder.width=512", "model.decoder.depth=1", "model.decoder.heads=16")
    with torch.no_grad():
        loss = make(config)(pictures(4, 2), *masks(4, 2))
    assert float(loss) == pytest.approx(1.2, abs=0.03)


def test_first_weights_have_the_stated_distributions() -> None:
    parameters = dict(make(thin("model.encoder.width=192", "model.encoder.heads=3")).named_parameters())
    bound = 768**-0.5
    for part in ("weight", "bias"):
        embedding = parameters[f"encoder.patch_embedding.{part}"]
        assert bound * 0.9 < float(embedding.detach().abs().max()) <= bound
    for name, parameter in parameters.items():
        values = parameter.detach()
        if "patch_embedding" in name:
            continue
        if parameter.ndim > 1:
            assert float(values.std()) == pytest.approx(0.02, rel=0.25 if "token" in name else 0.05), name
        else:
            assert torch.equal(values, torch.full_like(values, float("norm" in name and name.endswith("weight")))), name


def test_first_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = make(thin()).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    other, reseeded = make(thin()).state_dict(), make(thin("seed=1")).state_dict()
    deeper = make(thin("model.encoder.depth=3")).state_dict()
    for name, value in one.items():
        assert torch.equal(value, other[name])
        assert torch.equal(value, deeper[name])
        assert value.unique().numel() == 1 or not torch.equal(value, reseeded[name])


def test_decay_spares_one_dimensional_parameters_but_not_the_tokens() -> None:
    model = make(thin())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = (
        {names[id(parameter)] for parameter in group["params"]} for group in build_optimizer(model, thin()).param_groups
    )
    assert {"encoder.class_token", "decoder.mask_token", "decoder.head.weight"} <= decayed
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


def test_one_batch_can_be_learned_by_heart() -> None:
    model = make(thin("model.decoder.width=64", "model.decoder.heads=4"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    smooth = torch.nn.functional.interpolate(pictures(2, 2, 4).flatten(0, 1).float(), 64, mode="bicubic")
    views = smooth.clamp(0, 255).to(torch.uint8).unflatten(0, (2, 2))
    kept, masked = masks(2, 2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(views, kept, masked)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.95
    assert losses[-1] < 0.35
