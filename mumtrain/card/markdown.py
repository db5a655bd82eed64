"""Pieces of Markdown that read well as they are and rendered, whatever text is put into them.

In: texts from anywhere. Out: lines in which these texts mean nothing but themselves.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["bullet", "code_block", "escape", "paragraph", "quote", "table"]

_WIDTH = 100

# what begins something in Markdown or HTML; an underline does so at the edge of a word alone
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")

# what begins a heading, list or line only at a line's beginning
_FIRST = re.compile(r"^(?:(\d+)(?=[.)](?:\s|$))|(?=[#+=-]+(?:\s|$)))")


def escape(value: object) -> str:
    """Return a text as one line in which nothing is markup."""
    text = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    text = _SPECIAL.sub(lambda found: "&amp;" if found[0] == "&" else f"\\{found[0]}", text)
    return _FIRST.sub(r"\1\\", text)


def paragraph(text: str) -> list[str]:
    """Return Markdown text as lines of a readable width, and an empty one."""
    return [*_wrapped(text), ""]


def quote(texts: Iterable[str]) -> list[str]:
    """Return Markdown texts as a list that is set off from the rest, and an empty line."""
    return [*(line for text in texts for line in _wrapped(text, "> - ", ">   ")), ""]


def bullet(text: str) -> list[str]:
    """Return Markdown text as an entry of a list."""
    return _wrapped(text, "- ", "  ")


def code_block(lines: Iterable[str], language: str) -> list[str]:
    """Return lines as code, in a fence longer than any in them, and an empty line."""
    lines = [line for text in lines for line in text.splitlines()]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *lines, fence, ""]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table, its first column flush left and the others right, and an empty line; cells are Markdown."""
    widths = [max(3, *(len(row[n]) for row in [head, *rows])) for n in range(len(head))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def padded(row: Sequence[str]) -> Iterator[str]:
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            yield cell.rjust(width) if number else cell.ljust(width)

    rule = ["-" * width if n == 0 else "-" * (width - 1) + ":" for n, width in enumerate(widths)]
    return [line(padded(head)), line(rule), *(line(padded(row)) for row in rows), ""]


def _wrapped(text: str, first: str = "", later: str = "") -> list[str]:
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    # a word that wraps to a line's beginning must not begin a list or heading there
    return (
        [lines[0], *(later + _FIRST.sub(r"\1\\", line.removeprefix(later)) for line in lines[1:])] if lines else [first]
    )
