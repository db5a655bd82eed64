"""The commands as a person types them: exit statuses, one-line errors, help within eighty columns."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import write_picture


def run(program: str, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **env},
    )


def test_a_folder_of_photos_from_files_to_a_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_picture(tmp_path / f"trip/day/{number}.jpg", seed=number)
    done = run("mumdata", "index", "folder", "--root", "trip", "--name", "trip", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "next: mumdata mine-sequences trip"
    done = run("mumdata", *done.stdout.splitlines()[-1].split()[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 sequences by scene" in done.stdout
    # a process of its own tells nothing more of the other commands
    monkeypatch.chdir(tmp_path)

    def here(*arguments: str) -> str:
        from mumdata.cli import main

        monkeypatch.setattr(sys, "argv", ["mumdata", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    here("mix", "only", "--weight", "trip=1")
    assert (tmp_path / "catalogs/mix.parquet").exists()
    assert json.loads(here("stats", "--format", "json"))[0] == {
        "dataset": "trip",
        "scenes": 1,
        "frames": 3,
        "bad": 0,
        "seqs": 1,
        "distinct": 1,
        "frames/seq": "3/3/3",
        "overlap": None,
    }
    assert here("stats", "--sql", "SELECT path FROM frames ORDER BY frame_id").split()[2:] == [
        "day/0.jpg",
        "day/1.jpg",
        "day/2.jpg",
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("index", "megadept"), 1, "did you mean 'megadepth'?"),
        (("index", "folder", "--root", "nowhere"), 1, "does not exist"),
        (("mine-sequences", "nothing"), 1, "run 'mumdata index nothing'"),
        (("mine-sequences",), 2, "name the dataset"),
        (("mine-sequences", "a", "--dataset", "b"), 2, "once"),
        (("stats",), 1, "no catalog under catalogs"),
        (("mix",), 1, "no dataset of the mix"),
        (("nonsense",), 2, "nonsense"),
        (("index", "folder", "--root", ".", "--workers", "0"), 1, "--workers"),
    ],
)
def test_failures_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    from mumdata.cli import main

    write_picture(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mumdata", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    errors = capsys.readouterr().err
    assert stop.value.code == status
    assert said in errors
    if status == 1:
        assert errors.count("\n") == 1
        assert errors.startswith("error: ")
    assert not (tmp_path / "catalogs").exists()


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from mumdata import cli
    from mumdata.stats import TOPICS

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(sys.modules["mumdata.stats"], "stats", broken)
    monkeypatch.setattr(sys, "argv", ["mumdata", "stats"])
    assert TOPICS
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


@pytest.mark.parametrize("program", ["mumdata", "mumtrain"])
def test_help_fits_and_loads_nothing_heavy(program: str) -> None:
    code = (
        f"import sys; sys.argv = ['{program}', '--help']\n"
        f"from {program}.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'open3d', 'pycolmap', 'pandas', 'scipy', 'duckdb', 'cv2', 'matplotlib', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_importing_the_package_is_light_and_its_names_are_real() -> None:
    code = (
        "import sys, mumdata, mumtrain\n"
        "heavy = {'torch', 'open3d', 'pycolmap', 'pandas', 'scipy', 'duckdb', 'cv2', 'pyarrow', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "for name in mumdata.__all__: getattr(mumdata, name)\n"
        "assert 'torch' not in sys.modules and 'open3d' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_names_in_the_package() -> None:
    import mumdata

    with pytest.raises(AttributeError, match="nonsense"):
        _ = mumdata.nonsense
    assert "index" in dir(mumdata)


@pytest.mark.slow
def test_functions_win_over_the_modules_of_their_name() -> None:
    code = (
        "import mumdata, mumtrain, types\n"
        "from mumdata import sequences, mix as mixing\n"  # sequences imports the module mumdata.index
        "import mumtrain.reconstruct\n"
        "for package in (mumdata, mumtrain):\n"
        "    for name in package.__all__:\n"
        "        assert not isinstance(getattr(package, name), types.ModuleType), name\n"
        "assert callable(mumdata.index) and callable(mixing) and callable(mumtrain.reconstruct)\n"
        "from mumdata.index import known_names\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_quiet(catalogs: Path) -> None:
    command = f"{sys.executable} -m mumdata stats --format csv --sql 'SELECT * FROM covisibility' --catalogs {catalogs}"
    done = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("dataset,scene")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


# ---- mumtrain


def test_recipes_are_listed_with_all_settings_in_eighty_columns() -> None:
    from mumtrain.config import Config, apply
    from mumtrain.recipes import RECIPES, recipe
    from mumtrain.settings_text import recipe_lines, setting_lines

    lines = list(recipe_lines())
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[0] != " "] == list(RECIPES)
    for name in RECIPES:
        lines = list(setting_lines(name))
        assert max(map(len, lines)) <= 80
        told = [line for line in lines if re.match(r"[a-z_.]+=", line)]
        # they are what --set takes, and all there is
        assert apply(Config(), told) == recipe(name)
        assert len({line.split("=")[0] for line in told}) == len(told) == len(leaves(Config()))
        for line, below in itertools.pairwise(lines):
            assert line not in told or below.startswith("    "), line
    text = " ".join(" ".join(setting_lines("debug-cpu")).split())
    assert "data.size=96 side of the square views, in pixels; a multiple of model.patch" in text
    assert "[drop, repeat, cap]" in text
    assert "model.decoder.width=128 channels of a token (decoder: predicts the hidden patches;" in text


def leaves(node: object) -> list[str]:
    import dataclasses

    assert dataclasses.is_dataclass(node)
    found = []
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        inner = leaves(value) if dataclasses.is_dataclass(value) else [""]
        found += [f"{field.name}.{name}" for name in inner]
    return found


def test_recipes_on_the_command_line() -> None:
    listed, unknown = run("mumtrain", "recipes", "mum-vitb16"), run("mumtrain", "recipes", "mum-vitb")
    assert (listed.returncode, unknown.returncode) == (0, 1)
    assert "data.frames_per_slot=128\n" in listed.stdout
    assert unknown.stderr == "error: unknown recipe 'mum-vitb'; did you mean 'mum-vitb16'?\n"


def test_what_is_no_mix_is_told_with_the_one_nearby(mix_path: Path, tmp_path: Path) -> None:
    from mumdata.errors import CatalogError
    from mumtrain import cli

    catalogs = mix_path.parent
    assert cli._mix_file(mix_path) == mix_path
    for path, words in (
        (catalogs, f"{catalogs} is a folder; give the mix.parquet file, {mix_path}"),
        (tmp_path, f"{tmp_path} is a folder; give the mix.parquet file"),
        (next(catalogs.glob("*/sequences.parquet")), f"/sequences.parquet is not a mix; give {mix_path}"),
    ):
        with pytest.raises(CatalogError) as caught:
            cli._mix_file(path)
        assert str(caught.value).endswith(words)
    failed = run("mumtrain", "pretrain", str(catalogs))
    assert failed.returncode == 1
    assert failed.stderr == f"error: {catalogs} is a folder; give the mix.parquet file, {mix_path}\n"


def test_a_dataset_that_has_moved_is_told_with_what_helps(tmp_path: Path) -> None:
    from mumdata.errors import LayoutError
    from mumdata.roots import find_root, remember_root

    for root, words in (
        (None, "no root is known for 'my-trip'; "),
        (Path("absent"), "absent (from --root), does not "),
    ):
        with pytest.raises(LayoutError) as caught:
            find_root("my-trip", tmp_path, root)
        assert words in str(caught.value)
        assert str(caught.value).endswith("run 'mumdata index my-trip --root DIR', or set MUM_ROOT_MY_TRIP=DIR")
    # of a packed copy, which is moved as a whole, no variable is asked for
    (tmp_path / "files").mkdir()
    (tmp_path / "my-trip").mkdir()
    remember_root("my-trip", tmp_path, tmp_path / "files", "folder", relative=True)
    (tmp_path / "files").rmdir()
    with pytest.raises(LayoutError, match="put them back beside it, or pack again"):
        find_root("my-trip", tmp_path)


def test_commands_are_folded_so_that_they_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from mumtrain import cli

    monkeypatch.setenv("COLUMNS", "80")
    words = ["pretrain", "a file", "--recipe", "debug-cpu", "--set", "data.stages=0 views=2:3; 9 --set views=2:4"]
    words += ["--set", f"data.stages={'x' * 90}", "--set", "a=1"]
    told = cli._command(*words)
    assert shlex.split(told.replace("\\\n", " ")) == ["mumtrain", *words]
    assert [len(line) > 74 for line in told.splitlines()].count(True) == 1
    assert cli._command("reconstruct", "run", "IMAGE...", "-o", "a.png") == "mumtrain reconstruct run IMAGE... -o a.png"


def test_warnings_are_folded_behind_their_level(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from mumtrain import cli

    monkeypatch.setenv("COLUMNS", "80")
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s has no pairs: %s", ("one", "word " * 40), None)
    lines = cli._Wrapped().format(record).splitlines()
    assert len(lines) > 2
    assert lines[0].startswith("warning: one has no pairs: word")
    assert all(len(line) <= 80 and line.startswith("    word") for line in lines[1:])
