"""From the loader's ring to the device: order, overlap, and who may use which buffer when."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mumtrain.feed
from mumtrain.feed import Feed, Slot, open_feed
from mumtrain.loader import Loaded
from mumtrain.runtime import select_runtime
from tests.test_loader import KEYS, load, make_loader, photos


class LateCopier:
    """A device that copies as late as it may: when it is waited for. Its tensor is filled only then."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self._waiting: dict[int, tuple[Slot, np.ndarray]] = {}

    def begin(self, loaded: Loaded) -> tuple[Slot, int]:
        step = loaded.batch.step
        self.told.append(("begin", step))
        slot = Slot(loaded, torch.zeros(loaded.views.shape, dtype=torch.uint8))
        self._waiting[step] = slot, loaded.views
        return slot, step

    def order(self, slot: Slot, mark: int) -> None:
        assert slot.loaded.batch.step == mark
        self.told.append(("order", mark))

    def wait(self, mark: int) -> None:
        self.told.append(("wait", mark))
        slot, views = self._waiting.pop(mark)
        slot.views.copy_(torch.from_numpy(views))

    def close(self) -> None:
        for mark in list(self._waiting):
            self.wait(mark)
        self.told.append(("close", -1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_buffer_is_given_back_after_its_copy(tmp_path: Path, workers: int) -> None:
    names = photos(tmp_path, 6)
    keys = [(step, 0) for step in range(10)]
    truth = load(make_loader(tmp_path, [names]), keys)
    copier = LateCopier()
    with (
        make_loader(tmp_path, [names], f"data.workers={workers}", "data.prefetch=1") as loader,
        Feed(loader.load(keys), copier) as feed,
    ):
        slots = []
        for slot in feed:
            slots.append(slot)
            time.sleep(0.01)  # in which the workers fill all that they may
    assert len(slots) == 10
    for slot, wanted in zip(slots, truth, strict=True):
        assert np.array_equal(slot.views.numpy(), wanted.views)
    assert copier.told[-1] == ("close", -1)
    place = {told: number for number, told in enumerate(copier.told)}
    for step in range(10):
        assert place["begin", step] < place["order", step]
        if step >= 2:
            assert place["wait", step - 2] < place["begin", step]


class Counted:
    """Slots that count how many were asked for, of which the next is always ready, or never."""

    def __init__(self, ready: bool) -> None:
        self.asked, self._ready = 0, ready

    def __next__(self) -> Any:
        self.asked += 1
        return SimpleNamespace(batch=SimpleNamespace(step=self.asked), views=np.zeros((1, 1, 3, 2, 2), np.uint8))

    def is_ready(self) -> bool:
        return self._ready


@pytest.mark.parametrize("ready", [True, False])
def test_the_next_slot_is_copied_early_but_not_waited_for(ready: bool) -> None:
    slots, copier = Counted(ready), LateCopier()
    with Feed(slots, copier) as feed:  # type: ignore[arg-type]
        for wanted in (1, 2, 3, 4):
            assert next(feed).loaded.batch.step == wanted
            assert slots.asked == wanted + ready
            assert ("begin", wanted + 1) in copier.told or not ready


def test_on_the_processor_nothing_is_copied(tmp_path: Path) -> None:
    names = photos(tmp_path, 6)
    truth = load(make_loader(tmp_path, [names]))
    with (
        make_loader(tmp_path, [names], "data.workers=1") as loader,
        open_feed(loader, loader.load(KEYS), select_runtime("cpu")) as feed,
    ):
        for slot, wanted in zip(feed, truth, strict=True):
            assert np.array_equal(slot.views.numpy(), wanted.views)
            assert np.shares_memory(slot.views.numpy(), loader.ring)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("locks", [True, False])
def test_on_the_device(tmp_path: Path, workers: int, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = photos(tmp_path, 6)
    keys = [(step, 0) for step in range(30)]
    truth = load(make_loader(tmp_path, [names]), keys)
    runtime = select_runtime("cuda")
    if not locks:
        monkeypatch.setattr(mumtrain.feed, "_lock_pages", lambda ring, device: False)
    with (
        make_loader(tmp_path, [names], f"data.workers={workers}", "data.prefetch=1") as loader,
        open_feed(loader, loader.load(keys), runtime) as feed,
    ):
        assert torch.from_numpy(loader.ring).is_pinned() == locks
        got = []
        for slot in feed:
            torch.cuda._sleep(10**7)  # the device lags behind
            got.append(slot.views.clone())
    assert not torch.from_numpy(loader.ring).is_pinned()
    for views, wanted in zip(got, truth, strict=True):
        assert np.array_equal(views.cpu().numpy(), wanted.views)


@pytest.mark.gpu
def test_pages_that_cannot_be_locked(caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda")
    ring = np.zeros((1, 1, 1 << 20), np.uint8)
    assert mumtrain.feed._lock_pages(ring, device)
    assert not mumtrain.feed._lock_pages(ring, device)  # twice is refused
    assert "cannot be page-locked" in caplog.text
    assert float(torch.ones(3, device=device).sum()) == 3  # and nobody else hears of the error
    torch.cuda.cudart().cudaHostUnregister(ring.ctypes.data)
