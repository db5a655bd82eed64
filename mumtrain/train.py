"""`mumtrain pretrain`: a mix and a recipe in, a run folder out.

In: mix.parquet and a recipe. Out: RUN/config.json, run.json, history.jsonl, metrics.jsonl, gain.jsonl, exposure/,
pictures/, tensorboard/, checkpoints/, card.md and, where images are bad, quarantine-<rank>.jsonl; init.json tells the
weights that it started from, if any. A run that was interrupted continues with `resume`, bit for bit on the processor.
"""

from __future__ import annotations

import json
import logging
import shlex
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mumdata.catalog import Mix, open_mix
from mumdata.errors import MumError
from mumdata.files import remove_abandoned, write_text
from mumtrain.card import write_card
from mumtrain.checkpoint import Checkpoint, check_same_run, list_checkpoints, made_by, newest_checkpoint
from mumtrain.config import Config, apply, to_dict
from mumtrain.flops import slot_flops
from mumtrain.ranks import Ranks, find_place, join
from mumtrain.recipes import recipe as recipe_of
from mumtrain.run_lock import LOCK, RunLock
from mumtrain.runlog.lines import append_line
from mumtrain.runtime import Runtime, select_runtime
from mumtrain.signals import Stopped, stop_request
from mumtrain.step import slot_losses
from mumtrain.trainer import Trainer
from mumtrain.weights.init import initialise_from

__all__ = ["pretrain", "Trainer", "slot_losses"]

logger = logging.getLogger(__name__)

# operations of a step that no processor does in less than a minute or so
_MUCH = 1e13


def pretrain(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    init: Path | None = None,
    init_parts: str = "auto",
    device: str | None = None,
) -> Path:
    """Train a recipe on a mix and return the run's folder (default runs/<mix>-<recipe>).

    `set` holds `section.key=value` changes to the recipe. A folder that is not empty needs `resume`, which continues
    from the newest whole checkpoint; a folder without one starts from the beginning. Another mix or recipe than before
    is refused unless `accept_changes`. `init` is a file whose weights the run starts from (see `mumtrain.weights`): the
    encoder, all, or all that fits, as `init_parts` says; where a run is continued it counts for nothing. `device` is
    cpu, cuda or cuda:N; by default CUDA where there is one. Under torchrun, or srun with several tasks, this is one of
    several ranks, which must divide `data.slots`. Raises ConfigError, CatalogError and LayoutError before anything is
    written; MumError where a loss is no longer a number, too many images are broken or another rank was lost; and
    `mumtrain.signals.Stopped` where SIGTERM or SIGUSR1 asked for it, when the run can be continued.
    """
    config = apply(recipe_of(recipe), set)
    place = find_place()
    runtime = select_runtime(device, place.local_rank if place.num_ranks > 1 else None)
    opened = open_mix(Path(mix))
    run = Path("runs", f"{Path(mix).stem}-{recipe}") if out is None else Path(out)
    with stop_request() as request, join(place, runtime.device) as ranks, RunLock(run) as lock:
        checkpoint = _claimed(run, resume, ranks, lock)
        made = made_by(runtime.device, ranks.size)
        if ranks.is_first:
            _warn(config, runtime, run, resume and checkpoint is None)
        told: list[str] = []
        if checkpoint is not None:
            digest = opened.content_digest
            if ranks.is_first:
                told = check_same_run(checkpoint, config, digest, run, made=made, accept_changes=accept_changes)
                if init is not None:
                    logger.warning(
                        "%s goes on from its step %d; --init counts for new runs alone", run, checkpoint.step
                    )
        elif resume and init is None and (run / "init.json").exists():
            raise MumError(
                f"{run} began with the weights named in its init.json and has no checkpoint yet; give --init again"
            )
        trainer = Trainer(opened, config, runtime, run, ranks)
        if ranks.is_first:
            lock.take()
        if checkpoint is not None:
            trainer.restore(checkpoint)
        elif init is not None:
            begun = initialise_from(trainer.model, init, config=config.model, parts=init_parts)
            if ranks.is_first:
                write_text(run / "init.json", json.dumps(begun.to_dict(), indent=2) + "\n")
        if ranks.is_first:
            _describe(run, opened, recipe, set, config, made, trainer.start, told)
        try:
            trainer.run_steps(request)
        except Stopped:
            _write_card(run, ranks)
            raise
        _write_card(run, ranks)
    return run


