"""Independent pieces of work on all cores, or on a cluster.

`pmap(f, items)` is `[f(x) for x in items]` on joblib's workers. For more than one machine, give joblib a dask cluster;
nothing else changes:

    from dask.distributed import Client
    import joblib
    with Client("scheduler-address:8786"), joblib.parallel_config(backend="dask"):
        pmap(f, items)
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import deepcopy
from functools import cache
from multiprocessing import current_process
from typing import Any

from joblib import Parallel, cpu_count, delayed
from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

SHARED = ContextVar("SHARED", default=False)  # whether other workers of `pmap` share the cores


def pmap(
    f: Callable[[Any], Any], items: Iterable[Any], *, n_jobs: int | None = None, progress: str | None = None
) -> list[Any]:
    """[f(x) for x in items], in order, computed in parallel.

    f: a function that workers can import or unpickle (cloudpickle); items: any iterable. n_jobs: workers, -1 for one
    per core (of the cluster), 1 for none beside this process; by default the environment variable RPA_WORKERS, else -1.
    progress: label of a tqdm bar, None for none. Give each item its own seed, since any worker may take it. Raises
    RuntimeError naming an item that failed, from its own exception; and joblib's TerminatedWorkerError when a worker
    dies (killed, out of memory), except on a dask cluster, which repeats its work elsewhere.

    >>> pmap(abs, [-1, 2, -3], n_jobs=1)
    [1, 2, 3]
    """
    items = list(items)
    n_jobs = _workers(n_jobs)
    n_jobs = min(n_jobs, max(2, len(items)))  # joblib would start all of them, even without work
    tasks = (delayed(_guarded)(f, i, item, n_jobs != 1) for i, item in enumerate(items))
    values = [None] * len(items)
    with tqdm(desc=progress, total=len(items), disable=progress is None) as bar:
        for i, value, reason, error in Parallel(n_jobs, return_as="generator_unordered")(tasks):
            if reason is not None:
                raise RuntimeError(f"pmap: item {i} ({items[i]!r:.80}) raised {reason}") from error
            values[i] = value
            bar.update()
    return values


def tmap(f: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """[f(x) for x in items], in order, on threads of this process: for torch's operations, which run side by side.

    There are as many threads as `pmap` has workers, and one within each of its workers; torch uses one thread in each.
    If the items do not depend on the number of threads, neither do the results.

    >>> tmap(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    import torch

    items = list(items)
    if len(items) < 2:
        return [f(x) for x in items]
    before, n = torch.get_num_threads(), 1 if SHARED.get() else _workers()
    try:
        with ThreadPoolExecutor(n if n > 0 else cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(f, items))
    finally:
        torch.set_num_threads(before)  # later threads of others take the last number set


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for NumPy's products, as a context or a decorator.

    Stacks of small matrices gain little by more, and on a busy machine the threads wait for each other: twenty times as
    long for matrices of 256 rows.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


def _workers(n_jobs=None):
    name, given = ("RPA_WORKERS", os.environ.get("RPA_WORKERS") or "-1") if n_jobs is None else ("n_jobs", n_jobs)
    if not str(given).strip().removeprefix("-").isdecimal() or int(given) == 0:
        raise ValueError(f"{name}: expected a number of workers, or -1 for one per core, got {given!r}")
    return int(given)


def _guarded(f, i, item, shared):
    """(i, value, None, None), or (i, None, reason, exception): every backend returns exceptions in the same way.

    The exception is None where its class cannot be unpickled.
    """
    if current_process().name.startswith("Loky"):
        end_with_parent()
    before = SHARED.set(shared)
    try:
        return i, f(item), None, None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        with suppress(Exception):
            return i, None, reason, deepcopy(error) if shared else error  # what cannot be copied is not unpickled
        return i, None, reason, None
    finally:
        SHARED.reset(before)


@cache
def end_with_parent() -> None:
    """A worker process ends within a second after its parent; loky's own workers wait for minutes."""

    def watch(parent):
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=[os.getppid()], daemon=True).start()
