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
from rpa._files import ROOT

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
    modules = _modules()
    cells = code_cells(path) if path.exists() else []
    names = _reached(cells, modules) if cells else modules
    digest = sha256()
    for name in sorted(names):
        digest.update(f"{name}\0{_essence(modules[name].read_text())}\0".encode())
    for cell in cells:
        digest.update(_essence(cell).encode() + b"\0")
    return digest.hexdigest()[:12]


@cache
def _essence(source):
    """What Python runs of a source, as text that is the same in every version of Python."""
    return _written(parsed(source))


def _written(node):
    if isinstance(node, list):
        return f"[{','.join(map(_written, (item for item in node if not _is_prose(item))))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (f"{name}={_written(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{type(node).__name__}({','.join(fields)})"


def _is_prose(node):
    """A docstring, or any other string that nobody uses."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def input_version() -> str:
    """12 hex digits of the SHA-256 over what notebooks read beside their code: weights, references, style, data sets.

    The data sets count by the list of what `make data` found, build/data.txt.
    """
    files = [path for name in ("weights", "references") for path in sorted((ROOT / "data" / name).glob("*"))]
    digest = sha256()
    for path in [*files, ROOT / "figures" / "rpa.mplstyle", _files.build("data.txt")]:
        digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return digest.hexdigest()[:12]


@cache
def package_versions() -> dict[str, str]:
    """{"python": ..., package: version} of what numbers depend on, without the local tag (+cpu) of a wheel."""
    versions = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **versions}


@cache
def parameters(notebook: str | Path) -> dict[str, tuple[object, str]]:
    """{name: (default, comment)} of a notebook's cell tagged `parameters`, but for its profile; notebook: a path."""
    listed = papermill().inspect_notebook(str(notebook)).values()
    return {p["name"]: (ast.literal_eval(p["default"]), p["help"]) for p in listed if p["name"] != "profile"}


def papermill() -> Any:
    """The module papermill, without a grammar of web addresses that takes two thirds of its import."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill

    return papermill


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells, in order; notebook: a path."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


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
    package = ROOT / "rpa" if (ROOT / "rpa").is_dir() else _files.PACKAGE
    paths = sorted(p for p in package.rglob("*.py") if p.name != "__init__.py")
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in paths}


def _front_door():
    """{"two_stage": "moments.two_stage", ...}: the module behind each name that `rpa` itself offers."""
    stub = ROOT / "rpa" / "__init__.pyi"
    imports = ast.parse(stub.read_text() if stub.exists() else "").body
    return {alias.name: node.module for node in imports if getattr(node, "module", None) for alias in node.names}


def _reached(sources, modules):
    """Names of the rpa modules that Python sources use, directly or through each other; modules: name -> path."""
    reached, pending, front_door = set(), list(sources), _front_door()
    while pending:
        fresh = {module for name in _used(pending.pop()) for module in _resolve(name, modules, front_door)} - reached
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


def _resolve(name, modules, front_door):
    """The modules that "moments.relu.mean", "two_stage" or "moments" (a room taken whole) lead to."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        if ".".join(parts[:k]) in modules:
            return [".".join(parts[:k])]
    if parts[0] in front_door:
        return [front_door[parts[0]]]
    return [module for module in modules if len(parts) == 1 and module.startswith(f"{name}.")]
