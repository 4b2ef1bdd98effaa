"""New results beside the committed records, number by number: the end of `make figures`, `make compare`, `make claim`.

Each number may differ as its record says (`rpa.companion.report.VARIES`): by its tolerance, or by six standard errors
where it is estimated.
"""

from __future__ import annotations

import html
import json
import math
import os
from pathlib import Path

import pandas as pd

from rpa._files import ROOT
from rpa.companion.report import TOLERANCES, flatten, load_records, read_results
from rpa.companion.verdicts import judge, load_claims, text_table

ERRORS = 6.0  # standard errors of the difference by which an estimate may differ
SAMPLED = ("statistical", "gap", "retrained")
COLUMNS = ["stem", "id", "key", "committed", "yours", "varies", "distance", "limit", "judgement"]


def compare(rerun: Path, results: Path | None = None) -> tuple[str, str, bool]:
    """The results in the folder `rerun` beside the committed ones (`results`, by default the repository's).

    Returns (one line, the numbers that are off with the verdicts that changed and the circumstances, whether no number
    is off or missing). Writes comparison.csv and, with both figures side by side, comparison.html into `rerun`. Raises
    FileNotFoundError where it holds no records.
    """
    committed, new = read_results(results), read_results(rerun / "data" / "results")
    if not new:
        raise FileNotFoundError(f"{rerun}: no records there; run make figures first")
    numbers = compare_numbers(committed, new)
    before, after = load_records(results), load_records(rerun / "data" / "results")
    rows = [(judge(claim, before), judge(claim, after)) for claim in load_claims()]
    lines = [f"{now['id']}: {then['verdict']} ({then['measured']}), now {now['verdict']} ({now['measured']})"
             for then, now in rows if then["verdict"] != now["verdict"]]  # fmt: skip
    lines += _circumstances(committed, new)
    absent = sorted(set(committed) - set(new))
    here = numbers[~numbers.stem.isin(absent)]
    bad = here[here.judgement.isin(["off", "missing"])]
    summary = f"{int((here.judgement == 'agrees').sum()):,} of {len(here):,} numbers agree with the committed ones"
    if len(bad):
        summary += f", {len(bad)} are off or missing"
    if len(here) == 0:
        summary = "no number can be compared: these results have another profile than the committed ones"
    if absent:
        summary += f"; {len(absent)} notebooks have no new results"
    shown = [bad.to_string(index=False, na_rep="", max_colwidth=60)] if len(bad) else []
    numbers.to_csv(rerun / "comparison.csv", index=False)
    (rerun / "comparison.html").write_text(_page(summary, bad, lines, rerun))
    return summary, "\n".join([*shown, *lines]), not (len(bad) or absent)


