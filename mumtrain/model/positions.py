"""How tokens know their place in a view.

In: a grid of patches. Out: tables that queries and keys are turned by, or that are added to tokens; nothing is learned.
Shapes: S special tokens (class token and registers, first), N patches, T = S + N tokens of a view, D width, d channels
of a head, B batch (views folded in), h heads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

__all__ = ["RopeTable", "Rope", "rotate", "split_rotated", "sincos_table"]


class RopeTable(NamedTuple):
    """Cosines and sines of the tokens' angles, [T, g, d / 2g] or [B, T, g, d / 2g].

    A head's channels are g runs of d/g; in each of them channel i turns together with channel i + d/2g.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def take(self, rows_BL: torch.Tensor) -> RopeTable:
        """Return the table of some of the tokens, another choice for each batch element."""
        return RopeTable(self.cos[rows_BL], self.sin[rows_BL])

    def of_all_views(self, num_views: int, *, num_blank: int = 0) -> RopeTable:
        """Return the table for views laid one after the other; a view's number leaves no trace in it.

        The first `num_blank` tokens of each view get zeros for cosine and sine: their queries and keys vanish.
        """
        parts = []
        for part in self:
            if num_blank:
                part = part.clone()
                part[..., :num_blank, :, :] = 0
            if part.ndim == 3:
                parts.append(part.repeat(num_views, 1, 1))
            else:
                parts.append(part.unflatten(0, (-1, num_views)).flatten(1, 2))
        return RopeTable(*parts)


