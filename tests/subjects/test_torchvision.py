import subprocess
import sys

IMPORT = "from rpa.subjects._torchvision import import_torchvision; tv = import_torchvision(); "

# A torchvision without its compiled operators, whatever the one installed is: `_load_library` finds nothing to load.
WITHOUT_OPERATORS = """
import torch
torch.ops.load_library = lambda path: (_ for _ in ()).throw(OSError("built for another torch"))
"""


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_imports_and_builds_a_model():
    done = _python(IMPORT + "print(sum(p.numel() for p in tv.models.squeezenet1_0(weights=None).parameters()))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1248424"


def test_imports_without_the_compiled_operators():
    bare = _python(WITHOUT_OPERATORS + "import torchvision")
    assert "torchvision::nms does not exist" in bare.stderr
    done = _python(WITHOUT_OPERATORS + IMPORT + "import torchvision; assert tv is torchvision; tv.models.alexnet")
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_when_it_is_not_needed():
    code = """
import sys, types
sys.modules["torchvision"] = types.ModuleType("torchvision")
from rpa.subjects import _torchvision
assert _torchvision.import_torchvision() is sys.modules["torchvision"]
assert _torchvision._libraries == []
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr


def test_other_errors_pass_through(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); " + IMPORT
    assert "RuntimeError: something else" in _python(code).stderr
