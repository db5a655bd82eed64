"""RealEstate10K: clips of online videos with a trajectory file each.

In: `RealEstate10K/{train,test}/<clip>.txt` with `dataset/{train,test}/<clip>/<timestamp>.png`, which the usual
downloader leaves; `{train,test}/<clip>.txt` with `{train,test}/[images/]<clip>/`; or `<clip>/images/<row>.png`, where
the number is the frame's row in the trajectory, from 0. Out: one scene a clip, its frames by integer timestamp, cameras
from the trajectory; the group is the video's address, which several clips share.

The usual downloader seeks to the millisecond, so that a frame may be that far from the moment of its camera.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from mumdata.datasets import Cameras, Layout, Scene, Spec, Stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_FRAMES = r"[0-9a-f]{16}/\d+\.(png|jpg)"
_NUMBERED = r"((train|test)/)?[0-9a-f]{16}/images/\d{4,6}\.(png|jpg)"
_TRAJECTORIES = "trajectories: timestamps, cameras, videos"

SPEC = Spec(
    name="realestate10k",
    title="RealEstate10K",
    rule="chunk",
    licence="trajectories CC BY 4.0; the video frames belong to their uploaders",
    source="trajectories from the project's page; frames by a downloader that extracts the listed timestamps",
    layouts=(
        Layout(
            "downloader",
            "RealEstate10K/{train,test}/<clip>.txt with dataset/{train,test}/<clip>/<timestamp>.png",
            (r"RealEstate10K/(train|test)/[0-9a-f]{16}\.txt", rf"dataset/(train|test)/{_FRAMES}"),
            {
                r"RealEstate10K/(train|test)/[0-9a-f]{16}\.txt": _TRAJECTORIES,
                rf"dataset/(train|test)/{_FRAMES}": "frames",
            },
        ),
        Layout(
            "by split",
            "{train,test}/<clip>.txt with {train,test}/[images/]<clip>/<timestamp>.jpg",
            (r"(train|test)/[0-9a-f]{16}\.txt", rf"(train|test)/(images/)?{_FRAMES}"),
            {
                r"(RealEstate10K/)?(train|test)/[0-9a-f]{16}\.txt": _TRAJECTORIES,
                rf"(train|test)/(images/)?{_FRAMES}": "frames",
            },
        ),
        Layout(
            "by clip",
            "[{train,test}/]<clip>/images/<row>.png with <clip>.txt in or beside it or in [RealEstate10K/]{train,test}",
            (_NUMBERED,),
            {
                r"((RealEstate10K/)?(train|test)/)?([0-9a-f]{16}/)?[0-9a-f]{16}\.txt": _TRAJECTORIES,
                _NUMBERED: "frames, numbered by the trajectory's rows",
            },
        ),
    ),
    archives=("*.zip", "*.tar", "dataset/*.zip", "dataset/*.tar"),
    refused={
        r"([^/]+/)?(train|test)/\d{6}\.torch": (
            "chunks of pickled tensors, which are not read: unpickling runs code; with the tool that made them, write "
            "each frame as {train,test}/<clip>/<timestamp>.jpg"
        ),
        r"([^/]+/)?([^/]+/)?[0-9a-f]{16}\.mp4": (
            "videos, which are not read; write each frame that <clip>.txt lists as "
            "{train,test}/<clip>/<timestamp>.png, say with ffmpeg -ss"
        ),
    },
    num_scenes=73_319,
    counts="clips that pixelSplat still found, 66,033 for training and 7,286 for testing; videos vanish: in 2025 "
    "somebody got 1,005 of 6,559 training videos",
    presets={
        "mumdata": {"chunk_size": 100},
        "mum-paper": {"chunk_size": 100},
        # the released script takes whole clips. It sorts their frames by name, which is not by time where the numbers
        # of digits differ; that is a mistake, and here they are in the order of time
        "mum-released": {"rule": "scene"},
    },
)

_CLIP = re.compile(r"[0-9a-f]{16}")
_SPLITS = ("train", "test")

# frames numbered below this are numbered by row: no clip has all its frames in the first tenth of a second
_LEAST_TIMESTAMP = 100_000


@dataclass(frozen=True)
class _Trajectory:
    # numbers float64 [n, 18]: fx fy cx cy over width and height, two zeros, cam_from_world row by row
    url: str | None
    stamps: np.ndarray  # int64 [n], microseconds since the video's start
    numbers: np.ndarray


_NO_TRAJECTORY = _Trajectory(None, np.zeros(0, np.int64), np.zeros((0, 18)))


def scenes(tree: Tree) -> list[Scene]:
    """List the clips that have a trajectory, a folder of frames, or both; LayoutError where there is none."""
    found = []
    loose = {name for name in tree.folders("") if _CLIP.fullmatch(name)}
    for split in _SPLITS:
        texts = tree.first_folder((f"RealEstate10K/{split}", split))
        frames = tree.first_folder((f"dataset/{split}", f"{split}/images", split))
        with_text = {name[:-4] for name in tree.files(texts) if name.endswith(".txt")} if texts else set()
        with_frames = set(tree.folders(frames)) if frames else set()
        for clip in sorted(with_text | with_frames):
            if _CLIP.fullmatch(clip):
                text = f"{texts}/{clip}.txt" if clip in with_text else None
                folder = f"{frames}/{clip}" if clip in with_frames else clip if clip in loose else None
                found.append(Scene(split, clip, (text, folder)))
    listed = {scene.scene for scene in found}
    beside = set(tree.files(""))
    for clip in sorted(loose - listed):
        found.append(Scene(None, clip, (f"{clip}.txt" if f"{clip}.txt" in beside else None, clip)))
    if not found:
        other = f"; it holds {reason}" if (reason := _refused(tree)) else ""
        raise LayoutError(f"{tree.root} does not look like realestate10k; expected {SPEC.layout}{other}")
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Join a clip's trajectory with its frames by timestamp, in microseconds since the video's start, or by row."""
    text, folder = scene.places
    if folder and text is None and tree.is_file(f"{folder}/{scene.scene}.txt"):
        text = f"{folder}/{scene.scene}.txt"
    if folder and tree.is_folder(f"{folder}/images"):
        folder = f"{folder}/images"
    trajectory, problem, detail = _NO_TRAJECTORY, None, None
    if text is None:
        problem, detail = "no_model", "no trajectory file"
    else:
        try:
            trajectory = _parse(tree.read_text(text))
        except (ValueError, LayoutError) as error:
            problem, detail = "bad_model", f"{text}: {str(error).removeprefix(f'{text} ')}"
    url, stamps = trajectory.url, trajectory.stamps
    on_disk, ignored = _frames(tree, folder)
    if not on_disk:
        # the video is gone or was not downloaded: no row for each of its frames, but one for the clip
        said = f"{detail}; no frame on disk" if detail else f"{len(stamps)} frames listed, none on disk"
        return [Stream(None, (), url, problem="empty", detail=said, ignored=ignored)]
    row_of = {int(stamp): row for row, stamp in enumerate(stamps)}
    by_row = max(on_disk) < _LEAST_TIMESTAMP and on_disk.keys().isdisjoint(row_of)
    if by_row:
        row_of = {row: row for row in range(len(stamps))}
        if row_of and max(on_disk) not in row_of:
            problem, row_of = "bad_model", {}
            detail = f"frame {max(on_disk)} is beyond the rows 0 to {len(stamps) - 1} of {text}"
    first = next(iter(on_disk.values()))
    ending, digits = os.path.splitext(first)[1], len(os.path.splitext(first)[0]) if by_row else 0
    order = sorted(on_disk.keys() | row_of.keys())
    paths = tuple(f"{folder}/{on_disk.get(number, f'{number:0{digits}d}{ending}')}" for number in order)
    rows = np.array([row_of.get(number, -1) for number in order])
    times = np.array(order, np.float64)
    if by_row:
        times = np.array([stamps[row] if row >= 0 else np.nan for row in rows], np.float64)
    return [
        Stream(
            None,
            paths,
            url,
            cameras=_cameras(trajectory, rows) if row_of else None,
            timestamps_s=None if np.isnan(times).all() else times / 1e6,
            problem=problem,
            detail=detail,
            ignored=ignored,
        )
    ]


