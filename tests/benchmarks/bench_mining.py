"""How long mining takes: the rules built on what frames share, beside plain versions of the same definitions.

Run by hand: `python tests/benchmarks/bench_mining.py [--images N] [--observations M] [--steps K]`. A made-up scene of
cameras round a building. `chain-viewpoint` under the settings of the script released with MuM runs beside the way of
that script (score every other image in Python, with sets and matrices, at each step); the sequences must be identical.
`chain-overlap` runs beside `--steps` steps of a plain chain. Ours counts from the pairs on (neighbours, candidates and
all), best of five; compilation is measured apart. Nothing is estimated where the line does not say so.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mumdata.covisibility import Pairs, covisibility, neighbours
from mumdata.geometry import rotation_cos, rotation_from_quaternion
from mumdata.mining import Options, Stream, mine
from mumdata.mining.copies import copies

RELEASED = Options(metric="overlap", angle="rotation", min_metric=0.1, max_angle_deg=180, min_frames=3, min_shared=1)


@dataclass
class Scene:
    stream: Stream
    pairs: Pairs
    seen: dict[int, set[int]]
    rotation: np.ndarray


def make_scene(num_images: int, num_observations: int, seed: int = 0) -> Scene:
    """Cameras look at a round building from all sides; each sees the points of its side, and many at random."""
    random = np.random.default_rng(seed)
    each, num_points = num_observations // num_images, num_observations // 30
    angle = random.uniform(0, 2 * math.pi, num_images)
    spread = random.uniform(0.05, 0.5, num_images)  # near cameras see a small part
    image_of = np.repeat(np.arange(num_images), each)
    at = angle[image_of] + spread[image_of] * random.normal(size=len(image_of))
    point_of = (at % (2 * math.pi) / (2 * math.pi) * num_points).astype(np.int64)
    half = (angle + random.normal(scale=0.1, size=num_images)) / 2
    wxyz = np.column_stack([np.cos(half), 0.05 * random.normal(size=(num_images, 2)), np.sin(half)])[:, [0, 1, 3, 2]]
    rotation = rotation_from_quaternion(wxyz)
    pairs = covisibility(num_images, image_of, point_of)
    pairs = replace(pairs, rotation_cos=rotation_cos(rotation, pairs.a, pairs.b))
    stream = Stream(("bench", None, "scene", None), np.ones(num_images, dtype=bool), pairs)
    seen = {image: set(some.tolist()) for image, some in enumerate(np.split(point_of, num_images))}
    return Scene(stream, pairs, seen, rotation)


def released_chains(scene: Scene) -> tuple[list[list[int]], int]:
    """The released way: every other image is scored anew at each step. Returns chains and the number of steps."""
    used: set[int] = set()
    chains: list[list[int]] = []
    steps = 0

    def following(now: int) -> int | None:
        best, best_score = None, -math.inf
        for other, points in scene.seen.items():
            if other == now or other in used:
                continue
            overlap = len(scene.seen[now] & points) / len(scene.seen[now])
            cos = (np.trace(scene.rotation[other] @ scene.rotation[now].T) - 1) / 2
            if np.degrees(np.arccos(np.clip(cos, -1, 1))) < 10 or overlap < 0.1:
                continue
            score = overlap * 4 * cos * (1 - cos)
            if score > best_score:
                best, best_score = other, score
        return best

    for seed in sorted(scene.seen, key=lambda image: len(scene.seen[image]), reverse=True):
        if seed in used:
            continue
        chain: list[int] = []
        nearest: int | None = seed
        while nearest is not None:
            chain.append(nearest)
            used.add(nearest)
            nearest = following(nearest)
            steps += 1
        if len(chain) >= 3:
            chains.append(chain)
        else:
            used -= set(chain)
    return chains, steps


def plain_overlap_chain(scene: Scene, anchor: int, most: int, least_shared: int) -> list[int]:
    chain = [anchor]
    while len(chain) < most:
        shared = {image: len(scene.seen[chain[-1]] & points) for image, points in scene.seen.items()}
        able = [(-count, image) for image, count in shared.items() if count >= least_shared and image not in chain]
        if not able:
            break
        chain.append(min(able)[1])
    return chain


def best_of(run: Callable[[], object], turns: int = 5) -> float:
    best = math.inf
    for _ in range(turns):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def line(what: str, seconds: float, ratio: float | None = None, note: str = "") -> None:
    print(f"{what:66}{seconds:10.4f} s{f'{ratio:10,.0f} x' if ratio else '':12} {note}")


def viewpoint(num_images: int, num_observations: int) -> None:
    scene = make_scene(num_images, num_observations)
    found = [chain.tolist() for chain in mine("chain-viewpoint", scene.stream, RELEASED)]
    fast = best_of(lambda: mine("chain-viewpoint", scene.stream, RELEASED))
    begin = time.perf_counter()
    expected, steps = released_chains(scene)
    slow = time.perf_counter() - begin
    assert found == expected, "the chains differ from the released ones"
    print(
        f"chain-viewpoint, {num_images:,} images, {sum(map(len, scene.seen.values())):,} distinct observations, "
        f"{len(scene.pairs.a):,} pairs: {sum(map(len, found))} frames in {len(found)} chains, identical"
    )
    line("  released way", slow, note=f"{steps} steps")
    line("  ours", fast, slow / fast, note=f"of it {best_of(lambda: neighbours(scene.pairs)):.4f} s neighbours()")


def anchored(num_images: int, num_observations: int, num_steps: int) -> None:
    scene = make_scene(num_images, num_observations)
    stream = scene.stream
    print(f"{num_images:,} images, {len(scene.pairs.a):,} pairs, 1000 sequences of up to 256 frames")
    options = Options(min_frames=2)
    chains = mine("chain-overlap", stream, options)
    begin = time.perf_counter()
    plain = plain_overlap_chain(scene, int(chains[0][0]), num_steps + 1, options.min_shared)
    slow = (time.perf_counter() - begin) / num_steps * sum(len(chain) - 1 for chain in chains)
    assert plain == chains[0][: num_steps + 1].tolist()
    fast = best_of(lambda: mine("chain-overlap", stream, options), 3)
    line("  chain-overlap, in plain Python", slow, note=f"estimated from {num_steps} steps")
    line("  chain-overlap", fast, slow / fast)
    for name, rule, change in (
        ("chain-overlap, temperature 0.3", "chain-overlap", {"temperature": 0.3}),
        ("chain-overlap, anchor_overlap 0.05", "chain-overlap", {"anchor_overlap": 0.05}),
        ("chain-overlap, min_mean_overlap 0.05", "chain-overlap", {"min_mean_overlap": 0.05}),
        ("chain-overlap, auto", "chain-overlap", {"per_scene": "auto"}),
        ("walk", "walk", {}),
        ("topk", "topk", {}),
        ("topk as released", "topk", {"min_shared": 0, "min_frames": 256}),
    ):
        changed = replace(options, **change)  # type: ignore[arg-type]
        num = len(mine(rule, stream, changed))
        line(f"  {name}", best_of(lambda: mine(rule, stream, changed), 3), note=f"{num} sequences")  # noqa: B023
    line("  copies", best_of(lambda: copies(scene.pairs, None), 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--observations", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=40, help="steps of the plain chain by overlap")
    options = parser.parse_args()
    tiny = make_scene(30, 3000)
    begin = time.perf_counter()
    for rule in ("chain-viewpoint", "chain-overlap"):
        mine(rule, tiny.stream, Options(min_frames=2, min_mean_overlap=0.01))
    line("compilation, or reading it from numba's cache", time.perf_counter() - begin)
    viewpoint(150, 60_000)
    viewpoint(options.images, options.observations)
    anchored(2000, 2_500_000, options.steps)


if __name__ == "__main__":
    main()
