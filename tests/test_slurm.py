"""Jobs: what is checked before they are submitted, and scripts that run for real on made-up Slurm programs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mumtrain.node_check
from mumdata.catalog import open_mix
from mumdata.errors import ConfigError, MumError
from mumtrain.config import apply, from_dict
from mumtrain.node_check import checkpoint_bytes, node_check, versions
from mumtrain.recipes import recipe
from mumtrain.slurm import SlurmJob, slurm

slurm_module = importlib.import_module("mumtrain.slurm")  # the package has its function by this name

TINY = ["data.slots=4", "data.workers=0"]

# ---- a cluster of small programs: its state lies in $CLUSTER

# reads the options as sbatch does (blanks end a word but in quotes, a backslash escapes anywhere, # ends the line) and
# runs the job, again for each time that it went back into the queue
SBATCH = """
import json, os, pathlib, subprocess, sys
cluster = pathlib.Path(os.environ["CLUSTER"])
def words(line):
    word, quote, escaped, found, begun = "", "", False, [], False
    for char in line:
        if escaped: word, escaped = word + char, False
        elif char == "\\\\": escaped = begun = True
        elif quote: word, quote = (word, "") if char == quote else (word + char, quote)
        elif char in "'\\"": quote, begun = char, True
        elif char == "#": break
        elif char.isspace():
            found, word, begun = found + ([word] if begun else []), "", False
        else: word, begun = word + char, True
    return found + ([word] if begun else [])
assert sys.argv[1] == "--parsable"
script = pathlib.Path(sys.argv[2])
given = {}
for line in script.read_text().splitlines():
    if line.startswith("#SBATCH "):
        for word in words(line[8:]):
            name, _, value = word.partition("=")
            given[name] = value
(cluster / "options.json").write_text(json.dumps(given))
if (cluster / "refuse").exists():
    sys.exit("sbatch: error: invalid partition")
nodes, tasks = int(given["--nodes"]), int(given["--ntasks-per-node"])
environment = os.environ | {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": ",".join(f"host{n}" for n in range(nodes)),
    "SLURM_NTASKS": str(nodes * tasks),
}
output = given["--output"].replace("%j", "4711").replace("%%", "%")
for start in range(20):
    (cluster / "requeued").unlink(missing_ok=True)
    with open(output, "a") as file:
        start = ["bash", "-c", 'export BATCH=$$; exec bash "$0"', str(script)]
        done = subprocess.run(start, env=environment, stdout=file, stderr=file)
    with open(cluster / "statuses", "a") as file:
        print(done.returncode, file=file)
    if not (cluster / "requeued").exists():
        break
print("4711;cluster")
"""

# runs as many processes as it is asked for, or as the job has; ends with the greatest of their statuses
SRUN = """
import json, os, pathlib, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")]
for place, word in enumerate(sys.argv[1:], 1):
    if not word.startswith("--"):
        break
options, command = sys.argv[1:place], sys.argv[place:]
with open(pathlib.Path(os.environ["CLUSTER"], "srun"), "a") as file:
    print(json.dumps([options, command]), file=file)
