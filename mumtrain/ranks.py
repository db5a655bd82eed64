"""The processes of one run: who they are, and how they agree.

In: what torchrun or Slurm put into the environment. Out: Ranks, by which the processes of a run exchange small things
over a group of their own on the processor, beside the gradients: nothing here waits for a GPU.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mumdata.errors import ConfigError, MumError
from mumtrain.signals import Stopped

__all__ = ["Place", "Ranks", "find_place", "join"]

T = TypeVar("T")

# a rank that says nothing for so long, on a host that has gone dark or before a disk that hangs, ends the run; one that
# ends is noticed at once
_SILENCE = timedelta(minutes=10)

# between two signs of life
_BEAT_S = 0.5

# how long the training thread has to tell of a lost rank by itself, with more to say
_GRACE_S = 3.0

# while a program is torn down by a launcher, the ranks that are killed first are not the reason
_LOST = "another rank has ended, whose own message says why; continue with --resume"


@dataclass(frozen=True)
class Place:
    """Which of a run's processes this one is; `local_rank` counts those of one host."""

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    master: str = ""
    port: int = 0


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """Return the place that a launcher gave this process: torchrun, or srun with one task for each device.

    Without either the process is alone. Raises ConfigError where what the launcher said cannot be understood.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, num, local, port = (
            _number(environ, name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        )
        return _checked(Place(rank, num, local, environ.get("MASTER_ADDR", "127.0.0.1"), port))
    if "SLURM_STEP_ID" in environ and _number(environ, "SLURM_NTASKS", "1") > 1 and "SLURM_PROCID" in environ:
        rank, num, local = (_number(environ, name, "0") for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
        master = environ.get("MASTER_ADDR") or _first_host(environ.get("SLURM_STEP_NODELIST", ""))
        # a port of the job's own, and below those that systems give out
        usual = str(20_000 + _number(environ, "SLURM_JOB_ID", "0") % 10_000)
        return _checked(Place(rank, num, local, master, _number(environ, "MASTER_PORT", usual)))
    return Place()


def _number(environ: Mapping[str, str], name: str, usual: str) -> int:
    text = environ.get(name, usual)
    if not re.fullmatch(r"\d{1,9}", text):
        raise ConfigError(f"the environment variable {name} is '{text}', which is no number; start the ranks anew")
    return int(text)


def _checked(place: Place) -> Place:
    if place.rank >= place.num_ranks:
        raise ConfigError(f"rank {place.rank} is not one of {place.num_ranks} ranks; start them with torchrun or srun")
    if place.num_ranks > 1 and not (place.master and place.port):
        raise ConfigError("MASTER_ADDR and MASTER_PORT are not set; start the ranks with torchrun or mumtrain slurm")
    return place


def _first_host(nodes: str) -> str:
    # node[003-005,9],other -> node003
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else "127.0.0.1"


class Ranks:
    """The processes of a run, of which there may be one; `close` it, or use `join`."""

    def __init__(self, place: Place, device: torch.device) -> None:
        """Meet the others. Raises MumError where they do not come."""
        self.rank, self.size, self.local_rank = place.rank, place.num_ranks, place.local_rank
        self._ended = self._is_abandoned = False
        self._sent: tuple[dist.Work, torch.Tensor] | None = None
        on_cuda = device.type == "cuda"
        if on_cuda and device.index is not None:
            torch.cuda.set_device(device)
        if self.size == 1:
            return
        try:
            dist.init_process_group(
                "nccl" if on_cuda else "gloo",
                init_method=f"tcp://{place.master}:{place.port}",
                rank=self.rank,
                world_size=self.size,
                timeout=_SILENCE,
                device_id=device if on_cuda else None,
            )
            self._words = dist.new_group(backend="gloo", timeout=_SILENCE)
            self._pulse = dist.new_group(backend="gloo", timeout=_SILENCE)
        except (RuntimeError, ValueError) as error:
            raise MumError(
                f"rank {self.rank} of {self.size} on {socket.gethostname()} did not meet the others at "
                f"{place.master}:{place.port}: {_first_line(error)}"
            ) from error
        self._beating = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._beating.start()

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes what all have in common."""
        return self.rank == 0

    # ---- small things

    def gather(self, value: T) -> list[T]:
        """Return everybody's value, by rank, to everybody."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._lost_ranks():
            dist.all_gather_object(found, value, group=self._words)
        return found

    def from_first(self, value: T) -> T:
        """Return the first rank's value to everybody."""
        if self.size == 1:
            return value
        box = [value]
        with self._lost_ranks():
            dist.broadcast_object_list(box, src=0, group=self._words)
        return box[0]

    def tensors_from_first(self, value: Any) -> Any:
        """Return the first rank's nest of dictionaries and lists of tensors (on the processor) to everybody."""
        if self.size == 1:
            return value
        tensors: list[torch.Tensor] = []
        shape = self.from_first(_without_tensors(value, tensors) if self.is_first else None)
        with self._lost_ranks():
            return _with_tensors(shape, self._received(iter(tensors)))

    def _received(self, tensors: Iterator[torch.Tensor]) -> Any:
        def receive(size: list[int], dtype: torch.dtype) -> torch.Tensor:
            tensor = next(tensors).contiguous() if self.is_first else torch.empty(size, dtype=dtype)
            dist.broadcast(tensor, src=0, group=self._words)
            return tensor

        return receive

    def wait(self) -> None:
        """Wait until everybody is here."""
        self.gather(None)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean over the ranks of a scalar on the device, without waiting for the device."""
        if self.size > 1:
            with self._lost_ranks():
                dist.all_reduce(value)
            value = value / self.size
        return value

    def agree(self, wish: bool) -> bool:
        """Tell the others of a wish, and return whether anybody had one a call ago, the same to everybody.

        Each step calls this once: what was sent has then long arrived, and all ranks get to know at the same step.
        A single process is answered at once.
        """
        if self.size == 1:
            return wish
        with self._lost_ranks():
            wished = False
            if self._sent is not None:
                work, wishes = self._sent
                work.wait()
                wished = bool(wishes.item())
            wishes = torch.tensor(int(wish))
            work = dist.all_reduce(wishes, group=self._words, async_op=True)
            assert work is not None
            self._sent = (work, wishes)
        return wished

    # ---- the end

    @contextmanager
    def lost_ranks(self) -> Iterator[None]:
        """Turn what a broken connection raises into a MumError; in work that the ranks do together."""
        with self._lost_ranks():
            yield

    @contextmanager
    def _lost_ranks(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the common base of what the backends raise
            if self.size == 1 or not _is_connection(error):
                raise
            raise MumError(f"rank {self.rank} of {self.size}: {_LOST} ({_first_line(error)})") from error

    def close(self) -> None:
        """Part in good order; everybody calls it. Raises MumError where another one did not get so far."""
        if self.size == 1 or self._ended:
            return
        self.wait()
        self._ended = True
        self._beating.join(_GRACE_S)
        dist.destroy_process_group()

    def abandon(self) -> None:
        """Part without waiting for anybody, after an error here: the others notice that this rank has gone."""
        self._ended = self._is_abandoned = True
        if self.size > 1:
            self._beating.join(_GRACE_S)  # a thread that still runs when the interpreter ends would abort it

    def _beat(self) -> None:
        # a rank that ends closes its connections, and this fails on all others within a second, also while the training
        # thread waits for a GPU that waits for the lost rank
        try:
            while True:
                ended = torch.tensor(int(self._ended))
                dist.all_reduce(ended, group=self._pulse)
                if int(ended) == self.size or self._is_abandoned:
                    return
                time.sleep(_BEAT_S)
        except RuntimeError as error:
            told = _first_line(error)
        if self._ended:
            return
        time.sleep(_GRACE_S)
        if not self._ended:
            with suppress(OSError):
                os.write(2, f"error: rank {self.rank} of {self.size}: {_LOST} ({told})\n".encode())
            os._exit(1)


@contextmanager
def join(place: Place, device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks and part from them: in good order, or at once where this one fails."""
    ranks = Ranks(place, device)
    try:
        yield ranks
        ranks.close()
    except Stopped:  # which all ranks raise together
        ranks.close()
        raise
    except BaseException:
        ranks.abandon()
        raise


def _is_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    words = ("connection", "peer", "timed out", "timeout", "broken pipe", "socket", "nccl", "remote process")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # before it stands the place in the library's sources
    if not lines:
        return type(error).__name__
    return re.sub(r"^\[[^\]]*\]\s*", "", lines[0]).split(". ")[0].rstrip(".")


@dataclass(frozen=True)
class _Hole:
    """Where a tensor was."""

    size: list[int]
    dtype: torch.dtype


def _without_tensors(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return _Hole(list(value.shape), value.dtype)
    if isinstance(value, dict):
        return {key: _without_tensors(one, tensors) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_tensors(one, tensors) for one in value)
    return value


def _with_tensors(value: Any, receive: Any) -> Any:
    if isinstance(value, _Hole):
        return receive(value.size, value.dtype)
    if isinstance(value, dict):
        return {key: _with_tensors(one, receive) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_tensors(one, receive) for one in value)
    return value
