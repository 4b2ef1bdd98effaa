"""The rooms of the package: imports point downwards only, and the front door opens on all of them, lazily."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest

import rpa
from rpa._files import ROOT

# From the top down; a room may import from those of lower rank only, and from itself.
RANKS = {"companion": 4, "reliability": 3, "patterns": 2, "moments": 2, "subjects": 2, "polytopes": 1, "": 0}
PACKAGE = ROOT / "rpa"
MODULES = sorted(PACKAGE.rglob("*.py"))
FRONT = """Gaussian GaussianMixture fit_mixture ReLUNetwork Region region_of region_at planar_regions probability
probabilities orthant best_first entropy_pruned pattern_pmf affine_relu_affine two_stage layerwise noise_map
noise_attack failure_probability""".split()
IN_ROOMS = [
    "moments.relu",
    "moments.meanfield",
    "moments.guided",
    "subjects.imagenet",
    "subjects.datasets",
    "companion.topk",
]


def _room(path):
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


def _imported(path, types=True):
    """The rpa modules that a file imports, as paths, wherever in the file; types: also those for type checkers only."""
    found, tree = set(), ast.parse(path.read_text())
    if not types:
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rpa":
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "rpa"}
    paths = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in found}
    return {path for path in paths if path.exists()}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path):
    room = _room(path)
    wrong = [t for t in _imported(path) if _room(t) != room and RANKS[_room(t)] >= RANKS[room]]
    assert wrong == []


def test_no_module_leads_back_to_itself():
    graph = {path: _imported(path, types=False) for path in MODULES}
    while leaves := [path for path, targets in graph.items() if not targets & set(graph)]:
        for path in leaves:
            del graph[path]
    assert sorted(path.name for path in graph) == []


def test_the_top_is_small_and_rooms_are_those_that_are_ranked():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 9
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(RANKS) - {""}


@pytest.mark.parametrize("room", sorted(set(RANKS) - {""}))
def test_a_room_opens_with_a_paragraph_and_lists_what_it_holds(room):
    opening = import_module(f"rpa.{room}")
    assert len(opening.__doc__.split()) > 40 and "Start at `" in opening.__doc__
    public = {path.stem for path in (PACKAGE / room).glob("*.py") if not path.stem.startswith("_")}
    assert set(opening.__all__) == public
    assert [name for name in public if f"`{name}`" not in opening.__doc__] == []
    assert all(getattr(opening, name).__name__ == f"rpa.{room}.{name}" for name in public)


def test_the_front_door_offers_every_name():
    assert [name for name in FRONT if not callable(getattr(rpa, name))] == []
    assert set(FRONT) | set(RANKS) - {""} <= set(dir(rpa))
    assert [name for name in FRONT if name not in rpa.__doc__] == []
    assert [name for name in IN_ROOMS if import_module(f"rpa.{name}") is None] == []


def test_importing_it_loads_nothing_heavy():
    heavy = "'torch', 'matplotlib', 'pandas', 'scipy', 'numpy'"
    code = f"import sys, rpa; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tests_mirror_the_rooms():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == set(RANKS) - {""}
