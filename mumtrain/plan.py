"""`mumtrain plan`: what a run would read, before it runs.

In: a mix and a recipe. Out: a Plan: for each stage the shares of every dataset and of every number of views, how often
sequences and frames are read, what the frames drawn together share, and what waiting for each other costs the ranks.
All of it is exact but for what frames share, which is looked up for some of the batches that the run itself would read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mumdata.catalog import Mix, open_mix
from mumdata.errors import ConfigError
from mumtrain.config import Config, apply
from mumtrain.curriculum import Band, Stage, read_subset
from mumtrain.flops import slot_flops
from mumtrain.planning.expected import expect, num_different_frames, share_repeated, sums, time_lost
from mumtrain.planning.hiding import hidden_shares
from mumtrain.planning.hints import missing_roots, rules_not_followed
from mumtrain.planning.look import Found, Looked, look
from mumtrain.planning.rows import DatasetPlan, StagePlan, ViewsPlan
from mumtrain.planning.text import tables, warnings
from mumtrain.recipes import recipe as recipe_of
from mumtrain.sampler import Sampler, SequenceTable, open_sampler, rank_slots

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DatasetPlan", "ViewsPlan", "StagePlan", "Plan", "plan", "plan_run"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would read: stage by stage, and of each dataset over the whole run."""

    mix: str
    recipe: str
    settings: tuple[str, ...]  # changes to the recipe
    steps: int
    slots: int
    most_frames_per_slot: int
    ranks: int
    weighting: str
    views_per: str
    subset: str
    short: str
    flops: float  # forward and backward, of the whole run
    batches_looked_at: int
    batches_asked: int
    stages: tuple[StagePlan, ...]
    datasets: tuple[DatasetPlan, ...]
    masks: tuple[str, ...]  # what is hidden of the views
    warnings: tuple[str, ...]
    notes: tuple[str, ...]  # what the run needs and is not there yet

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each stage and dataset, stage and number of views, and dataset of the whole run."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for number, stage in enumerate(self.stages, 1):
            about = {"stage": str(number), "first_step": stage.first_step, "last_step": stage.last_step}
            rows += [about | asdict(row) for row in stage.datasets]
            rows += [about | asdict(row) for row in stage.views]
        rows += [{"stage": "all", "first_step": 1, "last_step": self.steps} | asdict(row) for row in self.datasets]
        frame = pd.DataFrame(rows)
        # whole numbers that some rows do not have stay whole numbers
        types = DatasetPlan.__annotations__ | ViewsPlan.__annotations__
        return frame.astype({name: "Int64" for name, kind in types.items() if kind == "int"})

    def tables(self) -> Iterator[tuple[list[str], pd.DataFrame | None]]:
        """Yield the parts of the plan for reading: some lines, and a narrow table below them or none."""
        return tables(self)


def plan(
    mix: Path,
    *,
    recipe: str = "mum-vitl16",
    set: Sequence[str] = (),
    ranks: int | None = None,
    num: int = 2000,
) -> Plan:
    """Tell what a run of a recipe on a mix would read; `set` holds `section.key=value` changes to the recipe.

    `ranks` is how many processes share the slots (default: one for each slot). What frames share is looked up for at
    most `num` batches of a stage, 0 for none. Raises ConfigError for settings, and for ranks that do not divide the
    slots; CatalogError for the mix.
    """
    config = apply(recipe_of(recipe), set)
    opened = open_mix(Path(mix))
    return plan_run(
        open_sampler(opened, config), opened, config, recipe=recipe, settings=tuple(set), ranks=ranks, num=num
    )


