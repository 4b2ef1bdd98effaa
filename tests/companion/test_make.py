"""The commands behind Make, on a small project of two notebooks that draw and one that does not."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import wait_for, write_notebook

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL") and not k.startswith("RPA_")}
# Of a process group of its own, which Ctrl-C stops even where the tests were started without (nohup, &).
APART = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
RECORD = """from rpa.companion import report
import matplotlib.pyplot as plt
report.record("x", report.shrink(profile, 10, 2))
fig, ax = plt.subplots()
report.save_figure(fig)"""
CLAIM = """[[claim]]
id = "x"
paper = "P1"
where = "figure 1"
statement = "ten"
kind = "value"
value = 10
stem = "01_a"
status = "done"
"""
VERDICTS = "claims of the papers, 1 of 1 measured: 1 holds"
STEMS = ["01_a", "02_b", "99_explore"]
STEP = "from pathlib import Path; import time; Path('here{i}').touch(); time.sleep({seconds})"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a small project whose results were made, accepted and committed, what Make printed)."""
    folder = tmp_path_factory.mktemp("made") / "a project"  # a path with a space
    for name in ("rpa/subjects", "notebooks", "figures", "data/results", "data/weights", "docs"):
        (folder / name).mkdir(parents=True)
    top = [f"rpa/{name}" for name in ("__init__.py", "__init__.pyi", "_files.py", "parallel.py")]
    for name in ("Makefile", "figures/rpa.mplstyle", *top):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "rpa" / "companion", folder / "rpa" / "companion")
    (folder / "rpa" / "subjects" / "datasets.py").write_text("print('nothing to fetch')")
    (folder / "data" / "targets.toml").write_text(CLAIM)
    marked = "<!-- {0}: written by make accept -->\n<!-- end of {0} -->\n"
    (folder / "README.md").write_text(marked.format("summary") + marked.format("times"))
    (folder / "docs" / "results.md").write_text("{% for row in rows %}{{ row.where }}: {{ row.verdict }}\n{% endfor %}")
    (folder / ".gitignore").write_text("build/\n__pycache__/\n")
    for stem, *cells in (("01_a", "a = 1", RECORD), ("02_b", "b = 1", RECORD), ("99_explore", "c = 1")):
        _edit(folder, stem, *cells)
    output = _make(folder, "figures", "JOBS=2")
    _make(folder, "accept")
    for arguments in (["init", "-q"], ["add", "-A"], [*"-c user.name=x -c user.email=x@y commit -qm made".split()]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder, output


@pytest.fixture
def project(made, tmp_path):
    """A copy of it for one test."""
    return Path(shutil.copytree(made[0], tmp_path / "project"))


def _start(project, *goals, **options):
    command, options = ["make", f"PYTHON={sys.executable}", *goals], {"cwd": project, "env": ENVIRONMENT} | options
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def _make(project, *goals, fails=False):
    """What Make prints, when it ends as it should."""
    process = _start(project, *goals)
    output, _ = process.communicate()
    assert (process.returncode != 0) == fails, output
    return output


def _ran(output):
    return sorted(line.split()[0] for line in output.splitlines() if " done in " in line)


def _bytes(folder):
    paths = [path for name in ("figures", "data/results") for path in (folder / name).glob("*.*")]
    return {path.name: path.read_bytes() for path in paths}


def _status(project):
    return subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True).stdout


def _edit(project, stem, *cells):
    write_notebook(project / "notebooks" / f"{stem}.ipynb", *cells)


def test_figures_end_with_verdicts_and_agreement_and_touch_nothing_committed(made, project):
    assert _ran(made[1]) == STEMS
    assert made[1].splitlines()[-3:-1] == [VERDICTS, "0 of 2 numbers agree with the committed ones"]
    assert {"01_a.png", "01_a.pdf", "01_a.json", "02_b.json"} <= set(_bytes(project))
    assert (project / "RESULTS.md").read_text() == "figure 1: holds\n"
    assert "1 of 1 measured: 1 holds" in (project / "README.md").read_text()
    shutil.rmtree(project / "build")
    output = _make(project, "figures")
    assert _ran(output) == STEMS and _status(project) == ""
    *_, verdicts, agreement, place = output.splitlines()
    assert [verdicts, agreement] == [VERDICTS, "2 of 2 numbers agree with the committed ones"]
    assert "new figures: build/full/figures" in place
    _make(project, "reproduce", "verify")
    assert _status(project) == ""


