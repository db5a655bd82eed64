"""Archives read without being unpacked: ZIP and TAR, as folders of a tree.

In: a root folder and glob patterns of archives. Out: what their members add to each folder, where a member's bytes lie,
and what is refused, by name. `Mounts` is the whole; `zips` with `zip_directory` and `tars` know the formats, `table`
which archive holds which folder, `patterns` where archives are, `members` what the formats share.
"""

from __future__ import annotations

from mumdata.archives.mounts import Member, Mounts, Refused, Source

__all__ = ["Member", "Mounts", "Refused", "Source"]
