"""RealEstate10K: clips of online videos with a trajectory file each.

In: `RealEstate10K/{train,test}/<clip>.txt` and `dataset/{train,test}/<clip>/<timestamp>.png` (what the usual
downloader leaves), or `{train,test}/<clip>.txt` beside `{train,test}/<clip>/`. Out: one scene a clip, its frames by
integer timestamp, cameras from the trajectory; the group is the video's address, which several clips share.
"""

from __future__ import annotations

import os
import re

import numpy as np

from mumdata.datasets import Cameras, Layout, Scene, Spec, Stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

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
            (r"RealEstate10K/(train|test)/[0-9a-f]{16}\.txt", r"dataset/(train|test)/[0-9a-f]{16}/\d+\.(png|jpg)"),
            {
                r"RealEstate10K/(train|test)/[0-9a-f]{16}\.txt": "trajectories: timestamps, cameras, videos",
                r"dataset/(train|test)/[0-9a-f]{16}/\d+\.(png|jpg)": "frames",
            },
        ),
        Layout(
            "by split",
            "{train,test}/<clip>.txt with {train,test}/[images/]<clip>/<timestamp>.jpg",
            (r"(train|test)/[0-9a-f]{16}\.txt", r"(train|test)/images/[0-9a-f]{16}/\d+\.(png|jpg)"),
            {r"(train|test)/[0-9a-f]{16}\.txt": "trajectories: timestamps, cameras, videos"},
        ),
    ),
    archives=("*.zip", "*.tar", "dataset/*.zip", "dataset/*.tar"),
)

_CLIP = re.compile(r"[0-9a-f]{16}")
_SPLITS = ("train", "test")


def scenes(tree: Tree) -> list[Scene]:
    """List the clips that have a trajectory, a folder of frames, or both."""
    found = []
    for split in _SPLITS:
        texts = tree.first_folder((f"RealEstate10K/{split}", split))
        frames = tree.first_folder((f"dataset/{split}", f"{split}/images", split))
        with_text = {name[:-4] for name in tree.files(texts) if name.endswith(".txt")} if texts else set()
        with_frames = set(tree.folders(frames)) if frames else set()
        for clip in sorted(with_text | with_frames):
            if _CLIP.fullmatch(clip):
                text = f"{texts}/{clip}.txt" if clip in with_text else None
                folder = f"{frames}/{clip}" if clip in with_frames else None
                found.append(Scene(split, clip, (text, folder)))
    if not found:
        raise LayoutError(f"{tree.root} does not look like realestate10k; expected {SPEC.layout}")
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Join a clip's trajectory with its frames by timestamp, in microseconds since the video's start."""
    text, folder = scene.places
    url, problem, detail = None, None, None
    stamps, numbers = np.zeros(0, np.int64), np.zeros((0, 18))
    if text is None:
        problem, detail = "no_model", "no trajectory file"
    else:
        try:
            url, stamps, numbers = _trajectory(tree.read_text(text))
        except ValueError as error:
            problem, detail = "bad_model", f"{text}: {error}"
    files = tree.files(folder) if folder else []
    on_disk: dict[int, str] = {}
    ignored = []
    for name in files:
        stem = name.rpartition(".")[0]
        if looks_like_image(name) and re.fullmatch(r"[0-9]{1,18}", stem):
            if int(stem) in on_disk:
                ignored.append((f"{folder}/{name}", "named_twice", f"the same timestamp as {on_disk[int(stem)]}"))
            else:
                on_disk[int(stem)] = name
        else:
            ignored.append((f"{folder}/{name}", "unexpected_name", "not <timestamp>.png or .jpg"))
    if not on_disk:
        # the video is gone or was not downloaded: no row for each of its frames, but one for the clip
        return [Stream(None, (), url, problem="empty", detail=f"{len(stamps)} frames listed, none on disk")]
    ending = os.path.splitext(next(iter(on_disk.values())))[1]
    row_of = {int(stamp): row for row, stamp in enumerate(stamps)}
    order = sorted(on_disk.keys() | row_of.keys())
    paths = tuple(f"{folder}/{on_disk.get(stamp, f'{stamp}{ending}')}" for stamp in order)
    rows = np.array([row_of.get(stamp, -1) for stamp in order])
    posed = rows >= 0
    cameras = None
    if len(stamps):
        taken = np.where(posed[:, None], numbers[rows], np.nan)
        cameras = Cameras(
            tuple("PINHOLE" if has else None for has in posed),
            posed[:, None].repeat(2, axis=1).astype(np.int64),
            taken[:, 0:4],
            tuple(() if has else None for has in posed),
            taken[:, 6:18].reshape(-1, 3, 4),
        )
    return [
        Stream(
            None,
            paths,
            url,
            cameras=cameras,
            timestamps_s=np.array(order, np.float64) / 1e6,
            problem=problem,
            detail=detail,
            ignored=tuple(ignored),
        )
    ]


def _trajectory(data: str) -> tuple[str, np.ndarray, np.ndarray]:
    # line 1 the video's address; then timestamp, fx fy cx cy over width and height, two zeros, 3x4 cam_from_world
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
    table = np.array(numbers, np.float64).reshape(-1, 18)
    if not np.isfinite(table).all():
        raise ValueError("a number is not finite")
    return lines[0].strip(), np.array(stamps, np.int64), table
