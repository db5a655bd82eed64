"""`mumtrain attention`: where a patch of one view looks in another view.

In: a checkpoint, two images of one place, and points of the first. Out: a picture with a row for each point: the first
view with the point's patch marked, and over the second the attention that its patches get in each block that sees
both views.
Shapes: V = 2 views, T = S special tokens and N patches of a view, Q query patches, h heads, L tokens looked at,
D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from mumdata.errors import ConfigError, MumError
from mumdata.files import check_apart
from mumtrain.drawing import (
    Frame,
    Picture,
    Words,
    check_ending,
    draw_page,
    enlarged,
    fitted,
    read_square,
    shown_side,
    told_name,
    wrapped,
)
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.model.decoder import CrossDecoder, Decoder
from mumtrain.model.layers import Block, CrossBlock, entered
from mumtrain.model.pixels import normalise, patchify
from mumtrain.model.positions import rotate
from mumtrain.model.tower import Tower
from mumtrain.runtime import select_runtime
from mumtrain.weights.load import load_model, read_weights

__all__ = ["Looks", "Meeting", "attention", "attention_weights", "find_meeting", "read_head", "read_point"]

# points of the first view that are asked about by default, as shares of its sides
POINTS = ((0.25, 0.5), (0.5, 0.5), (0.75, 0.5))

# pixels of the picture
_MARGIN, _TOP, _GAP, _HEADER, _LINE, _BAR, _SCALE = 24, 92, 8, 54, 24, 16, 120
_LEAST_WIDTH = 1160


class Looks(NamedTuple):
    """Where queries of view A look in one block: softmax weights of each head, which sum to 1 over all tokens.

    `a_QhN` and `b_QhN` are those of the patches of A and B, `special_Qh` the sum over special tokens, and `even` what
    each token would get if all got the same, 1 / L.
    """

    block: int
    even: float
    a_QhN: torch.Tensor
    b_QhN: torch.Tensor
    special_Qh: torch.Tensor


def attention(
    source: Path,
    image_a: Path,
    image_b: Path,
    *,
    out: Path,
    at: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
    layer: int | None = None,
    head: int | Literal["all"] | None = None,
    device: str | None = None,
) -> Path:
    """Draw where patches of image A look in image B into a picture, and return its path.

    `at` is a point of A's square, or several: x from the left and y from the top, in 0 .. 1; by default three points
    of its middle row. `layer` is one block that sees both views, counted from 0 over all blocks; by default all of
    them. `head` is one head, or "all" side by side; by default their mean. Both views are given whole, as the largest
    centred square of each image, upright. Raises MumError for a checkpoint that cannot be read or a model that never
    looks at other views, DecodeError for an image, ConfigError for points, layers and heads that do not exist and for
    an `out` that is no picture's name or one of the inputs.
    """
    check_ending(out)
    points = _points(at)
    runtime = select_runtime(device)
    weights = read_weights(source)
    check_apart(out, [weights.path, image_a, image_b])
    model = load_model(weights, device=runtime.device).model
    meeting = find_meeting(model)
    blocks = _chosen_blocks(meeting, layer)
    of_heads = _chosen_heads(meeting, head)
    size = weights.config.data.size
    squares = np.stack([read_square(Path(image), size) for image in (image_a, image_b)])
    views = torch.from_numpy(squares).permute(0, 3, 1, 2)[None].to(runtime.device)
    columns = size // model.patch
    places = [_patch_at(point, columns) for point in points]
    queries = [row * columns + column for row, column in places]
    with runtime.autocast():
        looks = attention_weights(model, views, queries, blocks)
    about = f"{told_name(weights.name, weights.path)} · {meeting.name} · {of_heads}"
    names = (Path(image_a).name, Path(image_b).name)
    rows = [row for number in range(len(points)) for row in _rows(looks, number, head)]
    marked = [place for place in places for _ in range(len(rows) // len(places))]
    draw_page(*_page(squares, names, marked, rows, about), Path(out))
    return Path(out)


def read_point(text: str) -> tuple[float, float]:
    """Read a point from the command line, `X,Y`; ConfigError where it is none."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ConfigError(
            f"'{text}' is no point; give x and y in 0 .. 1 with a comma between them, as 0.5,0.25"
        ) from None
    return x, y


