"""Weight files as plain data: tensors under names, whatever they are called.

In: a file of torch or of safetensors, told apart by its first bytes. Out: its tensors, or a MumError that says why it
is not opened. Nothing is executed, and no tensor claims more memory than its file holds.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mumdata.errors import MumError
from mumdata.files import atomic_path
from mumtrain.checkpoint import BROKEN, check_stored

__all__ = [
    "check_fit",
    "check_tensors",
    "file_digest",
    "is_safetensors",
    "read_safetensors",
    "read_torch",
    "write_safetensors",
    "write_torch",
]

# names that an error lists of each kind
_NUM_TOLD = 4
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins like one of safetensors: the length of a header, and its opening brace."""
    with _opened(path) as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(path)


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; the library checks its header against its length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise MumError(f"{path} is a broken safetensors file ({str(error).splitlines()[0]}); fetch it again") from error


def read_torch(path: Path) -> Any:
    """Return what torch.save put into a file: tensors, numbers, texts, lists and dictionaries, nothing else.

    Tensors stay in the file until they are used. Raises MumError for a broken file, for one of torch's old formats,
    which are bare pickles, and for one that asks to run code.
    """
    if not zipfile.is_zipfile(path):
        raise MumError(
            f"{path} is neither a safetensors file nor one of torch.save since torch 1.6; what older ones hold could "
            "be code: save it again with a newer torch, where it can be trusted"
        )
    try:
        check_stored(path)
        if path.suffix == ".safetensors":  # by such a name torch would take it for what it is not
            with _opened(path) as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise MumError(
            f"{path} is no plain data and is not opened: it is broken or asks to run code; save its state dict alone"
        ) from error
    except BROKEN as error:
        raise MumError(f"{path} is broken or no file of weights ({type(error).__name__} while reading)") from error


def check_tensors(values: Mapping[Any, Any], source: Path) -> dict[str, torch.Tensor]:
    """Return a state dict in which every value is a dense tensor of finite numbers that its file really holds.

    Raises MumError for the first that is none.
    """
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise MumError(f"{source}: {name!r} among the weights is no tensor, but a {type(value).__name__}")
        # one of nested tensors calls itself strided, and has no shape
        is_dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested
        if not is_dense or value.dtype not in _NUMBERS:
            raise MumError(f"{source}: '{name}' is no dense tensor of floating-point numbers")
        # a tensor may repeat a small memory many times over: copying it would ask for any amount
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise MumError(f"{source}: '{name}' claims to be {list(value.shape)}, more than the file holds of it")
        # in float32, which weights become: greater numbers would be infinite there
        if not value.float().isfinite().all():
            raise MumError(f"{source}: '{name}' holds numbers that are NaN or infinite; use another file")
    return dict(values)


def check_fit(found: Mapping[str, torch.Size], wanted: Mapping[str, torch.Size], source: Path, what: str) -> None:
    """Raise a MumError that lists what is missing, unexpected or of another shape; `what` the weights are taken for."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    shapes = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    told = [
        f"{len(names)} {kind} ({_some(names)})"
        for names, kind in ((missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if told:
        raise MumError(f"{source} does not hold {what}: of {len(wanted)} tensors " + ", ".join(told))


def _some(names: list[str]) -> str:
    rest = len(names) - _NUM_TOLD
    return ", ".join(names[:_NUM_TOLD]) + (f" and {rest} more" if rest > 0 else "")


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts about them as a safetensors file.

    With one text at most the same contents give the same bytes: the library orders several by chance.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(_apart(tensors), temporary, {**metadata})
        except SafetensorError as error:
            raise _unwritten(path, error) from error
        temporary.chmod(mode)  # the library makes a file that its owner alone may read


def write_torch(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as a plain state dict, for torch.load."""
    with atomic_path(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        except RuntimeError as error:
            raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> MumError:
    # a failed write, on a full disk above all, in the library's own words
    return MumError(f"cannot write {path}: {str(error).splitlines()[0]}; is there space left?")


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # each in a memory of its own: the library refuses tensors that share one
    found, memories = {}, set()
    for name, tensor in tensors.items():
        own = tensor.contiguous()
        if own.untyped_storage().data_ptr() in memories:
            own = own.clone()
        memories.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def file_digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the bytes of files, one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with _opened(path) as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def _opened(path: Path) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise MumError(f"cannot read {path}: {error.strerror or error}") from error
