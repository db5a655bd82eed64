"""Masks: every kind beside a plain version of its definition, and the laws that draws follow."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch.utils._python_dispatch import TorchDispatchMode

from mumdata import rng
from mumdata.errors import ConfigError
from mumtrain.config import MaskConfig
from mumtrain.mask_rules import EXACT, KINDS, Kind, num_kept, read_kinds, read_references, view_ratios
from mumtrain.masks import shapes
from mumtrain.masks.draw import Masks, draw_masks
from mumtrain.masks.shares import masked_shares
from mumtrain.masks.words import below, unit, words
from tests.plain_masks import plain_masks

RANGES = ("0", "1", "2", "1:3", "0:1", "V/4:V/2", "V/2", "1:V/2", "9")


def draw(config: MaskConfig, B: int, V: int, grid: tuple[int, int], **changes: Any) -> Masks:
    return draw_masks(config, B, V, grid, **({"seed": 3, "step": 10**6, "slot": 2} | changes))


def is_plausible(counts: np.ndarray, expected: np.ndarray | float, freedom: int) -> bool:
    """Tell whether chi-square lies between its 1 in 10,000 quantiles: draws too even are wrong, too."""
    chi = float(((counts - expected) ** 2 / expected).sum())
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], freedom)
    return bool(low < chi < high)


# ---- words


@given(st.integers(0, 2**64 - 1), st.integers(1, 40), st.integers(0, 2**40))
def test_words_are_those_of_the_project(key: int, num: int, start: int) -> None:
    drawn, wanted = words(key, num, "cpu", start), rng.words(key, num, start)
    assert drawn.dtype == torch.int64
    assert np.array_equal(drawn.numpy().view(np.uint64), wanted)
    assert np.array_equal(unit(drawn).numpy(), rng.unit(wanted))
    assert len(set(drawn.tolist())) == num


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 2**31))
def test_below_is_exact(drawn: list[int], bound: int) -> None:
    drawn += [0, 2**63 - 1, 2**63, 2**64 - 1]
    word = torch.from_numpy(np.array(drawn, dtype=np.uint64).view(np.int64))
    wanted = [(number >> 32) * bound >> 32 for number in drawn]
    assert below(word, bound).tolist() == wanted
    assert below(word, torch.full((len(drawn),), bound)).tolist() == wanted
    assert max(wanted) == bound - 1


# ---- every kind is what its definition says

kinds = st.lists(
    st.tuples(st.sampled_from(KINDS), st.none() | st.floats(0.05, 0.95)).map(
        lambda pair: pair[0] if pair[1] is None else f"{pair[0]}:{pair[1]}"
    ),
    min_size=1,
    max_size=3,
).map(",".join)

# several ratios of views, or whole views by chance
views = st.fixed_dictionaries({"references": st.sampled_from(RANGES)}) | st.fixed_dictionaries(
    {
        "view_ratios": st.lists(st.sampled_from((0.0, 0.25, 0.5, 0.9)) | st.floats(0.05, 0.95), max_size=4).map(
            lambda ratios: (0.6, *ratios)
        )
    }
)


def check_forms(drawn: Masks, is_exact: bool) -> None:
    """Compare what encoder, decoder and loss get with the hidden patches, by brute force."""
    is_hidden = drawn.is_hidden_BVN.numpy()
    B, V, N = is_hidden.shape
    if not is_exact:
        assert drawn.hidden_BH is None
        assert drawn.groups is None
        return
    assert drawn.hidden_BH is not None
    assert drawn.groups is not None
    assert drawn.hidden_BH.tolist() == [np.flatnonzero(row).tolist() for row in is_hidden]
    numbers = [group.kept_BGK.shape[2] for group in drawn.groups]
    assert numbers == sorted(set(numbers))
    for group in drawn.groups:
        assert group.views_BG.dtype == group.kept_BGK.dtype == torch.int64
        assert group.kept_BGK.shape[:2] == group.views_BG.shape
        for b in range(B):
            num_visible = (~is_hidden[b]).sum(-1)
            assert group.views_BG[b].tolist() == np.flatnonzero(num_visible == group.kept_BGK.shape[2]).tolist()
            visible = [np.flatnonzero(~is_hidden[b, v]).tolist() for v in group.views_BG[b]]
            assert group.kept_BGK[b].tolist() == visible
            places = [v * N + n for v, row in zip(group.views_BG[b].tolist(), visible, strict=True) for n in row]
            assert group.places(N)[b].tolist() == places
    assert sum(group.views_BG.shape[1] for group in drawn.groups) == V


@settings(max_examples=250, deadline=None)
@given(
    kinds,
    st.floats(0.05, 0.95),
    views,
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 99)),
)
def test_masks_are_those_of_the_plain_definition(
    kind: str, ratio: float, of_views: dict[str, Any], sizes: tuple[int, int, int, int], numbers: tuple[int, int, int]
) -> None:
    config = MaskConfig(kind=kind, ratio=ratio, **of_views)
    B, V, grid = sizes[0], sizes[1], sizes[2:]
    seed, step, slot = numbers
    drawn = draw_masks(config, B, V, grid, seed=seed, step=step, slot=slot)
    plain = plain_masks(config, B, V, grid, seed=seed, step=step, slot=slot)
    assert drawn.is_hidden_BVN.tolist() == plain
    which = rng.word(rng.key(*numbers, "mask kind")) * len(kind.split(",")) >> 64
    check_forms(drawn, read_kinds(kind, ratio)[which].is_exact)


@pytest.mark.parametrize("grid", [(14, 14), (9, 16), (24, 24), (1, 40), (40, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_larger_grids_are_those_of_the_plain_definition(kind: str, grid: tuple[int, int]) -> None:
    config = MaskConfig(kind=kind, ratio=0.75, references="1")
    drawn = draw(config, 2, 3, grid)
    assert drawn.is_hidden_BVN.tolist() == plain_masks(config, 2, 3, grid, seed=3, step=10**6, slot=2)
    check_forms(drawn, kind in EXACT)


def test_no_integer_overflows_on_the_largest_grid() -> None:
    # the roughest ground: each patch costs (9 * 1023 // 8)^4 + 1, and the start is a corner
    rows = columns = 128
    place, patches = torch.zeros(1, 3, dtype=torch.int64), torch.full((1, rows * columns), -1)
    score = shapes.blob_order(place, patches, rows, columns).view(rows, columns)
    row, column = np.indices((rows, columns)).astype(object)
    wanted = (row + column) * (1150**4 + 1) * (rows * columns) + row * columns + column
    assert score.tolist() == wanted.tolist()


def test_kinds_are_all_there_is() -> None:
    assert set(shapes.ORDERS) == set(EXACT)
    assert {*shapes.ORDERS, *shapes.SHAPES} == set(KINDS)


# ---- shapes


@pytest.mark.parametrize("kind", ["blob", "walk"])
@pytest.mark.parametrize(("grid", "ratio"), [((14, 14), 0.75), ((14, 14), 0.95), ((24, 9), 0.5), ((3, 33), 0.9)])
def test_hidden_patches_are_connected(kind: str, grid: tuple[int, int], ratio: float) -> None:
    drawn = draw(MaskConfig(kind=kind, ratio=ratio), 150, 1, grid).is_hidden_BVN.view(-1, *grid)
    assert all(ndimage.label(view)[1] == 1 for view in drawn.numpy())


def outline(is_hidden: np.ndarray) -> float:
    """Return the mean length of the border of hidden patches, inside the grid, over that of a square of their area."""
    borders = sum((view[1:] != view[:-1]).sum() + (view[:, 1:] != view[:, :-1]).sum() for view in is_hidden)
    return float(borders / len(is_hidden) / 4 / math.sqrt(is_hidden[0].sum()))


def test_shapes_are_as_ragged_as_their_names_say() -> None:
    def of_kind(kind: str) -> float:
        return outline(draw(MaskConfig(kind=kind, ratio=0.5), 300, 1, (14, 14)).is_hidden_BVN.view(-1, 14, 14).numpy())

    rectangles, blobs, walks, scattered = (of_kind(kind) for kind in ("rectangle", "blob", "walk", "random"))
    assert 1.4 * rectangles < blobs
    assert 1.2 * blobs < walks
    assert 2 * walks < scattered


@pytest.mark.parametrize("kind", ["rectangle", "ellipse"])
@pytest.mark.parametrize("ratio", [0.02, 0.5, 0.75, 0.99])
def test_shapes_hide_some_patches_and_never_all(kind: str, ratio: float) -> None:
    for rows in range(1, 6):
        for columns in range(1, 6):
            hidden = draw(MaskConfig(kind=kind, ratio=ratio), 200, 1, (rows, columns)).is_hidden_BVN.sum(-1)
            assert hidden.min() >= 1
            assert hidden.max() <= max(1, rows * columns - 1)


# ---- laws


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize(("grid", "ratio"), [((14, 14), 0.75), ((6, 6), 0.9), ((4, 4), 0.5), ((14, 14), 0.65)])
def test_numbers_of_kept_patches_are_exact(kind: str, grid: tuple[int, int], ratio: float) -> None:
    N = grid[0] * grid[1]
    drawn = draw(MaskConfig(kind=kind, ratio=ratio), 5, 4, grid)
    assert ((~drawn.is_hidden_BVN).sum(-1) == int(N * (1 - ratio))).all()
    assert drawn.groups is not None
    (group,) = drawn.groups
    assert group.kept_BGK.shape == (5, 4, int(N * (1 - ratio)))


def test_every_patch_is_hidden_equally_often() -> None:
    num, N, ratio = 4000, 36, 0.75
    counts = draw(MaskConfig(ratio=ratio), num, 1, (6, 6)).is_hidden_BVN.sum((0, 1)).numpy()
    # of a fixed number of hidden patches, counts vary by num * ratio * (1 - ratio) * N / (N - 1) in N - 1 directions
    expected = num * ratio
    scaled = expected + (counts - expected) / math.sqrt((1 - ratio) * N / (N - 1))
    assert is_plausible(scaled, expected, N - 1)


def test_masks_of_views_slots_steps_and_seeds_are_independent() -> None:
    B, V, N = 60, 5, 196
    config = MaskConfig(ratio=0.75)
    first = draw(config, B, V, (14, 14)).is_hidden_BVN
    others = [
        first.roll(1, 0),  # the sequence before
        first.roll(1, 1),  # the view before
        *(draw(config, B, V, (14, 14), **change).is_hidden_BVN for change in ({"slot": 3}, {"step": 999}, {"seed": 4})),
    ]
    # patches that two independent masks both hide: hypergeometric
    law = stats.hypergeom(N, 147, 147)
    for other in others:
        both = (first & other).sum(-1).double()
        assert abs(both.mean() - law.mean()) < 4.5 * law.std() / math.sqrt(B * V)
        assert both.max() < 147


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_depends_on_its_position_alone(kind: str) -> None:
    config = MaskConfig(kind=kind)
    flat = draw(config, 12, 1, (5, 7)).is_hidden_BVN.flatten(0, 1)
    for B, V in ((1, 12), (3, 4), (2, 2), (1, 1)):
        assert torch.equal(draw(config, B, V, (5, 7)).is_hidden_BVN.flatten(0, 1), flat[: B * V])
    assert len({row.numpy().tobytes() for row in flat}) > 6


def num_whole(drawn: Masks) -> torch.Tensor:
    return (~drawn.is_hidden_BVN.any(-1)).sum(-1)


@pytest.mark.parametrize(
    ("references", "V", "numbers"),
    [("1:3", 8, (1, 3)), ("V/4:V/2", 8, (2, 4)), ("V/4:V/2", 3, (0, 1)), ("0:9", 4, (0, 3))],
)
def test_numbers_of_whole_views_are_uniform_and_of_a_slot(references: str, V: int, numbers: tuple[int, int]) -> None:
    config, found = MaskConfig(references=references), []
    for step in range(900):
        number = num_whole(draw(config, 3, V, (2, 2), step=step))
        assert (number == number[0]).all()
        found.append(int(number[0]))
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == list(range(numbers[0], numbers[1] + 1))
    assert is_plausible(counts, len(found) / len(values), len(values) - 1)


@pytest.mark.parametrize(("V", "numbers"), [(1, (0, 0)), (2, (0, 1)), (4, (1, 2)), (8, (2, 4)), (24, (6, 12))])
def test_whole_views_of_muskie(V: int, numbers: tuple[int, int]) -> None:
    assert read_references("V/4:V/2").bounds(V) == numbers


@pytest.mark.parametrize("references", RANGES)
def test_a_single_view_is_never_whole(references: str) -> None:
    for step in range(20):
        assert num_whole(draw(MaskConfig(references=references), 4, 1, (2, 2), step=step)).sum() == 0


def test_which_views_are_whole_is_uniform_and_of_each_sequence() -> None:
    B, V = 3000, 6
    drawn = draw(MaskConfig(references="2"), B, V, (2, 2))
    whole = (~drawn.is_hidden_BVN.any(-1)).numpy()
    assert (whole.sum(-1) == 2).all()
    code = whole @ (1 << np.arange(V))
    values, counts = np.unique(code, return_counts=True)
    assert len(values) == 15
    assert is_plausible(counts, B / 15, 14)
    same = (code[1:] == code[:-1]).sum()
    assert abs(same - B / 15) < 4.5 * math.sqrt(B / 15)


def test_slots_draw_kinds_in_equal_shares() -> None:
    config = MaskConfig(kind="random:0.5,blob:0.6,walk:0.7")
    hidden = []
    for step in range(900):
        drawn = draw(config, 2, 2, (2, 5), step=step).is_hidden_BVN.sum(-1)
        assert (drawn == drawn[0, 0]).all()
        hidden.append(int(drawn[0, 0]))
    values, counts = np.unique(hidden, return_counts=True)
    assert values.tolist() == [5, 6, 7]
    assert is_plausible(counts, 300, 2)


def test_the_last_ratio_holds_for_all_further_views() -> None:
    assert view_ratios((0.9, 0.0, 0.5), 0.75, 2) == [0.9, 0.0]
    assert view_ratios((0.9, 0.0, 0.5), 0.75, 5) == [0.9, 0.0, 0.5, 0.5, 0.5]
    assert view_ratios((), 0.75, 3) == [0.75] * 3
    config = MaskConfig(view_ratios=(0.9, 0.0, 0.5))
    assert draw(config, 3, 5, (4, 5)).is_hidden_BVN.sum(-1).tolist() == [[19, 0, 10, 10, 10]] * 3


def test_views_that_keep_as_many_patches_are_one_group() -> None:
    # of 20 patches both ratios keep nine
    drawn = draw(MaskConfig(view_ratios=(0.51, 0.9, 0.53)), 3, 3, (4, 5))
    assert drawn.groups is not None
    assert [group.views_BG.tolist() for group in drawn.groups] == [[[1]] * 3, [[0, 2]] * 3]


# ---- devices


class Operations(TorchDispatchMode):
    """Notes the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(f"{func}{' device' if (kwargs or {}).get('device') else ''}")
        return func(*args, **(kwargs or {}))


