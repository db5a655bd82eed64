"""mumdata: multi-view image datasets as Parquet catalogs, mined for covisible sequences.

Importing the package loads nothing heavy; the public functions are resolved when first asked for.
"""

from __future__ import annotations

from mumdata.public import resolve_lazily

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC = {
    "known_datasets": "mumdata.overview",
    "check": "mumdata.check",
    "index": "mumdata.index",
    "mine_sequences": "mumdata.sequences",
    "mix": "mumdata.mix",
    "pack": "mumdata.pack",
    "verify_packed": "mumdata.pack",
    "stats": "mumdata.stats",
    "demo": "mumdata.demo.world",
    "read_frames": "mumdata.catalog",
    "read_scenes": "mumdata.catalog",
    "read_covisibility": "mumdata.catalog",
    "read_sequences": "mumdata.catalog",
    "open_mix": "mumdata.catalog",
    "read_image": "mumdata.images",
    "MumError": "mumdata.errors",
}

__all__ = [*_PUBLIC, "__version__"]


resolve_lazily(__name__, _PUBLIC)
