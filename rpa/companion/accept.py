"""The committed results: what of build/full replaces them, together or not at all, and an archive of everything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from rpa import _files
from rpa._files import ROOT
from rpa.companion import provenance, verdicts
from rpa.companion.report import load_records
from rpa.companion.run import FOLDERS, files_of, is_current

__all__ = ["accept", "bundle"]


def accept() -> list[Path]:
    """Replace figures, tables, records, times and README's table by those of build/full; the files that changed.

    Raises ValueError naming the notebooks whose results are missing, out of date, failed, or made from stand-in data.
    """
    folder, known = _files.build("full"), provenance.notebooks()
    reasons = _reasons(folder, known)
    if reasons:
        raise ValueError("nothing is replaced:\n" + "\n".join(reasons))
    new = {ROOT / path.relative_to(folder): path.read_bytes() for stem in known for path in files_of(stem, folder)}
    stale = [path for name in FOLDERS for path in _made_by_notebooks(ROOT / name) if path not in new]
    claims, records = verdicts.load_claims(), verdicts.current_records(folder / "data" / "results")
    table = verdicts.markdown_table([verdicts.judge(claim, records) for claim in claims], claims)
    times = verdicts.times(folder / "data" / "results" / "timings")
    new[ROOT / "README.md"] = verdicts.write_readme(ROOT / "README.md", table, times).encode()
    changed = {path: content for path, content in new.items() if not path.exists() or path.read_bytes() != content}
    _replace_together(changed, stale)
    return sorted([*changed, *stale])


def _reasons(folder, known):
    """Why the results in `folder` cannot be accepted, a line for each notebook."""
    reasons = []
    stand_ins = {
        stem for (stem, _), entry in load_records(folder / "data" / "results").items() if entry.get("stand_in")
    }
    for stem in known:
        if not is_current(stem, "full"):
            failed = (folder / "failed" / f"{stem}.ipynb").exists()
            reason = "its last run failed" if failed else "not run with the present code, inputs and parameters"
            reasons.append(f"{stem}: {reason}; run make figures")
        elif stem in stand_ins:
            reasons.append(f"{stem}: made from stand-in data; run make data, then make figures")
    return reasons


def _made_by_notebooks(folder):
    return [path for path in folder.glob("[0-9][0-9]_*") if path.is_file()]


def _replace_together(changed, stale):
    """Write all files beside their places, then rename all; what fails before the first renaming changes nothing."""
    waiting = {path: path.with_name(f".{path.name}.accepted") for path in changed}
    try:
        for path, content in changed.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting[path].write_bytes(content)
        with _uninterrupted():
            for path, temporary in waiting.items():
                os.replace(temporary, path)
            for path in stale:
                path.unlink()
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _uninterrupted():
    """Ctrl-C waits until the block is done. What SIGKILL leaves half done, the next `make accept` finishes."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def bundle() -> Path:
    """An archive of the committed files (git archive) with the executed notebooks: build/rpa-<commit>.zip.

    Raises FileNotFoundError naming the notebooks that the present code has not been run in.
    """
    stale = [stem for stem in provenance.notebooks() if not is_current(stem, "full")]
    if stale:
        raise FileNotFoundError(f"build/full: not run with the present code: {', '.join(stale)}; run make figures")
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    path = _files.build(f"rpa-{commit.strip()}.zip")
    executed = [f"--add-file={_files.build('full') / stem}.ipynb" for stem in provenance.notebooks()]
    command = [
        *git,
        "archive",
        "--format=zip",
        f"--output={path}",
        "--prefix=executed/",
        *executed,
        "--prefix=",
        "HEAD",
    ]
    subprocess.run(command, check=True)
    return path
