"""Where metrics go beside metrics.jsonl: TensorBoard, and Weights & Biases where a project is named.

In: numbers and pictures of a step. Out: files in the run's folder, or what goes to a server that the user asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mumdata.errors import MumError
from mumtrain.config import Config, to_dict

__all__ = ["Sink", "open_sinks"]

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes what a run measures."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step, counted from 1."""

    def picture(self, step: int, name: str, pixels_HWC: np.ndarray) -> None:
        """Take a picture, uint8 RGB."""

    def close(self) -> None:
        """Write what is left."""


def open_sinks(run: Path, config: Config, start: int) -> list[Sink]:
    """Open what the settings ask for; MumError where a package is missing."""
    sinks: list[Sink] = [_TensorBoard(run, start)]
    if config.log.wandb:
        sinks.append(_WandB(run, config))
    return sinks


class _TensorBoard:
    def __init__(self, run: Path, start: int) -> None:
        # imported here: it takes a second, and only a training run needs it
        from torch.utils.tensorboard import SummaryWriter

        # what an earlier start wrote of later steps is written again
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._do("add_scalar", name, value, step)

    def picture(self, step: int, name: str, pixels_HWC: np.ndarray) -> None:
        self._do("add_image", name, pixels_HWC, step, dataformats="HWC")

    def close(self) -> None:
        self._do("close")

    def _do(self, method: str, *arguments: Any, **options: Any) -> None:
        # curves are not worth a run: on a full disk it goes on without them, metrics.jsonl has the numbers
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments, **options)
        except OSError as error:
            logger.warning("TensorBoard's files cannot be written (%s); training goes on without them", error)
            self._writer = None


class _WandB:
    def __init__(self, run: Path, config: Config) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MumError(
                "log.wandb is set, but the package wandb is not there; pip install 'mumdata[wandb]'"
            ) from error
        self._wandb: Any = wandb
        # one name for all starts of a run, so that they continue one curve
        self._run: Any = wandb.init(
            project=config.log.wandb,
            id=run.resolve().name,
            name=run.resolve().name,
            resume="allow",
            config=to_dict(config),
            dir=str(run),
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels_HWC: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(pixels_HWC)}, step=step)

    def close(self) -> None:
        self._run.finish()