def operations(function: Callable[[], object]) -> list[str]:
    with Operations() as noted:
        function()
    return noted.names


def waits(names: list[str]) -> list[str]:
    # numbers made a tensor, tensors moved between devices, values asked for, shapes that depend on values
    ends = ("lift_fresh.default", "_to_copy.default device", "_local_scalar_dense.default", "nonzero.default")
    return [name for name in names if name.endswith(ends) or "copy_." in name or "masked_select" in name]


@pytest.mark.slow
@pytest.mark.parametrize("of_views", [{"references": "1:3"}, {"view_ratios": (0.9, 0.0, 0.5)}])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device_and_no_loop_runs_over_views(kind: str, of_views: dict[str, Any]) -> None:
    config = MaskConfig(kind=kind, **of_views)
    few = operations(lambda: draw(config, 1, 4, (3, 3)))
    many = operations(lambda: draw(config, 3, 9, (7, 8)))
    assert few == many
    assert len(many) > 30
    assert not waits(many)
    # tensors without values: what asks for one, or has a shape that depends on some, raises
    draw(config, 4, 24, (14, 14), device="meta")


@pytest.mark.slow
def test_waiting_is_noticed() -> None:
    values = torch.arange(3)
    assert waits(operations(lambda: torch.tensor([1.0, 2.0])))
    assert waits(operations(lambda: values.to("meta")))
    assert waits(operations(lambda: values.sum().item()))
    assert waits(operations(lambda: values.nonzero()))


