"""The parts of a traced network: affine maps, and cuts that activate or pool."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from rpa.tracing.graph import UNITS, called
from rpa.tracing.nonlinear import act, max_pool

if TYPE_CHECKING:
    from rpa.tracing.traced import Traced

DENSE = 1 << 23  # entries up to which an affine part is squared as a matrix
UNITS_AT_ONCE = 1024  # columns of a matrix that are computed at once


def size(shapes: Sequence[tuple]) -> int:
    """Numbers in values of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


class Env(dict):
    """Values of the graph's nodes for `rows` inputs. Others do not depend on the inputs, or count as zeros."""

    def __init__(self, traced: Traced, rows: int, values: Iterable = ()):
        super().__init__(values)
        self.traced, self.rows = traced, rows

    def __missing__(self, node: fx.Node) -> Any:
        shape = self.traced.shapes.get(node)
        if shape is not None:
            return self.traced.like.expand(self.rows * shape[0], *shape[1:])
        constants = self.traced.constants
        return constants[node] if node in constants else self.traced.value(node, self)


@dataclass(frozen=True, eq=False)
class Cut:
    """Activations of the first values, or a max pooling of the first; the others are carried.

    slopes: for each activated value its slope below zero, a number or a tensor that broadcasts to it. pool: (function,
    options). shapes: of all values, for one input.
    """

    shapes: list
    like: torch.Tensor
    slopes: tuple = ()
    pool: tuple | None = None

    def __call__(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        new = [act(v, slope) for v, slope in zip(values, self.slopes)]
        new = [max_pool(values[0], *self.pool)] if self.pool else new
        return [*new, *values[len(new) :]]

    def slope_vector(self) -> torch.Tensor | None:
        """The slope of every unit (n,), 1 for the carried ones; None where all are plain ReLUs."""
        if len(self.slopes) == len(self.shapes) and not any(isinstance(s, torch.Tensor) or s for s in self.slopes):
            return None
        slopes = [*self.slopes, *[1.0] * (len(self.shapes) - len(self.slopes))]
        return torch.cat([(self.like + s).expand(shape).flatten() for s, shape in zip(slopes, self.shapes)])


class Affine:
    """The affine map between two cuts: lists of tensors, each (b, *shape), to lists of tensors."""

    def __init__(self, traced: Traced, nodes: list, inputs: list, outputs: list):
        self.traced, self.nodes, self.inputs, self.outputs, self.like = traced, nodes, inputs, outputs, traced.like
        self.taken, self.shapes = ([traced.shapes[node] for node in names] for names in (inputs, outputs))

    def __call__(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return self._through(values, self.traced.value)

    def linear(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The map without its constants."""
        return self._through(values, self.traced.linear)

    def squared(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The linear part with squared coefficients: variances of independent units to variances.

        Exact, except in parts of more than `DENSE` entries with several layers, whose units count as independent too.
        """
        if self._square is None:
            return self._through(values, self.traced.squared)
        return as_values(as_rows(values, self.taken) @ self._square, self.shapes)

    @cached_property
    def _square(self):
        depth = dict.fromkeys(self.inputs, 0)
        for node in self.nodes:
            weight = 0 if called(node) in UNITS else 1 if self.traced.weighted(node) else 2
            depth[node] = weight + max(depth[n] for n in node.all_input_nodes if n in depth)
        small = size(self.taken) * size(self.shapes) <= DENSE
        return (self.matrix() ** 2).T if small and max(depth.values()) > 1 else None

    def matrix(self) -> torch.Tensor:
        """The linear part as a matrix (m, n)."""
        places, parts = torch.arange(size(self.taken), device=self.like.device), []
        with torch.no_grad():
            for some in places.split(UNITS_AT_ONCE):
                units = (some[:, None] == places).to(self.like)
                parts.append(as_rows(self.linear(as_values(units, self.taken)), self.shapes))
        return torch.cat(parts).T

    def _through(self, values, action):
        env = Env(self.traced, len(values[0]) // self.taken[0][0], zip(self.inputs, values))
        for node in self.nodes:
            env[node] = action(node, env)
        return [env[node] for node in self.outputs]


def as_rows(values: Sequence[torch.Tensor], shapes: Sequence[tuple]) -> torch.Tensor:
    """Values of `shapes` for b inputs as one matrix (b, n)."""
    flat = [v.reshape(-1, math.prod(shape)) for v, shape in zip(values, shapes)]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def as_values(rows: torch.Tensor, shapes: Sequence[tuple]) -> list[torch.Tensor]:
    """The inverse of `as_rows`."""
    parts = rows.split([math.prod(shape) for shape in shapes], 1) if len(shapes) > 1 else [rows]
    return [part.reshape(-1, *shape[1:]) for part, shape in zip(parts, shapes)]


def evaluate(parts: Sequence[Affine | Cut], values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The values behind the parts."""
    for part in parts:
        values = part(values)
    return list(values)
