"""Work spread over processes, here or on a Ray cluster, with the results in the order of the tasks.

In: a function that can be pickled, tasks, a number of workers. Out: an iterator of results, the same for any number of
workers and any engine. Few tasks are under way at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from mumdata.errors import ConfigError, MumError, unknown

__all__ = ["ENGINES", "each", "num_cpus"]

Task = TypeVar("Task")
Result = TypeVar("Result")

ENGINES = ("local", "ray")

# below this many tasks, starting processes costs more than it saves
_FEW = 8
# brief tasks are done here until it is seen that the rest takes longer than starting processes (about a second)
_PROBE_S, _WORTH_S = 0.1, 1.5
# tasks that travel together: more would be faster for tiny tasks, and take more memory for large ones
_TOGETHER, _MOST_TOGETHER, _CHUNK_S = 8, 64, 0.04


def num_cpus() -> int:
    """Return the number of CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def each(
    function: Callable[..., Result],
    tasks: Sequence[Task],
    workers: int | None,
    what: str,
    unit: str = "scene",
    *,
    shared: Any = None,
    brief: bool = False,
    engine: str = "local",
    address: str | None = None,
    costs: Sequence[int] | None = None,
    budget: float = float("inf"),
) -> Iterator[Result]:
    """Yield function(task) for each task, in order; progress on standard error.

    `costs` are estimates of the memory in bytes that each task takes; those under way together stay within `budget`,
    and a task that exceeds it by itself runs alone (on Ray: on each of its machines).

    `workers` None means: all CPUs, or this process alone where there are few tasks. `shared` is sent to each process
    once, and function(shared, task) is called then. `brief` tells that a task may well take less than a millisecond:
    other processes are then started only where there is work left for seconds. `engine` "ray" runs the tasks on the
    Ray cluster at `address`, or on one that is started here. Raises ConfigError for wrong options, MumError where a
    worker dies.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is not at least 1")
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if address is not None and engine != "ray":
        raise ConfigError("--address is for --engine ray")
    if workers is None and engine == "local":
        workers = num_cpus() if len(tasks) >= _FEW else 1
    bar = tqdm(total=len(tasks), desc=what, unit=unit, disable=None, leave=False, dynamic_ncols=True)
    with bar:
        if engine == "ray":
            results = _on_ray(function, tasks, workers, shared, address, costs, budget)
        elif min(workers or 1, len(tasks)) <= 1:
            results = (_call(function, shared, task) for task in tasks)
        else:
            results = _in_processes(function, tasks, workers or 1, shared, what, brief, costs, budget)
        for result in results:
            yield result
            bar.update()


def _call(function: Callable[..., Result], shared: Any, task: Task) -> Result:
    return function(task) if shared is None else function(shared, task)


@dataclass(frozen=True)
class _Chunk(Generic[Task]):
    # tasks that travel together; they are done one after another, so they cost as much as the dearest of them
    tasks: Sequence[Task]
    cost: float


def _chunks(
    tasks: Sequence[Task], workers: int, costs: Sequence[int] | None, each_s: float | None = None
) -> list[_Chunk[Task]]:
    size = max(1, min(_TOGETHER, len(tasks) // (workers * 8)))
    if each_s is not None:  # as many as take a moment: a worker's last chunk is not waited for long
        size = max(1, min(_MOST_TOGETHER, int(_CHUNK_S / max(each_s, 1e-6))))
    return [
        _Chunk(tasks[start : start + size], max(costs[start : start + size]) if costs is not None else 0.0)
        for start in range(0, len(tasks), size)
    ]


def _fits(under_way: Iterable[float], cost: float, workers: int, budget: float) -> bool:
    # of the chunks that were handed out at most `workers` are worked on at the same time
    dearest = sorted((*under_way, cost), reverse=True)[:workers]
    return len(dearest) == 1 or sum(dearest) <= budget


# ---- processes of this machine

_shared: Any = None  # of a worker process: set once, when it starts


def _receive(shared: Any) -> None:
    global _shared
    _shared = shared
    # each worker holds both ends of the queue of tasks, so that it would wait for ever for a parent that was killed
    threading.Thread(target=_leave_with_parent, name="leave with parent", daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(function: Callable[..., Result], tasks: Sequence[Task]) -> list[Result]:
    return [_call(function, _shared, task) for task in tasks]


def _in_processes(
    function: Callable[..., Result],
    tasks: Sequence[Task],
    workers: int,
    shared: Any,
    what: str,
    brief: bool,
    costs: Sequence[int] | None,
    budget: float,
) -> Iterator[Result]:
    each_s = None
    if brief:
        # the first task also loads libraries, so it says nothing about the others
        done, begun = 0, time.monotonic()
        for task in tasks:
            spent = time.monotonic() - begun
            if spent > _PROBE_S and spent * (len(tasks) - done) > _WORTH_S * max(1, done - 1):
                break
            yield _call(function, shared, task)
            done += 1
            if done == 1:
                begun = time.monotonic()
        costs = None if costs is None else costs[done:]
        tasks, each_s = tasks[done:], (time.monotonic() - begun) / max(1, done - 1)
        if not tasks:
            return
    # This process is one of the workers: it takes a chunk that no other has begun whenever it would have to wait, so
    # that it has done a good part of a short job by the time the others have started.
    waiting = deque(_chunks(tasks, workers, costs, each_s))
    under_way: deque[tuple[_Chunk[Task], Future[list[Result]] | list[Result]]] = deque()
    # spawned, not forked: forking a process that has threads is not safe
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers - 1, context, initializer=_receive, initargs=(shared,)) as pool:
        try:
            while True:
                while (
                    waiting
                    and len(under_way) < workers + 2
                    and _fits((chunk.cost for chunk, _ in under_way), waiting[0].cost, workers, budget)
                ):
                    chunk = waiting.popleft()
                    under_way.append((chunk, pool.submit(_work, function, chunk.tasks)))
                if not under_way:
                    return
                chunk, head = under_way[0]
                if isinstance(head, Future) and not head.done() and _help(function, shared, under_way):
                    continue
                under_way.popleft()
                yield from (head.result() if isinstance(head, Future) else head)
        except BrokenProcessPool as error:
            raise MumError(f"a worker process died while {what}; too little memory? try --workers 1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _help(
    function: Callable[..., Result],
    shared: Any,
    under_way: deque[tuple[_Chunk[Task], Future[list[Result]] | list[Result]]],
) -> bool:
    for place, (chunk, future) in enumerate(under_way):
        if isinstance(future, Future) and future.cancel():
            under_way[place] = (chunk, [_call(function, shared, task) for task in chunk.tasks])
            return True
    return False


# ---- Ray


def _on_ray(
    function: Callable[..., Result],
    tasks: Sequence[Task],
    workers: int | None,
    shared: Any,
    address: str | None,
    costs: Sequence[int] | None,
    budget: float,
) -> Iterator[Result]:
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--engine ray needs the package ray; run pip install 'ray>=2.40'") from error
    started = not ray.is_initialized()
    if started:
        try:
            here = {} if address else {"num_cpus": workers or num_cpus(), "include_dashboard": False}
            ray.init(address=address, log_to_driver=False, logging_level="error", **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from error
    try:
        workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        remote = ray.remote(_work_on_ray)
        state = ray.put(shared)
        budget *= max(1, sum(node["Alive"] for node in ray.nodes()))
        waiting = deque(_chunks(tasks, workers, costs))
        under_way: deque[tuple[_Chunk[Task], Any]] = deque()
        while True:
            while (
                waiting
                and len(under_way) < workers + 2
                and _fits((chunk.cost for chunk, _ in under_way), waiting[0].cost, workers, budget)
            ):
                chunk = waiting.popleft()
                under_way.append((chunk, remote.remote(function, state, chunk.tasks)))
            if not under_way:
                return
            try:
                yield from ray.get(under_way.popleft()[1])
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, MumError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError as error:
                raise MumError(f"the Ray cluster failed: {str(error).splitlines()[0]}") from error
    finally:
        if started:
            ray.shutdown()


def _work_on_ray(function: Callable[..., Result], shared: Any, tasks: Sequence[Task]) -> list[Result]:
    return [_call(function, shared, task) for task in tasks]
