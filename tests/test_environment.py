"""pyproject.toml, requirements.lock and environment.yml describe one environment, and the code imports no more."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch-cpu": "torch"}
TOOLS = ("python", "pip", "make")


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _lock(name="requirements.lock"):
    pairs = [line.split("==") for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {_normal(name): version for name, version in pairs}


def _declared(*extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for extra in extras for line in project["optional-dependencies"][extra]] or project["dependencies"]
    return {_normal(re.match(r"[\w.-]+", line)[0]) for line in lines}


def test_lock_is_closed():
    """It holds what pyproject.toml asks for, and every requirement of a locked package that applies here."""
    from packaging.requirements import Requirement

    lock, peers, missing = _lock(), _lock("requirements-peers.lock"), []
    assert [v for v in lock.values() if not re.fullmatch(r"[\w.]+", v)] == []  # no local build
    assert _declared() | _declared("companion", "app", "site", "test", "lint") <= set(lock)
    assert _declared("peers") <= set(peers) and not set(peers) & set(lock)
    for name in lock:
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            # A torch built for CUDA brings its own libraries along; which, its wheel says.
            if name != "torch" and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                missing += [f"{name} needs {line}"] * (_normal(requirement.name) not in lock)
    assert missing == []


def test_conda_environment_agrees():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    lock = _lock()
    conda = dict(item.partition("=")[::2] for item in environment["dependencies"] if isinstance(item, str))
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    pinned = {CONDA_NAMES.get(name, name): version for name, version in conda.items() if name not in TOOLS}
    assert pinned == {name: lock[name] for name in ("torch", "torchvision")}
    assert pip == ["-r requirements.lock", "-e ."]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == f">={conda['python']}"


def test_binder_fetches_the_data_sets():
    script = ROOT / "postBuild"
    assert os.access(script, os.X_OK)
    environment = os.environ | {"RPA_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([script], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "mnist" in done.stdout.lower(), done.stderr
