"""Weights in and out: released files against plain formulas, round trips, refusals, graphs."""

from __future__ import annotations

import importlib.util
import json
import math
import resource
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mumdata.errors import ConfigError, MumError
from mumtrain.checkpoint import load_checkpoint, save_checkpoint
from mumtrain.config import Config, apply
from mumtrain.masks.draw import draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.model.pixels import patchify
from mumtrain.optim import build_optimizer
from mumtrain.recipes import recipe
from mumtrain.weights import export, initialise_from, load_encoder, load_model
from mumtrain.weights.files import read_safetensors, read_torch, write_safetensors, write_torch

State = dict[str, torch.Tensor]

PATCH, WIDTH, DEPTH, HEADS = 4, 32, 3, 2
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 24, 3, 3
SIZE = (12, 20)  # 3 x 5 patches

THIN = [
    "data.size=16",
    f"model.patch={PATCH}",
    f"model.encoder.width={WIDTH}",
    f"model.encoder.depth={DEPTH}",
    f"model.encoder.heads={HEADS}",
    f"model.decoder.width={DECODER_WIDTH}",
    f"model.decoder.depth={DECODER_DEPTH}",
    f"model.decoder.heads={DECODER_HEADS}",
]


def thin(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, *sets])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- released files, and what their code computes, written from the formulas over the released names


