"""What decodes views: in the training process, or as a process of its own, `python -m mumtrain.reading.worker`.

In: jobs (a few frames of a slot each) from a socket. Out: views in the ring of slots that all processes map, and
messages on another socket saying which jobs are done and which images were bad. Never imports torch, numba or pandas,
and leaves with the training process, however that ends.
"""

from __future__ import annotations

import faulthandler
import json
import math
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mumdata.errors import DecodeError, MumError
from mumtrain.config import Config, from_dict, to_dict
from mumtrain.reading.frames import FrameTable
from mumtrain.reading.ring import ring_shape
from mumtrain.reading.view import Position, draw_view

__all__ = [
    "BAD",
    "BUG",
    "DONE",
    "FAILED",
    "QUIET",
    "Job",
    "Problem",
    "Result",
    "Setup",
    "ViewReader",
    "MOST_JOB_FRAMES",
    "main",
    "map_ring",
]

# what a result says: the job is done; one of its images is bad; a MumError; any other exception
DONE, BAD, FAILED, BUG = range(4)

# signals that are meant for the run as a whole: the training process decides what they mean, workers follow it
QUIET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)

# characters of a text, and bytes of a message
_MOST_TEXT = 1 << 13
_MOST_MESSAGE = 1 << 16

_JOB = struct.Struct("<QqqIIII")
_RESULT = struct.Struct("<BQI")

# frames that fit into the message of one job
MOST_JOB_FRAMES = (_MOST_MESSAGE - _JOB.size) // 8


class Problem(NamedTuple):
    """Why an image cannot be used, in the words of the quarantine catalog."""

    reason: str
    detail: str


class Job(NamedTuple):
    """A piece of a slot: its frames (dataset, frame_id) go to the places from `first` on of a buffer of the ring."""

    number: int
    step: int
    slot: int
    views: int
    buffer: int
    first: int
    frames: np.ndarray  # int32 [N, 2]

    def packed(self) -> bytes:
        """Return the job as a message; ValueError for one of more than `MOST_JOB_FRAMES`."""
        if len(self.frames) > MOST_JOB_FRAMES:
            raise ValueError(f"a job of {len(self.frames)} frames, {MOST_JOB_FRAMES} fit into a message")
        return _JOB.pack(*self[:6], len(self.frames)) + np.ascontiguousarray(self.frames, np.int32).tobytes()

    @classmethod
    def unpacked(cls, message: bytes) -> Job:
        """Return the job of a message; ValueError for one that is cut off."""
        if len(message) < _JOB.size:
            raise ValueError(f"a job's message of {len(message)} bytes")
        number, step, slot, views, buffer, first, num_frames = _JOB.unpack_from(message)
        if len(message) != _JOB.size + 8 * num_frames:
            raise ValueError(f"job {number}: {num_frames} frames in a message of {len(message)} bytes")
        frames = np.frombuffer(message, np.int32, offset=_JOB.size).reshape(-1, 2)
        return cls(number, step, slot, views, buffer, first, frames)


class Result(NamedTuple):
    """What a worker says of a job; `place` counts the job's frames, `text` tells what went wrong."""

    kind: int
    job: int
    place: int = 0
    text: str = ""

    def packed(self) -> bytes:
        """Return the result as a message, the middle of a very long text left out."""
        text = self.text
        if len(text) > _MOST_TEXT:
            text = f"{text[: _MOST_TEXT // 2]} [...] {text[-_MOST_TEXT // 2 :]}"
        return _RESULT.pack(self.kind, self.job, self.place) + text.encode("utf-8", "surrogatepass")

    @classmethod
    def unpacked(cls, message: bytes) -> Result:
        """Return the result of a message; ValueError for one that is cut off."""
        if len(message) < _RESULT.size:
            raise ValueError(f"a result's message of {len(message)} bytes")
        kind, job, place = _RESULT.unpack_from(message)
        return cls(kind, job, place, message[_RESULT.size :].decode("utf-8", "surrogatepass"))


class ViewReader:
    """Reads frames and draws their views; what training, a worker and a contact sheet have in common."""

    def __init__(self, frames: Sequence[FrameTable], config: Config) -> None:
        self.frames, self.config = tuple(frames), config

    def read(
        self, dataset: int, frame_id: int, out: np.ndarray, *, step: int, slot: int, position: int, views: int
    ) -> Problem | None:
        """Draw the view at a position of a slot into `out`, uint8 [S, S, 3]; or say what is wrong with its image.

        Raises MumError where the disk fails.
        """
        table = self.frames[dataset]
        frame = table.frame(frame_id)
        where = Position(self.config.seed, step, slot, position, views)
        try:
            data = table.read_patiently(frame)
        except FileNotFoundError:
            return Problem("missing", "no such file")
        except DecodeError as error:
            return Problem("unreadable", str(error))
        try:
            draw_view(data, frame.turns, self.config.data, where, out)
        except DecodeError as error:
            return Problem("unreadable", f"{frame.path}: {error}")
        return None


# ---- what a worker is told at its start, through memory: no pickle, and tables without a file are not copied


