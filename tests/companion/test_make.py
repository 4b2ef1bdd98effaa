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


def _create(folder):
    for name in ("rpa", "notebooks", "figures", "data/results", "data/weights", "docs"):
        (folder / name).mkdir(parents=True)
    top = [f"rpa/{name}" for name in ("__init__.py", "__init__.pyi", "_files.py", "parallel.py")]
    for name in ("Makefile", "figures/rpa.mplstyle", *top):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "rpa" / "companion", folder / "rpa" / "companion")
    (folder / "rpa" / "subjects").mkdir()
    (folder / "rpa" / "subjects" / "datasets.py").write_text("print('nothing to fetch')")
    (folder / "data" / "targets.toml").write_text(CLAIM)
    marked = "<!-- {0}: written by make accept -->\n<!-- end of {0} -->\n"
    (folder / "README.md").write_text(marked.format("summary") + marked.format("times"))
    (folder / "docs" / "results.md").write_text("{% for row in rows %}{{ row.where }}: {{ row.verdict }}\n{% endfor %}")
    (folder / ".gitignore").write_text("build/\n__pycache__/\n")
    write_notebook(folder / "notebooks" / "01_a.ipynb", "a = 1", RECORD)
    write_notebook(folder / "notebooks" / "02_b.ipynb", "b = 1", RECORD)
    write_notebook(folder / "notebooks" / "99_explore.ipynb", "c = 1")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a small project whose results were made, accepted and committed, what Make printed)."""
    folder = _create(tmp_path_factory.mktemp("made") / "a project")  # a path with a space
    status, output = _make(folder, "figures", "JOBS=2")
    assert status == 0, output
    status, accepted = _make(folder, "accept")
    assert status == 0, accepted
    for arguments in (["init", "-q"], ["add", "-A"], [*"-c user.name=x -c user.email=x@y commit -qm made".split()]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder, output


@pytest.fixture
def project(made, tmp_path):
    """A copy of it for one test."""
    return Path(shutil.copytree(made[0], tmp_path / "project"))


def _command(*goals):
    return ["make", f"PYTHON={sys.executable}", *goals]


def _environment():
    return {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL") and not k.startswith("RPA_")}


def _make(project, *goals):
    done = subprocess.run(_command(*goals), cwd=project, capture_output=True, text=True, env=_environment())
    return done.returncode, done.stdout + done.stderr


def _start(project, *goals):
    """A make in a process group of its own, which Ctrl-C stops even where the tests were started without (nohup, &)."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    options = {"start_new_session": True, "env": _environment(), "preexec_fn": restore}
    return subprocess.Popen(_command(*goals), cwd=project, **options, **quiet)


def _ran(output):
    return sorted(line.split()[0] for line in output.splitlines() if " done in " in line)


def _bytes(folder):
    paths = [path for name in ("figures", "data/results") for path in (folder / name).glob("*.*")]
    return {path.name: path.read_bytes() for path in paths}


def _status(project):
    return subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True).stdout


def _last_lines(output):
    """Those before the line that names the folder of the figures."""
    return output.splitlines()[-3:-1]


def test_figures_end_with_verdicts_and_agreement_and_touch_nothing_committed(made, project):
    assert _ran(made[1]) == STEMS
    assert _last_lines(made[1]) == [VERDICTS, "0 of 2 numbers agree with the committed ones"]
    assert {"01_a.png", "01_a.pdf", "01_a.json", "02_b.json"} <= set(_bytes(project))
    assert (project / "RESULTS.md").read_text() == "figure 1: holds\n"
    assert "1 of 1 measured: 1 holds" in (project / "README.md").read_text()
    shutil.rmtree(project / "build")
    status, output = _make(project, "figures")
    assert status == 0 and _ran(output) == STEMS and _status(project) == ""
    assert _last_lines(output) == [VERDICTS, "2 of 2 numbers agree with the committed ones"]
    assert "new figures: build/full/figures" in output.splitlines()[-1]
    assert _make(project, "reproduce")[0] == 0 and _make(project, "verify")[0] == 0 and _status(project) == ""


def test_only_what_changed_runs_again(project):
    """A notebook's code, a file that is gone, a module; prose and modules that no notebook reaches are other tests'."""
    write_notebook(project / "notebooks" / "02_b.ipynb", "b = 2", RECORD)
    assert _ran(_make(project, "figures")[1]) == ["02_b"]
    (project / "build" / "full" / "figures" / "01_a.png").unlink()
    assert _ran(_make(project, "figures")[1]) == ["01_a"]
    for module, line in (("report", "# why"), ("verdicts", "x = 1"), ("report", "x = 1")):
        with (project / "rpa" / "companion" / f"{module}.py").open("a") as stream:
            stream.write(f"\n{line}\n")
        if line != "# why":
            assert _ran(_make(project, "figures")[1]) == (STEMS[:2] if module == "report" else [])
    status, output = _make(project, "verify")
    assert status != 0 and "made by other code than the present: x; run make figures" in output
    assert _make(project, "accept")[0] == 0 and _make(project, "verify")[0] == 0