@pytest.mark.gpu
@pytest.mark.parametrize("of_views", [{"references": "1:3"}, {"view_ratios": (0.9, 0.0, 0.5)}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(14, 14), (1, 9), (37, 24), (64, 64)])
def test_masks_are_the_same_on_every_device(kind: str, of_views: dict[str, Any], grid: tuple[int, int]) -> None:
    config = MaskConfig(kind=kind, **of_views)
    draw_masks(config, 1, 4, grid, seed=0, step=0, slot=0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = [draw_masks(config, 4, 6, grid, seed=0, step=step, slot=1, device="cuda") for step in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, other in enumerate(drawn):
        one = draw_masks(config, 4, 6, grid, seed=0, step=step, slot=1)
        assert torch.equal(one.is_hidden_BVN, other.is_hidden_BVN.cpu())
        for group, same in zip(one.groups or (), other.groups or (), strict=True):
            assert torch.equal(group.views_BG, same.views_BG.cpu())
            assert torch.equal(group.kept_BGK, same.kept_BGK.cpu())


# ---- what is really masked


def test_shares_of_exact_kinds_are_exact() -> None:
    (share,) = masked_shares(MaskConfig(kind="random:0.9", references="V/4:V/2"), (14, 14), 8)
    assert (share.kind, share.nominal) == ("random", 0.9)
    assert share.mean == share.least == share.greatest == 177 / 196
    # two, three or four of eight views are whole
    assert share.of_all == pytest.approx(177 / 196 * 5 / 8)
    (share,) = masked_shares(MaskConfig(view_ratios=(0.9, 0.0, 0.5)), (14, 14), 4)
    assert share.nominal == pytest.approx((0.9 + 0.5 + 0.5) / 3)
    assert (share.least, share.greatest) == (98 / 196, 177 / 196)
    assert share.mean == pytest.approx((177 + 98 + 98) / 3 / 196)
    assert share.of_all == pytest.approx((177 + 98 + 98) / 4 / 196)


def area_inside(ratio: float, of_box: float) -> float:
    """Return the mean area of a shape of `ratio`, cut to the unit square, that fills `of_box` of the box around it."""
    aspect = np.exp(np.linspace(math.log(0.3), math.log(3.0), 100_001))
    width, height = np.sqrt(ratio / of_box * aspect), np.sqrt(ratio / of_box / aspect)
    return float(np.mean(np.minimum(width, 1) * np.minimum(height, 1)) * of_box)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_shares_of_shapes_are_those_of_what_lies_inside_the_grid(ratio: float) -> None:
    config = MaskConfig(kind="rectangle,ellipse", ratio=ratio)
    found = masked_shares(config, (64, 64), 2)
    assert [share.kind for share in found] == ["rectangle", "ellipse"]
    for share, of_box in zip(found, (1.0, math.pi / 4), strict=True):
        assert share.mean == pytest.approx(area_inside(ratio, of_box), abs=0.008)
        assert share.nominal == ratio
        assert share.least < share.mean - 0.05
        assert share.greatest > share.mean + 0.03
        assert share.of_all == share.mean


def test_shares_are_those_of_drawn_masks() -> None:
    config = MaskConfig(kind="ellipse", references="1:3")
    (share,) = masked_shares(config, (14, 14), 8)
    drawn = [draw(config, 20, 8, (14, 14), step=step).is_hidden_BVN.double() for step in range(60)]
    of_views = torch.stack([masks.mean(-1) for masks in drawn])
    assert of_views.mean().item() == pytest.approx(share.of_all, abs=0.02)
    of_masked = of_views[of_views > 0]
    assert of_masked.mean().item() == pytest.approx(share.mean, abs=0.006)
    assert share.least - 0.02 < of_masked.min().item()
    assert of_masked.max().item() < share.greatest + 0.02


def test_shares_of_exact_kinds_need_no_torch() -> None:
    code = """
import sys
from mumtrain.config import MaskConfig
from mumtrain.masks.shares import masked_shares
assert masked_shares(MaskConfig(), (14, 14), 4)[0].mean == 0.75
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- the small languages


def test_ratios_follow_colons() -> None:
    assert read_kinds("random:0.9, rectangle ,ellipse : 0.5", 0.75) == (
        Kind("random", 0.9),
        Kind("rectangle", 0.75),
        Kind("ellipse", 0.5),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("randm", "unknown mask.kind 'randm'.*did you mean 'random'"),
        ("random,elipse:0.5", "did you mean 'ellipse'"),
        ("", "unknown mask.kind ''"),
        ("random,", "unknown mask.kind ''"),
        ("blob:", "mask.kind: 'blob:' has no number behind its colon, e.g. random:0.9"),
        ("blob:half", "mask.kind: 'blob:half' has no number"),
        ("walk:1", "mask.kind: the ratio of 'walk:1' must lie between 0 and 1"),
        ("walk:0", "must lie between 0 and 1"),
        ("walk:nan", "must lie between 0 and 1"),
    ],
)
def test_kinds_that_are_none_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_kinds(text, 0.75)


@pytest.mark.parametrize(
    ("text", "V", "wanted"),
    [
        ("0", 5, (0, 0)),
        ("2", 5, (2, 2)),
        ("9", 5, (4, 4)),
        (" 1 : 3 ", 5, (1, 3)),
        ("1:3", 2, (1, 1)),
        ("V/3", 8, (2, 2)),
        ("V/1", 4, (3, 3)),
        ("1:V/2", 9, (1, 4)),
        ("V/4:2", 12, (3, 3)),
    ],
)
def test_references_of_some_views(text: str, V: int, wanted: tuple[int, int]) -> None:
    assert read_references(text).bounds(V) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "mask.references=-1 is not understood; write a number of views, as 1, or a range, as 1:3 or V/4:V/2"),
        ("", "is not understood"),
        ("1.5", "is not understood"),
        ("V/0", "is not understood"),
        ("1:", "is not understood"),
        ("9" * 5000, "is not understood"),
        ("1:2:3", "has more than two ends; write one number or LEAST:MOST"),
        ("3:1", "mask.references=3:1 has its greater end first; write 1:3"),
        ("V/2:V/4", "has its greater end first; write V/4:V/2"),
    ],
)
def test_references_that_are_none_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_references(text)


def test_numbers_of_kept_patches_round_as_published() -> None:
    # int(N * (1 - ratio)) in floating point: a tenth of a hundred patches is nine
    assert [num_kept(196, 0.75), num_kept(196, 0.9), num_kept(196, 0.8978), num_kept(100, 0.9)] == [49, 19, 20, 9]
    assert num_kept(196, 0.0) == 196
