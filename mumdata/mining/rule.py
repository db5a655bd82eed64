"""What a mining rule is: a function, and what has to be known about it.

In: a stream and options. Out: sequences of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mumdata.mining.options import Options
from mumdata.mining.stream import Stream

__all__ = ["Rule"]


@dataclass(frozen=True)
class Rule:
    """One mining rule.

    `mine` returns int32 arrays of positions; `explain` says in one phrase why a stream that has usable frames yields
    nothing. Exactly the options in `uses` change the result: they are stored with the sequences. `needs` is what the
    rule cannot do without: "pairs" (what frames share), "poses", "list" (a list of pairs), or None. `links` says which
    overlap stands in the column `links`: that of each frame with the "next" one, or of the first ("anchor") with each.
    """

    mine: Callable[[Stream, Options], list[np.ndarray]]
    explain: Callable[[Stream, Options], str]
    uses: tuple[str, ...] = ()
    needs: str | None = None
    links: str = "next"
    min_frames: int = 1
    max_frames: int | None = None
