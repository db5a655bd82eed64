"""All that is known of a run, as JSON values.

In: a run's folder. Out: a dictionary with the same keys for every run; None stands for what was not recorded.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mumdata.errors import ConfigError, MumError
from mumtrain.card.datasets import Exposure, mix_facts, read_exposure
from mumtrain.card.records import Records, printable
from mumtrain.config import Config, differing_keys, from_dict, to_dict
from mumtrain.recipes import RECIPES
from mumtrain.recipes import recipe as recipe_of

__all__ = ["FORMAT", "gather_facts"]

# of card.json; keys are added, none renamed
FORMAT = 1

# no figure of a run is as large, and sums of larger ones may be no numbers
_LARGEST = 1e100

# figures of a measurement of the cross-view gain; older ones lack some
_HEADLINE = (
    "gain",
    "low",
    "high",
    "g_a",
    "g_b",
    "views",
    "scenes_a",
    "scenes_b",
    "within",
    "within_low",
    "within_high",
)


def gather_facts(run: Path) -> dict[str, Any]:
    """Return what lies in a run's folder; raises MumError where it is not the folder of a run."""
    records = Records(run)
    config = _config(records)
    about, metrics, history = records.values("run.json"), records.lines("metrics.jsonl"), records.lines("history.jsonl")
    exposure = _exposure(run, records.notes)
    recipe = about.get("recipe") if isinstance(about.get("recipe"), str) else None
    found = {
        "format": FORMAT,
        "run": run.resolve().name,
        "written_by": {"mumtrain": importlib.metadata.version("mumdata")},
        "recipe": recipe,
        "settings": _settings(config, recipe),
        "parameters": _parameters(config),
        "steps": {"done": _steps_done(run, metrics), "planned": config.steps},
        "seed": config.seed,
        "views": {
            "min": config.data.views_min,
            "max": config.data.views_max,
            "stages": config.data.stages,
            "size_px": config.data.size,
        },
        "frames_per_step": {"slots": config.data.slots, "most_per_slot": config.data.frames_per_slot},
        "mix": _mix(about, exposure, records.notes),
        "exposure": None
        if exposure is None
        else {"last_step": exposure.last_step, "missing_steps": [list(one) for one in exposure.missing]},
        "metrics": _metrics(metrics),
        "gain": _gain(records.lines("gain.jsonl")),
        "time": _time(metrics, history),
        "devices": _distinct(line.get("device") for line in history),
        "versions": _versions(history),
        "starts": [{key: line.get(key) for key in ("started", "step", "ranks", "device", "host")} for line in history],
        "init": _init(records),
        "commands": {"repeat": about.get("command"), "load": _load(run)},
        "notes": records.notes,
    }
    return dict(printable(found))


def _config(records: Records) -> Config:
    if not (records.run / "config.json").is_file():
        raise MumError(f"{records.run} is not the folder of a run (no config.json); name one that pretrain wrote")
    try:
        return from_dict(records.values("config.json"))
    except (ConfigError, RecursionError) as error:
        raise ConfigError(f"{records.run / 'config.json'}: {error}") from error


def _exposure(run: Path, notes: list[str]) -> Exposure | None:
    try:
        return read_exposure(run)
    except (MumError, OSError) as error:
        notes.append(f"what was read cannot be told: {error}")
        return None


def _settings(config: Config, recipe: str | None) -> list[dict[str, Any]] | None:
    # those that differ from the recipe as it is now, with both values
    if recipe not in RECIPES:
        return None
    usual = recipe_of(recipe)
    ours, theirs = to_dict(config), to_dict(usual)
    return [{"key": key, "value": _at(ours, key), "recipe": _at(theirs, key)} for key in differing_keys(usual, config)]


