"""The whole journey as the README tells it: the demo command, the notebook, and the README's own words. Slow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def test_the_readme_holds_the_two_commands_and_its_pictures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\npip install -e . && mumtrain demo\n" in text
    assert "\npip install -e '.[dev]' && pytest\n" in text
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        image = cv2.imread(str(ROOT / picture))
        assert image is not None, picture
        assert image.std() > 10


def test_commands_in_the_readme_exist() -> None:
    import typer

    from mumdata.cli import app as mumdata_app
    from mumtrain.cli import app as mumtrain_app

    known = {"mumdata": typer.main.get_command(mumdata_app), "mumtrain": typer.main.get_command(mumtrain_app)}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(mumdata|mumtrain) ([a-z-]+)([^#\n]*)", text, re.MULTILINE)
    assert len(lines) > 10
    for program, verb, rest in lines:
        command = known[program].commands[verb]  # type: ignore[attr-defined]
        if hasattr(command, "commands"):  # a group: the next word is the command
            command = command.commands[rest.split()[0]]
        options = {name for parameter in command.params for name in parameter.opts}
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert option in options, (program, verb, option)


@pytest.mark.slow
def test_demo_learns_and_never_loads_open3d(tmp_path: Path) -> None:
    # an open3d that tells when it is imported stands before the real one
    decoy = tmp_path / "decoy/open3d"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w').close()\n")
    env = {**os.environ, "PYTHONPATH": str(decoy.parent), "COLUMNS": "80"}
    work = tmp_path / "work"
    work.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "mumtrain", "demo"], cwd=work, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "loaded").exists()
    subprocess.run([sys.executable, "-c", "import open3d"], env=env, check=True)
    assert (tmp_path / "loaded").exists(), "the decoy would have told"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=work, capture_output=True, text=True, check=True)
    assert status.stdout == "", "nothing that git would see"
    rows = [json.loads(line) for line in (work / "demo/run/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    tenth = max(1, len(losses) // 10)
    assert np.mean(losses[-tenth:]) < np.mean(losses[:tenth]) - 0.15
    assert cv2.imread(str(work / "demo/reconstruction.png")).std() > 20
    # every echoed command can be repeated by hand
    echoed = re.findall(r"^\$ (mumdata|mumtrain) ((?:.*\\\n)*.*)$", done.stdout, re.MULTILINE)
    assert [program for program, _ in echoed].count("mumdata") == 1 + 12 + 12 + 2
    assert echoed[-1][1].split()[0] == "reconstruct"
    assert max(map(len, done.stdout.splitlines())) <= 100
    again = subprocess.run(
        [sys.executable, "-m", "mumtrain", "demo"], cwd=work, env=env, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr[-2000:]


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path) -> None:
    options = ["--nbmake", "--nbmake-timeout=300", "-p", "no:dash", "-p", "no:cacheprovider", "-W", "ignore"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-o", "addopts=", str(ROOT / "notebooks")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
