"""`import_torchvision()`: torchvision, also when its wheel was built for another torch (CPU torch, CUDA torchvision).

Such a wheel cannot load its compiled operators, and its import then stops because two of them are not even declared
(`operator torchvision::nms does not exist`). Models and transforms need neither, so declaring them is enough.
"""

import importlib
import sys
from types import ModuleType

__all__ = ["import_torchvision"]

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list = []


def import_torchvision() -> ModuleType:
    """The module torchvision; the operators are declared only when exactly that error occurs.

    Raises whatever else its import raises, ImportError if it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    # What the failed import left behind would be found half done by the next one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _declared:
        from torch.library import Library

        library = Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _declared.append(library)  # a Library that is dropped takes its declarations along
    return importlib.import_module("torchvision")
