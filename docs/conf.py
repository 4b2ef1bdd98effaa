"""The site that `make report` builds with Sphinx and MyST-NB from docs/ and from what a run left in build/<PROFILE>.

It can be opened as a file and asks no other host for anything: formulas become MathML here, and the search index is
part of the site. Nothing is executed. A notebook that has not been run is left out and named on the front page.
"""

import json
import os
import pkgutil
import re
import shutil
from pathlib import Path

from rpa import _files
from rpa._files import ROOT
from rpa.companion import results, verdicts
from rpa.companion.provenance import notebooks

PROFILE = os.environ.get("PROFILE") or "full"
RUN = _files.build(PROFILE)

project = html_title = "ReLU networks as random functions"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_math_renderer = "mathml"
html_show_search_summary = False  # needs a server
html_copy_source = False
html_show_copyright = False
html_css_files = ["site.css"]
html_js_files = ["site.js"]
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}  # widgets need a kernel; their scripts would come from another host
myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "substitution"]
myst_substitutions: dict[str, str] = {}
myst_dmath_double_inline = True
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure", "myst.xref_missing"]


def setup(app):
    """Pages, formulas, and docstrings, which are plain words and not reStructuredText."""
    app.connect("config-inited", _write_pages)
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("autodoc-process-docstring", _plain_words)
    return {"parallel_read_safe": True}


def _write_pages(app, config):
    """What Sphinx reads, into its source folder: notebooks, figures, verdicts, prose, a page for each room."""
    run = {stem: RUN / f"{stem}.ipynb" for stem in notebooks() if (RUN / f"{stem}.ipynb").exists()}
    if not run:
        raise FileNotFoundError(f"{RUN}: no executed notebooks; run make figures PROFILE={PROFILE}")
    folder = Path(app.srcdir)
    config.html_static_path = [str(folder / "_static")]
    for name in ("notebooks", "_static", "api"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    shutil.copytree(RUN / "figures", folder / "_static" / "figures")
    for name in ("site.css", "site.js"):
        shutil.copy(ROOT / "docs" / name, folder / "_static")
    for path in (ROOT / "docs").glob("*.md"):
        shutil.copy(path, folder)
    shutil.copy(results.BENCH, folder)
    pictures = []
    for stem, path in run.items():
        notebook = json.loads(path.read_text())
        (folder / "notebooks" / path.name).write_text(json.dumps(_with_anchors(notebook)))
        if (RUN / "figures" / f"{stem}.png").exists():
            pictures.append(_picture(stem, "".join(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")))
    (folder / "gallery.html").write_text(f'<div class="gallery">{"".join(pictures)}</div>')
    records = verdicts.current_records(RUN / "data" / "results")
    rows = [verdicts.judge(claim, records) for claim in verdicts.load_claims()]
    page = results.page(rows, lambda row, text: _link(row, text, records))
    (folder / "results.md").write_text(re.sub(r"\[([^]]+)\]\((?!http)[^)]+\)", r"\1", page))
    (folder / "data.md").write_text((ROOT / "data" / "README.md").read_text().replace("\n# ", "\n## "))
    for room in ("rpa", *(f"rpa.{path.parent.name}" for path in sorted((ROOT / "rpa").glob("*/__init__.py")))):
        (folder / "api" / f"{room}.md").write_text(_api(room))
    absent = ", ".join(sorted(set(notebooks()) - set(run)))
    missing = f"Not run: {absent}." if absent else ""
    config.myst_substitutions |= {"profile": PROFILE, "verdicts": verdicts.one_line(rows), "missing": missing}


def _with_anchors(notebook):
    """The notebook with an anchor, cell-N, before the code cell that ran as In[N], and without the committed figure."""
    cells = []
    title = notebook["cells"][0]
    title["source"] = re.sub(r"!\[[^]]*\]\(\.\./figures/[^)]*\)", "", "".join(title["source"]))
    for cell in notebook["cells"]:
        if number := cell.get("execution_count"):
            anchor = f'<a id="cell-{number}"></a>'
            cells.append({"cell_type": "markdown", "id": f"a{number}", "metadata": {}, "source": anchor})
        cells.append(cell)
    return notebook | {"cells": cells}


def _picture(stem, title):
    page = f"notebooks/{stem}.html"
    image = f'<a href="{page}"><img src="_static/figures/{stem}.png" alt="{title}"></a>'
    return f'<figure>{image}<figcaption><a href="{page}">{title}</a></figcaption></figure>'


def _link(row, text, records):
    """The text as a link to the cell that recorded the number; alone where the notebook has not been run."""
    if not (RUN / f"{row['stem']}.ipynb").exists():
        return text
    cell = records.get((row["stem"], row["id"]), {}).get("cell")
    return f'<a href="notebooks/{row["stem"]}.html{f"#cell-{cell}" if cell else ""}">{text}</a>'


def _api(package):
    path = ROOT.joinpath(*package.split("."))
    modules = [info.name for info in pkgutil.iter_modules([str(path)]) if not (info.ispkg or info.name.startswith("_"))]
    parts = [f"# {package}", f"```{{eval-rst}}\n.. automodule:: {package}\n```"]
    for module in modules:
        parts += [f"## {module}", f"```{{eval-rst}}\n.. automodule:: {package}.{module}\n   :members:\n```"]
    return "\n\n".join(parts)


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
        written.append(line if literal else _escaped(line.strip()))
    lines[:] = written


def _escaped(line):
    parts = re.split(r"(`[^`]*`)", line)
    text = "".join(part if part[:1] == "`" else re.sub(r"([\\*|_])", r"\\\1", part) for part in parts)
    return re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", text)  # a plural behind code: `Plan`s
