"""The Makefile and the runner, on a small project of two notebooks that draw and one that does not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORD = """from rpa import report
import matplotlib.pyplot as plt
report.record("x.{stem}", report.shrink(profile, 10, 2), stem="{stem}")
fig, ax = plt.subplots()
report.save_figure(fig, "{stem}")"""
CLAIM = """[[claim]]
id = "x.01_a"
paper = "P1"
where = "figure 1"
statement = "ten"
kind = "value"
value = 10
stem = "01_a"
status = "done"
"""


def _notebook(path, *cells):
    parameters = nbformat.v4.new_code_cell('profile = "full"', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture
def project(tmp_path):
    for folder in ("rpa", "notebooks", "figures", "data/results", "data/weights"):
        (tmp_path / folder).mkdir(parents=True)
    copied = ["Makefile", "figures/rpa.mplstyle"]
    for name in copied + [f"rpa/{module}.py" for module in ("__init__", "_files", "report", "verdicts", "run")]:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "rpa" / "datasets.py").write_text("print('nothing to fetch')")
    (tmp_path / "data" / "targets.toml").write_text(CLAIM)
    (tmp_path / "README.md").write_text("<!-- verdicts: written by make figures -->\n<!-- end of verdicts -->\n")
    _notebook(tmp_path / "notebooks" / "01_a.ipynb", "a = 1", RECORD.format(stem="01_a"))
    _notebook(tmp_path / "notebooks" / "02_b.ipynb", "b = 1", RECORD.format(stem="02_b"))
    _notebook(tmp_path / "notebooks" / "99_explore.ipynb", "c = 1")
    return tmp_path


def _command(*goals):
    return ["make", f"PYTHON={sys.executable}", *goals]


def _environment():
    return {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "RPA_OUT", "RPA_PROFILE")}


def _make(project, *goals):
    done = subprocess.run(_command(*goals), cwd=project, capture_output=True, text=True, env=_environment())
    return done.returncode, done.stdout + done.stderr


def _ran(output):
    return sorted(line.split()[0] for line in output.splitlines() if " done in " in line)


def _outputs(project, prefix="", profile="full"):
    names = [f"{prefix}figures/{stem}.{kind}" for stem in ("01_a", "02_b") for kind in ("png", "pdf")]
    names += [f"{prefix}data/results/{stem}.json" for stem in ("01_a", "02_b")]
    names += [f"build/{profile}/{stem}.ipynb" for stem in ("01_a", "02_b", "99_explore")]
    return [name for name in names if (project / name).exists()]


def test_figures_are_made_once_and_again_only_when_something_changed(project):
    code, output = _make(project, "-j2", "figures")
    assert code == 0, output
    assert _ran(output) == ["01_a", "02_b", "99_explore"] and len(_outputs(project)) == 9
    assert output.rstrip().endswith("1 claims: 1 holds")
    assert "| P1 | figure 1 | ten | 10 | 10 | [holds](notebooks/01_a.ipynb) |" in (project / "README.md").read_text()
    assert _make(project, "verify")[0] == 0

    assert _ran(_make(project, "figures")[1]) == []
    (project / "notebooks" / "02_b.ipynb").touch()
    assert _ran(_make(project, "figures")[1]) == ["02_b"]
    for name in ("figures/01_a.png", "data/results/01_a.json"):
        (project / name).unlink()
        assert _ran(_make(project, "figures")[1]) == ["01_a"] and len(_outputs(project)) == 9
    (project / "rpa" / "report.py").touch()
    assert _make(project, "-q", "figures/01_a.png")[0] == 1


def test_quick_results_go_elsewhere(project):
    code, output = _make(project, "-j2", "quick")
    assert code == 0, output
    assert len(_outputs(project, "build/quick/", "quick")) == 9
    assert list((project / "data" / "results").iterdir()) == [] and not (project / "figures" / "01_a.png").exists()
    assert '"profile": "quick"' in (project / "build/quick/data/results/01_a.json").read_text()
    assert "fails (quick profile)" in output and "| P1 |" not in (project / "README.md").read_text()
    assert _ran(_make(project, "quick")[1]) == []


def test_a_failing_notebook_is_named_and_leaves_nothing_that_looks_finished(project):
    assert _make(project, "figures/02_b.png")[0] == 0
    _notebook(project / "notebooks" / "02_b.ipynb", RECORD.format(stem="02_b"), "\ncount = 0\n1 / count")
    code, output = _make(project, "figures/02_b.png")
    assert code != 0
    assert "02_b.ipynb, cell 3 (count = 0): ZeroDivisionError: division by zero" in output
    assert _outputs(project) == []
    assert _make(project, "-q", "figures/02_b.png")[0] == 1


def test_an_interrupted_notebook_leaves_nothing_that_looks_finished(project):
    assert _make(project, "figures/02_b.png")[0] == 0
    wait = "from pathlib import Path; import time; Path('here').touch(); time.sleep(120)"
    _notebook(project / "notebooks" / "02_b.ipynb", RECORD.format(stem="02_b"), wait)
    process = subprocess.Popen(_command("figures/02_b.png"), cwd=project, start_new_session=True, env=_environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (project / "notebooks" / "here").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    assert (project / "notebooks" / "here").exists() and _outputs(project) == []


def test_files_of_another_name_are_refused(project):
    _notebook(project / "notebooks" / "01_a.ipynb", RECORD.format(stem="07_z"))
    code, output = _make(project, "build/full/01_a.ipynb")
    assert code != 0 and "01_a: expected files named 01_a.*" in output and "07_z.png" in output
    assert _outputs(project) == []


def test_an_unknown_profile_is_refused(project):
    code, output = _make(project, "figures", "PROFILE=medium")
    assert code != 0 and "expected full or quick, got 'medium'" in output


def test_help_is_the_default_and_names_every_target(project):
    code, output = _make(project)
    phony = next(line for line in (project / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert code == 0
    assert [target for target in phony.split()[2:] if f"make {target} " not in output] == []


HANGS = """import pathlib, time
tries = pathlib.Path({path!r})
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) <= {times}:
    time.sleep(600)"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_cell_that_hangs_is_given_a_second_chance(tmp_path, monkeypatch, capsys, times):
    from rpa import run

    monkeypatch.setattr(run, "PATIENCE", {"quick": 5})
    for name in ("RPA_OUT", "RPA_PROFILE", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    _notebook(tmp_path / "01_a.ipynb", HANGS.format(path=str(tmp_path / "tries"), times=times))
    if times == 1:
        assert run.run(tmp_path / "01_a.ipynb", "quick", tmp_path / "out").exists()
    else:
        with pytest.raises(RuntimeError, match="01_a.ipynb: a cell took more than 5 s, twice"):
            run.run(tmp_path / "01_a.ipynb", "quick", tmp_path / "out")
        assert not (tmp_path / "out" / "01_a.ipynb").exists()
    assert "once more" in capsys.readouterr().out and (tmp_path / "tries").read_text() == "xx"
