"""`mumtrain slurm`: a run as a job of a Slurm cluster, which goes back into the queue until the run is done.

In: a mix, a recipe and what the job may use. Out: RUN/slurm.sh, submitted with sbatch, and RUN/config.json, by which
the folder belongs to this run from then on. All that can be checked before the job waits in the queue is checked.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mumdata.catalog import open_mix
from mumdata.errors import ConfigError, MumError
from mumdata.files import write_text
from mumtrain.config import Config, apply, differing_keys, to_dict
from mumtrain.planning.hints import missing_roots
from mumtrain.recipes import recipe as recipe_of
from mumtrain.sampler import rank_slots
from mumtrain.slurm_script import JobScript, script_text

__all__ = ["SlurmJob", "slurm"]

# what Slurm can count, in seconds
_LONGEST_SIGNAL = 65535

# [days-]hours:minutes:seconds and its short forms; a number alone is minutes
_TIMES = (
    r"(?P<minutes>\d+)(:(?P<seconds>\d+))?",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>\d+)(:(?P<seconds>\d+))?)?",
)


@dataclass(frozen=True)
class SlurmJob:
    """A batch script, the processes it starts, the command that submits it, and the job's id if that was done."""

    script: Path
    ranks: int
    command: tuple[str, ...]
    job: str | None


