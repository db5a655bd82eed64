"""What a run hides of the views, kind by kind of mask.

In: a Config. Out: lines of words; shapes that are cut to the grid hide less than their ratio says.
"""

from __future__ import annotations

from collections.abc import Iterator

from mumtrain.config import Config
from mumtrain.masks.shares import MaskedShare, masked_shares

__all__ = ["hidden_shares"]


def hidden_shares(config: Config) -> Iterator[str]:
    """Yield a line for each kind of mask, for sequences of the most views."""
    side, views = config.data.size // config.model.patch, config.data.views_max
    for share in masked_shares(config.mask, (side, side), views):
        yield f"masks: {share.kind} hides {_told(share)}{_of_all(share, views)}"


def _told(share: MaskedShare) -> str:
    if share.least == share.greatest:
        return f"{share.mean:.1%} of a view's patches"
    spread = f"{share.least:.0%} to {share.greatest:.0%}"
    return f"{share.mean:.1%} of a masked view's patches on average ({spread}), {share.nominal:.0%} asked for"


def _of_all(share: MaskedShare, views: int) -> str:
    # where some views stay whole
    if abs(share.of_all - share.mean) < 1e-9:
        return ""
    return f"; {share.of_all:.1%} of all patches of {views} views, as some stay whole"
