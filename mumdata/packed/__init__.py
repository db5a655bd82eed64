"""What `mumdata.pack` is made of: a copy of a mix's images in a few large files, with catalogs that point into them.

In: the catalogs of a mix. Out: shards and catalogs in a new folder. `recode` makes one image smaller, `plan` divides a
dataset's images into shards, `shard` writes one of them, `index` is what is known of a shard's images, `catalogs`
writes what points into the shards, `check` reads these back, `verify` a whole copy, and `summary` tells what was done.
"""

from __future__ import annotations

__all__: list[str] = []