def slurm(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    out: Path | None = None,
    init: Path | None = None,
    init_parts: str = "auto",
    nodes: int = 1,
    gpus_per_node: int = 8,
    cpus_per_gpu: int = 16,
    time: str = "24:00:00",
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    mem: str | None = None,
    signal_seconds: int = 120,
    setup: Sequence[str] = (),
    sbatch: Sequence[str] = (),
    submit: bool = True,
    accept_changes: bool = False,
) -> SlurmJob:
    """Write the batch script of a run to RUN/slurm.sh and submit it; the same run as `pretrain` with these arguments.

    `time` is the limit of one job, as sbatch takes it; `signal_seconds` before it the run is told to stop, writes a
    checkpoint and goes back into the queue. `setup` are shell lines that make mumtrain available in the job, by default
    this Python; `sbatch` further options of sbatch. Nothing is written before all checks have passed: ConfigError for
    settings, ranks that do not divide the slots, a time or a shell line that cannot be read; CatalogError for the mix;
    MumError where folders of datasets or sbatch are missing, or RUN belongs to another run. With `accept_changes` RUN
    may be a run with other settings or on another mix, which then goes on as pretrain does with that option.
    """
    config = apply(recipe_of(recipe), set)
    opened = open_mix(Path(mix))
    for name, number in (("nodes", nodes), ("gpus-per-node", gpus_per_node), ("cpus-per-gpu", cpus_per_gpu)):
        if number < 1:
            raise ConfigError(f"--{name} is {number}; it must be at least 1")
    rank_slots(0, nodes * gpus_per_node, config.data.slots)
    _check_time(time, signal_seconds)
    if missing := next(missing_roots(opened), None):
        raise MumError(missing)
    if init is not None and not Path(init).exists():
        raise MumError(f"--init {init} does not exist")
    run = (Path("runs", f"{Path(mix).stem}-{recipe}") if out is None else Path(out)).absolute()
    options = {"partition": partition, "account": account, "qos": qos, "mem": mem}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    start = [] if init is None else ["--init", str(Path(init).absolute()), "--init-parts", init_parts]
    job = JobScript(
        mix=Path(mix).absolute(),
        run=run,
        name=f"{run.name}-{hashlib.sha256(str(run).encode('utf-8', 'surrogateescape')).hexdigest()[:6]}",
        settings=("--recipe", recipe, *(word for setting in set for word in ("--set", setting))),
        arguments=tuple([*start, *(["--accept-changes"] if accept_changes else [])]),
        python="python" if setup else sys.executable,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_gpu=cpus_per_gpu,
        time=time,
        signal_seconds=signal_seconds,
        options=tuple([*given, *sbatch]),
        setup=tuple(setup),
    )
    _check_texts(job)
    _check_run(run, config, opened.content_digest, accept_changes)
    text = script_text(job)
    _check_shell(text, setup)
    if submit and shutil.which("sbatch") is None:
        raise MumError("sbatch is not on this machine's PATH; run this on a login node of the cluster, or --no-submit")
    if not (run / "config.json").exists():
        write_text(run / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
    script = run / "slurm.sh"
    write_text(script, text)
    command = ("sbatch", "--parsable", str(script))
    return SlurmJob(script, nodes * gpus_per_node, command, _submitted(command) if submit else None)


def _check_time(time: str, signal_seconds: int) -> None:
    seconds = _seconds(time)
    if seconds == 0:
        raise ConfigError(f"--time {time} is no time; give more")
    if not 1 <= signal_seconds <= _LONGEST_SIGNAL:
        raise ConfigError(f"--signal-seconds is {signal_seconds}; it must lie in 1 .. {_LONGEST_SIGNAL}")
    if signal_seconds >= seconds:
        raise ConfigError(
            f"--signal-seconds {signal_seconds} leaves nothing of --time {time} ({seconds} s) to train in; give the "
            "job more time"
        )


def _seconds(time: str) -> int:
    # as `man sbatch` has it
    for form in _TIMES:
        if found := re.fullmatch(form, time, re.ASCII):
            parts = {name: int(number or 0) for name, number in found.groupdict().items()}
            days, hours, minutes = (parts.get(name, 0) for name in ("days", "hours", "minutes"))
            return ((days * 24 + hours) * 60 + minutes) * 60 + parts.get("seconds", 0)
    raise ConfigError(f"--time {time!r} is no time; write minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS")


def _check_texts(job: JobScript) -> None:
    # a line break would end an #SBATCH line, and what is no UTF-8 cannot be written
    texts = [str(job.mix), str(job.run), *job.settings, *job.arguments, *job.options, *job.setup]
    for text in texts:
        if not text.isprintable():
            raise ConfigError(f"{text!r} cannot stand in a batch script: it holds a line break or the like")
    if "\\" in str(job.run):
        raise ConfigError(f"{job.run}: sbatch takes no output file with a backslash in its name; choose another --out")
    for option in job.options:
        if not option.startswith("-"):
            raise ConfigError(f"--sbatch '{option}' is no option of sbatch; write it as --sbatch=--constraint=h200")


def _check_run(run: Path, config: Config, mix_digest: str, accept_changes: bool) -> None:
    # as `pretrain --resume` does, from the small files alone: checkpoints are large, and login nodes shared
    from mumtrain.checkpoint import HARMLESS, read_config

    if run.exists() and not run.is_dir():
        raise MumError(f"{run} is a file; choose another folder with --out")
    if not run.exists() or not any(run.iterdir()):
        return
    stored = run / "config.json"
    if not stored.exists():
        raise MumError(f"{run} is not the folder of a run (no config.json); choose another folder with --out")
    before = read_config(_read_json(stored), stored)
    refused = [key for key in differing_keys(before, config) if not key.startswith(HARMLESS)]
    if refused and not accept_changes:
        raise ConfigError(
            f"{run} is a run with other settings ({', '.join(refused)}); give those, choose another folder with --out, "
            "or take these with --accept-changes"
        )
    about = _read_json(run / "run.json") if (run / "run.json").exists() else {}
    digest = about.get("mix_digest") if isinstance(about, dict) else None
    if digest not in (None, mix_digest) and not accept_changes:
        raise MumError(
            f"{run} is a run on another mix ({str(digest)[:12]}, this one is {mix_digest[:12]}); choose another folder "
            "with --out, or take this one with --accept-changes"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MumError(f"{path} is damaged ({error}); choose another folder with --out") from error


def _check_shell(text: str, setup: Iterable[str]) -> None:
    # all of the script but these lines is known to be right
    bash = shutil.which("bash")
    if bash is None:
        return
    found = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True, check=False)
    if found.returncode:
        told = (found.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise ConfigError(f"--setup {' '.join(map(repr, setup))}: bash cannot read this ({told})")


def _submitted(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise MumError(f"sbatch did not take {command[-1]}: {told}")
    job = done.stdout.strip().partition(";")[0]  # a name of the cluster may follow
    if not job.isdecimal():
        raise MumError(f"sbatch did not tell the job's number but {done.stdout.strip()!r}; look with squeue")
    return job
