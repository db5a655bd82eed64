"""The segments and scans of a JPEG file, and what of its pixels was never written.

In: a whole file's bytes. Out: where its segments and scans lie and what they hold; a DecodeError where a scan has a
hole of zero bytes, a TruncatedError where scans are missing. Nothing is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mumdata.errors import DecodeError, TruncatedError

__all__ = ["FRAMES", "HOLE", "NEEDED", "SEQUENTIAL", "Scan", "Segment", "check_scans", "scans_of", "segments_of"]

# Zero bytes where compressed data should be are a part of the file that was never written. The longest run in 3,000
# scans of real pictures was 7 bytes, where the tables give zero bits a meaning other than "nothing more in this block".
HOLE = bytes(64)

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what ends a scan's data: no stuffed byte, fill byte or restart
SEQUENTIAL, _HUFFMAN = (0xC0, 0xC1, 0xC9), (0xC0, 0xC1, 0xC2)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
NEEDED = frozenset((*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDD))  # frame, tables, scans, restart interval


@dataclass(frozen=True, slots=True)
class Segment:
    # a marker segment: bytes `begin` to `body_end`; of a scan, its compressed data follow up to `end`
    code: int
    begin: int
    body_end: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    # what a scan holds: the coefficients `first` to `last` of its components, but for the lowest `bits_left` bits
    components: bytes
    first: int
    last: int
    bits_left: int
    zeros_mean_nothing: bool
    begin: int
    end: int


def segments_of(data: bytes) -> Iterator[Segment]:
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        code = data[at + 1]
        if code in (0x00, 0xFF):
            at += 1
        elif code == 0xD9:
            return
        elif code == 0x01 or 0xD0 <= code <= 0xD8:
            at += 2
        else:
            end = body_end = at + 2 + (data[at + 2] << 8 | data[at + 3])
            if code == 0xDA:
                marker = _MARKER.search(data, body_end)
                end = marker.start() if marker else len(data)
            yield Segment(code, at, body_end, end)
            at = end


def scans_of(data: bytes) -> tuple[bytes, list[Scan]]:
    # the numbers of the frame's components, and the scans
    frame, parts, scans = 0, b"", []
    # the first symbol of a Huffman table is that of the code of zeros alone (T.81, C.2)
    first_symbols: dict[int, int] = {}
    for segment in segments_of(data):
        body = data[segment.begin + 4 : segment.body_end]
        if segment.code == 0xC4:
            first_symbols.update(_first_symbols(body))
        elif segment.code in FRAMES:
            frame, parts = segment.code, body[6::3]
        elif segment.code == 0xDA and len(body) >= 6:
            first, last, bits = (0, 63, 0) if frame in SEQUENTIAL else body[-3:]
            means_nothing = frame not in _HUFFMAN or all(
                (first > 0 or bits >> 4 > 0 or first_symbols.get(table >> 4) == 0)
                and (last == 0 or _ends_block(first_symbols.get(0x10 | table & 15)))
                for table in body[2:-3:2]
            )
            scans.append(Scan(body[1:-3:2], first, last, bits & 15, means_nothing, segment.body_end, segment.end))
    return parts, scans


def _first_symbols(body: bytes) -> Iterator[tuple[int, int]]:
    # (class and number, first symbol) of the Huffman tables of one segment
    at = 0
    while at + 17 < len(body):
        yield body[at], body[at + 17]
        at += 17 + sum(body[at + 1 : at + 17])


def _ends_block(symbol: int | None) -> bool:
    # end of block, or in progressive files of a run of blocks; 0xF0 is a run of zeros inside the block
    return symbol is None or (symbol & 15 == 0 and symbol != 0xF0)


def check_scans(data: bytes) -> None:
    # raises where a scan has a hole, or is missing: the file was cut between two, and closed
    parts, scans = scans_of(data)
    bits_left = {part: [16] * 64 for part in parts}
    for scan in scans:
        if not scan.zeros_mean_nothing and (hole := data.find(HOLE, scan.begin, scan.end)) >= 0:
            raise DecodeError(f"the JPEG is damaged: zero bytes instead of data from byte {hole}")
        for part in scan.components:
            left = bits_left.setdefault(part, [16] * 64)
            left[scan.first : scan.last + 1] = [scan.bits_left] * (scan.last + 1 - scan.first)
    if any(map(any, bits_left.values())):
        raise TruncatedError("the JPEG is cut off: scans are missing")
