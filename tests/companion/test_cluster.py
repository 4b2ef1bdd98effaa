"""What notebook 22 says of a cluster: a worker that dies costs the work it was at, and no number."""

import os
import signal
import threading
import time

import joblib
import pytest
from distributed import Client, LocalCluster

from rpa.parallel import pmap


def test_a_killed_worker_changes_no_result(tmp_path):
    def square(k):
        (tmp_path / f"{k}-{os.getpid()}").touch()
        time.sleep(0.5)
        return k * k

    def kill_one():
        while not list(tmp_path.iterdir()):
            time.sleep(0.05)
        os.kill(int(next(tmp_path.iterdir()).name.split("-")[1]), signal.SIGKILL)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        watcher = threading.Thread(target=kill_one)
        watcher.start()
        with joblib.parallel_config(backend="dask"):
            assert pmap(square, range(8)) == [k * k for k in range(8)]
            with pytest.raises(RuntimeError, match="item 1"):
                pmap(lambda x: 1 / x, [1, 0])
        watcher.join()
    assert str(os.getpid()) not in {path.name.split("-")[1] for path in tmp_path.iterdir()}
    tasks = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert len(tasks) > len(set(tasks)) == 8, "the worker that was killed was at no task"
