"""The rooms of the package, and the front door, which opens on all of them, lazily."""

import subprocess
import sys
from importlib import import_module

import pytest

import rpa
from rpa._files import ROOT

PACKAGE = ROOT / "rpa"
ROOMS = {"tracing", "experiments", "reliability", "patterns", "moments", "subjects", "polytopes", "companion"}
FRONT = """Gaussian GaussianMixture fit_mixture ReLUNetwork Region region_of region_at planar_regions probability
probabilities orthant best_first entropy_pruned pattern_pmf affine_relu_affine two_stage layerwise noise_map
noise_attack failure_probability""".split()


def test_the_top_is_small_and_rooms_are_those_that_are_ranked():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 9
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == ROOMS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_opens_with_a_paragraph_and_lists_what_it_holds(room):
    opening = import_module(f"rpa.{room}")
    assert len(opening.__doc__.split()) > 40 and "Start at `" in opening.__doc__
    public = {path.stem for path in (PACKAGE / room).glob("*.py") if not path.stem.startswith("_")}
    assert set(opening.__all__) == public, f"list every module in submodules=[...] of rpa/{room}/__init__.py"
    assert [name for name in public if f"`{name}`" not in opening.__doc__] == []
    assert all(getattr(opening, name).__name__ == f"rpa.{room}.{name}" for name in public)


def test_the_front_door_offers_every_name():
    assert [name for name in FRONT if not callable(getattr(rpa, name))] == []
    assert set(FRONT) | ROOMS <= set(dir(rpa))
    assert [name for name in FRONT if name not in rpa.__doc__] == []


def test_importing_it_loads_nothing_heavy():
    heavy = "'torch', 'matplotlib', 'pandas', 'scipy', 'numpy'"
    code = f"import sys, rpa; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tests_mirror_the_rooms():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == ROOMS
