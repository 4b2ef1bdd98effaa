"""The report: a static site of the executed notebooks, the verdicts and the API, `python -m rpa.companion.site`.

Sphinx with MyST-NB writes build/report/index.html. It can be opened as a file and asks no other host for anything:
formulas are MathML, made here, and the search index is part of the site. Nothing is executed: what is shown is what
`make figures` (or `make quick`) left, and a notebook that has not been run is left out and named.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from rpa._files import ROOT
from rpa.companion.report import load_records
from rpa.companion.verdicts import apart, judge, load_claims, summary

__all__ = ["build", "main", "sources"]

ROOMS = ("polytopes", "patterns", "moments", "reliability", "subjects", "companion")
CLAIM_COLUMNS = ("paper", "where", "claim", "target", "ours", "measured on", "verdict")
SETTINGS = {
    "project": "ReLU networks as random functions",
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "rpa.companion.site"],
    "html_title": "ReLU networks as random functions",
    "html_theme": "furo",
    "html_math_renderer": "mathml",
    "html_show_search_summary": False,  # needs a server
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_css_files": ["site.css"],
    "html_static_path": ["_static"],
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},  # widgets need a kernel; their scripts would come from another host
    "myst_enable_extensions": ["dollarmath", "amsmath", "html_image"],
    "myst_dmath_double_inline": True,
    "myst_heading_anchors": 3,
    "default_role": "code",
    "autodoc_typehints": "none",
    "autodoc_member_order": "bysource",
    "suppress_warnings": ["mystnb.unknown_mime_type", "misc.highlighting_failure"],
}
STYLE = """.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 1.5rem; }
.gallery figure { margin: 0; } .gallery img { background: white; width: 100%; }
table.claims { font-size: 0.85em; } table.claims td { padding: 0.2rem 0.5rem; vertical-align: top; }
table.claims td:nth-child(3) { min-width: 18rem; } .verdict-holds { color: #1b7f3b; }
.verdict-does-not-reproduce, .verdict-fails { color: #c8322b; font-weight: bold; }
"""
INDEX = """# {project}

Executed notebooks of the {profile} profile. The papers' claims beside our numbers: [{verdicts}](claims).
{missing}

```{{raw}} html
<div class="gallery">{gallery}</div>
```

```{{toctree}}
:hidden:
:caption: Results

claims
time
data
```

```{{toctree}}
:hidden:
:caption: Notebooks
:glob:

notebooks/*
```

```{{toctree}}
:hidden:
:caption: Reference

{api}
```
"""


def build(profile: str = "full", out: str | Path | None = None, base: str | Path | None = None) -> Path:
    """Write the site of a profile's results and return its index.html; out: a folder (default: build/report).

    base: a folder that holds executed notebooks, figures and data/results (default: where Make puts the profile's).
    Raises FileNotFoundError naming the make target when no notebook of the profile has been run.
    """
    from sphinx.application import Sphinx

    out = Path(out or ROOT / "build" / "report").resolve()
    source = out.with_name(f"{out.name}-source")
    executed = Path(base or ROOT / "build" / profile)
    sources(profile, executed, Path(base or (ROOT if profile == "full" else executed)), source)
    shutil.rmtree(out, ignore_errors=True)
    with_cache = source / ".doctrees"
    Sphinx(source, None, out, with_cache, "html", confoverrides=dict(SETTINGS), status=None, freshenv=True).build()
    return out / "index.html"


def sources(profile: str, executed: Path, results: Path, folder: Path) -> None:
    """Write into `folder` what Sphinx reads: executed notebooks, and pages made of figures and records (`results`)."""
    run = {path.stem: path for path in sorted(executed.glob("[0-9]*.ipynb")) if path.stat().st_size > 0}
    if not run:
        target = "quick" if profile == "quick" else "figures"
        raise FileNotFoundError(f"{executed}: no executed notebooks; run make {target}")
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("notebooks", "_static/figures", "api"):
        (folder / part).mkdir(parents=True)
    (folder / "_static" / "site.css").write_text(STYLE)
    notebooks = {stem: json.loads(path.read_text()) for stem, path in run.items()}
    for stem, notebook in notebooks.items():
        (folder / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(_with_anchors(notebook)))
    figures = [path for path in sorted((results / "figures").glob("[0-9]*.png")) if path.stem in run]
    for path in figures:
        shutil.copy(path, folder / "_static" / "figures")
    records = load_records(results / "data" / "results")
    api = [f"api/{room}" for room in ("rpa", *ROOMS)]
    absent = sorted({path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} - set(run))
    pages = {"claims": _claims(records), "time": _times(results), "data": _data(records)}
    pages |= {name: _api(name.removeprefix("api/")) for name in api}
    pages["index"] = INDEX.format(
        project=SETTINGS["project"],
        profile=profile,
        verdicts=summary(_rows(records)),
        missing=f"Not run: {', '.join(absent)}." if absent else "",
        gallery="".join(_picture(path.stem, notebooks[path.stem]) for path in figures),
        api="\n".join(api),
    )
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)


def _with_anchors(notebook):
    """The notebook with an anchor, cell-N, before the code cell that ran as In[N]."""
    cells = []
    for cell in notebook["cells"]:
        number = cell.get("execution_count")
        if number:
            cells.append(
                {"cell_type": "markdown", "id": f"a{number}", "metadata": {}, "source": f'<a id="cell-{number}"></a>'}
            )
        cells.append(cell)
    return notebook | {"cells": cells}


def _picture(stem, notebook):
    title, page = "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# "), f"notebooks/{stem}.html"
    image = f'<a href="{page}"><img src="_static/figures/{stem}.png" alt="{title}"></a>'
    return f'<figure>{image}<figcaption><a href="{page}">{title}</a></figcaption></figure>'


def _rows(records):
    return [judge(claim, records) for claim in load_claims()]


def _claims(records):
    papers, own = (_claim_rows(rows, records) for rows in apart(_rows(records)))
    reasons = [f"- {c['paper']}, {c['where']}: {c['explanation']}" for c in load_claims() if "explanation" in c]
    lines = [
        "# What the papers claim, and what we find",
        "",
        "Each verdict leads to the cell that records the number.",
        "",
    ]
    lines += [_table(CLAIM_COLUMNS, papers), "", "## Beyond the papers", "", _table(CLAIM_COLUMNS, own), ""]
    return "\n".join([*lines, "## Why a claim may not reproduce", "", *reasons])


def _claim_rows(claims, records):
    rows = []
    for row in claims:
        cell = records.get((row["stem"], row["id"]), {}).get("cell")
        link = f"notebooks/{row['stem']}.html" + (f"#cell-{cell}" if cell else "")
        kind = row["verdict"].partition(" (")[0].replace(" ", "-")
        verdict = f'<a class="verdict-{kind}" href="{link}">{row["verdict"]}</a> {row["note"]}'
        rows.append([row["paper"], row["where"], row["statement"], row["target"], row["ours"], row["on"], verdict])
    return rows


def _times(base):
    rows, machines = [], set()
    for path in sorted((base / "data" / "results" / "timings").glob("*.json")):
        taken = json.loads(path.read_text()).get("notebook")
        if taken:
            machine = taken["machine"]
            machines.add(f"{machine['processor']}, {machine['cores']} cores, {machine['system']}")
            rows.append([f'<a href="notebooks/{path.stem}.html">{path.stem}</a>', f"{taken['seconds']:.0f}"])
    where = "; ".join(sorted(machines)) or "no machine recorded"
    return f"# How long each notebook takes\n\nOne thread each, on {where}; notebooks ran side by side.\n\n" + _table(
        ("notebook", "seconds"), rows
    )


def _data(records):
    used: dict = {}
    for (stem, _), entry in records.items():
        for name, digest in entry.get("data", {}).items():
            used.setdefault((name, str(digest)), set()).add(stem[:2])
    rows = [
        [name, f"<code>{digest[:16]}</code>", ", ".join(sorted(stems))]
        for (name, digest), stems in sorted(used.items())
    ]
    prose = (ROOT / "data" / "README.md").read_text().replace("\n# ", "\n## ")
    return f"{prose}\n\n## What the records were made from\n\n" + _table(("data", "SHA-256", "notebooks"), rows)


def _api(room):
    package = "rpa" if room == "rpa" else f"rpa.{room}"
    path = ROOT.joinpath(*package.split("."))
    modules = [info.name for info in pkgutil.iter_modules([str(path)]) if not (info.ispkg or info.name.startswith("_"))]
    directives = [f"```{{eval-rst}}\n.. automodule:: {package}\n```"]
    for module in modules:
        directives += [f"## {module}", f"```{{eval-rst}}\n.. automodule:: {package}.{module}\n   :members:\n```"]
    return "\n\n".join([f"# {package}", *directives])


def _table(columns, rows):
    """A table of HTML, whose cells may hold links."""
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = "claims" if columns == CLAIM_COLUMNS else "plain"
    return f'```{{raw}} html\n<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>\n```'


def setup(app: Any) -> dict:
    """Teach Sphinx our formulas and our docstrings, which are plain words and not reStructuredText."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("autodoc-process-docstring", _plain_words)
    return {"parallel_read_safe": True}


def _inline(translator, node):
    _formula(translator, node, "inline")


def _block(translator, node):
    _formula(translator, node, "block")


def _formula(translator, node, display):
    from docutils.nodes import SkipNode
    from latex2mathml.converter import convert

    translator.body.append(convert(node.astext(), display=display))
    raise SkipNode


def _plain_words(app, what, name, thing, options, lines):
    """Escape what reStructuredText would take for markup, but not in `code`, examples and indented formulas."""
    written, literal = [], False
    for before, line in zip(["", *lines], lines):
        if line.strip() and not before.strip():
            literal = line.startswith((" ", ">>>"))
            written += ["::", ""] if line.startswith(" ") else []
        written.append(line if literal else _escaped(line))
    lines[:] = written


def _escaped(line):
    parts = re.split(r"(`[^`]*`)", line)
    text = "".join(part if part[:1] == "`" else re.sub(r"([\\*|_])", r"\\\1", part) for part in parts)
    return re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", text)  # a plural behind code: `Plan`s


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rpa.companion.site", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=("full", "quick"), default="full")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        print(build(chosen.profile, chosen.out))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
