"""Notebooks run as programs: one by one, each all or nothing, or all whose results are out of date.

A run writes figures, tables, records and the executed copy into a staging folder; they replace those of an earlier run
in build/<profile> when the last cell is done. A notebook that fails or is stopped leaves the last good results, and is
named together with the cell that failed. Whether results are out of date is decided by what they were made from (the
label in the executed copy), not by time stamps. Two runs of one notebook in one checkout take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from joblib import cpu_count

from rpa import _files
from rpa._files import ROOT
from rpa.companion import provenance, report
from rpa.parallel import end_with_parent

__all__ = ["PROFILES", "execute", "files_of", "is_current", "label_of", "run", "run_all", "stem_of"]

PROFILES = ("full", "quick")
PATIENCE = {"quick": 300, "full": 3600}  # seconds that a cell may take
RUNNING: set[subprocess.Popen] = set()
STOPPED = threading.Event()  # no run begins after Ctrl-C
FOLDERS = ("figures", "data/results", "data/results/timings")
# glibc keeps the pages of large arrays instead of returning them to the system: a tenth of a notebook's time.
KEEP_PAGES = {f"MALLOC_{name}_": str(size) for name, size in (("MMAP_THRESHOLD", 2**29), ("TRIM_THRESHOLD", 2**30))}


def stem_of(name: str) -> str:
    """The notebook meant by its stem, number or file name; ValueError listing all for another name."""
    stems = list(provenance.notebooks())
    wanted = Path(name).name.removesuffix(".ipynb")
    matching = [stem for stem in stems if stem == wanted or stem.partition("_")[0] == wanted]
    if len(matching) != 1:
        raise ValueError(f"NB: expected one of {', '.join(stems)}, got {name!r}")
    return matching[0]


def label_of(notebook: str | Path, profile: str, parameters: dict | None = None) -> dict:
    """What the results of a notebook (a path) depend on: profile, code, inputs, parameters that differ from its own."""
    versions = {"code": provenance.code_version(str(notebook)), "inputs": provenance.input_version()}
    return {"profile": profile, **versions, "parameters": parameters or {}}


def is_current(stem: str, profile: str, folder: Path | None = None, parameters: dict | None = None) -> bool:
    """Whether `folder` (default: build/<profile>) holds the results of the present code, inputs and parameters."""
    folder = folder or _files.build(profile)
    return _label(folder / f"{stem}.ipynb") == label_of(provenance.notebooks()[stem], profile, parameters)


def _label(executed):
    """The label of an executed copy; None where it, or a file that its run wrote, is not there."""
    try:
        label = json.loads(executed.read_text())["metadata"].get("rpa", {})
    except (OSError, ValueError):
        return None
    return label if all((executed.parent / name).exists() for name in label.pop("files", [])) else None


def run(
    notebook: str | Path,
    profile: str = "full",
    folder: str | Path | None = None,
    parameters: dict | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Execute a notebook (a path) and return the path of the executed copy, <folder>/<stem>.ipynb.

    Figures, tables and records go to `folder` too, by default build/<profile>, in the places that they have in the
    repository; parameters replace those of the notebook's first cell, and then a folder has to be given. workers:
    processes for `rpa.parallel.pmap` in the notebook, by default RPA_WORKERS or 1; quiet: without a bar. What another
    process finished while this one waited for it is not run again. Raises RuntimeError naming the notebook and the
    failing cell, ValueError when it wrote a file whose name does not begin with its stem, OSError for a folder that
    cannot be written.
    """
    notebook = Path(notebook).resolve()
    if parameters and not folder:
        raise ValueError("folder: expected one for a run with parameters of its own, got none")
    folder = Path(folder).resolve() if folder else _files.build(profile)
    label, executed = label_of(notebook, profile, parameters), folder / notebook.name
    with _turn(folder / "stage" / notebook.stem) as waited:
        if not (waited and _label(executed) == label):
            stage, failed = folder / "stage" / f"{notebook.stem}-{os.getpid()}", folder / "failed" / notebook.name
            for old in stage.parent.glob(f"{notebook.stem}-*"):  # of runs that were stopped
                shutil.rmtree(old, ignore_errors=True)
            stage.mkdir()
            try:
                _execute_in_process(notebook, stage, label, workers, quiet)
                _publish(notebook.stem, stage, folder, label)
                failed.unlink(missing_ok=True)
            except RuntimeError as error:
                if not (stage / notebook.name).exists():
                    raise
                failed.parent.mkdir(exist_ok=True)
                os.replace(stage / notebook.name, failed)
                raise RuntimeError(f"{error}\nthe notebook up to there: {os.path.relpath(failed)}") from error
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    return executed


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Hold the lock <path>.lock; yields whether another process had it first. A killed process loses it by itself."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(f"{path}.lock"), False
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waited = True
        print(f"{path.name}: waiting for another run of it", flush=True)
        lock.acquire()
    try:
        yield waited
    finally:
        lock.release()


