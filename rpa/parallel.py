"""Independent pieces of work on all cores, or on a cluster.

`pmap(f, items)` is `[f(x) for x in items]` on joblib's workers. To outgrow one machine, hand joblib a dask cluster;
nothing else changes:

    from dask.distributed import Client
    import joblib
    with Client("scheduler-address:8786"), joblib.parallel_config(backend="dask"):
        pmap(f, items)
"""

from collections.abc import Callable, Iterable
from typing import Any

from joblib import Parallel, delayed
from tqdm.auto import tqdm

__all__ = ["pmap"]


def pmap(f: Callable[[Any], Any], items: Iterable[Any], *, n_jobs: int = -1, progress: str | None = None) -> list[Any]:
    """[f(x) for x in items], in order, computed in parallel.

    f: a function that workers can import or unpickle (cloudpickle); items: any iterable, taken whole first.
    n_jobs: workers, -1 for one per core (of the cluster); 1 runs here.
    progress: a label shows a tqdm bar, None shows none. Give each item its own seed: which worker takes it is chance.
    Raises RuntimeError naming the first item that failed, from its own exception.

    >>> pmap(abs, [-1, 2, -3], n_jobs=1)
    [1, 2, 3]
    """
    items = list(items)
    results = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_guarded)(f, item) for item in items)
    out: list = []
    for (value, error), item in zip(tqdm(results, progress, len(items), disable=progress is None), items):
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
            raise RuntimeError(f"pmap: item {len(out)} ({_short(item)}) raised {reason}") from error
        out.append(value)
    return out


def _guarded(f, item):
    try:
        return f(item), None
    except Exception as error:
        return None, error


def _short(item):
    text = repr(item)
    return text if len(text) <= 80 else text[:77] + "..."
