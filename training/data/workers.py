"""Runs tasks in worker processes, one per worker at a time; workers exit with their parent."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar

from superres.common.errors import SharplineError

Result = TypeVar("Result")


class WorkerTask(NamedTuple):
    """The arguments of one call, with a name for error messages."""

    name: str
    arguments: tuple[Any, ...]


class WorkerDied(SharplineError):
    """A worker process ended without a result: killed, or out of memory."""


def run_tasks(
    function: Callable[..., Result], tasks: Iterable[WorkerTask], *, workers: int
) -> Iterator[Result]:
    """Yield the result of each task as it completes, in no particular order.

    One worker means this process. A task's exception is raised here once the other running tasks
    have ended; raises WorkerDied, naming the running tasks, when a process dies.
    """
    if workers == 1:
        for task in tasks:
            yield function(*task.arguments)
        return
    # A fork server has no other threads, so no lock is copied in a locked state.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.data.shards.shards"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_watch_parent) as pool:
        pending: dict[Future[Result], str] = {}
        for task in tasks:
            if len(pending) == workers:
                yield from _finished(pending)
            pending[_submit(pool, function, task)] = task.name
        while pending:
            yield from _finished(pending)


def _submit(
    pool: ProcessPoolExecutor, function: Callable[..., Result], task: WorkerTask
) -> Future[Result]:
    try:
        return pool.submit(function, *task.arguments)
    except BrokenProcessPool as error:
        raise _died([task.name]) from error


def _finished(pending: dict[Future[Result], str]) -> Iterator[Result]:
    done = wait(pending, return_when=FIRST_COMPLETED).done
    names = sorted(pending.values())
    for future in done:
        pending.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool as error:
            raise _died(names) from error
        yield result


def _died(names: list[str]) -> WorkerDied:
    return WorkerDied(
        "a worker process died (killed, or out of memory) while it worked on "
        f"{' or '.join(names)}; finished work is kept, so run the same "
        "command again, with fewer --workers if memory was short"
    )


def _watch_parent() -> None:
    """Make this worker exit when its parent does, even when the parent is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: Any) -> None:
    parent.join()
    os._exit(1)
