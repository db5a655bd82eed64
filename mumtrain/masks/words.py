"""The words of `mumdata.rng` on any device of torch.

In: a key. Out: int64 tensors whose bits are those of the key's words. Products of int64 wrap around as those of uint64
do, and only shifts to the right and comparisons need care.
"""

from __future__ import annotations

import torch

__all__ = ["words", "unit", "below"]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    # to the right, with zeros coming in
    return (z >> by) & ((1 << (64 - by)) - 1)


def words(key: int, num: int, device: torch.device | str, start: int = 0) -> torch.Tensor:
    """Return words start .. start+num-1 of a key, int64 [num]: SplitMix64 as a function of its counter.

    Different words of one key are different numbers, so that sorting by them leaves no ties.
    """
    counter = torch.arange(start + 1, start + num + 1, dtype=torch.int64, device=device)
    z = counter * _GOLDEN + _signed(key)
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def unit(word: torch.Tensor) -> torch.Tensor:
    """Map words to float64 in [0, 1): the upper 53 bits over 2^53, exact."""
    return _shifted(word, 11).double() * 2.0**-53


def below(word: torch.Tensor, bound: int | torch.Tensor) -> torch.Tensor:
    """Map words to int64 in 0 .. bound-1, for bounds up to 2^31: floor(upper half * bound / 2^32), exact."""
    return (_shifted(word, 32) * bound) >> 32
