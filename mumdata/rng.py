"""Randomness as a pure function of what it is for.

In: a seed and the names of what is drawn. Out: 64-bit words that are the same on every machine, in every version.
There is no generator and no state: word i of a key can be had without the words before it.
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["key", "word", "words", "fraction", "unit", "below", "permutation", "choose"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def key(*parts: int | str | None) -> int:
    """Return the 64-bit key of (seed, what it is for); each part is an integer, a string or None.

    Parts are written with their type and length, so ("a", "bc") and ("ab", "c") differ, as do 1, "1" and None.
    """
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = "" if part is None else str(part)
        data = text.encode("utf-8", "surrogateescape")
        kind = "n" if part is None else "s" if isinstance(part, str) else "i"
        state.update(f"{kind}{len(data)}:".encode() + data)
    return int.from_bytes(state.digest(), "little")


def word(key: int, index: int = 0) -> int:
    """Return one word of a key as a Python integer, the same as `words` gives; faster where only a few are drawn."""
    z = key + (index + 1) * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


def words(key: int, num: int, start: int = 0) -> np.ndarray:
    """Return words start .. start+num-1 of a key, uint64 [num].

    SplitMix64 (Steele, Lea, Flood 2014) taken as a function of its counter: word i is the finaliser applied to
    key + (i + 1) * golden ratio, all modulo 2^64.
    """
    counter = np.arange(start + 1, start + num + 1, dtype=np.uint64)
    z = np.uint64(key) + counter * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fraction(key: int, index: int = 0) -> float:
    """Return one word of a key as a float in [0, 1), the same as `unit` makes of it."""
    return (word(key, index) >> 11) * 2.0**-53


def unit(word: np.ndarray) -> np.ndarray:
    """Map words to float64 in [0, 1): the upper 53 bits over 2^53, exact."""
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(word: np.ndarray, bound: int) -> np.ndarray:
    """Map words to int64 in 0 .. bound-1: floor(word * bound / 2^64), exact for bounds up to 2^32."""
    if not 0 < bound <= 1 << 32:
        raise ValueError(f"bound {bound} is outside 1 .. 2^32")
    n = np.uint64(bound)
    high, low = word >> np.uint64(32), word & np.uint64(0xFFFFFFFF)
    return ((high * n + (low * n >> np.uint64(32))) >> np.uint64(32)).astype(np.int64)


def permutation(key: int, num: int) -> np.ndarray:
    """Return a random order of 0 .. num-1, int64 [num]: the positions sorted by their words, ties by position."""
    return np.argsort(words(key, num), kind="stable")


def choose(key: int, num: int, count: int) -> np.ndarray:
    """Return `count` different positions of 0 .. num-1 in random order, int64 [count]; count <= num."""
    if count > num:
        raise ValueError(f"cannot choose {count} of {num}")
    return permutation(key, num)[:count]
