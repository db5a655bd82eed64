"""A training step of mum-vitb16 beside a plain version of it: seconds, processor seconds and peak memory.

Run by hand: `python tests/benchmarks/bench_model.py [--turns N] [--views V] [--sequences B] [--threads N]`. The plain
version is `mumtrain.plain`, what one writes first after reading papers. Weights, views and masks are the same, and
so are loss and gradients, which is checked first. Steps (forward and backward) take turns in one process; the best of
the turns counts. Peak memory is what tensors take beyond weights and gradients, as torch's allocator saw it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mumtrain.config import apply
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.plain import PlainModel, plain_model
from mumtrain.recipes import recipe


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
    plain = plain_model(model, config)
    views = torch.randint(0, 256, (B, V, 3, size, size), dtype=torch.uint8)
    masks = draw_masks(config.mask, B, V, grid, seed=0, step=0, slot=0)

    def ours() -> float:
        return one_step(model, lambda: model(views, masks))

    def theirs() -> float:
        return one_step(plain, lambda: plain(views, masks))

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


def check_alike(model: MaskedAutoencoder, plain: PlainModel, one: float, other: float) -> None:
    """Stop where both versions differ."""
    if abs(one - other) > 1e-5 * abs(other):
        raise SystemExit(f"losses differ: {one} and {other}")
    ours = torch.cat([p.grad.flatten() for p in model.decoder.blocks.parameters() if p.grad is not None])
    theirs = torch.cat([p.grad.flatten() for p in plain.decoder.parameters() if p.grad is not None])
    if abs(float(ours.norm() / theirs.norm()) - 1) > 1e-3:
        raise SystemExit("gradients differ")


if __name__ == "__main__":
    main()
