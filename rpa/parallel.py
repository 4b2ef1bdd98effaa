"""Independent pieces of work on all cores, or on a cluster.

`pmap(f, items)` is `[f(x) for x in items]` on joblib's workers. To outgrow one machine, hand joblib a dask cluster;
nothing else changes:

    from dask.distributed import Client
    import joblib
    with Client("scheduler-address:8786"), joblib.parallel_config(backend="dask"):
        pmap(f, items)
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache
from multiprocessing import current_process
from typing import Any

from joblib import Parallel, cpu_count, delayed
from tqdm.auto import tqdm

__all__ = ["pmap", "tmap"]

SHARING = ContextVar("SHARING", default=False)  # whether this is one of several workers of `pmap`


def pmap(
    f: Callable[[Any], Any], items: Iterable[Any], *, n_jobs: int | None = None, progress: str | None = None
) -> list[Any]:
    """[f(x) for x in items], in order, computed in parallel.

    f: a function that workers can import or unpickle (cloudpickle); items: any iterable, taken whole first.
    n_jobs: workers, -1 for one per core (of the cluster), 1 to work here; by default the environment variable
    RPA_WORKERS, else -1. progress: a label shows a tqdm bar, None shows none. Give each item its own seed: which
    worker takes it is chance. Raises RuntimeError naming an item that failed, from its own exception; a worker that
    dies (killed, out of memory) ends the call with joblib's TerminatedWorkerError, but on a dask cluster, which gives
    its work to another.

    >>> pmap(abs, [-1, 2, -3], n_jobs=1)
    [1, 2, 3]
    """
    items = list(items)
    n_jobs = _workers() if n_jobs is None else n_jobs
    results: dict[int, Any] = {}
    tasks = (delayed(_guarded)(f, i, item, n_jobs != 1) for i, item in enumerate(items))
    with tqdm(desc=progress, total=len(items), disable=progress is None) as bar:
        for i, value, error in Parallel(n_jobs, return_as="generator_unordered")(tasks):
            if error is not None:
                reason = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"pmap: item {i} ({_short(items[i])}) raised {reason}") from error
            results[i] = value
            bar.update()
    return [results[i] for i in range(len(items))]


def tmap(f: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """[f(x) for x in items], in order, on threads of this process: for torch's operations, which run side by side.

    As many threads as `pmap` has workers, but one in each of its workers; torch itself has one thread in each. Split
    the work into the same items whatever the number of threads, then no number depends on it.

    >>> tmap(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    items = list(items)
    if len(items) < 2:
        return [f(x) for x in items]
    n = 1 if SHARING.get() else _workers()
    return list(_threads(n if n > 0 else cpu_count(), os.getpid()).map(f, items))


def _workers():
    return int(os.environ.get("RPA_WORKERS") or -1)


@cache
def _threads(n, process):
    """n threads of this process (a fork has none of them), in which torch has one thread each."""
    import torch

    before, all_here = torch.get_num_threads(), threading.Barrier(n)
    pool = ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))
    for started in [pool.submit(all_here.wait) for _ in range(n)]:
        started.result()
    torch.set_num_threads(before)  # threads that others start later take the last number set
    return pool


def _guarded(f, i, item, sharing):
    """(i, value, None), or (i, None, exception): every worker and backend returns exceptions the same way."""
    if current_process().name.startswith("Loky"):
        end_with_parent()
    before = SHARING.set(sharing)
    try:
        return i, f(item), None
    except Exception as error:
        return i, None, error
    finally:
        SHARING.reset(before)


@cache
def end_with_parent():
    """A worker process whose parent was killed ends within a second; by itself it would wait for minutes."""

    def watch(parent):
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=[os.getppid()], daemon=True).start()


def _short(item):
    text = repr(item)
    return text if len(text) <= 80 else text[:77] + "..."
