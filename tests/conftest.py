"""What every test stands on: one thread each, and every notebook run for real in its quick profile, once."""

import os

# Two cores and many small matrices: threads inside a library cost more than they give. Set before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

collect_ignore_glob = ["bench*.py"]


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory):
    """quick_run(stem): the folder of a notebook's quick run, made when it is first asked for.

    Processes of pytest-xdist share the runs: a second one that asks waits for the first. A run that failed fails every
    test that asks for it, with what it printed.
    """
    from filelock import FileLock
    from helpers import run_quick

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(stem):
        folder, outcome = shared / f"quick_{stem}", shared / f"quick_{stem}.outcome"
        with FileLock(f"{folder}.lock"):
            if not outcome.exists():
                try:
                    run_quick(stem, folder)
                    outcome.write_text("")
                except (RuntimeError, ValueError) as error:
                    outcome.write_text(str(error))
        assert outcome.read_text() == "", outcome.read_text()
        return folder

    return folder_of


@pytest.fixture(autouse=True)
def _same_networks():
    """torch's layers get the same weights in every order of the tests."""
    torch.manual_seed(0)


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    """An empty data root without network."""
    monkeypatch.setenv("RPA_DATA", str(tmp_path))
    monkeypatch.setenv("RPA_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def notebook_folder(tmp_path, monkeypatch):
    """The folder that the notebook 01_x, of full profile and without parameters, writes to."""
    settings = {"OUT": str(tmp_path), "NOTEBOOK": "01_x.ipynb", "PARAMETERS": "{}", "PROFILE": "full"}
    for name, value in settings.items():
        monkeypatch.setenv(f"RPA_{name}", value)
    return tmp_path


def pytest_collection_modifyitems(items):
    """Tests that run one notebook each come first; those that need runs of others, last."""
    names = lambda item: getattr(item, "fixturenames", ())
    items.sort(key=lambda item: 1 if "quick_run" not in names(item) else 0 if "stem" in names(item) else 2)
