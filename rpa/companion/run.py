"""Run one notebook, all or nothing: `python -m rpa.companion.run notebooks/01_moons_noise.ipynb --profile quick`.

The notebook writes into a staging folder, and its files replace those of an earlier run only when the last cell is
done. A notebook that fails or is stopped therefore leaves figures and records as they were, and is named together with
the cell that failed. Two runs of one notebook in one checkout take turns.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from rpa._files import ROOT
from rpa.companion import kernels, report
from rpa.companion.provenance import code_version

__all__ = ["is_current", "run"]

# Seconds that a cell may take. Rarely a kernel loses a message and waits for ever: then the notebook is run once more.
PATIENCE = {"quick": 300, "full": 3600}
FOLDERS = ("figures", "data/results", "data/results/timings")
# A kernel takes the environment of its process: threads of one process (of a dask worker, say) run one after another.
ONE_AT_A_TIME = threading.Lock()


def run(
    notebook: str | Path, profile: str = "full", out: str | Path | None = None, parameters: dict | None = None
) -> Path:
    """Execute `notebook` (path) and return the path of the executed copy, <build>/<profile>/<stem>.ipynb.

    Figures, tables and records go to `out`: by default the repository for the full profile, build/quick for the quick
    one; with `out` given, the executed copy goes there too. parameters replace those of the notebook's first cell; with
    any, `out` has to be given, so that the papers' figures are never overwritten by others. What another process
    finished while this one waited for it is not run again. The copy's metadata name the profile, the code version and
    the parameters it was made with. Raises RuntimeError naming the notebook and the failing cell, ValueError when a
    file it wrote does not begin with its stem.
    """
    if parameters and not out:
        raise ValueError("out: expected a folder for a run with parameters of its own, got none")
    notebook = Path(notebook).resolve()
    stem = notebook.stem
    build = Path(out).resolve() if out else ROOT / "build" / profile
    target = build if out or profile == "quick" else ROOT
    executed = build / f"{stem}.ipynb"
    made_with = _label_of(stem, profile, parameters)
    with _turn(build / "stage" / stem) as waited:
        if not (waited and _made_with(executed) == made_with):
            stage = _fresh_stage(build / "stage", stem)
            with ONE_AT_A_TIME, patch.dict(os.environ, _environment(stage, profile)):
                start = time.perf_counter()
                _execute(notebook, stage, {"profile": profile} | (parameters or {}))
                report.record_run(time.perf_counter() - start, stem=stem)
            _label(stage / executed.name, made_with)
            _hand_over(stem, stage, target, executed)
    return executed


def is_current(stem: str, profile: str, folder: Path, parameters: dict | None = None) -> bool:
    """Whether the executed copy in `folder` was made by the present code with this profile and these parameters."""
    return _made_with(folder / f"{stem}.ipynb") == _label_of(stem, profile, parameters)


def _label_of(stem, profile, parameters):
    return {"profile": profile, "code": code_version(stem)} | ({"parameters": parameters} if parameters else {})


def _environment(stage, profile):
    """What a notebook's kernel, which takes its environment from this process, is told beyond it."""
    return kernels.for_libraries() | {
        "RPA_OUT": str(stage),
        "RPA_PROFILE": profile,
        "RPA_WORKERS": os.environ.get("RPA_WORKERS") or "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


@contextmanager
def _turn(path):
    """Hold the lock <path>.lock; yields whether another process had it first. A killed process loses it by itself."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(f"{path}.lock"), path.with_suffix(".owner")
    waited = False
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waited = True
        print(f"{path.name}: waiting for {owner.read_text() if owner.exists() else 'another run'}", flush=True)
        lock.acquire()
    try:
        owner.write_text(f"process {os.getpid()}, which began it at {time.strftime('%H:%M:%S')}")
        yield waited
    finally:
        lock.release()


def _fresh_stage(folder, stem):
    """An empty staging folder; those of runs that were stopped go. A kernel that outlives its run keeps its own."""
    for left in folder.glob(f"{stem}-*"):
        shutil.rmtree(left, ignore_errors=True)
    stage = folder / f"{stem}-{os.getpid()}"
    stage.mkdir(parents=True)
    return stage


def _label(executed, made_with):
    content = json.loads(executed.read_text())
    content["metadata"]["rpa"] = made_with
    executed.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _made_with(executed):
    """The label of an executed copy; None where there is none, or no notebook at all (make -t)."""
    try:
        return json.loads(executed.read_text())["metadata"].get("rpa")
    except (OSError, ValueError):
        return None


def _hand_over(stem, stage, target, executed):
    """Move what a finished run wrote to its place and delete what only an earlier run had; no signal comes between."""
    written = [path for path in stage.rglob("*") if path.is_file()]
    strangers = [path.name for path in written if path not in [*_files_of(stem, stage), stage / executed.name]]
    if strangers:
        raise ValueError(f"{stem}: expected files named {stem}.* in figures or data/results, got {strangers}")
    stale = set(_files_of(stem, target))
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        # The executed copy goes last: while it is older than what it was made from, Make takes the notebook as not run.
        for path in sorted(written, key=lambda path: path.name == executed.name):
            place = executed if path.name == executed.name else target / path.relative_to(stage)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
            stale.discard(place)
        for path in stale:
            path.unlink()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    shutil.rmtree(stage)


def _files_of(stem, folder):
    """Figures, tables and records of a stem: <stem>.* and <stem>_<part>.*"""
    return [p for name in FOLDERS for pattern in (f"{stem}.*", f"{stem}_*.*") for p in (folder / name).glob(pattern)]


def _execute(notebook, stage, parameters):
    for last in (False, True):
        try:
            return _execute_once(notebook, stage, parameters)
        except TimeoutError as error:
            reason = f"{notebook.name}: a cell took more than {PATIENCE[parameters['profile']]} s"
            if last:
                raise RuntimeError(f"{reason}, twice (rpa.companion.run.PATIENCE)") from error
            print(f"{reason}; once more", flush=True)
            shutil.rmtree(stage)
            stage.mkdir()


def _execute_once(notebook, stage, parameters):
    # A grammar of web addresses, which notebooks' schemas can do without: it takes two thirds of papermill's import.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from papermill.exceptions import PapermillExecutionError

    copy = stage / notebook.name
    bar = {"desc": notebook.stem, "leave": False} if sys.stderr.isatty() else False
    try:
        papermill.execute_notebook(
            notebook,
            copy,
            parameters,
            kernel_name="python3",
            kernel_manager_class=kernels.manager_class(),
            cwd=notebook.parent,
            progress_bar=bar,
            extra_arguments=["--IPKernelApp.log_level=50"],
            execution_timeout=PATIENCE[parameters["profile"]],
        )
    except PapermillExecutionError as error:
        number = _cell_number(notebook, error.source)
        first_line = next((line for line in error.source.splitlines() if line.strip()), "")
        raise RuntimeError(
            f"{notebook.name}, cell {number} ({first_line.strip()}): {error.ename}: {error.evalue}\n"
            f"the notebook up to there: {os.path.relpath(copy)}"
        ) from error


def _cell_number(notebook, source):
    """Place (from 1) of the cell with this source in the notebook as its author sees it."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return next((i for i, cell in enumerate(cells, 1) if cell.source == source), "of the injected parameters")


def main():
    """The command line; exit status 1 and one paragraph on stderr when the notebook fails."""
    parser = argparse.ArgumentParser(prog="python -m rpa.companion.run", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", choices=("full", "quick"), default="full")
    parser.add_argument("--out", type=Path, help="folder for everything it writes (default: the repository)")
    chosen = parser.parse_args()
    start = time.perf_counter()
    print(f"{chosen.notebook.stem} ({chosen.profile}) ...", flush=True)
    try:
        run(chosen.notebook, chosen.profile, chosen.out)
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) if isinstance(error, (RuntimeError, ValueError)) else f"stopped: {error!r}"
        sys.exit(f"\nFAILED {chosen.notebook.stem}: {reason}")
    print(f"{chosen.notebook.stem} ({chosen.profile}) done in {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
