"""Encoders as ONNX graphs.

In: an encoder and the side of its images. Out: a file whose graph turns normalised images [batch, 3, size, size] into
`patch_tokens` [batch, N, D] and, where the model has one, `class_token` [batch, D], for any batch; compared with torch
where onnxruntime is there.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from mumdata.errors import ConfigError, MumError
from mumdata.files import atomic_path
from mumtrain.model.encoder import Encoder

__all__ = ["TOLERANCE", "write_onnx"]

# greatest difference between the graph's tokens and torch's; tokens behind the norm are about 1
TOLERANCE = 1e-4
# a file of protocol buffers holds no more
_MAX_BYTES = 2**31 - 2**24


class _Features(nn.Module):
    """The encoder as a function of images alone, its positions computed beforehand for one size."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        grid, cpu = (size // encoder.patch, size // encoder.patch), torch.device("cpu")
        table, added = encoder.table(grid, cpu), encoder.added(grid, torch.empty(0))
        fixed = copy.copy(encoder)
        # otherwise every run of the graph would compute them again, in float64, which few runtimes know
        fixed.__dict__ |= {"table": lambda *_: table, "added": lambda *_: added}
        self.encoder = fixed

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.encoder.forward_features(images)
        return tuple(found[name] for name in ("x_norm_patchtokens", "x_norm_cls_token") if name in found)


def write_onnx(encoder: Encoder, out: Path, size: int) -> str:
    """Write a float32 encoder on the processor as an ONNX file, and return how it was checked.

    Raises ConfigError for an encoder with bfloat16 tables, MumError where packages are missing, the file would exceed
    two gigabytes, or its results differ from torch's.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MumError(f"format onnx needs {' and '.join(missing)}; run pip install 'mumdata[export]'")
    if encoder.rope is not None and encoder.rope.dtype != torch.float32:
        raise ConfigError(
            "format onnx knows no rotary tables in bfloat16 (model.rope_precision); export as safetensors"
        )
    if sum(p.numel() * p.element_size() for p in encoder.parameters()) > _MAX_BYTES:
        raise MumError("an ONNX file of one piece holds at most 2 GB; export this encoder as safetensors")
    model = _Features(encoder, size).eval()
    names = ["patch_tokens", *(["class_token"] if encoder.class_token is not None else [])]
    # two images: a batch of one would be taken for a constant
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=names,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    with atomic_path(out) as temporary:
        program.save(temporary, external_data=False)
        if importlib.util.find_spec("onnxruntime") is None:
            return "not compared with torch, for want of onnxruntime"
        difference = _difference(temporary, model, [images[:1], images])
        if not difference <= TOLERANCE:
            raise MumError(f"the ONNX graph's tokens differ from torch's by {difference:.1e}; it is not written")
    return f"onnxruntime and torch differ by {difference:.0e} at most on noise"


@torch.inference_mode()
def _difference(path: Path, model: nn.Module, batches: Sequence[torch.Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pairs = [
        (torch.from_numpy(theirs), ours)
        for images in batches
        for theirs, ours in zip(session.run(None, {"images": images.numpy()}), model(images), strict=True)
    ]
    return max(float((theirs - ours).abs().max()) for theirs, ours in pairs)


@contextmanager
def _quiet() -> Iterator[None]:
    # what torch's exporter says about itself, and about packages that are not needed here
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(before)
