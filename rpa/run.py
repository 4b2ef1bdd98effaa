"""Run one notebook, all or nothing: `python -m rpa.run notebooks/01_moons_noise.ipynb --profile quick`.

The notebook writes into a staging folder; what an earlier run left is deleted first, and the new files move to their
places only when the last cell is done. A notebook that fails or is interrupted therefore leaves no figure that looks
finished, and is named together with the cell that failed.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Seconds that a cell may take. Rarely a kernel loses a message and waits for ever: then the notebook is run once more.
PATIENCE = {"quick": 300, "full": 3600}
FOLDERS = ("figures", "data/results", "data/results/timings")


def run(notebook, profile="full", out=None):
    """Execute `notebook` (path) and return the path of the executed copy, <build>/<profile>/<stem>.ipynb.

    Figures, tables and records go to `out`: by default the repository for the full profile, build/quick for the quick
    one; with `out` given, the executed copy goes there too. Raises RuntimeError naming the notebook and the failing
    cell, ValueError when a file it wrote does not begin with its stem.
    """
    notebook = Path(notebook).resolve()
    stem = notebook.stem
    build = Path(out).resolve() if out else ROOT / "build" / profile
    target = build if out or profile == "quick" else ROOT
    stage = build / "stage" / stem
    executed = build / f"{stem}.ipynb"
    shutil.rmtree(stage, ignore_errors=True)
    for path in [executed, *_files_of(stem, target)]:
        path.unlink(missing_ok=True)
    stage.mkdir(parents=True)
    _execute(notebook, stage, profile)
    written = [path for path in stage.rglob("*") if path.is_file()]
    strangers = [path.name for path in written if path not in [*_files_of(stem, stage), stage / executed.name]]
    if strangers:
        raise ValueError(f"{stem}: expected files named {stem}.* in figures or data/results, got {strangers}")
    # The executed copy goes last: while it is missing, Make takes the notebook as not run.
    for path in sorted(written, key=lambda path: path.name == executed.name):
        place = executed if path.name == executed.name else target / path.relative_to(stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    shutil.rmtree(stage)
    return executed


def _files_of(stem, folder):
    """Figures, tables and records of a stem: <stem>.* and <stem>_<part>.*"""
    return [p for name in FOLDERS for pattern in (f"{stem}.*", f"{stem}_*.*") for p in (folder / name).glob(pattern)]


def _execute(notebook, stage, profile):
    for last in (False, True):
        try:
            return _execute_once(notebook, stage, profile)
        except TimeoutError as error:
            reason = f"{notebook.name}: a cell took more than {PATIENCE[profile]} s"
            if last:
                raise RuntimeError(f"{reason}, twice (rpa.run.PATIENCE)") from error
            print(f"{reason}; once more", flush=True)
            shutil.rmtree(stage)
            stage.mkdir(parents=True)


def _execute_once(notebook, stage, profile):
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ |= {
        "RPA_OUT": str(stage), "RPA_PROFILE": profile,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    copy = stage / notebook.name
    bar = {"desc": notebook.stem, "leave": False} if sys.stderr.isatty() else False
    try:
        papermill.execute_notebook(notebook, copy, {"profile": profile}, kernel_name="python3", cwd=notebook.parent,
                                   progress_bar=bar, extra_arguments=["--IPKernelApp.log_level=50"],
                                   execution_timeout=PATIENCE[profile])
    except PapermillExecutionError as error:
        number = _cell_number(notebook, error.source)
        first_line = next((line for line in error.source.splitlines() if line.strip()), "")
        raise RuntimeError(f"{notebook.name}, cell {number} ({first_line.strip()}): {error.ename}: {error.evalue}\n"
                           f"the notebook up to there: {os.path.relpath(copy)}") from error


def _cell_number(notebook, source):
    """Place (from 1) of the cell with this source in the notebook as its author sees it."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return next((i for i, cell in enumerate(cells, 1) if cell.source == source), "of the injected parameters")


def main():
    """The command line; exit status 1 and one paragraph on stderr when the notebook fails."""
    parser = argparse.ArgumentParser(prog="python -m rpa.run", description=__doc__.splitlines()[0])
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
