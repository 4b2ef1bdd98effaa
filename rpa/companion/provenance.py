"""What a number was made from: the code that a notebook reaches, its parameters, the data and weights, the packages.

The code version is a hash of what Python runs: of a notebook's code cells and of the modules of `rpa` that they reach.
An edit of prose, a comment or a docstring changes no version; an edit of one module changes the versions of the
notebooks that import it, directly or through others.
"""

import ast
import json
import sys
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from rpa import _files
from rpa._files import PACKAGE, ROOT

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "matplotlib")


def notebooks() -> dict[str, Path]:
    """{stem: path} of the notebooks of this checkout, by name."""
    return {path.stem: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


@cache
def code_version(notebook: str | Path) -> str:
    """12 hex digits of the SHA-256 over a notebook's code cells and the modules of `rpa` that they reach.

    notebook: a path, or the stem of a notebook of this checkout. All of rpa where there is no such notebook. Comments,
    docstrings and layout do not count.
    """
    path = Path(notebook) if str(notebook).endswith(".ipynb") else ROOT / "notebooks" / f"{notebook}.ipynb"
    cells, modules = code_cells(path) if path.exists() else [], _modules()
    names = sorted(_reached(cells, modules) if cells else modules)
    parts = [f"{name}\0{_essence(modules[name].read_text())}" for name in names]
    return sha256("\0".join([*parts, *map(_essence, cells)]).encode()).hexdigest()[:12]


@cache
def _essence(source):
    """What Python runs of a source, as text that is the same in every version of Python."""
    return _written(parsed(source))


def _written(node):
    match node:
        case ast.Expr(value=ast.Constant(value=str())):  # a docstring, or any other string that nobody uses
            return ""
        case list():
            return f"[{','.join(filter(None, map(_written, node)))}]"
        case ast.AST():
            fields = (f"{name}={_written(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
            return f"{type(node).__name__}({','.join(fields)})"
    return repr(node)


@cache
def input_version() -> str:
    """12 hex digits of the SHA-256 over what notebooks read beside their code: weights, references, style, data sets.

    The data sets count by the list of what `make data` found, build/data.txt.
    """
    files = [path for name in ("weights", "references") for path in sorted((ROOT / "data" / name).glob("[!.]*"))]
    files += [ROOT / "figures" / "rpa.mplstyle", _files.build("data.txt")]
    parts = (path.name.encode() + (path.read_bytes() if path.is_file() else b"") for path in files)
    return sha256(b"\0".join(parts)).hexdigest()[:12]


@cache
def package_versions() -> dict[str, str]:
    """{"python": ..., package: version} of what numbers depend on, without the local tag (+cpu) of a wheel."""
    versions = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **versions}


@cache
def parameters(notebook: str | Path) -> dict[str, tuple[object, str]]:
    """{name: (default, comment)} of a notebook's cell tagged `parameters`, but for its profile; notebook: a path."""
    listed = [p for p in papermill().inspect_notebook(str(notebook)).values() if p["name"] != "profile"]
    try:
        return {p["name"]: (ast.literal_eval(p["default"]), p["help"]) for p in listed}
    except (ValueError, SyntaxError) as error:
        lines = ", ".join(f"{p['name']} = {p['default']}" for p in listed)
        raise ValueError(f"{notebook}: expected parameters that are plain values, got {lines}") from error


def papermill() -> Any:
    """The module papermill, without a grammar of web addresses that takes two thirds of its import."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill

    return papermill


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells, in order; notebook: a path."""
    try:
        cells = json.loads(notebook.read_text())["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook}: no notebook ({error!r}), as after a merge with conflicts") from error


def parsed(source: str) -> ast.Module:
    """The syntax tree of a module or cell. IPython translates magics; a cell that is no Python counts as a string."""
    try:
        return ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        # Most magics of a whole cell take Python.
        body = source.partition("\n")[2] if source.startswith("%%") else source
    try:
        return ast.parse(TransformerManager().transform_cell(body))
    except SyntaxError:
        return ast.parse(f"cell = {source!r}")


def _modules():
    """{"moments.relu": path, ...}: every module of rpa but the rooms' openings, which only point at the others."""
    paths = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def _reached(sources, modules):
    """Names of the rpa modules that Python sources use, directly or through each other; modules: name -> path.

    A name leads to the module that it lies in: "moments.relu.mean", or "two_stage", which `rpa` itself offers. A room
    taken whole ("moments") leads to all of its modules.
    """
    imports = ast.parse((PACKAGE / "__init__.pyi").read_text()).body
    offered = {alias.name: node.module for node in imports if getattr(node, "module", None) for alias in node.names}
    reached, pending = set(), list(sources)
    while pending:
        names = [f"{offered.get(name.partition('.')[0], name)}." for name in _used(pending.pop())]
        leads_to = lambda module: any(f"{module}.".startswith(name) or name.startswith(f"{module}.") for name in names)
        fresh = set(filter(leads_to, modules)) - reached
        reached |= fresh
        pending += [modules[name].read_text() for name in fresh]
    return reached


@cache
def _used(source):
    """The names of rpa that a source imports or looks up, the longest of each: {"moments.relu.mean", "two_stage"}."""
    dotted = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ImportFrom):
            dotted += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            dotted.append(ast.unparse(node))
    named = {name.removeprefix("rpa.") for name in dotted if name.startswith("rpa.")}
    return {name for name in named if not any(other.startswith(f"{name}.") for other in named)}
