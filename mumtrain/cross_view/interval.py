"""A 95 % interval of a ratio, or of the difference of two, over clusters.

In: for each scene the sum and the number of what is averaged, of one kind or of two. Out: the ends of the interval.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

__all__ = ["gain_interval"]

_UPPER = 0.975


def gain_interval(sums_SK: np.ndarray, counts_SK: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of sum/count of the first kind, less that of the second where there are two (K <= 2).

    `sums_SK` and `counts_SK` are [S, K], of S scenes; a count may be a weight. It is the delete-one jackknife over
    scenes: the estimate of all, give or take t * sqrt((S - 1) / S * sum((e_s - mean of e)^2)), where e_s is the
    estimate without scene s. t is Student's 97.5 % quantile; its degrees of freedom are one less than the scenes that
    the rarer kind occurs in. Quantiles of a bootstrap are too narrow where scenes are few. None where fewer than two
    scenes have patches of one of the kinds: nothing is known of how scenes differ.
    """
    is_used = (counts_SK > 0).any(1)
    sums, counts = sums_SK[is_used], counts_SK[is_used]
    fewest = int((counts > 0).sum(0).min())
    if fewest < 2 or not np.isfinite(sums).all():
        return None
    num = len(sums)
    others = _estimate((sums.sum(0) - sums) / (counts.sum(0) - counts))
    error = math.sqrt((num - 1) / num * float(((others - others.mean()) ** 2).sum()))
    estimate = float(_estimate(sums.sum(0, keepdims=True) / counts.sum(0, keepdims=True))[0])
    half = float(stdtrit(fewest - 1, _UPPER)) * error
    return estimate - half, estimate + half


def _estimate(ratios_SK: np.ndarray) -> np.ndarray:
    return ratios_SK[:, 0] - ratios_SK[:, 1:].sum(1)