def plan_run(
    sampler: Sampler,
    mix: Mix,
    config: Config,
    *,
    recipe: str,
    settings: tuple[str, ...] = (),
    ranks: int | None = None,
    num: int = 2000,
) -> Plan:
    """Tell what a run would read, as `plan` does, from a mix and sampler that are open."""
    data = config.data
    ranks = data.slots if ranks is None else ranks
    if ranks < 1:
        raise ConfigError(f"ranks must be at least 1, not {ranks}")
    rank_slots(0, ranks, data.slots)  # raises where they do not divide them
    if num < 0:
        raise ConfigError(f"num is {num}; it must not be negative")
    reached = [stage for stage in sampler.stages if stage.start < config.steps]
    ends = [*(stage.start for stage in reached[1:]), config.steps]
    spans = [range(stage.start, end) for stage, end in zip(reached, ends, strict=True)]
    looked = look(sampler, mix, config, spans, num)
    amounts = [_amounts(sampler, config, number, span) for number, span in enumerate(spans)]
    stages = [
        _stage(sampler, config, number, span, amounts[number], looked, ranks) for number, span in enumerate(spans)
    ]
    made = Plan(
        mix=str(mix.path),
        recipe=recipe,
        settings=settings,
        steps=config.steps,
        slots=data.slots,
        most_frames_per_slot=data.frames_per_slot,
        ranks=ranks,
        weighting=data.weighting,
        views_per=data.views_per,
        subset=data.subset,
        short=data.short,
        flops=math.fsum(stage.flops_per_step * len(span) for stage, span in zip(stages, spans, strict=True)),
        batches_looked_at=looked.num_batches,
        batches_asked=num * len(spans),
        stages=tuple(stages),
        datasets=_datasets(sampler, _added(amounts), lambda d: looked.found(dataset=d)),
        masks=tuple(hidden_shares(config)),
        warnings=(),
        notes=tuple(missing_roots(mix)),
    )
    late = [stage.start + 1 for stage in sampler.stages[len(reached) :]]
    return replace(made, warnings=(*warnings(made, late), *rules_not_followed(made, sampler, mix)))


@dataclass(frozen=True, eq=False)
class _Amounts:
    """What is read in some steps: D datasets."""

    num_slots: int  # in all steps
    read: np.ndarray  # float64 [6, D]: weight and what it got times num_slots; slots, sequences, frames, repeated ones
    rows: tuple[np.ndarray, ...]  # D times bool [n], sequences that may be drawn
    unknown: tuple[int, ...]  # D times, how many of them have no mean overlap, where a band is asked for
    never: tuple[str | None, ...]  # D times, why a dataset with a weight is never drawn
    most: int  # views of a batch


def _amounts(sampler: Sampler, config: Config, number: int, span: range) -> _Amounts:
    """Return what is read in the steps of a stage."""
    stage, law, data = sampler.stages[number], sampler.law(number), config.data
    mean, num_slots = expect(law, data.weighting), len(span) * data.slots
    weights = np.array([dict(stage.weights).get(table.name, table.weight) for table in sampler.tables])
    rows = tuple(_drawable(table, stage, config) for table in sampler.tables)
    repeated = np.zeros(len(rows))
    if data.short == "repeat":
        for d, table in enumerate(sampler.tables):
            shares = [share_repeated(table, rows[d], data.balance, views) for _, views in law.kinds]
            repeated[d] = math.fsum((mean.frames[:, d] * shares).tolist())
    read = (weights / math.fsum(weights), mean.got, mean.slots, sums(mean.sequences), sums(mean.frames), repeated)
    band = _band(stage, config)
    unknown = [
        table.num_unknown(of) if band and not table.single_view else 0
        for table, of in zip(sampler.tables, rows, strict=True)
    ]
    never = [
        "; ".join(table.why_none(_least(table, stage, config), band)) if weight and not of.any() else None
        for table, of, weight in zip(sampler.tables, rows, weights, strict=True)
    ]
    most = max(views for _, views in law.kinds)
    return _Amounts(num_slots, num_slots * np.stack(read), rows, tuple(unknown), tuple(never), most)


def _band(stage: Stage, config: Config) -> Band | None:
    # that of the sequences' mean overlap
    return None if config.data.subset == "covisible" else stage.band


def _least(table: SequenceTable, stage: Stage, config: Config) -> int:
    return 1 if table.single_view or config.data.short == "repeat" else stage.views_min


def _drawable(table: SequenceTable, stage: Stage, config: Config) -> np.ndarray:
    return table.drawable(_band(stage, config)) & (table.lengths >= _least(table, stage, config))


def _added(amounts: Sequence[_Amounts]) -> _Amounts:
    """Add up several stages; what may be drawn in one of them may be drawn in the run."""
    return _Amounts(
        sum(one.num_slots for one in amounts),
        np.sum([one.read for one in amounts], axis=0),
        tuple(np.logical_or.reduce(rows) for rows in zip(*(one.rows for one in amounts), strict=True)),
        tuple(max(nums) for nums in zip(*(one.unknown for one in amounts), strict=True)),
        tuple(next(filter(None, told), None) for told in zip(*(one.never for one in amounts), strict=True)),
        max(one.most for one in amounts),
    )


