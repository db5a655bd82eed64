"""The small languages of the data settings: what they mean, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mumdata.errors import ConfigError
from mumtrain.config import apply
from mumtrain.curriculum import MAX_STAGES, Band, Stage, Subset, read_band, read_stages, read_subset, stage_at
from mumtrain.recipes import recipe


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("", None),
        ("  ", None),
        ("0.2:0.6", Band(0.2, 0.6)),
        (" 0.2 : 0.6 ", Band(0.2, 0.6)),
        ("0.3:", Band(0.3, 1.0)),
        (":0.3", Band(0.0, 0.3)),
        (":", Band(0.0, 1.0)),
        ("0.5:0.5", Band(0.5, 0.5)),
    ],
)
def test_bands(text: str, band: Band | None) -> None:
    assert read_band(text) == band


@pytest.mark.parametrize("text", ["0.2", "0.6:0.2", "-0.1:0.5", "0.5:1.1", "a:b", "nan:1", "0:nan", "0.1:0.2:0.3"])
def test_bands_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"overlap '{text}' is not LOW:HIGH"):
        read_band(text)


@pytest.mark.parametrize(
    ("text", "subset"),
    [
        ("uniform", Subset("uniform")),
        ("covisible", Subset("covisible")),
        ("window:8", Subset("window", 8)),
        ("window:2.5s", Subset("window", 2.5, in_seconds=True)),
        ("window:10s", Subset("window", 10, in_seconds=True)),
        ("stride:3", Subset("stride", 3)),
    ],
)
def test_subsets(text: str, subset: Subset) -> None:
    assert read_subset(text) == subset


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("windw:8", "did you mean 'window'"),
        ("", "known: covisible, stride, uniform, window"),
        ("uniform:3", "takes no number; write data.subset=uniform"),
        ("window", "data.subset=window:8 or data.subset=window:2.5s"),
        ("window:0", "from 1 up"),
        ("window:0s", "from 1 up"),
        ("window:2.5", "from 1 up"),
        ("window:1e9", "from 1 up"),
        ("window:9999999999", "from 1 up"),
        ("stride:2s", "data.subset=stride:8$"),
        ("stride:-1", "from 1 up"),
    ],
)
def test_subsets_that_are_none(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_subset(text)


def test_stages() -> None:
    text = "0 views=2:4 overlap=0.3:; 20000 weight.co3d=0 weight.a.b=2.5 ;30000 overlap= views=6"
    read = read_stages(text, 2, 24, ":0.9")
    assert read == (
        Stage(0, 2, 4, Band(0.3, 1)),
        Stage(20000, 2, 24, Band(0, 0.9), (("co3d", 0.0), ("a.b", 2.5))),
        Stage(30000, 6, 6, None),
    )
    assert read_stages("", 2, 24, "") == read_stages(" ; ", 2, 24, "") == (Stage(0, 2, 24, None),)
    assert read_stages("5 views=3;", 2, 24, "0.1:") == (Stage(0, 2, 24, Band(0.1, 1)), Stage(5, 3, 3, Band(0.1, 1)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("views=2:4", "begins with its first step, not 'views=2:4'"),
        ("-1 views=2:4", "begins with its first step, not '-1'"),
        ("0 views", "'views' is not key=value"),
        ("0 views=4:2", "not views=MIN:MAX with 1 <= MIN <= MAX"),
        ("0 views=0:2", "not views=MIN:MAX with 1 <= MIN <= MAX"),
        ("0 views=2:", "'' is not a number"),
        ("0 views=two", "'two' is not a number"),
        ("0 overlap=3", "overlap '3' is not LOW:HIGH"),
        ("0 weight.a=-1", "a weight is a number from 0 up"),
        ("0 weight.a=inf", "a weight is a number from 0 up"),
        ("0 weight.=1", "unknown key of data.stages 'weight.'"),
        ("0 view=2:4", "unknown key of data.stages 'view'; did you mean 'views'"),
        ("0; 5; 5", "step 5 does not come after step 5"),
        ("0; 5; 3", "step 3 does not come after step 5"),
        (";".join(str(step) for step in range(MAX_STAGES + 1)), "33 stages, more than 32"),
        # together with the one from step 0 on
        (";".join(str(step) for step in range(1, MAX_STAGES + 1)), "33 stages, more than 32"),
    ],
)
def test_stages_that_are_none(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_stages(text, 2, 24, "")


@given(st.lists(st.integers(1, 200), unique=True, max_size=10), st.integers(0, 250))
def test_the_stage_of_a_step(starts: list[int], step: int) -> None:
    stages = read_stages("; ".join(map(str, sorted(starts))), 2, 4, "")
    assert stages[stage_at(stages, step)].start == max(start for start in (0, *starts) if start <= step)


def test_the_config_checks_all_of_it() -> None:
    for wrong in (
        "data.subset=window",
        "data.overlap=2",
        "data.stages=0 views=9",
        "data.stages=0 views=2:99",
        "data.stages=7 x=1",
    ):
        with pytest.raises(ConfigError):
            apply(recipe("debug-cpu"), ["data.frames_per_slot=8", "data.views_max=6", wrong])
