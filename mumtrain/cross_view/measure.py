"""Measuring a model with its other views, without them, and with those of another scene.

In: a mix's correspondences, the frames, a model. Out: a `Part` for each rank, plain sums that `mumtrain.cross_view.
report` turns into figures.
Shapes: B sequences, V views, N patches of a view, S pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from mumdata.catalog import Mix
from mumdata.errors import ConfigError
from mumtrain.config import Config
from mumtrain.cross_view.held_out import HeldOut, Sample, open_held_out
from mumtrain.cross_view.patches import Points, find_points, overlap_bands, split_patches
from mumtrain.cross_view.views import SampleViews
from mumtrain.curriculum import read_stages
from mumtrain.masks.draw import Masks, draw_masks, masks_of
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.pixels import normalise, patchify
from mumtrain.reading.frames import FrameTable
from mumtrain.runtime import Runtime

__all__ = ["KINDS", "Part", "Probe", "Row", "open_probe"]

# kinds of hidden patches: what they show is visible in another view, or in none
KINDS = ("a", "b")

# the masks are the same at every measurement, whatever the run's seed
_SEED = 0

# what a model makes of views uint8 [V, 3, S, S] and hidden patches bool [V, N] of some sequences: errors [V, N] of each
_Errors: TypeAlias = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], list[np.ndarray]]


class Row(NamedTuple):
    """Sums over the hidden patches of one kind in those of a sample's first `views` views that are in one band.

    `without` and `with_others` are errors of all these views; the `first_` ones are of view 0 alone, which is measured
    with another scene's views (`first_foreign`) besides.
    """

    views: int
    dataset: str
    split: str | None
    scene: str
    sample: int
    band: int
    kind: str
    num: int
    without: float
    with_others: float
    first_num: int
    first_with: float
    first_foreign: float


class Part(NamedTuple):
    """What one rank measured; `reason` says why nothing could be.

    `is_held_out` tells whether training is known not to read the samples.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]
    num_samples: int
    reason: str | None = None
    is_held_out: bool = True


def open_probe(
    mix: Mix, frames: Sequence[FrameTable], config: Config, *, trained_on: Mix | None = None, is_known: bool = True
) -> Probe | None:
    """Open what the cross-view gain of a run's models is measured on; None where the mix has no correspondences.

    `trained_on` is the mix that the run reads, where that is another one; where `is_known` is False nobody knows which
    it is. Raises CatalogError where the file belongs to another mix, is damaged, or has frames that training reads.
    """
    if trained_on is None and is_known:
        trained_on = mix
    held_out = open_held_out(mix, frames, trained_on=trained_on)
    if held_out is None:
        return None
    return Probe(held_out, frames, config, _notes(trained_on, config), is_held_out=trained_on is not None)


def _notes(mix: Mix | None, config: Config) -> tuple[str, ...]:
    data, model = config.data, config.model
    notes = []
    # of an unknown mix nothing is said
    has_singles = mix is None or any(dataset.single_view and dataset.weight > 0 for dataset in mix.datasets)
    stages = read_stages(data.stages, data.views_min, data.views_max, data.overlap)
    if not has_singles and min(stage.views_min for stage in stages) > 1:
        notes.append(
            "this run trains on no single views: a model that never saw one alone is disturbed by it, so the loss "
            "without other views, and G with it, means little; a dataset of single images in the mix, or "
            "data.views_min=1, mends that"
        )
    towers = (model.encoder_attention, model.encoder.depth), (model.decoder_attention, model.decoder.depth)
    if not any(_sees_others(attention, depth) for attention, depth in towers):
        notes.append("this model is built to see each view by itself, so every gain is 0 but for rounding")
    return tuple(notes)


def _sees_others(attention: str, depth: int) -> bool:
    # where they alternate, the first block sees each view by itself
    return attention not in ("frame", "none") and not (attention == "alternating" and depth < 2)


