"""Work spread over processes, with the results in the order of the tasks.

In: a function that can be pickled, tasks, a number of workers. Out: an iterator of results, the same for any number
of workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from mumdata.errors import ConfigError, MumError

__all__ = ["each", "num_cpus"]

Task = TypeVar("Task")
Result = TypeVar("Result")

# below this many tasks, starting processes costs more than it saves
_FEW = 8


def num_cpus() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def each(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None, what: str, unit: str = "scene"
) -> Iterator[Result]:
    """Yield function(task) for each task, in order; progress on standard error.

    `workers` None means: all CPUs, or this process alone where there are few tasks.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is not at least 1")
    if workers is None:
        workers = num_cpus() if len(tasks) >= _FEW else 1
    workers = min(workers, len(tasks))
    bar = tqdm(total=len(tasks), desc=what, unit=unit, disable=None, leave=False, dynamic_ncols=True)
    with bar:
        if workers <= 1:
            for task in tasks:
                yield function(task)
                bar.update()
            return
        # spawned, not forked: forking a process that has threads is not safe
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                for result in pool.map(function, tasks, chunksize=max(1, min(64, len(tasks) // (workers * 8)))):
                    yield result
                    bar.update()
            except BrokenProcessPool as error:
                raise MumError(f"a worker process died while {what}; too little memory? try --workers 1") from error
            finally:
                pool.shutdown(cancel_futures=True)
