"""Checkpoints: a run's whole state in one file, written whole or not at all.

In: model, optimiser and what belongs to them. Out: RUN/checkpoints/step-00000100.pt, of plain tensors, numbers, texts,
lists and dictionaries; read back with weights_only=True always, so that a file from elsewhere stays data. They are
written beside training by `mumtrain.checkpoint_writer`.
"""

from __future__ import annotations

import importlib.metadata
import logging
import pickle
import platform
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.files import atomic_path
from mumtrain.config import Config, differing_keys, from_dict, to_dict

__all__ = [
    "BROKEN",
    "Checkpoint",
    "checkpoint_path",
    "content_of",
    "made_by",
    "save_checkpoint",
    "write_content",
    "load_checkpoint",
    "list_checkpoints",
    "newest_checkpoint",
    "prune_checkpoints",
    "check_same_run",
    "check_stored",
    "read_config",
    "restore_model",
]

logger = logging.getLogger(__name__)

FORMAT = 2

# settings that may change when a run is resumed: they decide when it stops, what it writes and how fast it reads, but
# no batch, crop, mask or weight. `steps` also stretches the learning rate's cosine, which is said when it changes.
HARMLESS = (
    "steps",
    "checkpoint.",
    "log.",
    "compile",
    "optim.bad_step",
    "data.workers",
    "data.start_method",
    "data.prefetch",
    "data.bad_frame_rate",
    "data.bad_frame_grace",
)

# what torch.load raises for bytes that torch.save did not write
BROKEN = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
)

# the entries of a checkpoint's file beside its format: those of Checkpoint
_ENTRIES: dict[str, type] = {
    "step": int,
    "model": dict,
    "optimizer": dict,
    "config": dict,
    "mix_digest": str,
    "tally": dict,
    "made_by": dict,
}

# libraries whose version may change a result
_LIBRARIES = ("mumdata", "torch", "numpy", "opencv-python-headless", "simplejpeg")


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps: the whole model with its decoder, the optimiser, and what they belong to."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    config: Config
    mix_digest: str
    # the running numbers of the log, so that a resumed run writes the same lines
    tally: dict[str, Any]
    # versions of libraries, and the threads, ranks and kind of device that computed it
    made_by: dict[str, str]


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the name of a run's checkpoint after `step` steps."""
    return run / "checkpoints" / f"step-{step:08d}.pt"


def made_by(device: torch.device | str, num_ranks: int = 1) -> dict[str, str]:
    """Return what a result depends on beside its inputs: equal bits are promised where all of it is equal."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    device = torch.device(device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return found | {"device": kind, "threads": str(torch.get_num_threads()), "ranks": str(num_ranks)}


def content_of(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    mix_digest: str,
    tally: Mapping[str, Any],
    made: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a checkpoint after `step` steps holds; its tensors are those of model and optimiser themselves."""
    return {
        "format": FORMAT,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": to_dict(config),
        "mix_digest": mix_digest,
        "tally": dict(tally),
        "made_by": dict(made),
    }


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint's file; a full disk or a missing permission is a MumError naming it."""
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:
            # torch tells a failed write, on a full disk above all, in its own words
            raise MumError(f"cannot write {path}; is there space left?") from error


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    mix_digest: str,
    tally: Mapping[str, Any],
) -> Path:
    """Write a checkpoint and return its path, when all of it is there."""
    path = checkpoint_path(run, step)
    made = made_by(next(model.parameters()).device)
    write_content(path, content_of(step, model, optimizer, config, mix_digest, tally, made))
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the processor; a run's folder stands for its newest whole checkpoint.

    Raises MumError where the file is missing, broken, holds anything but plain data, or was written by another version.
    """
    path = Path(path)
    if path.is_dir():
        found = newest_checkpoint(path)
        if found is None:
            raise MumError(f"no checkpoint in {path / 'checkpoints'}; give a .pt file or the folder of a run")
        return found
    if not path.exists():
        raise MumError(f"checkpoint {path} does not exist")
    if not zipfile.is_zipfile(path):
        # torch would fall back to formats of its past, which are bare pickles
        raise MumError(f"checkpoint {path} is broken or not a checkpoint; use another one")
    try:
        check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MumError(
            f"checkpoint {path} is no plain data and is not opened: it is broken or asks to run code"
        ) from error
    except BROKEN as error:
        raise MumError(
            f"checkpoint {path} is broken ({type(error).__name__} while reading); use another one"
        ) from error
    is_ours = isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] == FORMAT
    if not is_ours:
        raise MumError(f"{path} is no mumtrain checkpoint of format {FORMAT}")
    entries = {name: _entry(content, name, kind, path) for name, kind in _ENTRIES.items()}
    if entries["step"] < 0:
        raise MumError(f"checkpoint {path}: its entry 'step' is negative; use another one")
    return Checkpoint(**{**entries, "config": read_config(entries["config"], path)})


def _entry(content: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    if name not in content:
        raise MumError(f"checkpoint {path} lacks its entry '{name}'; use another one")
    value = content[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        found = type(value).__name__
        raise MumError(
            f"checkpoint {path}: its entry '{name}' is of type {found}, not {kind.__name__}; use another one"
        )
    return value


def check_stored(path: Path) -> None:
    """Raise MumError for an archive with compressed parts, which could grow to any size when it is read.

    torch.save compresses nothing. Raises BadZipFile for an archive that is broken.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise MumError(f"{path} holds compressed parts, which torch.save never writes; it is not opened")
        # torch reads over damage: it compares no checksums
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{part} is damaged")