def _execute_in_process(notebook, stage, label, workers, quiet):
    """Run a notebook in a process of its own, into `stage`."""
    started, defaults = time.perf_counter(), {name: p[0] for name, p in provenance.parameters(notebook).items()}
    environment = os.environ | KEEP_PAGES | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1",
        "MPLBACKEND": os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "RPA_NOTEBOOK": str(notebook),
        "RPA_OUT": str(stage),
        "RPA_PARAMETERS": json.dumps(defaults | label["parameters"]),
        "RPA_PROFILE": label["profile"],
        "RPA_WORKERS": str(workers or os.environ.get("RPA_WORKERS") or 1),
    }  # fmt: skip
    request = {"parameters": label["parameters"], "patience": PATIENCE[label["profile"]], "quiet": quiet}
    command = [sys.executable, "-m", "rpa.companion.run", json.dumps(request)]
    with subprocess.Popen(command, env=environment) as process:
        RUNNING.add(process)
        try:
            if STOPPED.is_set():
                process.terminate()
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
        finally:
            RUNNING.discard(process)
    if status:
        reason = stage / "reason.txt"
        raise RuntimeError(reason.read_text() if reason.exists() else f"{notebook.name}: stopped ({status})")
    timings = stage / "data" / "results" / "timings" / f"{notebook.stem}.json"
    report.record_timing("notebook", round(time.perf_counter() - started, 1), timings)


def execute(parameters: dict, patience: int, quiet: bool) -> None:
    """What the process of a run does: papermill, with the reason of a failure in <stage>/reason.txt.

    The notebook, the staging folder and the profile come from the environment. The process ends with its parent.
    """
    end_with_parent()
    papermill = provenance.papermill()
    from papermill.exceptions import PapermillExecutionError

    notebook, stage = Path(os.environ["RPA_NOTEBOOK"]), Path(os.environ["RPA_OUT"])
    options = {
        "kernel_name": "python3",
        "cwd": notebook.parent,
        "progress_bar": {"desc": notebook.stem, "leave": False} if sys.stderr.isatty() and not quiet else False,
        "extra_arguments": ["--IPKernelApp.log_level=50"],
        "execution_timeout": patience,
    }
    parameters = {"profile": os.environ["RPA_PROFILE"]} | parameters
    for attempt in (1, 2):
        try:
            papermill.execute_notebook(notebook, stage / notebook.name, parameters, **options)
            return
        except PapermillExecutionError as error:
            # The cell of the injected parameters takes the place that the count from 0 leaves free.
            first_line = next(filter(str.strip, error.source.splitlines()), "").strip()
            reason = f"{notebook.name}, cell {error.cell_index} ({first_line}): {error.ename}: {error.evalue}"
            break
        except TimeoutError:  # rarely a kernel loses a message and waits for ever
            reason = f"{notebook.name}: a cell took more than {patience} s (PATIENCE of {__file__})"
            if attempt == 1:
                print(f"{reason}; once more", flush=True)
        except KeyboardInterrupt:
            reason = f"{notebook.name}: stopped"
            break
    (stage / "reason.txt").write_text(reason)
    sys.exit(1)


def _publish(stem, stage, folder, label):
    """Move what a finished run wrote to its place and delete what only an earlier run wrote.

    The executed copy is deleted first and written last: a run that is stopped in between counts as not done.
    """
    copy, written = stage / f"{stem}.ipynb", files_of(stem, stage)
    strangers = [p.name for p in stage.rglob("*") if p.is_file() and p not in [copy, *written]]
    if strangers:
        raise ValueError(f"{stem}: expected files named {stem}.* in figures or data/results, got {strangers}")
    content = json.loads(copy.read_text())
    content["metadata"]["rpa"] = label | {"files": [path.relative_to(stage).as_posix() for path in written]}
    copy.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (folder / copy.name).unlink(missing_ok=True)
    for path in files_of(stem, folder):
        path.unlink()
    for path in [*written, copy]:
        place = folder / path.relative_to(stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)


def files_of(stem: str, folder: Path) -> list[Path]:
    """Figures, tables and records of a stem in a folder: <stem>.* and <stem>_<part>.*"""
    return [p for name in FOLDERS for pattern in (f"{stem}.*", f"{stem}_*.*") for p in (folder / name).glob(pattern)]


def run_all(profile: str, stems: list[str] | None = None, jobs: int | None = None) -> list[str]:
    """Run the notebooks (default: all) whose results in build/<profile> are out of date; the reasons of failures.

    jobs: notebooks at a time, by default one per core up to four (each takes up to 2 GB); they share the remaining
    cores. Those that took longest come first.
    """
    known, jobs = provenance.notebooks(), jobs or min(4, cpu_count())
    pending = [stem for stem in stems or known if not is_current(stem, profile)]
    pending.sort(key=_seconds, reverse=True)
    workers, failures = max(1, cpu_count() // max(1, min(jobs, len(pending)))), []

    def work(stem):
        started = time.perf_counter()
        print(f"{stem} ({profile}) ...", flush=True)
        run(known[stem], profile, workers=workers, quiet=True)
        print(f"{stem} ({profile}) done in {time.perf_counter() - started:.0f} s", flush=True)

    STOPPED.clear()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed(pool.submit(work, stem) for stem in pending):
                try:
                    future.result()
                except (RuntimeError, ValueError) as error:
                    failures.append(str(error))
                    print(f"FAILED {error}", flush=True)
        except BaseException:
            STOPPED.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                process.terminate()
            raise
    return failures


def _seconds(stem):
    """How long the committed run of a notebook took."""
    path = ROOT / "data" / "results" / "timings" / f"{stem}.json"
    return json.loads(path.read_text())["notebook"] if path.exists() else 0.0


if __name__ == "__main__":
    execute(**json.loads(sys.argv[1]))
