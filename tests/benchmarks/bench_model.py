"""A training step of mum-vitb16 beside a plain version of it: seconds, processor seconds and peak memory.

Run by hand: `python tests/benchmarks/bench_model.py [--turns N] [--views V] [--sequences B] [--threads N]`. The plain
version is what one writes first after reading papers: all patches are embedded by a convolution, hidden ones taken away
afterwards, placeholders concatenated and brought into order by an argsort, halves of channels rotated by a `cat`, and
the head predicts all patches, of which the loss then takes the hidden ones. Weights, views and masks are the same, and
so are loss and gradients, which is checked first. Steps (forward and backward) take turns in one process; the best of
the turns counts. Peak memory is what tensors take beyond weights and gradients, as torch's allocator saw it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mumtrain.config import Config, apply
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.recipes import recipe


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """Channels i and i + d/2 change places, one of them with another sign."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


class PlainBlock(nn.Module):
    """A transformer block with rotary positions."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, L, D = x.shape
        qkv = self.qkv(self.norm_attention(x)).reshape(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        x = x + self.projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, D))
        return x + self.mlp(self.norm_mlp(x))


class PlainMum(nn.Module):
    """The plain version."""

    def __init__(self, config: Config, of_encoder: list[torch.Tensor], of_decoder: list[torch.Tensor]) -> None:
        super().__init__()
        model = config.model
        e, d = model.encoder, model.decoder
        self.patch = model.patch
        self.patch_embedding = nn.Conv2d(3, e.width, model.patch, stride=model.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, e.width))
        self.encoder = nn.ModuleList(PlainBlock(e.width, e.heads, model.norm_eps) for _ in range(e.depth))
        self.encoder_norm = nn.LayerNorm(e.width, eps=model.norm_eps)
        self.embedding = nn.Linear(e.width, d.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d.width))
        self.decoder = nn.ModuleList(PlainBlock(d.width, d.heads, model.norm_eps) for _ in range(d.depth))
        self.decoder_norm = nn.LayerNorm(d.width, eps=model.norm_eps)
        self.head = nn.Linear(d.width, 3 * model.patch**2)
        self.tables = [torch.cat([part, part], dim=-1) for part in (*of_encoder, *of_decoder)]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, views: torch.Tensor, hidden: torch.Tensor, num_kept: int) -> torch.Tensor:
        B, V = views.shape[:2]
        images = (views.flatten(0, 1).float() / 255 - self.mean) / self.std
        hidden = hidden.flatten(0, 1).float()
        order = hidden.argsort(dim=1, stable=True)
        restore, kept = order.argsort(dim=1), order[:, :num_kept]

        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([self.class_token.expand(B * V, -1, -1), x], dim=1)
        cos, sin = self.tables[:2]
        rows = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], dim=1)
        for block in self.encoder:
            x = block(x, cos[rows][:, None], sin[rows][:, None])
        x = self.embedding(self.encoder_norm(x))

        placeholders = self.mask_token.repeat(B * V, restore.shape[1] + 1 - x.shape[1], 1)
        patches = torch.cat([x[:, 1:], placeholders], dim=1)
        patches = patches.gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1)
        T, D = x.shape[1:]
        cos, sin = self.tables[2:]
        cos_all, sin_all = cos.repeat(V, 1), sin.repeat(V, 1)
        for number, block in enumerate(self.decoder):
            if number % 2 == 0:
                x = block(x.view(B * V, T, D), cos, sin)
            else:
                x = block(x.view(B, V * T, D), cos_all, sin_all)
        predicted = self.head(self.decoder_norm(x.view(B * V, T, D)))[:, 1:]

        side = images.shape[-1] // self.patch
        cut = images.reshape(B * V, 3, side, self.patch, side, self.patch)
        target = cut.permute(0, 2, 4, 3, 5, 1).reshape(B * V, side * side, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = ((predicted - target) ** 2).mean(-1)
        return (error * hidden).sum() / hidden.sum()


def plain_version(model: MaskedAutoencoder, config: Config) -> PlainMum:
    """Return the plain version with the model's weights."""
    grid = (config.data.size // config.model.patch,) * 2
    tables = [tower.table(grid, torch.device("cpu")) for tower in (model.encoder, model.decoder)]
    plain = PlainMum(config, *([part[:, 0] for part in table] for table in tables))
    patch = config.model.patch
    renamed = {}
    for name, value in model.state_dict().items():
        for old, new in (
            ("encoder.norm.", "encoder_norm."),
            ("decoder.norm.", "decoder_norm."),
            (".blocks.", "."),
            (".attention.", "."),
            (".mlp.expand.", ".mlp.0."),
            (".mlp.contract.", ".mlp.2."),
            ("encoder.patch_embedding", "patch_embedding"),
            ("encoder.class_token", "class_token"),
            ("decoder.embedding", "embedding"),
            ("decoder.mask_token", "mask_token"),
            ("decoder.head", "head"),
        ):
            name = name.replace(old, new)
        if name == "patch_embedding.weight":
            value = value.view(-1, patch, patch, 3).permute(0, 3, 1, 2)
        renamed[name] = value.clone()
    plain.load_state_dict(renamed)
    return plain


def peak_mb(step: Callable[[], object]) -> float:
    """Return the most memory that tensors took during a step, beyond what they took before, in MB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as found:
        step()
    held = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="mum-vitb16")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = apply(recipe(options.recipe), options.set)
    B, V, size = options.sequences, options.views, config.data.size
    grid = (size // config.model.patch,) * 2
    model = build_model(config)
    plain = plain_version(model, config)
    views = torch.randint(0, 256, (B, V, 3, size, size), dtype=torch.uint8)
    masks = draw_masks(config.mask, B, V, grid, seed=0, step=0, slot=0)

    def ours() -> float:
        return one_step(model, lambda: model(views, masks))

    def theirs() -> float:
        kept = int((~masks.is_hidden_BVN[0, 0]).sum())
        return one_step(plain, lambda: plain(views, masks.is_hidden_BVN, kept))

    ways = {"ours": ours, "plain": theirs}
    check_alike(model, plain, ours(), theirs())  # warm by now, and gradients are allocated
    wall = {name: float("inf") for name in ways}
    core = dict(wall)
    for turn in range(options.turns):
        for name, step in list(ways.items())[:: 1 if turn % 2 else -1]:
            since, cores = time.perf_counter(), time.process_time()
            step()
            wall[name] = min(wall[name], time.perf_counter() - since)
            core[name] = min(core[name], time.process_time() - cores)
    peak = {name: peak_mb(step) for name, step in ways.items()}
    print(f"{options.recipe}, {B} x {V} views of {size} px, {options.threads} threads, best of {options.turns} turns")
    print(f"{'':8}{'s':>9}{'core s':>9}{'peak MB':>9}")
    for name in ways:
        print(f"{name:8}{wall[name]:9.3f}{core[name]:9.3f}{peak[name]:9.0f}")
    print(f"{'ratio':8}" + "".join(f"{of['ours'] / of['plain']:9.3f}" for of in (wall, core, peak)))


def one_step(module: nn.Module, loss_of: Callable[[], torch.Tensor]) -> float:
    """Run forward and backward; gradients are overwritten in place, so that each step finds them allocated."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    loss = loss_of()
    loss.backward()
    return float(loss.detach())


def check_alike(model: MaskedAutoencoder, plain: PlainMum, one: float, other: float) -> None:
    """Stop where both versions differ."""
    if abs(one - other) > 1e-5 * abs(other):
        raise SystemExit(f"losses differ: {one} and {other}")
    ours = torch.cat([p.grad.flatten() for p in model.decoder.blocks.parameters() if p.grad is not None])
    theirs = torch.cat([p.grad.flatten() for p in plain.decoder.parameters() if p.grad is not None])
    if abs(float(ours.norm() / theirs.norm()) - 1) > 1e-3:
        raise SystemExit("gradients differ")


if __name__ == "__main__":
    main()
