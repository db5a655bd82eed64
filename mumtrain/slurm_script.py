"""The text of a batch script that trains under Slurm, and goes on until the run is done.

In: a JobScript. Out: bash. The script checks the nodes, starts one process a GPU, and looks at how they ended: status
75 says that the run was told to stop and has written a checkpoint, so the job goes back into the queue; any other
status is the job's own.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from mumtrain.signals import STOPPED

__all__ = ["MOST_STARTS", "JobScript", "script_text"]

# starts in a row that may begin at the same checkpoint before the job gives up
MOST_STARTS = 3


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """What a job runs, on how many nodes, and what it asks of Slurm. Paths are absolute, texts are one line each."""

    mix: Path
    run: Path
    name: str
    # arguments of mumtrain pretrain that say what the run is
    settings: tuple[str, ...]
    # further arguments of mumtrain pretrain
    arguments: tuple[str, ...]
    python: str
    nodes: int
    gpus_per_node: int
    cpus_per_gpu: int
    time: str
    signal_seconds: int
    # what else stands behind #SBATCH
    options: tuple[str, ...]
    # shell lines that make mumtrain available in the job
    setup: tuple[str, ...]


def script_text(job: JobScript) -> str:
    """Return the batch script of a job."""
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _options(job)), ""]
    lines += [
        f"# written by mumtrain slurm; sbatch {shlex.quote(str(job.run / 'slurm.sh'))} submits it again",
        f"mix={shlex.quote(str(job.mix))}",
        f"run={shlex.quote(str(job.run))}",
        f"settings=({shlex.join(job.settings)})",
        f"arguments=({shlex.join(job.arguments)})",
        f"python={shlex.quote(job.python)}",
        f"nodes={job.nodes}",
        f"gpus={job.gpus_per_node}",
        f"cpus={job.cpus_per_gpu}",
        f"wait={job.signal_seconds}",
        "",
        _FUNCTIONS,
    ]
    for line in job.setup:
        # the status is asked for on a line of its own, as the one before may end in a comment
        lines += [line, f"[ $? -eq 0 ] || fail {shlex.quote('this line of the setup failed: ' + line)}"]
    # what the setup may have switched on would end this shell with the status 75 that it is to look at
    return "\n".join([*lines, "set +eu +o pipefail; trap - ERR", _BODY])


def _options(job: JobScript) -> list[str]:
    # "%" begins a pattern in the name of the output
    output = str(job.run).replace("%", "%%") + "/slurm-%j.out"
    return [
        f"--job-name={_quoted(job.name)}",
        # two jobs of one name never run at a time, so that two never write to one run
        "--dependency=singleton",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.gpus_per_node}",
        f"--gpus-per-node={job.gpus_per_node}",
        f"--cpus-per-task={job.cpus_per_gpu}",
        f"--time={job.time}",
        f"--output={_quoted(output)}",
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{job.signal_seconds}",
        *job.options,
    ]


def _quoted(text: str) -> str:
    # sbatch reads these lines itself, and to it a backslash escapes even between single quotes
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_FUNCTIONS = """\
fail() {
    echo "$(hostname): $1" >&2
    exit "${2:-1}"
}

# the name of the run's newest checkpoint, or none
newest() {
    local path found=none
    for path in "$run"/checkpoints/step-*.pt; do
        if [ -e "$path" ]; then found=${path##*/}; fi
    done
    echo "$found"
}

# what tells the processes to stop must not end this shell, which then looks at how they ended; they do not inherit this
trap : TERM USR1
"""

# Of the options of srun: it does not take over --cpus-per-task from the job by itself. The processes of a run that was
# told to stop end one after another with a status other than 0, and --kill-on-bad-exit would kill the last of them on
# their way out; with --wait those that a broken one leaves behind are ended, too, only later.
_BODY = f"""
starts="$run/slurm-$SLURM_JOB_ID.starts"
newest >> "$starts" || fail "cannot write $starts"

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
[ -n "$MASTER_ADDR" ] || fail "scontrol does not tell the hosts of this job"
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT

versions=$("$python" -m mumtrain.node_check --versions) || fail "mumtrain does not start here with $python"
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=0 \\
    "$python" -m mumtrain.node_check "$mix" --out "$run" --gpus "$gpus" \\
    --same-versions "$versions" "${{settings[@]}}" \\
    || fail "the job does not begin, as a node is not fit for it (see above)"

srun --cpus-per-task="$cpus" --kill-on-bad-exit=0 --wait="$wait" \\
    "$python" -m mumtrain pretrain "$mix" "${{settings[@]}}" "${{arguments[@]}}" --out "$run" --resume
status=$?
[ "$status" -eq {STOPPED} ] || exit "$status"

# the run was told to stop and has more to do
now=$(newest)
if [ "$(tail -n {MOST_STARTS} "$starts" | grep -cFx -- "$now")" -ge {MOST_STARTS} ]; then
    fail "{MOST_STARTS} starts in a row came no further (newest checkpoint: $now); give the job more time (--time)"
fi
# a job that was cancelled is no longer in this state, and stays cancelled
scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING \\
    || fail "this job is being ended, so it does not go back into the queue" {STOPPED}
scontrol requeue "$SLURM_JOB_ID" || fail "the job cannot be requeued; submit $run/slurm.sh again" {STOPPED}
"""
