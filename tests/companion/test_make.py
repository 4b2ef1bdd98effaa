"""The Makefile and the runner, on a small project of two notebooks that draw and one that does not."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import wait_for, write_notebook

from rpa.companion import verdicts

ROOT = Path(__file__).resolve().parents[2]
RECORD = """from rpa.companion import report
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


@pytest.fixture
def project(tmp_path):
    return _create(tmp_path)


def _create(tmp_path):
    for folder in ("rpa/companion", "rpa/subjects", "notebooks", "figures", "data/results", "data/weights"):
        (tmp_path / folder).mkdir(parents=True)
    rooms = [
        f"rpa/companion/{module}.py"
        for module in ("__init__", "claim", "comparison", "kernels", "provenance", "report", "verdicts", "run")
    ]
    for name in ["Makefile", "figures/rpa.mplstyle", "rpa/__init__.py", "rpa/__init__.pyi", "rpa/_files.py", *rooms]:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "rpa" / "subjects" / "datasets.py").write_text("print('nothing to fetch')")
    (tmp_path / "data" / "targets.toml").write_text(CLAIM)
    markers = [*verdicts.MARKERS, *verdicts.TIME_MARKERS]
    (tmp_path / "README.md").write_text("\n".join(markers) + "\n")
    write_notebook(tmp_path / "notebooks" / "01_a.ipynb", "a = 1", RECORD.format(stem="01_a"))
    write_notebook(tmp_path / "notebooks" / "02_b.ipynb", "b = 1", RECORD.format(stem="02_b"))
    write_notebook(tmp_path / "notebooks" / "99_explore.ipynb", "c = 1")
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a small project with its results made and everything committed, what Make printed)."""
    folder = _create(tmp_path_factory.mktemp("made"))
    code, output = _make(folder, "-j2", "figures")
    assert code == 0, output
    (folder / ".gitignore").write_text("build/\n__pycache__/\n")
    for arguments in (["init", "-q"], ["add", "-A"], [*"-c user.name=x -c user.email=x@y commit -qm made".split()]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder, output


@pytest.fixture
def committed(made, tmp_path):
    """A copy of it for one test."""
    return Path(shutil.copytree(made[0], tmp_path / "project"))


@pytest.fixture(scope="module")
def reproduced(made, tmp_path_factory):
    """(another copy, with everything run again, exit status, what Make printed)."""
    folder = shutil.copytree(made[0], tmp_path_factory.mktemp("reproduced") / "project")
    return folder, *_make(folder, "reproduce")


@pytest.fixture
def rerun(reproduced, tmp_path):
    """A copy of that for one test."""
    return Path(shutil.copytree(reproduced[0], tmp_path / "project"))


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


def test_figures_are_made_once_and_again_only_when_something_changed(made, committed):
    output = made[1]
    assert _ran(output) == ["01_a", "02_b", "99_explore"] and len(_outputs(committed)) == 9
    assert output.rstrip().endswith("1 claims: 1 holds")
    assert (
        "| P1 | figure 1 | ten | 10 | 10 |  | [holds](notebooks/01_a.ipynb) |" in (committed / "README.md").read_text()
    )
    assert _make(committed, "verify")[0] == 0

    assert _ran(_make(committed, "figures")[1]) == []
    for cells, expected in ((["b = 2"], ["02_b"]), ([], [])):
        write_notebook(committed / "notebooks" / "02_b.ipynb", "b = 2", RECORD.format(stem="02_b"), prose=f"{cells}")
        assert _ran(_make(committed, "figures")[1]) == expected
    for name in ("figures/01_a.png", "data/results/01_a.json"):
        (committed / name).unlink()
        assert _ran(_make(committed, "figures")[1]) == ["01_a"] and len(_outputs(committed)) == 9
    for module, line, expected in (
        ("report", "# why", []),
        ("report", "x = 1", ["01_a", "02_b"]),
        ("verdicts", "x = 1", []),
    ):
        with (committed / "rpa" / "companion" / f"{module}.py").open("a") as stream:
            stream.write(f"\n{line}\n")
        assert _ran(_make(committed, "figures")[1]) == expected


def test_quick_results_go_elsewhere(project):
    code, output = _make(project, "-j2", "quick")
    assert code == 0, output
    assert len(_outputs(project, "build/quick/", "quick")) == 9
    assert list((project / "data" / "results").iterdir()) == [] and not (project / "figures" / "01_a.png").exists()
    assert '"profile": "quick"' in (project / "build/quick/data/results/01_a.json").read_text()
    assert "fails (quick profile)" in output and "| P1 |" not in (project / "README.md").read_text()
    assert _ran(_make(project, "quick")[1]) == []


def _bytes(project):
    folders = [project / name for name in ("figures", "data/results")]
    return {path.name: path.read_bytes() for folder in folders for path in folder.iterdir() if path.is_file()}


def test_a_failing_notebook_is_named_and_the_last_good_results_stay(committed):
    good = _bytes(committed)
    write_notebook(committed / "notebooks" / "02_b.ipynb", RECORD.format(stem="02_b"), "\ncount = 0\n1 / count")
    code, output = _make(committed, "figures/02_b.png")
    assert code != 0
    assert "02_b.ipynb, cell 4 (count = 0): ZeroDivisionError: division by zero" in output
    assert _bytes(committed) == good and "02_b.json" in good
    assert _make(committed, "-q", "figures/02_b.png")[0] == 1


def _start(project, *goals):
    """A make in a process group of its own."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(_command(*goals), cwd=project, start_new_session=True, env=_environment(), **quiet)


