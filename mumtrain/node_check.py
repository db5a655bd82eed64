"""`python -m mumtrain.node_check`: whether this machine can take part in a run.

In: the run's mix, settings and folder, and what the other machines have. Out: exit status 0, or 1 and one line that
names the host and all that is wrong. Jobs of `mumtrain slurm` run it on each node before anything else.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mumdata.catalog import open_mix
from mumdata.errors import MumError
from mumtrain.config import Config, apply
from mumtrain.planning.hints import missing_roots
from mumtrain.recipes import recipe as recipe_of

__all__ = ["checkpoint_bytes", "main", "node_check", "versions"]

_PACKAGES = ("mumdata", "torch", "numpy", "pyarrow", "opencv-python-headless", "simplejpeg")


def node_check(
    mix: Path,
    *,
    out: Path,
    gpus: int,
    recipe: str,
    set: Sequence[str] = (),
    same_versions: str | None = None,
) -> list[str]:
    """Return what keeps this machine from a part in a run, a line each; an empty list where nothing does.

    `gpus` is how many devices this machine gives, `same_versions` what `versions` returned on another one. Raises
    ConfigError for the settings.
    """
    config = apply(recipe_of(recipe), set)
    return [
        *_about_versions(same_versions),
        *_about_devices(gpus),
        *_about_mix(Path(mix)),
        *_about_folder(Path(out), config),
    ]


def versions() -> str:
    """Return the versions of Python and of the packages that a run's numbers depend on, as `name=version ...`."""
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    return " ".join(f"{name}={version}" for name, version in found.items())


def checkpoint_bytes(config: Config) -> int:
    """Return the size of a run's checkpoint: weights and AdamW's two running means, in float32."""
    from mumtrain.model.autoencoder import build_model

    return 3 * 4 * sum(p.numel() for p in build_model(config, device="meta").parameters())


def _about_versions(wanted: str | None) -> Iterator[str]:
    if wanted is None or wanted == versions():
        return
    here, there = (dict(pair.split("=", 1) for pair in text.split()) for text in (versions(), wanted))
    told = [
        f"{name} {here.get(name, '-')}, not {there.get(name, '-')}" for name in here if here[name] != there.get(name)
    ]
    yield f"other versions than on the first node: {', '.join(told) or wanted}"


def _about_devices(gpus: int) -> Iterator[str]:
    import torch

    if gpus == 0:
        return
    count = torch.cuda.device_count()
    if count < gpus:
        yield f"torch sees {count} CUDA devices, not {gpus}"
        return
    for number in range(gpus):
        try:
            torch.ones(1, device=f"cuda:{number}").add_(1).item()
        except RuntimeError as error:
            yield f"cuda:{number} does not compute ({str(error).splitlines()[0]})"


def _about_mix(mix: Path) -> Iterator[str]:
    try:
        yield from missing_roots(open_mix(mix))
    except (MumError, OSError) as error:
        yield str(error)


def _about_folder(run: Path, config: Config) -> Iterator[str]:
    if not run.is_dir():
        yield f"{run} is not seen from here; choose a folder that all nodes share"
        return
    try:
        with tempfile.TemporaryFile(dir=run) as file:
            file.write(b"written")
            file.flush()
    except OSError as error:
        yield f"{run} cannot be written to ({error.strerror})"
        return
    free, needed = shutil.disk_usage(run).free, 2 * checkpoint_bytes(config)
    if free < needed:
        yield f"{run} has {free / 1e9:.1f} GB free, and two checkpoints take {needed / 1e9:.1f} GB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mumtrain.node_check", description="Can this machine take part?", allow_abbrev=False
    )
    parser.add_argument("mix", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--recipe", default="mum-vitl16")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--same-versions")
    parser.add_argument("--versions", action="store_true", help="print the versions and check nothing")
    given = parser.parse_args(arguments)
    if given.versions:
        print(versions())
        return 0
    if given.mix is None or given.out is None:
        parser.error("MIX and --out are needed")
    try:
        wrong = node_check(
            given.mix,
            out=given.out,
            gpus=given.gpus,
            recipe=given.recipe,
            set=given.set,
            same_versions=given.same_versions,
        )
    except MumError as error:
        wrong = [str(error)]
    if wrong:
        print(f"{socket.gethostname()}: {'; '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
