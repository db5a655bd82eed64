"""How much the masks really hide: rectangles and ellipses cut to the grid hide less than their ratio says.

In: the mask settings, a grid and a number of views. Out: shares of hidden patches by kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mumdata import rng
from mumtrain.config import MaskConfig
from mumtrain.mask_rules import Kind, num_kept, read_kinds, read_references, view_ratios

__all__ = ["MaskedShare", "masked_shares"]

# shapes drawn for a mean, whose standard error is then below 0.0025: shares deviate by less than 0.15
_DRAWS = 4096


@dataclass(frozen=True)
class MaskedShare:
    """Shares of patches that a kind of mask hides.

    Of the views that have hidden patches: `nominal` is the ratio that the settings ask for, `mean` what is hidden, both
    on average, and `least` and `greatest` what is hidden in one view. `of_all` is the mean with whole views counted.
    """

    kind: str
    nominal: float
    mean: float
    least: float
    greatest: float
    of_all: float


def masked_shares(config: MaskConfig, grid: tuple[int, int], num_views: int) -> tuple[MaskedShare, ...]:
    """Return what each kind of the settings hides of sequences of `num_views` views of rows x columns patches.

    A slot draws one of the kinds, each equally often. Exact for exact kinds; for the others the mean of a fixed set of
    4096 draws for each ratio, and the extremes among them.
    """
    least, most = read_references(config.references).bounds(num_views)
    found = []
    for kind in read_kinds(config.kind, config.ratio):
        ratios = [ratio for ratio in view_ratios(config.view_ratios, kind.ratio, num_views) if ratio > 0]
        of_ratio = {ratio: _shares(kind, ratio, grid) for ratio in {*ratios}}
        mean = math.fsum(of_ratio[ratio][0] for ratio in ratios) / len(ratios)
        num_masked = len(ratios) - (least + most) / 2
        found.append(
            MaskedShare(
                kind=kind.name,
                nominal=math.fsum(ratios) / len(ratios),
                mean=mean,
                least=min(low for _, low, _ in of_ratio.values()),
                greatest=max(high for _, _, high in of_ratio.values()),
                of_all=mean * num_masked / num_views,
            )
        )
    return tuple(found)


def _shares(kind: Kind, ratio: float, grid: tuple[int, int]) -> tuple[float, float, float]:
    # mean, least and greatest share of the patches that a mask of this ratio hides
    N = grid[0] * grid[1]
    if kind.is_exact:
        share = (N - num_kept(N, ratio)) / N
        return share, share, share
    # needed for shapes alone, and slow to import
    import torch

    from mumtrain.masks.shapes import SHAPES
    from mumtrain.masks.words import words

    place = words(rng.key(0, "masked shares"), 3 * _DRAWS, "cpu").view(_DRAWS, 3)
    ratios = torch.full((_DRAWS,), ratio, dtype=torch.float64)
    num_hidden = SHAPES[kind.name](place, *grid, ratios).sum(-1)
    return num_hidden.sum().item() / (_DRAWS * N), num_hidden.min().item() / N, num_hidden.max().item() / N
