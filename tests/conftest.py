"""What every test stands on: one thread each, and every notebook run for real in its quick profile, once."""

import os

# Two cores and many small matrices: threads inside a library cost more than they give. Set before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """{stem: (folder, future of the finished process)}, as many at a time as there are cores."""
    from helpers import run_quick

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = {path.stem: tmp_path_factory.mktemp(path.stem) for path in NOTEBOOKS}
        yield {path.stem: (folders[path.stem], pool.submit(run_quick, path, folders[path.stem])) for path in NOTEBOOKS}
        pool.shutdown(cancel_futures=True)


def pytest_collection_modifyitems(items):
    """Tests that wait for the notebooks come last."""
    items.sort(key=_waits)


@pytest.fixture(scope="session", autouse=True)
def _start(request):
    """The notebooks, if any test waits for them, start before the first test."""
    if any(map(_waits, request.session.items)):
        request.getfixturevalue("runs")


def _waits(item):
    return "runs" in getattr(item, "fixturenames", ())