def _at(values: Mapping[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node[part]
    return node


def _parameters(config: Config) -> dict[str, int]:
    from mumtrain.model.autoencoder import build_model

    sizes = {name: p.numel() for name, p in build_model(config, device="meta").named_parameters()}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    return {"total": sum(sizes.values()), "encoder": encoder}


def _steps_done(run: Path, metrics: Sequence[Mapping[str, Any]]) -> int | None:
    saved = (path.stem.removeprefix("step-") for path in (run / "checkpoints").glob("step-*.pt"))
    known = [*(int(step) for step in saved if step.isdecimal()), *_numbers(metrics, "step")]
    return int(max(known)) if known else None


def _mix(about: Mapping[str, Any], exposure: Exposure | None, notes: list[str]) -> dict[str, Any]:
    path, digest = about.get("mix"), about.get("mix_digest")
    found: dict[str, Any] = {"path": path, "digest": digest, "problem": None, "datasets": None}
    if not isinstance(path, str):
        return found | {"problem": "run.json does not name the mix"}
    if not isinstance(digest, str):
        notes.append("run.json holds no digest, so whether the mix is still the one trained on is not known")
    try:
        return found | {"datasets": mix_facts(Path(path), digest if isinstance(digest, str) else None, exposure)}
    except (MumError, OSError, ValueError) as error:
        return found | {"problem": str(error)}


def _metrics(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    lines = [line for line in lines if _is_number(line.get("step"))]
    if not lines:
        return None
    last = lines[-1]
    tenth = [line for line in lines if line["step"] > 0.9 * last["step"]]
    losses = [line["loss_by_dataset"] for line in tenth if isinstance(line.get("loss_by_dataset"), dict)]
    by_dataset = {
        name: _mean([one.get(name) for one in losses]) for name in sorted({name for one in losses for name in one})
    }
    copied = ("lr", "frames_read", "bad_frames", "bad_steps", "frames_per_s", "data_wait", "tflops_per_s", "memory_gb")
    return {
        "step": last["step"],
        "loss": "nan" if _is_nan(last.get("loss")) else _figure(last, "loss"),
        "loss_last_tenth": _mean([line.get("loss") for line in tenth]),
        "lines_last_tenth": len(tenth),
        "loss_by_dataset": by_dataset,
    } | {key: _figure(last, key) for key in copied}


def _gain(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not lines:
        return None
    last = lines[-1]
    headline = last["headline"] if isinstance(last.get("headline"), dict) else {}
    return {
        "step": _figure(last, "step"),
        **{key: _figure(headline, key) for key in _HEADLINE},
        "samples": _figure(last, "num_samples"),
        "reason": last.get("reason"),
    }


def _time(metrics: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # hours by the clock follow from those of all devices where their number never changed
    total = next(iter(reversed(_numbers(metrics, "gpu_hours"))), None)
    ranks = _distinct(line.get("ranks") for line in history)
    is_known = total is not None and len(ranks) == 1 and _is_number(ranks[0]) and ranks[0] > 0
    return {"gpu_hours": total, "hours": total / ranks[0] if is_known and total is not None else None, "ranks": ranks}


def _versions(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    starts = [line["versions"] for line in history if isinstance(line.get("versions"), dict)]
    names = sorted({name for versions in starts for name in versions})
    return {name: _distinct(versions.get(name) for versions in starts) for name in names}


def _init(records: Records) -> dict[str, Any] | None:
    about = records.values("init.json")
    if not about:
        return None
    counts = {f"num_{key}": len(about[key]) if isinstance(about.get(key), list) else None for key in ("taken", "anew")}
    return {key: about.get(key) for key in ("source", "sha256")} | counts


def _load(run: Path) -> dict[str, str]:
    # as Python takes them, from any folder; the run's folder stands for its newest checkpoint
    source = repr(str(run.absolute()))
    return {"encoder": f"mumtrain.load_encoder({source})", "model": f"mumtrain.load_model({source})"}


def _numbers(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [line[key] for line in lines if _is_number(line.get(key))]


def _figure(values: Mapping[str, Any], key: str) -> Any:
    value = values.get(key)
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if _is_number(value)]
    return math.fsum(known) / len(known) if known else None


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found
