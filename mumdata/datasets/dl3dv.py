"""DL3DV-10K: videos of real places, posed by COLMAP.

In: `<1K..11K>/<hash>/{images_8, transforms.json}` as the official script unpacks it, with images_4 (960P), images_2
(2K) or images (4K) in place of images_8 (480P), and with the model of the ColmapCache in `colmap/sparse/0` where that
was merged in; or `<hash>/nerfstudio/{images_8, transforms.json}` of the Sample and the Benchmark. Some archives have
the hash as their top folder and some have none, so a scene may also lie in `<hash>/<hash>`. Out: one scene a hash, its
frames by number.

* Frames are all images on disk, posed or not, for transforms.json lists some of them alone; an image that has a pose
  and is not there keeps its path.
* Of several resolutions the smallest is taken: images_8, else images_4, images_2, images. The intrinsics belong to the
  size that transforms.json states, whatever the size of the stored images; the lens keeps its distortion.
* Poses come from transforms.json, or from the model where that file is absent; tracks come from the model. Both are in
  COLMAP's world (`applied_transform` is undone), whose scale is arbitrary.
* A scene that `.cache/DL3DV-valid.csv` labels `problem` stays, in the state `doubtful`. One that `benchmark-meta.csv`
  names, the list that comes with the Benchmark, counts as evaluated: the Benchmark was drawn from the 10K.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mumdata.colmap import Model
from mumdata.datasets import KnownBad, Layout, Scene, Spec, Stream, natural_key, natural_order
from mumdata.datasets.nerfstudio import (
    Ignored,
    Transforms,
    View,
    cameras_of,
    model_in,
    pictures_in,
    read_transforms,
    rows_of,
    views_of_model,
)
from mumdata.errors import LayoutError
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_ISSUES = "of DL3DV-10K/Dataset"
_WITHOUT_TRANSFORMS = (
    "1392781c6f34fc94a3575e6cb9109d6b39bc42e4e682b16e8d54dbbba7f9a91b",
    "7f5223dfae59ed4cc2be125420b71f2b1e93556dd086cd091df55d9f30e51b99",
    "b54322e64b2422c80f88160a59b39e7fa18adf703c5c1a23c27a3455ad494c57",
    "d157bfce01f6e7dd824e337acd577e3b95409f616b8c8a45aa98d64b353ba534",
    "d27b23eb5a5b6d45ca584d2b4c73698fc0623554b8379e300b4b08825683daa8",
    "d54d78994a4014ed0f9c1cd477bd5e6c67d84c6288b3a38ab2bd1488894ac90a",
    "d63335eb5192e66cb6a1b51f11f2235dc4c9530564e4bb9dd064fa03d0bd3d6b",
    "da89f5de918896a088480d6944d28339064a4e6c4507dce89277b37d95927833",
    "dafa9c7cbda9d1ddaa8a2b51fc8c54f4eb44161f5e5c53685dc744580ca77751",
    "db9742f75d7f247ec7ed36c20bc4b96194ffa1892515a95ce6985d7edd90d496",
    "dd9406d83300847a2175bcdc60cb0f2ad8edb906cf63f5ab85e05283258de1c6",
)
# none of these spoils an image, so all of them stay
_KNOWN_BAD = (
    *(
        KnownBad("released without transforms.json", f"issue 31 {_ISSUES}", scene, drop=False)
        for scene in _WITHOUT_TRANSFORMS
    ),
    KnownBad(
        "its ColmapCache holds a database alone, no model",
        f"issue 14 {_ISSUES}",
        "7f5223dfae59ed4cc2be125420b71f2b1e93556dd086cd091df55d9f30e51b99",
        drop=False,
    ),
    KnownBad(
        "transforms.json is faulty, as a maintainer says: its poses are not to be trusted",
        f"issue 30 {_ISSUES}",
        "d26afc876a34e53738d5970d071134008b059c6a1c4b605622be621063c7e387",
        drop=False,
    ),
    KnownBad(
        "327 images, poses for those from 99 to 210 alone",
        f"issue 48 {_ISSUES}",
        "f38dd16c9da6b585a3af5f0ea71d6daf8d27e0c13eaa85f1ca8fc351d522a157",
        drop=False,
    ),
    KnownBad(
        "filmed in 2K: every level is half as large as elsewhere, images_8 is 240 x 135",
        "issue 61 of cvg/depthsplat",
        "07d9f9724ca854fae07cb4c57d7ea22bf667d5decd4058f547728922f909956b",
        drop=False,
    ),
    KnownBad(
        "transforms.json lists it, one user's copy did not hold it",
        "issue 16 of cvg/NoPoSplat",
        "dbe5cf545498826740f028ec0f05fd3cf844c38a383c60d1e9126955245123f3",
        path="frame_00270.png",
        drop=False,
    ),
)

_SCENE = r"\d+K/[0-9a-f]{64}(/[0-9a-f]{64})?"
_NESTED = r"[0-9a-f]{64}/nerfstudio"
_IMAGES = r"images(_[248])?"

SPEC = Spec(
    name="dl3dv",
    title="DL3DV-10K",
    rule="scene",
    licence="DL3DV-10K Terms of Use with CC BY-NC 4.0: non-commercial research and education",
    source="gated dataset pages, one for each resolution; scripts/download.py of DL3DV-10K/Dataset fetches and unpacks",
    layouts=(
        Layout(
            "batches",
            "<1K..11K>/<hash>/{images_8,images_4,images_2 or images; transforms.json}",
            (rf"{_SCENE}/{_IMAGES}", rf"{_SCENE}/transforms\.json"),
            {
                rf"{_SCENE}/{_IMAGES}": "frames",
                rf"{_SCENE}/transforms\.json": "cameras",
                rf"{_SCENE}/colmap/sparse/0": "models of the ColmapCache: tracks",
                r"\.cache/DL3DV-valid\.csv": "list of scenes, and which of them are a problem",
                r"benchmark-meta\.csv": "scenes of the Benchmark, which evaluations use",
            },
        ),
        Layout(
            "sample or benchmark",
            "<hash>/nerfstudio/{images_8 or images_4; transforms.json}",
            (rf"{_NESTED}/{_IMAGES}", rf"{_NESTED}/transforms\.json"),
            {
                rf"{_NESTED}/{_IMAGES}": "frames",
                rf"{_NESTED}/transforms\.json": "cameras",
                r"[0-9a-f]{64}/colmap(/colmap)?/sparse/0": "models: tracks",
                r"benchmark-meta\.csv": "scenes of the Benchmark, which evaluations use",
            },
        ),
    ),
    archives=("*K/*.zip => *",),
    num_scenes=10_221,
    num_frames=3_317_000,
    counts=(
        "DL3DV-valid.csv has 10,320 scenes, 99 of them labelled `problem`; not all of the others can be had at each "
        "resolution. The number of frames is the one, in thousands, that MuM's table gives for images_8"
    ),
    known_bad=_KNOWN_BAD,
    presets={"mumdata": {}, "mum-paper": {}, "mum-released": {}},
)

_BATCH = re.compile(r"\d+K")
_HASH = re.compile(r"[0-9a-f]{64}")
# the smallest first: it decodes fastest, and is what MuM was trained on
_LEVELS = ("images_8", "images_4", "images_2", "images")
_LABELS = (".cache/DL3DV-valid.csv", "DL3DV-valid.csv")
_BENCHMARK = ("benchmark-meta.csv", ".cache/benchmark-meta.csv")


def scenes(tree: Tree) -> list[Scene]:
    """List the hashes in all batches and at the root; LayoutError where there is none.

    A hash that lies in several places is one scene.
    """
    found: dict[str, list[str]] = {}
    batches = sorted(filter(_BATCH.fullmatch, tree.folders("")), key=natural_key)
    for batch in (*batches, ""):
        for name in filter(_HASH.fullmatch, tree.folders(batch)):
            found.setdefault(name, []).append(f"{batch}/{name}" if batch else name)
    if not found:
        raise LayoutError(f"{tree.root} does not look like dl3dv; expected {SPEC.layout}")
    doubtful = _hashes(tree, _LABELS, "problem")
    evaluated = _hashes(tree, _BENCHMARK)
    return [Scene(None, name, (tuple(found[name]), name in doubtful, name in evaluated)) for name in sorted(found)]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read one scene: images by number, cameras by name."""
    folders, doubtful, evaluated = scene.places
    name, eval_of = scene.scene, "dl3dv-benchmark" if evaluated else None
    notes = [f"labelled 'problem' in {_LABELS[0].rpartition('/')[2]}"] if doubtful else []
    problem = "doubtful" if doubtful else None

    bases = _bases(name, folders)
    base, level, files, ignored = _images(tree, bases)
    transforms, error = _transforms(tree, base)
    if not files:
        num_listed = len(transforms.views) if transforms else 0
        notes += [f"no image in {', '.join(_LEVELS[:-1])} or images; {num_listed} listed"]
        return [Stream(None, (), name, eval_of=eval_of, problem="empty", detail="; ".join(notes))]

    model, model_error = model_in(tree, (f"{each}/{sub}" for each in bases for sub in ("colmap/sparse/0", "sparse/0")))
    if error or model_error:
        problem, notes = "bad_model", [*notes, *filter(None, (error, model_error))]
    elif transforms is None and model is None:
        problem, notes = "no_model", [*notes, "no transforms.json"]
    elif transforms is not None and transforms.summary:
        problem, notes = problem or "partial_poses", [*notes, transforms.summary]

    views, other = _views(transforms, model)
    stems = natural_order({*files, *views})
    ending = next(iter(files.values())).rpartition(".")[2]
    folder = f"{base}/{level}"
    tracks: dict[str, Any] = {}
    if model is not None:
        tracks["model"], tracks["rows"] = rows_of(model, stems)
    return [
        Stream(
            None,
            tuple(f"{folder}/{files.get(stem, f'{stem}.{ending}')}" for stem in stems),
            name,
            cameras=cameras_of([views.get(stem, other) for stem in stems]) if views else None,
            eval_of=eval_of,
            problem=problem,
            detail="; ".join(notes) or None,
            ignored=ignored,
            **tracks,
        )
    ]


