"""New results beside the committed records, number by number: the end of `make figures`, and `make compare`.

Each number may differ as its record says (`rpa.companion.report.VARIES`): by its tolerance, or by six standard errors
where it is estimated. The judgement goes to comparison.csv and comparison.html of the new results, with both figures
side by side.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rpa import _files
from rpa._files import ROOT
from rpa.companion.provenance import code_version
from rpa.companion.report import TOLERANCES
from rpa.companion.verdicts import judge, load_claims

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "circumstances", "claims_table", "compare", "compare_numbers", "flatten", "read_results"]

ERRORS = 6.0  # standard errors of the difference by which an estimate may differ
SAMPLED = ("statistical", "gap", "retrained")
COLUMNS = ["stem", "id", "key", "committed", "yours", "varies", "distance", "limit", "judgement"]


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


def flatten(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """(place, number) of every number in a record's value: "", "[3]", "mean_slope[0]" ..."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flatten(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from flatten(item, f"{key}[{i}]")
    else:
        yield key, value  # type: ignore[misc]


def compare_numbers(committed: dict[str, dict], rerun: dict[str, dict]) -> pd.DataFrame:
    """Every committed number beside the new one, a row each, with the columns of COLUMNS.

    distance: |yours - committed| in tolerances (exact, deterministic: of max(1, |committed|)), or in standard errors of
    the difference (the others); limit: 1 or 6; judgement: agrees, off, missing (in the new results) or new (not
    committed). Stems of different profiles are left out: their numbers are no estimates of one thing.
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
    entry = old or new
    varies = entry.get("varies", "deterministic")
    limit = ERRORS if varies in SAMPLED else 1.0
    before, after = (dict(flatten(each["value"])) if each else {} for each in (old, new))
    scales = [_scales(each, varies) if each else {} for each in (old, new)]
    for key in [*before, *(key for key in after if key not in before)]:
        a, b = before.get(key), after.get(key)
        if a is None or b is None:
            yield key, a, b, varies, math.nan, limit, "missing" if b is None else "new"
            continue
        distance = _distance(a, b, [scale[key] for scale in scales])
        yield key, a, b, varies, distance, limit, "agrees" if distance <= limit else "off"


def _distance(a, b, scales):
    if a == b:
        return 0.0
    scale = math.hypot(*scales)
    return abs(b - a) / scale if scale > 0 else math.inf


def _scales(entry, varies):
    """{key: tolerance or standard error} of a record."""
    values = dict(flatten(entry["value"]))
    stated = entry.get("tolerance", entry.get("error", TOLERANCES.get(varies, 0.0)))
    stated = dict(flatten(stated))
    whole = stated.get("") if set(stated) == {""} else None
    scales = {key: whole if whole is not None else stated.get(key, 0.0) for key in values}
    if varies in SAMPLED:
        return scales
    # Two tolerances that are added in quadrature must give one.
    return {key: scale * max(1.0, abs(values[key])) / math.sqrt(2) for key, scale in scales.items()}


def circumstances(committed: dict[str, dict], rerun: dict[str, dict]) -> list[str]:
    """Differences in notebooks, records, code, data, profile and packages, a line each."""
    lines = []
    for stem in sorted(set(committed) | set(rerun)):
        old, new = committed.get(stem), rerun.get(stem)
        if old is None or new is None:
            lines.append(f"{stem}: no records {'in the new results' if new is None else 'committed'}")
            continue
        for name, content in (("committed", old), ("new", new)):
            if content["code"] != code_version(stem):
                lines.append(
                    f"{stem}: the {name} records are from other code ({content['code']}, now {code_version(stem)})"
                )
        if old["profile"] != new["profile"]:
            lines.append(f"{stem}: profile {new['profile']} cannot be compared with the committed {old['profile']}")
            continue
        missing = sorted(set(old["records"]) - set(new["records"]))
        lines += [f"{stem}: record {id} is missing in the new results" for id in missing]
        data = [{k: v for r in each["records"].values() for k, v in r.get("data", {}).items()} for each in (old, new)]
        lines += [f"{stem}: {name} was {digest[:12]}, is {str(data[1].get(name, 'absent'))[:12]}"
                  for name, digest in data[0].items() if data[1].get(name) != digest]  # fmt: skip
    packages = {(name, content["packages"].get(name), version) for stem, content in committed.items() if stem in rerun
                for name, version in rerun[stem]["packages"].items()}  # fmt: skip
    return lines + [f"{name}: {old}, now {new}" for name, old, new in sorted(packages, key=str) if old != new]


def claims_table(
    committed: dict[str, dict], rerun: dict[str, dict], numbers: pd.DataFrame, claims: list[dict] | None = None
) -> pd.DataFrame:
    """One row a claim: claim, committed, yours, distance (its largest), verdict then, verdict now."""
    import pandas as pd

    rows = []
    for claim in load_claims() if claims is None else claims:
        then, now = (judge(claim, _records(each)) for each in (committed, rerun))
        part = numbers[(numbers.stem == claim["stem"]) & (numbers.id == claim["id"])]
        distance = part.distance.max() if len(part) else math.nan
        rows.append([claim["id"], then["ours"], now["ours"], distance, then["verdict"], now["verdict"]])
    return pd.DataFrame(rows, columns=["claim", "committed", "yours", "distance", "verdict then", "verdict now"])


def _records(contents):
    return {(stem, id): entry | {"profile": content["profile"], "code": content["code"]}
            for stem, content in contents.items() for id, entry in content["records"].items()}  # fmt: skip


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>New results beside the committed ones</title>
<style>body {{font: 14px sans-serif; margin: 2em; max-width: 1200px}} table {{border-collapse: collapse}}
td, th {{padding: 2px 8px; text-align: left; border-bottom: 1px solid #ddd}} img {{width: 48%}}</style>
<h1>New results beside the committed ones</h1><p>{summary}</p><h2>Claims</h2>{claims}<h2>Numbers that are off</h2>{off}
<h2>Circumstances</h2><ul>{lines}</ul><h2>Figures: committed, new</h2>{figures}</html>
"""


def _page(summary, claims, off, lines, rerun_folder):
    show = lambda frame: frame.to_html(index=False, na_rep="", float_format=lambda x: f"{x:.4g}")
    figures = []
    for path in sorted((rerun_folder / "figures").glob("*.png")):
        committed = os.path.relpath(ROOT / "figures" / path.name, rerun_folder)
        figures.append(
            f'<h3>{path.stem}</h3><img src="{committed}" alt="committed"><img src="figures/{path.name}" alt="new">'
        )
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return PAGE.format(summary=summary, claims=show(claims), off=show(off), lines=items, figures="".join(figures))


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
    numbers = compare_numbers(committed, new)
    claims, lines = claims_table(committed, new, numbers), circumstances(committed, new)
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