STEP = "from pathlib import Path; import time; Path('here{i}').touch(); time.sleep({seconds})"


@pytest.mark.parametrize("how, moments", [(signal.SIGINT, (1, 4)), (signal.SIGKILL, range(5))], ids=["ctrl-c", "kill"])
def test_a_run_stopped_at_any_moment_leaves_the_last_good_results(committed, how, moments):
    """Stopped before, between and after its record, figure and table are written, and while the kernel starts."""
    good = _bytes(committed)
    record, draw = RECORD.format(stem="02_b").rsplit("\n", 1)
    record = record.replace("10, 2", "11, 3")
    for i in moments:
        first, *steps = [STEP.format(i=k, seconds=120 if k == i else 0) for k in range(4)]
        cells = [first, record, steps[0], draw, steps[1], draw, steps[2]]
        write_notebook(committed / "notebooks" / "02_b.ipynb", *cells)
        for left in (committed / "notebooks").glob("here*"):
            left.unlink()
        process = _start(committed, "figures/02_b.png")
        stage = committed / "build" / "full" / "stage"
        reached = committed / "notebooks" / f"here{i}"
        wait_for(reached.exists if i < 4 else lambda: any(stage.glob("02_b-*/02_b.ipynb")))
        os.killpg(process.pid, how)
        assert process.wait(120) != 0
        assert _bytes(committed) == good
        assert _make(committed, "-q", "figures/02_b.png")[0] == 1
    write_notebook(committed / "notebooks" / "02_b.ipynb", record, draw)
    assert _ran(_make(committed, "figures/02_b.png")[1]) == ["02_b"] and _bytes(committed) != good


def test_a_second_run_waits_and_takes_what_the_first_one_finished(project):
    count = "from pathlib import Path; p = Path('runs'); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    write_notebook(project / "notebooks" / "01_a.ipynb", count, STEP.format(i=0, seconds=5), RECORD.format(stem="01_a"))
    first = _start(project, "build/full/01_a.ipynb")
    wait_for((project / "notebooks" / "here0").exists)
    code, output = _make(project, "build/full/01_a.ipynb")
    assert code == 0 and first.wait(300) == 0
    assert "01_a: waiting for process " in output
    assert (project / "notebooks" / "runs").read_text() == "x" and "01_a.png" in _bytes(project)


def _status(project):
    return subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True).stdout


def test_a_rerun_is_judged_and_touches_nothing_committed(reproduced, rerun):
    _, code, output = reproduced
    assert code == 0 and "2 of 2 numbers agree, 0 are off or missing" in output and _status(rerun) == ""
    assert (rerun / "build" / "rerun" / "figures" / "01_a.png").exists()
    assert _ran(_make(rerun, "reproduce")[1]) == []
    code, output = _make(rerun, "reproduce", "PROFILE=quick")
    assert code == 0 and "profile quick cannot be compared with the committed full" in output and _status(rerun) == ""
    assert _ran(output) == ["01_a", "02_b", "99_explore"]
    code, output = _make(rerun, "claim", "ID=x.01_a")
    assert code == 0 and "recorded by cell [4]" in output and _status(rerun) == ""
    assert '"profile": "full"' in (rerun / "build/rerun/data/results/01_a.json").read_text()


def test_a_rerun_that_is_off_is_said_so(rerun):
    path = rerun / "data" / "results" / "02_b.json"
    path.write_text(path.read_text().replace('"value": 10', '"value": 11'))
    code, output = _make(rerun, "compare")
    assert code != 0 and [line for line in output.splitlines() if "02_b" in line and " off" in line]
    (rerun / "build" / "rerun" / "data" / "results" / "02_b.json").unlink()
    code, output = _make(rerun, "compare")
    assert code != 0 and "02_b: no records in the rerun" in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_rerun_that_is_stopped_touches_nothing_committed(committed, how):
    write_notebook(committed / "notebooks" / "02_b.ipynb", STEP.format(i=0, seconds=120), RECORD.format(stem="02_b"))
    subprocess.run(["git", *"-c user.name=x -c user.email=x@y commit -qam slow".split()], cwd=committed, check=True)
    process = _start(committed, "reproduce")
    wait_for((committed / "notebooks" / "here0").exists)
    os.killpg(process.pid, how)
    assert process.wait(120) != 0
    (committed / "notebooks" / "here0").unlink()
    assert _status(committed) == ""


def test_a_notebook_has_one_thread_unless_told_otherwise(monkeypatch):
    from rpa.companion import kernels

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert kernels.threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert kernels.threads() == 3


def test_files_of_another_name_are_refused(project):
    write_notebook(project / "notebooks" / "01_a.ipynb", RECORD.format(stem="07_z"))
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
    from rpa.companion import run

    monkeypatch.setattr(run, "PATIENCE", {"quick": 5})
    for name in ("RPA_OUT", "RPA_PROFILE", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    write_notebook(tmp_path / "01_a.ipynb", HANGS.format(path=str(tmp_path / "tries"), times=times))
    if times == 1:
        assert run.run(tmp_path / "01_a.ipynb", "quick", tmp_path / "out").exists()
    else:
        with pytest.raises(RuntimeError, match="01_a.ipynb: a cell took more than 5 s, twice"):
            run.run(tmp_path / "01_a.ipynb", "quick", tmp_path / "out")
        assert not (tmp_path / "out" / "01_a.ipynb").exists()
    assert "once more" in capsys.readouterr().out and (tmp_path / "tries").read_text() == "xx"
