"""Rules of the source itself: layers, names, no dangerous calls, nothing of any one machine."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("mumdata/**/*.py"), *ROOT.glob("mumtrain/**/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what enters and what leaves"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), "no eval, no exec"
            if node.func.id == "print":
                assert path.name in ("cli.py", "command.py", "demo.py", "node_check.py"), "only commands print"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            assert name not in ("pickle.load", "pickle.loads", "np.random.default_rng", "random.random"), name
            if name == "torch.load":
                keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert keywords.get("weights_only") == "True"
            assert "allow_pickle" not in {word.arg for word in node.keywords if ast.unparse(word.value) == "True"}
        if isinstance(node, ast.ImportFrom):
            assert [name.name for name in node.names] != ["*"], "no star import"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "no bare except"
    assert not re.search(r"['\"]/(home|work|root|data|mnt|tmp)/", text), "no path of one machine"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if not path.name.startswith("__")], ids=lambda path: path.stem
)
def test_public_names_exist(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert hasattr(module, "__all__"), "public modules declare their names"
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name)


def test_every_dataset_keeps_the_contract() -> None:
    from mumdata.datasets import NAMES, load
    from mumdata.mining import RULES

    for name in NAMES:
        module = load(name)
        spec = module.SPEC
        assert spec.name == name
        assert spec.rule in RULES
        assert spec.licence
        assert spec.layout
        assert callable(module.scenes)
        assert callable(module.read)


def test_open3d_is_named_with_its_packages_where_libraries_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mumdata import open3d
    from mumdata.errors import MumError

    real = importlib.import_module

    def fails(name: str, *rest: str) -> object:
        if name == "open3d":
            raise OSError("libGL.so.1: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(MumError, match=r"apt-get install .*libgl1") as caught:
        open3d.load()
    assert "\n" not in str(caught.value)
