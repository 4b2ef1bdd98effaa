"""The claims of data/targets.toml beside the recorded numbers, and the verdict on each.

A claim of a paper is judged by the paper's own method. Beside its number stand that of the null, which ignores the
noise or is free, and that of our method.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tabulate import tabulate

from rpa._files import in_checkout
from rpa.companion.provenance import code_version, notebooks, parameters
from rpa.companion.report import flatten, load_records, numbers

OWN = "beyond the papers"  # the `paper` of our own claims
KEYS = ("id", "paper", "where", "statement", "kind", "stem", "status")  # which every claim has
CRITERIA = ("value", "at_most", "at_least")
ALLOWED = {
    "paper": ("P1", "P2", OWN),
    "kind": ("value", "agreement", "trend"),
    "status": ("done", "pending"),
    "target_by": ("paper", "us"),
}
STRADDLES = 2.0  # standard errors within which a number and its target are not distinguished
# The verdicts on claims that are measured, and how several of them are counted.
PLURAL = {"holds": "hold", "does not reproduce": "do not reproduce", "fails": "fail", "undecided": "undecided"}
WRONG = {
    "no record": "no record yet: {}; run make figures",
    "older code": "made by other code than the present: {}; run make figures",
    "other parameters": "made with other parameters than the notebook's: {}; run make figures",
    "fails": "FAILED: {}",
}


def load_claims(path: str | Path | None = None) -> list[dict]:
    """The claims of targets.toml, a list of dicts in the file's order; the head of that file explains the keys.

    Raises ValueError naming the claim and what is wrong with it.
    """
    path = Path(path or in_checkout("data/targets.toml"))
    try:
        claims = tomllib.loads(path.read_text())["claim"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: expected [[claim]] blocks of TOML ({error})") from error
    counts = Counter(claim.get("id") for claim in claims)
    for claim in claims:
        reasons = [f"expected the key {key} too" for key in KEYS if key not in claim]
        wrong = [(key, allowed) for key, allowed in ALLOWED.items() if claim.get(key, allowed[0]) not in allowed]
        reasons += [f"{key}: expected one of {allowed}, got {claim[key]!r}" for key, allowed in wrong]
        edges = {key: claim[key] for key in (*CRITERIA, "tolerance") if key in claim}
        reasons += [f"{k}: expected a number, got {v!r}" for k, v in edges.items() if not isinstance(v, (int, float))]
        criteria = [key for key in CRITERIA if key in claim]
        if len(criteria) > 1 or (claim.get("status") == "done" and not criteria):
            reasons.append(f"expected one of {', '.join(CRITERIA)}, got {criteria or 'none'}")
        foreign = ("method", "null", "no_null") if claim.get("paper") == OWN else ("rival",)
        reasons += [f"{claim.get('paper')} has no {key}" for key in foreign if key in claim]
        if "null" in claim and "no_null" in claim:
            reasons.append("expected null or no_null, got both")
        if counts[claim.get("id")] > 1:
            reasons.append("expected once, got twice")
        if reasons:
            raise ValueError(f"claim {claim.get('id', claim)!r}: {'; '.join(reasons)}")
    return claims


def judge(claim: dict, records: dict[tuple[str, str], dict]) -> dict:
    """One row of the verdict tables: a dict of text, but for null_meets.

    id, paper, where, statement, stem, method, explanation: as in the claim, "" without; null_name: its null or rival,
    else the reason why it has none; target, measured, null, ours: numbers; flip: the target at which the verdict would
    change, where the target is ours; on, reached: as in the record; note: what the claim needs and lacks; null_meets:
    whether the null or rival meets the target too. records: as `current_records` or `load_records` give them.

    verdict: 'holds', 'fails', 'does not reproduce' (fails, and is a paper's claim with an explanation), 'undecided'
    (two standard errors of a number reach across the target), 'pending', 'no record' (not run yet), 'not measured' (for
    want of what the claim needs), 'older code' or 'other parameters' (the number says nothing about the present
    notebook). 'holds (quick profile)' and '... (stand-in data)' settle nothing. Of several numbers the worst counts.
    """
    entry, (low, high) = records.get((claim["stem"], claim["id"]), {}), _range(claim)
    signs = {"value": "", "at_most": "≤ ", "at_least": "≥ "}
    target = next((sign + _format(claim[key]) for key, sign in signs.items() if key in claim), "")
    if claim.get("tolerance"):
        target += f" ± {_format(claim['tolerance'])}"
    flip = ""
    if claim.get("target_by") == "us" and entry:
        number = worst(claim, entry["value"])
        flip = f"± {abs(number - claim['value']):.2g}" if "value" in claim else f"{number:.3g}"
    row = {key: claim[key] for key in ("id", "paper", "where", "statement", "stem")}
    row |= {key: claim.get(key, "") for key in ("method", "explanation")}
    row["null_name"] = next((claim[key] for key in ("null", "rival", "no_null") if key in claim), "")
    row |= {"target": target, "flip": flip, "measured": _show(claim, entry, "value")}
    row |= {key: _show(claim, entry, key) for key in ("null", "ours")}
    row |= {key: entry.get(key, "") for key in ("on", "reached")}
    row["note"] = f"needs {claim['needs']}" if not entry and "needs" in claim else ""
    row["null_meets"] = "null" in entry and all(low <= number <= high for _, number in flatten(entry["null"]))
    return row | {"verdict": _verdict(claim, entry)}


def current_records(folder: Path | None = None) -> dict[tuple[str, str], dict]:
    """The records of a results folder (default: the repository's), each with `stale`: why it is not judged, or "".

    That is "older code", or "other parameters" than those of the notebook's first cell.
    """
    records = load_records(folder)
    for (stem, _), entry in records.items():
        entry["stale"] = "older code"
        if entry["code"] == code_version(stem):
            path = notebooks().get(stem)
            defaults = {name: default for name, (default, _) in parameters(path).items()} if path else {}
            same = json.dumps(entry["notebook_parameters"]) == json.dumps(defaults)
            entry["stale"] = "" if same else "other parameters"
    return records


def _verdict(claim, entry):
    if claim["status"] == "pending":
        return "pending"
    if not entry:
        return "not measured" if "needs" in claim else "no record"
    if entry.get("stale"):
        return entry["stale"]
    (low, high), verdicts = _range(claim), []
    for _, number, error in numbers(entry):
        near = min(abs(number - low), abs(number - high)) < STRADDLES * (error or 0)
        verdicts.append("undecided" if near else "holds" if low <= number <= high else "fails")
    verdict = next(v for v in ("fails", "undecided", "holds") if v in verdicts)
    caveats = ["quick profile"] * (entry["profile"] != "full") + ["stand-in data"] * entry.get("stand_in", False)
    if caveats:
        return f"{verdict} ({', '.join(caveats)})"
    explained = claim["paper"] != OWN and claim.get("explanation")
    return "does not reproduce" if verdict == "fails" and explained else verdict


def _range(claim):
    """The lowest and the highest number that meet the claim."""
    if "value" in claim:
        return tuple(claim["value"] + sign * claim.get("tolerance", 0) for sign in (-1, 1))
    return claim.get("at_least", -math.inf), claim.get("at_most", math.inf)


def worst(claim: dict, value: Any) -> float:
    """The number of a record's value that is farthest from meeting the claim, on the wrong side."""
    low, high = _range(claim)
    return max((float(number) for _, number in flatten(value)), key=lambda number: max(low - number, number - high))


def _show(claim, entry, key):
    """The numbers under `key` of a record: one, with its error, or the range of several; "" without."""
    if key not in entry:
        return ""
    shown = sorted((number, error or 0) for _, number, error in numbers(entry, key))
    (low, _), (high, error) = shown[0], shown[-1]
    if low != high:
        return f"{_format(low, _range(claim))} … {_format(high, _range(claim))}"
    if not error:
        return _format(high, _range(claim))
    # Both to the error's first digit, or its second where the first is 1.
    decimals = -math.floor(math.log10(error)) + (f"{error:e}"[0] == "1")
    if 0 <= decimals <= 8:
        return f"{high:.{decimals}f} ± {error:.{decimals}f}"
    digits = decimals + math.ceil(math.log10(abs(high) or 1.0))
    return f"{high:.{min(max(digits, 4), 17)}g} ± {error:.1g}"


def _format(number, edges=()):
    """A number in as many digits as show on which side of the edges it lies, at least four."""
    if isinstance(number, bool):
        return ("no", "yes")[number]
    sides = lambda x: [(x > edge) - (x < edge) for edge in edges]
    texts = (f"{number:.{digits}g}" for digits in range(4, 17))
    return next((text for text in texts if sides(float(text)) == sides(number)), repr(number))


def text_table(rows: list[dict]) -> str:
    """The rows of `judge` for a terminal."""
    header = ["claim", "target", "measured", "null or rival", "ours", "verdict", ""]
    keys = ("id", "target", "measured", "null", "ours", "verdict", "note")
    return tabulate([[row[key] for key in keys] for row in rows], header, "plain", disable_numparse=True)


def papers_and_ours(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """The papers' claims (or rows), and our own beyond the papers."""
    return [row for row in rows if row["paper"] != OWN], [row for row in rows if row["paper"] == OWN]


def _summary(rows):
    """'39 of 46 measured: 32 hold (9 of them by the null too), 7 do not reproduce'."""
    verdicts = [row["verdict"].partition(" (")[0] for row in rows]
    counts = {verdict: verdicts.count(verdict) for verdict in PLURAL if verdict in verdicts}
    by_null = sum(row["verdict"].startswith("holds") and row["null_meets"] for row in rows)
    words = {verdict: f"{n} {PLURAL[verdict] if n > 1 else verdict}" for verdict, n in counts.items()}
    if by_null:
        words["holds"] += f" ({by_null} of them by the null too)"
    return f"{sum(counts.values())} of {len(rows)} measured" + (f": {', '.join(words.values())}" if words else "")


def one_line(rows: list[dict]) -> str:
    """The verdicts of all claims in one line."""
    papers, ours = papers_and_ours(rows)
    return f"claims of the papers, {_summary(papers)}" + (f"; of our own, {_summary(ours)}" if ours else "")


def verify(folder: Path | None = None) -> tuple[str, bool]:
    """(the table of all claims and what is wrong, whether nothing is) of a results folder, by default the repository's.

    A finished claim that fails without an explanation is wrong, and so is a number that is missing or not current.
    """
    records = current_records(folder)
    rows = [judge(claim, records) for claim in load_claims()]
    papers, ours = papers_and_ours(rows)
    parts = [text_table(papers)] + (["", OWN, "", text_table(ours)] if ours else [])
    explained = [row for row in rows if row["explanation"] and row["verdict"] in ("does not reproduce", "fails")]
    for row in explained:
        parts += ["", f"{row['id']} {row['verdict']}: {row['explanation']}"]
    parts += ["", one_line(rows)]
    good = True
    for verdict, words in WRONG.items():
        if ids := [row["id"] for row in rows if row["verdict"] == verdict and row not in explained]:
            parts.append(words.format(", ".join(ids)))
            good = False
    return "\n".join(parts), good