given = dict(word.partition("=")[::2] for word in options)
number = int(given.get("--ntasks", os.environ["SLURM_NTASKS"]))
tasks = [subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": str(n)}) for n in range(number)]
statuses = [task.wait() for task in tasks]
sys.exit(max(128 - status if status < 0 else status for status in statuses))
"""

SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") tr , '\\n' <<< "$3" ;;
    "show job") echo "JobId=$3 JobState=$(cat "$CLUSTER/state" 2> /dev/null || echo RUNNING) Reason=None" ;;
    "requeue 4711") [ ! -e "$CLUSTER/stuck" ] && touch "$CLUSTER/requeued" ;;
    *) exit 9 ;;
esac
"""

# stands for Python with mumtrain: each start does what the next line of $CLUSTER/plan says, STATUS CHECKPOINT [SIGNAL]
PYTHON = """#!/bin/bash
if [ "$1 $2 $3" = "-m mumtrain.node_check --versions" ]; then echo "python=3 torch=2"; exit; fi
if [ "$1 $2" = "-m mumtrain.node_check" ]; then
    if [ -e "$CLUSTER/unfit" ]; then echo "host1: no disk" >&2; exit 1; fi
    exit 0
fi
if [ "$SLURM_PROCID" != 0 ]; then exit 0; fi
printf '%s\\n' "$MASTER_ADDR:$MASTER_PORT" >> "$CLUSTER/masters"
printf '%s\\0' "$@" > "$CLUSTER/arguments"
read -r status checkpoint signal < "$CLUSTER/plan"
sed -i 1d "$CLUSTER/plan"
while [ "$1" != --out ]; do shift; done
mkdir -p "$2/checkpoints"
[ "$checkpoint" = - ] || touch "$2/checkpoints/step-$checkpoint.pt"
[ -z "$signal" ] || kill -s "$signal" "$BATCH"
exit "$status"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a made-up cluster, whose programs are on the PATH."""
    folder, programs = tmp_path / "cluster", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}.items():
        text = text if text.startswith("#!") else f"#!{sys.executable} -S\n{text}"
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PROGRAMS", str(programs))
    return folder


def submit(mix: Path, out: Path, **options: Any) -> SlurmJob:
    given: dict[str, Any] = {"set": TINY, "nodes": 2, "gpus_per_node": 2, "cpus_per_gpu": 3}
    # the setup decides which Python there is
    return slurm(mix, recipe="debug-cpu", out=out, setup=['export PATH="$PROGRAMS:$PATH"  # first'], **given | options)


def statuses(cluster: Path) -> list[int]:
    return [int(line) for line in (cluster / "statuses").read_text().split()]


def told(job: SlurmJob) -> str:
    return (job.script.parent / "slurm-4711.out").read_text()


# ---- scripts that run