def test_only_what_changed_runs_again(project):
    """A notebook's code, a file that is gone, a module; prose and modules that no notebook reaches are other tests'."""
    _edit(project, "02_b", "b = 2", RECORD.partition("\nfig")[0])
    assert _ran(_make(project, "figures")) == ["02_b"] and "02_b.png" not in _bytes(project / "build" / "full")
    (project / "build" / "full" / "figures" / "01_a.png").unlink()
    assert _ran(_make(project, "figures")) == ["01_a"]
    path = project / "build" / "full" / "data" / "results" / "01_a.json"
    path.write_text(path.read_text().replace('"value": 10', '"value": 9'))  # a number that no notebook made
    assert "01_a: no results of the present code" in _make(project, "accept", fails=True)
    assert _ran(_make(project, "figures")) == ["01_a"]
    for module, line in (("report", "# why"), ("verdicts", "x = 1"), ("report", "x = 1")):
        with (project / "rpa" / "companion" / f"{module}.py").open("a") as stream:
            stream.write(f"\n{line}\n")
        if line != "# why":
            assert _ran(_make(project, "figures")) == (STEMS[:2] if module == "report" else [])
    assert "made by other code than the present: x; run make figures" in _make(project, "verify", fails=True)
    _make(project, "accept", "verify")
    assert {"01_a.png", "02_b.json"} <= set(_bytes(project)) and "02_b.png" not in _bytes(project)


def test_a_renamed_copy_keeps_its_results(project):
    for name, a in (("01_a_mine", 1), ("01_a", 2)):
        _edit(project, name, f"a = {a}", RECORD)
        assert _ran(_make(project, "figures")) == [name]
    assert _ran(_make(project, "figures")) == []


def test_quick_results_and_stand_in_data_are_not_accepted(project):
    shutil.rmtree(project / "build")
    output = _make(project, "quick")
    assert _ran(output) == STEMS and "quick numbers settle nothing" in output
    assert '"profile": "quick"' in (project / "build/quick/data/results/01_a.json").read_text()
    assert "01_a: no results of the present code" in _make(project, "accept", fails=True) and _status(project) == ""
    assert _ran(_make(project, "quick")) == []
    _edit(project, "02_b", RECORD.replace("10, 2))", '10, 2), data={"MNIST STAND-IN": "0"})'))
    _make(project, "figures")
    assert "02_b: made from stand-in data" in _make(project, "accept", fails=True)
    assert _status(project) == " M notebooks/02_b.ipynb\n"


def test_a_failing_notebook_is_named_and_the_last_good_results_stay(project):
    good = _bytes(project / "build" / "full")
    _edit(project, "02_b", RECORD, "\ncount = 0\n1 / count", "not reached")
    path = project / "notebooks" / "02_b.ipynb"  # saved with the count of another run
    path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 9'))
    output = _make(project, "figures", fails=True)
    assert "02_b.ipynb, cell 4 (count = 0): ZeroDivisionError: division by zero" in output
    assert "build/full/failed/02_b.ipynb" in output and (project / "build/full/failed/02_b.ipynb").exists()
    assert _bytes(project / "build" / "full") == good and "02_b.json" in good
    assert "02_b: no results of the present code" in _make(project, "accept", fails=True)
    _edit(project, "02_b", "import os", "os._exit(1)")
    (project / "build" / "full" / "02_b.ipynb").write_text("{}")
    assert "FAILED 02_b.ipynb: its kernel died" in _make(project, "figures", fails=True)
    _edit(project, "02_b", "b = 1", RECORD)
    (project / "data" / "results" / "timings" / "02_b.json").write_text("<<<<<<< HEAD")  # as a merge leaves it
    _make(project, "figures", "accept")


@pytest.mark.parametrize("how, moments", [(signal.SIGINT, (1, 3)), (signal.SIGKILL, (0, 2))], ids=["ctrl-c", "kill"])
def test_a_run_stopped_at_any_moment_leaves_the_last_good_results(project, how, moments):
    """Stopped before and after its record and its figure are written, and while the kernel starts."""
    good = _bytes(project / "build" / "full")
    record, draw = RECORD.replace("10, 2", "11, 3").rsplit("\n", 1)
    for i in moments:
        first, *steps = [STEP.format(i=k, seconds=120 if k == i else 0) for k in range(3)]
        _edit(project, "02_b", first, record, steps[0], draw, steps[1])
        process = _start(project, "figures", **APART)
        reached = project / "notebooks" / f"here{i}"
        wait_for(reached.exists if i < 3 else lambda: any((project / "build/full/stage").glob("02_b-*")))
        os.killpg(process.pid, how)
        assert process.wait(120) != 0
        assert _bytes(project / "build" / "full") == good
        for left in (project / "notebooks").glob("here*"):
            left.unlink()
    _edit(project, "02_b", record, draw)
    assert _ran(_make(project, "figures")) == ["02_b"] and _bytes(project / "build" / "full") != good
    assert _status(project) == " M notebooks/02_b.ipynb\n"


def test_ctrl_c_stops_a_claim_without_a_traceback(project):
    _edit(project, "01_a", STEP.format(i=0, seconds=120))
    process = _start(project, "claim", "ID=x", **APART)
    wait_for((project / "notebooks" / "here0").exists)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert "stopped; the same command goes on from here" in output and "Traceback" not in output


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_ends_with_the_program_that_was_killed(project):
    pids = "import os; from pathlib import Path; Path('pids').write_text(f'{os.getpid()} {os.getppid()}')"
    _edit(project, "02_b", pids, STEP.format(i=0, seconds=120))
    process = _start(project, "figures")
    wait_for((project / "notebooks" / "here0").exists)
    kernel, program = (int(pid) for pid in (project / "notebooks" / "pids").read_text().split())
    os.kill(program, signal.SIGKILL)
    assert process.wait(60) != 0
    wait_for(lambda: not Path(f"/proc/{kernel}").exists(), seconds=60)