class Rope:
    """Rotary positions of a grid of patches behind some special tokens.

    `axial` (MuM): patch centres scaled to [-1, 1] along each axis; with d channels a head, period k is
    base^(2k / (d/2)) for k = 0 .. d/4-1, angles are 2 pi * coordinate / period, those of the row before those of the
    column, and channel i turns with channel i + d/2. `integer` (CroCo, Muskie): rows and columns are counted, from 1
    where there are special tokens; angle k is coordinate * base^(-2k / (d/2)); the first half of the channels serves
    the row, the second the column, and in each half channel i turns with channel i + d/4. Special tokens stand at
    angle 0. Raises ValueError for a number of channels that is no multiple of 4.
    """

    def __init__(self, kind: str, head_dim: int, base: float, num_special: int, dtype: torch.dtype = torch.float32):
        if head_dim % 4:
            raise ValueError(f"head dimension {head_dim} is no multiple of 4")
        self.kind, self.head_dim, self.base, self.num_special, self.dtype = kind, head_dim, base, num_special, dtype
        self._tables: dict[tuple[int, int, torch.device], RopeTable] = {}

    def __call__(self, rows: int, columns: int, device: torch.device) -> RopeTable:
        """Return the table of the special tokens and rows x columns patches, cached per size."""
        if torch.compiler.is_compiling():
            return self._build(rows, columns, device)  # what is traced must not be kept
        found = self._tables.get((rows, columns, device))
        if found is None:
            # a table that is first asked for under inference_mode must still serve a backward pass later
            with torch.inference_mode(False), torch.no_grad():
                found = self._tables[rows, columns, device] = self._build(rows, columns, device)
        return found

    def _build(self, rows: int, columns: int, device: torch.device) -> RopeTable:
        # in float64: the same float32 numbers on every device, but for the rarest of roundings
        if self.kind == "axial":
            dtype = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float64
            angles = self._axial_angles(rows, columns, device, dtype)
        else:
            angles = self._integer_angles(rows, columns, device)
        special = angles.new_zeros(self.num_special, *angles.shape[1:])
        angles = torch.cat([special, angles])
        return RopeTable(angles.cos().to(self.dtype), angles.sin().to(self.dtype))

    def _axial_angles(self, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        # [N, 1, d / 2]; in bfloat16 each operation is rounded, in the released encoder's order
        exponent = 2 * torch.arange(self.head_dim // 4, dtype=dtype, device=device) / (self.head_dim // 2)
        periods = self.base**exponent

        def centres(num: int) -> torch.Tensor:
            return 2 * ((torch.arange(num, dtype=dtype, device=device) + 0.5) / num) - 1

        angles = 2 * math.pi * _pairs(centres(rows), centres(columns))[:, :, None] / periods
        return angles.flatten(1)[:, None]

    def _integer_angles(self, rows: int, columns: int, device: torch.device) -> torch.Tensor:
        # [N, 2, d / 4]
        first = 1 if self.num_special else 0
        exponent = 2 * torch.arange(self.head_dim // 4, dtype=torch.float64, device=device) / (self.head_dim / 2)

        def counted(num: int) -> torch.Tensor:
            return torch.arange(first, first + num, dtype=torch.float64, device=device)

        return _pairs(counted(rows), counted(columns))[:, :, None] * self.base**-exponent


def _pairs(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    # row and column of each patch, row by row: [N, 2]
    num_rows, num_columns = len(rows), len(columns)
    return torch.stack(
        [rows[:, None].expand(num_rows, num_columns), columns[None].expand(num_rows, num_columns)], -1
    ).flatten(0, 1)


def rotate(x_BhLd: torch.Tensor, rope: RopeTable | None) -> torch.Tensor:
    """Turn pairs of channels by their token's angle; the result has x's number format."""
    if rope is None:
        return x_BhLd
    cos, sin = rope
    if cos.ndim == 4:  # a table for each batch element: make room for the heads
        cos, sin = cos[:, None], sin[:, None]
    x = x_BhLd.to(cos.dtype) if cos.dtype == torch.bfloat16 else x_BhLd
    first, second = x.unflatten(-1, (cos.shape[-2], 2, cos.shape[-1])).unbind(-2)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2)
    return turned.flatten(-3).to(x_BhLd.dtype)


def split_rotated(qkv_BL3hd: torch.Tensor, rope: RopeTable | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values [B, h, L, d], the first two turned as by `rotate`.

    What attention keeps for its backward pass are these three and not the tokens they came from.
    """
    if rope is None or rope.cos.dtype == torch.bfloat16 or torch.compiler.is_compiling():
        q, k, v = qkv_BL3hd.permute(2, 0, 3, 1, 4)
        return rotate(q, rope), rotate(k, rope), v
    q, k, v = _SplitRotated.apply(qkv_BL3hd, rope.cos.unsqueeze(-3), rope.sin.unsqueeze(-3))
    return q, k, v


class _SplitRotated(torch.autograd.Function):
    # in few passes over memory: queries and keys are turned together, and gradients are turned back into the place
    # where the backward pass of the layer below wants them. cos and sin have a dimension for the heads

    @staticmethod
    def forward(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        turned = torch.empty_like(qkv)
        _turn(qkv[:, :, :2], cos.unsqueeze(-4), sin.unsqueeze(-4), turned[:, :, :2])
        turned[:, :, 2] = qkv[:, :, 2]
        return tuple(part.transpose(1, 2) for part in turned.unbind(2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        of_q, of_k, of_v = (grad.transpose(1, 2) for grad in grads)
        turned = of_q.new_empty(*of_q.shape[:2], 3, *of_q.shape[2:])
        _turn(of_q, cos, -sin, turned[:, :, 0])
        _turn(of_k, cos, -sin, turned[:, :, 1])
        turned[:, :, 2] = of_v
        return turned, None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    # x and out are [..., d]; cos and sin [..., g, d / 2g] of float32, in which sums are formed
    split = (cos.shape[-2], 2, cos.shape[-1])
    first, second = x.unflatten(-1, split).unbind(-2)
    to_first, to_second = out.unflatten(-1, split).unbind(-2)
    torch.addcmul(first * cos, second, sin, value=-1, out=to_first)
    torch.addcmul(second * cos, first, sin, out=to_second)


def sincos_table(
    rows: int, columns: int, width: int, num_special: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Return what is added to the tokens of a grid, [T, D], zeros for special tokens.

    Quarters of the channels: sines and cosines of column / 10000^(4k / D), then of the row, for k = 0 .. D/4-1, rows
    and columns counted from 0 (as MAE's code has it: columns first).
    """
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device=device) / (width / 4))

    def counted(num: int) -> torch.Tensor:
        return torch.arange(num, dtype=torch.float64, device=device)

    angles = _pairs(counted(rows), counted(columns)).flip(-1)[:, :, None] * frequency
    table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return torch.cat([table.new_zeros(num_special, width), table]).to(dtype)
