"""The report: a static site of the executed notebooks, the verdicts and the API, `make report`.

Sphinx writes build/report/index.html from docs/ (settings, style and front page) and from pages made here of what
`make figures` (or `make quick`) left. A notebook that has not been run is left out and named.
"""

from __future__ import annotations

import json
import pkgutil
import shutil
from pathlib import Path

from rpa import _files
from rpa._files import ROOT, in_checkout
from rpa.companion.provenance import notebooks
from rpa.companion.verdicts import apart, current_records, judge, load_claims, summary

__all__ = ["build", "sources"]


def build(profile: str = "full", out: str | Path | None = None, base: str | Path | None = None) -> Path:
    """Write the site of a profile's results and return its index.html; out: a folder (default: build/report).

    base: a folder that holds executed notebooks, figures and data/results (default: build/<profile>).
    Raises FileNotFoundError naming the make target when no notebook of the profile has been run.
    """
    from sphinx.application import Sphinx

    out = Path(out or _files.build("report")).resolve()
    source = out.with_name(f"{out.name}-source")
    words = sources(profile, Path(base or _files.build(profile)), source)
    shutil.rmtree(out, ignore_errors=True)
    settings = {"myst_substitutions": words, "html_static_path": [str(source / "_static")]}
    conf, doctrees = in_checkout("docs"), source / ".doctrees"
    Sphinx(source, conf, out, doctrees, "html", confoverrides=settings, status=None, freshenv=True).build()
    return out / "index.html"


def sources(profile: str, results: Path, folder: Path) -> dict[str, str]:
    """Write into `folder` what Sphinx reads of the results; the words of the front page that depend on them."""
    run = {stem: results / f"{stem}.ipynb" for stem in notebooks() if (results / f"{stem}.ipynb").exists()}
    if not run:
        target = "quick" if profile == "quick" else "figures"
        raise FileNotFoundError(f"{results}: no executed notebooks; run make {target}")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("notebooks", "_static/figures", "api"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "site.css", folder / "_static")
    shutil.copy(ROOT / "docs" / "index.md", folder)
    gallery = []
    for stem, path in run.items():
        notebook = json.loads(path.read_text())
        (folder / "notebooks" / path.name).write_text(json.dumps(_with_anchors(notebook)))
        if (figure := results / "figures" / f"{stem}.png").exists():
            shutil.copy(figure, folder / "_static" / "figures")
            gallery.append(_picture(stem, notebook))
    (folder / "gallery.html").write_text(f'<div class="gallery">{"".join(gallery)}</div>')
    records = current_records(results / "data" / "results")
    rows = [judge(claim, records) for claim in load_claims()]
    rooms = ["rpa", *(f"rpa.{path.parent.name}" for path in sorted((ROOT / "rpa").glob("*/__init__.py")))]
    pages = {"claims": _claims(rows, records), "time": _times(results), "data": _data(records)}
    pages |= {f"api/{room}": _api(room) for room in rooms}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)
    absent = sorted(set(notebooks()) - set(run))
    missing = f"Not run: {', '.join(absent)}." if absent else ""
    return {"profile": profile, "verdicts": summary(rows), "missing": missing}


def _with_anchors(notebook):
    """The notebook with an anchor, cell-N, before the code cell that ran as In[N]."""
    cells = []
    for cell in notebook["cells"]:
        if number := cell.get("execution_count"):
            anchor = f'<a id="cell-{number}"></a>'
            cells.append({"cell_type": "markdown", "id": f"a{number}", "metadata": {}, "source": anchor})
        cells.append(cell)
    return notebook | {"cells": cells}


def _picture(stem, notebook):
    title, page = "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# "), f"notebooks/{stem}.html"
    image = f'<a href="{page}"><img src="_static/figures/{stem}.png" alt="{title}"></a>'
    return f'<figure>{image}<figcaption><a href="{page}">{title}</a></figcaption></figure>'


def _claims(rows, records):
    papers, own = (_table([_claim(row, records) for row in part], "claims") for part in apart(rows))
    reasons = [f"- {c['paper']}, {c['where']}: {c['explanation']}" for c in load_claims() if "explanation" in c]
    lines = [
        "# What the papers claim, and what we find",
        "Each verdict leads to the cell that records the number.",
        papers,
    ]
    return "\n\n".join([*lines, "## Beyond the papers", own, "## Why a claim may not reproduce", "\n".join(reasons)])


def _claim(row, records):
    cell = records.get((row["stem"], row["id"]), {}).get("cell")
    link = f"notebooks/{row['stem']}.html" + (f"#cell-{cell}" if cell else "")
    kind = row["verdict"].partition(" (")[0].replace(" ", "-")
    shown = {key: row[key] for key in ("paper", "where", "statement", "target", "ours")} | {"measured on": row["on"]}
    return shown | {"verdict": f'<a class="verdict-{kind}" href="{link}">{row["verdict"]}</a> {row["note"]}'}


def _times(results):
    rows, machines = [], set()
    for path in sorted((results / "data" / "results" / "timings").glob("*.json")):
        if taken := json.loads(path.read_text()).get("notebook"):
            machines.add("{processor}, {cores} cores, {system}".format(**taken["machine"]))
            link = f'<a href="notebooks/{path.stem}.html">{path.stem}</a>'
            rows.append({"notebook": link, "seconds": f"{taken['seconds']:.0f}"})
    where = "; ".join(sorted(machines)) or "no machine recorded"
    title = f"# How long each notebook takes\n\nOne thread each, on {where}; notebooks ran side by side.\n\n"
    return title + _table(rows, "plain")


def _data(records):
    used: dict = {}
    for (stem, _), entry in records.items():
        for name, digest in entry.get("data", {}).items():
            used.setdefault((name, str(digest)), set()).add(stem[:2])
    rows = [{"data": name, "SHA-256": f"<code>{digest[:16]}</code>", "notebooks": ", ".join(sorted(stems))}
            for (name, digest), stems in sorted(used.items())]  # fmt: skip
    prose = (ROOT / "data" / "README.md").read_text().replace("\n# ", "\n## ")
    return f"{prose}\n\n## What the records were made from\n\n" + _table(rows, "plain")


def _api(package):
    path = ROOT.joinpath(*package.split("."))
    modules = [info.name for info in pkgutil.iter_modules([str(path)]) if not (info.ispkg or info.name.startswith("_"))]
    parts = [f"# {package}", f"```{{eval-rst}}\n.. automodule:: {package}\n```"]
    for module in modules:
        parts += [f"## {module}", f"```{{eval-rst}}\n.. automodule:: {package}.{module}\n   :members:\n```"]
    return "\n\n".join(parts)


def _table(rows, kind):
    """A table of HTML, whose cells may hold links; rows: a dict each."""
    import pandas as pd

    html = pd.DataFrame(rows).to_html(index=False, escape=False, border=0, classes=kind)
    return f"```{{raw}} html\n{html}\n```"