def read_head(text: str) -> int | Literal["all"]:
    """Read a head from the command line, a number or `all`; ConfigError where it is neither."""
    if text == "all":
        return "all"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"'{text}' is no head; give a number, counted from 0, or all") from None


def _points(at: tuple[float, float] | Sequence[tuple[float, float]] | None) -> list[tuple[float, float]]:
    given: list[Any] = list(POINTS if at is None else at)
    points = [tuple(given)] if given and not isinstance(given[0], Sequence) else given
    for point in points or [()]:
        if len(point) != 2 or not all(0 <= value <= 1 for value in point):
            raise ConfigError(f"{point} is no point of the view; give x and y in 0 .. 1, such as 0.5, 0.25")
    return points


def _patch_at(point: tuple[float, float], num: int) -> tuple[int, int]:
    # row and column of the patch in which a point lies; the right and lower borders belong to the last ones
    x, y = point
    return min(int(y * num), num - 1), min(int(x * num), num - 1)


def _chosen_blocks(meeting: Meeting, layer: int | None) -> list[int]:
    if layer is None:
        return meeting.blocks
    if layer not in meeting.blocks:
        known = ", ".join(map(str, meeting.blocks))
        raise ConfigError(f"layer {layer} is none of the {meeting.name}; use {known}")
    return [layer]


def _chosen_heads(meeting: Meeting, head: int | Literal["all"] | None) -> str:
    # which heads are shown, in words
    num = meeting.num_heads
    if head is None:
        return f"mean of {num} heads"
    if head == "all":
        return f"each of {num} heads"
    if not 0 <= head < num:
        raise ConfigError(f"head {head} does not exist; use 0 to {num - 1}, or all of them")
    return f"head {head}"


# ---- weights


class Meeting(NamedTuple):
    """Where views meet in a model: the tower, the numbers of its blocks in which they do, and what these are called."""

    tower: Tower
    blocks: list[int]
    name: str

    @property
    def num_heads(self) -> int:
        """Number of attention heads in each of these blocks."""
        block = self.tower.blocks[self.blocks[0]]
        assert isinstance(block, Block | CrossBlock)
        return block.attention.heads


def find_meeting(model: MaskedAutoencoder) -> Meeting:
    """Return where a model's views meet; MumError for a model that looks at each view by itself."""
    decoder, encoder = model.decoder, model.encoder
    if isinstance(decoder, CrossDecoder):
        return Meeting(decoder, list(range(len(decoder.blocks))), "cross-attention of the decoder")
    if isinstance(decoder, Decoder) and decoder.alternates and len(decoder.blocks) > 1:
        return Meeting(decoder, list(range(1, len(decoder.blocks), 2)), "global blocks of the decoder")
    if encoder.alternates and len(encoder.blocks) > 1:
        return Meeting(encoder, list(range(1, len(encoder.blocks), 2)), "global blocks of the encoder")
    raise MumError(
        "this model looks at each view by itself, never at another; use one whose decoder or encoder attends to all"
    )