def test_a_renamed_copy_keeps_its_results(project):
    for name, a in (("01_a_mine", 1), ("01_a", 2)):
        write_notebook(project / "notebooks" / f"{name}.ipynb", f"a = {a}", RECORD)
        assert _ran(_make(project, "figures")[1]) == [name]
    assert _ran(_make(project, "figures")[1]) == []


def test_quick_results_go_elsewhere_and_are_not_accepted(project):
    shutil.rmtree(project / "build")
    status, output = _make(project, "quick")
    assert status == 0 and _ran(output) == STEMS and "quick numbers settle nothing" in output, output
    assert '"profile": "quick"' in (project / "build/quick/data/results/01_a.json").read_text()
    status, output = _make(project, "accept")
    assert status != 0 and "01_a: no results of the present code" in output and _status(project) == ""
    assert _ran(_make(project, "quick")[1]) == []


def test_a_failing_notebook_is_named_and_the_last_good_results_stay(project):
    good = _bytes(project / "build" / "full")
    write_notebook(project / "notebooks" / "02_b.ipynb", RECORD, "\ncount = 0\n1 / count")
    status, output = _make(project, "figures")
    assert status != 0 and "02_b.ipynb, cell 4 (count = 0): ZeroDivisionError: division by zero" in output
    assert "build/full/failed/02_b.ipynb" in output and (project / "build/full/failed/02_b.ipynb").exists()
    assert _bytes(project / "build" / "full") == good and "02_b.json" in good
    status, output = _make(project, "accept")
    assert status != 0 and "02_b: no results of the present code" in output
    write_notebook(project / "notebooks" / "02_b.ipynb", "import os", "os._exit(1)")
    (project / "build" / "full" / "02_b.ipynb").write_text("{}")
    assert "FAILED 02_b.ipynb: its kernel died" in _make(project, "figures")[1]
    write_notebook(project / "notebooks" / "02_b.ipynb", "b = 1", RECORD)
    assert _make(project, "figures")[0] == 0 and _make(project, "accept")[0] == 0


@pytest.mark.parametrize("how, moments", [(signal.SIGINT, (1, 3)), (signal.SIGKILL, (0, 2))], ids=["ctrl-c", "kill"])
def test_a_run_stopped_at_any_moment_leaves_the_last_good_results(project, how, moments):
    """Stopped before and after its record and its figure are written, and while the kernel starts."""
    good = _bytes(project / "build" / "full")
    record, draw = RECORD.replace("10, 2", "11, 3").rsplit("\n", 1)
    for i in moments:
        first, *steps = [STEP.format(i=k, seconds=120 if k == i else 0) for k in range(3)]
        write_notebook(project / "notebooks" / "02_b.ipynb", first, record, steps[0], draw, steps[1])
        for left in (project / "notebooks").glob("here*"):
            left.unlink()
        process = _start(project, "figures")
        reached = project / "notebooks" / f"here{i}"
        wait_for(reached.exists if i < 3 else lambda: any((project / "build/full/stage").glob("02_b-*")))
        os.killpg(process.pid, how)
        assert process.wait(120) != 0
        assert _bytes(project / "build" / "full") == good
    for left in (project / "notebooks").glob("here*"):
        left.unlink()
    write_notebook(project / "notebooks" / "02_b.ipynb", record, draw)
    assert _ran(_make(project, "figures")[1]) == ["02_b"] and _bytes(project / "build" / "full") != good
    assert _status(project) == " M notebooks/02_b.ipynb\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_ends_with_the_program_that_was_killed(project):
    pids = "import os; from pathlib import Path; Path('pids').write_text(f'{os.getpid()} {os.getppid()}')"
    write_notebook(project / "notebooks" / "02_b.ipynb", pids, STEP.format(i=0, seconds=120))
    process = _start(project, "figures")
    wait_for((project / "notebooks" / "here0").exists)
    kernel, program = (int(pid) for pid in (project / "notebooks" / "pids").read_text().split())
    os.kill(program, signal.SIGKILL)
    assert process.wait(60) != 0
    wait_for(lambda: not Path(f"/proc/{kernel}").exists(), seconds=60)


