"""What a run needs that is not there yet: datasets' folders, and pairs of frames.

In: a mix, and for pairs a sampler and a Plan. Out: lines that say what to do. No image is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from mumdata.catalog import Mix, MixDataset, dataset_root
from mumdata.errors import MumError
from mumdata.roots import variable_name
from mumtrain.sampler import Sampler

if TYPE_CHECKING:
    from mumtrain.plan import Plan

__all__ = ["missing_roots", "rules_not_followed"]


def missing_roots(mix: Mix) -> Iterator[str]:
    """Yield a line that names the datasets whose folders are not where the catalogs say."""
    names = [dataset.name for dataset in mix.datasets if not _has_root(dataset)]
    if names:
        folders = "the folder" if len(names) == 1 else "the folders"
        yield (
            f"{folders} of {', '.join(names)} cannot be found, and training would stop; set "
            f"{variable_name(names[0])}=DIR, or run 'mumdata index {names[0]} --root DIR'"
            f"{' and so on' if len(names) > 1 else ''}"
        )


def _has_root(dataset: MixDataset) -> bool:
    try:
        dataset_root(dataset)
    except MumError:
        return False
    return True


def rules_not_followed(plan: Plan, sampler: Sampler, mix: Mix) -> Iterator[str]:
    """Yield a line for all datasets whose frames are drawn uniformly, as they lack what `data.subset` goes by."""
    drawn = {row.dataset for row in plan.datasets if row.frames and not row.single_view}
    several = [
        (table, dataset) for table, dataset in zip(sampler.tables, mix.datasets, strict=True) if dataset.name in drawn
    ]
    if plan.subset.startswith("covisible"):
        without = [dataset for table, dataset in several if table.neighbours is None]
        what = "pairs in the mix"
        then = _how_to_get_pairs(without)
    elif plan.subset.startswith("window") and plan.subset.endswith("s"):
        without = [dataset for table, dataset in several if table.timestamps is None]
        what, then = "timestamps", ""
    else:
        return
    if without:
        names = [dataset.name for dataset in without]
        share = math.fsum(row.sequences for row in plan.datasets if row.dataset in names)
        share /= math.fsum(row.sequences for row in plan.datasets if row.dataset in drawn)
        has, its = ("has", "its") if len(names) == 1 else ("have", "their")
        yield (
            f"{', '.join(names)} {has} no {what}: data.subset={plan.subset} draws {its} frames uniformly, which are "
            f"those of {100 * share:.1f} % of the sequences of several views{then}"
        )


def _how_to_get_pairs(without: list[MixDataset]) -> str:
    mined = [dataset.name for dataset in without if (dataset.catalog / "covisibility.parquet").exists()]
    deep = [dataset.name for dataset in without if dataset.name not in mined and _has_depth(dataset)]
    parts = []
    if deep:
        parts.append(
            f"for those with depth maps ({', '.join(deep)}) 'mumdata mine-sequences NAME --from depth' finds pairs"
        )
    if mined:
        parts.append(f"of {', '.join(mined)} pairs have been mined since")
    return "; " + "; ".join(parts) + "; then run 'mumdata mix' again" if parts else ""


def _has_depth(dataset: MixDataset) -> bool:
    # by the statistics of the file: no row is read
    found = pq.read_metadata(dataset.frames)
    column = found.schema.names.index("depth_path") if "depth_path" in found.schema.names else None
    if column is None:
        return False
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    return any(
        (about := group.column(column).statistics) is not None and (about.null_count or 0) < group.num_rows
        for group in groups
    )
