"""The small languages of the mask settings: kinds of masks, and how many views stay whole.

In: texts of `mask.kind` and `mask.references`. Out: `Kind`s and `References`, or a ConfigError saying what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mumdata.errors import ConfigError, unknown

__all__ = ["EXACT", "KINDS", "Kind", "References", "read_kinds", "read_references", "view_ratios", "num_kept"]

# kinds of masks; the exact ones hide the same number of patches in every view of the same ratio
EXACT = ("random", "blob", "walk")
KINDS = (*EXACT, "rectangle", "ellipse")


@dataclass(frozen=True)
class Kind:
    """One way to choose the hidden patches, and the share that it aims at."""

    name: str
    ratio: float

    @property
    def is_exact(self) -> bool:
        """Tell whether every view has the same number of hidden patches."""
        return self.name in EXACT


@dataclass(frozen=True)
class References:
    """How many of V views stay whole: from `least` to `most`, each a number or a share of V.

    Where only one of them is a share, `least` counts for views of which it is above `most`.
    """

    least: tuple[int, int]  # (constant, divisor of V or 0)
    most: tuple[int, int]

    def bounds(self, num_views: int) -> tuple[int, int]:
        """Return the least and greatest number for V views, both inclusive; one view at least stays masked."""

        def number(of: tuple[int, int]) -> int:
            constant, divisor = of
            return min(num_views // divisor if divisor else constant, num_views - 1)

        least, most = number(self.least), number(self.most)
        return least, max(least, most)


def num_kept(num_patches: int, ratio: float) -> int:
    """Return how many of a view's N patches stay visible: int(N * (1 - ratio)); all of them where the ratio is 0."""
    return int(num_patches * (1 - ratio))


def view_ratios(given: Sequence[float], ratio: float, num_views: int) -> list[float]:
    """Return the ratio of each view of a sequence, of which none is kept whole by chance.

    They are those of `mask.view_ratios`, the last one for all further views; or `ratio` where none are given.
    """
    given = given or (ratio,)
    return [given[min(view, len(given) - 1)] for view in range(num_views)]


def read_kinds(text: str, ratio: float) -> tuple[Kind, ...]:
    """Read `mask.kind`: names with commas between them, each with a ratio of its own behind a colon or with `ratio`.

    Raises ConfigError for a name that is no kind, naming the nearest, and for what is no ratio.
    """
    kinds = []
    for piece in text.split(","):
        name, colon, share = (part.strip() for part in piece.partition(":"))
        if name not in KINDS:
            raise unknown("mask.kind", name, KINDS)
        try:
            of_kind = float(share) if colon else ratio
        except ValueError:
            raise ConfigError(f"mask.kind: '{piece.strip()}' has no number behind its colon, e.g. random:0.9") from None
        if not 0 < of_kind < 1:
            raise ConfigError(f"mask.kind: the ratio of '{piece.strip()}' must lie between 0 and 1")
        kinds.append(Kind(name, of_kind))
    return tuple(kinds)


# six digits: far above any number of views
_NUMBER = re.compile(r"([0-9]{1,6})|V/([1-9][0-9]{0,5})")


def read_references(text: str) -> References:
    """Read `mask.references`: a number, or LEAST:MOST, where V/4 is the number of views over four, rounded down.

    Raises ConfigError for what is neither, and for a range whose greater end comes first.
    """
    ends = []
    for piece in text.split(":"):
        found = _NUMBER.fullmatch(piece.strip())
        if found is None:
            raise ConfigError(
                f"mask.references={text} is not understood; write a number of views, as 1, or a range, as 1:3 or "
                "V/4:V/2"
            )
        ends.append((int(found[1] or 0), int(found[2] or 0)))
    if len(ends) > 2:
        raise ConfigError(f"mask.references={text} has more than two ends; write one number or LEAST:MOST")
    (least, over_least), (most, over_most) = ends[0], ends[-1]
    # which of a number and a share is greater depends on the views
    is_turned = over_least < over_most if over_least and over_most else least > most and not over_most
    if is_turned:
        turned = ":".join(piece.strip() for piece in reversed(text.split(":")))
        raise ConfigError(f"mask.references={text} has its greater end first; write {turned}")
    return References(ends[0], ends[-1])
