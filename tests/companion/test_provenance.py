"""Which code a notebook's numbers come from, and when its version changes."""

import json

import pytest
from helpers import write_notebook

from rpa.companion import provenance
from rpa.companion.provenance import notebooks


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A package of four modules in two rooms; returns write(name, text)."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "rpa")
    sources = {
        "rpa/__init__.pyi": "from .upper.b import g as g",
        "rpa/upper/__init__.py": "import lazy_loader",
        "rpa/upper/a.py": "import numpy",
        "rpa/upper/b.py": "def g():\n    from rpa.lower.c import f",
        "rpa/lower/c.py": "",
        "rpa/lower/d.py": "",
    }

    def write_file(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        provenance.code_version.cache_clear()

    for name, text in sources.items():
        write_file(name, text)
    yield write_file
    provenance.code_version.cache_clear()


def _notebook(*sources, prose="", outputs=()):
    cells = [{"cell_type": "code", "source": source, "outputs": list(outputs)} for source in sources]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": [prose]}, *cells]})


def test_code_version_follows_the_code_cells_but_not_prose_or_outputs(write):
    def version(*cells, **rest):
        write("notebooks/01_x.ipynb", _notebook(*cells, **rest))
        return provenance.code_version("01_x")

    first = version(["import rpa.upper.a\n", "b"])
    assert version("import rpa.upper.a\nb", prose="more words", outputs=["seen"]) == first
    assert version("import rpa.upper.a\nc") != first
    assert len({version("import rpa.upper.a", cell) for cell in "bc"} | {first}) == 3
    write("rpa/upper/a.py", "import numpy as np")
    assert version("import rpa.upper.a\nb") != first
    write("rpa/upper/a.py", "import numpy")
    write("rpa/lower/c.py", "x = 2")
    assert version("import rpa.upper.a\nb") == first
    assert len({version(cell) for cell in ("%time a = 1", "%time a = 2", "a = (1", "a = (2")}) == 4


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import rpa.upper.a as first", {"upper.a"}),
        ("from rpa.upper import a, nothing", {"upper.a"}),
        ("from rpa.upper.b import g", {"upper.b", "lower.c"}),
        ("from rpa import g", {"upper.b", "lower.c"}),
        ("import rpa\nrpa.g(1)", {"upper.b", "lower.c"}),
        ("import rpa\nrpa.lower.d.f(rpa.upper.a)", {"lower.d", "upper.a"}),
        ("from rpa import lower", {"lower.c", "lower.d"}),
        ("import rpa_other, numpy", set()),
        ("%matplotlib inline\nimport rpa.upper.a\n!ls", {"upper.a"}),
        ("%%time\nimport rpa.upper.a", {"upper.a"}),
        ("%%bash\nimport rpa.upper.a; ls /", set()),
    ],
)
def test_what_cells_reach(write, source, expected):
    assert provenance._reached([source], provenance._modules()) == expected


def test_prose_in_the_code_changes_no_version(write):
    write("rpa/upper/a.py", "def f(x):\n    return [x, 'text']\n")
    write("notebooks/01_x.ipynb", _notebook("import rpa.upper.a"))
    first = provenance.code_version("01_x")
    prose = '"""Words."""\n\n# more\ndef f(x):\n    """Words."""\n    return [\n        x,  # y\n        "text"]\n'
    write("rpa/upper/a.py", prose)
    assert provenance.code_version("01_x") == first
    write("rpa/upper/a.py", prose.replace("text", "Text"))
    assert provenance.code_version("01_x") != first


def test_inputs_are_weights_and_references_but_no_hidden_files(write):
    write("data/weights/a.npz", "1")
    first = provenance.input_version.__wrapped__()
    write("data/weights/.DS_Store", "1")
    assert provenance.input_version.__wrapped__() == first
    write("data/weights/a.npz", "2")
    assert provenance.input_version.__wrapped__() != first


@pytest.mark.parametrize("text", ["{\n<<<<<<< HEAD", "[]", "{}", '{"cells": [{"cell_type": "code"}]}'])
def test_a_file_that_is_no_notebook_is_named(write, text):
    write("notebooks/01_x.ipynb", text)
    with pytest.raises(ValueError, match="01_x.ipynb: no notebook"):
        provenance.code_version("01_x")


def test_parameters_that_are_no_plain_values_are_named(tmp_path):
    path = write_notebook(tmp_path / "01_x.ipynb")
    path.write_text(path.read_text().replace("profile = ", "n = 10**2\\nprofile = "))
    with pytest.raises(ValueError, match=r"01_x.ipynb: expected parameters that are plain values, got n = 10\*\*2"):
        provenance.parameters(path)


def test_an_edit_of_attacks_touches_notebook_11_alone():
    modules = provenance._modules()
    reached = {stem: provenance._reached(provenance.code_cells(path), modules) for stem, path in notebooks().items()}
    assert [stem for stem, names in reached.items() if "moments.attacks" in names] == ["11_noise_attacks"]
