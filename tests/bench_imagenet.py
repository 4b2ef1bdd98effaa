"""Analytic means of networks of ImageNet size, in forward passes of one image, in two memory layouts.

SqueezeNet 1.0 and AlexNet at 224 x 224 with random weights where there are none: what is timed does not depend on them.
"""

import copy

import torch
from bench import seconds, table

from rpa.moments import meanfield
from rpa.subjects._torchvision import import_torchvision


def rows(name):
    torch.manual_seed(0)
    net = getattr(import_torchvision().models, name)(weights=None).eval().requires_grad_(False)
    x = torch.randn(1, 3, 224, 224)
    layers, ordered = meanfield.prepare(net), meanfield.prepare(net, pool_first=False)
    fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
    image = x[:1].contiguous(memory_format=torch.channels_last)
    default, channels_last = seconds(lambda: net(x[:1].contiguous()), 9), seconds(lambda: fast(image), 9)
    methods = {
        "layerwise, independent": lambda: meanfield.moments(layers, image, 0.1),
        "two-stage, first ReLU": lambda: meanfield.two_stage_mean(ordered, image, [0.1]),
    }
    for label, method in methods.items():
        taken = seconds(method, 9)
        yield [name, label, 1e3 * taken, taken / default, taken / channels_last]


def main():
    with torch.inference_mode():
        found = [row for name in ("squeezenet1_0", "alexnet") for row in rows(name)]
    columns = ["network", "method", "ms", "forward passes, default", "forward passes, channels-last"]
    table("the analytic mean of one image, in forward passes (want: at most 3)", columns, found)
