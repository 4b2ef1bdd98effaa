"""New results beside the committed records, number by number: the end of `make figures`, `make compare`, `make claim`.

Each number may differ as its record says (`rpa.companion.report.VARIES`): by its tolerance, or by six standard errors
where it is estimated. The judgement goes to comparison.csv and comparison.html of the new results, with both figures
side by side.
"""

from __future__ import annotations

import html
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rpa import _files
from rpa._files import ROOT
from rpa.companion.provenance import code_version
from rpa.companion.report import TOLERANCES, flatten, load_records
from rpa.companion.verdicts import judge, load_claims, text_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "circumstances", "compare", "compare_numbers", "evidence", "read_results"]

ERRORS = 6.0  # standard errors of the difference by which an estimate may differ
SAMPLED = ("statistical", "gap", "retrained")
COLUMNS = ["stem", "id", "key", "committed", "yours", "varies", "distance", "limit", "judgement"]


class Comparison(NamedTuple):
    """summary: one line; details: claims, numbers that are off, circumstances; agrees: none is off or missing."""

    summary: str
    details: str
    agrees: bool


def compare(rerun: Path, results: Path | None = None) -> Comparison:
    """The results in the folder `rerun` beside the committed ones (`results`, by default the repository's).

    Writes comparison.csv and comparison.html into `rerun`. Raises FileNotFoundError where it holds no records.
    """
    committed, new = read_results(results or ROOT / "data" / "results"), read_results(rerun / "data" / "results")
    if not new:
        raise FileNotFoundError(f"{rerun}: no records there; run make figures first")
    numbers, lines = compare_numbers(committed, new), circumstances(committed, new)
    claims = _claims_table(results, rerun / "data" / "results", numbers)
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
    shown = [claims.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.3g}", max_colwidth=28)]
    shown += ["", bad.to_string(index=False, na_rep="", max_colwidth=60)] if len(bad) else []
    _files.replace(rerun / "comparison.csv", lambda temporary: numbers.to_csv(temporary, index=False))
    page = _page(summary, claims, bad, lines, rerun)
    _files.replace(rerun / "comparison.html", lambda temporary: temporary.write_text(page))
    return Comparison(summary, "\n".join([*shown, "", *lines]), not (len(bad) or absent))


def read_results(folder: str | Path) -> dict[str, dict]:
    """{stem: content} of the *.json in a results folder; OSError naming the file for one that is no record file."""
    contents = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = json.loads(path.read_text())
            contents[content["stem"]] = {"profile": content["profile"], "code": content["code"], **content}
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"{path}: no record file ({error!r}); delete it and run its notebook again") from error
    return contents


