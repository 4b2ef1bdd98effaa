"""One claim with its evidence: its row, its records as committed and as made here, the cell and the figure behind them.

`make claim ID=p1.alg2` runs the claim's notebook first where build/full is out of date.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rpa._files import ROOT
from rpa.companion.comparison import circumstances, compare_numbers, read_results
from rpa.companion.report import load_records
from rpa.companion.verdicts import judge, text_table

__all__ = ["cell_source", "evidence"]


def cell_source(executed: Path, number: int) -> str:
    """Source of the code cell that ran as In[number] in an executed notebook; ValueError where none did."""
    for cell in json.loads(executed.read_text())["cells"]:
        if cell["cell_type"] == "code" and cell.get("execution_count") == number:
            return "".join(cell["source"])
    raise ValueError(f"number: expected that of a cell of {executed.name}, got {number}")


def evidence(claim: dict, folder: Path) -> tuple[str, bool]:
    """(the words on a claim of `load_claims`, whether it holds and its numbers agree); folder: build/<profile>."""
    committed, new = load_records(), load_records(folder / "data" / "results")
    stem, id = claim["stem"], claim["id"]
    rows = [judge(claim, records) | {"id": name} for name, records in (("committed", committed), ("yours", new))]
    parts = [f"{claim['paper']}, {claim['where']}: {claim['statement']}", "", text_table(rows)]
    for name, records in (("committed", committed), ("yours", new)):
        parts += ["", f"{name}: {json.dumps(records.get((stem, id), 'no record'), ensure_ascii=False)}"]
    entry, executed = new.get((stem, id), {}), folder / f"{stem}.ipynb"
    figure = os.path.relpath(folder / "figures" / f"{stem}.png")
    parts += ["", f"notebook: {os.path.relpath(executed)}; figure: {figure}"]
    if "cell" in entry:
        parts += [f"recorded by cell [{entry['cell']}]:", "", cell_source(executed, entry["cell"])]
    contents = [read_results(base / "data" / "results") for base in (ROOT, folder)]
    contents = [{stem: content[stem]} if stem in content else {} for content in contents]
    numbers = compare_numbers(*contents)
    off = numbers[(numbers.id == id) & numbers.judgement.isin(["off", "missing"])]
    parts += ["", *circumstances(*contents)]
    if len(off):
        parts.append(off.to_string(index=False))
    return "\n".join(parts), len(off) == 0 and rows[1]["verdict"] not in ("fails", "no record")
