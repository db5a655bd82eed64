"""How long the masks of a slot of 96 views take, beside the plain version of the same definitions.

Run by hand: `python tests/benchmarks/bench_masks.py [--device cuda]`. Ours is `draw_masks`, whole: words, hidden
patches, and the forms that encoder, decoder and loss need; on a GPU until it is done, and in brackets until the call
returns. The plain version (`tests/plain_masks.py`) goes through the views one by one on the processor and yields the
hidden patches alone, which are compared. Both take turns in one process on one core, the best of the turns counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from mumtrain.config import MaskConfig
from mumtrain.mask_rules import KINDS
from mumtrain.masks.draw import Masks, draw_masks
from tests.plain_masks import plain_masks

TURNS = 5

# calls of ours in a turn
CALLS = 5

# sequences and views of a slot
SLOT = (8, 12)


def measure(config: MaskConfig, grid: tuple[int, int], device: torch.device) -> tuple[float, float, float]:
    """Return the seconds of ours until it is done and until it returns, and of the plain version."""
    done, returned, plain = [], [], []

    def ours(step: int) -> Masks:
        return draw_masks(config, *SLOT, grid, seed=0, step=step, slot=0, device=device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    masks = ours(0)
    for turn in range(TURNS):
        for _ in range(CALLS):
            wait()
            start = time.perf_counter()
            masks = ours(turn)
            returned.append(time.perf_counter() - start)
            wait()
            done.append(time.perf_counter() - start)
        start = time.perf_counter()
        wanted = plain_masks(config, *SLOT, grid, seed=0, step=turn, slot=0)
        plain.append(time.perf_counter() - start)
        assert masks.is_hidden_BVN.tolist() == wanted
    return min(done), min(returned), min(plain)


def main() -> None:
    """Print a line for each kind and grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.set_num_threads(1)
    print(f"masks of {SLOT[0] * SLOT[1]} views on {device}, ratio 0.75, one whole view in each sequence")
    print(f"{'kind':<10} {'patches':>8} {'ours ms':>16} {'plain ms':>9} {'ratio':>7}")
    for grid in ((14, 14), (24, 24)):
        for kind in KINDS:
            done, returned, plain = measure(MaskConfig(kind=kind, references="1"), grid, device)
            ours = f"{done * 1e3:.2f}" + (f" ({returned * 1e3:.2f})" if device.type == "cuda" else "")
            print(f"{kind:<10} {f'{grid[0]}x{grid[1]}':>8} {ours:>16} {plain * 1e3:>9.1f} {plain / done:>7.0f}")


if __name__ == "__main__":
    main()
