"""Several processes as one run: the same weights, agreement on when to stop, and the loss of one of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from mumdata.errors import ConfigError, MumError
from mumtrain.checkpoint import list_checkpoints, load_checkpoint
from mumtrain.ranks import Place, Ranks, find_place, join
from mumtrain.signals import STOPPED, Stopped
from mumtrain.train import pretrain
from tests.test_train import THIN, metrics

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(num: int, work: Callable[[int], Any], folder: Path) -> list[BaseProcess]:
    """Start ranks as forks of this process; what they print goes to folder/rank-N.txt, their status is `work`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()

    def main(rank: int) -> None:
        torch.set_num_threads(1)
        out = os.open(folder / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 2)
        place = {"RANK": rank, "WORLD_SIZE": num, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        status = 1
        try:
            work(rank)
            status = 0
        except Stopped:
            status = STOPPED
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(status)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=main, args=(rank,)) for rank in range(num)]
    for process in processes:
        process.start()
    return processes


def end(processes: list[BaseProcess], folder: Path) -> list[int | None]:
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
    told = "".join(path.read_text() for path in sorted(folder.glob("rank-*.txt")))
    print(told)
    return [process.exitcode for process in processes]


def train(mix: Path, out: Path, num: int, *sets: str, resume: bool = False) -> None:
    """Train with some ranks, THIN and four slots."""

    def work(rank: int) -> None:
        settings = [*THIN, "data.slots=4", *sets]
        pretrain(mix, recipe="debug-cpu", set=settings, out=out, device="cpu", resume=resume)

    assert end(start(num, work, out.parent / f"{out.name}-told"), out.parent / f"{out.name}-told") == [0] * num


