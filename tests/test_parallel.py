import os
import signal
import threading
import time

import joblib
import pytest
import torch

from rpa.parallel import pmap, tmap


def _square(x):
    return x * x


def _invert(x):
    return 1 / x


def _die_unless_there(path):
    """The first call kills its worker."""
    if path and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _where(x):
    from distributed import get_worker

    return x, get_worker().name


def _threads(_=None):
    """Names of the threads that twenty items of `tmap` meet, with torch's threads in each."""

    def met(_):
        time.sleep(0.01)
        return threading.current_thread().name, torch.get_num_threads()

    return set(tmap(met, range(20)))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_in_order(n_jobs):
    assert pmap(_square, range(20), n_jobs=n_jobs) == [x * x for x in range(20)]


def test_iterables_and_closures():
    offset = 3
    assert pmap(lambda x: x + offset, (x for x in [1, 2]), n_jobs=2) == [4, 5]
    assert pmap(_square, []) == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_failure_names_the_item(n_jobs):
    with pytest.raises(RuntimeError, match=r"item 2 \(0\) raised ZeroDivisionError") as caught:
        pmap(_invert, [1, 2, 0, 4], n_jobs=n_jobs)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_worker_may_die(tmp_path):
    workers = pmap(_die_unless_there, [None] * 6 + [tmp_path / "died"] + [None] * 6, n_jobs=2)
    assert len(workers) == 13 and os.getpid() not in workers and (tmp_path / "died").exists()
    with pytest.raises(RuntimeError, match="workers died 4 times"):
        pmap(_die, range(2), n_jobs=2)


def test_the_environment_may_say_how_many_workers(monkeypatch):
    monkeypatch.setenv("RPA_WORKERS", "1")
    assert pmap(lambda x: os.getpid(), [1, 2]) == [os.getpid()] * 2
    assert os.getpid() not in pmap(lambda x: os.getpid(), [1, 2], n_jobs=2)


def test_threads_as_many_as_workers_and_one_within_each(monkeypatch):
    assert tmap(_square, range(20)) == [x * x for x in range(20)]
    assert tmap(_square, []) == []
    with pytest.raises(ZeroDivisionError):
        tmap(_invert, [1, 0])
    before = torch.get_num_threads()
    for workers in (1, 2):
        monkeypatch.setenv("RPA_WORKERS", str(workers))
        met = _threads()
        assert len(met) == workers and {threads for _, threads in met} == {1}
    assert torch.get_num_threads() == before
    assert all(len(met) == 1 for met in pmap(_threads, range(2), n_jobs=2))


def test_progress_goes_to_stderr(capsys):
    pmap(_square, range(3), n_jobs=1, progress="squares")
    shown = capsys.readouterr()
    assert "squares" in shown.err and "3/3" in shown.err and shown.out == ""


def test_runs_on_a_dask_cluster():
    from dask.distributed import Client

    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None):
        with joblib.parallel_config(backend="dask"):
            results = pmap(_where, range(6))
            with pytest.raises(RuntimeError, match="item 1"):
                pmap(_invert, [1, 0])
    # `get_worker` raises anywhere but on a worker of the cluster.
    assert [x for x, _ in results] == list(range(6))
    assert len({name for _, name in results}) == 1
