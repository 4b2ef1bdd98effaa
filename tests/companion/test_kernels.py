"""Kernels that are forks of a server: ordinary in all that a notebook can see, and gone when they should be."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_quick, wait_for, write_notebook

from rpa._files import ROOT
from rpa.companion import kernels, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")

LOOK = """import json, os, sys
from pathlib import Path
seen = dict(ahead="torch" in sys.modules, rpa="rpa" in sys.modules, pid=os.getpid(), folder=os.getcwd(), path=sys.path)
seen |= dict(marked=hasattr(sys, "marked"), threads=os.environ["OMP_NUM_THREADS"], out=os.environ["RPA_OUT"])
sys.marked = True
Path({path!r}).write_text(json.dumps(seen))"""
SLEEP = """import os, time
from pathlib import Path
Path({path!r}).write_text(str(os.getpid()))
time.sleep(600)"""


def _served(*command, folder, **options):
    environment = {k: v for k, v in os.environ.items() if k != kernels.SERVER}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.Popen([sys.executable, "-m", "rpa.companion.kernels", *command], env=environment, **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that lives as long as these tests."""
    options = dict(folder=tmp_path_factory.mktemp("server"), stdin=-1, stdout=-1, text=True)
    with _served("sh", "-c", f"echo ${kernels.SERVER}; cat", **options) as command:
        yield command.stdout.readline().strip()
        command.stdin.close()


def _see(tmp_path, stem="01_a"):
    seen = tmp_path / f"{stem}.json"
    done = run_quick(write_notebook(tmp_path / f"{stem}.ipynb", LOOK.format(path=str(seen))), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    return json.loads(seen.read_text())


def test_a_fork_is_an_ordinary_kernel_that_has_the_packages(server, tmp_path, monkeypatch):
    monkeypatch.delenv(kernels.SERVER, raising=False)
    ordinary = _see(tmp_path)
    monkeypatch.setenv(kernels.SERVER, server)
    first, second = _see(tmp_path), _see(tmp_path, "02_b")
    assert not ordinary["ahead"] and first["ahead"] and second["ahead"]
    assert len({each["pid"] for each in (ordinary, first, second)}) == 3
    for each in (first, second):
        assert not each["marked"] and not each["rpa"]
        assert each["folder"] == ordinary["folder"] == str(tmp_path) and each["path"] == ordinary["path"]
        assert "/stage/" in each["out"]
    assert "02_b" in second["out"]


@pytest.mark.parametrize("name, value", [("OMP_NUM_THREADS", "2"), (kernels.SERVER, "/nowhere/kernels")])
def test_without_a_server_that_fits_a_kernel_is_an_ordinary_one(server, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(kernels.SERVER, server)
    monkeypatch.setenv("RPA_WORKERS", "1")
    monkeypatch.setenv(name, value)
    seen = tmp_path / "seen.json"
    run.run(write_notebook(tmp_path / "01_a.ipynb", LOOK.format(path=str(seen))), "quick", tmp_path / "out")
    found = json.loads(seen.read_text())
    assert not found["ahead"] and found["threads"] == os.environ["OMP_NUM_THREADS"]


def test_a_fork_is_interrupted_and_given_a_second_chance(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(kernels.SERVER, server)
    monkeypatch.setattr(run, "PATIENCE", {"quick": 5})
    pid = tmp_path / "pid"
    with pytest.raises(RuntimeError, match="01_a.ipynb: a cell took more than 5 s, twice"):
        run.run(write_notebook(tmp_path / "01_a.ipynb", SLEEP.format(path=str(pid))), "quick", tmp_path / "out")
    assert "once more" in capsys.readouterr().out
    wait_for(lambda: not _alive(int(pid.read_text())))


def test_a_fork_that_dies_is_a_dead_kernel(server, tmp_path, monkeypatch):
    monkeypatch.setenv(kernels.SERVER, server)
    done = run_quick(write_notebook(tmp_path / "01_a.ipynb", "import os\nos._exit(3)"), tmp_path / "out")
    assert done.returncode == 1 and "FAILED 01_a: Kernel died" in done.stderr


@pytest.mark.parametrize("killed", ["run", "server"])
def test_no_kernel_outlives_its_run_or_its_server(tmp_path, killed):
    pid = tmp_path / "pid"
    notebook = write_notebook(tmp_path / "01_a.ipynb", SLEEP.format(path=str(pid)))
    one = f"{sys.executable} -m rpa.companion.run {notebook} --profile quick --out {tmp_path / 'out'}"
    watched = f"{one} & echo $! ${kernels.SERVER}; cat"
    with _served("sh", "-c", watched, folder=tmp_path, stdin=-1, stdout=-1, text=True) as command:
        runner, address = command.stdout.readline().split()
        wait_for(lambda: pid.exists() and pid.read_text())
        kernel = int(pid.read_text())
        server = int(Path(f"/proc/{kernel}/stat").read_text().rsplit(")", 1)[1].split()[1])
        assert b"--serve" in Path(f"/proc/{server}/cmdline").read_bytes()
        os.kill(int(runner) if killed == "run" else server, signal.SIGKILL)
        wait_for(lambda: not _alive(kernel))
        assert _alive(server) == (killed == "run")
        command.stdin.close()
    wait_for(lambda: not _alive(server))
    assert killed == "server" or not Path(address).parent.exists()


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_that_is_not_there_leaves_no_server(tmp_path):
    assert _served("no-such-command", folder=tmp_path, stderr=subprocess.DEVNULL).wait() != 0
    wait_for(lambda: not list(tmp_path.iterdir()))


def test_where_no_socket_can_be_made_the_command_runs_without_a_server(tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with _served("sh", "-c", f"echo [${kernels.SERVER}]", folder=deep, stdout=-1, text=True) as command:
        assert command.stdout.read() == "[]\n"
    assert command.returncode == 0
