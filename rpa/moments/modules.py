"""Torch networks as flat lists of layers, and the question whether their moments can be computed at all.

The other modules of this room take a network apart into single layers. torchvision's AlexNet and SqueezeNet are known
by name; other containers than `nn.Sequential` are refused.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from rpa.moments import _checks

__all__ = ["as_sequential", "check_evaluable", "pool_first", "unrolled"]

RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
BATCH_DEPENDENT = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def check_evaluable(net: nn.Module, x: torch.Tensor | None = None, name: str = "x") -> None:
    """Raise ValueError unless `net` is a torch module whose output is a function of its input, and takes x (b, *shape).

    Refused by name: what is no module; Dropout or batch normalization in training mode; a batch x without inputs, or of
    a shape that the network does not take (`name` is what the caller calls x).
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module, got {type(net).__name__}")
    for layer in net.modules():
        if layer.training and (isinstance(layer, BATCH_DEPENDENT) or (isinstance(layer, RANDOM) and layer.p)):
            raise ValueError(f"net: {type(layer).__name__} is in training mode; call net.eval() first")
    if x is None:
        return
    _checks.batch(name, x)
    try:
        with torch.no_grad():
            net(x[:1])
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        kind = f"{x.dtype} of shape {tuple(x.shape[1:])}"
        raise ValueError(f"{name}: the network does not take inputs {kind}: {reason}") from error


def as_sequential(net: nn.Module) -> nn.Sequential:
    """The same function as a flat `nn.Sequential` of single layers, without Dropout and Identity; weights are shared.

    Nested Sequentials are flattened. torchvision's AlexNet and SqueezeNet are unrolled: the two expanding convolutions
    of a Fire module become one of kernel 3, and no ReLU works in place. Raises ValueError for another container.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"net: expected a torch module, got {type(net).__name__}")
    return nn.Sequential(*unrolled(net, _one_convolution))


def pool_first(layers: list[nn.Module]) -> list[nn.Module]:
    """ReLU and max pooling in the order pool, ReLU: the same function, and the pooled units are Gaussian."""
    layers = list(layers)
    for i in range(len(layers) - 1):
        if isinstance(layers[i], nn.ReLU) and isinstance(layers[i + 1], nn.MaxPool2d):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return layers


def unrolled(module: nn.Module, expansion: Callable[[nn.Module], nn.Module]) -> list[nn.Module]:
    """The single layers of a Sequential, AlexNet or SqueezeNet in order, without Dropout and Identity.

    expansion(fire): the module that stands for the two expanding convolutions of a Fire module.
    """
    name = type(module).__name__
    if isinstance(module, nn.Sequential):
        return [layer for child in module for layer in unrolled(child, expansion)]
    if isinstance(module, (nn.Dropout, nn.Identity)):
        return []
    if isinstance(module, nn.ReLU):
        return [nn.ReLU()]
    if name == "AlexNet":
        return [
            *unrolled(module.features, expansion),
            module.avgpool,
            nn.Flatten(),
            *unrolled(module.classifier, expansion),
        ]
    if name == "SqueezeNet":
        return [*unrolled(module.features, expansion), *unrolled(module.classifier, expansion), nn.Flatten()]
    if name == "Fire":
        return [module.squeeze, nn.ReLU(), expansion(module), nn.ReLU()]
    if list(module.children()):
        raise ValueError(f"net: expected Sequential, AlexNet or SqueezeNet, got {name}")
    return [module]


def _one_convolution(fire):
    one, three = fire.expand1x1, fire.expand3x3
    conv = nn.Conv2d(one.in_channels, one.out_channels + three.out_channels, 3, padding=1)
    weight = torch.cat([functional.pad(one.weight.detach(), (1, 1, 1, 1)), three.weight.detach()])
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(torch.cat([one.bias, three.bias]).detach())
    return conv