def _bases(name: str, folders: tuple[str, ...]) -> list[str]:
    # where a scene's images and transforms.json may lie beside each other
    tops = [top for folder in folders for top in (folder, f"{folder}/{name}")]
    return [*tops, *(f"{top}/{part}" for part in ("nerfstudio", "colmap") for top in tops)]


def _images(tree: Tree, bases: list[str]) -> tuple[str, str, dict[str, str], tuple[Ignored, ...]]:
    """Return the first place with images: its base, the level's folder, stem -> file name, and what was ignored.

    Without any image, the first base with a transforms.json, or the first of all.
    """
    for base in bases:
        for level in _LEVELS:
            files, ignored = pictures_in(tree, f"{base}/{level}")
            if files:
                return base, level, files, ignored
    base = next((base for base in bases if tree.is_file(f"{base}/transforms.json")), bases[0])
    return base, _LEVELS[0], {}, ()


def _transforms(tree: Tree, base: str) -> tuple[Transforms | None, str | None]:
    path = f"{base}/transforms.json"
    if not tree.is_file(path):
        return None, None
    try:
        return read_transforms(tree, path), None
    except LayoutError as error:
        return None, str(error)


def _views(transforms: Transforms | None, model: Model | None) -> tuple[Mapping[str, View], View]:
    """Return what is known of the frames by stem, and of all others."""
    if transforms is not None:
        # one camera films a whole scene: the shared lens is that of the frames without a pose, too
        return transforms.views, View(None, transforms.lens)
    return (views_of_model(model) if model is not None else {}), View()


def _hashes(tree: Tree, candidates: tuple[str, ...], label: str | None = None) -> set[str]:
    # hashes in the first of the lists that is there; with a label, those in lines that have it as a field
    path = tree.first_file(candidates)
    if path is None:
        return set()
    try:
        lines = [[field.strip() for field in line.split(",")] for line in tree.read_text(path).splitlines()]
    except LayoutError:  # a list beside the data: without it less is known of the scenes, and no scene is lost
        return set()
    return {field for fields in lines if label is None or label in fields for field in fields if _HASH.fullmatch(field)}