class Probe:
    """Measures models on the held-out samples of a mix; the views are decoded once and kept."""

    def __init__(
        self,
        held_out: HeldOut,
        frames: Sequence[FrameTable],
        config: Config,
        notes: tuple[str, ...],
        *,
        is_held_out: bool = True,
    ) -> None:
        self._held_out, self._config, self._notes = held_out, config, notes
        self._is_held_out = is_held_out
        data = config.data
        stages = read_stages(data.stages, data.views_min, data.views_max, data.overlap)
        longest = max((len(sample.frame_ids) for sample in held_out.samples), default=0)
        self.views = _powers(min(longest, max(2, *(stage.views_max for stage in stages))))
        self._views = SampleViews(frames, data.size, max(self.views, default=0))
        self._points: dict[int, Points] = {}

    def measure(self, model: MaskedAutoencoder, runtime: Runtime, rank: int = 0, num_ranks: int = 1) -> Part:
        """Measure a model on this rank's share of the samples: every `num_ranks`-th one.

        The model is used as it is, on the runtime's device, in evaluation mode, and left in the mode that it was in.
        At most `data.frames_per_slot` frames are in a batch. The ranks' parts together hold the same, up to rounding,
        for any number of ranks. Raises MumError where the disk fails.
        """
        if num_ranks < 1 or not 0 <= rank < num_ranks:
            raise ConfigError(f"rank {rank} is not one of {num_ranks} ranks, which are counted from 0")
        if self._config.model.decoder_attention == "cross":
            reason = "this model predicts one view of a pair from the other and never a view by itself"
            return Part((), (), (), 0, reason)
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode(), runtime.autocast():
                return self._measured(
                    lambda views, hidden: self._errors(model, runtime, views, hidden), rank, num_ranks
                )
        finally:
            model.train(was_training)

    def _measured(self, errors: _Errors, rank: int, num_ranks: int) -> Part:
        mine = self._held_out.samples[rank::num_ranks]
        alone: dict[tuple[int, int, bytes], np.ndarray] = {}
        rows: list[Row] = []
        for V in self.views:
            usable = [sample for sample in mine if len(sample.frame_ids) >= V]
            for chunk in _chunks(usable, max(1, self._config.data.frames_per_slot // V)):
                rows += self._rows([sample for sample in chunk if self._views.read(sample)], V, errors, alone)
        problems = self._views.problems
        unreadable = tuple(problems[sample.number] for sample in mine if sample.number in problems)
        num = len(mine) - len(unreadable)
        return Part(tuple(rows), self._notes, unreadable, num, is_held_out=self._is_held_out)

    def _rows(
        self, samples: list[Sample], V: int, errors: _Errors, alone: dict[tuple[int, int, bytes], np.ndarray]
    ) -> list[Row]:
        # the three ways, for a few samples; `alone` are the errors of views by themselves so far
        views = [self._of(sample)[:V] for sample in samples]
        hidden = [self.hidden(sample, V) for sample in samples]
        with_others = errors(views, hidden)

        keys = [[(s.number, v, of[v].tobytes()) for v in range(V)] for s, of in zip(samples, hidden, strict=True)]
        new = [
            (key, views[i][v : v + 1], hidden[i][v : v + 1])
            for i, of_sample in enumerate(keys)
            for v, key in enumerate(of_sample)
            if key not in alone and hidden[i][v].any()
        ]
        for (key, _, _), found in zip(new, errors([n[1] for n in new], [n[2] for n in new]), strict=True):
            alone[key] = found[0]
        without = [
            np.stack([alone[key] if key in alone else np.zeros_like(of[0]) for key in of_sample])
            for of_sample, of in zip(keys, with_others, strict=True)
        ]

        foreign: dict[int, np.ndarray] = {}
        pairs = [(i, other) for i, sample in enumerate(samples) if (other := self.other_scene(sample, V)) is not None]
        pairs = [(i, other) for i, other in pairs if hidden[i][0].any()]
        mixed = [
            (np.concatenate([views[i][:1], self._of(o)[1:V]]), np.concatenate([hidden[i][:1], self.hidden(o, V)[1:]]))
            for i, o in pairs
        ]
        for (i, _), found in zip(pairs, errors([m[0] for m in mixed], [m[1] for m in mixed]), strict=True):
            foreign[i] = found[0]

        rows: list[Row] = []
        for i, sample in enumerate(samples):
            rows += self._of_sample(sample, hidden[i], without[i], with_others[i], foreign.get(i))
        return rows

    def _of_sample(
        self,
        sample: Sample,
        hidden: np.ndarray,
        without: np.ndarray,
        with_others: np.ndarray,
        foreign: np.ndarray | None,
    ) -> Iterator[Row]:
        V = len(hidden)
        points = self.points(sample)
        bands = overlap_bands(points, V)
        for kind, is_wanted in zip(KINDS, split_patches(points, hidden), strict=True):
            for band in np.unique(bands).tolist():
                chosen = is_wanted & (bands == band)[:, None]
                first = chosen[0] if foreign is not None else np.zeros_like(chosen[0])
                if not chosen.any():
                    continue
                yield Row(
                    *(V, *sample.scene, sample.number, band, kind),
                    *(int(chosen.sum()), _sum(without[chosen]), _sum(with_others[chosen])),
                    *(int(first.sum()), _sum(with_others[0][first])),
                    0.0 if foreign is None else _sum(foreign[first]),
                )

    def hidden(self, sample: Sample, num_views: int) -> np.ndarray:
        """Return which patches of a sample's first V views are hidden, bool [V, N]; the same at every measurement."""
        side = self._config.data.size // self._config.model.patch
        masks = draw_masks(self._config.mask, 1, num_views, (side, side), seed=_SEED, step=0, slot=sample.number)
        return masks.is_hidden_BVN[0].numpy()

    def points(self, sample: Sample) -> Points:
        """Return the points of a readable sample in its views."""
        if sample.number not in self._points:
            read = self._views.read(sample)
            assert read is not None
            side = self._config.data.size // self._config.model.patch
            self._points[sample.number] = find_points(self._held_out.matches(sample), read[1], side, sample.grid)
        return self._points[sample.number]

    def other_scene(self, sample: Sample, num_views: int) -> Sample | None:
        """Return the sample whose views 1 .. V-1 stand in as foreign ones, or None.

        It is the next one, going round, that has V views, can be read and is of another scene of the same dataset, or
        else of any other scene.
        """
        samples = self._held_out.samples
        at = samples.index(sample)
        after = [s for s in (*samples[at + 1 :], *samples[:at]) if s.scene != sample.scene]
        after = [s for s in after if len(s.frame_ids) >= num_views]
        after.sort(key=lambda s: s.dataset != sample.dataset)
        return next((s for s in after if self._views.read(s) is not None), None)

    def _of(self, sample: Sample) -> np.ndarray:
        read = self._views.read(sample)
        assert read is not None
        return read[0]

    def _errors(
        self, model: MaskedAutoencoder, runtime: Runtime, views: Sequence[np.ndarray], hidden: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        # where tokens are dropped, the sequences of a batch must keep the same numbers of patches
        alike: dict[tuple[int, ...], list[int]] = {}
        for number, of in enumerate(hidden):
            kept = tuple(sorted((~of).sum(1).tolist())) if model.drops else ()
            alike.setdefault(kept, []).append(number)
        found: list[np.ndarray | None] = [None] * len(views)
        for numbers in alike.values():
            for chunk in _chunks(numbers, max(1, self._config.data.frames_per_slot // len(views[numbers[0]]))):
                pixels = torch.from_numpy(np.stack([views[number] for number in chunk])).to(runtime.device)
                is_hidden = torch.from_numpy(np.stack([hidden[number] for number in chunk]))
                for number, of in zip(chunk, _batch_errors(model, pixels, is_hidden), strict=True):
                    found[number] = of
        return [of for of in found if of is not None]


def _batch_errors(model: MaskedAutoencoder, views: torch.Tensor, is_hidden: torch.Tensor) -> np.ndarray:
    # float64 [B, V, N]
    is_hidden = is_hidden.to(views.device)
    masks = masks_of(is_hidden) if model.drops else Masks(is_hidden, None, None)
    patches = patchify(normalise(views, model.pixels), model.patch)
    grid = (views.shape[-2] // model.patch, views.shape[-1] // model.patch)
    errors = model.patch_errors(model.predict(patches, grid, masks), patches, masks)
    return errors.double().cpu().numpy()


def _powers(most: int) -> tuple[int, ...]:
    # 2, 4, 8, ... up to most
    return tuple(2**n for n in range(1, max(most, 1).bit_length()) if 2**n <= most)


def _chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _sum(values: np.ndarray) -> float:
    return float(values.sum(dtype=np.float64))
