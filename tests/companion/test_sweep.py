"""A grid of runs: what is refused, that it resumes, and that neither a death nor the number of workers changes it."""

import os
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from rpa.companion import sweep
from rpa.companion.report import ROOT

GRID = {"noise_levels": [[0.1], [0.2]], "seed": {"from": 0, "to": 1, "count": 2}, "n_thresholds": [50]}
STEM = "01_moons_noise"


def test_lists_and_ranges_become_cells():
    cells = sweep.cells_of(STEM, GRID)
    assert [(cell["noise_levels"], cell["seed"]) for cell in cells] == [([0.1], 0), ([0.1], 1), ([0.2], 0), ([0.2], 1)]
    assert all(type(cell["seed"]) is int for cell in cells)
    lowest, middle, highest = sweep.cells_of(
        "09_kmeans_linearization", {"noise_level": {"from": 0.01, "to": 0.04, "count": 3, "log": True}}
    )
    assert [c["noise_level"] for c in (lowest, middle, highest)] == pytest.approx([0.01, 0.02, 0.04])


@pytest.mark.parametrize(
    "grid, reason",
    [
        ({}, "at least one parameter"),
        ({"seed": 3}, "grid, seed: expected a list or {from"),
        ({"seed": {"from": 0, "to": 2}}, "grid, seed"),
        ({"seed": []}, "grid, seed"),
        ({"speed": [1]}, "has no parameter 'speed'"),
        ({"seed": {"from": 0, "to": 1, "count": 3}}, "seed: expected an integer"),
    ],
)
def test_what_is_no_grid_is_refused(grid, reason):
    with pytest.raises(ValueError, match=reason):
        sweep.cells_of(STEM, grid)


def test_a_figure_of_any_record_against_any_parameter():
    rows = [
        {"a": a, "b": b, "record": "r", "entry": None, "value": a + b, "error": 0.1} for a in (1, 2) for b in (3, 4)
    ]
    fig = sweep.draw(pd.DataFrame(rows), "r", "b")
    assert [container.lines[0].get_ydata().tolist() for container in fig.axes[0].containers] == [[4, 5], [5, 6]]
    plt.close(fig)
    for record, parameter in (("q", "a"), ("r", "c")):
        with pytest.raises(ValueError, match="expected a record of r and a parameter of a, b"):
            sweep.draw(pd.DataFrame(rows), record, parameter)


@pytest.mark.parametrize("moments", [(1,), pytest.param((0, 1, 2), marks=pytest.mark.slow)])
def test_a_killed_sweep_resumes_and_workers_do_not_matter(moments, tmp_path):
    """Killed when so many cells are done; then again, going on from there."""
    seeds = list(range(moments[-1] + 1))
    grid = tmp_path / "my grid.yaml"
    grid.write_text(yaml.safe_dump(GRID | {"noise_levels": [[0.2]], "seed": seeds}))
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert _sweep(grid, alone, workers=1).wait() == 0
    (first,) = alone.glob("runs/*/sweep.csv")
    frame = pd.read_csv(first)
    assert len(frame) and not frame.duplicated(["noise_levels", "seed", "record", "entry"]).any()
    assert sorted(frame.seed.unique()) == seeds

    kept: dict = {}
    for finished in moments:
        process = _sweep(grid, killed, workers=1, start_new_session=True)
        while len(_cells(killed)) < finished or not list(killed.glob("runs/*/stage")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert all(_cells(killed)[path] == when for path, when in kept.items())
        kept = _cells(killed)
        assert finished <= len(kept) < len(seeds)
    assert _sweep(grid, killed, workers=2).wait() == 0
    assert len(_cells(killed)) == len(seeds) and all(_cells(killed)[path] == when for path, when in kept.items())
    (second,) = killed.glob("runs/*/sweep.csv")
    assert second.read_bytes() == first.read_bytes()


def _cells(runs):
    """{executed notebook of a finished cell: when it was written}."""
    return {path: path.stat().st_mtime_ns for path in runs.glob("runs/01_moons_noise-*/01_moons_noise.ipynb")}


def _sweep(grid, runs, workers, **options):
    request = {"NB": "01", "GRID": str(grid), "PROFILE": "quick", "RPA_BUILD": str(runs), "RPA_WORKERS": str(workers)}
    command = [sys.executable, "-m", "rpa.companion", "sweep"]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | request, **options)