class Setup(NamedTuple):
    """Whom a worker works for, with what settings, on which frames, and how many buffers and workers there are."""

    parent: int
    config: Config
    frames: Sequence[FrameTable]
    buffers: int
    workers: int

    def written(self, number: int) -> None:
        """Write to an empty memory file."""
        tables: list[dict[str, Any]] = []
        streams = b""
        for frames in self.frames:
            told: dict[str, Any] = {"name": frames.name, "root": str(frames.root), "twin": None}
            if frames.twin is not None:
                told["twin"] = str(frames.twin.absolute())
            else:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, frames.table.schema) as out:
                    out.write_table(frames.table)
                streams += bytes(-len(streams) % 64)
                told["at"], told["size"] = len(streams), sink.tell()
                streams += sink.getvalue().to_pybytes()
            tables.append(told)
        plain = {**self._asdict(), "config": to_dict(self.config), "frames": tables}
        head = json.dumps(plain).encode()
        head += b" " * (-(8 + len(head)) % 64)
        with open(number, "wb", closefd=False) as file:
            file.write(struct.pack("<Q", len(head)) + head + streams)

    @classmethod
    def read(cls, number: int) -> Setup:
        """Read what `written` wrote; tables of memory are mapped."""
        memory = mmap.mmap(number, 0, prot=mmap.PROT_READ)
        (size,) = struct.unpack_from("<Q", memory)
        plain = json.loads(memory[8 : 8 + size])
        whole = pa.py_buffer(memory)
        frames = []
        for told in plain["frames"]:
            root = Path(told["root"])
            if told["twin"] is not None:
                frames.append(FrameTable.open(told["name"], root, Path(told["twin"])))
            else:
                stream = pa.ipc.open_stream(whole.slice(8 + size + told["at"], told["size"]))
                frames.append(FrameTable(told["name"], root, stream.read_all()))
        return cls(**{**plain, "config": from_dict(plain["config"]), "frames": frames})


def map_ring(number: int, setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Map the memory of the views, uint8 [buffers, frames, S, S, 3], and what each worker is at, int64 [workers, 2].

    A worker notes the job and the place in it, so that after its sudden death it can be told which image it was at.
    """
    shape = ring_shape(setup.config, setup.buffers)
    num_bytes = math.prod(shape)
    notes_at = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    total = notes_at + setup.workers * 16
    if os.fstat(number).st_size < total:
        os.posix_fallocate(number, 0, total)
    memory = mmap.mmap(number, total)
    ring = np.frombuffer(memory, np.uint8, num_bytes).reshape(shape)
    notes = np.frombuffer(memory, np.int64, setup.workers * 2, notes_at).reshape(-1, 2)
    return ring, notes


# ---- the process


def main(which: int, jobs_number: int, results_number: int, ring_number: int, setup_number: int) -> None:
    """Work on jobs until the training process closes its end of the sockets, or is no more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, QUIET)
    faulthandler.enable(_errors())  # a decoder that crashes tells where
    jobs, results = socket.socket(fileno=jobs_number), socket.socket(fileno=results_number)
    parent = os.getppid()
    try:
        setup = Setup.read(setup_number)
        parent = setup.parent
        ring, notes = map_ring(ring_number, setup)
        reader = ViewReader(setup.frames, setup.config)
        _one_thread()
    except Exception as error:
        _send(results, _told(error, 0), parent)
        return
    while (message := _received(jobs, parent)) is not None:
        number = 0
        try:
            job = Job.unpacked(message)
            number = job.number
            _work(job, reader, ring, notes[which], results, parent)
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as error:
            _send(results, _told(error, number), parent)


def _work(
    job: Job, reader: ViewReader, ring: np.ndarray, note: np.ndarray, results: socket.socket, parent: int
) -> None:
    for place, (dataset, frame_id) in enumerate(job.frames.tolist()):
        if os.getppid() != parent:
            raise BrokenPipeError
        note[:] = job.number, place
        position = job.first + place
        problem = reader.read(
            dataset,
            frame_id,
            ring[job.buffer, position],
            step=job.step,
            slot=job.slot,
            position=position,
            views=job.views,
        )
        if problem is not None:
            _send(results, Result(BAD, job.number, place, "\n".join(problem)), parent)
    _send(results, Result(DONE, job.number), parent)


def _told(error: Exception, job: int) -> Result:
    if isinstance(error, MumError):
        return Result(FAILED, job, 0, f"{type(error).__name__}\n{error}")
    return Result(BUG, job, 0, traceback.format_exc())


def _received(jobs: socket.socket, parent: int) -> bytes | None:
    # the next message; None where there will be none
    while os.getppid() == parent:
        try:
            return jobs.recv(_MOST_MESSAGE) or None
        except BlockingIOError:  # a second has passed
            continue
        except ConnectionError:
            return None
    return None


def _send(results: socket.socket, result: Result, parent: int) -> None:
    while os.getppid() == parent:
        try:
            results.send(result.packed())
            return
        except BlockingIOError:  # a second has passed
            continue
    raise BrokenPipeError


def _errors() -> int:
    # standard error, also while a decoder must not be heard; or nothing, where it is closed
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _one_thread() -> None:
    # there are as many workers as cores
    import cv2

    cv2.setNumThreads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