def read_config(values: Any, path: Path) -> Config:
    """Return the config that a file holds as plain values; what is wrong with it is a ConfigError naming the file."""
    try:
        return from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: its config is nested too deeply; use another file") from error


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*.pt") if re.fullmatch(r"step-\d{8,}", path.stem))


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Return a run's newest checkpoint that can be read, or None; a broken one is told and passed over."""
    for path in reversed(list_checkpoints(run)):
        try:
            return load_checkpoint(path)
        except MumError as error:
            logger.warning("%s; trying the one before", error)
    return None


def prune_checkpoints(run: Path, keep: int, keep_every: int = 0) -> None:
    """Delete all but the newest `keep` checkpoints, 0 keeps all, and those of every `keep_every` steps."""
    for path in list_checkpoints(run)[: -keep or None] if keep else []:
        if not (keep_every and int(path.stem.removeprefix("step-")) % keep_every == 0):
            path.unlink(missing_ok=True)


def check_same_run(
    checkpoint: Checkpoint,
    config: Config,
    mix_digest: str,
    run: Path,
    *,
    made: Mapping[str, str] | None = None,
    accept_changes: bool = False,
) -> list[str]:
    """Raise where a run cannot be continued with this config and mix, naming every setting that differs.

    Settings that change no batch and no weight may differ (`HARMLESS`). `steps` may too, with a warning: the rate then
    follows another cosine from here on. With `accept_changes` all else is a warning as well. Where `made` differs from
    what the checkpoint was made by, the result may differ in the last bits, which is told. Returns what was told.
    """
    told = []

    def differs(error: type[MumError], what: str, remedy: str) -> None:
        if not accept_changes:
            raise error(f"{what}; {remedy}, start a new run with another --out, or take it with --accept-changes")
        told.append(f"{what}; from step {checkpoint.step} on it is another run")

    if checkpoint.mix_digest != mix_digest:
        differs(
            CatalogError,
            f"{run} was trained on a mix with digest {checkpoint.mix_digest[:12]}, this one has {mix_digest[:12]}",
            "resume with the same mix",
        )
    differing = differing_keys(checkpoint.config, config)
    refused = [key for key in differing if not key.startswith(HARMLESS)]
    was, now = to_dict(checkpoint.config), to_dict(config)
    if refused:
        changes = ", ".join(f"{key} (was {_value(was, key)}, now {_value(now, key)})" for key in refused)
        differs(ConfigError, f"{run} had other settings: {changes}", "give the same")
    if "steps" in differing:
        told.append(
            f"steps changes from {checkpoint.config.steps} to {config.steps}: the learning rate follows the new cosine "
            f"from step {checkpoint.step} on, so the result is not that of one uninterrupted run"
        )
    if "compile" in differing:
        told.append(f"compile changes from {checkpoint.config.compile} to {config.compile}: results differ by rounding")
    changed = [
        f"{name} {checkpoint.made_by.get(name, 'unknown')} -> {value}"
        for name, value in (made or {}).items()
        if checkpoint.made_by.get(name) != value
    ]
    if changed:
        told.append(
            f"{run} goes on with something else than before: {', '.join(changed)}; the result may differ by rounding"
        )
    for line in told:
        logger.warning("%s", line)
    return told


def _value(values: dict[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node[part]
    return node


def restore_model(model: nn.Module, checkpoint: Checkpoint, source: Path) -> None:
    """Put a checkpoint's weights into a model; MumError where names or shapes do not fit."""
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise MumError(
            f"the weights of {source} do not fit its own config: {str(error).splitlines()[-1].strip()}"
        ) from error
