"""`mumtrain replay`: a step of a run once more, to see what was wrong with it.

In: the folder of a bad step, which holds all that it takes; or a run and the number of a step, whose images are read
again. Out: a Replayed: what each slot's loss is, what first was no finite number, and whether the run's own numbers
come out again. Nothing is written into the run.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mumdata.catalog import open_mix
from mumdata.errors import CatalogError, ConfigError, MumError
from mumtrain.attempt import Attempt, BadSequence, FirstModule, Given, SlotLoss, attempt, largest_finite
from mumtrain.bad_steps import CHECKPOINT, bad_step_folder, read_slots, slot_sequences
from mumtrain.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    made_by,
    read_config,
    restore_model,
)
from mumtrain.config import Config, differing_keys
from mumtrain.feed import Slot, open_feed
from mumtrain.loader import Loaded, Loader, open_frames
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.optim import build_optimizer, lr_at, restore_optimizer
from mumtrain.runlog.lines import read_lines
from mumtrain.runtime import Runtime, select_runtime
from mumtrain.sampler import Batch, open_sampler
from mumtrain.step import SlotLosses, add_gradient, begin_step, finish_step

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Attempt", "BadSequence", "FirstModule", "Replayed", "SlotLoss", "replay"]

logger = logging.getLogger(__name__)

# names that are told where there may be hundreds
_NAMES = 5

# slots that are shown in a table; all of them stand in json and csv
_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A step that was run again."""

    source: str
    step: int  # counted from 1
    begun_with: str  # the checkpoint, or the seed
    steps_before: int  # that were run from there on
    device: str
    lr: float
    bad_weights: int  # numbers among the weights before the step that are not finite
    bad_weight_names: tuple[str, ...]
    largest_weight: float
    recorded_loss: float | None  # by the run; None where it did not write that of this step alone
    recorded_grad_norm: float | None
    recorded_in: str | None
    attempts: tuple[Attempt, ...]
    verdict: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; what is no finite number as `nan`, `inf` or `-inf`."""
        found: dict[str, Any] = _plain(asdict(self))
        return found

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each slot and number format, for spreadsheets."""
        import pandas as pd

        rows = [
            {"number_format": one.number_format, **asdict(slot), "datasets": " ".join(slot.datasets)}
            for one in self.attempts
            for slot in one.slots
        ]
        return pd.DataFrame(rows)

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts for reading: the lines of a heading, and a narrow table or none."""
        import pandas as pd

        steps = f", and {self.steps_before} steps from there" if self.steps_before else ""
        weights = f"finite, the largest {self.largest_weight:.3g}"
        if self.bad_weights:
            weights = f"{self.bad_weights:,} are no finite numbers, in {_listed(self.bad_weight_names)}"
        yield (
            [
                f"Step {self.step} of {self.source}, run again on {self.device}",
                f"begun with {self.begun_with}{steps}",
                f"learning rate {self.lr:.3g}; weights before the step: {weights}",
            ],
            None,
        )
        for one in self.attempts:
            shown = [slot for slot in one.slots if slot.bad_sequences] or list(one.slots)
            rows = [
                {
                    "slot": slot.slot,
                    "views": f"{slot.sequences} x {slot.views}",
                    "loss": f"{slot.loss:.6f}",
                    "bad": slot.bad_sequences,
                    "datasets": ", ".join(slot.datasets),
                }
                for slot in shown[:_ROWS]
            ]
            yield _told(one, len(rows)), pd.DataFrame(rows)
        yield [f"{self.verdict[0].upper()}{self.verdict[1:]}"], None
        if self.notes:
            yield ["Notes:", *self.notes], None


def replay(source: Path, *, step: int | None = None, device: str | None = None, float32: bool = False) -> Replayed:
    """Run a step again: that of a folder RUN/bad-step-..., or `step` (counted from 1) of the run's folder.

    A bad step needs no images: state and views are in its folder. A step of a run is reached from the newest checkpoint
    before it, or from the beginning, through the steps between, whose images are read again; the mix is that of
    RUN/run.json. All slots run one after the other in this process. On CUDA the step is run in bfloat16, as in
    training, and once more in float32; with `float32` in that alone. Raises MumError for folders that are neither, that
    are broken, or whose checkpoints lie too far from the step; ConfigError for a step that the run does not have.
    """
    source = Path(source)
    runtime = select_runtime(device)
    if float32:
        runtime = replace(runtime, bf16=False)
    is_bad_step = (source / CHECKPOINT).exists() or (source / "step.json").exists()
    if is_bad_step and step is not None:
        raise ConfigError(f"{source} is one step; leave out --step, or give the folder of the run")
    if is_bad_step:
        return _replay_bad_step(source, runtime)
    if not (source / "config.json").exists():
        raise MumError(
            f"{source} is neither the folder of a run (no config.json) nor that of a bad step (no {CHECKPOINT})"
        )
    if step is None:
        folders = ", ".join(path.name for path in sorted(source.glob("bad-step-*")))
        raise ConfigError(
            f"say which step of {source}: --step N{f'; or give one of its folders {folders}' if folders else ''}"
        )
    return _replay_step(source, step, runtime)


# ---- a bad step


def _replay_bad_step(folder: Path, runtime: Runtime) -> Replayed:
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    config, told = checkpoint.config, _read_json(folder / "step.json")
    step = _number(told, "step", folder / "step.json", int)
    if step != checkpoint.step + 1:
        raise MumError(f"{folder}: {CHECKPOINT} is of step {checkpoint.step}, step.json of step {step}; copy it whole")
    slots = [
        _stored_slot(folder, number, step, views, config)
        for number, views in enumerate(read_slots(folder, config.data.slots))
    ]

    def on_device() -> Iterator[Given]:
        for given in slots:
            # in the order of the loader's memory, so that sums are in the same order
            views = given.slot.views.permute(0, 1, 3, 4, 2).contiguous().to(runtime.device).permute(0, 1, 4, 2, 3)
            yield Given(Slot(given.slot.loaded, views), given.sequences)

    model = build_model(config, device=runtime.device)
    restore_model(model, checkpoint, folder)
    recorded = _Recorded(
        _number(told, "loss", folder / "step.json", float),
        _number(told, "grad_norm", folder / "step.json", float),
        "step.json",
    )
    return _replayed(
        folder,
        step,
        f"{CHECKPOINT}, the state before it",
        0,
        model,
        config,
        on_device,
        runtime,
        recorded,
        _differences(checkpoint.made_by, config, runtime),
    )


def _stored_slot(folder: Path, number: int, step: int, views: torch.Tensor, config: Config) -> Given:
    path = folder / f"slot-{number:04d}.json"
    sequences = _read_json(path).get("sequences")
    if not isinstance(sequences, list):
        sequences = []
    B, V, _, H, W = views.shape
    if not H == W == config.data.size:
        raise MumError(
            f"{path.with_suffix('.safetensors')} has views of {W} x {H} pixels, the run's have {config.data.size}"
        )
    keys = ("dataset", "sequence", "paths", "substitutes")
    is_whole = all(isinstance(s, dict) and all(k in s for k in keys) for s in sequences)
    if not is_whole or len(sequences) != B:
        raise MumError(f"{path} does not tell of the {B} sequences of its slot; the folder is broken")
    batch = Batch(step - 1, number, V, ())
    return Given(Slot(Loaded(batch, views.numpy(), np.zeros((0, V, 2), np.int32)), views), sequences)


# ---- a step of a run


def _replay_step(run: Path, step: int, runtime: Runtime) -> Replayed:
    config = read_config(_read_json(run / "config.json"), run / "config.json")
    if not 1 <= step <= config.steps:
        raise ConfigError(f"{run} has steps 1 to {config.steps}, no step {step}")
    about = _read_json(run / "run.json")
    checkpoint = _newest_before(run, step)
    start, notes = (
        (0, []) if checkpoint is None else (checkpoint.step, _differences(checkpoint.made_by, config, runtime))
    )
    if checkpoint is None and (run / "init.json").exists():
        raise MumError(
            f"{run} began with the weights named in {run / 'init.json'} and has no checkpoint before step {step}; "
            "give a later step"
        )
    if step - 1 - start > config.checkpoint.every:
        raise MumError(
            f"step {step} lies {step - 1 - start} steps behind {_name(checkpoint)}, more than "
            f"checkpoint.every={config.checkpoint.every}; checkpoints in between were not kept (checkpoint.keep_every)"
        )
    if checkpoint is not None:
        config, more = _config_of(run, step, config, checkpoint)
        notes += more
    mix = open_mix(Path(str(about.get("mix", ""))))
    digest = checkpoint.mix_digest if checkpoint is not None else about.get("mix_digest")
    if mix.content_digest != digest:
        raise CatalogError(f"{mix.path} is not what {run} was trained on: its content has changed; restore that mix")
    sampler, frames = open_sampler(mix, config), open_frames(mix)
    model = build_model(config, device=runtime.device)
    optimizer = build_optimizer(model, config)
    if checkpoint is not None:
        restore_model(model, checkpoint, run)
        restore_optimizer(optimizer, checkpoint.optimizer, run)
    with Loader(sampler, frames, config) as loader:

        def slots_of(steps: range) -> Generator[Slot]:
            keys = [(of_step, slot) for of_step in steps for slot in range(config.data.slots)]
            with open_feed(loader, loader.load(keys), runtime) as feed:
                yield from feed

        before = range(start, step - 1)
        with closing(slots_of(before)) as slots:
            left_out = _advance(model, optimizer, slots, before, config, runtime)
        notes += [f"step {number} was bad and left out on the way" for number in left_out]

        def given() -> Iterator[Given]:
            return (Given(slot, slot_sequences(slot.loaded, frames)) for slot in slots_of(range(step - 1, step)))

        return _replayed(
            run, step, _name(checkpoint), step - 1 - start, model, config, given, runtime, _recorded(run, step), notes
        )


def _advance(
    model: MaskedAutoencoder,
    optimizer: torch.optim.AdamW,
    slots: Iterator[Slot],
    steps: range,
    config: Config,
    runtime: Runtime,
) -> list[int]:
    """Train some steps forward; return those (counted from 1) that were bad, which moved nothing."""
    losses, left_out = SlotLosses(model), []
    for step in steps:
        begin_step(optimizer, config, step)
        total = torch.zeros((), device=runtime.device)
        for _ in range(config.data.slots):
            total += add_gradient(losses, next(slots), config.data.slots, config, runtime)[0]
        _, is_bad = finish_step(model, optimizer, total, torch.zeros_like(total), config)
        if is_bad:
            left_out.append(step + 1)
    return left_out


def _newest_before(run: Path, step: int) -> Checkpoint | None:
    # the newest checkpoint that can be read from which the step is reached
    for path in reversed(list_checkpoints(run)):
        if int(path.stem.removeprefix("step-")) >= step:
            continue
        try:
            return load_checkpoint(path)
        except MumError as error:
            logger.warning("%s; trying the one before", error)
    return None


def _name(checkpoint: Checkpoint | None) -> str:
    return "the beginning of the run" if checkpoint is None else f"the checkpoint of step {checkpoint.step}"


def _config_of(run: Path, step: int, latest: Config, checkpoint: Checkpoint) -> tuple[Config, list[str]]:
    # a run may have been continued with other settings: config.json has those of its last start
    starts = [line.get("step", 0) for line in read_lines(run / "history.jsonl")]
    differing = differing_keys(checkpoint.config, latest)
    if not differing:
        return latest, []
    is_latest = bool(starts) and starts[-1] < step
    which = "config.json" if is_latest else "its checkpoint"
    note = f"the run was continued with other settings ({_listed(differing)}); the step uses those of {which}"
    return (latest if is_latest else checkpoint.config), [note]


@dataclass(frozen=True)
class _Recorded:
    """What the run wrote of a step, None where it did not write that of this step alone, and where."""

    loss: float | None = None
    grad_norm: float | None = None
    place: str | None = None


def _recorded(run: Path, step: int) -> _Recorded:
    folder = bad_step_folder(run, step)
    if (folder / "step.json").exists():
        told, path = _read_json(folder / "step.json"), folder / "step.json"
        return _Recorded(
            _number(told, "loss", path, float), _number(told, "grad_norm", path, float), f"{folder.name}/step.json"
        )
    before = 0
    for line in read_lines(run / "metrics.jsonl"):
        if line.get("step") == step:
            # the loss is a mean over the steps since the line before, the gradient's norm that of the step
            return _Recorded(line.get("loss") if before == step - 1 else None, line.get("grad_norm"), "metrics.jsonl")
        before = line.get("step", before)
    return _Recorded()


# ---- running it


def _replayed(
    source: Path,
    step: int,
    begun_with: str,
    steps_before: int,
    model: MaskedAutoencoder,
    config: Config,
    slots: Callable[[], Iterable[Given]],
    runtime: Runtime,
    recorded: _Recorded,
    notes: Sequence[str],
) -> Replayed:
    runtimes = [runtime, replace(runtime, bf16=False)] if runtime.bf16 else [runtime]
    bad = {name: int((~p.isfinite()).sum()) for name, p in model.named_parameters()}
    attempts = tuple(attempt(model, config, slots(), one) for one in runtimes)
    return Replayed(
        source=str(source),
        step=step,
        begun_with=begun_with,
        steps_before=steps_before,
        device=made_by(runtime.device)["device"],
        lr=lr_at(config, step - 1),
        bad_weights=sum(bad.values()),
        bad_weight_names=tuple([name for name, number in bad.items() if number][:_NAMES]),
        largest_weight=max(largest_finite([p]) or 0.0 for p in model.parameters()),
        recorded_loss=recorded.loss,
        recorded_grad_norm=recorded.grad_norm,
        recorded_in=recorded.place,
        attempts=attempts,
        verdict=_verdict(attempts, recorded),
        notes=tuple(notes),
    )


# ---- what is said


def _verdict(attempts: Sequence[Attempt], recorded: _Recorded) -> str:
    first, last = attempts[0], attempts[-1]
    was_bad = any(value is not None and not math.isfinite(value) for value in (recorded.loss, recorded.grad_norm))
    other = f", and in {last.number_format} as well" if last.is_bad else f", but in {last.number_format} all is finite"
    other = other if last is not first else ""
    values = f"loss {first.loss:.9g}, gradient's norm {first.grad_norm:.9g}"
    if was_bad:
        if first.is_bad:
            return f"reproduced: {values}{other}"
        return f"not reproduced: {values} here, {recorded.loss} and {recorded.grad_norm} in the run"
    if first.is_bad:
        return f"bad here: {values}{other}; the run did not tell of it"
    pairs = [("loss", first.loss, recorded.loss), ("gradient's norm", first.grad_norm, recorded.grad_norm)]
    known = [(name, mine, theirs) for name, mine, theirs in pairs if theirs is not None]
    if not known:
        return f"finite: {values}; the run wrote neither for this step alone (log.every)"
    told = []
    for name, mine, theirs in known:
        apart = abs(mine - theirs) / max(abs(theirs), 1e-30)
        is_same = "the same bits as" if mine == theirs else f"{apart:.2g} of it apart from the {theirs:.9g} of"
        told.append(f"the {name}, {mine:.9g}, is {is_same} {recorded.place}")
    missing = "" if len(known) == 2 else "; the loss of this step alone was not written (log.every)"
    return f"finite: {'; '.join(told)}{missing}"


def _told(one: Attempt, num_rows: int) -> list[str]:
    lines = [f"In {one.number_format}: loss {one.loss:.6g}, gradient's norm {one.grad_norm:.6g}"]
    if one.first_module is not None:
        first = one.first_module
        size = "none" if first.largest_input is None else f"{first.largest_input:.3g}"
        verb = "got" if first.came_in else "put out"
        weights = "; its own weights are not finite" if first.bad_weights else ""
        lines.append(
            f"slot {first.slot}: the first to have {verb} what is no finite number is {first.module} ({first.kind}); "
            f"its largest finite input: {size}{weights}"
        )
    if (bad := one.bad_sequence) is not None:
        lines.append(
            f"slot {bad.slot}: the first such loss is that of its sequence {bad.number}, sequence {bad.sequence} of "
            f"{bad.dataset}: {', '.join(bad.paths)}"
        )
    if one.bad_gradients:
        rest = ", ..." if one.bad_gradients > len(one.bad_gradient_names) else ""
        lines.append(
            f"{one.bad_gradients} of {one.parameters} parameters have gradients that are not finite, since slot "
            f"{one.first_bad_gradient}: {', '.join(one.bad_gradient_names)}{rest}"
        )
    if num_rows < len(one.slots):
        lines.append(f"{num_rows} of {len(one.slots)} slots are shown; --format json has all")
    return lines


def _differences(made: Mapping[str, str], config: Config, runtime: Runtime) -> list[str]:
    # what else than rounding may not be the same as in the run
    here = made_by(runtime.device)
    changed = [
        f"{name} {made.get(name, 'unknown')} -> {value}" for name, value in here.items() if made.get(name) != value
    ]
    notes = [f"not as in the run, so results may differ by rounding: {', '.join(changed)}"] if changed else []
    if config.compile == "always" or (config.compile == "auto" and made.get("device") != "cpu"):
        notes.append("the run compiled its model, here it runs as it is: results may differ by rounding")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MumError(f"cannot read {path}: {error}; the folder is not whole") from error
    if not isinstance(values, dict):
        raise MumError(f"{path} holds no JSON object; the folder is broken")
    return values


def _number(values: Mapping[str, Any], name: str, path: Path, kind: type[Any]) -> Any:
    try:
        return kind(values[name])
    except (KeyError, TypeError, ValueError) as error:
        raise MumError(f"{path} lacks its '{name}', or it is no number; the folder is broken") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
