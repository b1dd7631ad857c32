"""Work dealt to processes: as many jobs under way as there are workers, and none left orphaned."""

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
    """One call of a task; the name is what an error calls it by."""

    name: str
    arguments: tuple[Any, ...]


class WorkerDied(SharplineError):
    """A worker process ended without an answer: killed, or out of memory."""


def run_tasks(
    function: Callable[..., Result], tasks: Iterable[WorkerTask], *, workers: int
) -> Iterator[Result]:
    """Yield the result of each job as it comes, in no particular order.

    One worker is this process itself. What a job raises is raised here once the others that are
    under way have ended; raises WorkerDied, naming the jobs under way, where a process dies.
    """
    if workers == 1:
        for task in tasks:
            yield function(*task.arguments)
        return
    # Forked from a process that has run nothing else, so no thread's lock is copied while held.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.data.shards.shards"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_settle) as pool:
        waiting: dict[Future[Result], str] = {}
        for task in tasks:
            if len(waiting) == workers:
                yield from _finished(waiting)
            waiting[_submitted(pool, function, task)] = task.name
        while waiting:
            yield from _finished(waiting)


def _submitted(
    pool: ProcessPoolExecutor, function: Callable[..., Result], task: WorkerTask
) -> Future[Result]:
    try:
        return pool.submit(function, *task.arguments)
    except BrokenProcessPool as error:
        raise _died([task.name]) from error


def _finished(waiting: dict[Future[Result], str]) -> Iterator[Result]:
    done = wait(waiting, return_when=FIRST_COMPLETED).done
    under_way = sorted(waiting.values())
    for future in done:
        waiting.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool as error:
            raise _died(under_way) from error
        yield result


def _died(names: list[str]) -> WorkerDied:
    return WorkerDied(
        "a worker process died (killed, or out of memory) while it worked on "
        f"{' or '.join(names)}; what was done before is kept, so run the same "
        "command again, with fewer --workers if memory was short"
    )


def _settle() -> None:
    """Make a worker end with the process that started it, even one that is killed outright."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
