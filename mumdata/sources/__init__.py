"""What tells which frames see the same: tracks, depth maps, a mesh, or matrices that others computed.

In: a scene's stream as its dataset reads it. Out: `Pairs` by position in the stream. A source is one file that ends in
a `Source`, and one line in SOURCES.
"""

from __future__ import annotations

from mumdata.sources.depth import DEPTH
from mumdata.sources.matrices import D2NET, DKM
from mumdata.sources.mesh import MESH
from mumdata.sources.source import Source, SourceOptions
from mumdata.sources.tracks import TRACKS

__all__ = ["SOURCES", "Source", "SourceOptions"]

SOURCES: dict[str, Source] = {
    "tracks": TRACKS,
    "depth": DEPTH,
    "mesh": MESH,
    "d2net": D2NET,
    "dkm": DKM,
}
