"""Settings: typed, checked, typos fatal; recipes with the paper's figures; nothing heavy on import."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mumdata.errors import ConfigError
from mumtrain.config import Config, apply, differing_keys, from_dict, to_dict
from mumtrain.mask_rules import num_kept
from mumtrain.recipes import RECIPES, recipe


def test_settings_are_read_by_the_type_of_their_field() -> None:
    config = apply(
        recipe("debug-cpu"),
        [
            "optim.lr=1e-4",
            "steps = 7",
            "optim.betas=(0.8, 0.99)",
            "data.mirror=none",
            "model.encoder.depth=5",
            "model.rope_base=10",
        ],
    )
    assert config.optim.lr == 1e-4
    assert config.steps == 7
    assert config.optim.betas == (0.8, 0.99)
    assert config.data.mirror == "none"
    assert config.model.encoder.depth == 5
    assert isinstance(config.model.rope_base, float)
    # the last of two wins, and the recipe itself is untouched
    assert apply(config, ["steps=1", "steps=2"]).steps == 2
    assert recipe("debug-cpu").steps != 7


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("optim.lrr=1", "did you mean 'optim.lr'"),
        ("optm.lr=1", "did you mean 'optim.lr'"),
        ("data.view_max=4", "did you mean 'data.views_max'"),
        ("model.encoder.widht=64", "did you mean 'model.encoder.width'"),
        ("steps.x=1", "unknown setting 'steps.x'"),
        ("optim=1", "is a section"),
        ("model.encoder=1", "model.encoder.width"),
        ("steps", "has no '='"),
        ("steps=1.5", "steps takes an integer, not '1.5'"),
        ("steps=many", "steps takes an integer"),
        ("optim.lr=fast", "optim.lr takes a number"),
        ("optim.lr=nan", "finite"),
        ("optim.betas=0.9", "takes 2 values"),
        ("data.mirror=per_vew", "did you mean 'per_view'"),
        ("steps=0", "steps must be at least 1"),
        ("data.size=100", "try data.size=96"),
        ("data.views_max=99", "exceeds data.frames_per_slot"),
        ("data.views_min=9", "exceeds data.views_max"),
        ("model.encoder.heads=7", "does not divide"),
        ("model.decoder.heads=64", "multiple of 4"),
        ("mask.ratio=1", "between 0 and 1"),
        ("mask.ratio=0.999", "keeps 0 of"),
        ("mask.ratio=-0.5", "between 0 and 1"),
        ("optim.betas=0.9,1.0", "[0, 1)"),
        ("optim.weight_decay=-1", "must not be negative"),
        ("data.frames_per_slot=1000000000000", "at most 1048576"),
        ("mask.kind=randm", "did you mean 'random'"),
        ("mask.kind=random:much", "no number behind its colon"),
        ("mask.kind=random:1", "must lie between 0 and 1"),
        ("mask.kind=rectangle", "set model.hidden_tokens=replaced"),
        ("mask.kind=random:0.999", "mask.kind: a ratio of 0.999 keeps 0 of"),
        ("mask.references=some", "V/4:V/2"),
        ("mask.references=1:2:3", "more than two ends"),
        ("mask.references=3:1", "write 1:3"),
        ("mask.references=6", "leaves none of 6 views masked"),
        ("mask.view_ratios=0,0.5", "the first above 0"),
        ("mask.view_ratios=0.9,0.5,0.5,0.5,0.5,0.5,0.5", "has 7 ratios"),
        ("model.encoder_attention=frames", "did you mean 'frame'"),
        ("model.decoder_attention=none", "set model.hidden_tokens=replaced"),
        ("model.decoder_attention=cross", "data.views_max=2"),
        ("model.confidence=true", "model.target=raw"),
        ("model.registers=-1", "must not be negative"),
    ],
)
def test_a_setting_that_does_not_fit_is_told_in_one_line(setting: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply(recipe("debug-cpu"), [setting])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["mask.view_ratios=0.9,0", "mask.references=1"], "set one of them"),
        (["mask.view_ratios=0.9,0.5", "mask.kind=random:0.8"], "set one of them"),
        (["model.encoder_attention=alternating", "mask.references=1"], "model.hidden_tokens=replaced"),
        # no whole view at first, but in a later stage
        (
            [
                "model.encoder_attention=alternating",
                "data.views_max=2",
                "mask.references=V/3",
                "data.stages=9 views=2:4",
            ],
            "model.hidden_tokens=replaced",
        ),
        (["data.views_max=2", "model.decoder_attention=cross"], "mask.references=1"),
        (
            ["data.views_max=2", "model.decoder_attention=cross", "mask.references=1", "data.stages=9 views=2:3"],
            "stages",
        ),
        (["model.positions=absolute", "model.encoder.width=190", "model.encoder.heads=5"], "multiple of 4"),
    ],
)
def test_settings_that_do_not_go_together(settings: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        apply(recipe("debug-cpu"), settings)


def test_a_ratio_that_counts_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"counts for nothing.*set mask\.kind=random:0\.5"):
        apply(recipe("muskie-vitb16"), ["mask.ratio=0.5"])
    uneven = apply(recipe("debug-cpu"), ["mask.view_ratios=0.9,0.5"])
    with pytest.raises(ConfigError, match=r"counts for nothing beside mask\.view_ratios=0\.9,0\.5"):
        apply(uneven, ["mask.ratio=0.5"])
    assert apply(uneven, ["mask.ratio=0.5", "mask.view_ratios="]).mask.view_ratios == ()
    assert apply(recipe("muskie-vitb16"), ["mask.ratio=0.5", "mask.kind=random,blob:0.8"]).mask.ratio == 0.5


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mum-vitl16'"):
        recipe("mum-vitl")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_configs_survive_json(name: str) -> None:
    config = recipe(name)
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert differing_keys(config, again) == []


def test_a_config_with_foreign_keys_is_refused() -> None:
    values = to_dict(recipe("debug-cpu"))
    values["optim"]["momentum"] = 0.9
    with pytest.raises(ConfigError, match=r"optim\.momentum"):
        from_dict(values)
    with pytest.raises(ConfigError, match="section"):
        from_dict({"optim": 3})


def test_differing_keys_are_full_names_in_field_order() -> None:
    one = recipe("debug-cpu")
    other = apply(one, ["model.decoder.depth=1", "seed=9", "optim.betas=0.9,0.9"])
    assert differing_keys(one, other) == ["seed", "model.decoder.depth", "optim.betas"]


def test_every_field_has_a_comment_above_it() -> None:
    """The comment is the field's help; a field without one would be a setting nobody can understand."""
    source = Path(sys.modules[Config.__module__].__file__ or "").read_text().splitlines()
    kinds = [
        Config,
        *(hint for hint in vars(sys.modules[Config.__module__]).values() if dataclasses.is_dataclass(hint)),
    ]
    for name in {field.name for kind in kinds for field in dataclasses.fields(kind)}:
        places = [i for i, line in enumerate(source) if line.startswith(f"    {name}: ")]
        assert places, name
        for place in places:
            section = source[place].partition(": ")[2].split(" ")[0]
            assert source[place - 1].lstrip().startswith("#") or section.endswith("Config"), source[place]


