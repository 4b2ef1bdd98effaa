"""A network linearized at given inputs: rows carried through it, and rows of its Jacobian.

`rpa.moments.two_stage` linearizes a network in two stages, before and behind one activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from rpa.tracing.nonlinear import max_pool
from rpa.tracing.parts import Affine, Cut, as_rows, as_values, evaluate, size
from rpa.tracing.traced import Traced

PRODUCTS_AT_ONCE, COLUMNS_AT_ONCE = 256, 1024  # products with a Jacobian computed at once: backwards, and forwards


class Stages(NamedTuple):
    """A network around one activation: f(x) = second(cut(first(x))), each a chain of parts."""

    first: list[Affine | Cut]
    cut: Cut
    second: list[Affine | Cut]

    @classmethod
    def of(cls, net: Traced, relu: int) -> Stages:
        """At activation number `relu`, counted from 0, or back from the end if negative."""
        cuts = [i for i, part in enumerate(net.parts) if isinstance(part, Cut) and part.slopes]
        if not cuts:
            raise ValueError("net: two stages need a ReLU between them, got none")
        if isinstance(relu, bool) or not isinstance(relu, int) or not -len(cuts) <= relu < len(cuts):
            raise ValueError(f"relu: expected the number of one of {len(cuts)} ReLUs, from 0, got {relu!r}")
        i = cuts[relu]
        return cls(net.parts[:i], net.parts[i], net.parts[i + 1 :])

    @property
    def affine(self) -> bool:
        """Whether the first stage is affine."""
        return len(self.first) == 1

    def before(self, x: torch.Tensor) -> torch.Tensor:
        """first(x) as rows (b, m)."""
        return as_rows(evaluate(self.first, [x]), self.cut.shapes)

    def after(self, rows: torch.Tensor) -> torch.Tensor:
        """second(q) (b, k) of activated rows (b, m)."""
        return as_rows(evaluate(self.second, as_values(rows, self.cut.shapes)), self.second[-1].shapes)

    def activated(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (b, m) behind the activation."""
        return as_rows(self.cut(as_values(rows, self.cut.shapes)), self.cut.shapes)


def pushed(
    parts: Iterable[Affine | Cut], point: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], squared: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(values behind the parts, rows carried through their linearization at point), lists of values as `Affine` takes.

    point: for each row one, or one for all. squared: with squared coefficients, for variances of independent units.
    """
    point, rows = list(point), list(rows)
    for part in parts:
        if isinstance(part, Affine):
            rows = part.squared(rows) if squared else part.linear(rows)
        elif part.pool:
            index = max_pool(point[0], part.pool[0], part.pool[1], indices=True)[1]
            index = index.expand(len(rows[0]), *index.shape[1:])
            rows[0] = rows[0].flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
        else:
            for i, slope in enumerate(part.slopes):
                below = slope**2 if squared else slope
                plain = not isinstance(below, torch.Tensor) and below == 0
                rows[i] = rows[i] * (point[i] > 0) if plain else torch.where(point[i] > 0, rows[i], below * rows[i])
        point = part(point)
    return point, rows


def jacobian_at(
    function: Callable, x: torch.Tensor, outputs: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(function(x) (b, k), rows (b, k, n) of its Jacobians at the inputs x (b, ...)), by batched products.

    outputs: indices of the outputs wanted, k of them, default all.
    """
    with torch.inference_mode(False):  # with gradients, whatever mode the caller is in
        x = x.detach().clone().requires_grad_()
        values = function(x).reshape(len(x), -1)
        values = values if outputs is None else values[:, outputs]
        total = values.sum(0)
        rows = [
            torch.autograd.grad(total, x, part, retain_graph=True, is_grads_batched=True)[0].flatten(2)
            for part in torch.eye(len(total), dtype=total.dtype).split(max(1, PRODUCTS_AT_ONCE // len(x)))
        ]
    return values.detach(), torch.cat(rows).transpose(0, 1)


def inner_jacobian(stages: Stages) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of one input (1, *shape): the Jacobian (m, n) of the first stage there.

    By columns, or by rows where those are far fewer. Columns go through the affine part at the front once for all
    inputs.
    """
    front: Any = stages.first[0]
    rest = stages.first[1:]
    if size(front.taken) > 2 * size(stages.cut.shapes) and rest:
        return lambda x: jacobian_at(stages.before, x)[1][0]
    matrix = front.matrix()
    columns = matrix.T.split(COLUMNS_AT_ONCE)

    def jacobian(x):
        rows = (pushed(rest, front([x]), as_values(piece, front.shapes))[1] for piece in columns)
        return torch.cat([as_rows(piece, stages.cut.shapes) for piece in rows]).T

    return jacobian if rest else lambda x: matrix
