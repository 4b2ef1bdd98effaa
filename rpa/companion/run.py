"""Notebooks run as programs: one by one, each all or nothing, or all whose results are out of date.

A run writes figures, tables, records and the executed copy into a staging folder; they replace those of an earlier run
in build/<profile> when the last cell is done. A notebook that fails or is stopped leaves the last good results, and is
named together with the cell that failed. Whether results are out of date is decided by what they were made from (the
label in the executed copy), not by time stamps. Two runs of one notebook in one checkout take turns.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout
from joblib import cpu_count

from rpa import _files
from rpa._files import ROOT
from rpa.companion import provenance, report

PROFILES = ("full", "quick")
CELL_SECONDS = {"quick": 300, "full": 3600}  # seconds that a cell may take
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


def label_of(stem: str, profile: str, parameters: dict | None = None) -> dict:
    """What the results of a notebook depend on: profile, code, inputs, and the parameters that differ from its own."""
    versions = {"code": provenance.code_version(stem), "inputs": provenance.input_version()}
    return {"profile": profile, **versions, "parameters": parameters or {}}


def label_in(stem: str, folder: Path) -> dict:
    """The label of the results in `folder`, with their `files`, name -> SHA-256; {} where a notebook has none there."""
    try:
        return json.loads((folder / f"{stem}.ipynb").read_text())["metadata"].get("rpa", {})
    except (OSError, ValueError, KeyError, TypeError):  # not there, or cut off
        return {}


def is_current(stem: str, profile: str, folder: Path | None = None, parameters: dict | None = None) -> bool:
    """Whether `folder` (default: build/<profile>) holds what the present code, inputs and parameters made, unedited."""
    folder = folder or _files.build(profile)
    label = label_in(stem, folder)
    files = label.pop("files", {})
    return files == _digests(folder, files) and label == label_of(stem, profile, parameters)


def _digests(folder, names):
    """{name: SHA-256} of those files that are there."""
    return {name: sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).exists()}


def run(
    stem: str,
    profile: str = "full",
    folder: str | Path | None = None,
    parameters: dict | None = None,
    workers: int | None = None,
) -> None:
    """Execute a notebook unless its results are current; the executed copy is <folder>/<stem>.ipynb.

    Figures, tables and records go to `folder` too, by default build/<profile>, in the places that they have in the
    repository; parameters replace those of the notebook's first cell, and then a folder has to be given. workers:
    processes for `rpa.parallel.pmap` in the notebook, by default RPA_WORKERS or 1. Raises RuntimeError naming the
    notebook and the failing cell, OSError for a folder that cannot be written.
    """
    if parameters and not folder:
        raise ValueError("folder: expected one for a run with parameters of its own, got none")
    folder = Path(folder).resolve() if folder else _files.build(profile)
    notebook, failed = provenance.notebooks()[stem], folder / "failed" / f"{stem}.ipynb"
    stages = folder / "stage"
    stages.mkdir(parents=True, exist_ok=True)
    lock = FileLock(stages / f"{stem}.lock")
    try:
        turn = lock.acquire(blocking=False)
    except Timeout:
        print(f"{stem}: waiting for another run of it", flush=True)
        turn = lock.acquire()
    with turn:
        if is_current(stem, profile, folder, parameters):
            return
        for old in stages.glob(f"{stem}-*"):  # of runs that were stopped
            shutil.rmtree(old, ignore_errors=True)
        stage, label = stages / f"{stem}-{os.getpid()}", label_of(stem, profile, parameters)
        try:
            _publish(_execute(notebook, stage, label, workers), stage / notebook.name, folder, label)
            failed.unlink(missing_ok=True)
        except RuntimeError as error:
            failed.parent.mkdir(exist_ok=True)
            os.replace(stage / notebook.name, failed)
            raise RuntimeError(f"{error}\nthe notebook up to there: {os.path.relpath(failed)}") from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _execute(notebook, stage, label, workers):
    """The notebook after its cells ran in a kernel of their own; the copy, so far as it came, goes to `stage`."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    started, defaults = time.perf_counter(), {name: p[0] for name, p in provenance.parameters(notebook).items()}
    environment = os.environ | KEEP_PAGES | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "RPA_CODE": label["code"],
        "RPA_NOTEBOOK": str(notebook),
        "RPA_OUT": str(stage),
        "RPA_PARAMETERS": json.dumps(defaults | label["parameters"]),
        "RPA_PROFILE": label["profile"],
        "RPA_WORKERS": str(workers or os.environ.get("RPA_WORKERS") or 1),
    }  # fmt: skip
    values, options = {"profile": label["profile"]} | label["parameters"], {"prepare_only": True, "progress_bar": False}
    stage.mkdir()
    content = provenance.papermill().execute_notebook(notebook, stage / notebook.name, values, **options)
    for cell in content.cells:
        if cell.cell_type == "code":  # saved outputs and counts belong to another run
            cell.update(execution_count=None, outputs=[])
    client = NotebookClient(
        content,
        kernel_name="python3",
        timeout=CELL_SECONDS[label["profile"]],
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--IPKernelApp.log_level=50"],
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        # The cell of the injected parameters takes the place that the count from 0 leaves free.
        index = max(i for i, cell in enumerate(content.cells) if cell.get("execution_count"))
        first_line = next(filter(str.strip, content.cells[index].source.splitlines()))
        raise RuntimeError(f"{notebook.name}, cell {index} ({first_line}): {error.ename}: {error.evalue}") from None
    except DeadKernelError:
        raise RuntimeError(f"{notebook.name}: its kernel died, as where memory runs out") from None
    except CellTimeoutError:
        raise RuntimeError(f"{notebook.name}: a cell took over {client.timeout} s, CELL_SECONDS in run.py") from None
    finally:
        (stage / notebook.name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    timings = stage / "data" / "results" / "timings" / f"{notebook.stem}.json"
    report.record_timing("notebook", round(time.perf_counter() - started, 1), timings)
    return content


def _publish(content, copy, folder, label):
    """Move what a finished run wrote to its place and delete what only an earlier run wrote.

    At every moment the executed copy in `folder` names all files of its notebook there, and lacks one until the last is
    moved: a run that is stopped in between counts as not done, and the next one deletes what it left.
    """
    stage, earlier = copy.parent, label_in(copy.stem, folder).get("files", {})
    written = [path for path in sorted(stage.rglob("*")) if path.is_file() and path != copy]
    names = [path.relative_to(stage).as_posix() for path in written]
    content.metadata["rpa"] = label | {"files": _digests(stage, names)}
    copy.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    for name in earlier:
        (folder / name).unlink(missing_ok=True)
    for path in [copy, *written]:
        place = folder / path.relative_to(stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)


def _seconds(stem):
    """What the committed run of a notebook took; 0 where that is not known."""
    try:
        return json.loads((ROOT / FOLDERS[2] / f"{stem}.json").read_text())["notebook"]
    except (OSError, ValueError, KeyError):
        return 0.0


def run_all(profile: str, jobs: int | None = None) -> list[str]:
    """Run all notebooks whose results in build/<profile> are out of date; the reasons of failures.

    jobs: notebooks at a time, by default one per core up to four (each takes up to 2 GB); they share the remaining
    cores. Those that took longest come first.
    """
    jobs = jobs or min(4, cpu_count())
    pending = [stem for stem in provenance.notebooks() if not is_current(stem, profile)]
    pending.sort(key=_seconds, reverse=True)
    workers = max(1, cpu_count() // max(1, min(jobs, len(pending))))

    def work(stem):
        started = time.perf_counter()
        print(f"{stem} ({profile}) ...", flush=True)
        try:
            run(stem, profile, workers=workers)
        except (RuntimeError, ValueError) as error:
            print(f"FAILED {error}", flush=True)
            return str(error)
        except OSError as error:  # a full disk, or a folder that cannot be written: the others meet it too
            raise OSError(error.errno, f"{stem}: {error.strerror or error}", error.filename) from error
        print(f"{stem} ({profile}) done in {time.perf_counter() - started:.0f} s", flush=True)
        return None

    return [reason for reason in ThreadPoolExecutor(jobs).map(work, pending) if reason]
