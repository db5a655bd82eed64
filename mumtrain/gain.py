"""`mumtrain gain`: whether a finished model uses its other views.

In: a run's folder or a checkpoint, and a mix with correspondences. Out: a GainReport.
"""

from __future__ import annotations

import json
from pathlib import Path

from mumdata.catalog import open_mix
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
    correspondences beside the mix. Raises MumError for a checkpoint that cannot be read, and CatalogError for a mix
    without correspondences or one that cannot be found.
    """
    run = Path(run)
    runtime = select_runtime(device)
    weights = read_weights(run)
    trained_on = None if mix is not None and not _is_known(run) else open_mix(_mix_of(run))
    opened = trained_on if mix is None else open_mix(Path(mix))
    assert opened is not None
    probe = open_probe(opened, open_frames(opened), weights.config, trained_on=trained_on)
    if probe is None:
        path = correspondences_path(opened.path)
        raise CatalogError(f"{path} does not exist; run 'mumdata correspondences {opened.path}'")
    model = load_model(weights, device=runtime.device).model
    return summarise([probe.measure(model, runtime)])


def _about(run: Path) -> Path:
    # a checkpoint lies in RUN/checkpoints
    return (run if run.is_dir() else run.resolve().parent.parent) / "run.json"


def _is_known(run: Path) -> bool:
    return _about(run).exists() and _mix_of(run).exists()


def _mix_of(run: Path) -> Path:
    path = _about(run)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MumError(f"{path} does not exist, so the mix is not known; give it with --mix") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MumError(f"{path} cannot be read ({error}); give the mix with --mix") from error
    mix = told.get("mix") if isinstance(told, dict) else None
    if not isinstance(mix, str):
        raise MumError(f"{path} does not name the mix; give it with --mix")
    return Path(mix)
