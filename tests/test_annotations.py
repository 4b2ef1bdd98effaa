"""Every public function and method says which types it takes and gives; mypy checks that they are true."""

import inspect
from importlib import import_module

import pytest

from rpa._files import ROOT

PATHS = sorted((ROOT / "rpa").rglob("*.py"))
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PATHS if path.name != "__init__.py"]


def _public(module):
    """(qualified name, function) of what `__all__` names, and of the public methods of its classes."""
    for name in getattr(module, "__all__", ()):
        item = getattr(module, name)
        if inspect.isfunction(item):
            yield name, item
        elif inspect.isclass(item) and item.__module__ == module.__name__:
            for key, member in vars(item).items():
                wrapped = (getattr(member, kind, None) for kind in ("fget", "func", "__func__"))
                function = next(filter(None, wrapped), member)
                if inspect.isfunction(function) and not key.startswith("_"):
                    yield f"{name}.{key}", function


def _unsaid(function):
    parameters = inspect.signature(function).parameters.values()
    silent = [p.name for p in parameters if p.annotation is p.empty and p.name not in ("self", "cls")]
    return silent + ["return"] * (inspect.signature(function).return_annotation is inspect.Signature.empty)


@pytest.mark.parametrize("name", NAMES)
def test_public_functions_are_annotated(name):
    missing = {where: _unsaid(function) for where, function in _public(import_module(name)) if _unsaid(function)}
    assert missing == {}
