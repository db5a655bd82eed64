"""The transformer's blocks compiled, one compilation for all numbers of views.

In: a model. Out: the same model, whose blocks run compiled while it is trained, and a count of the compilations. Names
in its state dict do not change. Shapes: B sequences, V views, L tokens, D width, T tokens of a view.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mumtrain.model.layers import Block, CrossBlock
from mumtrain.model.positions import RopeTable

__all__ = ["EXPECTED", "Compilations", "compile_blocks"]

# compilations of one kind of block that are in order: for one sequence and for several, which torch keeps apart, each
# with a rotary table for all views and with one for each of them
EXPECTED = 4


class Compilations:
    """How often the blocks of a model were compiled, and what went wrong.

    A kind of block is its class, its width and its heads; all blocks of a kind share what is compiled. Where a kind
    cannot be compiled, or torch would have to compile it too often (`torch._dynamo.config.recompile_limit`), its blocks
    run as they are from then on: slower, and with the same results.
    """

    def __init__(self, kinds: Mapping[str, _Kind]) -> None:
        self._kinds = dict(kinds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this, the blocks run as they are."""
        try:
            self._set_active(False)
            yield
        finally:
            self._set_active(True)

    def _set_active(self, is_active: bool) -> None:
        for kind in self._kinds.values():
            kind.is_active = is_active

    @property
    def counts(self) -> dict[str, int]:
        """The number of compilations so far of each kind of block, e.g. {"Block 1024/16": 1}."""
        return {name: kind.count for name, kind in self._kinds.items()}

    @property
    def failures(self) -> dict[str, str]:
        """Why a kind of block runs as it is, in one line; empty where all are compiled, or never ran."""
        return {name: kind.failure for name, kind in self._kinds.items() if kind.failure is not None}

    def report(self) -> str | None:
        """Return one line where a kind was compiled more than four times or runs as it is, else None."""
        told = [f"{name} is not compiled and slow ({why})" for name, why in self.failures.items()]
        told += [
            f"{name} was compiled {count} times, where {EXPECTED} are expected"
            for name, count in self.counts.items()
            if count > EXPECTED and name not in self.failures
        ]
        return f"{'; '.join(told)}; TORCH_LOGS=recompiles tells why, compile=never does without" if told else None


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> Compilations:
    """Have the blocks of a model run compiled, in place; they are compiled when they first run.

    One compilation serves all numbers of sequences, views and tokens, another one a single sequence. What runs without
    gradients (features, pictures, measurements) is not compiled. `backend` is the name of one of torch's compilers.
    Sets `torch._dynamo.config.optimize_ddp` to False.
    """
    # it would cut what is compiled at the borders of DistributedDataParallel's buckets, so that gradients can be sent
    # while others are computed; blocks are small enough for that already, and some would be cut in two
    torch._dynamo.config.optimize_ddp = False
    kinds: dict[str, _Kind] = {}
    for block in model.modules():
        if isinstance(block, Block | CrossBlock):
            heads = block.attention.heads
            name = f"{type(block).__name__} {block.attention.qkv.in_features}/{heads}"
            kind = kinds.setdefault(name, _Kind(type(block), backend))
            # an attribute of the instance: neither a parameter nor a sub-module, so that no name changes
            vars(block)["forward"] = _Forward(block, kind)
    return Compilations(kinds)


class _Kind:
    """The blocks of one class, width and number of heads: what is compiled for them."""

    def __init__(self, block_type: type[nn.Module], backend: str) -> None:
        self._backend = backend
        self.count = 0
        self.is_active = True
        self.failure: str | None = None
        self._as_is: Callable[..., torch.Tensor] = block_type.forward
        # torch keeps what it compiles, and counts it, by code object: with one for each kind they do not share a limit
        code = block_type.forward.__code__
        own = types.FunctionType(code.replace(), block_type.forward.__globals__, code.co_name)
        self._compiled = torch.compile(own, fullgraph=True, backend=self._compile)

    def run(self, block: nn.Module, arguments: tuple[Any, ...]) -> torch.Tensor:
        """Return what a block makes of its arguments."""
        # without gradients little time is spent, and it would take compilations of its own
        runs_compiled = self.is_active and self.failure is None and torch.is_grad_enabled()
        if not runs_compiled or torch.compiler.is_compiling():
            return self._as_is(block, *arguments)
        try:
            return self._compiled(block, *map(_with_free_sizes, arguments))
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            self.failure = _told(error)
        return self._as_is(block, *arguments)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.count += 1
        with warnings.catch_warnings():
            # of products in float32, which autocast leaves none of
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
            compiled: Callable[..., Any] = torch._dynamo.lookup_backend(self._backend)(graph, inputs)
        return compiled


class _Forward:
    """A block's forward."""

    def __init__(self, block: nn.Module, kind: _Kind) -> None:
        self._block, self._kind = block, kind

    def __call__(self, *arguments: Any) -> torch.Tensor:
        return self._kind.run(self._block, arguments)


def _with_free_sizes(argument: Any) -> Any:
    # tokens [B * V, T, D] or [B, V * T, D], tables [L, g, d] or [B * V, L, g, d]: all sizes but those of channels vary
    if isinstance(argument, RopeTable):
        for part in argument:
            torch._dynamo.maybe_mark_dynamic(part, list(range(part.ndim - 2)))
        return argument
    if argument is None:
        return None
    # folded tokens are a view, and torch would compile for each kind of shape that they were folded from: here they
    # become a tensor of their own, in the same memory
    tokens = torch.ops.aten._unsafe_view(argument, argument.shape)
    torch._dynamo.maybe_mark_dynamic(tokens, [0, 1])
    return tokens


def _told(error: Exception) -> str:
    # why something was not compiled, in a line
    if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
        limit = torch._dynamo.config.recompile_limit
        return f"it would be compiled more than {limit} times, which torch._dynamo.config.recompile_limit forbids"
    inner = getattr(error, "inner_exception", error)
    lines: Iterator[str] = (line.strip() for line in str(inner).splitlines())
    return f"{type(inner).__name__}: {next(filter(None, lines), 'no message')}"[:200]