def _frames(tree: Tree, folder: str | None) -> tuple[dict[int, str], tuple[tuple[str, str, str], ...]]:
    # number -> file name, and what else is there: (path, reason, detail)
    found: dict[int, str] = {}
    ignored = []
    for name in tree.files(folder) if folder else ():
        stem = name.rpartition(".")[0]
        if looks_like_image(name) and re.fullmatch(r"[0-9]{1,18}", stem):
            if int(stem) in found:
                ignored.append((f"{folder}/{name}", "named_twice", f"the same number as {found[int(stem)]}"))
            else:
                found[int(stem)] = name
        elif name.startswith("."):
            ignored.append((f"{folder}/{name}", "hidden", "a macOS resource fork or hidden file"))
        else:
            ignored.append((f"{folder}/{name}", "unexpected_name", "not <timestamp>.png or .jpg"))
    return found, tuple(ignored)


def _cameras(trajectory: _Trajectory, rows: np.ndarray) -> Cameras:
    posed = rows >= 0
    taken = np.where(posed[:, None], trajectory.numbers[rows], np.nan)
    return Cameras(
        tuple("PINHOLE" if has else None for has in posed),
        posed[:, None].repeat(2, axis=1).astype(np.int64),
        taken[:, 0:4],
        tuple(() if has else None for has in posed),
        taken[:, 6:18].reshape(-1, 3, 4),
    )


def _parse(data: str) -> _Trajectory:
    # Line 1 is the video's address. The columns after it: timestamp, fx fy cx cy, two zeros, cam_from_world; the
    # numbers of the columns on the dataset's page leave the zeros out.
    lines = data.splitlines()
    if not lines or not lines[0].strip() or len(lines[0].split()) == 19:
        raise ValueError("line 1 should be the video's address")
    stamps, numbers = [], []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 19:
            raise ValueError(f"line {number} has {len(fields)} columns, not 19")
        if not 0 <= int(fields[0]) < 1 << 63:
            raise ValueError(f"line {number} has the timestamp {fields[0]}")
        stamps.append(int(fields[0]))
        numbers.append([float(value) for value in fields[1:]])
    if len(set(stamps)) != len(stamps):
        raise ValueError("a timestamp occurs twice")
    if not stamps:
        raise ValueError("it lists no frame")
    table = np.array(numbers, np.float64).reshape(-1, 18)
    if not np.isfinite(table).all():
        raise ValueError("a number is not finite")
    return _Trajectory(lines[0].strip(), np.array(stamps, np.int64), table)


def _refused(tree: Tree) -> str | None:
    # what lies there instead of clips, or None; two levels down, as for the layouts
    folders = ["", *tree.folders("")]
    folders += [f"{folder}/{split}" for folder in folders[1:] for split in _SPLITS]
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        for pattern, reason in SPEC.refused.items():
            if any(re.fullmatch(pattern, prefix + name) for name in tree.files(folder)):
                return reason
    return None
