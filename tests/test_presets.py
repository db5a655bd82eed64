"""The presets of all datasets against the facts: the paper's table, the released scripts, and this project's own."""

from __future__ import annotations

from typing import Any

import pytest

from mumdata.datasets import NAMES, load
from mumdata.mining import RULES, Options, parameters

CHUNK = {"chunk_overlap": 0, "chunk_stride": 1, "last_chunk": "even", "min_frames": 1}
LINKS = {"min_overlap": 0.0, "max_overlap": 1.0}
CHAINS = {**LINKS, "anchor_overlap": 0.0, "min_mean_overlap": 0.0}
OVERLAP = {**CHAINS, "per_scene": 1000, "seed": 0, "max_frames": 256, "cover": False, "temperature": 0.0}
STARS = {**LINKS, "per_scene": 1000, "seed": 0, "max_frames": 256}
VIEWPOINT = {**CHAINS, "max_frames": None, "min_metric": 0.1, "min_angle_deg": 10.0}


def even(size: int) -> tuple[str, dict[str, Any]]:
    return "chunk", {**CHUNK, "chunk_size": size}


def released(size: int) -> tuple[str, dict[str, Any]]:
    return "chunk", {**CHUNK, "chunk_size": size, "last_chunk": "released"}


def scene(least: int = 1) -> tuple[str, dict[str, Any]]:
    return "scene", {"min_frames": least}


# dataset -> preset -> rule and every option that it reads
EXPECTED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "streetview": {"mumdata": even(100), "mum-paper": even(100), "mum-released": released(24)},
    "wildrgbd": {"mumdata": scene(), "mum-paper": scene(24), "mum-released": scene(24)},
    "dl3dv": {"mumdata": scene(), "mum-paper": scene(), "mum-released": scene()},
    "realestate10k": {"mumdata": even(100), "mum-paper": even(100), "mum-released": scene()},
    "imagenet": {"mumdata": ("single", {}), "mum-paper": ("single", {}), "mum-released": ("single", {})},
    "megascenes": {
        "mumdata": (
            "chain-viewpoint",
            {**VIEWPOINT, "min_frames": 8, "metric": "iou", "angle": "axis", "max_angle_deg": 90.0, "min_shared": 30},
        ),
        "mum-paper": (
            "chain-viewpoint",
            {**VIEWPOINT, "min_frames": 24, "metric": "iou", "angle": "axis", "max_angle_deg": 90.0, "min_shared": 30},
        ),
        "mum-released": (
            "chain-viewpoint",
            {
                **VIEWPOINT,
                **{"min_frames": 3, "metric": "overlap", "angle": "rotation", "max_angle_deg": 180.0, "min_shared": 1},
            },
        ),
    },
    "scannetpp": {"mumdata": even(100), "mum-paper": even(100), "mum-released": released(100)},
    "co3d": {"mumdata": scene(24), "mum-paper": scene(24), "mum-released": scene(24)},
    "megadepth": {
        "mumdata": ("chain-overlap", {**OVERLAP, "min_frames": 8, "min_shared": 30, "cover": True}),
        "mum-paper": ("chain-overlap", {**OVERLAP, "min_frames": 24, "min_shared": 1}),
        "mum-released": ("topk", {**STARS, "min_frames": 256, "min_shared": 0}),
    },
    "blendedmvs": {"mumdata": even(100), "mum-paper": even(100), "mum-released": scene()},
    "arkitscenes": {"mumdata": even(100), "mum-paper": even(100), "mum-released": released(75)},
    "hypersim": {"mumdata": scene(), "mum-paper": scene(), "mum-released": scene()},
    "folder": {"mumdata": scene(), "mum-paper": scene(), "mum-released": scene()},
    "colmap": {
        "mumdata": ("chain-overlap", {**OVERLAP, "min_frames": 2, "min_shared": 30, "cover": True}),
        "mum-paper": ("chain-overlap", {**OVERLAP, "min_frames": 24, "min_shared": 1}),
        "mum-released": ("topk", {**STARS, "min_frames": 24, "min_shared": 0}),
    },
}


def test_every_dataset_has_the_three_presets() -> None:
    assert set(EXPECTED) == set(NAMES)
    for name in NAMES:
        assert list(load(name).SPEC.presets) == ["mumdata", "mum-paper", "mum-released"], name


@pytest.mark.parametrize("preset", ["mumdata", "mum-paper", "mum-released"])
@pytest.mark.parametrize("name", NAMES)
def test_presets_mean_what_the_facts_say(name: str, preset: str) -> None:
    spec = load(name).SPEC
    options = dict(spec.presets[preset])
    rule = options.pop("rule", spec.rule)
    # copies are left out everywhere but where MuM's own functions for photo collections keep them
    assert options.pop("keep_copies", False) is ((name, preset) == ("megascenes", "mum-released"))
    assert set(options) <= set(RULES[rule].uses)
    assert (rule, parameters(rule, Options(**options))) == EXPECTED[name][preset]