def test_a_second_run_waits_and_takes_what_the_first_one_finished(project):
    count = "from pathlib import Path; p = Path('runs'); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    write_notebook(project / "notebooks" / "01_a.ipynb", count, STEP.format(i=0, seconds=5), RECORD)
    first = _start(project, "figures")
    wait_for((project / "notebooks" / "here0").exists)
    status, output = _make(project, "figures")
    assert status == 0 and first.wait(300) == 0
    assert "01_a: waiting for another run of it" in output and (project / "notebooks" / "runs").read_text() == "x"


def test_numbers_that_are_off_or_missing_are_said_so(project):
    path = project / "data" / "results" / "02_b.json"
    path.write_text(path.read_text().replace('"value": 10', '"value": 11'))
    status, output = _make(project, "reproduce")
    assert status != 0 and [line for line in output.splitlines() if "02_b" in line and " off" in line]
    assert _ran(output) == [] and "1 are off or missing" in output
    (project / "build" / "full" / "data" / "results" / "02_b.json").unlink()
    status, output = _make(project, "compare")
    assert status != 0 and "02_b: no records in the new results" in output


def test_a_claim_is_shown_with_its_evidence_and_unknown_requests_are_refused(project):
    status, output = _make(project, "claim", "ID=x")
    assert status == 0 and "recorded by cell [4]" in output and 'report.record("x"' in output and "01_a.png" in output
    assert [line.split()[-1] for line in output.splitlines() if " 10 " in line] == ["holds", "holds"]
    assert _status(project) == ""
    assert "P1, figure 1" in _make(project, "claim")[1]
    for request, answer in (("ID=y", "no claim is named 'y'"), ("PROFILE=medium", "'medium' is not one of 'full'")):
        status, output = _make(project, "claim", request)
        assert status != 0 and answer in output


def test_a_notebook_run_by_hand_writes_to_the_lab_of_its_own_checkout(project):
    """As JupyterLab runs it, which names the notebook; a copy has records of its own, and no parameters that count."""
    copy = write_notebook(project / "notebooks" / "my copy.ipynb", RECORD.replace("report.shrink(profile, 10, 2)", "7"))
    environment = _environment() | {"PYTHONPATH": str(ROOT), "JPY_SESSION_NAME": str(copy)}
    command = [sys.executable, *"-m jupyter nbconvert --to notebook --execute --stdout".split(), copy.name]
    subprocess.run(command, cwd=copy.parent, env=environment, check=True, capture_output=True)
    written = {path.name for path in (project / "build" / "lab").rglob("*.*")}
    assert written == {"my copy.json", "my copy.png", "my copy.pdf"}
    assert _status(project) == '?? "notebooks/my copy.ipynb"\n'
    assert not list((ROOT / "build" / "lab").rglob("my copy.*"))
    assert '"parameters"' not in (project / "build/lab/data/results/my copy.json").read_text()


def test_stand_in_data_are_not_accepted(project):
    marked = RECORD.replace("10, 2))", '10, 2), data={"MNIST STAND-IN": "0"})')
    write_notebook(project / "notebooks" / "02_b.ipynb", marked)
    assert _make(project, "figures")[0] == 0
    status, output = _make(project, "accept")
    assert status != 0 and "02_b: made from stand-in data" in output and _status(project) == " M notebooks/02_b.ipynb\n"


def test_a_folder_that_cannot_be_written_is_named(project):
    shutil.rmtree(project / "build" / "full")
    (project / "build" / "full").write_text("in the way")
    status, output = _make(project, "figures")
    assert status != 0 and "build/full/stage" in output and "RPA_BUILD names another folder" in output
    assert "Traceback" not in output


def test_runs_are_listed_and_deleted(project):
    elsewhere = f"RPA_BUILD={project / 'elsewhere'}"
    assert _make(project, "run", "NB=01", "P=", elsewhere)[0] == 0
    assert "01_a-" in _make(project, "runs", elsewhere)[1] and not (project / "build" / "runs").exists()
    (project / "grid.yaml").write_text("a: [")
    status, output = _make(project, "sweep", "NB=01", "GRID=grid.yaml")
    assert status != 0 and "FAILED while parsing" in output and "Traceback" not in output
    output = _make(project, "runs", "CLEAN=1", elsewhere)[1]
    assert "01_a-" not in output and not (project / "elsewhere" / "runs").exists()


def test_a_bundle_holds_the_committed_files_and_the_executed_notebooks(project):
    status, output = _make(project, "bundle")
    assert status == 0, output
    (path,) = (project / "build").glob("rpa-*.zip")
    with zipfile.ZipFile(path) as archive:
        assert {"README.md", "notebooks/01_a.ipynb", "executed/01_a.ipynb"} <= set(archive.namelist())