def test_a_job_runs_with_its_arguments_intact(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    (cluster / "plan").write_text("0 00000008\n")
    awkward = 'data.stages=0 views=2:3; 4 views=2:4 overlap="$(touch no)" \'`x`'
    folder = tmp_path / 'a mix\'s "place" $HOME'
    shutil.copytree(mix_path.parent, folder)
    out = tmp_path / 'run\'s "100%" #1'
    set = [*TINY, "data.stages=0 views=2:3; 4 views=2:4"]
    job = submit(
        folder / "mix.parquet", out, set=set, partition="gpu", account="me", mem="64G", sbatch=["--constraint=h200"]
    )
    assert dataclasses.astuple(job) == (out / "slurm.sh", 4, ("sbatch", "--parsable", str(out / "slurm.sh")), "4711")
    assert statuses(cluster) == [0]
    arguments = (cluster / "arguments").read_bytes().decode().split("\0")[:-1]
    settings = [word for one in set for word in ("--set", one)]
    assert arguments == [
        *("-m", "mumtrain", "pretrain", str(folder / "mix.parquet"), "--recipe", "debug-cpu"),
        *(*settings, "--out", str(out), "--resume"),
    ]
    options = json.loads((cluster / "options.json").read_text())
    assert options.pop("--job-name").startswith('run\'s "100%" #1-')
    assert options == {
        "--dependency": "singleton",
        "--nodes": "2",
        "--ntasks-per-node": "2",
        "--gpus-per-node": "2",
        "--cpus-per-task": "3",
        "--time": "24:00:00",
        "--output": str(out).replace("%", "%%") + "/slurm-%j.out",
        "--open-mode": "append",
        "--requeue": "",
        "--signal": "USR1@120",
        "--partition": "gpu",
        "--account": "me",
        "--mem": "64G",
        "--constraint": "h200",
    }
    assert (out / "slurm-4711.out").exists()
    (check, command), (train, _) = (json.loads(line) for line in (cluster / "srun").read_text().splitlines())
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= {*check}
    assert command[:3] == ["python", "-m", "mumtrain.node_check"]
    assert command[command.index("--same-versions") + 1] == "python=3 torch=2"
    assert command[command.index("--gpus") + 1] == "2"
    # all processes of a run that was told to stop have the time that there is
    assert {"--cpus-per-task=3", "--kill-on-bad-exit=0", "--wait=120"} == {*train}
    assert (cluster / "masters").read_text() == "host0:24711\n"
    # what no setting may hold is quoted all the same
    text = slurm_module.script_text(
        slurm_module.JobScript(
            mix=folder,
            run=out,
            name="x",
            settings=("--set", awkward),
            arguments=(),
            python="python",
            nodes=1,
            gpus_per_node=1,
            cpus_per_gpu=1,
            time="1",
            signal_seconds=1,
            options=(),
            setup=(),
        )
    )
    line = next(line for line in text.splitlines() if line.startswith("settings="))
    shown = subprocess.run(
        ["bash", "-c", f"{line}; printf '%s\\0' \"${{settings[@]}}\""], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.stdout.split("\0")[:-1] == ["--set", awkward]
    assert not (tmp_path / "no").exists()


def test_a_job_goes_back_into_the_queue_until_it_is_done(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    # the third start comes no further than the second, which alone is no reason to give up; the batch shell itself is
    # told to end, too, and stays
    (cluster / "plan").write_text("75 00000002 TERM\n75 00000004 USR1\n75 00000004\n75 00000006\n0 00000008\n")
    job = submit(mix_path, tmp_path / "run")
    assert statuses(cluster) == [0, 0, 0, 0, 0]
    assert (cluster / "plan").read_text() == ""
    assert (tmp_path / "run" / "slurm-4711.starts").read_text().split() == [
        "none",
        *(f"step-{step:08d}.pt" for step in (2, 4, 4, 6)),
    ]
    assert told(job) == ""


@pytest.mark.parametrize("line", ["set -e", "set -euo pipefail"])
def test_what_a_setup_switches_on_does_not_keep_a_job_from_going_on(
    mix_path: Path, cluster: Path, tmp_path: Path, line: str
) -> None:
    (cluster / "plan").write_text("75 00000002\n0 00000004\n")
    setup = [line, 'export PATH="$PROGRAMS:$PATH"']
    slurm(mix_path, recipe="debug-cpu", set=TINY, out=tmp_path / "run", gpus_per_node=2, setup=setup)
    assert statuses(cluster) == [0, 0]
    assert (cluster / "plan").read_text() == ""


def test_broken_checkpoints_do_not_count(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    folder = submit(mix_path, tmp_path / "run", submit=False).script.parent / "checkpoints"
    folder.mkdir()
    for name in ("step-00000009.pt.broken", ".step-00000010.pt.tmp"):
        (folder / name).touch()
    (cluster / "plan").write_text("75 00000002\n75 00000004\n75 00000006\n75 00000008\n0 00000009\n")
    job = submit(mix_path, tmp_path / "run")
    assert statuses(cluster) == [0] * 5
    begun = (tmp_path / "run" / "slurm-4711.starts").read_text().split()
    assert begun == ["none", *(f"step-{step:08d}.pt" for step in (2, 4, 6, 8))]
    assert told(job) == ""


@pytest.mark.parametrize("status", [1, 76, 143])
def test_other_statuses_are_the_jobs_own(mix_path: Path, cluster: Path, tmp_path: Path, status: int) -> None:
    (cluster / "plan").write_text(f"{status} 00000002\n0 00000004\n")
    submit(mix_path, tmp_path / "run")
    assert statuses(cluster) == [status]


@pytest.mark.parametrize("checkpoint", ["-", "00000005"])
def test_a_job_that_comes_no_further_gives_up(mix_path: Path, cluster: Path, tmp_path: Path, checkpoint: str) -> None:
    (cluster / "plan").write_text(f"75 {checkpoint}\n" * 12)
    job = submit(mix_path, tmp_path / "run")
    # what begins without a checkpoint and gets to one came further once
    starts = 3 if checkpoint == "-" else 4
    assert statuses(cluster) == [0] * (starts - 1) + [1]
    assert "3 starts in a row came no further" in told(job)
    assert ("step-00000005.pt" if starts == 4 else "none") in told(job)


def test_a_job_that_is_being_ended_stays_so(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    (cluster / "plan").write_text("75 00000002\n" * 2)
    (cluster / "state").write_text("COMPLETING")  # as after scancel
    job = submit(mix_path, tmp_path / "run")
    assert statuses(cluster) == [75]
    assert "does not go back" in told(job)


def test_a_job_that_cannot_be_requeued_says_so(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    (cluster / "plan").write_text("75 00000002\n" * 2)
    (cluster / "stuck").touch()
    job = submit(mix_path, tmp_path / "run")
    assert statuses(cluster) == [75]
    assert f"submit {job.script} again" in told(job)


def test_an_unfit_node_ends_the_job_before_training(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    (cluster / "unfit").touch()
    job = submit(mix_path, tmp_path / "run")
    assert statuses(cluster) == [1]
    assert "host1: no disk" in told(job)
    assert not (cluster / "masters").exists()


def test_a_setup_that_fails_ends_the_job(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    (cluster / "plan").write_text("0 00000008\n")
    job = slurm(
        mix_path,
        recipe="debug-cpu",
        set=TINY,
        out=tmp_path / "run",
        gpus_per_node=1,
        setup=["source 'no such venv'/activate"],
    )
    assert statuses(cluster) == [1]
    assert "this line of the setup failed: source 'no such venv'/activate" in told(job)


def test_without_a_setup_this_python_runs(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    job = slurm(mix_path, recipe="debug-cpu", set=TINY, out=tmp_path / "run", gpus_per_node=4, submit=False)
    assert job.job is None
    assert f"\npython={shlex.quote(sys.executable)}\n" in job.script.read_text()
    assert not (cluster / "options.json").exists()


# ---- what is checked before


def test_what_sbatch_says_is_told(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    (cluster / "refuse").touch()
    with pytest.raises(MumError, match=r"sbatch did not take .*slurm\.sh: sbatch: error: invalid partition"):
        submit(mix_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("3", 180),
        ("3:07", 187),
        ("1:00:05", 3605),
        ("24:00:00", 86400),
        ("2-12", 216000),
        ("1-0:30", 88200),
        ("1-01:01:01", 90061),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: str, seconds: int) -> None:
    assert slurm_module._seconds(time) == seconds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time": "1h"}, "is no time; write minutes"),
        ({"time": "1-"}, "is no time"),
        ({"time": "0"}, "give more"),
        ({"time": "2"}, "leaves nothing of --time 2"),
        ({"time": "1:00:00", "signal_seconds": 3600}, "leaves nothing"),
        ({"signal_seconds": 0}, "must lie in 1 .. 65535"),
        ({"nodes": 3}, "6 ranks do not divide data.slots=4"),
        ({"nodes": 0}, "--nodes is 0"),
        ({"gpus_per_node": -1}, "--gpus-per-node is -1"),
        ({"set": ["data.slot=4"]}, "did you mean 'data.slots'"),
        ({"sbatch": ["constraint=h200"]}, "is no option of sbatch"),
        ({"sbatch": ["--x=1\nrm -r x"]}, "line break"),
        ({"partition": "a\nb"}, "line break"),
        ({"init": Path("no.pt")}, "does not exist"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    mix_path: Path, cluster: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(MumError, match=words):
        submit(mix_path, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert not (cluster / "options.json").exists()


def test_shell_lines_that_bash_cannot_read_are_refused(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bash cannot read this"):
        slurm(mix_path, recipe="debug-cpu", set=TINY, out=tmp_path / "run", gpus_per_node=1, setup=["source 'venv"])
    assert not (tmp_path / "run").exists()


def test_a_machine_without_slurm_is_told(mix_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MumError, match="sbatch is not on this machine's PATH"):
        submit(mix_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert submit(mix_path, tmp_path / "run", submit=False).script.exists()


def test_missing_folders_of_datasets_are_told(
    mix_path: Path, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUM_ROOT_MEGADEPTH", str(tmp_path / "gone"))
    with pytest.raises(MumError, match="MUM_ROOT_MEGADEPTH=DIR"):
        submit(mix_path, tmp_path / "run")
    assert node_check(mix_path, out=tmp_path, gpus=0, recipe="debug-cpu") != []


def test_a_folder_belongs_to_one_run(mix_path: Path, cluster: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    submit(mix_path, out, submit=False)
    stored = from_dict(json.loads((out / "config.json").read_text()))
    assert stored == apply(recipe("debug-cpu"), TINY)
    # the same run on other nodes, for longer and with other workers
    submit(mix_path, out, nodes=1, set=[*TINY, "data.workers=3", "steps=99", "optim.bad_step=skip"], submit=False)
    before = (out / "slurm.sh").read_text()
    with pytest.raises(ConfigError, match=r"other settings \(seed, optim.lr\)"):
        submit(mix_path, out, set=[*TINY, "optim.lr=1e-3", "seed=3"], submit=False)
    (out / "run.json").write_text(json.dumps({"mix_digest": open_mix(mix_path).content_digest}))
    submit(mix_path, out, submit=False)
    (out / "run.json").write_text(json.dumps({"mix_digest": "0" * 64}))
    with pytest.raises(MumError, match="another mix"):
        submit(mix_path, out, submit=False)
    # unless it is told to take what differs
    job = submit(mix_path, out, set=[*TINY, "optim.lr=1e-3", "seed=3"], submit=False, accept_changes=True)
    assert "\narguments=(--accept-changes)\n" in job.script.read_text()
    assert "--accept-changes" not in before
    submit(mix_path, out, submit=False, accept_changes=True)
    assert json.loads((out / "config.json").read_text())["steps"] == stored.steps
    assert (out / "slurm.sh").read_text() != before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with pytest.raises(MumError, match="not the folder of a run"):
        submit(mix_path, foreign, submit=False)
    with pytest.raises(MumError, match="is a file"):
        submit(mix_path, foreign / "thesis.tex", submit=False)
    (out / "config.json").write_text("{")
    with pytest.raises(MumError, match=r"config\.json is damaged"):
        submit(mix_path, out, submit=False)


# ---- nodes


@pytest.fixture
def check(mix_path: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def checked(**options: Any) -> list[str]:
        given: dict[str, Any] = {"out": tmp_path, "gpus": 0, "recipe": "debug-cpu"}
        return node_check(mix_path, **given | options)

    return checked


def test_a_fit_node(check: Callable[..., list[str]], tmp_path: Path) -> None:
    assert check(same_versions=versions()) == []
    assert not any(tmp_path.iterdir())


def test_a_node_says_what_it_lacks(check: Callable[..., list[str]], tmp_path: Path) -> None:
    assert "is not seen from here" in check(out=tmp_path / "gone")[0]
    assert "CUDA devices, not 999" in check(gpus=999)[0]
    (wrong,) = check(same_versions=versions().replace("numpy=", "numpy=0."))
    assert "numpy " in wrong
    assert "torch" not in wrong
    assert len(check(out=tmp_path / "gone", gpus=999, same_versions="x=1")) == 3


def test_a_node_needs_space_for_two_checkpoints(
    check: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # weights and two means of the parameters that the recipe's description tells
    assert checkpoint_bytes(recipe("mum-vitl16")) == 389_534_464 * 3 * 4
    needed = 2 * checkpoint_bytes(recipe("debug-cpu"))
    for free, is_enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(
            mumtrain.node_check.shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(9, 9, free)
        )
        assert (check() == []) is is_enough


def test_the_program_names_its_host(mix_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(mix_path), "--recipe", "debug-cpu", "--set", "data.slots=4"]
    assert mumtrain.node_check.main([*arguments, "--out", str(tmp_path), "--same-versions", versions()]) == 0
    assert mumtrain.node_check.main([*arguments, "--out", str(tmp_path / "gone"), "--gpus", "999"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"{mumtrain.node_check.socket.gethostname()}: ")
    assert "999" in line
    assert "gone" in line
    assert mumtrain.node_check.main([str(mix_path / "none"), "--recipe", "debug-cpu", "--out", str(tmp_path)]) == 1
    assert mumtrain.node_check.main(["--versions"]) == 0
    assert "torch=" in capsys.readouterr().out
