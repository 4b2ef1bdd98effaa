"""Which code makes a number: the modules that a notebook's cells reach, and a version of them all.

`python -m rpa.companion.provenance` tells Make the same: build/code/<stem>.py holds a notebook's code cells, rewritten
only when these change, and build/code/depends.mk says that its results depend on them and on the modules they reach. An
edit of prose cells then reruns nothing, an edit of one module what imports it.
"""

import ast
import json
import sys
from functools import lru_cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from rpa import _files
from rpa._files import ROOT

__all__ = ["code_cells", "code_version", "package_versions", "reached_modules"]

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "matplotlib")


@lru_cache
def code_version(stem: str) -> str:
    """12 hex digits of the SHA-256 over the code cells of notebooks/<stem>.ipynb and the rpa modules they reach.

    All of rpa where there is no such notebook. Not the git commit: records that are committed with the code must come
    out the same when made again.
    """
    notebook = ROOT / "notebooks" / f"{stem}.ipynb"
    modules = _modules()
    cells = code_cells(notebook) if notebook.exists() else []
    names = _reached(cells, modules, _front_door()) if cells else set(modules)
    digest = sha256()
    for text in [part for name in sorted(names) for part in (name, modules[name].read_text())] + cells:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:12]


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells, in order; notebook: a path."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def reached_modules(notebook: Path) -> list[Path]:
    """Sorted paths of the rpa modules that the cells of a notebook (a path) import, directly or through each other."""
    modules = _modules()
    return sorted(modules[name] for name in _reached(code_cells(notebook), modules, _front_door()))


@lru_cache
def package_versions() -> dict[str, str]:
    """{"python": ..., package: version} of what numbers depend on, without the local tag (+cpu) of a wheel."""
    versions = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **versions}


def _modules():
    """{"moments.relu": path, ...}: every module of rpa but the rooms' openings, which only point at the others."""
    paths = sorted(p for p in (ROOT / "rpa").rglob("*.py") if p.name != "__init__.py")
    return {".".join(path.relative_to(ROOT / "rpa").with_suffix("").parts): path for path in paths}


def _front_door():
    """{"two_stage": "moments.two_stage", ...}: the module behind each name that `rpa` itself offers."""
    stub = ROOT / "rpa" / "__init__.pyi"
    imports = ast.parse(stub.read_text() if stub.exists() else "").body
    return {alias.name: node.module for node in imports if getattr(node, "module", None) for alias in node.names}


def _reached(sources, modules, front_door):
    """Names of the rpa modules that Python sources use, directly or through each other; modules: name -> path."""
    reached, pending = set(), list(sources)
    while pending:
        named = {name for node in _running(ast.parse(pending.pop())) for name in _names(node)}
        whole = {name for name in named if not any(other.startswith(f"{name}.") for other in named)}
        fresh = {module for name in whole for module in _resolve(name, modules, front_door)} - reached
        reached |= fresh
        pending += [modules[name].read_text() for name in fresh]
    return reached


def _running(tree):
    """The nodes of a tree but those under `if TYPE_CHECKING`, which no run executes."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            pending += ast.iter_child_nodes(node)


def _names(node):
    """What an import, or an attribute such as rpa.moments.relu, asks of rpa, without the leading "rpa."."""
    if isinstance(node, ast.ImportFrom):
        dotted = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        dotted = [alias.name for alias in node.names]
    else:
        dotted = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
    return [name.removeprefix("rpa.") for name in dotted if name.startswith("rpa.")]


def _resolve(name, modules, front_door):
    """The modules that "moments.relu.mean", "two_stage" or "moments" (a room taken whole) lead to."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        if ".".join(parts[:k]) in modules:
            return [".".join(parts[:k])]
    if parts[0] in front_door:
        return [front_door[parts[0]]]
    return [module for module in modules if len(parts) == 1 and module.startswith(f"{name}.")]


def write_dependencies():
    """Write build/code/<stem>.py and build/code/depends.mk; a file whose text is right already keeps its time stamp."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    lines = ["# Written by python -m rpa.companion.provenance: what the results of each notebook depend on."]
    seen = set()
    for notebook in notebooks:
        code = f"build/code/{notebook.stem}.py"
        paths = [path.relative_to(ROOT).as_posix() for path in reached_modules(notebook)]
        cells = "\n\n# %%\n".join(code_cells(notebook))
        if not (ROOT / code).exists() or (ROOT / code).read_text() != cells:
            _files.replace(ROOT / code, lambda temporary: temporary.write_text(cells))
        lines.append(f"$(call RESULTS,{notebook.stem}): {' '.join([code, *paths])}")
        seen |= {code, *paths}
    # A module that is deleted later must not stop Make: a target without a rule counts as changed.
    text = "\n".join([*lines, *(f"{path}:" for path in sorted(seen))]) + "\n"
    _files.replace(ROOT / "build" / "code" / "depends.mk", lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    write_dependencies()
