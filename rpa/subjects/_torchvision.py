"""`import_torchvision()`: torchvision, also when its wheel was built for another torch (CPU torch, CUDA torchvision).

Such a wheel cannot load its compiled operators, and its import stops because two of them are not declared (`operator
torchvision::nms does not exist`). Models and data sets need neither, so it is enough to declare them.
"""

import importlib
import sys
from types import ModuleType


def import_torchvision() -> ModuleType:
    """The module torchvision; the operators are declared only after exactly that error.

    Raises any other error of its import, ImportError if it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # modules that the failed import left incomplete
    from torch.library import define

    for name in ("nms", "qnms"):
        define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
