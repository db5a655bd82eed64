"""What is kept of a step whose loss or gradient is no finite number: enough to run it again.

In: the state before that step, which is still that of the model, and the slots as they are read again. Out:
RUN/bad-step-00000123/ with checkpoint.pt, step.json and the views of each slot; and how it is read back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mumdata.errors import MumError
from mumdata.files import atomic_path, write_text
from mumtrain.checkpoint import write_content
from mumtrain.loader import Loaded
from mumtrain.reading.frames import FrameTable

__all__ = ["CHECKPOINT", "bad_step_folder", "read_slots", "save_slot", "save_state", "slot_sequences"]

CHECKPOINT = "checkpoint.pt"


def bad_step_folder(run: Path, step: int) -> Path:
    """Return the folder of a bad step (counted from 1)."""
    return run / f"bad-step-{step:08d}"


def save_state(folder: Path, content: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Write the state before the step, and step.json: its loss, rate and what is known of it."""
    write_content(folder / CHECKPOINT, content)
    write_text(folder / "step.json", json.dumps(dict(told), indent=2) + "\n")


def save_slot(folder: Path, loaded: Loaded, frames: Sequence[FrameTable]) -> None:
    """Write a slot's views and what they show, as slot-0000.safetensors and slot-0000.json."""
    batch = loaded.batch
    path = _slot_path(folder, batch.slot)
    with atomic_path(path) as temporary:
        save_file({"views": torch.from_numpy(np.ascontiguousarray(loaded.views))}, temporary)
    sequences = slot_sequences(loaded, frames)
    told = {"step": batch.step + 1, "slot": batch.slot, "views": batch.views, "sequences": sequences}
    write_text(path.with_suffix(".json"), json.dumps(told, indent=2) + "\n")


def slot_sequences(loaded: Loaded, frames: Sequence[FrameTable]) -> list[dict[str, Any]]:
    """Return what a slot's sequences show, as JSON values: dataset, row, frames, paths and substitutes."""
    return [
        {
            "dataset": frames[drawn.dataset].name,
            "sequence": drawn.sequence,
            "frame_ids": drawn.frame_ids.tolist(),
            "paths": [_path(frames, drawn.dataset, int(f)) for f in drawn.frame_ids],
            "substitutes": [
                {
                    "view": view,
                    "dataset": frames[dataset].name,
                    "frame_id": frame_id,
                    "path": _path(frames, dataset, frame_id),
                }
                for view, (dataset, frame_id) in enumerate(shown.tolist())
                if (dataset, frame_id) != (drawn.dataset, int(drawn.frame_ids[view]))
            ],
        }
        for drawn, shown in zip(loaded.batch.sequences, loaded.frames, strict=True)
    ]


def read_slots(folder: Path, num_slots: int) -> list[torch.Tensor]:
    """Return the views of all slots, uint8 [B, V, 3, S, S]; MumError where one is missing or broken."""
    found = []
    for slot in range(num_slots):
        path = _slot_path(folder, slot)
        try:
            views = load_file(path)["views"]
        except (OSError, KeyError, SafetensorError) as error:
            raise MumError(f"cannot read {path}: {error}; the folder of a bad step holds one for each slot") from error
        if views.dtype != torch.uint8 or views.ndim != 5 or views.shape[2] != 3:
            raise MumError(f"{path} holds no views, uint8 [B, V, 3, S, S], but {views.dtype} {list(views.shape)}")
        found.append(views)
    return found


def _slot_path(folder: Path, slot: int) -> Path:
    return folder / f"slot-{slot:04d}.safetensors"


def _path(frames: Sequence[FrameTable], dataset: int, frame_id: int) -> str:
    frame = frames[dataset].frame(frame_id)
    return f"{frame.archive}: {frame.path}" if frame.archive else frame.path
