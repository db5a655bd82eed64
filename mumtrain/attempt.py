"""A step's forward and backward passes, watched: where the first number came from that is not finite.

In: a model and the slots of a step, on the device. Out: an Attempt: the losses of slots and sequences, and which
module, sequence and gradients first were no finite numbers. No weight moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mumtrain.config import Config
from mumtrain.feed import Slot
from mumtrain.model.autoencoder import MaskedAutoencoder
from mumtrain.optim import grad_norm
from mumtrain.runtime import Runtime
from mumtrain.step import SlotLosses, add_gradient

__all__ = ["Attempt", "BadSequence", "FirstModule", "Given", "SlotLoss", "attempt", "largest_finite"]

# names that are told where there may be hundreds
_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class SlotLoss:
    """The loss of a slot, and how many of its sequences have one that is no finite number."""

    slot: int
    views: int
    sequences: int
    datasets: tuple[str, ...]
    loss: float
    bad_sequences: int


@dataclass(frozen=True, kw_only=True)
class BadSequence:
    """The first sequence whose loss is no finite number, and the images that its views show."""

    slot: int
    number: int  # in its slot
    dataset: str
    sequence: int  # its row in the dataset's catalog
    loss: float
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FirstModule:
    """The module that first, in the order of execution, put out a number that is not finite."""

    slot: int
    module: str
    kind: str
    came_in: bool  # it was among its inputs: it arose before the module, outside of any other
    largest_input: float | None  # absolute, of the finite ones
    bad_weights: bool  # of the module itself


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The step in one number format."""

    number_format: str
    loss: float
    grad_norm: float
    slots: tuple[SlotLoss, ...]
    bad_sequence: BadSequence | None
    first_module: FirstModule | None
    first_bad_gradient: int | None  # the slot after which a gradient was no finite number
    bad_gradients: int  # parameters whose gradient holds a number that is not finite
    bad_gradient_names: tuple[str, ...]  # the first of them
    parameters: int

    @property
    def is_bad(self) -> bool:
        """Whether loss or gradient is no finite number."""
        return not (math.isfinite(self.loss) and math.isfinite(self.grad_norm))


@dataclass(frozen=True)
class Given:
    """A slot on the device, and what its sequences show (`mumtrain.bad_steps.slot_sequences`)."""

    slot: Slot
    sequences: Sequence[Mapping[str, Any]]


def attempt(model: MaskedAutoencoder, config: Config, slots: Iterable[Given], runtime: Runtime) -> Attempt:
    """Run the slots forward and backward, one after the other, and look at all that comes out."""
    losses_of, num = SlotLosses(model), config.data.slots
    model.zero_grad(set_to_none=True)
    total = torch.zeros((), device=runtime.device)
    found, bad_sequence, first_module, first_gradient = [], None, None, None
    for given in slots:
        number = given.slot.loaded.batch.slot
        with _Watch(losses_of, number) as watch:
            loss, losses = add_gradient(losses_of, given.slot, num, config, runtime)
        total += loss
        first_module = first_module or watch.first
        if first_gradient is None and _bad_gradients(model):
            first_gradient = number
        values = losses.of_sequences.tolist()
        bad = [at for at, value in enumerate(values) if not math.isfinite(value)]
        if bad and bad_sequence is None:
            bad_sequence = _bad_sequence(number, bad[0], given.sequences[bad[0]], values[bad[0]])
        B, V = given.slot.views.shape[:2]
        names = tuple(dict.fromkeys(str(one["dataset"]) for one in given.sequences))
        mean = float(losses.mean.detach())
        found.append(SlotLoss(slot=number, views=V, sequences=B, datasets=names, loss=mean, bad_sequences=len(bad)))
    names_bad = _bad_gradients(model)
    made = Attempt(
        number_format="bfloat16" if runtime.bf16 else "float32",
        loss=float(total),
        grad_norm=float(grad_norm(model)),
        slots=tuple(found),
        bad_sequence=bad_sequence,
        first_module=first_module,
        first_bad_gradient=first_gradient,
        bad_gradients=len(names_bad),
        bad_gradient_names=tuple(names_bad[:_NAMES]),
        parameters=sum(1 for _ in model.parameters()),
    )
    model.zero_grad(set_to_none=True)
    return made


def _bad_sequence(slot: int, number: int, told: Mapping[str, Any], loss: float) -> BadSequence:
    paths = [str(path) for path in told["paths"]]
    for one in told["substitutes"]:
        paths[one["view"]] = f"{one['path']} (in the place of {paths[one['view']]})"
    return BadSequence(
        slot=slot,
        number=number,
        dataset=str(told["dataset"]),
        sequence=int(told["sequence"]),
        loss=loss,
        paths=tuple(paths),
    )


def _bad_gradients(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.grad is not None and not _is_finite([p.grad])]


class _Watch:
    """Looks at what each module takes and puts out, for the first number that is not finite; use it in a `with`."""

    def __init__(self, losses: SlotLosses, slot: int) -> None:
        self._losses, self._slot = losses, slot
        self._open = ExitStack()
        self.first: FirstModule | None = None

    def __enter__(self) -> _Watch:
        for name, module in self._losses.named_modules():
            name = name.removeprefix("model").removeprefix(".") or "the loss"
            before = module.register_forward_pre_hook(self._hook_before(name), with_kwargs=True)
            after = module.register_forward_hook(self._hook_after(name), with_kwargs=True)
            self._open.callback(before.remove)
            self._open.callback(after.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _hook_before(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.first is None and not _is_finite(taken := list(_tensors([args, kwargs]))):
                self.first = self._found(name, module, taken, came_in=True)

        return look

    def _hook_after(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self.first is None and not _is_finite(_tensors(output)):
                self.first = self._found(name, module, list(_tensors([args, kwargs])), came_in=False)

        return look

    def _found(self, name: str, module: nn.Module, taken: Sequence[torch.Tensor], *, came_in: bool) -> FirstModule:
        return FirstModule(
            slot=self._slot,
            module=name,
            kind=type(module).__name__,
            came_in=came_in,
            largest_input=largest_finite(taken),
            bad_weights=not _is_finite(module.parameters(recurse=False)),
        )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    # those of floating point, in nests of lists, tuples and dictionaries
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _is_finite(tensors: Iterable[torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def largest_finite(tensors: Iterable[torch.Tensor]) -> float | None:
    """Return the largest absolute value of those that are finite, None where there is none."""
    sizes = [float(part.max()) for tensor in tensors if len(part := tensor.detach()[tensor.isfinite()].abs().float())]
    return max(sizes, default=None)