@pytest.fixture(scope="module")
def alone(mix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of four slots in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(mix_path, out, 1, "steps=10")
    return out


@pytest.mark.parametrize("num", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_slots_are_the_same_on_any_number_of_ranks(num: int, alone: Path, mix_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(mix_path, out, num, "steps=10")
    one, several = load_checkpoint(alone), load_checkpoint(out)
    for name, weights in one.model.items():
        assert (weights - several.model[name]).abs().max() < 1e-6, name
    moved = max(
        float((weights - load_checkpoint(list_checkpoints(alone)[0]).model[name]).abs().max())
        for name, weights in one.model.items()
    )
    assert moved > 1e-5  # what is compared did change
    for line, other in zip(metrics(alone), metrics(out), strict=True):
        for key, value in line.items():
            assert other[key] == pytest.approx(value, rel=1e-5), key
    assert several.made_by["ranks"] == str(num)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(alone: Path, mix_path: Path, tmp_path: Path) -> None:
    """On the same number bit for bit, on another to rounding; the first rank alone reads the checkpoint."""
    same, other = tmp_path / "same", tmp_path / "other"
    straight = tmp_path / "straight"
    train(mix_path, straight, 2, "steps=10")
    for out in (same, other):
        train(mix_path, out, 2, "steps=10", "checkpoint.every=5", "checkpoint.keep=0")
        (out / "checkpoints" / "step-00000010.pt").unlink()
    train(mix_path, same, 2, "steps=10", resume=True)
    train(mix_path, other, 1, "steps=10", resume=True)
    first, again, alone_again = (load_checkpoint(out) for out in (straight, same, other))
    assert all(torch.equal(first.model[name], again.model[name]) for name in first.model)
    assert metrics(straight) == metrics(same)
    assert all((first.model[name] - alone_again.model[name]).abs().max() < 1e-6 for name in first.model)
    assert [json.loads(line)["ranks"] for line in (other / "history.jsonl").read_text().splitlines()] == [2, 1]
    assert "ranks 2 -> 1" in "".join(json.loads((other / "history.jsonl").read_text().splitlines()[1])["notes"])


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("asked", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_all_ranks_stop_at_the_same_step(asked: signal.Signals, mix_path: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", tmp_path / "told"

    def work(rank: int) -> None:
        sets = [*THIN, "data.slots=2", "steps=100000", "checkpoint.every=100000"]
        pretrain(mix_path, recipe="debug-cpu", set=sets, out=out, device="cpu")

    processes = start(2, work, told)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len((out / "metrics.jsonl").read_text().splitlines()) > 1)
    os.kill(processes[1].pid or 0, asked)  # one of them alone is told
    assert end(processes, told) == [STOPPED, STOPPED]
    (newest,) = list_checkpoints(out)
    assert load_checkpoint(newest).step >= 4


def test_a_lost_rank_ends_the_others_within_seconds(mix_path: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", tmp_path / "told"

    def work(rank: int) -> None:
        sets = [*THIN, "data.slots=2", "steps=100000"]
        pretrain(mix_path, recipe="debug-cpu", set=sets, out=out, device="cpu")

    processes = start(2, work, told)
    wait_for(lambda: bool(list_checkpoints(out)))
    os.kill(processes[1].pid or 0, signal.SIGKILL)
    since = time.monotonic()
    processes[0].join(30)
    assert time.monotonic() - since < 20
    assert processes[0].exitcode == 1
    assert "rank 0 of 2: another rank has ended" in (told / "rank-0.txt").read_text()
    assert load_checkpoint(out).step >= 3


@pytest.mark.slow
def test_a_rank_that_waits_for_a_device_ends_as_well(tmp_path: Path) -> None:
    """The training thread never looks, as one that waits for a GPU that waits for the lost rank."""

    def work(rank: int) -> None:
        with join(find_place(), CPU) as ranks:
            ranks.wait()
            (tmp_path / f"met-{rank}").touch()
            time.sleep(60)

    processes = start(2, work, tmp_path / "told")
    wait_for(lambda: len(list(tmp_path.glob("met-*"))) == 2)
    os.kill(processes[1].pid or 0, signal.SIGKILL)
    processes[0].join(30)
    assert processes[0].exitcode == 1
    assert "another rank has ended" in (tmp_path / "told" / "rank-0.txt").read_text()
    end(processes, tmp_path / "told")


def test_what_ranks_tell_each_other(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with join(find_place(), CPU) as ranks:
            assert ranks.gather(f"I am {rank}") == ["I am 0", "I am 1", "I am 2"]
            assert ranks.from_first({"of": rank}) == {"of": 0}
            nest = {"a": [torch.arange(3) + rank, 7 + rank], "b": torch.tensor(2.5 + rank, dtype=torch.float64)}
            found = ranks.tensors_from_first(nest)
            assert torch.equal(found["a"][0], torch.arange(3))
            assert found["a"][1] == 7
            assert found["b"] == 2.5
            assert found["b"].dtype == torch.float64
            assert ranks.mean(torch.tensor(float(rank))) == 1.0
            wishes = [ranks.agree(wish) for wish in (False, rank == 2, False, False)]
            assert wishes == [False, False, True, False]

    processes = start(3, work, tmp_path)
    assert end(processes, tmp_path) == [0, 0, 0]


def test_a_process_alone_needs_nobody() -> None:
    ranks = Ranks(Place(), CPU)
    assert ranks.gather(3) == [3]
    assert ranks.from_first("x") == "x"
    assert ranks.agree(True)
    assert not ranks.agree(False)
    assert ranks.mean(torch.tensor(4.0)) == 4
    ranks.close()


def test_places_that_launchers_give() -> None:
    assert find_place({}) == Place()
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
    assert find_place(torchrun) == Place(3, 8, 1, "a", 29500)
    slurm = {
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "16",
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "1234567",
        "SLURM_STEP_NODELIST": "gpu[007-008,12],other",
    }
    assert find_place(slurm) == Place(9, 16, 1, "gpu007", 20_000 + 1234567 % 10_000)
    assert find_place({**slurm, "SLURM_STEP_NODELIST": "host"}).master == "host"
    assert find_place({**slurm, "SLURM_STEP_NODELIST": "n[1-2]-ib,m"}).master == "n1-ib"
    assert find_place({**slurm, "MASTER_ADDR": "here", "MASTER_PORT": "5"}) == Place(9, 16, 1, "here", 5)
    assert find_place({**slurm, "SLURM_NTASKS": "1"}) == Place()  # a shell inside a job
    assert find_place({name: value for name, value in slurm.items() if name != "SLURM_STEP_ID"}) == Place()
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two'"):
        find_place({**torchrun, "WORLD_SIZE": "two"})
    with pytest.raises(ConfigError, match="rank 8 is not one of 8"):
        find_place({**torchrun, "RANK": "8"})
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        find_place({"RANK": "0", "WORLD_SIZE": "2"})


def test_ranks_that_do_not_divide_the_slots(mix_path: Path, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with pytest.raises(MumError, match="do not divide"):
            pretrain(mix_path, recipe="debug-cpu", set=[*THIN, "data.slots=3"], out=tmp_path / "run", device="cpu")

    assert end(start(2, work, tmp_path / "told"), tmp_path / "told") == [0, 0]
    assert not (tmp_path / "run").exists()
