"""The papers' claims, and our own beyond them, beside our numbers, with a verdict on each.

A claim that does not reproduce and says why is shown as such; it does not fail. Numbers of a quick run, or from
stand-in data, are shown but never settle a claim. Nor do numbers that were made by other code than the present, or with
other parameters than those of the notebook: `current_records` marks them.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from rpa._files import ROOT, in_checkout
from rpa.companion.provenance import code_version, notebooks, parameters
from rpa.companion.report import load_records

__all__ = [
    "BEYOND",
    "apart",
    "current_records",
    "flipping",
    "judge",
    "load_claims",
    "markdown_table",
    "one_line",
    "summary",
    "text_table",
    "times",
    "verify",
    "worst",
    "write_readme",
]

CRITERIA = ("value", "at_most", "at_least")
KINDS = ("value", "agreement", "trend")
BEYOND = "beyond the papers"  # the `paper` of our own claims
# What a record's parameters say about the evidence: the keys that notebooks use.
KINDS_OF_EVIDENCE = {
    "networks": ("network", "networks", "moons_network", "mnist_network"),
    "images": ("image", "images"),
    "samples": ("n_samples", "samples", "n_fresh", "n_counted"),
}
UNJUDGED = {
    "no record": "no record yet",
    "older code": "made by other code than the present",
    "other parameters": "made with other parameters than the notebook's",
}
ROBUSTNESS = ROOT / "data" / "results" / "robustness.csv"
TIME_MARKERS = ("<!-- times: written by make accept -->", "<!-- end of times -->")
MARKERS = ("<!-- verdicts: written by make accept -->", "<!-- end of verdicts -->")


def load_claims(path: str | Path | None = None) -> list[dict]:
    """The claims of targets.toml, a list of dicts in the file's order.

    Each has id, paper, where, statement, kind (value | agreement | trend), stem (the notebook that tests it),
    status (done | pending), at most one of value (with tolerance), at_most, at_least (required once done), and
    perhaps needs (what cannot be fetched by everybody) and explanation. A claim of a paper has method (the paper's own)
    and either null (what ignores the noise, or what is free) or no_null (why there is none); a claim of our own has
    rival. target_by is "paper" or "us". Raises ValueError naming the claim and what is wrong with it.
    """
    path = Path(path or in_checkout("data/targets.toml"))
    claims = tomllib.loads(path.read_text())["claim"]
    seen = set()
    for claim in claims:
        name = claim.get("id", claim)
        missing = {"id", "paper", "where", "statement", "kind", "stem", "status"} - set(claim)
        if missing:
            raise ValueError(f"claim {name!r}: expected the keys {sorted(missing)} too")
        if claim["paper"] not in ("P1", "P2", BEYOND):
            raise ValueError(f"claim {name!r}: expected the paper P1, P2 or {BEYOND!r}, got {claim['paper']!r}")
        if claim["kind"] not in KINDS or claim["status"] not in ("done", "pending"):
            raise ValueError(f"claim {name!r}: unknown kind {claim['kind']!r} or status {claim['status']!r}")
        given = [key for key in CRITERIA if key in claim]
        if len(given) > 1 or (claim["status"] == "done" and not given):
            raise ValueError(f"claim {name!r}: expected one of {', '.join(CRITERIA)}, got {given or 'none'}")
        wrong = ("method", "null", "no_null") if claim["paper"] == BEYOND else ("rival",)
        if misplaced := [key for key in wrong if key in claim]:
            raise ValueError(f"claim {name!r}: {claim['paper']} has no {misplaced[0]}")
        if "null" in claim and "no_null" in claim:
            raise ValueError(f"claim {name!r}: expected null or no_null, got both")
        if claim.get("target_by", "paper") not in ("paper", "us"):
            raise ValueError(f"claim {name!r}: target_by: expected 'paper' or 'us', got {claim['target_by']!r}")
        if name in seen:
            raise ValueError(f"claim {name!r}: stands twice in {path.name}")
        seen.add(name)
    return claims


def judge(claim: dict, records: dict[tuple[str, str], dict]) -> dict:
    """One row of the verdict table, a dict: id, paper, where, statement, stem, target, ours, on, verdict, note.

    records: {(stem, id): record} as `current_records` or `rpa.companion.report.load_records` give them. Verdict:
    'holds', 'fails', 'does not reproduce' (fails, and the claim has an explanation), 'pending', 'no record' (not run
    yet), 'not measured' (no number, for want of what the claim needs), 'older code' or 'other parameters' (a number
    that says nothing about the present notebook), or 'holds/fails (quick profile | stand-in data)', which settles
    nothing. A list or dict of numbers holds when every one of them does.
    """
    entry = records.get((claim["stem"], claim["id"]))
    row = {key: claim[key] for key in ("id", "paper", "where", "statement", "stem")}
    row |= {"target": _target(claim), "ours": _ours(entry), "on": _measured_on(entry), "note": ""}
    if entry is None and "needs" in claim:
        row["note"] = f"needs {claim['needs']}"
    return row | {"verdict": _verdict(claim, entry)}


def current_records(folder: Path | None = None) -> dict[tuple[str, str], dict]:
    """The records of a results folder (default: the repository's), with the reason why one is not judged, if any.

    That is `stale`: "older code", or "other parameters" than those of the notebook's first cell.
    """
    return {key: entry | {"stale": _stale(key[0], entry)} for key, entry in load_records(folder).items()}


def _stale(stem, entry):
    if entry["code"] != code_version(stem):
        return "older code"
    path = notebooks().get(stem)
    own = {name: default for name, (default, _) in parameters(path).items()} if path else {}
    return "" if json.dumps(entry["notebook_parameters"]) == json.dumps(own) else "other parameters"


def _verdict(claim, entry):
    if claim["status"] == "pending":
        return "pending"
    if entry is None:
        return "not measured" if "needs" in claim else "no record"
    if entry.get("stale"):
        return entry["stale"]
    holds = all(_meets(claim, number) for number in _numbers(entry["value"]))
    caveats = ["quick profile"] * (entry["profile"] != "full") + ["stand-in data"] * entry.get("stand_in", False)
    if caveats:
        return f"{'holds' if holds else 'fails'} ({', '.join(caveats)})"
    return "holds" if holds else "does not reproduce" if claim.get("explanation") else "fails"


def _meets(claim, number):
    if "at_most" in claim:
        return number <= claim["at_most"]
    if "at_least" in claim:
        return number >= claim["at_least"]
    return abs(number - claim["value"]) <= claim.get("tolerance", 0)


def worst(claim: dict, value: Any) -> float:
    """The number of a record's value that is farthest from meeting the claim, on the wrong side."""
    numbers = _numbers(value)
    if "at_most" in claim:
        return float(max(numbers))
    if "at_least" in claim:
        return float(min(numbers))
    return float(max(numbers, key=lambda number: abs(number - claim["value"])))


def flipping(path: Path | None = None) -> set[str]:
    """Ids of the claims that some of the runs of `make robustness` meet and others miss."""
    return {row["claim"] for row in _robustness(path) if row["flips"] == "True"}


def _robustness(path=None):
    """The rows of `make robustness`, none before it was run."""
    path = path or ROBUSTNESS
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [n for item in value for n in _numbers(item)] if isinstance(value, list) else [value]


def _target(claim):
    if "at_most" in claim:
        return f"≤ {_show(claim['at_most'])}"
    if "at_least" in claim:
        return f"≥ {_show(claim['at_least'])}"
    if "value" in claim:
        return _show(claim["value"]) + (f" ± {_show(claim['tolerance'])}" if claim.get("tolerance") else "")
    return ""


def _ours(entry):
    if entry is None:
        return ""
    low, high = min(_numbers(entry["value"])), max(_numbers(entry["value"]))
    if low != high:
        return f"{_show(low)} … {_show(high)}"
    error = max(_numbers(entry["error"])) if "error" in entry else 0
    return _show(low) + (f" ± {error:.1g}" if error else "")


def _measured_on(entry):
    """Networks x images x samples, as far as the record's parameters tell; the largest number of samples counts."""
    parameters = (entry or {}).get("parameters", {})
    found = []
    for noun, keys in KINDS_OF_EVIDENCE.items():
        given = [parameters[key] for key in keys if key in parameters]
        counts = [1 if isinstance(value, str) else value if isinstance(value, int) else len(value) for value in given]
        if noun == "samples":
            flat = [n for value in given for n in (value if isinstance(value, list) else [value])]
            counts = [max(flat)] if flat else []
        if counts:
            found.append(f"{sum(counts):,} {noun if sum(counts) != 1 else noun[:-1]}")
    return ", ".join(found)


def _show(number):
    return ("no", "yes")[number] if isinstance(number, bool) else f"{number:.4g}"


def text_table(rows: list[dict]) -> str:
    """The rows of `judge` for a terminal: id, target, ours, verdict, in columns."""
    cells = [("claim", "target", "ours", "verdict")]
    cells += [(r["id"], r["target"], r["ours"], " — ".join(filter(None, (r["verdict"], r["note"])))) for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in cells)


def summary(rows: list[dict]) -> str:
    """How many claims got which verdict, the commonest first: '30 holds, 3 pending, 1 does not reproduce'."""
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(r["verdict"] for r in rows).most_common())


def apart(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """The papers' claims (or rows), and our own beyond the papers."""
    return [r for r in rows if r["paper"] != BEYOND], [r for r in rows if r["paper"] == BEYOND]


def markdown_table(rows: list[dict], claims: list[dict]) -> str:
    """The rows of `judge` as README.md shows them: a summary, the table, our own claims apart from it, and why a claim
    does not reproduce.

    It depends on targets.toml and the records alone, so the one committed stays right until they change.
    """
    papers, own = apart(rows)
    lines = [f"{summary(papers)}.", "", *_markdown_rows(papers)]
    if own:
        lines += ["", f"Beyond the papers, claims of our own: {summary(own)}.", "", *_markdown_rows(own)]
    lines += _robustness_words({r["id"] for r in rows})
    failed = {r["id"] for r in rows if r["verdict"] == "does not reproduce"}
    reasons = [f"- {c['paper']}, {c['where']}: {c['explanation']}" for c in claims if c["id"] in failed]
    return "\n".join(lines + (["", "Why a claim does not reproduce:", "", *reasons] if reasons else []))


def _markdown_rows(rows):
    flips = flipping()
    lines = ["| paper | where | claim | target | ours | measured on | verdict |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        need = f": {r['note']}" if r["verdict"] == "not measured" else ""
        mark = " †" if r["id"] in flips else ""
        link = f"[{r['verdict']}](notebooks/{r['stem']}.ipynb){mark}{need}"
        cells = [r["paper"].partition(" ")[0], r["where"], r["statement"], r["target"], r["ours"], r["on"], link]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _robustness_words(ids):
    """What `make robustness` found about these claims: how many it tried, and a table of those that flip."""
    tried = [row for row in _robustness() if row["claim"] in ids]
    if not tried:
        return []
    flips = [row for row in tried if row["flips"] == "True"]
    words = (
        "† depends on the seed. `make robustness` ran the quick profile with five seeds, one thread and two: of "
        f"{len(tried)} claims {len(flips) or 'none'} met its target in some runs and missed it in others "
        "(every claim's spread: [robustness.csv](data/results/robustness.csv))."
    )
    lines = ["", words]
    if flips:
        lines += ["", "| claim | target | lowest | highest | runs that meet it |", "|---|---|---|---|---|"]
    return lines + ["| {claim} | {target} | {lowest} | {highest} | {met} of {runs} |".format(**row) for row in flips]


def times(folder: Path = ROOT / "data" / "results" / "timings") -> str:
    """One line for README: how long the committed runs took, on what machine, and which took longest."""
    found = {path.stem: json.loads(path.read_text()).get("notebook") for path in sorted(folder.glob("*.json"))}
    taken = {stem: entry["seconds"] / 60 for stem, entry in found.items() if entry}
    if not taken:
        return "No run has been timed yet."
    machines = sorted({"{processor} ({cores} cores, {system})".format(**e["machine"]) for e in found.values() if e})
    longest = sorted(taken, key=taken.__getitem__, reverse=True)[:3]
    named = ", ".join(f"{stem[:2]} ({taken[stem]:.1f})" for stem in longest)
    return (
        f"The committed numbers took {sum(taken.values()):.0f} minutes of one core each, two notebooks at a time, on "
        f"{' and '.join(machines)}; the longest are {named}. Seconds of each: `data/results/timings`."
    )


def write_readme(path: Path, table: str, times: str) -> str:
    """The README at `path` with the table and the times between their markers; ValueError when these are missing."""
    text = path.read_text()
    for (first, last), part in ((MARKERS, table), (TIME_MARKERS, times)):
        before, start, rest = text.partition(first)
        _, end, after = rest.partition(last)
        if not (start and end):
            raise ValueError(f"{path.name}: expected the lines {first} and {last}")
        text = f"{before}{start}\n{part}\n{end}{after}"
    return text


def one_line(rows: list[dict]) -> str:
    """How many of the measured claims hold: "32 of 39 measured claims of the papers hold, and 6 of 7 of our own"."""
    papers, own = (_share(part) for part in apart(rows))
    return f"{papers} measured claims of the papers hold" + (f", and {own} of our own" if own[-4:] != "of 0" else "")


def _share(rows):
    verdicts = [row["verdict"].partition(" (")[0] for row in rows]
    return f"{verdicts.count('holds')} of {sum(v in ('holds', 'fails', 'does not reproduce') for v in verdicts)}"


def verify(folder: Path | None = None) -> tuple[str, bool]:
    """(the table of all claims and what is wrong, whether nothing is) of a results folder, by default the repository's.

    A finished claim that fails without an explanation is wrong, and so is a number that is missing or not current.
    """
    claims, records = load_claims(), current_records(folder)
    rows = [judge(claim, records) for claim in claims]
    papers, own = apart(rows)
    parts = [text_table(papers)]
    if own:
        parts += ["", "beyond the papers, claims of our own", "", text_table(own)]
    for claim, row in zip(claims, rows):
        if row["verdict"] == "does not reproduce":
            parts += ["", f"{claim['id']} does not reproduce: {claim['explanation']}"]
    ours = f"; {len(own)} of our own: {summary(own)}" if own else ""
    parts += ["", f"{len(papers)} claims: {summary(papers)}{ours}"]
    ids = {verdict: [row["id"] for row in rows if row["verdict"] == verdict] for verdict in (*UNJUDGED, "fails")}
    for verdict, words in UNJUDGED.items():
        if ids[verdict]:
            parts.append(f"{words}: {', '.join(ids[verdict])}; run make figures")
    if ids["fails"]:
        parts.append(f"FAILED: {', '.join(ids['fails'])}")
    return "\n".join(parts), not any(ids.values())
