"""Compiled blocks: the same numbers, few compilations, and nothing that fails in silence."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from mumtrain import compiled
from mumtrain.compiled import EXPECTED, Compilations, compile_blocks
from mumtrain.config import Config, apply
from mumtrain.masks.draw import Masks, draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, build_model
from mumtrain.recipes import recipe

TINY = [
    "data.size=32",
    "model.patch=8",
    "model.encoder.width=32",
    "model.encoder.depth=3",
    "model.encoder.heads=2",
    "model.decoder.width=48",
    "model.decoder.depth=4",
    "model.decoder.heads=2",
]

# what is traced as for a compiler, and then run by torch's own operations
TRACED = "eager"

# torch looks at all attributes of what it is given
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

# sequences and views: many of each, one of either, and both
SHAPES = [(1, 2), (8, 1), (1, 5), (1, 1)]


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    with torch._dynamo.config.patch(optimize_ddp=True):
        yield
    torch._dynamo.reset()


def tiny(*sets: str, name: str = "debug-cpu") -> Config:
    return apply(recipe(name), [*TINY, *sets])


def pixels_and_masks(config: Config, B: int, V: int) -> tuple[torch.Tensor, Masks]:
    generator = torch.Generator().manual_seed(100 * B + V)
    pixels = torch.randint(0, 256, (B, V, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return pixels, draw_masks(config.mask, B, V, (4, 4), seed=B, step=V, slot=0)


def gradients(module: Any, pixels: torch.Tensor, masks: Masks) -> tuple[float, list[torch.Tensor]]:
    module.zero_grad(set_to_none=True)
    loss = module(pixels, masks)
    loss.backward()
    return float(loss.detach()), [torch.zeros(()) if p.grad is None else p.grad.clone() for p in module.parameters()]


def check_alike(config: Config, model: MaskedAutoencoder, B: int, V: int, tolerance: float = 1e-5) -> None:
    """Loss and gradients are those of the same model as it is."""
    batch = pixels_and_masks(config, B, V)
    loss, grads = gradients(model, *batch)
    expected, expected_grads = gradients(build_model(config), *batch)
    assert loss == pytest.approx(expected, rel=tolerance)
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.slow
def test_one_compilation_for_all_shapes_and_one_for_a_single_sequence() -> None:
    config = tiny()
    model = build_model(config)
    compilations = compile_blocks(model, backend=TRACED)
    assert compilations.counts == {"Block 32/2": 0, "Block 48/2": 0}
    check_alike(config, model, 3, 2)
    assert compilations.counts == {"Block 32/2": 1, "Block 48/2": 1}
    for B, V in SHAPES:
        check_alike(config, model, B, V)
    assert compilations.counts == {"Block 32/2": 2, "Block 48/2": 2}
    assert compilations.report() is None
    assert not compilations.failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "name", "shapes", "counts"),
    [
        (("model.recompute=true",), "debug-cpu", [(3, 2), (1, 4)], {"Block 32/2": 1, "Block 48/2": 2}),
        # two groups of views go through the encoder, and keep different numbers of patches
        (("mask.references=1",), "debug-cpu", [(3, 2), (2, 4)], {"Block 32/2": 1, "Block 48/2": 1}),
        (("mask.ratio=0.7",), "croco-v2-vitb16", [(3, 2), (1, 2)], {"Block 32/2": 2, "CrossBlock 48/2": 2}),
        # encoder and decoder of one size share what is compiled: each has tables of its own kind, for one and for many
        (
            ("model.decoder.width=32",),
            "debug-cpu",
            [(3, 2), (1, 2), (1, 1), (4, 3)],
            {"Block 32/2": EXPECTED},
        ),
        # all views at once, placeholders in the input
        (("model.encoder.depth=4",), "muskie-vitb16", [(3, 2), (1, 4)], {"Block 32/2": 2}),
        # positions are added, and there are no tables
        (("model.positions=absolute",), "debug-cpu", [(3, 2), (2, 4)], {"Block 32/2": 1, "Block 48/2": 1}),
    ],
)
def test_other_models(sets: tuple[str, ...], name: str, shapes: list[tuple[int, int]], counts: dict[str, int]) -> None:
    config = tiny(*sets, name=name)
    model = build_model(config)
    compilations = compile_blocks(model, backend=TRACED)
    for B, V in shapes:
        check_alike(config, model, B, V)
    assert compilations.counts == counts
    assert compilations.report() is None


@pytest.mark.slow
def test_in_bfloat16() -> None:
    config = tiny()
    model, batch = build_model(config), pixels_and_masks(config, 3, 2)
    compilations = compile_blocks(model, backend=TRACED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(*batch)
        with compilations.paused():
            expected = model(*batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert compilations.counts == {"Block 32/2": 1, "Block 48/2": 1}


def test_names_of_the_state_stay() -> None:
    model = build_model(tiny())
    names = [name for name, _ in model.named_modules()], list(model.state_dict()), dict(model.named_parameters()).keys()
    compile_blocks(model)
    assert names == (
        [name for name, _ in model.named_modules()],
        list(model.state_dict()),
        dict(model.named_parameters()).keys(),
    )
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    config = tiny()
    batch = pixels_and_masks(config, 1, 2)
    with torch.no_grad():  # the copy runs with weights of its own
        assert float(model(*batch)) == float(build_model(config)(*batch)) != float(other(*batch))


@pytest.mark.slow
def test_without_gradients_nothing_is_compiled() -> None:
    config = tiny()
    model, plain = build_model(config), build_model(config)
    compilations = compile_blocks(model, backend=TRACED)
    check_alike(config, model, 3, 2)
    counts = compilations.counts
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            for B, V in ((1, 1), (2, 5)):
                batch = pixels_and_masks(config, B, V)
                assert torch.equal(model(*batch), plain(*batch))
    with compilations.paused():
        check_alike(config, model, 1, 3)
    assert compilations.counts == counts
    check_alike(config, model, 1, 3)
    assert compilations.counts != counts


@pytest.mark.slow
def test_a_compiler_that_fails_is_told_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("no C++ compiler\nand a long story")

    monkeypatch.setattr(compiled.torch._dynamo, "lookup_backend", lambda name: broken)
    config = tiny()
    model = build_model(config)
    compilations = compile_blocks(model)
    for _ in range(2):
        check_alike(config, model, 3, 2)
    assert set(compilations.failures) == {"Block 32/2", "Block 48/2"}
    assert compilations.counts == {"Block 32/2": 1, "Block 48/2": 1}  # it is not tried again
    told = compilations.report()
    assert told is not None
    assert "\n" not in told
    assert "Block 48/2 is not compiled" in told
    assert "no C++ compiler" in told
    assert "compile=never" in told


@pytest.mark.slow
def test_a_bug_in_a_block_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()
    model = build_model(config)
    compile_blocks(model, backend=TRACED)
    model.encoder.blocks[1].mlp.contract = torch.nn.Linear(7, 32)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(*pixels_and_masks(config, 3, 2))


@pytest.mark.slow
def test_too_many_compilations_do_not_pass_in_silence() -> None:
    config = tiny()
    model = build_model(config)
    compilations = compile_blocks(model, backend=TRACED)
    with torch._dynamo.config.patch(recompile_limit=1):
        check_alike(config, model, 3, 2)
        assert compilations.report() is None
        check_alike(config, model, 1, 2)  # a second one would be needed
    assert set(compilations.failures) == {"Block 48/2"}
    told = compilations.report()
    assert told is not None
    assert "recompile_limit" in told


def test_more_compilations_than_expected_are_reported() -> None:
    model = build_model(tiny())
    compilations = compile_blocks(model)
    kinds = compilations._kinds
    kinds["Block 48/2"].count = EXPECTED
    assert compilations.report() is None
    kinds["Block 48/2"].count = EXPECTED + 1
    told = compilations.report()
    assert told is not None
    assert told.startswith("Block 48/2 was compiled 5 times, where 4 are expected")
    assert isinstance(compilations, Compilations)


@pytest.mark.slow
def test_gradients_in_buckets_cut_no_block_in_two(tmp_path: Path) -> None:
    config = tiny()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = build_model(config)
        compilations = compile_blocks(model, backend=TRACED)
        shared = DistributedDataParallel(model, bucket_cap_mb=0.005, gradient_as_bucket_view=True)
        for B, V in ((3, 2), (2, 4), (1, 3)):
            batch = pixels_and_masks(config, B, V)
            loss, grads = gradients(shared, *batch)
            expected, expected_grads = gradients(build_model(config), *batch)
            assert loss == pytest.approx(expected, rel=1e-5)
            for one, other in zip(grads, expected_grads, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
        assert compilations.counts == {"Block 32/2": 1, "Block 48/2": 2}
        assert compilations.report() is None
    finally:
        torch.distributed.destroy_process_group()


# a warning that becomes an error inside the compiler would have it give up a compilation
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_code_generated() -> None:
    config = tiny()
    model = build_model(config)
    compilations = compile_blocks(model)
    for V in (1, 2, 3, 5, 8, 24):
        for B in (4, 1, 3):
            check_alike(config, model, B, V)
    assert max(compilations.counts.values()) == 2
    assert compilations.report() is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_code_generated_in_bfloat16_and_activations_computed_again() -> None:
    config = tiny("model.recompute=true")
    model = build_model(config)
    compilations = compile_blocks(model)
    for B, V in ((3, 2), (1, 4), (2, 5)):
        batch = pixels_and_masks(config, B, V)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(*batch)
            with compilations.paused():
                expected = model(*batch)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert compilations.counts == {"Block 32/2": 1, "Block 48/2": 2}