def compare_numbers(committed: dict[str, dict], rerun: dict[str, dict]) -> pd.DataFrame:
    """Every committed number beside the new one, a row each, with the columns of COLUMNS.

    key: the place in the record's value, after "null" or "ours" for a number of these
    distance: |yours - committed| in tolerances (exact, deterministic: of max(1, |committed|)), or in standard errors of
        the difference (the others); limit: 1 or 6
    judgement: agrees, off, missing (in the new results) or new (not committed)

    Stems of different profiles are left out: their numbers are no estimates of the same quantity.
    """
    import pandas as pd

    rows = []
    for stem in sorted(set(committed) | set(rerun)):
        theirs, ours = committed.get(stem), rerun.get(stem)
        if theirs and ours and theirs["profile"] != ours["profile"]:
            continue
        old, new = theirs["records"] if theirs else {}, ours["records"] if ours else {}
        for id in sorted(set(old) | set(new)):
            rows += [[stem, id, *row] for row in _compare_record(old.get(id), new.get(id))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _compare_record(old, new):
    """Rows (key, committed, yours, varies, distance, limit, judgement) of one record."""
    varies = (old or new).get("varies", "deterministic")
    limit = ERRORS if varies in SAMPLED else 1.0
    before, after = (_scaled_numbers(entry or {}, varies) for entry in (old, new))
    for key in before | after:
        (a, scale), (b, new_scale) = before.get(key, (None, 0)), after.get(key, (None, 0))
        if a is None or b is None:
            yield key, a, b, varies, math.nan, limit, "missing" if b is None else "new"
            continue
        distance = _distance(a, b, math.hypot(scale, new_scale))
        yield key, a, b, varies, distance, limit, "agrees" if distance <= limit else "off"


def _distance(a, b, scale):
    if a == b:
        return 0.0
    return abs(b - a) / scale if scale > 0 else math.inf


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


def circumstances(committed: dict[str, dict], rerun: dict[str, dict]) -> list[str]:
    """Differences in notebooks, records, code, data, profile and packages, a line each."""
    lines = []
    for stem in sorted(set(committed) | set(rerun)):
        old, new = committed.get(stem), rerun.get(stem)
        if old is None or new is None:
            lines.append(f"{stem}: no records {'in the new results' if new is None else 'committed'}")
            continue
        for name, content in (("committed", old), ("new", new)):
            if content["code"] != (now := code_version(stem)):
                lines.append(f"{stem}: the {name} records are from other code ({content['code']}, now {now})")
        if old["profile"] != new["profile"]:
            lines.append(f"{stem}: profile {new['profile']} cannot be compared with the committed {old['profile']}")
            continue
        missing = sorted(set(old["records"]) - set(new["records"]))
        lines += [f"{stem}: record {id} is missing in the new results" for id in missing]
        was, now = (
            {k: v for r in each["records"].values() for k, v in r.get("data", {}).items()} for each in (old, new)
        )
        lines += [f"{stem}: {name} was {digest[:12]}, is {str(now.get(name, 'absent'))[:12]}"
                  for name, digest in was.items() if now.get(name) != digest]  # fmt: skip
    packages = {(name, content["packages"].get(name), version) for stem, content in committed.items() if stem in rerun
                for name, version in rerun[stem]["packages"].items()}  # fmt: skip
    return lines + [f"{name}: {old}, now {new}" for name, old, new in sorted(packages, key=str) if old != new]


def _claims_table(results, rerun, numbers):
    """One row a claim: claim, committed, yours, distance (its largest), verdict then, verdict now."""
    import pandas as pd

    committed, new = load_records(results), load_records(rerun)
    largest = numbers.groupby("id").distance.max()
    rows = []
    for claim in load_claims():
        then, now = judge(claim, committed), judge(claim, new)
        verdicts = then["verdict"], now["verdict"]
        rows.append([claim["id"], then["measured"], now["measured"], largest.get(claim["id"], math.nan), *verdicts])
    return pd.DataFrame(rows, columns=["claim", "committed", "yours", "distance", "verdict then", "verdict now"])


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>New results beside the committed ones</title>
<style>body {{font: 14px sans-serif; margin: 2em; max-width: 1200px}} table {{border-collapse: collapse}}
td, th {{padding: 2px 8px; text-align: left; border-bottom: 1px solid #ddd}} img {{width: 48%}}</style>
<h1>New results beside the committed ones</h1><p>{summary}</p><h2>Claims</h2>{claims}<h2>Numbers that are off</h2>{off}
<h2>Circumstances</h2><ul>{lines}</ul><h2>Figures: committed, new</h2>{figures}</html>
"""


def _page(summary, claims, off, lines, rerun):
    show = lambda frame: frame.to_html(index=False, na_rep="", float_format=lambda x: f"{x:.4g}")
    figures = []
    for path in sorted((rerun / "figures").glob("*.png")):
        pictures = {"committed": os.path.relpath(ROOT / "figures" / path.name, rerun), "new": f"figures/{path.name}"}
        images = "".join(f'<img src="{source}" alt="{name}">' for name, source in pictures.items())
        figures.append(f"<h3>{path.stem}</h3>{images}")
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return PAGE.format(summary=summary, claims=show(claims), off=show(off), lines=items, figures="".join(figures))


def evidence(claim: dict, folder: Path) -> tuple[str, bool]:
    """(what is known of a claim of `load_claims`, whether it holds and its numbers agree); folder: build/<profile>.

    Its row and record as committed and as made here, the cell and the figure behind them, and what differs.
    """
    stem, id = claim["stem"], claim["id"]
    records = {"committed": load_records(), "yours": load_records(folder / "data" / "results")}
    rows = [judge(claim, each) | {"id": name} for name, each in records.items()]
    parts = [f"{claim['paper']}, {claim['where']}: {claim['statement']}", "", text_table(rows)]
    for name, each in records.items():
        parts += ["", f"{name}: {json.dumps(each.get((stem, id), 'no record'), ensure_ascii=False)}"]
    executed, figure = folder / f"{stem}.ipynb", folder / "figures" / f"{stem}.png"
    parts += ["", f"notebook: {os.path.relpath(executed)}; figure: {os.path.relpath(figure)}"]
    if cell := records["yours"].get((stem, id), {}).get("cell"):
        sources = {c.get("execution_count"): c["source"] for c in json.loads(executed.read_text())["cells"]}
        parts += [f"recorded by cell [{cell}]:", "", "".join(sources[cell])]
    contents = [read_results(base / "data" / "results") for base in (ROOT, folder)]
    contents = [{stem: content[stem]} if stem in content else {} for content in contents]
    numbers = compare_numbers(*contents)
    off = numbers[(numbers.id == id) & numbers.judgement.isin(["off", "missing"])]
    parts += ["", *circumstances(*contents), *([off.to_string(index=False)] if len(off) else [])]
    return "\n".join(parts), len(off) == 0 and rows[1]["verdict"] not in ("fails", "no record")