def _warn(config: Config, runtime: Runtime, run: Path, is_new: bool) -> None:
    # of what a user may not mean
    data = config.data
    if is_new:
        logger.warning("%s holds no checkpoint to resume from: this run starts at its beginning", run)
    flops = data.slots * slot_flops(config, data.frames_per_slot // data.views_max, data.views_max)
    if runtime.device.type == "cpu" and flops > _MUCH:
        logger.warning(
            "a step takes up to %.0f TFLOP, which is many minutes on a processor; --dry-run tells how many, and "
            "--recipe mum-cpu learns in minutes",
            flops / 1e12,
        )


def _write_card(run: Path, ranks: Ranks) -> None:
    if not ranks.is_first:
        return
    try:
        write_card(run)
    except (MumError, OSError) as error:
        # the weights are safe, and whoever started the run must hear how it ended
        logger.warning("%s; 'mumtrain card %s' writes the card later", error, run)


def _claimed(run: Path, resume: bool, ranks: Ranks, lock: RunLock) -> Checkpoint | None:
    # the first rank decides whether the folder may be written to and where the run goes on; only it needs to see it
    checkpoint, refused = None, None
    if ranks.is_first:
        try:
            checkpoint = _claim(run, resume, lock)
        except MumError as error:
            refused = error
    if ranks.from_first(refused is not None):
        # one message is enough
        raise refused if refused is not None else SystemExit(1)
    found = ranks.tensors_from_first(None if checkpoint is None else vars(checkpoint))
    return None if found is None else Checkpoint(**found)


def _claim(run: Path, resume: bool, lock: RunLock) -> Checkpoint | None:
    # decide whether the folder may be written to, and where the run continues
    if run.exists() and not run.is_dir():
        raise MumError(f"{run} is a file; choose another folder with --out")
    if not run.exists() or not any(run.iterdir()):
        return None
    if resume or (run / LOCK).exists():
        lock.take()
    remove_abandoned(run)
    if all(path.name in ("init.json", LOCK) for path in run.iterdir()):
        return None  # a run that was killed before it had begun
    if not resume:
        raise MumError(f"{run} is not empty; continue that run with --resume, or choose another folder with --out")
    if not (run / "config.json").exists():
        raise MumError(f"{run} is not the folder of a run (no config.json); choose another folder with --out")
    for leftover in (run / "checkpoints").glob(".step-*.tmp"):
        leftover.unlink()  # half a checkpoint, from a run that was killed while writing it, here or on another machine
    found = newest_checkpoint(run)
    if found is None and list_checkpoints(run):
        raise MumError(f"none of the checkpoints in {run / 'checkpoints'} can be read; delete the folder to start anew")
    for path in list_checkpoints(run):
        if found is not None and int(path.stem.removeprefix("step-")) > found.step:
            # one that is broken must not count among those that are kept
            path.rename(path.with_name(f"{path.name}.broken"))
    return found


def _describe(
    run: Path,
    mix: Mix,
    recipe: str,
    settings: Sequence[str],
    config: Config,
    made: dict[str, str],
    start: int,
    told: list[str],
) -> None:
    # what the run is, and this start of it
    command = shlex.join(["mumtrain", *sys.argv[1:]]) if Path(sys.argv[0]).name in _PROGRAMS else None
    about: dict[str, Any] = {
        "mix": str(mix.path.resolve()),
        "mix_digest": mix.content_digest,
        "recipe": recipe,
        "settings": list(settings),
        "command": command or _command(mix, recipe, settings, run),
    }
    write_text(run / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
    write_text(run / "run.json", json.dumps(about, indent=2) + "\n")
    versions = {name: value for name, value in made.items() if name not in ("device", "ranks", "threads")}
    line = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": start,
        "host": socket.gethostname(),
        "ranks": int(made["ranks"]),
        "device": made["device"],
        "threads": int(made["threads"]),
        "versions": versions,
        "notes": told,
        "command": about["command"],
    }
    append_line(run / "history.jsonl", line)


_PROGRAMS = ("mumtrain", "__main__.py")


def _command(mix: Mix, recipe: str, settings: Sequence[str], run: Path) -> str:
    words = ["mumtrain", "pretrain", str(mix.path), "--recipe", recipe]
    return shlex.join([*words, *(word for one in settings for word in ("--set", one)), "--out", str(run)])
