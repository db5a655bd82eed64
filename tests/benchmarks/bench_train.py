"""Training of mum-vitl16 beside the plain baseline: the model alone at V = 2, 12 and 24, and whole steps on a mix.

Run by hand on a machine with a GPU: `python tests/benchmarks/bench_train.py MIX [--recipe NAME] [--set KEY=VALUE]
[--size S] [--seconds N] [--json FILE]`. MIX should be packed (`mumdata pack`), and lie on the disk that training reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mumtrain.bench_model import bench_model
from mumtrain.bench_train import bench_train


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mix", type=Path)
    parser.add_argument("--recipe", default="mum-vitl16")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--views", type=int, action="append")
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shared = {"recipe": options.recipe, "set": options.set, "seconds": options.seconds, "device": options.device}
    model = bench_model(views=options.views or [2, 12, 24], sizes=options.size, **shared)
    train = bench_train(options.mix, steps=options.steps, **shared)
    for found in (model, train):
        for heading, table in found.tables():
            print("\n".join(heading))
            if table is not None:
                print(table.to_string(index=False))
            print()
    if options.json is not None:
        told = {"model": model.to_dict(), "train": train.to_dict()}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
