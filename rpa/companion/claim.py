"""One claim with its evidence: `python -m rpa.companion.claim p1.alg2` (without a name: the list of claims).

The claim's notebook is run into build/rerun, never over what is committed, unless it has been run there already with
the present code. Then: the claim's row, its records then and now, and the cell and the figure behind them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rpa._files import ROOT
from rpa.companion.comparison import circumstances, compare_numbers, read_results
from rpa.companion.report import load_records
from rpa.companion.run import is_current, run
from rpa.companion.verdicts import judge, load_claims, text_table

__all__ = ["cell_source", "main"]

RERUN = ROOT / "build" / "rerun"


def cell_source(executed: Path, number: int) -> str:
    """Source of the code cell that ran as In[number] in an executed notebook; ValueError where none did."""
    for cell in json.loads(executed.read_text())["cells"]:
        if cell["cell_type"] == "code" and cell.get("execution_count") == number:
            return "".join(cell["source"])
    raise ValueError(f"number: expected that of a cell of {executed.name}, got {number}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 when a number of the claim is off or the claim fails, 2 for a name that is no claim."""
    parser = argparse.ArgumentParser(prog="python -m rpa.companion.claim", description=__doc__.splitlines()[0])
    parser.add_argument("id", nargs="?")
    parser.add_argument("--profile", choices=("full", "quick"), default="full")
    chosen = parser.parse_args(arguments)
    claims, committed = load_claims(), load_records()
    claim = next((claim for claim in claims if claim["id"] == chosen.id), None)
    if claim is None:
        if chosen.id:
            print(f"no claim is named {chosen.id!r}; there are:\n", file=sys.stderr)
        print("\n".join(f"{claim['id']:32s} {claim['paper']}, {claim['where']}" for claim in claims))
        return 2 if chosen.id else 0
    stem = claim["stem"]
    if not is_current(stem, chosen.profile, RERUN):
        run(ROOT / "notebooks" / f"{stem}.ipynb", chosen.profile, RERUN)
    return _show(claim, committed, load_records(RERUN / "data" / "results"))


def _show(claim, committed, rerun):
    stem, id = claim["stem"], claim["id"]
    rows = [judge(claim, records) | {"id": name} for name, records in (("committed", committed), ("yours", rerun))]
    print(f"{claim['paper']}, {claim['where']}: {claim['statement']}\n")
    print(text_table(rows))
    for name, records in (("committed", committed), ("yours", rerun)):
        print(f"\n{name}: {json.dumps(records.get((stem, id), 'no record'), ensure_ascii=False)}")
    entry, executed = rerun.get((stem, id), {}), RERUN / f"{stem}.ipynb"
    print(f"\nnotebook: {os.path.relpath(executed)}; figure: {os.path.relpath(RERUN / 'figures' / (stem + '.png'))}")
    if "cell" in entry:
        print(f"recorded by cell [{entry['cell']}]:\n\n{cell_source(executed, entry['cell'])}")
    contents = [
        {k: v for k, v in read_results(folder / "data" / "results").items() if k == stem} for folder in (ROOT, RERUN)
    ]
    numbers = compare_numbers(*contents)
    off = numbers[(numbers.id == id) & numbers.judgement.isin(["off", "missing"])]
    print("\n".join(["", *circumstances(*contents)]))
    if len(off):
        print(off.to_string(index=False))
    return int(len(off) > 0 or rows[1]["verdict"] in ("fails", "no record"))


if __name__ == "__main__":
    sys.exit(main())
