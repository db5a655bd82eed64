"""`mumtrain demo`: the whole journey on rendered scenes, in minutes, without a GPU or a download.

In: a folder to write into. Out: datasets in their true layouts, their catalogs, a mix, a short training run and a
picture of its reconstructions. Every stage is a command that is echoed first, so that it can be repeated by hand.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mumdata import catalog
from mumdata.errors import MumError

__all__ = ["DATASETS", "demo"]

DATASETS = (
    "arkitscenes",
    "blendedmvs",
    "co3d",
    "dl3dv",
    "hypersim",
    "imagenet",
    "megadepth",
    "megascenes",
    "realestate10k",
    "scannetpp",
    "streetview",
    "wildrgbd",
)
_NUM_VIEWS = 4


def demo(out: Path | None = None, *, size: str = "default", seed: int = 0, steps: int | None = None) -> Path:
    """Run world -> index -> mine -> mix -> stats -> pretrain -> reconstruct in `out` (default: `demo`); return it.

    `size` is that of the rendered world; `steps` overrides the recipe's. A finished stage is not repeated: running
    it again continues an interrupted demo. Raises MumError where a stage fails.
    """
    from mumtrain.recipes import recipe

    began = time.monotonic()
    out = Path("demo") if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # whatever repository this lies in, nothing here is for version control
    (out / ".gitignore").write_text("*\n", encoding="utf-8")
    world, catalogs, run = out / "world", out / "catalogs", out / "run"
    flags = ["--catalogs", str(catalogs)]
    _say("1. Render scenes in the layouts of twelve datasets")
    _command("mumdata", "demo", str(world), "--size", size, "--seed", str(seed), quiet=True)
    _say("2. Index them: a row for every frame")
    for name in DATASETS:
        _command("mumdata", "index", name, "--root", str(world / name), *flags)
    _say("3. Mine sequences of covisible frames")
    for name in DATASETS:
        _command("mumdata", "mine-sequences", name, *flags)
    _say("4. Mix the datasets, and look at what there is")
    _command("mumdata", "mix", "mum", *flags)
    _command("mumdata", "stats", *flags)
    _say("5. Train for a few minutes")
    mix = catalogs / "mix.parquet"
    if steps is None:
        steps = recipe("debug-cpu").steps
    resume = ["--resume"] if (run / "checkpoints").is_dir() else []
    settings = ["--set", f"steps={steps}", "--set", f"seed={seed}"]
    _command("mumtrain", "pretrain", str(mix), "--recipe", "debug-cpu", *settings, "--out", str(run), *resume)
    first, last, num_steps = _losses(run)
    _say("6. Reconstruct views of one scene from a quarter of their patches")
    picture = out / "reconstruction.png"
    _command("mumtrain", "reconstruct", str(run), *map(str, _views(catalogs, world)), "-o", str(picture))
    _say(f"Done in {time.monotonic() - began:.0f} s")
    print(f"loss         {first:.3f} at the start, {last:.3f} at the end ({num_steps} steps)")
    for what, where in (("scenes", world), ("catalogs", catalogs), ("run", run), ("picture", picture)):
        print(f"{what:<12} {where}")
    print(f"next         mumdata stats scenes --catalogs {catalogs}")
    print(f"             tensorboard --logdir {run / 'tensorboard'}")
    return out


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _command(program: str, *arguments: str, quiet: bool = False) -> None:
    print(_echo([program, *arguments]), flush=True)
    result = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        check=False,
        stdout=subprocess.DEVNULL if quiet else None,
    )
    if result.returncode:
        raise MumError(f"the demo stopped: '{program} {arguments[0]}' ended with status {result.returncode}")


def _echo(words: list[str], width: int = 80) -> str:
    # a shell's own way of folding a long command, so that it can be copied
    lines = ["$"]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 3 > width and lines[-1] != "$":
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _losses(run: Path) -> tuple[float, float, int]:
    # the mean over the first and last tenth of the logged steps: single steps are noisy
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows if "loss" in row]
    if not losses:
        raise MumError(f"{run / 'metrics.jsonl'} holds no loss; run the demo again with another --out")
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth, int(rows[-1]["step"])


def _views(catalogs: Path, world: Path) -> list[Path]:
    # neighbours on the first chain of the photo collection: the same place, seen from a few sides
    sequences = catalog.read_sequences("megadepth", catalogs=catalogs)
    frames = catalog.read_frames("megadepth", catalogs=catalogs)
    return [world / "megadepth" / frames.path[frame] for frame in sequences.frames[0][:_NUM_VIEWS]]