def _datasets(sampler: Sampler, amounts: _Amounts, found: Callable[[int], Found]) -> tuple[DatasetPlan, ...]:
    weight, got, slots, sequences, frames, repeated = amounts.read
    made = []
    for d, table in enumerate(sampler.tables):
        rows, looked = amounts.rows[d], found(d)
        num_sequences, num_frames = int(np.count_nonzero(rows)), num_different_frames(table, rows)
        made.append(
            DatasetPlan(
                dataset=table.name,
                single_view=table.single_view,
                weight=float(weight[d] / amounts.num_slots),
                got=float(got[d] / amounts.num_slots),
                slots=float(slots[d] / amounts.num_slots),
                sequences=float(sequences[d] / math.fsum(sequences)),
                frames=float(frames[d] / math.fsum(frames)),
                num_sequences=num_sequences,
                num_longest=int(np.count_nonzero(table.lengths[rows] >= (1 if table.single_view else amounts.most))),
                num_unknown=amounts.unknown[d],
                num_frames=num_frames,
                visits_per_sequence=float(sequences[d] / num_sequences) if num_sequences else None,
                visits_per_frame=float(frames[d] / num_frames) if num_frames else None,
                repeated=float(repeated[d] / frames[d]) if frames[d] else 0.0,
                looked_at=looked.num_sequences,
                lone=looked.lone,
                shared_points=looked.shared_points,
                unfollowed=looked.unfollowed,
                never=None if frames[d] else amounts.never[d],
            )
        )
    return tuple(made)


def _stage(
    sampler: Sampler, config: Config, number: int, span: range, amounts: _Amounts, looked: Looked, ranks: int
) -> StagePlan:
    stage, law, data = sampler.stages[number], sampler.law(number), config.data
    nums = [law.frames_per_slot // views for _, views in law.kinds]
    costs = [slot_flops(config, num, views) for num, (_, views) in zip(nums, law.kinds, strict=True)]
    several = [views for is_single, views in law.kinds if not is_single]
    total_sequences = math.fsum(law.probabilities * nums)
    total_frames = math.fsum(law.probabilities * nums * [views for _, views in law.kinds])
    rows = []
    for (is_single, views), share, num, cost in zip(law.kinds, law.probabilities.tolist(), nums, costs, strict=True):
        found = Found() if is_single else looked.found(span=number, views=views)
        rows.append(
            ViewsPlan(
                views=views,
                single_view=is_single,
                slots=share,
                sequences=share * num / total_sequences,
                frames=share * num * views / total_frames,
                sequences_per_slot=num,
                frames_per_slot=num * views,
                gflops_per_frame=cost / (num * views) / 1e9,
                looked_at=found.num_sequences,
                lone=found.lone,
                shared_points=found.shared_points,
                unfollowed=_unfollowed(config, views, found) if not is_single else None,
            )
        )
    return StagePlan(
        first_step=span.start + 1,
        last_step=span.stop,
        views_min=min(several, default=1),
        views_max=max(several, default=1),
        views_asked=stage.views_max if several else 1,
        longest=_longest(sampler, amounts) if several else None,
        overlap=None if stage.band is None else (stage.band.low, stage.band.high),
        frames_per_slot=total_frames,
        flops_per_step=data.slots * math.fsum((law.probabilities * costs).tolist()),
        lost_per_slot=time_lost(costs, law.probabilities, ranks=ranks, slots_per_rank=data.slots // ranks),
        # all ranks then have the same work at every step
        lost_per_step=0.0,
        num_drawn=looked.found(span=number).num_drawn,
        datasets=_datasets(sampler, amounts, lambda d: looked.found(span=number, dataset=d)),
        views=tuple(rows),
    )


def _unfollowed(config: Config, views: int, found: Found) -> float | None:
    subset = read_subset(config.data.subset)
    if subset.kind == "window" and not subset.in_seconds:
        return float(views > subset.size)  # the window is widened to V
    return found.unfollowed


def _longest(sampler: Sampler, amounts: _Amounts) -> str:
    several = [(table, rows) for table, rows in zip(sampler.tables, amounts.rows, strict=True) if not table.single_view]
    table, _ = max(several, key=lambda of: int(of[0].lengths[of[1]].max(initial=0)))
    return table.name
