"""The demo's datasets as people keep them: in archives.

In: the folder of a dataset of the demo. Out: the same files, packed into the ZIP and TAR files in which the dataset is
published or kept on clusters; what nobody packs lies beside them. The same folder gives the same bytes.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mumdata.errors import MumError

__all__ = ["PACKING", "Rule", "pack"]


@dataclass(frozen=True)
class Rule:
    """Which files go into which archives.

    `paths` is a regular expression for paths in the dataset, `archive` the path of the archive that those who fit in
    full go into, with the expression's groups as `\\1`. Members are named relative to `folder`, else to the folder
    that the archive lies in. `nested` packs each of the first folders of the members into an archive of its own, inside
    the archive.
    """

    paths: str
    archive: str
    folder: str | None = None
    deflated: bool = False
    nested: bool = False


# ScanNet++ comes as single files, and people pack its scenes where files are rationed; DL3DV's list of scenes and
# RealEstate10K's trajectories are no part of archives
PACKING: Mapping[str, tuple[Rule, ...]] = {
    "streetview": (Rule(r"(dataset_(un)?aligned/\d{4})/.+", r"\1.tar"),),
    "wildrgbd": (Rule(r"(\w+)/.+", r"\1.zip", deflated=True),),
    "dl3dv": (Rule(r"(\d+K/[0-9a-f]{64})/.+", r"\1.zip"),),
    "realestate10k": (
        Rule(r"dataset/train/.+", "dataset/train.zip"),
        Rule(r"dataset/test/.+", "dataset/test.tar"),
    ),
    "imagenet": (
        Rule(r"train/.+", "ILSVRC2012_img_train.tar", folder="train", nested=True),
        Rule(r"val/.+", "ILSVRC2012_img_val.tar", folder="val"),
    ),
    "megascenes": (
        Rule(r"images/.+", "images.zip"),
        Rule(r"reconstruct/.+", "reconstruct.zip", deflated=True),
    ),
    "co3d": (Rule(r"(\w+)/.+", r"CO3D_\1.zip"),),
    "megadepth": (
        Rule(r"phoenix/.+", "MegaDepth_v1.tar"),
        Rule(r"MegaDepth_v1_SfM/.+", "MegaDepth_SfM_v1.tar"),
        Rule(r"Undistorted_SfM/.+", "Undistorted_SfM.zip"),
    ),
    "scannetpp": (Rule(r"(data/[0-9a-f]{10})/.+", r"\1.tar"),),
    "blendedmvs": (
        Rule(r"(dataset_full_res_[^/]+)/.+", r"\1.zip", deflated=True),
        Rule(r"[0-9a-f]{24}/.+", "BlendedMVS.zip"),
    ),
    "arkitscenes": (
        Rule(r"((3dod|upsampling)/\w+/\d{8})/.+", r"\1.zip"),
        Rule(r"(raw/\w+/\d{8}/\w+)/.+", r"\1.zip"),
    ),
    "hypersim": (Rule(r"(evermotion_dataset/scenes/ai_\d{3}_\d{3})/.+", r"\1.zip"),),
}


def pack(root: Path, out: Path, dataset: str) -> None:
    """Write the dataset in the folder `root` to the folder `out`, packed by the dataset's rules.

    A dataset without rules, and files that fit none, are copied. Raises MumError where `out` holds something already.
    """
    root, out = Path(root), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MumError(f"{out} holds something already; choose another folder")
    packed: dict[tuple[str, Rule], list[str]] = {}
    for path in _paths(root):
        for rule in PACKING.get(dataset, ()):
            if match := re.fullmatch(rule.paths, path):
                packed.setdefault((match.expand(rule.archive), rule), []).append(path)
                break
        else:
            _copy(root / path, out / path)
    for (archive, rule), paths in packed.items():
        (out / archive).parent.mkdir(parents=True, exist_ok=True)
        write = _write_zip if archive.endswith(".zip") else _write_tar
        write(root, paths, out / archive, rule, archive.rpartition("/")[0])


def _paths(root: Path) -> list[str]:
    """Return all files, and the folders with a slash at their end, in text order."""
    found = (path.relative_to(root).as_posix() + "/" * path.is_dir() for path in root.rglob("*"))
    return sorted(found)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        # a folder of packed files alone is not there; an empty one is
        if not os.listdir(source):
            target.mkdir(parents=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _member(path: str, rule: Rule, beside: str) -> str:
    folder = beside if rule.folder is None else rule.folder
    return path.removeprefix(f"{folder}/") if folder else path


def _write_zip(root: Path, paths: Iterable[str], target: Path, rule: Rule, beside: str) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for path in paths:
            info = zipfile.ZipInfo(_member(path, rule, beside))
            info.create_system = 3  # Unix, whatever this is
            is_folder = path.endswith("/")
            info.external_attr = (0o40755 << 16 | 0x10) if is_folder else 0o100644 << 16
            if rule.deflated and not is_folder:
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, b"" if is_folder else (root / path).read_bytes())


def _write_tar(root: Path, paths: Iterable[str], target: Path, rule: Rule, beside: str) -> None:
    members = {_member(path, rule, beside): path for path in paths}
    if not rule.nested:
        target.write_bytes(_tar({name: _content(root, path) for name, path in members.items()}))
        return
    inner: dict[str, dict[str, bytes | None]] = {}
    for name, path in members.items():
        folder, _, rest = name.partition("/")
        if rest:
            inner.setdefault(f"{folder}.tar", {})[rest] = _content(root, path)
    target.write_bytes(_tar({name: _tar(files) for name, files in inner.items()}))


def _content(root: Path, path: str) -> bytes | None:
    return None if path.endswith("/") else (root / path).read_bytes()


def _tar(members: Mapping[str, bytes | None]) -> bytes:
    """Write members, None for a folder; all of one date, owner and mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()
