"""RealEstate10K in the demo: clips of web videos.

In: a seed and sizes. Out: a layout: clips of frames named by microseconds, trajectories as text, and what goes wrong
with videos from the web: a missing frame, a dead video, an empty folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes
from mumdata.demo.camera import Vector
from mumdata.demo.shots import Shot, same_view_gauge, video

__all__ = ["plan"]


@dataclass(frozen=True)
class _Clip:
    place: str
    split: str
    video: str  # identity of the web video; clips of one video share it
    num_frames: int
    first: int  # number of the video's frame that the clip starts with, at 30 frames a second
    stride: int
    positions: tuple[Vector, ...]
    targets: tuple[Vector, ...]
    focal: float = 0.62  # as a share of the width
    missing: tuple[int, ...] = ()  # frames that are listed but not on disk
    frames_on_disk: str = "all"  # or "none": a folder without frames, or "dead": no folder


_CLIPS = (
    _Clip(
        "living_room", "train", "demoHouse01", 104, 150, 2,
        ((-1.9, -1.4, 1.5), (-0.6, -1.5, 1.45), (1.2, -1.4, 1.5), (1.6, 0.9, 1.55), (0.2, 1.2, 1.5), (-1.6, 0.4, 1.4),
         (-1.2, -1.0, 1.5)),
        ((2.6, 1.0, 1.1), (2.8, 2.2, 1.2), (-1.0, 2.6, 1.3), (-3.0, 0.4, 1.2), (-1.2, -2.6, 0.9), (2.0, -2.5, 1.0),
         (3.1, 0.2, 1.1)),
    ),
    _Clip(
        "kitchen", "train", "demoHouse01", 36, 2981, 1,
        ((1.9, -1.6, 1.5), (1.5, -1.1, 1.55), (0.2, -1.35, 1.6), (-1.2, -1.4, 1.5), (-1.5, -0.4, 1.55)),
        ((-0.5, 1.6, 1.0), (-1.6, 1.4, 1.0), (-2.2, 0.4, 1.1), (0.6, 2.0, 1.0), (2.4, 0.9, 1.3)),
    ),
    _Clip(
        "villa", "train", "demoHouse02", 44, 1234, 3,
        ((-13.0, -9.0, 1.8), (-8.0, -12.0, 2.2), (-1.0, -14.0, 2.8), (6.0, -12.5, 2.4), (12.0, -7.5, 1.8)),
        ((0.0, 4.0, 2.6), (-1.0, 4.0, 2.6), (1.0, 4.0, 2.4), (0.0, 3.0, 2.2), (-3.0, 1.0, 2.0)),
        missing=(17,),
    ),
    _Clip(
        "attic", "test", "demoHouse03", 32, 700, 2,
        ((1.6, -1.3, 1.6), (0.4, -1.2, 1.55), (-0.9, -0.9, 1.6), (-1.4, -1.2, 1.6)),
        ((-1.6, 1.2, 0.8), (0.2, 2.2, 1.3), (2.3, 1.2, 1.0), (2.6, -1.4, 1.2)),
    ),
    _Clip(
        "kitchen", "train", "demoGone404", 34, 90, 2, ((1.5, -1.4, 1.5), (0.5, -1.5, 1.5)),
        ((-1.0, 1.6, 1.1), (0.5, 1.6, 1.1)), frames_on_disk="dead",
    ),
    _Clip(
        "attic", "train", "demoGone410", 31, 5000, 1, ((1.6, -1.3, 1.6), (0.4, -1.2, 1.55)),
        ((-1.6, 1.2, 0.8), (0.2, 2.2, 1.3)), frames_on_disk="none",
    ),
)  # fmt: skip


def _microseconds(frame: int) -> int:
    """Return the time of a video's frame at 30 frames a second, rounded to the nearest microsecond."""
    return (frame * 1_000_000 + 15) // 30


def _trajectory(url: str, times: Sequence[int], shots: Sequence[Shot], model: Model) -> str:
    """Return a clip's text file: the URL, then time, normalised intrinsics, two zeros and cam_from_world a line."""
    lines = [url]
    for time, shot in zip(times, shots, strict=True):
        fx, fy, cx, cy = shot.camera.intrinsics()
        width, height = shot.camera.width, shot.camera.height
        numbers = [fx / width, fy / height, cx / width, cy / height, 0.0, 0.0]
        numbers += [float(x) for x in model.gauge.camera(shot.camera).cam_from_world().reshape(-1)]
        lines.append(" ".join([str(time), *(f"{x:.9f}" for x in numbers)]))
    return "\n".join(lines) + "\n"


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out six clips of four houses: four with frames, one whose video is gone, one whose folder is empty.

    The second clip runs from 99366667 to 100533333 microseconds, across a change in the number of digits.
    """
    albums, texts, folders = [], {}, []
    for number, clip in enumerate(_CLIPS):
        key = rng.key(seed, "demo", "realestate10k", number)
        name = f"{int(rng.words(key, 1)[0]):016x}"
        width, height = sizes.video
        shots = video(clip.num_frames, (width, height), clip.focal * width, clip.positions, clip.targets)
        times = [_microseconds(clip.first + clip.stride * i) for i in range(clip.num_frames)]
        folder = f"dataset/{clip.split}/{name}"
        model = Model(
            truth=f"{name}/0.npz",
            names=tuple(f"{time}.png" for time in times),
            cameras=tuple(shot.camera for shot in shots),
            gauge=same_view_gauge(shots[0].camera, 0.4 + 0.05 * number),
            key=key,
        )
        url = f"https://www.youtube.com/watch?v={clip.video}"
        texts[f"RealEstate10K/{clip.split}/{name}.txt"] = _trajectory(url, times, shots, model)
        if clip.frames_on_disk == "none":
            folders.append(folder)
        elif clip.frames_on_disk == "all":
            pictures = tuple(
                Picture((f"{folder}/{time}.png",), shot)
                for i, (time, shot) in enumerate(zip(times, shots, strict=True))
                if i not in clip.missing
            )
            albums.append(Album(clip.place, seed, pictures, (model,)))
    return Layout(tuple(albums), texts, tuple(folders))
