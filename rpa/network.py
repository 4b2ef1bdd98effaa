"""Fully connected ReLU networks as plain arrays.

A `ReLUNetwork` is the object of P1: f(x) = W_L relu(... relu(W_1 x + b_1) ...) + b_L. Its activation pattern at x
is one bit per hidden unit, layer by layer. `whitened` is the change of variables on which everything rests:
all hidden units see a random input only through u = W_1 x + b_1, so a network with any Gaussian input equals a
network with a standard normal input of dimension rank(W_1 cov W_1^T), small even when d is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpa import _check

if TYPE_CHECKING:
    from torch import nn

    from rpa._check import Array
    from rpa.inputs import Gaussian


EVEN = 1e-3  # ratio of row sizes down to which a singular value decomposition keeps 13 digits of each row


@dataclass(frozen=True, eq=False)
class ReLUNetwork:
    """A network of affine layers with (leaky) ReLU between them.

    weights[l] (m_l, m_{l-1}), biases[l] (m_l,), l = 0..L-1; the last layer is affine.
    slope: the derivative on the negative side, 0 for ReLU, in [0, 1) for leaky ReLU. note: shown by repr. The
    arrays are copies, read-only.
    Raises ValueError when shapes do not chain, entries are not finite or slope is outside [0, 1).

    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = |x|
    >>> net([[-2.0], [3.0]])
    array([[2.],
           [3.]])
    """

    weights: tuple
    biases: tuple
    slope: float = 0.0
    note: str = ""

    def __post_init__(self):
        weights, biases = list(_check.several("weights", self.weights)), list(_check.several("biases", self.biases))
        if len(weights) == 0 or len(weights) != len(biases):
            raise ValueError(f"weights, biases: expected as many of each, got {len(weights)} and {len(biases)}")
        width = None
        for layer in range(len(weights)):
            weights[layer] = _check.array(f"weights[{layer}]", weights[layer], (None, width))
            width = len(weights[layer])
            biases[layer] = _check.array(f"biases[{layer}]", biases[layer], (width,))
        if not width:
            raise ValueError("weights: expected at least one output, got none")
        slope = float(_check.array("slope", self.slope, ()))
        if not 0 <= slope < 1:
            raise ValueError(f"slope: expected a number in [0, 1), got {slope:g}")
        for part in (*weights, *biases):
            part.flags.writeable = False
        object.__setattr__(self, "weights", tuple(weights))
        object.__setattr__(self, "biases", tuple(biases))
        object.__setattr__(self, "slope", slope)

    @property
    def input_dim(self) -> int:
        """Number of inputs d."""
        return self.weights[0].shape[1]

    @property
    def output_dim(self) -> int:
        """Number of outputs k."""
        return len(self.weights[-1])

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(len(w) for w in self.weights[:-1])

    @property
    def n_hidden(self) -> int:
        """Hidden units in all, N."""
        return sum(self.hidden_sizes)

    def __repr__(self) -> str:
        sizes = "-".join(map(str, (self.input_dim, *self.hidden_sizes, self.output_dim)))
        notes = [f"slope {self.slope:g}"] * (self.slope > 0) + [self.note] * (self.note != "")
        return ", ".join([f"ReLUNetwork: {sizes}", f"{self.n_hidden} hidden units", *notes])

    def __call__(self, x: ArrayLike) -> Array:
        """Outputs (n, k) at inputs x (n, d)."""
        return self.outputs_and_patterns(x)[0]

    def patterns(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Activation patterns, bool (n, N), at inputs x (n, d): True where the pre-activation is positive."""
        return self.outputs_and_patterns(x)[1]

    def outputs_and_patterns(self, x: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Both of one forward pass: outputs (n, k) and activation patterns (n, N) at inputs x (n, d)."""
        y = _check.array("x", x, (None, self.input_dim))
        active, n = np.empty((len(y), self.n_hidden), dtype=bool), 0
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            y = y @ weight.T
            y += bias
            np.greater(y, 0, out=active[:, n : n + len(bias)])
            n += len(bias)
            np.maximum(y, self.slope * y, out=y)
        return y @ self.weights[-1].T + self.biases[-1], active

    def whitened(self, gaussian: Gaussian) -> ReLUNetwork:
        """The network g on z ~ N(0, I_r) with g(z) equal in law, hidden units included, to f(x), x ~ gaussian.

        r = rank(W_1 cov W_1^T) <= min(d, m_1). With W_1 F = U S V^T (F F^T = cov), the first layer becomes
        U S z + (W_1 mean + b_1); the others stay.
        """
        if not hasattr(gaussian, "cov_given"):
            raise ValueError(f"gaussian: expected Gaussian, got {type(gaussian).__name__}")
        if gaussian.dim != self.input_dim:
            raise ValueError(f"gaussian: expected dimension {self.input_dim}, the network's, got {gaussian.dim}")
        if gaussian.cov_given.ndim == 0 and gaussian.cov_given > 0:
            first = self._first_axes * np.sqrt(gaussian.cov_given)
        else:
            first = _axes(gaussian.times_factor(self.weights[0]))
        first_bias = self.weights[0] @ gaussian.mean + self.biases[0]
        return ReLUNetwork((first, *self.weights[1:]), (first_bias, *self.biases[1:]), self.slope)

    @cached_property
    def _first_axes(self):
        """`_axes` of the first layer: white noise of every level shares them."""
        return _axes(self.weights[0])

    @classmethod
    def from_torch(cls, module: nn.Module, input_shape: tuple[int, ...] | None = None) -> ReLUNetwork:
        """From a torch module, of any class; the same function, to rounding.

        Affine operations of every kind, ReLU, leaky ReLU and PReLU, and by identities max pooling, maximum, minimum,
        abs, clamp and Hardtanh, as far as torch.fx can trace them. Affine layers that follow each other are multiplied;
        a trailing ReLU is followed by the identity. A trailing Softmax, LogSoftmax or Sigmoid is dropped with a word in
        repr: the order of the outputs stays, and a Sigmoid's output 1/2 is 0. input_shape: of one input, needed when
        the first layer does not tell; the network takes it flattened. A value that is read some layers later is carried
        there by units of its own, and comparisons of maxima are units (see `rpa.tracing.conversion`).
        Raises ValueError naming a part that is neither affine nor known, depends on its batch or is random, or matrices
        of more than 1 GiB.
        """
        from rpa.tracing.conversion import chain

        return cls(*chain(module, input_shape))

    def to_torch(self) -> nn.Sequential:
        """The same function as an `nn.Sequential` in float64."""
        import torch
        from torch import nn

        layers = []
        for weight, bias in zip(self.weights, self.biases):
            linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], dtype=torch.float64)  # draws nothing
            linear.weight.data = torch.from_numpy(weight.copy())
            linear.bias.data = torch.from_numpy(bias.copy())
            layers += [linear, nn.LeakyReLU(self.slope) if self.slope else nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def _axes(rows):
    """rows V = U S (m, r) of rows = U S V^T (m, d) of rank r: rows of zeros stay so, and equal rows equal.

    Rows of very different sizes are brought to one first: rounding is relative to the largest.
    """
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    norm[norm == 0] = 1.0
    size = norm if norm.min(initial=np.inf) < EVEN * norm.max(initial=0.0) else np.ones_like(norm)
    _, s, axes = np.linalg.svd(rows / size, full_matrices=False)
    return rows @ axes[s > s.max(initial=0.0) * max(rows.shape) * np.finfo(float).eps].T


def as_network(net: ReLUNetwork | nn.Module, input_shape: tuple[int, ...] | None = None) -> ReLUNetwork:
    """`net` itself, or the `ReLUNetwork` of a torch module (see `ReLUNetwork.from_torch`); ValueError for anything
    else.
    """
    if isinstance(net, ReLUNetwork):
        return net
    if any(kind.__module__.startswith("torch.") for kind in type(net).__mro__):
        try:
            return ReLUNetwork.from_torch(net, input_shape)
        except ValueError as error:
            if input_shape is not None or not str(error).startswith("input_shape"):
                raise
            shape = str(error).partition("input_shape=")[2].partition(";")[0]
            call = f"rpa.ReLUNetwork.from_torch(net, input_shape={shape})"
            raise ValueError(f"net: does not tell the shape of its inputs; give {call}, with their own sides, in its "
                             "place") from error  # fmt: skip
    raise ValueError(f"net: expected a ReLUNetwork or a torch module, got {type(net).__name__}")
