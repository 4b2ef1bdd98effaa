"""RESULTS.md, from the template docs/results.md, and the two lines of README.md that depend on results."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jinja2 import StrictUndefined, Template

from rpa._files import ROOT, in_checkout
from rpa.companion.verdicts import one_line, papers_and_ours

__all__ = ["ROBUSTNESS", "page", "readme", "times"]

ROBUSTNESS = ROOT / "data" / "results" / "robustness.csv"
THEORY = ("lemma", "proposition", "theorem", "corollary", "remark on affine layers")
SECTIONS = {"figure": "figures", "algorithm": "algorithms"} | dict.fromkeys(THEORY, "theory")


def page(rows: list[dict], link: Callable[[dict, str], str] | None = None) -> str:
    """The text of RESULTS.md, which depends on the rows, docs/results.md and robustness.csv alone.

    rows: of `rpa.companion.verdicts.judge`; link(row, text): text as a link to the row's notebook. Raises
    jinja2.UndefinedError where the template names a claim that does not exist.
    """
    papers, ours = papers_and_ours(rows)
    sections: dict[str, list] = {}
    for row in papers:
        place = row["where"].partition(",")[0].rstrip(" 0123456789")
        sections.setdefault(f"{row['paper']}: {SECTIONS.get(place, place)}", []).append(row)
    tried = list(csv.DictReader(ROBUSTNESS.read_text().splitlines())) if ROBUSTNESS.exists() else []
    words = {
        "summary": one_line(rows),
        "unmeasured": Counter(row["note"] for row in papers if row["note"]),
        "rows": rows,
        "sections": sections,
        "ours": ours,
        "tried": tried,
        "flips": {row["claim"]: row for row in tried if row["flips"] == "True"},
        "number": {
            row["id"]: {key: row[key] or "(not measured)" for key in ("measured", "null", "ours")} for row in rows
        },
        "link": link or (lambda row, text: f"[{text}](notebooks/{row['stem']}.ipynb)"),
    }
    options = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return Template(in_checkout("docs/results.md").read_text(), undefined=StrictUndefined, **options).render(words)


def readme(text: str, rows: list[dict], times: str) -> str:
    """README.md with the summary and the times between their markers; ValueError when a marker is missing."""
    summary = f"{one_line(rows)[0].upper()}{one_line(rows)[1:]}. Each with its reason: [RESULTS.md](RESULTS.md)."
    for name, content in (("summary", summary), ("times", times)):
        first, last = f"<!-- {name}: written by make accept -->\n", f"<!-- end of {name} -->"
        if not (first in text and last in text):
            raise ValueError(f"README.md: expected the lines {first.strip()} and {last.strip()}")
        text = f"{text.partition(first)[0]}{first}{content}\n{last}{text.partition(last)[2]}"
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