def compare_numbers(committed: dict[str, dict], rerun: dict[str, dict]) -> pd.DataFrame:
    """Every committed number beside the new one, a row each, with the columns of COLUMNS.

    key: the place in the record's value, after "null" or "ours" for a number of these
    distance: |yours - committed| in tolerances (exact, deterministic: of max(1, |committed|)), or in standard errors of
        the difference (the others); limit: 1 or 6
    judgement: agrees, off, missing (in the new results) or new (not committed)

    Stems of different profiles are left out: their numbers are no estimates of the same quantity.
    """
    rows = []
    for stem in sorted(set(committed) | set(rerun)):
        theirs, ours = committed.get(stem), rerun.get(stem)
        if theirs and ours and theirs["profile"] != ours["profile"]:
            continue
        old, new = theirs["records"] if theirs else {}, ours["records"] if ours else {}
        for id in sorted(set(old) | set(new)):
            rows += [[stem, id, *row] for row in _compare_record(old.get(id, {}), new.get(id, {}))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _compare_record(old, new):
    """Rows (key, committed, yours, varies, distance, limit, judgement) of one record, {} where there is none."""
    varies = (old or new).get("varies", "deterministic")
    limit = ERRORS if varies in SAMPLED else 1.0
    before, after = (_scaled_numbers(entry, varies) for entry in (old, new))
    for key in before | after:
        (a, scale), (b, new_scale) = before.get(key, (math.nan, 0)), after.get(key, (math.nan, 0))
        scale = math.hypot(scale, new_scale)
        distance = 0.0 if a == b else abs(b - a) / (scale or math.ulp(0.0))
        judgement = "missing" if key not in after else "new" if key not in before else "off"
        yield key, a, b, varies, distance, limit, "agrees" if distance <= limit else judgement


def _scaled_numbers(entry, varies):
    """{key: (number, its tolerance or standard error)} of a record: of its value, its null and ours."""
    scales = dict(flatten(entry.get("tolerance", entry.get("error", TOLERANCES.get(varies, 0.0)))))
    numbers = {}
    for name in ("value", "null", "ours"):
        for place, number in flatten(entry[name]) if name in entry else ():
            scale = scales.get("", scales.get(place, 0.0))
            if varies not in SAMPLED:  # two tolerances that are added in quadrature must give one
                scale *= max(1.0, abs(number)) / math.sqrt(2)
            numbers[place if name == "value" else name + place] = (number, scale)
    return numbers


def _circumstances(committed, rerun):
    """Differences in notebooks, profile, code, packages and data, a line each."""
    lines = [f"{stem}: no records in the new results" for stem in sorted(set(committed) - set(rerun))]
    lines += [f"{stem}: no records committed" for stem in sorted(set(rerun) - set(committed))]
    differing: dict[str, list] = {}
    for stem in sorted(set(committed) & set(rerun)):
        old, new = _header(committed[stem]), _header(rerun[stem])
        for key in sorted(old | new):
            was, now = (str(each.get(key, "absent"))[:12] for each in (old, new))
            if was != now:
                differing.setdefault(f"{key}: committed {was}, now {now}", []).append(stem)
    return lines + [f"{line} ({', '.join(stems)})" for line, stems in differing.items()]


def _header(content):
    data = {name: digest for entry in content["records"].values() for name, digest in entry.get("data", {}).items()}
    return {"profile": content["profile"], "code": content["code"]} | content["packages"] | data


STYLE = """body {font: 14px sans-serif; margin: 2em} table {border-collapse: collapse} img {width: 48%}
td, th {padding: 2px 8px; text-align: left; border-bottom: 1px solid #ddd}"""


def _page(summary, off, lines, rerun):
    """comparison.html: what is off, and the committed figures on the left of the new ones."""
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{summary}</title><style>{STYLE}</style>']
    parts += [f"<h1>New results beside the committed ones</h1><p>{summary}</p>"]
    parts += [off.to_html(index=False, na_rep="", float_format="{:.4g}".format)]
    parts += [f"<p>{html.escape(line)}</p>" for line in lines]
    for path in sorted((rerun / "figures").glob("*.png")):
        committed = os.path.relpath(ROOT / "figures" / path.name, rerun)
        parts.append(f'<h3>{path.stem}</h3><img src="{committed}"><img src="figures/{path.name}">')
    return "\n".join(parts)


def evidence(claim: dict, folder: Path) -> tuple[str, bool]:
    """(what is known of a claim of `load_claims`, whether it holds and its numbers agree); folder: build/<profile>.

    Its row and record as committed and as made here, the cell and the figure behind them. Numbers of another profile
    than the committed ones are not compared.
    """
    stem, id = claim["stem"], claim["id"]
    executed, figure = folder / f"{stem}.ipynb", folder / "figures" / f"{stem}.png"
    records = {name: load_records(base / "data" / "results") for name, base in (("committed", ROOT), ("yours", folder))}
    rows = [judge(claim, each) | {"id": name} for name, each in records.items()]
    parts = [f"{claim['paper']}, {claim['where']}: {claim['statement']}", "", text_table(rows)]
    entries = {name: each.get((stem, id), {}) for name, each in records.items()}
    parts += ["", *(f"{name}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in entries.items())]
    parts += ["", f"notebook: {os.path.relpath(executed)}; figure: {os.path.relpath(figure)}"]
    if cell := entries["yours"].get("cell"):
        sources = {c.get("execution_count"): c["source"] for c in json.loads(executed.read_text())["cells"]}
        parts += [f"recorded by cell [{cell}]:", "", "".join(sources[cell])]
    old, new = entries.values()
    comparable = old.get("profile") == new.get("profile")
    agrees = not comparable or all(row[-1] in ("agrees", "new") for row in _compare_record(old, new))
    return "\n".join(parts), agrees and rows[1]["verdict"] not in ("fails", "no record")
