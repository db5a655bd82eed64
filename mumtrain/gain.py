"""`mumtrain gain`: whether a finished model uses its other views.

In: a run's folder or a checkpoint, and a mix with correspondences. Out: a GainReport.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mumdata.catalog import Mix, open_mix
from mumdata.correspondences_file import correspondences_path
from mumdata.errors import CatalogError, MumError
from mumtrain.cross_view import GainReport, open_probe, summarise
from mumtrain.loader import open_frames
from mumtrain.runtime import select_runtime
from mumtrain.weights.load import load_model, read_weights

__all__ = ["gain"]


def gain(run: Path, *, mix: Path | None = None, device: str | None = None) -> GainReport:
    """Measure the cross-view gain of a run's newest checkpoint, of one checkpoint, or of an exported whole model.

    `mix` is by default the one that the run was trained on, as its run.json says. The samples are those of the
    correspondences beside the mix; where that run.json is gone, or its mix was made anew since, the report says that
    nobody knows whether they are held out. Raises MumError for a checkpoint that cannot be read, and CatalogError for a
    mix without correspondences, with some of frames that the run was trained on, or one that cannot be found.
    """
    run = Path(run)
    runtime = select_runtime(device)
    weights = read_weights(run)
    opened = open_mix(_mix_of(run)) if mix is None else open_mix(Path(mix))
    trained_on = _trained_on(run)
    probe = open_probe(
        opened, open_frames(opened), weights.config, trained_on=trained_on, is_known=trained_on is not None
    )
    if probe is None:
        path = correspondences_path(opened.path)
        raise CatalogError(f"{path} does not exist; run 'mumdata correspondences {opened.path}'")
    model = load_model(weights, device=runtime.device).model
    return summarise([probe.measure(model, runtime)])


def _about(run: Path) -> Path:
    # a checkpoint lies in RUN/checkpoints
    return (run if run.is_dir() else run.resolve().parent.parent) / "run.json"


def _trained_on(run: Path) -> Mix | None:
    # the mix that the run read, or None where it is not there any more as it was
    if not _about(run).exists() or not (path := _mix_of(run)).exists():
        return None
    mix = open_mix(path)
    return mix if _told(run).get("mix_digest") == mix.content_digest else None


def _mix_of(run: Path) -> Path:
    mix = _told(run).get("mix")
    if not isinstance(mix, str):
        raise MumError(f"{_about(run)} does not name the mix; give it with --mix")
    return Path(mix)


def _told(run: Path) -> dict[str, Any]:
    path = _about(run)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MumError(f"{path} does not exist, so the mix is not known; give it with --mix") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MumError(f"{path} cannot be read ({error}); give the mix with --mix") from error
    return told if isinstance(told, dict) else {}
