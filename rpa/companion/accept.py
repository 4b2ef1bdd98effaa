"""The committed results: build/full replaces them, together or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from rpa import _files
from rpa._files import ROOT
from rpa.companion import provenance, results, verdicts
from rpa.companion.run import FOLDERS, files_of, is_current

__all__ = ["accept"]


def accept() -> list[Path]:
    """Replace figures, tables, records, times, RESULTS.md and README's two lines by build/full's; the changed files.

    Raises ValueError naming the notebooks whose results are missing, out of date, failed, or made from stand-in data.
    """
    folder, known = _files.build("full"), provenance.notebooks()
    records = verdicts.current_records(folder / "data" / "results")
    reasons = _reasons(folder, known, {stem for (stem, _), entry in records.items() if entry.get("stand_in")})
    if reasons:
        raise ValueError("nothing is replaced:\n" + "\n".join(reasons))
    new = {ROOT / path.relative_to(folder): path.read_bytes() for stem in known for path in files_of(stem, folder)}
    made = [path for name in FOLDERS for path in (ROOT / name).glob("[0-9][0-9]_*") if path.is_file()]
    stale = [path for path in made if path not in new]
    rows = [verdicts.judge(claim, records) for claim in verdicts.load_claims()]
    times = results.times(folder / "data" / "results" / "timings")
    new[ROOT / "RESULTS.md"] = results.page(rows).encode()
    new[ROOT / "README.md"] = results.readme((ROOT / "README.md").read_text(), rows, times).encode()
    changed = {path: content for path, content in new.items() if not path.exists() or path.read_bytes() != content}
    _replace_together(changed, stale)
    return sorted([*changed, *stale])


def _reasons(folder, known, stand_ins):
    """Why the results in `folder` cannot be accepted, a line for each notebook."""
    reasons = []
    for stem in known:
        if not is_current(stem, "full"):
            failed = (folder / "failed" / f"{stem}.ipynb").exists()
            reason = "its last run failed" if failed else "not run with the present code, inputs and parameters"
            reasons.append(f"{stem}: {reason}; run make figures")
        elif stem in stand_ins:
            reasons.append(f"{stem}: made from stand-in data; run make data, then make figures")
    return reasons


def _replace_together(changed, stale):
    """Write all files beside their places, then rename all; what fails before the first renaming changes nothing.

    Ctrl-C waits for the renaming. What SIGKILL interrupts, the next `make accept` finishes.
    """
    waiting = {path: path.with_name(f".{path.name}.accepted") for path in changed}
    with contextlib.ExitStack() as stack:
        for path, temporary in waiting.items():
            stack.callback(temporary.unlink, missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(changed[path])
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
        for path, temporary in waiting.items():
            os.replace(temporary, path)
        for path in stale:
            path.unlink()