def test_the_paper_s_figures() -> None:
    large, base = recipe("mum-vitl16"), recipe("mum-vitb16")
    assert (large.data.views_min, large.data.views_max, large.data.frames_per_slot, large.data.slots) == (2, 24, 96, 64)
    assert (large.steps, large.optim.warmup_steps, large.mask.ratio, large.data.size) == (500_000, 25_000, 0.75, 224)
    assert (base.steps, base.optim.warmup_steps, base.data.frames_per_slot) == (100_000, 6_250, 128)
    assert num_kept(196, 0.75) == 49


@given(st.integers(1, 2000), st.floats(0.01, 0.99))
def test_kept_patches_are_the_floor(num: int, ratio: float) -> None:
    assert num * (1 - ratio) - 1 < num_kept(num, ratio) <= num * (1 - ratio)


def test_importing_and_helping_load_no_torch() -> None:
    code = (
        "import sys, mumtrain, mumtrain.config, mumtrain.recipes, mumtrain.cli\n"
        "from typer.testing import CliRunner\n"
        "for words in ([], ['pretrain'], ['reconstruct'], ['demo']):\n"
        "    result = CliRunner().invoke(mumtrain.cli.app, [*words, '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage' in result.output, result.output\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_expected_failures_are_one_line_and_status_1(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mumtrain", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    failed = run("pretrain", str(tmp_path / "none.parquet"), "--recipe", "debug-cpu", "--out", str(tmp_path / "run"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert str(tmp_path / "none.parquet") in failed.stderr
    assert not (tmp_path / "run").exists()
    assert run("pretrain", "--recipee").returncode == 2
