"""What several tests of this room share: every notebook run for real in its quick profile, once."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import run_quick

from rpa.companion import report

NOTEBOOKS = sorted((report.ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """{stem: (folder, future of the finished process)}, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = {path.stem: tmp_path_factory.mktemp(path.stem) for path in NOTEBOOKS}
        yield {path.stem: (folders[path.stem], pool.submit(run_quick, path, folders[path.stem])) for path in NOTEBOOKS}
        pool.shutdown(cancel_futures=True)
