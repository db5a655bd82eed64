"""What a run writes about itself while it trains.

In: losses (left on the device until they are needed) and what the loader met. Out: metrics.jsonl, tensorboard/,
quarantine-<rank>.jsonl and a progress bar on standard error, which a run does not depend on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tqdm import tqdm

from mumdata.errors import MumError
from mumdata.files import write_text
from mumtrain.config import Config
from mumtrain.loader import BadFrame, Loaded

__all__ = ["RunLog"]


class RunLog:
    """Collects the steps since the last line and writes the next; use it in a `with`, so that files are closed."""

    def __init__(self, run: Path, config: Config, start: int, state: dict[str, Any] | None, *, rank: int = 0) -> None:
        """`state` is what `state_dict` returned at step `start`, None for a new run; lines beyond it are dropped.

        `rank` is the process's number: each lists the broken images that it met by itself.
        """
        # imported here: it takes a second, and only a training run needs it
        from torch.utils.tensorboard import SummaryWriter

        state = state or {}
        self.run, self.config = run, config
        self.frames_read: int = state.get("frames_read", 0)
        self.bad_frames: int = state.get("bad_frames", 0)
        # of the steps since the last line
        self._losses = [torch.tensor(loss) for loss in state.get("losses", [])]
        self._views: list[int] = list(state.get("views", []))
        self._num_views = 0
        self._wait_s = 0.0
        self._since = time.perf_counter()
        self._first_step = start + 1 - len(self._losses)
        self._metrics_path, self._quarantine_path = run / "metrics.jsonl", run / f"quarantine-{rank}.jsonl"
        _drop_lines_after(self._metrics_path, start)
        known = _drop_lines_after(self._quarantine_path, start)
        self._told = {(line["dataset"], line["archive"], line["path"]) for line in known}
        self._tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self._replaced: dict[tuple[int, int], np.ndarray] = {}
        shown = _Shown(sys.stderr)
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            unit="step",
            file=shown,
            # a log file gets a line now and then, a terminal a moving bar
            mininterval=0.5 if shown.isatty() else 30.0,
            dynamic_ncols=True,
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._tensorboard.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the running numbers as plain values."""
        return {
            "frames_read": self.frames_read,
            "bad_frames": self.bad_frames,
            "losses": [float(loss) for loss in self._losses],
            "views": list(self._views),
        }

    def add_slot(self, loaded: Loaded, wait_s: float) -> None:
        """Count a slot: its frames, its broken images, and how long the trainer waited for it.

        Raises MumError naming the files where the share of broken images exceeds `data.bad_frame_rate`.
        """
        self._views.append(loaded.batch.views)
        self._num_views += loaded.views.shape[0] * loaded.views.shape[1]
        self._wait_s += wait_s
        self.frames_read += loaded.num_read
        self.bad_frames += len(loaded.bad)
        if loaded.bad:
            self._replaced[loaded.batch.step, loaded.batch.slot] = loaded.frames
            self._quarantine(loaded.bad)
        data = self.config.data
        if self.frames_read >= data.bad_frame_grace and self.bad_frames > data.bad_frame_rate * self.frames_read:
            names = sorted(
                f"{dataset}: {path}" + (f" in {archive}" if archive else "") for dataset, archive, path in self._told
            )
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise MumError(
                f"{self.bad_frames} of {self.frames_read} images read are broken or missing, more than "
                f"data.bad_frame_rate={data.bad_frame_rate:g} allows: {'; '.join(names[:5])}{more}; all of them stand "
                f"in {self._quarantine_path}"
            )

    def _quarantine(self, bad: Iterable[BadFrame]) -> None:
        # a file that is met again is counted again, but written once
        with open(self._quarantine_path, "a", encoding="utf-8", errors="surrogateescape") as file:
            for frame in bad:
                key = (frame.dataset, frame.archive, frame.path)
                if key not in self._told:
                    self._told.add(key)
                    file.write(json.dumps({**dataclasses.asdict(frame), "found_by": "train"}) + "\n")

    def add_step(self, loss: torch.Tensor) -> None:
        """Take a step's loss, a scalar that may still be on its way on the device."""
        self._losses.append(loss)
        self._bar.update()

    def replaced(self, step: int, slot: int) -> np.ndarray | None:
        """Return `Loaded.frames` of a slot since the last line in which images were replaced; None for any other.

        `step` counts from 0.
        """
        return self._replaced.get((step, slot))

    def first_bad_loss(self) -> tuple[int, float] | None:
        """Return (step, loss) of the first loss since the last line that is no finite number; waits for the device."""
        for place, loss in enumerate(self._values()):
            if not math.isfinite(loss):
                return self._first_step + place, loss
        return None

    def _values(self) -> list[float]:
        if not self._losses:
            return []
        device = self._losses[-1].device
        return torch.stack([loss.to(device) for loss in self._losses]).tolist()

    def write(self, step: int, lr: float, grad_norm: float) -> None:
        """Write the line of `step` (1-based): means over the steps since the last line, rate and norm of this one."""
        losses, elapsed = self._values(), time.perf_counter() - self._since
        line = {
            "step": step,
            "loss": sum(losses) / len(losses),
            "lr": lr,
            "grad_norm": grad_norm,
            "views": sum(self._views) / len(self._views),
            "frames_per_s": self._num_views / elapsed,
            "data_wait": self._wait_s / elapsed,
            "frames_read": self.frames_read,
            "bad_frames": self.bad_frames,
        }
        with open(self._metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step":
                self._tensorboard.add_scalar(name, value, step)
        self._bar.set_postfix(loss=f"{line['loss']:.4f}", lr=f"{lr:.2e}", refresh=False)
        self._losses, self._views, self._num_views, self._wait_s = [], [], 0, 0.0
        self._replaced.clear()
        self._since, self._first_step = time.perf_counter(), step + 1


class _Shown:
    """Standard error for a progress bar: nothing is written any more once its reader has gone or it was closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        self._do("write", text)

    def flush(self) -> None:
        self._do("flush")

    def isatty(self) -> bool:
        return bool(self._do("isatty"))

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("no stream")
        return self._stream.fileno()

    def _do(self, name: str, *arguments: str) -> Any:
        # a training run of days must not end with the terminal, pipe or disk that its bar is shown on
        if self._stream is None:
            return None
        try:
            return getattr(self._stream, name)(*arguments)
        except (OSError, ValueError):
            self._stream = None
            return None


def _drop_lines_after(path: Path, step: int) -> list[dict[str, Any]]:
    # what an interrupted run wrote after its last checkpoint is written again by the resumed one; the last line may be
    # cut off in its middle
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if values["step"] <= step:
            kept.append(values)
    write_text(path, "".join(json.dumps(values) + "\n" for values in kept))
    return kept