def test_a_second_run_waits_and_takes_what_the_first_one_finished(project):
    count = "from pathlib import Path; p = Path('runs'); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    _edit(project, "01_a", count, STEP.format(i=0, seconds=5), RECORD)
    first = _start(project, "figures")
    wait_for((project / "notebooks" / "here0").exists)
    assert "01_a: waiting for another run of it" in _make(project, "figures")
    assert first.wait(300) == 0 and (project / "notebooks" / "runs").read_text() == "x"


def test_numbers_that_are_off_or_missing_are_said_so(project):
    path = project / "data" / "results" / "02_b.json"
    path.write_text(path.read_text().replace('"value": 10', '"value": 11'))
    output = _make(project, "reproduce", fails=True)
    assert [line for line in output.splitlines() if "02_b" in line and " off" in line]
    assert _ran(output) == [] and "1 are off or missing" in output
    (project / "build" / "full" / "data" / "results" / "02_b.json").unlink()
    assert "02_b: no records in the new results" in _make(project, "compare", fails=True)


def test_a_claim_is_shown_with_its_evidence_and_unknown_requests_are_refused(project):
    output = _make(project, "claim", "ID=x")
    assert "recorded by cell [4]" in output and 'report.record("x"' in output and "01_a.png" in output
    assert [line.split()[-1] for line in output.splitlines() if " 10 " in line] == ["holds", "holds"]
    assert "fails (quick profile)" in _make(project, "claim", "ID=x", "PROFILE=quick")  # its 2 is no 10
    assert _status(project) == ""
    assert "P1, figure 1" in _make(project, "claim")
    for request, answer in (("ID=y", "no claim is named 'y'"), ("PROFILE=medium", "'medium' is not one of 'full'")):
        assert answer in _make(project, "claim", request, fails=True)
    (project / "data" / "targets.toml").write_text(CLAIM.replace("01_a", "01_b"))
    assert "expected one of 01_a, 02_b" in _make(project, "claim", "ID=x", fails=True)


def test_a_notebook_run_by_hand_writes_to_the_lab_of_its_own_checkout(project):
    """As JupyterLab runs it, which names the notebook; a copy has records of its own, and no parameters that count."""
    copy = project / "notebooks" / "my copy.ipynb"
    _edit(project, copy.stem, RECORD.replace("report.shrink(profile, 10, 2)", "7"))
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT), "JPY_SESSION_NAME": str(copy)}
    command = [sys.executable, *"-m jupyter nbconvert --to notebook --execute --stdout".split(), copy.name]
    subprocess.run(command, cwd=copy.parent, env=environment, check=True, capture_output=True)
    written = {path.name for path in (project / "build" / "lab").rglob("*.*")}
    assert written == {"my copy.json", "my copy.png", "my copy.pdf"}
    assert _status(project) == '?? "notebooks/my copy.ipynb"\n'
    assert not list((ROOT / "build" / "lab").rglob("my copy.*"))
    assert '"parameters"' not in (project / "build/lab/data/results/my copy.json").read_text()


def test_runs_are_listed_and_deleted_and_what_cannot_be_read_or_written_is_named(project):
    elsewhere = f"RPA_BUILD={project / 'elsewhere'}"
    _make(project, "run", "NB=01", "P=", elsewhere)
    assert "01_a-" in _make(project, "runs", elsewhere) and not (project / "build" / "runs").exists()
    assert "without spaces" in _make(project, "clean", f"RPA_BUILD={project / 'elsewhere'} x", fails=True)
    output = _make(project, "runs", "CLEAN=1", elsewhere)
    assert "01_a-" not in output and not (project / "elsewhere" / "runs").exists()
    (project / "grid.yaml").write_text("a: [")
    shutil.rmtree(project / "build" / "full")
    (project / "build" / "full").write_text("in the way")
    for goal, answer in ("figures", "; RPA_BUILD names another folder"), ("sweep", "FAILED while parsing"):
        output = _make(project, goal, "NB=01", "GRID=grid.yaml", fails=True)
        assert answer in output and "Traceback" not in output
        assert goal == "sweep" or ("build/full/stage" in output and any(f"{stem}: " in output for stem in STEMS))


def test_a_bundle_holds_the_committed_files_and_the_executed_notebooks(project):
    _make(project, "bundle")
    (path,) = (project / "build").glob("rpa-*.zip")
    with zipfile.ZipFile(path) as archive:
        assert {"README.md", "notebooks/01_a.ipynb", "executed/01_a.ipynb"} <= set(archive.namelist())
