"""Jacobians of a network's stages at given inputs, and products with them.

`rpa.moments.two_stage` linearizes a network in two stages; it takes whole Jacobians from `inner_jacobian` and
`jacobian_at`, and products from `pushed` (forwards, one pass for many rows), `push_forward` and `pull_back`
(backwards).
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from rpa.moments.layerwise import NONLINEAR, linear_part
from rpa.moments.modules import as_sequential, pool_first

__all__ = ["inner_jacobian", "jacobian_at", "pull_back", "push_forward", "pushed"]

PRODUCTS, COLUMNS = 256, 1024  # products with a Jacobian computed at once: backwards, and forwards
KEPT = 1 << 26  # numbers that many inputs may share


def pushed(module: nn.Module, x: torch.Tensor, rows: torch.Tensor, power: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(module(x), rows (r, ...) carried through the linearization at x (1 or r, ...), coefficients to `power`)."""
    for layer in as_sequential(module):
        if isinstance(layer, nn.ReLU):
            rows = rows * (x > 0)
        elif isinstance(layer, nn.MaxPool2d):
            options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
            index = functional.max_pool2d(x, *options, return_indices=True)[1]
            picked = index.flatten(2).expand(len(rows), -1, -1)
            rows = rows.flatten(2).gather(2, picked).reshape(-1, *index.shape[1:])
        elif isinstance(layer, nn.Flatten):
            rows = layer(rows)
        else:
            rows = linear_part(layer, rows, power)
        x = layer(x)
    return x, rows


@torch.no_grad()
def inner_jacobian(first: nn.Module, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of one input z (1, ...), of the shape of `like`: the Jacobian (m, n) of `first` at z.

    By columns, or by rows where those are far fewer. Columns go through the affine layers at the front once for all z,
    unless what comes out of these is too large to be kept.
    """
    n, m = like.numel(), first(like).numel()
    if n > 2 * m:
        return lambda z: jacobian_at(first, z)[1]
    layers = list(pool_first(as_sequential(first)))
    front = next((i for i, layer in enumerate(layers) if isinstance(layer, NONLINEAR)), len(layers))
    front = front if n * nn.Sequential(*layers[:front])(like).numel() <= KEPT else 0
    start, rest = nn.Sequential(*layers[:front]), nn.Sequential(*layers[front:])
    unit = torch.eye(n, dtype=like.dtype).reshape(n, *like.shape[1:])
    parts = [pushed(start, like, part)[1] for part in unit.split(COLUMNS)]

    @torch.no_grad()
    def jacobian(z):
        return torch.cat([pushed(rest, start(z), part)[1].flatten(1) for part in parts]).T

    return jacobian


def jacobian_at(
    module: nn.Module, z: torch.Tensor, outputs: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(module(z) (1, ...), rows (k, n) of its Jacobian at the single input z (1, ...)), by batched products."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = module(z)
        flat = value.flatten()
        wanted = torch.arange(flat.numel()) if outputs is None else torch.as_tensor(outputs)
        unit = torch.zeros(len(wanted), flat.numel(), dtype=flat.dtype)
        unit[torch.arange(len(wanted)), wanted] = 1
        rows = [
            torch.autograd.grad(flat, z, part, retain_graph=True, is_grads_batched=True)[0].flatten(1)
            for part in unit.split(PRODUCTS)
        ]
    return value.detach(), torch.cat(rows)


def pull_back(module: nn.Module, x: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
    """cotangent^T J at x, differentiable in the cotangent."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(module(x), x, cotangent, create_graph=cotangent.requires_grad)[0]


def push_forward(module: nn.Module, x: torch.Tensor, tangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(module(x), J tangent), differentiable in x and tangent: J tangent is the slope of (u^T J) tangent in u."""
    tracked = torch.is_grad_enabled() and (x.requires_grad or tangent.requires_grad)
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = module(x)
        u = torch.zeros_like(value, requires_grad=True)
        row = torch.autograd.grad(value, x, u, create_graph=True)[0]
        slope = torch.autograd.grad(row, u, tangent, create_graph=tracked)[0]
    return (value, slope) if tracked else (value.detach(), slope)
