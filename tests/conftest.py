"""What tests share: the rendered world, its catalogs and mix, made once a session, and small images."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

# as the command line does, and for the same reason; read when torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

DEMO_DATASETS = ("megadepth", "megascenes", "realestate10k", "imagenet")


@pytest.fixture(autouse=True)
def _no_roots_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MUM_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo world, seed 0; the workers of pytest-xdist share one."""
    from mumdata.demo.world import demo

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / "demo" / "world"
    out.parent.mkdir(exist_ok=True)
    with (out.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        demo(out, size="tiny", seed=0)  # a world that is there already is left alone
    _whole.append(out)
    return out


_whole: list[Path] = []


def render(name: str, out: Path) -> None:
    """Put one dataset of the tiny demo world and its truth into `out`: a copy, where the whole world is there."""
    from mumdata.demo import world as demo_world

    if _whole:
        for part in (name, f"truth/{name}"):
            if (_whole[0] / part).is_dir():
                shutil.copytree(_whole[0] / part, out / part, symlinks=True)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_world, "LAYOUTS", {name: demo_world.LAYOUTS[name]})
        demo_world.demo(out, size="tiny", workers=1)


@pytest.fixture(scope="session")
def catalogs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Catalogs of the world: indexed and mined with default options."""
    from mumdata.index import index
    from mumdata.sequences import mine_sequences

    folder = tmp_path_factory.mktemp("indexed") / "catalogs"
    for name in DEMO_DATASETS:
        index(name, root=world / name, catalogs=folder, workers=1)
        mine_sequences(name, catalogs=folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def mix_path(catalogs: Path) -> Path:
    """The paper's mix over the world's four datasets."""
    from mumdata.mix import mix

    return mix("mum", catalogs=catalogs).path


def picture(width: int = 32, height: int = 24, seed: int = 0) -> np.ndarray:
    """A small random picture, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_picture(path: Path, width: int = 32, height: int = 24, seed: int = 0) -> Path:
    """Write a small picture under any name, encoded by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix.lower(), picture(width, height, seed))
    assert done
    path.write_bytes(data.tobytes())
    return path
