"""The Parquet schemas: the contract between the stages.

Each stage knows only the file before it, and this module. Columns may be appended, none renamed. `cat` columns are
dictionary-encoded strings. A file's footer holds what is listed under `Footer` in `mumdata.catalog`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = [
    "CAT",
    "Schema",
    "FRAMES",
    "SCENES",
    "COVISIBILITY",
    "SEQUENCES",
    "QUARANTINE",
    "MIX",
    "CORRESPONDENCES",
    "EXPOSURE",
    "SCHEMAS",
]

CAT = pa.dictionary(pa.int32(), pa.string())
HISTOGRAM = pa.list_(pa.int32(), 20)


@dataclass(frozen=True)
class Schema:
    """One kind of catalog file: its name, version, columns, and the command that writes it."""

    name: str
    version: int
    columns: pa.Schema
    command: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.parquet"


def _columns(**types: tuple[pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, (kind, nullable) in types.items()])


def _is(kind: pa.DataType) -> tuple[pa.DataType, bool]:
    return kind, False


def _may(kind: pa.DataType) -> tuple[pa.DataType, bool]:
    return kind, True


FRAMES = Schema(
    "frames",
    1,
    _columns(
        frame_id=_is(pa.int32()),
        dataset=_is(CAT),
        split=_may(CAT),
        scene=_is(CAT),
        stream=_may(CAT),
        group=_may(CAT),
        frame=_is(pa.int32()),
        path=_is(pa.string()),
        archive=_may(CAT),
        codec=_may(CAT),
        offset=_may(pa.int64()),
        bytes=_may(pa.int64()),
        mtime_ns=_may(pa.int64()),
        width=_may(pa.int32()),
        height=_may(pa.int32()),
        timestamp_s=_may(pa.float64()),
        camera_model=_may(CAT),
        intrinsics_px=_may(pa.list_(pa.float32(), 4)),
        distortion=_may(pa.list_(pa.float32())),
        cam_from_world=_may(pa.list_(pa.float32(), 12)),
        num_points=_may(pa.int32()),
        depth_path=_may(pa.string()),
        mask_path=_may(pa.string()),
        content_hash=_may(pa.string()),
        phash=_may(pa.uint64()),
        duplicate_of=_may(pa.int32()),
        upright_quarter_turns=_may(pa.int8()),
        eval_of=_may(CAT),
        status=_is(CAT),
        traits=_may(CAT),
    ),
    "mumdata index {dataset}",
)

SCENES = Schema(
    "scenes",
    1,
    _columns(
        dataset=_is(CAT),
        split=_may(CAT),
        scene=_is(pa.string()),
        stream=_may(CAT),
        group=_may(pa.string()),
        status=_is(CAT),
        first_frame_id=_may(pa.int32()),
        num_frames=_is(pa.int32()),
        num_posed=_is(pa.int32()),
        num_points=_may(pa.int32()),
        num_pairs=_may(pa.int64()),
        num_sequences=_may(pa.int32()),
        num_copies=_may(pa.int32()),
        overlap_histogram=_may(HISTOGRAM),
        rotation_histogram=_may(HISTOGRAM),
        axis_histogram=_may(HISTOGRAM),
        detail=_may(pa.string()),
        why_no_sequence=_may(pa.string()),
        num_usable=_may(pa.int32()),
        num_covered=_may(pa.int32()),
    ),
    "mumdata index {dataset}",
)

COVISIBILITY = Schema(
    "covisibility",
    1,
    _columns(
        dataset=_is(CAT),
        scene=_is(CAT),
        stream=_may(CAT),
        frame_a=_is(pa.int32()),
        frame_b=_is(pa.int32()),
        shared_points=_may(pa.int32()),
        overlap_ab=_may(pa.float32()),
        overlap_ba=_may(pa.float32()),
        iou=_may(pa.float32()),
        rotation_cos=_may(pa.float64()),
        axis_cos=_may(pa.float64()),
        triangulation_deg=_may(pa.float32()),
        scale_ratio=_may(pa.float32()),
        source=_is(CAT),
        triangulation_cos=_may(pa.float64()),
    ),
    "mumdata mine-sequences {dataset}",
)

SEQUENCES = Schema(
    "sequences",
    1,
    _columns(
        dataset=_is(CAT),
        split=_may(CAT),
        scene=_is(CAT),
        stream=_may(CAT),
        sequence=_is(pa.int32()),
        rule=_is(CAT),
        frames=_is(pa.list_(pa.int32())),
        num_frames=_is(pa.int32()),
        links=_may(pa.list_(pa.float32())),
        mean_overlap=_may(pa.float32()),
        density=_may(pa.float32()),
        components=_may(pa.int32()),
    ),
    "mumdata mine-sequences {dataset}",
)

QUARANTINE = Schema(
    "quarantine",
    1,
    _columns(
        dataset=_is(CAT),
        archive=_may(CAT),
        path=_is(pa.string()),
        reason=_is(CAT),
        detail=_is(pa.string()),
        found_by=_is(CAT),
    ),
    "mumdata index {dataset}",
)

MIX = Schema(
    "mix",
    1,
    _columns(
        dataset=_is(CAT),
        weight=_is(pa.float64()),
        single_view=_is(pa.bool_()),
        min_frames=_is(pa.int32()),
        holdout=_is(pa.float64()),
        num_sequences=_is(pa.int64()),
        num_frames=_is(pa.int64()),
        frames_path=_is(pa.string()),
        frames_digest=_is(pa.string()),
        sequences_path=_is(pa.string()),
        sequences_digest=_is(pa.string()),
        licence=_is(pa.string()),
        covisibility_path=_may(pa.string()),
        covisibility_digest=_may(pa.string()),
    ),
    "mumdata mix",
)

# Where what a frame shows lies in the other frames of its sample. Places are in 1/65535 of the stored frame's width and
# height, from its top left corner. `seen`: 1 = frame b shows the point, at (x_b, y_b); 0 = it surely does not, as the
# point lies outside of its picture or behind something nearer; -1 = not known.
CORRESPONDENCES = Schema(
    "correspondences",
    1,
    _columns(
        dataset=_is(CAT),
        split=_may(CAT),
        scene=_is(CAT),
        stream=_may(CAT),
        sample=_is(pa.int32()),
        sequence=_is(pa.int32()),
        view_a=_is(pa.int16()),
        view_b=_is(pa.int16()),
        frame_a=_is(pa.int32()),
        frame_b=_is(pa.int32()),
        x_a=_is(pa.list_(pa.uint16())),
        y_a=_is(pa.list_(pa.uint16())),
        x_b=_is(pa.list_(pa.uint16())),
        y_b=_is(pa.list_(pa.uint16())),
        seen=_is(pa.list_(pa.int8())),
        source=_is(CAT),
    ),
    "mumdata correspondences",
)

# What a training run has read: rows with a sequence count how often it was drawn, rows with a frame how often it was
# shown. A file holds some steps of a run; those of all files add up.
EXPOSURE = Schema(
    "exposure",
    1,
    _columns(
        dataset=_is(CAT),
        sequence=_may(pa.int32()),
        frame_id=_may(pa.int32()),
        visits=_is(pa.int64()),
    ),
    "mumtrain pretrain",
)

SCHEMAS = {schema.name: schema for schema in (FRAMES, SCENES, COVISIBILITY, SEQUENCES, QUARANTINE, MIX)}
