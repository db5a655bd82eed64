"""Pictures of a model's work during training: the same views with the same patches hidden, every so many steps.

In: a mix, its frames, a Config; later the model, as it is at a step. Out: a picture file for each step that is asked
for, and the pixels of the same.
Shapes: B sequences, V views, S pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from mumdata import rng
from mumdata.catalog import Mix, MixDataset, map_sequences
from mumdata.errors import DecodeError
from mumdata.images import read_image
from mumtrain.config import Config
from mumtrain.cross_view.views import read_square_view
from mumtrain.curriculum import read_stages
from mumtrain.drawing import draw_page
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.reading.frames import FrameTable
from mumtrain.reconstruction import Strip, page_of, reconstruct_views, told_hidden, told_kinds
from mumtrain.runtime import Runtime
from mumtrain.sampling.sequence_table import SequenceTable

__all__ = ["Pictures", "Shown", "open_pictures"]

# sequences in a picture, and views of each
_MOST_SEQUENCES, _MOST_VIEWS = 3, 4

# sequences that are looked at, and frames of each, before a dataset without readable images is given up
_MOST_TRIES = 16

# pixels
_MOST_WIDTH = 1450

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Shown:
    """Views that are shown side by side: frames of one sequence of a dataset, or single images of one.

    `squares` are uint8 RGB [V, S, S, 3], `frame_ids` int32 [V], `names` those of their files. A model gets them as one
    sequence of V views where they are shown `together`, else as V of one view.
    """

    told: str
    dataset: int
    frame_ids: np.ndarray
    names: tuple[str, ...]
    squares: np.ndarray
    together: bool

    def batch(self) -> torch.Tensor:
        """Return the views as a model takes them, uint8 [B, V, 3, S, S]."""
        views = torch.from_numpy(self.squares).permute(0, 3, 1, 2)
        return views[None] if self.together else views[:, None]


class Pictures:
    """Draws what models make of some views, which stay the same for a whole run, as do the masks."""

    def __init__(self, shown: Sequence[Shown], config: Config) -> None:
        self.shown, self._config = tuple(shown), config

    def draw(self, model: MaskedAutoencoder, runtime: Runtime, run: Path, step: int) -> tuple[Path, np.ndarray]:
        """Draw the picture of a step, counted from 1, into RUN/pictures; return its path and pixels, uint8 [H, W, 3].

        The model is used as it is, on the runtime's device, in evaluation mode, and left in the mode that it was in.
        """
        config = self._config
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode(), runtime.autocast():
                strips = [self._strip(number, model, runtime) for number in range(len(self.shown))]
        finally:
            model.train(was_training)
        title = f"step {step:,} of {config.steps:,} · {run.absolute().name}"
        about = f"masks {told_kinds(config.mask)} · seed {config.seed} · the same views and masks at every step"
        path = run / "pictures" / f"step-{step:08d}.png"
        draw_page(*page_of(strips, config.model, title, about, _MOST_WIDTH), path)
        return path, read_image(path.parent, path.name)

    def _strip(self, number: int, model: MaskedAutoencoder, runtime: Runtime) -> Strip:
        shown, config = self.shown[number], self._config
        seed = rng.key(config.seed, "pictures", "masks", number)
        found = reconstruct_views(model, shown.batch().to(runtime.device), config.mask, seed=seed)
        heading = f"{shown.told} · {told_hidden(found.is_hidden, config.model)}"
        return Strip(shown.squares, found, shown.names, heading)


def open_pictures(mix: Mix, frames: Sequence[FrameTable], config: Config) -> Pictures | None:
    """Choose and decode the views of a run's pictures; None, with a warning, where there are none to show.

    They are of up to three sequences, of different datasets as far as there are, those of the greatest weight that have
    several views: held-out sequences where there are readable ones, and frames that are neighbours in them. A mix of
    single images shows these. All of it is a function of the mix, the seed and of what can be read. Raises MumError
    where the disk fails, CatalogError where a catalog is damaged.
    """
    ranked = sorted(enumerate(mix.datasets), key=lambda pair: -pair[1].weight)
    ranked = [(number, dataset) for number, dataset in ranked if dataset.weight > 0]
    several = [(number, dataset) for number, dataset in ranked if not dataset.single_view]
    choosers = [_Chooser(number, dataset, frames[number], config) for number, dataset in several or ranked]
    shown = _in_turn([chooser.choose() for chooser in choosers], _MOST_SEQUENCES)
    problems = [problem for chooser in choosers for problem in chooser.problems]
    if not shown:
        why = (
            f"{len(problems)} images tried, none readable: {problems[0]}" if problems else "no sequence is long enough"
        )
        logger.warning("no pictures of reconstructions will be drawn: %s", why)
        return None
    if problems:
        logger.warning(
            "pictures of reconstructions: %d images cannot be read, others are shown instead: %s",
            *(len(problems), "; ".join(problems[:3])),
        )
    return Pictures(shown, config)


def _in_turn(sources: list[Iterator[Shown]], most: int) -> list[Shown]:
    # one of each as long as they last, then another of each
    found: list[Shown] = []
    while sources and len(found) < most:
        left = []
        for source in sources:
            one = next(source, None) if len(found) < most else None
            if one is not None:
                found.append(one)
                left.append(source)
        sources = left
    return found


class _Chooser:
    """Chooses sequences of one dataset whose images can be read; `problems` are those that cannot."""

    def __init__(self, number: int, dataset: MixDataset, frames: FrameTable, config: Config) -> None:
        self._number, self._dataset, self._frames, self._config = number, dataset, frames, config
        data = config.data
        stages = read_stages(data.stages, data.views_min, data.views_max, data.overlap)
        most_views = max(stage.views_max for stage in stages)
        self._together = not dataset.single_view and most_views > 1
        self._most = min(_MOST_VIEWS, most_views) if self._together else _MOST_VIEWS
        self._fewest = 2 if self._together else 1
        self.problems: list[str] = []

    def choose(self) -> Iterator[Shown]:
        """Yield what can be shown: held-out sequences before others, long enough ones before those that are not."""
        name, weight, is_single = self._dataset.name, self._dataset.weight, self._dataset.single_view
        if self._config.model.decoder_attention == "cross" and not self._together:
            return
        least, holdout = self._dataset.min_frames, self._dataset.holdout
        columns = map_sequences(self._dataset)
        table = SequenceTable(
            columns, name=name, weight=weight, single_view=is_single, min_frames=least, holdout=holdout
        )
        is_held_out = columns.column("holdout_unit").to_numpy() < holdout
        most = 1 if is_single else self._most
        is_long, is_usable = table.lengths >= most, table.lengths >= max(self._fewest, least)
        for held_out, long in product((True, False), (True, False)):
            rows = np.flatnonzero(is_usable & (is_held_out == held_out) & (is_long == long))
            if len(rows):
                chosen = self._some(rows, "held out" if held_out else "trained on")
                yield from self._singles(table, chosen, held_out) if is_single else self._of(table, chosen, held_out)

    def _some(self, rows: np.ndarray, what: str) -> list[int]:
        # different rows by hash; an order of all of them would take long where there are millions
        words = rng.words(self._key(what), 4 * _MOST_TRIES)
        places = dict.fromkeys(rng.below(words, len(rows)).tolist())
        return [int(rows[place]) for place in places][:_MOST_TRIES]

    def _key(self, *what: int | str) -> int:
        return rng.key(self._config.seed, "pictures", self._dataset.name, *what)

    def _of(self, table: SequenceTable, rows: Sequence[int], held_out: bool) -> Iterator[Shown]:
        # neighbours of each sequence
        for row in rows:
            found = self._read(_from_a_start(table.frames(row), self._most, self._key("start", row)))
            if len(found) >= self._fewest:
                place = {frame_id: place for place, frame_id in enumerate(table.frames(row).tolist())}
                found.sort(key=lambda one: place[one[0]])
                yield self._shown(f"{'held-out ' if held_out else ''}sequence {row}", found)

    def _singles(self, table: SequenceTable, rows: Sequence[int], held_out: bool) -> Iterator[Shown]:
        # single images, a few at once
        rest = [int(table.frames(row)[0]) for row in rows]
        while found := self._read(rest):
            yield self._shown(f"{'held-out ' if held_out else ''}images", found)
            rest = rest[rest.index(found[-1][0]) + 1 :]

    def _read(self, frame_ids: Sequence[int]) -> list[tuple[int, np.ndarray]]:
        # the first frames that can be read, as many as are shown
        found: list[tuple[int, np.ndarray]] = []
        for frame_id in frame_ids[:_MOST_TRIES]:
            frame = self._frames.frame(frame_id)
            try:
                data = self._frames.read_patiently(frame)
                view, _ = read_square_view(data, frame.turns, self._config.data.size)
            except (FileNotFoundError, DecodeError) as error:
                why = "no such file" if isinstance(error, FileNotFoundError) else str(error)
                self.problems.append(f"{self._dataset.name}: {frame.path}: {why}")
                continue
            # it may lie in memory that the next one overwrites
            found.append((frame_id, view.copy()))
            if len(found) == self._most:
                break
        return found

    def _shown(self, what: str, found: Sequence[tuple[int, np.ndarray]]) -> Shown:
        frame_ids, squares = zip(*found, strict=True)
        names = tuple(Path(self._frames.frame(frame_id).path).name for frame_id in frame_ids)
        told = f"{self._dataset.name} · {what}"
        ids = np.array(frame_ids, np.int32)
        return Shown(told, self._number, ids, names, np.stack(squares), self._together)


def _from_a_start(frame_ids: np.ndarray, num: int, key: int) -> list[int]:
    # the frames of a sequence from a place on that has `num` of them, then those before it, backwards
    ids: list[int] = frame_ids.tolist()
    start = int(rng.below(rng.words(key, 1), max(1, len(ids) - num + 1))[0])
    return ids[start:] + ids[:start][::-1]
