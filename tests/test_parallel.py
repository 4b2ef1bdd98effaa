import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import wait_for
from threadpoolctl import threadpool_info, threadpool_limits

from rpa._files import ROOT
from rpa.parallel import one_thread, pmap, tmap


def _square(x):
    return x * x


def _invert(x):
    return 1 / x


class _TwoArguments(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def _refuse(_):
    raise _TwoArguments(1, 2)


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _threads(_=None):
    """Names of the threads that twenty items of `tmap` meet, with torch's threads in each."""

    def met(_):
        time.sleep(0.01)
        return threading.current_thread().name, torch.get_num_threads()

    return set(tmap(met, range(20)))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_in_order_and_a_failure_that_names_the_item(n_jobs, capsys):
    offset = 3
    assert pmap(lambda x: x + offset, (x for x in range(20)), n_jobs=n_jobs, progress="sums") == list(range(3, 23))
    shown = capsys.readouterr()
    assert "sums" in shown.err and "20/20" in shown.err and shown.out == "" and pmap(_square, []) == []
    with pytest.raises(RuntimeError, match=r"item 2 \(0\) raised ZeroDivisionError") as caught:
        pmap(_invert, [1, 2, 0, 4], n_jobs=n_jobs)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(RuntimeError, match=r"item 0 \(7\) raised _TwoArguments: 1 and 2"):
        pmap(_refuse, [7], n_jobs=n_jobs)


def test_a_worker_that_dies_ends_the_call():
    with pytest.raises(RuntimeError, match="terminated"):
        pmap(_die, range(2), n_jobs=2)


SLEEPERS = """import os, time
from pathlib import Path
from rpa.parallel import pmap
def sleep(i):
    Path(FOLDER, str(os.getpid())).touch()
    time.sleep(100)
pmap(sleep, range(2), n_jobs=2)"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", SLEEPERS.replace("FOLDER", repr(str(tmp_path)))], env=environment)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path("/proc", pid.name).exists() for pid in tmp_path.iterdir()), seconds=30)


def test_the_environment_may_say_how_many_workers(monkeypatch):
    monkeypatch.setenv("RPA_WORKERS", "1")
    assert pmap(lambda x: os.getpid(), [1, 2]) == [os.getpid()] * 2
    assert pmap(_square, range(3), n_jobs=100_000) == [0, 1, 4]  # no more workers than items
    assert os.getpid() not in pmap(lambda x: os.getpid(), [1, 2], n_jobs=2)


@pytest.mark.parametrize("workers", ["0", "many", "1.5", "--3"])
@pytest.mark.parametrize("mapped", [pmap, tmap])
def test_a_number_of_workers_that_is_none_is_refused(mapped, workers, monkeypatch):
    monkeypatch.setenv("RPA_WORKERS", workers)
    with pytest.raises(ValueError, match=f"RPA_WORKERS: expected a number of workers.*got '{workers}'"):
        mapped(_square, range(3))
    with pytest.raises(ValueError, match="n_jobs: expected a number of workers"):
        pmap(_square, range(3), n_jobs=2.5)


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


def test_one_thread_is_for_torch_and_numpy_and_ends():
    def threads():
        return torch.get_num_threads(), {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}

    before = torch.get_num_threads()
    with threadpool_limits(2, "blas"):
        torch.set_num_threads(2)
        with one_thread():
            assert threads() == (1, {1})
        assert threads() == (2, {2})
    torch.set_num_threads(before)
