"""Tables for a terminal, for programs, and for spreadsheets.

In: a data frame and a format. Out: text: `table` fits the terminal's width, `json` and `csv` hold everything.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mumdata.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORMATS", "render"]

FORMATS = ("table", "json", "csv")


def render(frame: pd.DataFrame, format: str = "table", width: int | None = None, below: str | None = None) -> str:
    """Write a data frame as text; numbers to the right, text to the left, the widest text column wrapped to fit.

    Where a table is too wide, the column `below` is written under each row instead of beside it. A Decimal is a number
    that keeps its digits.
    """
    if format == "json":
        return json.dumps(
            [{key: _plain(value) for key, value in row.items()} for row in frame.to_dict("records")],
            indent=1,
            ensure_ascii=False,
        )
    if format == "csv":
        return str(frame.to_csv(index=False)).rstrip("\n")
    if format != "table":
        raise unknown("format", format, FORMATS)
    if not len(frame.columns):
        return "(no columns)"
    room = width or shutil.get_terminal_size((80, 24)).columns
    notes = [""] * len(frame)
    if below in frame.columns and _width(frame) > room:
        notes = [_text(value) for value in frame[below].tolist()]
        frame = frame.drop(columns=[below])
    headers = [str(column) for column in frame.columns]
    cells = [[_text(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    numeric = [_is_numeric(frame[column]) for column in frame.columns]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    while sum(widths) > room - 2 * (len(widths) - 1):
        # the widest text column gives way first, bit by bit, so that wide columns share what there is; the first
        # column, which says what a row is about, only where the others have become narrow
        text = [(w, place) for place, w in enumerate(widths) if not numeric[place] and w > (16 if place == 0 else 14)]
        if not text:
            break
        widths[max(text)[1]] -= 1
    lines = _row(headers, widths, numeric)
    lines.append("  ".join("-" * w for w in widths))
    for row, note in zip(cells, notes, strict=True):
        lines += _row(row, widths, numeric)
        if note not in ("", "-"):
            lines += textwrap.wrap(note, room, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    if not cells:
        lines.append("(no rows)")
    return "\n".join(lines)


def _width(frame: pd.DataFrame) -> int:
    columns = ([str(name), *map(_text, frame[name].tolist())] for name in frame.columns)
    return sum(max(map(len, column)) for column in columns) + 2 * (len(frame.columns) - 1)


def _row(cells: list[str], widths: list[int], numeric: list[bool]) -> list[str]:
    pieces = [textwrap.wrap(cell, w, break_on_hyphens=False) or [""] for cell, w in zip(cells, widths, strict=True)]
    lines = []
    for number in range(max(map(len, pieces))):
        parts = []
        for piece, w, right in zip(pieces, widths, numeric, strict=True):
            text = piece[number] if number < len(piece) else ""
            parts.append(text.rjust(w) if right else text.ljust(w))
        lines.append("  ".join(parts).rstrip())
    return lines


def _is_numeric(column: pd.Series) -> bool:
    values = [value for value in column.tolist() if not _missing(value)]
    kinds = (int, float, Decimal)
    return bool(values) and all(isinstance(value, kinds) and not isinstance(value, bool) for value in values)


def _missing(value: Any) -> bool:
    return value is None or str(value) in ("<NA>", "NaT", "nan")


def _text(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_text(item) for item in value[:8])
        return f"[{shown}{', ...' if len(value) > 8 else ''}]"
    # a name may hold control characters; a terminal must not obey them
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    return None if _missing(value) else str(value)
