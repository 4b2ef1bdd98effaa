"""The committed results: `accept` replaces them by build/full's, together or not at all.

With them go RESULTS.md, from the template docs/results.md, and the two lines of README.md that depend on results.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import StrictUndefined, Template

from rpa import _files
from rpa._files import ROOT, in_checkout
from rpa.companion import provenance
from rpa.companion.run import FOLDERS, is_current, label_in
from rpa.companion.verdicts import current_records, judge, load_claims, one_line, papers_and_ours

ROBUSTNESS = ROOT / "data" / "results" / "robustness.csv"
BENCH = ROOT / "data" / "results" / "bench.csv"
THEORY = ("lemma", "proposition", "theorem", "corollary", "remark on affine layers")
SECTIONS = {"figure": "figures", "algorithm": "algorithms"} | dict.fromkeys(THEORY, "theory")


def accept() -> list[Path]:
    """Replace figures, tables, records, times, RESULTS.md and README's two lines by build/full's; the changed files.

    Raises ValueError naming the notebooks whose results are missing, out of date, failed, or made from stand-in data.
    """
    folder, known = _files.build("full"), provenance.notebooks()
    records = current_records(folder / "data" / "results")
    stand_ins = sorted({stem for (stem, _), entry in records.items() if entry.get("stand_in")})
    reasons = [f"{stem}: made from stand-in data; run make data, then make figures" for stem in stand_ins]
    missing = [stem for stem in known if not is_current(stem, "full")]
    reasons += [f"{stem}: no results of the present code, inputs and parameters; run make figures" for stem in missing]
    if reasons:
        raise ValueError("nothing is replaced:\n" + "\n".join(reasons))
    names = [name for stem in known for name in label_in(stem, folder)["files"]]
    new = {ROOT / name: (folder / name).read_bytes() for name in names}
    made = [path for name in FOLDERS for path in (ROOT / name).glob("[0-9][0-9]_*") if path.is_file()]
    stale = [path for path in made if path not in new]
    rows = [judge(claim, records) for claim in load_claims()]
    taken = times(folder / "data" / "results" / "timings")
    new[ROOT / "RESULTS.md"] = page(rows).encode()
    new[ROOT / "README.md"] = readme((ROOT / "README.md").read_text(), rows, taken).encode()
    changed = {path: content for path, content in new.items() if not path.exists() or path.read_bytes() != content}
    # What fails before the first renaming changes nothing; what is stopped while renaming, the next accept finishes.
    with TemporaryDirectory(prefix=".accept-", dir=ROOT) as waiting:
        for i, (path, content) in enumerate(changed.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(waiting, str(i)).write_bytes(content)
        for i, path in enumerate(changed):
            os.replace(Path(waiting, str(i)), path)
        for path in stale:
            path.unlink()
    return sorted([*changed, *stale])


def page(rows: list[dict], link: Callable[[dict, str], str] | None = None) -> str:
    """The text of RESULTS.md, which depends on the rows, docs/results.md, robustness.csv and bench.csv alone.

    rows: of `rpa.companion.verdicts.judge`; link(row, text): text as a link to the row's notebook. Raises
    jinja2.UndefinedError where the template names a claim that does not exist.
    """
    papers, ours = papers_and_ours(rows)
    sections: dict[str, list] = {}
    for row in papers:
        place = row["where"].partition(",")[0].rstrip(" 0123456789")
        sections.setdefault(f"{row['paper']}: {SECTIONS.get(place, place)}", []).append(row)
    tried, bench = ([*csv.DictReader(f.read_text().splitlines() if f.exists() else [])] for f in (ROBUSTNESS, BENCH))
    peers: dict[tuple, list] = {}
    for row in sorted((row for row in bench if row["topic"] != "device"), key=lambda row: float(row["ratio"])):
        peers.setdefault((row["topic"], row["task"], row["peer"], row["of"]), []).append(row)
    words = {
        "summary": one_line(rows),
        "unmeasured": Counter(row["note"] for row in papers if row["note"]),
        "rows": rows,
        "sections": sections,
        "ours": ours,
        "tried": tried,
        "peers": peers,
        "flips": {row["claim"]: row for row in tried if row["flips"] == "True"},
        "number": {row["id"]: {key: value or "(not measured)" for key, value in row.items()} for row in rows},
        "link": link or (lambda row, text: f"[{text}](notebooks/{row['stem']}.ipynb)"),
    }
    options: dict = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return Template(in_checkout("docs/results.md").read_text(), undefined=StrictUndefined, **options).render(words)


def readme(text: str, rows: list[dict], times: str) -> str:
    """README.md with the summary and the times between their markers; ValueError when a marker is missing."""
    summary = f"{one_line(rows)[0].upper()}{one_line(rows)[1:]}. Each with its reason: [RESULTS.md](RESULTS.md)."
    for name, content in (("summary", summary), ("times", times)):
        first, last = f"<!-- {name}: written by make accept -->\n", f"<!-- end of {name} -->"
        text, found = re.subn(f"{first}.*{last}", lambda _: f"{first}{content}\n{last}", text, flags=re.DOTALL)
        if not found:
            raise ValueError(f"README.md: expected the lines {first.strip()} and {last}")
    return text


def times(folder: Path) -> str:
    """One line for README: how long the runs of a timings folder took, on what machine, and which took longest."""
    timings = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    taken = {stem: entry["notebook"] / 60 for stem, entry in timings.items()}
    machines = sorted({"{processor} ({cores} cores, {system})".format(**e["machine"]) for e in timings.values()})
    longest = sorted(taken, key=taken.__getitem__, reverse=True)[:3]
    named = ", ".join(f"{stem[:2]} ({taken[stem]:.1f})" for stem in longest)
    return (
        f"The committed numbers took {sum(taken.values()):.0f} minutes of one core each, two notebooks at a time, on "
        f"{' and '.join(machines)}; the longest are {named}. Seconds of each: `data/results/timings`."
    )