def bare_periods(channels: int, dtype: torch.dtype) -> torch.Tensor:
    return 100 ** (2 * torch.arange(channels // 4, dtype=dtype) / (channels // 2))


def released(whole: bool = True, seed: int = 0) -> State:
    """A released state dict with random values, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def put(name: str, *shape: int, around: float = 0.0) -> None:
        state[name] = around + 0.2 * torch.randn(*shape, generator=generator)

    def layer(name: str, fan_in: int, fan_out: int) -> None:
        put(f"{name}.weight", fan_out, fan_in)
        put(f"{name}.bias", fan_out)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, around=1.0)
        put(f"{name}.bias", width)

    def blocks(name: str, number: int, width: int) -> None:
        for i in range(number):
            norm(f"{name}.{i}.norm1", width)
            layer(f"{name}.{i}.attn.qkv", width, 3 * width)
            layer(f"{name}.{i}.attn.proj", width, width)
            norm(f"{name}.{i}.norm2", width)
            layer(f"{name}.{i}.mlp.fc1", width, 4 * width)
            layer(f"{name}.{i}.mlp.fc2", 4 * width, width)

    put("cls_token", 1, 1, WIDTH)
    put("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH)
    put("patch_embed.proj.bias", WIDTH)
    state["rope_embed.periods"] = bare_periods(WIDTH // HEADS, torch.float32 if whole else torch.bfloat16)
    blocks("blocks", DEPTH, WIDTH)
    norm("norm", WIDTH)
    if whole:
        state["rope_embed_decoder.periods"] = bare_periods(DECODER_WIDTH // DECODER_HEADS, torch.float32)
        put("mask_token", 1, 1, DECODER_WIDTH)
        layer("decoder_embed", WIDTH, DECODER_WIDTH)
        blocks("decoder_frame_blocks", DECODER_DEPTH - DECODER_DEPTH // 2, DECODER_WIDTH)
        blocks("decoder_global_blocks", DECODER_DEPTH // 2, DECODER_WIDTH)
        norm("decoder_norm", DECODER_WIDTH)
        layer("decoder_pred", DECODER_WIDTH, 3 * PATCH**2)
    return state


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def plain_norm(state: State, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def plain_linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def plain_table(rows: int, columns: int, periods: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines and cosines [N, d] of the patches, in the number format of the periods, one patch at a time."""
    dtype, angles = periods.dtype, []
    for row in range(rows):
        for column in range(columns):
            of_patch = []
            for place, length in ((row, rows), (column, columns)):
                coordinate = 2 * ((torch.tensor(place, dtype=dtype) + 0.5) / length) - 1
                of_patch.append(2 * math.pi * coordinate / periods)
            angles.append(torch.cat(of_patch).repeat(2))
    stacked = torch.stack(angles)
    return stacked.sin(), stacked.cos()


def plain_turn(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    x_of_table = x.to(sin.dtype)
    first, second = x_of_table.chunk(2, -1)
    return (x_of_table * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def plain_block(
    state: State, name: str, x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor, heads: int, eps: float
) -> torch.Tensor:
    """A block over tokens [T, D] with a row of sines and cosines for each."""
    D = x.shape[1]
    qkv = plain_linear(state, f"{name}.attn.qkv", plain_norm(state, f"{name}.norm1", x, eps))
    mixed = []
    for head in range(heads):
        q, k, v = (qkv[:, part * D :][:, head * (D // heads) :][:, : D // heads] for part in range(3))
        scores = plain_turn(q, sin, cos) @ plain_turn(k, sin, cos).T / math.sqrt(D // heads)
        mixed.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v)
    x = x + plain_linear(state, f"{name}.attn.proj", torch.cat(mixed, -1))
    inner = plain_linear(state, f"{name}.mlp.fc1", plain_norm(state, f"{name}.norm2", x, eps))
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    return x + plain_linear(state, f"{name}.mlp.fc2", inner)


def with_class_token(
    sin: torch.Tensor, cos: torch.Tensor, turned: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A row in front: (0, 1) leaves the class token as it is, (0, 0) blanks its query and key."""
    return (
        torch.cat([torch.full_like(sin[:1], turned[0]), sin]),
        torch.cat([torch.full_like(cos[:1], turned[1]), cos]),
    )


def plain_encoder(
    state: State,
    image: torch.Tensor,
    kept: list[int] | None = None,
    *,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Tokens [1 + K, D] behind the norm of one normalised image [3, H, W]."""
    rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
    kept = list(range(rows * columns)) if kept is None else kept
    embedded = F.conv2d(image[None], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    tokens = embedded.flatten(2)[0].T[kept]
    periods = bare_periods(WIDTH // HEADS, dtype or torch.float64)
    sin, cos = (part if dtype else part.float() for part in plain_table(rows, columns, periods))
    sin, cos = with_class_token(sin[kept], cos[kept], (0, 1))
    x = torch.cat([state["cls_token"][0], tokens])
    for i in range(DEPTH):
        x = plain_block(state, f"blocks.{i}", x, sin, cos, HEADS, eps)
    return plain_norm(state, "norm", x, eps)


def plain_predict(state: State, views: torch.Tensor, hidden: list[list[int]]) -> torch.Tensor:
    """Predictions [V, N, P] of all patches of the views [V, 3, H, W] of one scene."""
    V, rows, columns = len(views), views.shape[2] // PATCH, views.shape[3] // PATCH
    N = rows * columns
    x = []
    for view, of_view in zip(views, hidden, strict=True):
        kept = [n for n in range(N) if n not in of_view]
        encoded = plain_linear(state, "decoder_embed", plain_encoder(state, view, kept))
        patches = state["mask_token"][0].repeat(N, 1)
        patches[kept] = encoded[1:]
        x.append(torch.cat([encoded[:1], patches]))
    sin, cos = (
        part.float() for part in plain_table(rows, columns, bare_periods(DECODER_WIDTH // DECODER_HEADS, torch.float64))
    )
    for i in range(DECODER_DEPTH):
        if i % 2 == 0:
            table = with_class_token(sin, cos, (0, 1))
            x = [plain_block(state, f"decoder_frame_blocks.{i // 2}", of, *table, DECODER_HEADS, 1e-6) for of in x]
        else:
            sines, cosines = (part.repeat(V, 1) for part in with_class_token(sin, cos, (0, 0)))
            all_views = plain_block(
                state, f"decoder_global_blocks.{i // 2}", torch.cat(x), sines, cosines, DECODER_HEADS, 1e-6
            )
            x = list(all_views.chunk(V))
    return torch.stack(
        [plain_linear(state, "decoder_pred", plain_norm(state, "decoder_norm", of, 1e-6))[1:] for of in x]
    )


@pytest.mark.parametrize("whole", [False, True])
def test_released_encoder_computes_the_formulas(tmp_path: Path, whole: bool) -> None:
    state = released(whole)
    encoder = load_encoder(save(tmp_path / "mum.pth", state))
    images = noise(2, 3, *SIZE)
    with torch.no_grad():
        found = encoder.forward_features(images)
    assert not encoder.training
    for number, image in enumerate(images):
        slow = plain_encoder(state, image)
        torch.testing.assert_close(found["x_norm_cls_token"][number], slow[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["x_norm_patchtokens"][number], slow[1:], rtol=0, atol=1e-5)


def test_released_encoder_in_its_own_numerics(tmp_path: Path) -> None:
    state = released(whole=False)
    path = save(tmp_path / "mum.pth", state)
    image = noise(3, *SIZE)
    with torch.no_grad():
        found = load_encoder(path, numerics="released").forward_features(image[None])["x_norm_patchtokens"][0]
        full = load_encoder(path).forward_features(image[None])["x_norm_patchtokens"][0]
    slow = plain_encoder(state, image, eps=1e-5, dtype=torch.bfloat16)[1:]
    torch.testing.assert_close(found, slow, rtol=0, atol=1e-3)
    assert (found - slow).abs().max() < (full - slow).abs().max() / 10
    # a file of the whole model was released with one way of computing
    whole = load_encoder(save(tmp_path / "whole.pth", released()), numerics="released")
    assert (whole.norm.eps, whole.rope.dtype) == (1e-6, torch.float32)


def test_released_model_computes_the_formulas(tmp_path: Path) -> None:
    state = released()
    loaded = load_model(save(tmp_path / "mum.pth", state))
    assert (loaded.config.decoder.heads, loaded.config.encoder.heads, loaded.size) == (DECODER_HEADS, HEADS, 14 * PATCH)
    V, grid = 3, (SIZE[0] // PATCH, SIZE[1] // PATCH)
    views = noise(2, V, 3, *SIZE)
    masks = draw_masks(thin("mask.ratio=0.6").mask, 2, V, grid, seed=0, step=0, slot=0)
    with torch.no_grad():
        found = loaded.model.predict(patchify(views, PATCH), grid, masks).values
    for number in range(2):
        hidden = [row.nonzero().flatten().tolist() for row in masks.is_hidden_BVN[number]]
        slow = plain_predict(state, views[number], hidden).flatten(0, 1)[masks.hidden_BH[number]]
        torch.testing.assert_close(found[number], slow, rtol=0, atol=1e-5)


def test_released_files_are_known_by_what_they_hold(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = released(whole=False)
    plain = load_encoder(save(tmp_path / "plain.pth", state)).state_dict()
    contents: dict[str, Any] = {
        "model.pt": {"model": state, "epoch": 3},
        "no_ending": {"teacher": {f"module.{name}": value for name, value in state.items()}},
        "a.safetensors": {f"_orig_mod.module.{name}": value for name, value in state.items()},
        "b.bin": {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    }
    save_file(state, tmp_path / "st.pth")
    for name in ["st.pth", *contents]:
        path = tmp_path / name
        if name in contents:
            save(path, contents[name])
        found = load_encoder(path).state_dict()
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[key], plain[key]) for key in plain), name


# ---- refusals


def fails(path: Path, *words: str, load: Any = load_encoder) -> str:
    with pytest.raises(MumError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message
    return message


@pytest.mark.parametrize("whole", [False, True])
def test_what_does_not_fit_is_listed(tmp_path: Path, whole: bool) -> None:
    state, path = released(whole), tmp_path / "mum.pth"
    total = len(state)
    del state["blocks.1.attn.proj.bias"]
    state["blocks.0.ls1.gamma"] = torch.ones(WIDTH)
    state["blocks.2.mlp.fc1.weight"] = torch.zeros(3 * WIDTH, WIDTH)
    state["norm.bias"] = torch.zeros(WIDTH + 1)
    words = [
        "1 missing (blocks.1.attn.proj.bias)",
        "1 unexpected (blocks.0.ls1.gamma)",
        f"2 of another shape (blocks.2.mlp.fc1.weight is [{3 * WIDTH}, {WIDTH}], not [{4 * WIDTH}, {WIDTH}], norm.bias",
        f"of {total} tensors",
    ]
    fails(save(path, state), *words)


def test_many_names_are_cut_short(tmp_path: Path) -> None:
    state = {n: t for n, t in released().items() if not n.startswith("blocks.1.")}
    message = fails(save(tmp_path / "mum.pth", state), "12 missing", "and 8 more", "12 unexpected")
    # the last of the blocks that are there is taken for the missing one: both are told
    assert "blocks.2.norm1.weight" in message
    assert len(message) < 500


def test_decoder_blocks_must_alternate(tmp_path: Path) -> None:
    state = released()
    moved = {n.replace("decoder_frame_blocks.1", "decoder_global_blocks.1"): t for n, t in state.items()}
    fails(save(tmp_path / "mum.pth", moved), "decoder_frame_blocks.1", "decoder_global_blocks.1", load=load_model)
    fails(save(tmp_path / "half.pth", released(whole=False)), "encoder alone", load=load_model)
    del state["rope_embed_decoder.periods"]
    fails(save(tmp_path / "no_periods.pth", state), "rope_embed_decoder.periods")


@pytest.mark.parametrize("name", ["rope_embed.periods", "rope_embed_decoder.periods"])
def test_other_periods_are_refused(tmp_path: Path, name: str) -> None:
    state = released()
    for factor in (1.1, 0.9):
        wrong = state | {name: state[name] * torch.tensor([1.0] * (len(state[name]) - 1) + [factor])}
        fails(save(tmp_path / "mum.pth", wrong), f"'{name}'", "periods")
    coarse = state | {name: state[name].bfloat16()}  # coarser, but the same
    for same in (coarse[name], coarse[name].float(), coarse[name].double(), state[name].double(), state[name].half()):
        load_encoder(save(tmp_path / "mum.pth", state | {name: same}))
    fails(save(tmp_path / "mum.pth", state | {name: coarse[name] * 1.1}), f"'{name}'")
    fails(save(tmp_path / "mum.pth", state | {name: torch.ones(5)}), f"'{name}'", "20 channels")


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def test_pickles_stay_closed(tmp_path: Path) -> None:
    state, mark = released(whole=False), tmp_path / "executed"
    fails(save(tmp_path / "payload.pth", state | {"extra": Payload(mark)}), "run code")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    fails(tmp_path / "legacy.pth", "save it again")
    (tmp_path / "text.pth").write_text("no weights at all")
    fails(tmp_path / "text.pth", "save it again")
    whole = save(tmp_path / "cut.pth", state).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    fails(tmp_path / "cut.pth")
    fails(tmp_path / "nowhere.pth", "does not exist")
    with zipfile.ZipFile(tmp_path / "cut.pth", "w", zipfile.ZIP_DEFLATED) as squeezed:
        squeezed.writestr("archive/data.pkl", b"0" * 10**6)
    fails(tmp_path / "cut.pth", "compressed")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    squeezed_run = tmp_path / "run" / "checkpoints" / "step-00000001.pt"
    stored = zipfile.ZipFile(run_of(thin(), tmp_path / "whole"))
    with stored, zipfile.ZipFile(squeezed_run, "w", zipfile.ZIP_DEFLATED) as squeezed:
        for part in stored.namelist():
            squeezed.writestr(part, stored.read(part))
    fails(squeezed_run, "compressed", load=load_checkpoint)
    with pytest.raises(MumError, match="no checkpoint in"):
        load_encoder(tmp_path / "run")
    assert not mark.exists()


def test_a_tensor_may_not_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    state = released(whole=False)
    huge = torch.zeros(1).expand(10**6, 10**6)
    fails(save(tmp_path / "huge.pth", state | {"norm.bias": huge}), "norm.bias", "claims")
    fails(save(tmp_path / "text.pth", state | {"norm.bias": "text"}), "norm.bias", "no tensor")
    fails(save(tmp_path / "int.pth", state | {"norm.bias": torch.ones(WIDTH).int()}), "norm.bias")
    fails(save(tmp_path / "sparse.pth", state | {"norm.bias": torch.ones(WIDTH).to_sparse()}), "norm.bias")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own, about nested tensors
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    fails(save(tmp_path / "nested.pth", state | {"norm.bias": nested}), "norm.bias", "no dense tensor")
    fails(save(tmp_path / "fp8.pth", state | {"norm.bias": torch.ones(WIDTH).to(torch.float8_e4m3fn)}), "norm.bias")


@pytest.mark.parametrize(
    ("value", "dtype"), [(math.nan, torch.float32), (-math.inf, torch.half), (1e300, torch.double)]
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    state = released()
    wrong = state["blocks.1.mlp.fc1.weight"].to(dtype)
    wrong[3, 1] = value
    path = save(tmp_path / "mum.pth", state | {"blocks.1.mlp.fc1.weight": wrong})
    for load in (load_encoder, load_model, lambda path: start(as_released(), path)):
        fails(path, "'blocks.1.mlp.fc1.weight'", "NaN or infinite", load=load)
    run = run_of(thin(), tmp_path / "run")
    content = torch.load(run, weights_only=True)
    content["model"]["encoder.norm.bias"] = torch.full([WIDTH], value, dtype=dtype)
    fails(save(run, content), "'encoder.norm.bias'", "NaN or infinite")
    load_checkpoint(run)  # a run may go on from whatever it came to


@pytest.mark.parametrize(
    ("entry", "value", "word"),
    [
        ("step", "7", "is of type str, not int"),
        ("step", True, "type bool"),
        ("step", -1, "negative"),
        ("model", [1], "type list"),
        ("optimizer", torch.ones(2), "type Tensor"),
        ("config", None, "NoneType"),
        ("tally", 3, "int, not dict"),
        ("mix_digest", 3, "int, not str"),
        ("format", torch.ones(2), "no mumtrain checkpoint"),
    ],
)
def test_checkpoints_with_odd_entries(tmp_path: Path, entry: str, value: Any, word: str) -> None:
    path = run_of(thin(), tmp_path / "run")
    content = torch.load(path, weights_only=True)
    fails(save(path, content | {entry: value}), word, load=load_checkpoint)
    fails(path, word)
    del content[entry]
    fails(save(path, content), load=load_checkpoint)


def nest(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def test_odd_configs_are_told_with_their_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    run = run_of(thin(), tmp_path / "run")
    content = torch.load(run, weights_only=True)
    half = export(run, out=tmp_path / "half.safetensors").path
    tensors, metadata = read_safetensors(half)
    config = json.loads(metadata["mumtrain"])

    def with_model(**settings: Any) -> dict[str, Any]:
        return config | {"model": config["model"] | settings}

    for odd, word in (
        (with_model(colour=3), "unknown setting 'model.colour'"),
        (with_model(norm_eps="much"), "model.norm_eps"),
        ([], "the config must be a section"),
        (with_model(registers=10**18), "no model has the sizes"),
        (with_model(registers=10**30), "no model has the sizes"),
    ):
        fails(save(run, content | {"config": odd}), *([word] if odd else ["'config'"]))
        save_file(tensors, half, {"mumtrain": json.dumps(odd)})
        fails(half, word)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20000)  # to write it
    save(run, content | {"config": with_model(patch=nest(3000))})
    sys.setrecursionlimit(before)
    fails(run, "nested too deeply")
    save_file(tensors, half, {"mumtrain": "[" * 10**5 + "]" * 10**5})
    fails(half, "no JSON")
    flat = {"patch_embed.proj.weight": torch.ones(0, 3, 10**18, 1), "cls_token": torch.ones(1, 1, WIDTH)}
    fails(save(tmp_path / "flat.pth", released(whole=False) | flat), "no model has the sizes")


def test_other_contents_are_named(tmp_path: Path) -> None:
    fails(save(tmp_path / "list.pth", [torch.ones(2)]), "list")
    fails(save(tmp_path / "other.pth", {"conv1.weight": torch.ones(2)}), "conv1.weight")
    fails(save(tmp_path / "ours.pth", build_model(thin()).state_dict()), "without its settings")
    (tmp_path / "bad.safetensors").write_bytes((2**5).to_bytes(8, "little") + b'{"a": 3}' + b" " * 40)
    fails(tmp_path / "bad.safetensors", "broken")


# ---- our own files


def run_of(config: Config, folder: Path) -> Path:
    model = build_model(config)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.1 * noise(*parameter.shape, seed=number)
    return save_checkpoint(folder, 3, model, build_optimizer(model, config), config, "digest", {})


FAMILY = {
    "mum": [],
    "blank": ["model.global_class_token=blank"],
    "mae": ["model.positions=absolute", "model.decoder_attention=frame", "data.views_min=1", "data.views_max=1"],
    "croco": [
        "model.positions=integer",
        "model.class_token=false",
        "model.decoder_attention=cross",
        "mask.references=1",
        "data.views_min=2",
        "data.views_max=2",
    ],
    "muskie": [
        "model.positions=integer",
        "model.encoder_attention=alternating",
        "model.decoder_attention=none",
        "model.hidden_tokens=replaced",
        "model.registers=2",
        "model.target=raw",
        "model.confidence=true",
    ],
}


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    config = thin(*FAMILY[name])
    checkpoint = run_of(config, tmp_path / "run")
    whole = export(checkpoint, out=tmp_path / "whole.safetensors", whole=True).path
    half = export(tmp_path / "run", out=tmp_path / "half.safetensors").path
    model = load_model(checkpoint)
    for source in (tmp_path / "run", whole):
        other = load_model(source)
        assert other.config == model.config == config.model
        assert other.size == config.data.size
        assert_same(other.model, model.model)
    stored = torch.load(checkpoint, weights_only=True)["model"]
    assert all(torch.equal(stored[key], value) for key, value in model.model.state_dict().items())
    images = noise(2, 3, *SIZE)
    for source in (checkpoint, tmp_path / "run", whole, half):
        encoder = load_encoder(source)
        assert_same(encoder, model.model.encoder)
        with torch.no_grad():
            found = encoder.forward_features(images)
            expected = model.model.encoder.forward_features(images)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    # the same file, byte for byte, also from the exported one
    again = export(whole, out=tmp_path / "again.safetensors").path
    assert again.read_bytes() == half.read_bytes()
    fails(half, "encoder alone", load=load_model)


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
    assert not one.training


def test_dtype_and_gradients(tmp_path: Path) -> None:
    path = save(tmp_path / "mum.pth", released())
    half = load_encoder(path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.forward_features(noise(1, 3, *SIZE).bfloat16())["x_prenorm"].dtype == torch.bfloat16
    coarse = {name: value.half() for name, value in released().items()}
    encoder = load_encoder(save(tmp_path / "half.pth", coarse))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    encoder.forward_features(noise(1, 3, *SIZE))["x_norm_patchtokens"].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_file_may_go_once_it_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "mum.pth", released())
    encoder = load_encoder(path)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    path.write_bytes(b"\0" * path.stat().st_size)  # in place: weights that lay in the file would change
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_checkpoint_that_lost_tensors_is_told(tmp_path: Path) -> None:
    path = run_of(thin(), tmp_path / "run")
    content = torch.load(path, weights_only=True)
    del content["model"]["encoder.norm.weight"]
    fails(save(path, content), "1 missing (encoder.norm.weight)")
    content["config"]["model"]["encoder"]["depth"] = 5000
    fails(save(path, content), "more blocks")


@pytest.mark.slow
def test_recompute_is_for_training_alone(tmp_path: Path) -> None:
    run = run_of(thin("model.recompute=true", "model.encoder.depth=1"), tmp_path / "run")
    assert load_model(run).config.recompute
    images = noise(2, 3, *SIZE)
    for encoder in (load_encoder(run), load_model(run).model.encoder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own names
            program = torch.export.export(Features(encoder), (images,), strict=True)
        found, expected = program.module()(images), encoder.forward_features(images)
        torch.testing.assert_close(found["x_prenorm"], expected["x_prenorm"], rtol=0, atol=1e-6)


# ---- the released layout, the other way round


@pytest.mark.parametrize("whole", [False, True])
def test_released_layout_round_trip(tmp_path: Path, whole: bool) -> None:
    state = released(whole)
    path = save(tmp_path / "mum.pth", state)
    back = read_torch(export(path, out=tmp_path / "back.pth", format="released", whole=whole).path)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].dtype == value.dtype, name
        assert torch.equal(back[name], value), name
    ours = run_of(thin("model.global_class_token=blank"), tmp_path / "run")
    there = export(ours, out=tmp_path / "there.pth", format="released", whole=whole).path
    assert_same(load_encoder(there), load_encoder(ours))
    told = export(ours, out=tmp_path / "there.pth", format="released", whole=whole).note
    assert ("computes with LayerNorm's epsilon 1e-05 and bfloat16 tables, this model with 1e-06" in told) != whole
    if whole:
        assert_same(load_model(there).model, load_model(ours).model)
        assert load_model(there).config == load_model(ours).config


@pytest.mark.parametrize(
    ("sets", "whole", "word"),
    [
        ([], True, "model.global_class_token=unrotated"),
        (["model.positions=absolute"], False, "model.positions=absolute"),
        (["model.registers=1"], False, "model.registers=1"),
        (["model.class_token=false"], False, "model.class_token=False"),
        (["model.pixels=half"], False, "model.pixels=half"),
        (["model.rope_base=50"], False, "model.rope_base=50"),
        (["model.norm_eps=1e-5"], False, "model.norm_eps=1e-05"),
        (FAMILY["muskie"], False, "model.encoder_attention=alternating"),
    ],
)
def test_released_layout_says_what_it_cannot_hold(tmp_path: Path, sets: list[str], whole: bool, word: str) -> None:
    path = run_of(thin(*sets), tmp_path / "run")
    with pytest.raises(ConfigError, match=word):
        export(path, out=tmp_path / "out.pth", format="released", whole=whole)
    assert not (tmp_path / "out.pth").exists()


def test_export_refuses_before_it_writes(tmp_path: Path) -> None:
    path = save(tmp_path / "mum.pth", released(whole=False))
    for words, options in (
        ("did you mean 'onnx'", {"format": "onxx", "out": "a.onnx"}),
        (".safetensors", {"out": "a.pth"}),
        ("encoder alone", {"out": "a.safetensors", "whole": True}),
        ("holds an encoder", {"out": "a.pth", "format": "timm", "whole": True}),
        ("multiple of the patch", {"out": "a.pth", "format": "timm", "size": 13}),
    ):
        with pytest.raises(ConfigError, match=words):
            export(path, **{**options, "out": tmp_path / options["out"]})
    assert [p.name for p in tmp_path.iterdir()] == ["mum.pth"]


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_export_without_space_or_folder(tmp_path: Path, ending: str) -> None:
    path, format = save(tmp_path / "mum.pth", released()), "released"
    with pytest.raises(MumError, match=r"cannot write /proc/nowhere/a\..*choose another"):
        export(path, out=Path(f"/proc/nowhere/a.{ending}"), format=format)
    big = {"x": torch.zeros(2**19)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(MumError, match=r"cannot write .*/big") as caught:
            write_torch(tmp_path / "big", big) if ending == "pth" else write_safetensors(tmp_path / "big", big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mum.pth"]


def test_advice_can_be_followed(tmp_path: Path) -> None:
    def advice(format: str, *sets: str, whole: bool = False) -> str:
        run = run_of(thin(*sets), tmp_path / "run")
        out = tmp_path / ("a.onnx" if format == "onnx" else "a.pth")
        with pytest.raises(ConfigError) as caught:
            export(run, out=out, format=format, whole=whole)
        return str(caught.value).partition("; ")[2]

    assert advice("released", "model.registers=1") == "export the model as safetensors or onnx"
    assert advice("released", "model.registers=1", whole=True) == "export the model as safetensors"
    assert advice("timm", "model.rope_precision=bfloat16") == "export the model as safetensors"
    assert advice("onnx", "model.rope_precision=bfloat16") == "export as safetensors"


def test_tensors_that_share_a_memory_are_written_apart(tmp_path: Path) -> None:
    both = torch.arange(6.0)
    tensors = {"a": both, "b": both[2:4], "c": both.view(2, 3).T}
    write_safetensors(tmp_path / "a.safetensors", tensors, {})
    found, _ = read_safetensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


# ---- timm and DINOv3


def test_dinov3_layout(tmp_path: Path) -> None:
    state = released(whole=False)
    path = save(tmp_path / "mum.pth", state)
    found = export(path, out=tmp_path / "dino.pth", format="dinov3")
    stored = read_torch(found.path)
    assert stored.keys() == {*state, "mask_token"}
    assert all(torch.equal(stored[name], state[name]) for name in state if not name.startswith("rope"))
    assert torch.equal(stored["mask_token"], torch.zeros(1, WIDTH))
    assert torch.equal(stored["rope_embed.periods"], bare_periods(WIDTH // HEADS, torch.float32))
    for word in ("norm_layer='layernorm'", "pos_embed_rope_dtype='fp32'", "n_storage_tokens=0", f"num_heads={HEADS}"):
        assert word in found.note
    theirs = export(path, out=tmp_path / "bf16.pth", format="dinov3", numerics="released")
    assert torch.equal(read_torch(theirs.path)["rope_embed.periods"], state["rope_embed.periods"])
    assert "norm_layer='layernormbf16'" in theirs.note
    assert "pos_embed_rope_dtype='bf16'" in theirs.note
    run = run_of(thin("model.registers=2", "model.hidden_tokens=replaced"), tmp_path / "run")
    with_registers = read_torch(export(run, out=tmp_path / "registers.pth", format="dinov3").path)
    encoder = load_encoder(run)
    assert torch.equal(with_registers["storage_tokens"], encoder.register_token)
    assert torch.equal(with_registers["mask_token"], encoder.mask_token[0])


def test_dinov3_layout_computes_the_formulas(tmp_path: Path) -> None:
    run = run_of(thin(), tmp_path / "run")
    state = read_torch(export(run, out=tmp_path / "dino.pth", format="dinov3").path)
    image = noise(3, *SIZE)
    with torch.no_grad():
        found = load_encoder(run).forward_features(image[None])["x_norm_patchtokens"][0]
        torch.testing.assert_close(found, plain_encoder(state, image)[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("positions", ["axial", "absolute"])
def test_timm_layout_computes_the_formulas(tmp_path: Path, positions: str, registers: int) -> None:
    run = run_of(thin(f"model.positions={positions}", f"model.registers={registers}"), tmp_path / "run")
    found = export(run, out=tmp_path / "timm.safetensors", format="timm", size=12)
    from safetensors import safe_open

    with safe_open(found.path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        arguments = json.loads(file.metadata()["timm"])
    assert (arguments["num_heads"], arguments["img_size"]) == (HEADS, 12)
    expected = {name for name in released(whole=False) if not name.startswith("rope")}
    expected |= ({"reg_token"} if registers else set()) | ({"pos_embed"} if positions == "absolute" else set())
    assert state.keys() == expected
    if positions == "absolute":  # of the patch in row 1, column 2: MAE's code puts columns first
        halves = [
            [wave(place / 10000 ** (4 * k / WIDTH)) for wave in (math.sin, math.cos) for k in range(WIDTH // 4)]
            for place in (2, 1)
        ]
        of_patch = state["pos_embed"][0, 1 + registers + 5]
        torch.testing.assert_close(of_patch, torch.tensor(halves).flatten(), rtol=0, atol=1e-6)
    image = noise(3, 12, 12)
    # as timm's classes compute it: special tokens first, positions added to all of them or turned behind them
    tokens = F.conv2d(image[None], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([state["cls_token"][0], *(state["reg_token"] if registers else []), tokens.flatten(2)[0].T])
    if positions == "absolute":
        x = x + state["pos_embed"][0]
        sin, cos = torch.zeros(len(x), 1), torch.ones(len(x), 1)
    else:
        sin, cos = (part.float() for part in plain_table(3, 3, bare_periods(WIDTH // HEADS, torch.float64)))
        for _ in range(1 + registers):
            sin, cos = with_class_token(sin, cos, (0, 1))
    for i in range(DEPTH):
        x = plain_block(state, f"blocks.{i}", x, sin, cos, HEADS, 1e-6)
    with torch.no_grad():
        ours = load_encoder(run).forward_features(image[None])
    slow = plain_norm(state, "norm", x, 1e-6)
    torch.testing.assert_close(ours["x_norm_patchtokens"][0], slow[1 + registers :], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["x_norm_cls_token"][0], slow[0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_timm_itself_computes_the_same(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="needs timm, which needs torchvision", exc_type=ImportError)
    from safetensors.torch import load_file

    for sets in (
        [],
        ["model.positions=absolute"],
        ["model.registers=2", "model.rope_base=50"],
        ["model.class_token=false"],
    ):
        run = run_of(thin(*sets), tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        found = export(run, out=tmp_path / "timm.safetensors", format="timm", size=12)
        name = found.note.split("(")[0].rpartition(".")[2]
        from safetensors import safe_open

        with safe_open(found.path, framework="pt") as file:
            arguments = json.loads(file.metadata()["timm"])
        kind = timm.models.eva.Eva if name == "Eva" else timm.models.vision_transformer.VisionTransformer
        model = kind(**arguments, norm_layer=lambda width, **rest: torch.nn.LayerNorm(width, eps=1e-6, **rest)).eval()
        model.load_state_dict(load_file(found.path))
        images = noise(2, 3, 12, 12)
        with torch.no_grad():
            ours = load_encoder(run)
            tokens = ours.norm(ours.forward_features(images)["x_prenorm"])
            torch.testing.assert_close(model.forward_features(images), tokens, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("format", "sets", "word"),
    [
        ("timm", FAMILY["croco"], "model.positions=integer"),
        ("timm", FAMILY["muskie"], "model.encoder_attention=alternating"),
        ("timm", ["model.rope_precision=bfloat16"], "model.rope_precision=bfloat16"),
        ("dinov3", FAMILY["croco"], "model.positions=integer, model.class_token=False"),
        ("dinov3", ["model.norm_eps=1e-4"], "model.norm_eps=0.0001"),
        ("onnx", ["model.rope_precision=bfloat16"], "bfloat16"),
    ],
)
def test_encoders_that_a_layout_cannot_compute(tmp_path: Path, format: str, sets: list[str], word: str) -> None:
    run = run_of(thin(*sets), tmp_path / "run")
    out = tmp_path / ("a.onnx" if format == "onnx" else "a.pth")
    with pytest.raises(ConfigError, match=word):
        export(run, out=out, format=format)
    assert not out.exists()


# ---- graphs


def shallow(name: str) -> Config:
    # tracing takes its time for every block; muskie's second one sees all views
    return thin(*FAMILY[name], f"model.encoder.depth={2 if name == 'muskie' else 1}")


class Features(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.encoder.forward_features(images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mum", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mae", "muskie"))])
def test_features_export_and_compile(tmp_path: Path, name: str) -> None:
    model = Features(load_encoder(run_of(shallow(name), tmp_path / "run"))).eval()
    images = noise(5, 3, *SIZE)
    with torch.no_grad():
        expected = model(images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own names
            program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for run in (program.module(), compiled):
            for found in (run(images), run(images[:2])):
                for key, value in found.items():
                    torch.testing.assert_close(value, expected[key][: len(value)], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mum", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mae", "muskie"))])
def test_onnx_graph(tmp_path: Path, name: str) -> None:
    import onnxruntime

    run = run_of(shallow(name), tmp_path / "run")
    found = export(run, out=tmp_path / "encoder.onnx", format="onnx", size=12)
    assert "onnxruntime and torch differ by" in found.note
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 12, 12]
    encoder = load_encoder(run)
    names = ["patch_tokens"] + (["class_token"] if encoder.class_token is not None else [])
    assert [output.name for output in session.get_outputs()] == names
    for number in (1, 3):
        images = noise(number, 3, 12, 12, seed=number)
        with torch.no_grad():
            expected = encoder.forward_features(images)
        theirs = dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))
        assert abs(theirs["patch_tokens"] - expected["x_norm_patchtokens"].numpy()).max() < 1e-4
        if "class_token" in theirs:
            assert abs(theirs["class_token"] - expected["x_norm_cls_token"].numpy()).max() < 1e-4


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "mum.pth", released(whole=False))
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else real(name, *rest)
    )
    with pytest.raises(MumError, match=r"needs onnxscript; run pip install"):
        export(path, out=tmp_path / "a.onnx", format="onnx")


# ---- starting a run from weights


def as_released(*sets: str) -> Config:
    return thin("model.global_class_token=blank", *sets)


def start(config: Config, source: Path, **options: Any) -> tuple[MaskedAutoencoder, MaskedAutoencoder, Any]:
    model = build_model(config)
    return model, build_model(config), initialise_from(model, source, config=config.model, **options)


def test_a_run_starts_from_encoder_and_decoder(tmp_path: Path) -> None:
    path = save(tmp_path / "mum.pth", released())
    model, _, found = start(as_released(), path)
    assert_same(model.eval(), load_model(path).model)
    assert not found.anew
    assert set(found.taken) == set(model.state_dict())
    assert json.loads(json.dumps(found.to_dict()))["sha256"] == found.sha256
    assert len(found.sha256) == 64
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("whole", "sets", "options"),
    [
        (False, [], {}),
        (True, [], {"parts": "encoder"}),
        (True, ["model.decoder.width=16", "model.decoder.heads=2"], {}),
        (True, ["model.decoder_attention=frame"], {}),
        (True, ["model.hidden_tokens=replaced"], {}),
    ],
)
def test_a_run_starts_from_the_encoder_alone(
    tmp_path: Path, whole: bool, sets: list[str], options: dict[str, Any]
) -> None:
    path = save(tmp_path / "mum.pth", released(whole))
    model, fresh, found = start(as_released(*sets), path, **options)
    state, before, stored = model.state_dict(), fresh.state_dict(), load_encoder(path).state_dict()
    for name, value in state.items():
        taken = name.removeprefix("encoder.") in stored and name.startswith("encoder.")
        assert torch.equal(value, stored[name.removeprefix("encoder.")] if taken else before[name]), name
        assert (name in found.taken, name in found.anew) == (taken, not taken)
    assert str(found).startswith(f"encoder (ViT {WIDTH} wide, {DEPTH} deep, 41 tensors) from ")
    assert (found.to_dict()["width"], found.to_dict()["depth"]) == (WIDTH, DEPTH)
    assert "the decoder" in str(found)
    if "model.hidden_tokens=replaced" in sets:
        assert "encoder.mask_token" in str(found)


def test_a_croco_run_starts_from_a_croco_encoder(tmp_path: Path) -> None:
    config = thin(*FAMILY["croco"])
    path = run_of(config, tmp_path / "run")
    model, _, found = start(config, tmp_path / "run")
    assert found.source == str(path)
    assert_same(model.eval(), load_model(path).model)


def test_the_released_encoder_in_either_numerics(tmp_path: Path) -> None:
    path = save(tmp_path / "mum.pth", released(whole=False))
    start(as_released("model.norm_eps=1e-5", "model.rope_precision=bfloat16"), path)
    start(as_released(), path)
    with pytest.raises(ConfigError, match=r"--set model.norm_eps=1e-06$"):
        start(as_released("model.norm_eps=1e-5"), path)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (
            ["model.global_class_token=unrotated", "model.decoder.heads=2"],
            f"--set model.decoder.heads={DECODER_HEADS} --set model.global_class_token=blank",
        ),
        (["model.positions=absolute"], "--set model.positions=axial"),
        (["model.positions=integer", "model.class_token=false"], "--set model.class_token=true"),
        (["model.patch=8"], f"--set model.patch={PATCH}"),
        (["model.encoder.depth=2"], f"--set model.encoder.depth={DEPTH}"),
        (["model.encoder.width=16"], f"--set model.encoder.width={WIDTH}"),
        (["model.encoder.heads=4"], f"--set model.encoder.heads={HEADS}"),
        (["model.registers=1"], "--set model.registers=0"),
        (["model.norm_eps=1e-5"], "--set model.norm_eps=1e-06"),
        (["model.pixels=half"], "--set model.pixels=imagenet"),
    ],
)
def test_other_settings_are_told_and_nothing_is_taken(tmp_path: Path, sets: list[str], told: str) -> None:
    path = save(tmp_path / "mum.pth", released())
    config = as_released(*sets)
    model = build_model(config)
    with pytest.raises(ConfigError) as caught:
        initialise_from(model, path, config=config.model)
    assert told in str(caught.value)
    fresh = build_model(config).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    # what it says to set is enough
    words = str(caught.value).split(", or ")[0].split()
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    start(as_released(*[s for s in sets if s.split("=")[0] not in {c.split("=")[0] for c in changes}], *changes), path)


def test_muskie_runs_start_from_muskie(tmp_path: Path) -> None:
    sets = [*FAMILY["muskie"], "model.class_token=true"]
    path = run_of(thin(*sets), tmp_path / "run")
    # there is no decoder whose size could differ
    model, _, _ = start(thin(*sets, "model.decoder.depth=1", "model.recompute=true"), path)
    assert_same(model.eval(), load_model(path).model)
    # its encoder sees all views, and there the class token counts
    with pytest.raises(ConfigError, match=r"with --set model.global_class_token=unrotated$"):
        start(thin(*sets, "model.global_class_token=blank"), path, parts="encoder")


def test_another_kind_of_encoder_is_named_without_advice(tmp_path: Path) -> None:
    # to change the kind alone need not be possible: it goes with masks and views
    path = run_of(thin(*FAMILY["muskie"], "model.class_token=true"), tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        start(thin(), path)
    message = str(caught.value)
    assert message.partition("another model, ")[2] == (
        "one with model.encoder_attention=alternating (this run: frame), model.registers=2 (this run: 0), "
        "model.positions=integer (this run: axial); give weights of this run's kind"
    )
    assert "--set" not in message


def test_all_parts_may_be_asked_for(tmp_path: Path) -> None:
    half = save(tmp_path / "half.pth", released(whole=False))
    with pytest.raises(ConfigError, match="encoder alone"):
        start(as_released(), half, parts="all")
    whole = save(tmp_path / "whole.pth", released())
    with pytest.raises(ConfigError, match=r"model.decoder_attention=alternating.*--init-parts encoder"):
        start(as_released("model.decoder_attention=frame"), whole, parts="all")


def test_a_safetensors_file_may_be_read_by_whoever_may_read_others(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode
