"""Settings of the site that `make report` builds with Sphinx and MyST-NB from what a run left in build/.

It can be opened as a file and asks no other host for anything: formulas become MathML here, and the search index is
part of the site. Nothing is executed.
"""

import re

project = html_title = "ReLU networks as random functions"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_math_renderer = "mathml"
html_show_search_summary = False  # needs a server
html_copy_source = False
html_show_copyright = False
html_css_files = ["site.css"]
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}  # widgets need a kernel; their scripts would come from another host
myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "substitution"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]


def setup(app):
    """Formulas, and docstrings, which are plain words and not reStructuredText."""
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
