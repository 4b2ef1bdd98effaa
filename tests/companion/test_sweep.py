"""Runs with other parameters and grids of them: what is refused, what costs once, what a kill may cost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from distributed import Client, LocalCluster
from helpers import write_notebook

from rpa._files import ROOT
from rpa.companion import provenance, run, sweep
from rpa.parallel import pmap

GRID = {"noise_levels": [[0.1], [0.2]], "seed": {"from": 0, "to": 1, "count": 2}, "n_thresholds": [50]}
STEM = "01_moons_noise"


def test_requests_are_read_as_python_values():
    text = "noise=[0.1, 0.3] n=1e5 network=moons_2-16-16-1 words=a b off=true quoted='a b' odd=[1"
    expected = {"noise": [0.1, 0.3], "n": 1e5, "network": "moons_2-16-16-1", "words": "a b", "off": "true"}
    assert sweep.parse(text) == expected | {"quoted": "a b", "odd": "[1"}
    for bad in ("noise", "3=4", "a=", "=1", "a=1 a=2"):
        with pytest.raises(ValueError, match="expected name=value"):
            sweep.parse(bad)


PARAMETERS = provenance.parameters(provenance.notebooks()["01_moons_noise"])


@pytest.mark.parametrize(
    "grid, reason",
    [
        ({"noise": [1]}, "has no parameter 'noise'"),
        ({"seed": [1.5]}, "seed: expected an integer, like 0, got 1.5"),
        ({"seed": [0, True]}, "seed: expected an integer, like 0, got True"),
        ({"noise_levels": [0.1]}, r"noise_levels: expected a list, like \[0.1"),
        ({"noise_levels": [[]]}, "noise_levels: expected a list"),
        ({"noise_levels": [[0.1, "a"]]}, "noise_levels: expected a finite number, like 0.1, got 'a'"),
        ({"noise_levels": [[np.inf]]}, "noise_levels: expected a finite number, like 0.1, got inf"),
        ({"network": [3]}, "network: expected a str"),
        ({"seed": {"from": 0, "to": 1, "count": 3}}, "seed: expected an integer"),
        ({}, "grid: .*at least one parameter"),
        ({"seed": 3}, "grid, seed: expected a list or {from"),
        ({"seed": {"from": 0, "to": 2}}, "grid, seed"),
        ({"seed": []}, "grid, seed"),
        ({"seed": {"from": 0, "to": 1, "count": 0}}, "grid, seed"),
        ({"seed": {"from": 0, "to": "b", "count": 2}}, "grid, seed"),
        ({"seed": {"from": 0, "to": 1, "count": 2, "log": True}}, "grid, seed: expected a list or"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_list(grid, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        sweep.cells_of(STEM, grid)
    assert reason.startswith("grid") or "n_samples = 1000000  # Monte Carlo samples" in str(caught.value)


def test_numbers_may_be_whole_lists_longer_and_the_profile_has_its_say():
    longer = {"noise_levels": [1, 0.5, 0.2, 0.1], "mean": [0, 1]}
    assert sweep.checked(STEM, longer) == longer
    values = sweep.checked(STEM, {"n_samples": 1e5, "hidden": [8.0, 8]})
    assert values == {"n_samples": 100000, "hidden": [8.0, 8]} and type(values["n_samples"]) is int
    assert sweep.checked(STEM, {"seed": 10**400}) == {"seed": 10**400}
    with pytest.raises(ValueError, match=r"n_samples: the quick profile of 01_moons_noise replaces it.*PROFILE=full"):
        sweep.checked(STEM, {"n_samples": 2000}, "quick")


def test_what_a_profile_replaces_is_known_by_place_and_by_name(tmp_path):
    path = write_notebook(
        tmp_path / "01_x.ipynb", "report.shrink(profile, 2 * a, 1)\nreport.shrink(profile, quick=c, full=b)"
    )
    assert sweep._replaced_by_profile(path) == {"a", "b"}


def test_notebooks_are_known_by_number_and_name():
    assert {run.stem_of(name) for name in ("01", STEM, "notebooks/01_moons_noise.ipynb")} == {"01_moons_noise"}
    with pytest.raises(ValueError, match="expected one of 00_tour.*got '77'"):
        run.stem_of("77")


def test_a_run_with_its_own_parameters_never_goes_over_the_papers_figures():
    with pytest.raises(ValueError, match="folder: expected one"):
        run.run(STEM, "quick", parameters={"seed": 3})


def test_a_run_is_made_once_apart_from_the_papers_results(tmp_path):
    values = {"noise_levels": [0.2], "n_thresholds": 50}
    folder = sweep.run_variant(STEM, "quick", values, tmp_path)
    assert (folder / "figures" / "01_moons_noise.png").exists()
    content = json.loads((folder / "data" / "results" / "01_moons_noise.json").read_text())
    assert content["records"]["p1.fig1.pmf"]["parameters"]["noise_levels"] == [0.2]
    assert content["parameters"]["n_thresholds"] == 50 and set(content["parameters"]) == set(PARAMETERS)
    before = (folder / "01_moons_noise.ipynb").stat().st_mtime_ns
    assert sweep.run_variant(STEM, "quick", values, tmp_path) == folder
    assert (folder / "01_moons_noise.ipynb").stat().st_mtime_ns == before
    (line,) = sweep.listed(tmp_path)
    assert line.split() == [folder.name, "quick", "done", "n_thresholds=50", "noise_levels=[0.2]"]


def test_failed_runs_are_listed(tmp_path):
    with pytest.raises(RuntimeError, match="01_moons_noise.ipynb, cell "):
        sweep.run_variant(STEM, "quick", {"network": "nobody"}, tmp_path)
    (line,) = sweep.listed(tmp_path)
    _, _, state, _ = line.split()
    assert state == "failed" and not list(tmp_path.glob("*/stage/*-*"))


def test_lists_and_ranges_become_cells():
    cells = sweep.cells_of(STEM, GRID)
    assert [(cell["noise_levels"], cell["seed"]) for cell in cells] == [([0.1], 0), ([0.1], 1), ([0.2], 0), ([0.2], 1)]
    assert all(type(cell["seed"]) is int for cell in cells)
    lowest, middle, highest = sweep.cells_of(
        "09_kmeans_linearization", {"noise_level": {"from": 0.01, "to": 0.04, "count": 3, "log": True}}
    )
    assert [c["noise_level"] for c in (lowest, middle, highest)] == pytest.approx([0.01, 0.02, 0.04])


CLAIMS = [
    {"id": "p.low", "stem": STEM, "at_most": 6.0},
    {"id": "p.near", "stem": STEM, "value": 1.0, "tolerance": 0.1},
    {"id": "p.few", "stem": STEM, "at_most": 1.25},
    {"id": "p.none", "stem": "02_y", "at_least": 3.0},
]
CLAIMS = [claim | dict(paper="P1", where="w", statement="s", kind="trend", status="done") for claim in CLAIMS]


def test_the_spread_of_a_claim_over_seeds_and_whether_it_flips(tmp_path, monkeypatch):
    def run_variant(stem, profile, values, folder):
        seed, results = values["seed"], folder / str(values["seed"]) / "data" / "results"
        records = {"p.low": {"value": [1.0 + seed, 0.5]}, "p.near": {"value": 1.0 + 0.04 * seed}}
        records["p.few"] = {"value": 0.5 + 0.3 * seed, "error": 0.3 + 0.1 * seed}
        results.mkdir(parents=True)
        content = {"stem": stem, "profile": profile, "code": "0" * 12, "packages": {}, "records": records}
        (results / f"{stem}.json").write_text(json.dumps(content))
        return folder / str(seed)

    monkeypatch.setenv("RPA_WORKERS", "1")
    monkeypatch.setattr(sweep, "run_variant", run_variant)
    monkeypatch.setattr(sweep, "load_claims", lambda: CLAIMS)
    low, near, few = sweep.seeds(tmp_path).itertuples(index=False)
    shown = (low.claim, low.target, low.lowest, low.highest, low.runs, low.met, low.flips)
    assert shown == ("p.low", "≤ 6", 1, 5, 5, 5, False) and low.spread == pytest.approx(2.5**0.5)
    assert near.flips and near.met == 3 and near.highest == pytest.approx(1.16)
    assert not few.flips and few.met == 1 and few.highest == pytest.approx(1.7)  # the others are undecided


def test_a_figure_of_any_record_against_any_parameter():
    pairs = [(1, 3), (1, 4), (2, 3), (2, 4)]
    rows = [{"a": a, "b": b, "record": "r", "entry": None, "value": a + b, "error": 0.1} for a, b in pairs]
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


def test_a_killed_worker_changes_no_result(tmp_path):
    """Of a cluster (notebook 22): the work that it was at is done again."""

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
