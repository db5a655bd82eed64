"""The masks of a slot.

In: the mask settings, the slot's numbers and the device. Out: which patches of which views are hidden, in the forms
that encoder, decoder and loss need. Nothing here waits for the device, and no loop runs over views.
Shapes: B sequences, V views, N patches of a view, K kept patches of each view of a group of G views, H hidden patches
of a sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mumdata import rng
from mumtrain.config import MaskConfig
from mumtrain.mask_rules import num_kept, read_kinds, read_references, view_ratios
from mumtrain.masks.shapes import ORDERS, SHAPES
from mumtrain.masks.words import words

__all__ = ["Group", "Masks", "draw_masks", "masks_of"]


@dataclass(frozen=True)
class Group:
    """Views that keep the same number of patches; each sequence's own, ascending."""

    views_BG: torch.Tensor
    kept_BGK: torch.Tensor

    def places(self, num_patches: int) -> torch.Tensor:
        """Return the places v * N + n of the kept patches in their sequence, int64 [B, G * K]."""
        return (self.views_BG[..., None] * num_patches + self.kept_BGK).flatten(1)


@dataclass(frozen=True)
class Masks:
    """The hidden patches of B sequences of V views.

    `hidden_BH` are their places v * N + n in a sequence, ascending, and `groups` the views by the number of patches
    that they keep, fewest first; both are None where this number differs by chance.
    """

    is_hidden_BVN: torch.Tensor
    hidden_BH: torch.Tensor | None
    groups: tuple[Group, ...] | None


def draw_masks(
    config: MaskConfig,
    num_sequences: int,
    num_views: int,
    grid: tuple[int, int],
    *,
    seed: int,
    step: int,
    slot: int,
    device: torch.device | str = "cpu",
) -> Masks:
    """Draw the masks of a slot whose views have rows x columns patches.

    Position b * V + v, that of view v of sequence b, draws three words for a shape and one for each patch. The kind and
    the number of whole views are drawn once for the slot, which views are whole for each sequence.
    """
    (rows, columns), B, V = grid, num_sequences, num_views
    N = rows * columns
    kinds = read_kinds(config.kind, config.ratio)
    kind = kinds[int(rng.below(rng.words(rng.key(seed, step, slot, "mask kind"), 1), len(kinds))[0])]
    ratios = view_ratios(config.view_ratios, kind.ratio, V)
    ratio_V = _filled(ratios, torch.float64, device)
    num_whole, is_whole = 0, (ratio_V == 0).expand(B, V)
    least, most = read_references(config.references).bounds(V)
    if most > 0:
        key = rng.key(seed, step, slot, "references")
        num_whole = least + int(rng.below(rng.words(key, 1), most - least + 1)[0])
        is_whole = _ranks(words(key, B * V, device, start=1).view(B, V)) < num_whole

    drawn = words(rng.key(seed, step, slot, "mask"), B * V * (3 + N), device).view(B * V, 3 + N)
    if not kind.is_exact:
        shape = SHAPES[kind.name](drawn[:, :3], rows, columns, ratio_V.repeat(B)).view(B, V, N)
        return Masks(shape & ~is_whole[..., None], None, None)
    rank = _ranks(ORDERS[kind.name](drawn[:, :3], drawn[:, 3:], rows, columns)).view(B, V, N)
    num_hidden = _filled([N - num_kept(N, ratio) for ratio in ratios], torch.int64, device)
    is_hidden = (rank < num_hidden[:, None]) & ~is_whole[..., None]
    # where some stay whole by chance, the others have one ratio
    kept = sorted(num_kept(N, ratio) for ratio in ratios[num_whole:]) + [N] * num_whole
    return Masks(is_hidden, _first(is_hidden.flatten(1), V * N - sum(kept)), _grouped(is_hidden, kept))


def masks_of(is_hidden_BVN: torch.Tensor) -> Masks:
    """Return the masks that hide given patches, on their device; for CUDA this waits for the device.

    The views of all sequences must keep the same numbers of patches, in any order: ValueError where they do not.
    """
    kept = (~is_hidden_BVN).sum(-1).sort(dim=-1).values
    if bool((kept != kept[:1]).any()):
        raise ValueError("the sequences keep different numbers of patches")
    numbers = [int(number) for number in kept[0].tolist()]
    num_hidden = is_hidden_BVN[0].numel() - sum(numbers)
    return Masks(is_hidden_BVN, _first(is_hidden_BVN.flatten(1), num_hidden), _grouped(is_hidden_BVN, numbers))


def _grouped(is_hidden_BVN: torch.Tensor, kept: list[int]) -> tuple[Group, ...]:
    # `kept` are the numbers of kept patches of a sequence's views, ascending; views follow in that order
    num_patches = is_hidden_BVN.shape[2]
    views = (~is_hidden_BVN).sum(-1).argsort(dim=-1, stable=True)
    groups, start = [], 0
    for number, same in itertools.groupby(kept):
        size = len(list(same))
        of_group = views[:, start : start + size]
        hidden = is_hidden_BVN.gather(1, of_group[..., None].expand(-1, -1, num_patches))
        groups.append(Group(of_group, _first(~hidden, number)))
        start += size
    return tuple(groups)


def _filled(values: Sequence[float], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    # the values as a tensor: one made of a list would be copied to the device, which waits for it; filling does not
    runs = ((value, len(list(same))) for value, same in itertools.groupby(values))
    return torch.cat([torch.full((length,), value, dtype=dtype, device=device) for value, length in runs])


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    # the place of each score among those of its row, which are all different
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
    return torch.empty_like(places).scatter(-1, scores.argsort(-1), places)


def _first(is_wanted: torch.Tensor, number: int) -> torch.Tensor:
    # the places of the wanted ones, of which there are `number` in each row: what nonzero gives, without waiting
    return (~is_wanted).to(torch.uint8).argsort(dim=-1, stable=True)[..., :number]