@torch.inference_mode()
def attention_weights(
    model: MaskedAutoencoder, views_BVCHW: torch.Tensor, queries: Sequence[int], blocks: Sequence[int]
) -> list[Looks]:
    """Return where patches `queries` of the first of two uint8 views look, block by block, with nothing hidden.

    Only the rows of the attention matrix that belong to the queries are computed.
    """
    H, W = views_BVCHW.shape[-2:]
    grid = (H // model.patch, W // model.patch)
    patches = patchify(normalise(views_BVCHW, model.pixels), model.patch)
    if isinstance(model.decoder, CrossDecoder):
        return _cross(model.decoder, model.encoder.encode(patches, grid), grid, queries, blocks)
    tower = find_meeting(model).tower
    if isinstance(tower, Decoder):
        x, rope = tower.enter([model.encoder.encode(patches, grid)], grid, None)
    else:
        x, rope = model.encoder.embed(patches, grid)
    S = tower.num_special
    rope_of_all = None if rope is None else rope.of_all_views(2, num_blank=tower.num_blank)
    found = []
    for number, entering in zip(blocks, tower.run(x, rope, [number - 1 for number in blocks]), strict=True):
        block = tower.blocks[number]
        assert isinstance(block, Block)
        q, k, _ = block.attention.queries_keys_values(block.norm_attention(entering.flatten(1, 2)), rope_of_all)
        weights = _softmax_rows(q[0, :, [S + query for query in queries]], k[0])
        of_a, of_b = weights.chunk(2, dim=-1)
        special = of_a[..., :S].sum(-1) + of_b[..., :S].sum(-1)
        found.append(Looks(number, 1 / weights.shape[-1], of_a[..., S:], of_b[..., S:], special))
    return found


def _cross(
    decoder: CrossDecoder,
    encoded_BVTE: torch.Tensor,
    grid: tuple[int, int],
    queries: Sequence[int],
    blocks: Sequence[int],
) -> list[Looks]:
    # the tokens of A go through the blocks, those of B are what they look at
    S = decoder.num_special
    x, memory = entered(decoder.embedding, encoded_BVTE).unbind(1)
    rope, added = decoder.table(grid, x.device), decoder.added(grid, x)
    if added is not None:
        x, memory = x + added, memory + added
    found = []
    for number, block in enumerate(decoder.blocks):
        assert isinstance(block, CrossBlock)
        if number in blocks:
            cross = block.cross_attention
            looking = block.norm_cross(x + block.attention(block.norm_attention(x), rope))
            q = rotate(cross.query(looking).unflatten(-1, (cross.heads, -1)).transpose(1, 2), rope)
            k = rotate(cross.key(block.norm_memory(memory)).unflatten(-1, (cross.heads, -1)).transpose(1, 2), rope)
            weights = _softmax_rows(q[0, :, [S + query for query in queries]], k[0])
            nothing = torch.zeros_like(weights[..., S:])
            special = weights[..., :S].sum(-1)
            found.append(Looks(number, 1 / weights.shape[-1], nothing, weights[..., S:], special))
        x = block(x, rope, memory, rope)
    return found


def _softmax_rows(q_hQd: torch.Tensor, k_hLd: torch.Tensor) -> torch.Tensor:
    # [Q, h, L], float32 whatever the blocks compute with
    with torch.autocast(q_hQd.device.type, enabled=False):
        scores = q_hQd.float() @ k_hLd.float().transpose(1, 2) * q_hQd.shape[-1] ** -0.5
    return scores.softmax(-1).transpose(0, 1)


# ---- the picture


class _Map(NamedTuple):
    # attention on B's patches [N], and the shares that fall on A, on B and on special tokens
    title: str
    even: float
    weights_N: np.ndarray
    shares: tuple[float, float, float]


def _rows(looks: Sequence[Looks], query: int, head: int | Literal["all"] | None) -> list[list[_Map]]:
    # the maps of a query: one row with a column for each block, or a row for each block with a column for each head
    if head != "all":
        heads = slice(None) if head is None else slice(head, head + 1)
        return [[_map(one, query, heads, f"block {one.block}") for one in looks]]
    return [
        [
            _map(one, query, slice(number, number + 1), f"block {one.block}, head {number}")
            for number in range(one.b_QhN.shape[1])
        ]
        for one in looks
    ]


def _map(looks: Looks, query: int, heads: slice, title: str) -> _Map:
    a, b, special = (part[query][heads].mean(0).cpu().numpy() for part in (looks.a_QhN, looks.b_QhN, looks.special_Qh))
    return _Map(title, looks.even, b, (float(a.sum()), float(b.sum()), float(special)))


def overlaid(square: np.ndarray, weights_N: np.ndarray, top: float) -> np.ndarray:
    """Return a uint8 square in grey, coloured by the weights of its patches from 0 to `top`: RGB in 0 .. 1, [S, S, 3].

    Patches are those of a square grid, row by row.
    """
    columns = math.isqrt(len(weights_N))
    heat = enlarged(weights_N.reshape(columns, columns), len(square) // columns)
    return _coloured(square.mean(-1) / 255, heat / top)


def _coloured(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    # the hotter, the more of the colour: where nothing looks the view stays visible
    from matplotlib import colormaps

    strength = (0.3 + 0.5 * heat)[..., None]
    return (1 - strength) * grey[..., None] + strength * colormaps["inferno"](heat)[..., :3]


def _page(
    squares: np.ndarray,
    names: tuple[str, str],
    places: Sequence[tuple[int, int]],
    rows: Sequence[Sequence[_Map]],
    about: str,
) -> tuple[list[Picture | Words | Frame], int, int]:
    """Return the items of the picture, and its width and height; row by row, a query's place and its maps."""
    side = shown_side(squares.shape[1])
    patch = side / math.isqrt(len(rows[0][0].weights_N))
    block = (1 + len(rows[0])) * (side + _GAP) + _SCALE
    width = max(block + 2 * _MARGIN, _LEAST_WIDTH)
    left, room = (width - block) // 2, width - 2 * _MARGIN
    of_a, of_b = (fitted(name, room / 3, 10) for name in names)
    items: list[Picture | Words | Frame] = [
        Words(f"Where patches of A, {of_a}, look in B, {of_b}", width / 2, 30, 10),
        Words(fitted(about, room), width / 2, 60, colour="0.35"),
    ]
    for number, ((row, column), maps) in enumerate(zip(places, rows, strict=True)):
        y = _TOP + number * (_HEADER + side + _GAP) + _HEADER
        items += _headed(f"A: {names[0]}", f"query: row {row + 1}, column {column + 1}", left, y, side)
        items.append(Picture(squares[0], left, y, side, side))
        items.append(Frame(left + column * patch, y + row * patch, patch, patch, "cyan"))
        top = max(float(one.weights_N.max()) for one in maps)
        for place, one in enumerate(maps, 1):
            x = left + place * (side + _GAP)
            items += _headed(f"{one.title}: {one.weights_N.max() / one.even:.2g} × even", _spread(one), x, y, side)
            items.append(Picture(overlaid(squares[1], one.weights_N, top), x, y, side, side))
            items.append(Frame(x + column * patch, y + row * patch, patch, patch, "cyan"))
            down, across = divmod(int(one.weights_N.argmax()), math.isqrt(len(one.weights_N)))
            rim = 5 if (down, across) == (row, column) else 0  # around the other box
            items.append(Frame(x + across * patch - rim, y + down * patch - rim, patch + 2 * rim, patch + 2 * rim))
        items += _scale(top, maps[0].even, left + (1 + len(maps)) * (side + _GAP), y, side)
    bottom = _TOP + len(rows) * (_HEADER + side + _GAP) + _LINE
    caption = wrapped(_caption(rows[0][0]), room, 7)
    items += [Words(line, width / 2, bottom + row * _LINE, 7, colour="0.35") for row, line in enumerate(caption)]
    return items, width, bottom + len(caption) * _LINE


def _caption(one: _Map) -> str:
    special = " Special: class tokens and registers." if one.shares[2] else ""
    return (
        "Both views are given whole, while in training most patches were hidden. Colours: the share of the query's "
        "attention that each patch of B gets, one scale for a row. White box: the largest share, told above as a "
        f"multiple of an even one, 1 of {round(1 / one.even)} tokens. Cyan box: the query's place; attention there may "
        f"be to the place, not to what is seen.{special}"
    )


def _spread(one: _Map) -> str:
    # on what all of the attention falls
    named = [("A", one.shares[0]), ("B", one.shares[1]), ("special", one.shares[2])]
    return ", ".join(f"{name} {100 * share:.0f}%" for name, share in named if share)


def _headed(first: str, second: str, x: float, y: float, side: float) -> list[Picture | Words | Frame]:
    # two lines above a picture
    return [
        Words(fitted(first, side, 6.5), x + side / 2, y - 37, 6.5),
        Words(fitted(second, side, 6.5), x + side / 2, y - 15, 6.5, colour="0.35"),
    ]


def _scale(top: float, even: float, x: float, y: float, side: int) -> list[Picture | Words | Frame]:
    # the bar beside a row, with the colours as they look on a middle grey
    heat = np.linspace(1, 0, side)[:, None]
    text = x + _BAR + 8
    items: list[Picture | Words | Frame] = [
        Picture(_coloured(np.full_like(heat, 0.5), heat), x, y, _BAR, side),
        Words(_percent(top), text, y + 8, 7, "left"),
        Words("0", text, y + side - 8, 7, "left"),
    ]
    height = side * (1 - even / top)
    if even < top:
        items.append(Picture(np.ones((1, 1, 3)), x, y + round(height) - 1, _BAR, 2))
    if 24 < height < side - 24:  # where it runs into neither end
        items.append(Words(f"even {_percent(even)}", text, y + height, 7, "left"))
    return items


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"
