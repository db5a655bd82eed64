"""The rows of a plan: what is read of a dataset, as V views, and in a stage.

In: numbers. Out: frozen values, with their meanings.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DatasetPlan", "StagePlan", "ViewsPlan"]


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """What is read of one dataset, in a stage or in the whole run; shares in 0 .. 1, None where nothing is known."""

    dataset: str
    single_view: bool
    weight: float  # its share of the weights
    got: float  # the share that it gets of what weights are shares of (data.weighting)
    slots: float  # share of the slots, counted at every step, that hold at least one of its sequences
    sequences: float  # share of the sequences drawn
    frames: float  # share of the frames drawn
    num_sequences: int  # sequences that may be drawn
    num_longest: int  # those of them that have as many frames as the most views of a batch
    num_unknown: int  # those of them whose mean overlap is not known, where a band is asked for: they pass any
    num_frames: int  # different frames in them
    visits_per_sequence: float | None  # mean number of times that a sequence is drawn
    visits_per_frame: float | None
    repeated: float  # share of the frames drawn from it that repeat one of the same draw (data.short=repeat)
    looked_at: int  # sequences drawn whose frames were looked up
    lone: float | None  # share of their frames that overlap less than 0.1 with each other frame of their draw
    shared_points: float | None  # median of two frames drawn together
    unfollowed: float | None  # share of its sequences in which data.subset could not be followed, of those looked up
    never: str | None  # why it is never drawn, and what would help


@dataclass(frozen=True, kw_only=True)
class ViewsPlan:
    """What is read as V views a sequence, in a stage; shares in 0 .. 1, None where nothing is known."""

    views: int
    single_view: bool
    slots: float  # share of the slots
    sequences: float  # share of the sequences drawn
    frames: float  # share of the frames drawn
    sequences_per_slot: int
    frames_per_slot: int
    gflops_per_frame: float  # forward and backward
    looked_at: int
    lone: float | None
    shared_points: float | None
    unfollowed: float | None


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What is read from one step to another, both included and counted from 1."""

    first_step: int
    last_step: int
    views_min: int
    views_max: int
    views_asked: int  # the most views that the settings ask for; no sequence of those that may be drawn is as long
    longest: str | None  # the dataset with the longest sequence that may be drawn
    overlap: tuple[float, float] | None
    frames_per_slot: float  # mean
    flops_per_step: float  # mean over the steps, of all slots together
    lost_per_slot: float  # share of the ranks' time that they wait for each other, were V drawn for each slot
    lost_per_step: float  # and were it drawn once a step
    num_drawn: int  # sequences of several views in the batches that were looked at
    datasets: tuple[DatasetPlan, ...]
    views: tuple[ViewsPlan, ...]
