"""A plan in words: its tables, and what is odd about it.

In: a Plan. Out: lines and narrow tables for a terminal, and warnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mumtrain.planning.rows import DatasetPlan, StagePlan, ViewsPlan
from mumtrain.sampling.frame_subsets import COVISIBLE_BAND

if TYPE_CHECKING:
    import pandas as pd

    from mumtrain.plan import Plan

__all__ = ["Number", "tables", "warnings"]

# visits of a frame, on average, from which its dataset is said to be too small for its weight
_MANY_VISITS = 1000

# a weight that is missed by more than this share of it is told
_MISSED = 0.05

# datasets that a warning of their own is given for; more share one
_MOST_ALONE = 2

# numbers of views that a warning tells of
_MOST_TOLD = 5

# what a weight is a share of
_UNITS = {"per_sequence": "sequences", "per_batch": "slots", "per_frame": "frames"}

_SHARES = (
    "weight %: what the mix asks for; got %: what it gets of the {unit}{how}. slots %: slots, counted at every step, "
    "that hold at least one of its sequences; sequences %, frames %: of all that are drawn."
)
_HOW = " in slots of its kind (single images or several views), times the share of these slots"
_COST = "per slot: sequences in a slot; cost: GFLOP a frame, forward and backward."
_SHARED = (
    "lone %: frames drawn that overlap less than 0.1, both ways, with each other frame of their draw; points: median "
    "of the points that two frames drawn together share; of: sequences that these two are of."
)
_VISITS = (
    "sequences, frames: those that may be drawn, and the different frames in them; per sequence, per frame: how often "
    "each of them is drawn in the whole run, on average."
)


class Number(Decimal):
    """A number in a table, with thousands separators."""

    def __str__(self) -> str:
        return format(self, ",f")


def tables(plan: Plan) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
    """Yield the parts of a plan for reading: some lines, and a narrow table below them or none."""
    sequences = sum(_visited(d.visits_per_sequence, d.num_sequences) for d in plan.datasets)
    frames = sum(_visited(d.visits_per_frame, d.num_frames) for d in plan.datasets)
    flops = f"{plan.flops:.3g}".replace("e+", "e")
    yield (
        [
            f"{plan.recipe} on {plan.mix}: {_counted(plan.steps, 'step')} of {_counted(plan.slots, 'slot')}",
            f"{_about(frames)} frames in {_about(sequences)} sequences, {flops} floating-point operations",
        ],
        None,
    )
    for number, stage in enumerate(plan.stages, 1):
        yield from _stage(plan, stage, f"stage {number}, " if len(plan.stages) > 1 else "")
    yield ["how often in the whole run"], _visits(plan.datasets)
    yield [_VISITS], None
    if any(row.looked_at for row in plan.datasets):
        yield ["what frames drawn together share, by dataset"], _by_dataset(plan.datasets)
        yield [_SHARED], None
    for line in plan.masks:
        yield [line], None
    for kind, lines in (("warning", plan.warnings), ("note", plan.notes)):
        for line in lines:
            yield [f"{kind}: {line}"], None


def _stage(plan: Plan, stage: StagePlan, name: str) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
    band = "" if stage.overlap is None else ", overlap {:g} to {:g}".format(*stage.overlap)
    views = f"{stage.views_min} to {stage.views_max} views" if stage.views_max > 1 else "single images"
    yield [f"{name}steps {stage.first_step:,} to {stage.last_step:,}: {views}{band}"], _shares(stage.datasets)
    how = _HOW if plan.weighting == "per_sequence" else ""
    yield [_SHARES.format(unit=_UNITS[plan.weighting], how=how)], None
    mean = f"a slot holds {stage.frames_per_slot:.1f} of {_counted(plan.most_frames_per_slot, 'frame')} on average"
    yield [mean], _by_views(stage.views)
    if not stage.num_drawn:
        yield [_COST], None
    else:
        yield [f"{_COST} {_SHARED} {_looked(plan, stage)}"], None
    yield [_waiting(plan, stage)], None


def _looked(plan: Plan, stage: StagePlan) -> str:
    num, asked = plan.batches_looked_at // len(plan.stages), plan.batches_asked // len(plan.stages)
    fewer = f", fewer than the {asked:,} asked for, as V is large" if num < asked else ""
    names = [row.dataset for row in stage.datasets if row.looked_at]
    known = sum(row.looked_at for row in stage.datasets)
    of_pairs = (
        f"{known:,} are of datasets with pairs: {', '.join(names)}" if names else "none is of a dataset with pairs"
    )
    return (
        f"Looked at were {num:,} random batches{fewer}; of the {stage.num_drawn:,} sequences of several views in them, "
        f"{of_pairs}."
    )


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


def _by_views(views: Sequence[ViewsPlan]) -> pd.DataFrame:
    is_known = any(row.looked_at for row in views)
    return _frame(
        [
            {
                "views": "single" if row.single_view else str(row.views),
                "slots %": _percent(row.slots),
                "sequences %": _percent(row.sequences),
                "frames %": _percent(row.frames),
                "per slot": row.sequences_per_slot,
                "cost": _three_digits(row.gflops_per_frame),
            }
            | (_found(row) if is_known else {})
            for row in views
        ]
    )


def _visits(datasets: Iterable[DatasetPlan]) -> pd.DataFrame:
    return _frame(
        [
            {
                "dataset": row.dataset,
                "sequences": Number(row.num_sequences),
                "per sequence": _times(row.visits_per_sequence),
                "frames": Number(row.num_frames),
                "per frame": _times(row.visits_per_frame),
            }
            for row in datasets
        ]
    )


def _by_dataset(datasets: Iterable[DatasetPlan]) -> pd.DataFrame:
    return _frame([{"dataset": row.dataset} | _found(row) for row in datasets if row.looked_at])


def _found(row: DatasetPlan | ViewsPlan) -> dict[str, Any]:
    points = None if row.shared_points is None else Number(round(row.shared_points))
    return {"lone %": _percent(row.lone), "points": points, "of": Number(row.looked_at)}


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    # objects: a missing number must not turn the others into floats
    return pd.DataFrame(rows, dtype=object)


def _percent(share: float | None) -> Decimal | None:
    # one decimal; shares below that keep a digit
    if share is None:
        return None
    return Decimal(f"{100 * share:.1f}") if share >= 0.0005 or not share else Decimal(f"{100 * share:.1g}")


def _times(visits: float | None) -> Number | None:
    return None if visits is None else _three_digits(visits)


def _three_digits(value: float) -> Number:
    # at least; whole numbers keep all of theirs, and small ones have two decimals unless these were zeros
    if value >= 100:
        return Number(f"{value:.0f}")
    if value >= 10:
        return Number(f"{value:.1f}")
    return Number(f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}")


def _about(value: float) -> str:
    # four digits of an expected value
    return f"{float(f'{value:.4g}'):,.0f}"


def _counted(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def _visited(visits: float | None, num: int) -> float:
    return (visits or 0.0) * num


def warnings(plan: Plan, late: Sequence[int]) -> Iterator[str]:
    """Yield what is odd about a plan; `late` are the first steps, counted from 1, of stages that it does not reach."""
    for row in plan.datasets:
        if row.weight and not row.frames:
            why = f": {row.never}" if row.never else ""
            yield f"{row.dataset} has {_percent(row.weight)} % of the weight and is never drawn{why}"
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
        drawn = {row.dataset for row in plan.datasets if row.frames}
        yield from (
            f"{where}{row.dataset} has {_percent(row.weight)} % of the weight and is not drawn: {row.never}"
            for row in stage.datasets
            if row.never and row.dataset in drawn
        )
        yield from (where + text for text in _missed(plan, stage))
        yield from (where + text for text in _narrowed(plan, stage))
    yield from _unknown(plan)
    for step in late:
        yield f"the stage from step {step:,} on is never reached: the run has {plan.steps:,} steps"


def _missed(plan: Plan, stage: StagePlan) -> Iterator[str]:
    # shares that are not what the weights ask for
    missed = [row for row in stage.datasets if row.frames and abs(row.got - row.weight) > _MISSED * row.weight]
    unit = _UNITS[plan.weighting]
    few = "have enough frames for the most views"
    less = [
        (row, f"{row.num_longest:,} of its {_counted(row.num_sequences, 'sequence')} {few}")
        for row in missed
        if row.got < row.weight
    ]
    more = [(row, "others have too few sequences that are long enough") for row in missed if row.got > row.weight]
    for rows in (less, more):
        if len(rows) <= _MOST_ALONE:
            for row, why in rows:
                yield f"{row.dataset} gets {_percent(row.got)} % of the {unit}, not {_percent(row.weight)} %: {why}"
            continue
        told = [
            f"{row.dataset} {_percent(row.got)} % (not {_percent(row.weight)} %"
            + (f"; {row.num_longest:,} of {row.num_sequences:,})" if rows is less else ")")
            for row, _ in rows
        ]
        why = f"few of their sequences, told in brackets, {few}" if rows is less else rows[0][1]
        which = "less" if rows is less else "more"
        yield f"these get {which} of the {unit} than their weights ask for: {', '.join(told)}; {why}"


def _narrowed(plan: Plan, stage: StagePlan) -> Iterator[str]:
    # what settings ask for and do not get
    if stage.views_max < stage.views_asked:
        yield (
            f"V goes up to {stage.views_max}, not to data.views_max={stage.views_asked}: no sequence that may be drawn "
            f"is longer (the longest is of {stage.longest})"
        )
    rows = [row for row in stage.views if row.unfollowed]
    if plan.subset.startswith("window"):
        yield from _widened(plan, stage, rows)
    elif rows:
        band = stage.overlap or (COVISIBLE_BAND.low, COVISIBLE_BAND.high)
        told = [
            f"{_percent(row.unfollowed)} % of the sequences of {row.dataset}"
            for row in stage.datasets
            if row.unfollowed
        ]
        yield (
            f"data.subset={plan.subset} finds no pair with an overlap of {band[0]:g} to {band[1]:g} to go on along, "
            f"and takes some other frame of the sequence, in {', '.join(told)}"
        )


def _widened(plan: Plan, stage: StagePlan, rows: Sequence[ViewsPlan]) -> Iterator[str]:
    if not rows:
        return
    several = [row for row in stage.views if not row.single_view]
    share = sum(row.sequences * (row.unfollowed or 0) for row in rows) / sum(row.sequences for row in several)
    if len(rows) > _MOST_TOLD:
        rows = [rows[round(n * (len(rows) - 1) / (_MOST_TOLD - 1))] for n in range(_MOST_TOLD)]
    if plan.subset.endswith("s"):
        told = ", ".join(f"{_percent(row.unfollowed)} % with V={row.views}" for row in rows)
        yield (
            f"data.subset={plan.subset} is widened to the V nearest frames where fewer lie in it, or to all where a "
            f"time is missing: in {_percent(share)} % of the sequences of datasets with times ({told})"
        )
        return
    yield (
        f"data.subset={plan.subset} is narrower than V and widened to V neighbours from V={rows[0].views} on: "
        f"{_percent(share)} % of the sequences of several views"
    )


def _unknown(plan: Plan) -> Iterator[str]:
    if told := [
        f"{row.dataset} ({row.num_unknown:,} of {row.num_sequences:,})" for row in plan.datasets if row.num_unknown
    ]:
        yield f"the mean overlap of these sequences is not known, and they pass any band: {', '.join(told)}"
