import subprocess
import sys

import pytest

from rpa.subjects import _torchvision

IMPORT = "from rpa.subjects._torchvision import import_torchvision; tv = import_torchvision(); "

# A torchvision without its compiled operators, whatever the one installed is: `_load_library` finds nothing to load.
WITHOUT_OPERATORS = """
import torch
torch.ops.load_library = lambda path: (_ for _ in ()).throw(OSError("built for another torch"))
try:
    import torchvision
except RuntimeError as error:
    assert "torchvision::nms does not exist" in str(error)
else:
    raise AssertionError("it does without them")
"""


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_imports_and_builds_a_model_without_the_compiled_operators():
    built = "import torchvision; assert tv is torchvision; print(len(list(tv.models.squeezenet1_0().parameters())))"
    done = _python(WITHOUT_OPERATORS + IMPORT + built)
    assert done.returncode == 0 and done.stdout.strip() == "52", done.stderr


def test_other_errors_pass_through(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="something else"):
        _torchvision.import_torchvision()
