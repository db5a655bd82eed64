"""The decoding processes, seen from the training process: started, given jobs, listened to, ended.

In: jobs. Out: their results in any order, and decoded views in memory that all processes map. A worker's death is a
MumError; nothing is left behind, neither processes nor files, however either side ends.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import mumdata.errors
from mumdata.errors import ConfigError, MumError
from mumtrain.config import Config
from mumtrain.reading import worker
from mumtrain.reading.frames import FrameTable, forget_archives
from mumtrain.reading.ring import check_ring, no_ring
from mumtrain.reading.worker import BAD, BUG, DONE, FAILED, MOST_JOB_FRAMES, QUIET, Job, Result, Setup, map_ring

__all__ = ["JOB_FRAMES", "Workers", "num_workers"]

# frames of a job: few, so that no worker is left with much to do when the others have finished a slot
JOB_FRAMES = 8

# most processes that `data.workers=-1` starts
_MOST_AUTOMATIC = 16

# how often it is looked whether all workers live; how long a killed one may take to go; and after how long workers look
# whether the training process is still there
_CHECK_S = 0.25
_END_S = 5.0
_WORKER_WAIT_S = 1

# a socket takes some 270 messages
_MOST_JOBS = 128


def num_workers(config: Config) -> int:
    """Return how many decoding processes `data.workers` means here: -1 is one for each core, at most 16."""
    if config.data.workers >= 0:
        return config.data.workers
    if not hasattr(socket, "SOCK_SEQPACKET") or not hasattr(os, "memfd_create"):
        return 0
    return min(_MOST_AUTOMATIC, len(os.sched_getaffinity(0)))


class Workers:
    """Processes that decode jobs into `ring`, uint8 [buffers, frames_per_slot, S, S, 3]; `close` ends them.

    One socket carries all jobs, and whichever worker is free takes the next: no locks, so none can be left behind by a
    worker that is killed. Another socket carries the results. The training process blocks on neither.
    """

    def __init__(self, frames: Sequence[FrameTable], config: Config, *, num: int, buffers: int) -> None:
        """Start `num` processes by `data.start_method`. Raises ConfigError where the system lacks what they need, or
        the memory for the ring.
        """
        if not hasattr(socket, "SOCK_SEQPACKET") or not hasattr(os, "memfd_create"):
            raise ConfigError("decoding processes need Linux; set data.workers=0")
        self.frames = tuple(frames)
        self._under_way: dict[int, Job] = {}
        self._unsent: deque[Job] = deque()
        self._checked_s = 0.0
        check_ring(config, buffers)
        per_job = max(JOB_FRAMES, -(-config.data.frames_per_slot * buffers // _MOST_JOBS))
        self.frames_per_job = min(per_job, MOST_JOB_FRAMES)
        setup = Setup(os.getpid(), config, self.frames, buffers, num)
        self._jobs, worker_jobs = _socket_pair()
        self._results, worker_results = _socket_pair()
        self._children: list[_Child] = []
        self._finalizer = weakref.finalize(self, _end, os.getpid(), self._children, (self._jobs, self._results))
        ring_number, setup_number = os.memfd_create("mumtrain-views"), os.memfd_create("mumtrain-setup")
        try:
            try:
                self.ring, self._notes = map_ring(ring_number, setup)
            except (OSError, MemoryError, OverflowError) as error:
                raise no_ring(config, buffers, error) from error
            setup.written(setup_number)
            numbers = worker_jobs.fileno(), worker_results.fileno(), ring_number, setup_number
            start = _spawn if config.data.start_method == "spawn" else self._fork
            for which in range(num):
                with _signals_blocked():
                    self._children.append(start(which, *numbers))
        except OSError as error:
            self.close()
            raise MumError(
                f"cannot start {num} decoding processes ({error}); set data.workers lower, or to 0, which decodes in "
                "the training process"
            ) from error
        except BaseException:
            self.close()
            raise
        finally:
            for number in (ring_number, setup_number):
                os.close(number)
            for end in (worker_jobs, worker_results):
                end.close()

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        return [child.pid for child in self._children]

    def close(self) -> None:
        """End the processes. What they are at is lost, and nothing else: they hold no state."""
        self._finalizer()

    def submit(self, job: Job) -> None:
        """Queue a job; its number must be its own."""
        self._under_way[job.number] = job
        self._unsent.append(job)
        self._send()

    def drain(self) -> None:
        """Wait until nothing is written to the ring any more; what is still queued here is dropped."""
        while self._unsent:
            del self._under_way[self._unsent.pop().number]
        while self._under_way:
            self.results(_CHECK_S, fails=False)

    def results(self, timeout_s: float, *, fails: bool = True) -> list[Result]:
        """Return the results that are there (jobs done, images bad), waiting for some for at most a time.

        Raises MumError where a worker has died or met one; RuntimeError with the traceback of any other exception.
        All workers are ended then. With `fails` False, only a death is an error.
        """
        self._send()
        waiting = select.poll()
        waiting.register(self._results, select.POLLIN)
        if self._unsent:
            waiting.register(self._jobs, select.POLLOUT)
        found: list[Result] = []
        if waiting.poll(timeout_s * 1000):
            found = list(self._received())
            self._send()
        if time.monotonic() - self._checked_s > _CHECK_S:
            found += self._check()
        for result in found:
            if result.kind != BAD:
                self._under_way.pop(result.job, None)
        error = next((error for result in found if (error := _error(result))), None)
        if error is not None and fails:
            self.close()
            raise error
        return [result for result in found if result.kind in (DONE, BAD)]

    def _send(self) -> None:
        while self._unsent:
            try:
                self._jobs.send(self._unsent[0].packed())
            except BlockingIOError:
                return
            except ConnectionError:  # no worker is left to receive it: `_check` tells why
                return
            self._unsent.popleft()

    def _received(self) -> Iterator[Result]:
        with suppress(BlockingIOError, ConnectionError):
            while message := self._results.recv(1 << 16):
                yield Result.unpacked(message)

    def _check(self) -> list[Result]:
        self._checked_s = time.monotonic()
        for which, child in enumerate(self._children):
            if (status := child.poll()) is not None:
                # it may have said why before it left
                last = list(self._received())
                if any(_error(result) for result in last):
                    return last
                self.close()
                raise self._death(which, child.pid, status)
        return []

    def images(self) -> list[str]:
        """Return the images that the workers are at."""
        return [at for which in range(len(self._children)) if (at := self._at(which))]

    def _at(self, which: int) -> str:
        number, place = self._notes[which].tolist()
        job = self._under_way.get(number)
        if job is None or not 0 <= place < len(job.frames):
            return ""
        dataset, frame_id = job.frames[place].tolist()
        frame = self.frames[dataset].frame(frame_id)
        return f"{self.frames[dataset].name}: {frame.path}" + (f" in {frame.archive}" if frame.archive else "")

    def _death(self, which: int, pid: int, status: int) -> MumError:
        told = f"decoding worker {which} (process {pid})"
        if status == -signal.SIGKILL:
            return MumError(
                f"{told} was killed by SIGKILL, as the system does where memory runs out; set fewer data.workers or a "
                "lower data.prefetch, or allow the job more memory, then continue with --resume"
            )
        if status < 0:
            at = f" at {image}" if (image := self._at(which)) else ""
            return MumError(
                f"{told} was ended by {signal.Signals(-status).name}{at}; check that file, or whether memory and disk "
                "suffice, then continue with --resume; data.workers=0 decodes in the training process"
            )
        return MumError(
            f"{told} ended with status {status}; see what it wrote above, or decode in the training process with "
            "data.workers=0"
        )

    def _fork(self, which: int, *numbers: int) -> _Forked:
        import cv2

        # threads do not survive a fork, and the child would wait for those of OpenCV's pool for ever
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the user chose to fork a process with threads
            pid = os.fork()
        if pid:
            cv2.setNumThreads(threads)
            return _Forked(pid)
        status = 1
        try:
            gc.freeze()  # what belongs to the parent is not collected here
            for end in (self._jobs, self._results):
                end.close()  # while any process holds these, the workers do not see the parent's end
            forget_archives()
            worker.main(which, *numbers)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def _error(result: Result) -> Exception | None:
    if result.kind == FAILED:
        name, _, text = result.text.partition("\n")
        kind = getattr(mumdata.errors, name, MumError)
        return kind(text) if isinstance(kind, type) and issubclass(kind, MumError) else MumError(text)
    if result.kind == BUG:
        return RuntimeError(f"a decoding worker failed:\n{result.text}")
    return None


# ---- processes


class _Child(Protocol):
    pid: int

    def poll(self) -> int | None: ...


class _Forked:
    """A forked process, with the few methods of subprocess.Popen that are needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, minus the signal's number where it was killed; None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone else waited for it
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _spawn(which: int, *numbers: int) -> _Child:
    # a new interpreter rather than a copy of this one: it does not run the user's script again, as multiprocessing
    # does, holds nothing of this process, and shows in lists of processes what it is
    paths = [path or os.getcwd() for path in sys.path]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = "1"
    command = [sys.executable, "-P", "-m", "mumtrain.reading.worker", str(which), *map(str, numbers)]
    return subprocess.Popen(command, env=environment, pass_fds=numbers, stdin=subprocess.DEVNULL)


def _end(owner: int, children: list[_Child], ends: tuple[socket.socket, ...]) -> None:
    # called once: by close, when the object is collected, or at the interpreter's end; a forked process that inherited
    # the object must not end its siblings
    if os.getpid() != owner:
        return
    for end in ends:
        end.close()
    for child in children:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
    until = time.monotonic() + _END_S  # one that hangs in the kernel, on a dead mount, goes when that lets it
    while any(child.poll() is None for child in children) and time.monotonic() < until:
        time.sleep(0.001)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    # a child inherits the mask, so no signal to the group can meet it before it has set its own; here they wait
    before = signal.pthread_sigmask(signal.SIG_BLOCK, QUIET)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    # this process's end, which never blocks, and the workers', which wake now and then to look whether it is there.
    # The kernel's timeout is no flag of the file, so that one message wakes one worker and not all
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        theirs.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _WORKER_WAIT_S, 0))
    return ours, theirs
