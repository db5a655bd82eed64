"""A plan in words: its tables, and what is odd about it.

In: a Plan. Out: lines and narrow tables for a terminal, and warnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from mumtrain.plan import DatasetPlan, Plan, StagePlan, ViewsPlan

__all__ = ["tables", "warnings"]

# visits of a frame, on average, from which its dataset is said to be too small for its weight
_MANY_VISITS = 1000

# a weight that is missed by more than this share of it is told
_MISSED = 0.05

# what a weight is a share of
_UNITS = {"per_sequence": "sequences", "per_batch": "slots", "per_frame": "frames"}

_SHARES = (
    "weight %: what the mix asks for; got %: what it gets of the {unit}{how}. slots %: slots, counted at every step, "
    "that hold at least one of its sequences; sequences %, frames %: of all that are drawn."
)
_HOW = " in slots of its kind (single images or several views), times the share of these slots"
_VIEWS = (
    "per slot: sequences in a slot; cost: GFLOP a frame, forward and backward. lone %: frames drawn that overlap less "
    "than 0.1, both ways, with each other frame of their draw; points: median of the points that two frames drawn "
    "together share; looked at: sequences that these two are of, out of {num:,} batches of the run."
)
_UNKNOWN = "per slot: sequences in a slot; cost: GFLOP a frame, forward and backward."
_VISITS = (
    "sequences, frames: those that may be drawn, and the different frames in them; per sequence, per frame: how often "
    "each of them is drawn in the whole run, on average."
)


def tables(plan: Plan) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
    """Yield the parts of a plan for reading: some lines, and a narrow table below them or none."""
    sequences = sum(_visited(d.visits_per_sequence, d.num_sequences) for d in plan.datasets)
    frames = sum(_visited(d.visits_per_frame, d.num_frames) for d in plan.datasets)
    yield (
        [
            f"{plan.recipe} on {plan.mix}: {plan.steps:,} steps of {plan.slots} slots",
            f"{frames:.4g} frames in {sequences:.4g} sequences, {plan.flops:.3g} floating-point operations",
        ],
        None,
    )
    for number, stage in enumerate(plan.stages, 1):
        yield from _stage(plan, stage, f"stage {number}, " if len(plan.stages) > 1 else "")
    yield ["how often in the whole run"], _visits(plan.datasets)
    yield [_VISITS], None
    if plan.warnings:
        yield [f"warning: {warning}" for warning in plan.warnings], None


def _stage(plan: Plan, stage: StagePlan, name: str) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
    band = "" if stage.overlap is None else ", overlap {:g} to {:g}".format(*stage.overlap)
    views = f"{stage.views_min} to {stage.views_max} views" if stage.views_max > 1 else "single images"
    yield [f"{name}steps {stage.first_step:,} to {stage.last_step:,}: {views}{band}"], _shares(stage.datasets)
    how = _HOW if plan.weighting == "per_sequence" else ""
    yield [_SHARES.format(unit=_UNITS[plan.weighting], how=how)], None
    mean = f"a slot holds {stage.frames_per_slot:.1f} of {plan.most_frames_per_slot} frames on average"
    yield [mean], _by_views(stage.views)
    is_known = any(row.looked_at for row in stage.views)
    yield [_VIEWS.format(num=plan.batches_looked_at) if is_known else _UNKNOWN], None
    yield [_waiting(plan, stage)], None


def _waiting(plan: Plan, stage: StagePlan) -> str:
    if plan.ranks == 1:
        return "one rank: it waits for no other"
    used = {"slot": " (this run)", "step": ""} if plan.views_per == "slot" else {"slot": "", "step": " (this run)"}
    return (
        f"waiting for the slowest of {plan.ranks} ranks takes {_percent(stage.lost_per_slot)} % of their time with "
        f"data.views_per=slot{used['slot']}, {_percent(stage.lost_per_step)} % with data.views_per=step{used['step']}, "
        "as far as it goes by operations"
    )


def _shares(datasets: Iterable[DatasetPlan]) -> pd.DataFrame:
    rows = []
    repeats = any(row.repeated for row in datasets)
    for row in datasets:
        shares = {"weight": row.weight, "got": row.got, "slots": row.slots}
        shares |= {"sequences": row.sequences, "frames": row.frames}
        if repeats:
            shares |= {"repeated": row.repeated}
        rows.append({"dataset": row.dataset} | {f"{name} %": _percent(share) for name, share in shares.items()})
    return _frame(rows)


def _by_views(views: Iterable[ViewsPlan]) -> pd.DataFrame:
    return _frame(
        [
            {
                "views": "single" if row.single_view else str(row.views),
                "slots %": _percent(row.slots),
                "sequences %": _percent(row.sequences),
                "frames %": _percent(row.frames),
                "per slot": row.sequences_per_slot,
                "cost": Decimal(f"{row.gflops_per_frame:.3g}"),
                "lone %": _percent(row.lone),
                "points": row.shared_points,
                "looked at": row.looked_at,
            }
            for row in views
        ]
    )


def _visits(datasets: Iterable[DatasetPlan]) -> pd.DataFrame:
    return _frame(
        [
            {
                "dataset": row.dataset,
                "sequences": row.num_sequences,
                "per sequence": _times(row.visits_per_sequence),
                "frames": row.num_frames,
                "per frame": _times(row.visits_per_frame),
                "lone %": _percent(row.lone),
                "points": row.shared_points,
                "looked at": row.looked_at,
            }
            for row in datasets
        ]
    )


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    # objects: a missing number must not turn the others into floats
    return pd.DataFrame(rows, dtype=object)


def _percent(share: float | None) -> Decimal | None:
    # one decimal; shares below that keep a digit
    if share is None:
        return None
    return Decimal(f"{100 * share:.1f}") if share >= 0.0005 or not share else Decimal(f"{100 * share:.1g}")


def _times(visits: float | None) -> Decimal | None:
    if visits is None:
        return None
    return Decimal(f"{visits:.0f}") if visits >= 100 else Decimal(f"{visits:.3g}")


def _visited(visits: float | None, num: int) -> float:
    return (visits or 0.0) * num


def warnings(plan: Plan, late: Sequence[int]) -> Iterator[str]:
    """Yield what is odd about a plan; `late` are the first steps, counted from 1, of stages that it does not reach."""
    for row in plan.datasets:
        if row.weight and not row.frames:
            yield (
                f"{row.dataset} has {_percent(row.weight)} % of the weight and is never drawn: none of its sequences "
                "is long enough, not held out and in the band of overlap"
            )
        if row.repeated:
            yield (
                f"{_percent(row.repeated)} % of the frames drawn from {row.dataset} repeat one of the same draw "
                f"(data.short={plan.short}): its sequences have fewer frames than views are drawn"
            )
    often = [(row.dataset, row.visits_per_frame or 0) for row in plan.datasets]
    if told := [f"{name} ({visits:,.0f})" for name, visits in often if visits >= _MANY_VISITS]:
        yield (
            f"each frame is read {_MANY_VISITS:,} times or more, on average, of {', '.join(told)}; lower their "
            "weights, or give them more frames"
        )
    for number, stage in enumerate(plan.stages, 1):
        where = f"stage {number}: " if len(plan.stages) > 1 else ""
        yield from (where + text for row in stage.datasets for text in _missed(plan, row))
    for step in late:
        yield f"the stage from step {step:,} on is never reached: the run has {plan.steps:,} steps"


def _missed(plan: Plan, row: DatasetPlan) -> Iterator[str]:
    if not row.frames or abs(row.got - row.weight) <= _MISSED * row.weight:
        return
    why = "others have too few sequences that are long enough"
    if row.got < row.weight:
        why = f"{row.num_longest:,} of its {row.num_sequences:,} sequences have enough frames for the most views"
    yield (
        f"{row.dataset} gets {_percent(row.got)} % of the {_UNITS[plan.weighting]}, not {_percent(row.weight)} %: {why}"
    )
