"""A 95 % interval of the difference of two means, over clusters.

In: for each scene the sum and the number of what is averaged, twice. Out: the ends of the interval.
"""

from __future__ import annotations

import numpy as np

from mumdata import rng

__all__ = ["RESAMPLES", "gain_interval"]

RESAMPLES = 2000
_SHARES = (0.025, 0.975)


def gain_interval(sums_SK: np.ndarray, counts_SK: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of sum/count of the first kind minus that of the second, from S scenes, [S, 2] each.

    Scenes are drawn with replacement, 2,000 times S of them; each time both ratios are those of the drawn scenes' sums;
    the ends are the 2.5th and the 97.5th percentile. Draws in which a kind does not occur are left out. None where
    fewer than two scenes have patches of one of the kinds: nothing is known of how scenes differ. The draws depend on S
    alone.
    """
    if ((counts_SK > 0).sum(0) < 2).any() or not np.isfinite(sums_SK).all():
        return None
    num = len(sums_SK)
    drawn = rng.below(rng.words(rng.key(0, "cross-view gain", "scenes"), RESAMPLES * num), num).reshape(RESAMPLES, num)
    times = np.bincount((drawn + num * np.arange(RESAMPLES)[:, None]).ravel(), minlength=RESAMPLES * num)
    times = times.reshape(RESAMPLES, num).astype(np.float64)
    sums, counts = times @ sums_SK, times @ counts_SK
    is_whole = (counts > 0).all(1)
    ratios = sums[is_whole] / counts[is_whole]
    low, high = np.quantile(ratios[:, 0] - ratios[:, 1], _SHARES)
    return float(low), float(high)
