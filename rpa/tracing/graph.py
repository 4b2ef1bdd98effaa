"""The forward pass of a torch module as a torch.fx graph in which every known nonlinearity is `act` or `max_pool`."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["COPIES", "RECORDED", "STRAIGHT", "SUMS", "UNITS", "WEIGHTED", "act", "advice", "broadcast", "called",
           "check_evaluable", "head_of", "max_pool", "record", "schedule", "unwrapped"]  # fmt: skip

WEIGHTED = ("linear", "conv1d", "conv2d", "conv3d", "scaled")  # called with (input, weight, bias, ...)
SUMS = ("add", "sub")  # what does not depend on the input is a constant
# Every unit passes once.
UNITS = ("flatten", "view", "reshape", "cat", "concat", "unflatten", "permute", "transpose", "chunk", "split",
         "getitem", "unsqueeze", "squeeze", "scaled", "contiguous", "clone", "dropout")  # fmt: skip
COPIES = ("pad", "roll", "flip", "stack", "expand", "repeat")  # some units may pass more often
POOLS = ("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
SAME = ("float", "double", "half", "bfloat16", "to", "type", "detach")
SMOOTH = ("softmax", "sigmoid", "tanh", "gelu", "silu", "swish", "elu", "selu", "softplus", "norm", "attention", "mish")
STRAIGHT = ("softmax", "logsoftmax", "sigmoid", "logsigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "softplus",
            "mish", "exp")  # smooth functions that are almost affine where their input is small  # fmt: skip
RECORDED = "recorded"  # in the meta of graph modules whose graph is as `record` leaves it
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
IN_PLACE = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}


def act(x: torch.Tensor, slope: Any = 0.0) -> torch.Tensor:
    """x where x > 0, slope x elsewhere."""
    if isinstance(x, fx.Proxy):
        return x.tracer.create_proxy("call_function", act, (x, slope), {})
    if not isinstance(slope, torch.Tensor):
        return torch.relu(x) if slope == 0 else torch.where(x > 0, x, slope * x)
    return torch.where(x > 0, x, broadcast(slope, x.ndim) * x)


def max_pool(x: torch.Tensor, kind: str, options: dict, indices: bool = False) -> Any:
    """The function `kind` of torch.nn.functional; with the places of the maxima if `indices`."""
    if isinstance(x, fx.Proxy):
        return x.tracer.create_proxy("call_function", max_pool, (x, kind, options), {})
    return getattr(functional, kind)(x, **options, return_indices=indices)


def scaled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Every channel times its weight, plus its bias."""
    if isinstance(x, fx.Proxy):
        return x.tracer.create_proxy("call_function", scaled, (x, weight, bias), {})
    x = x * broadcast(weight, x.ndim)
    return x if bias is None else x + broadcast(bias, x.ndim)


def broadcast(value: torch.Tensor, ndim: int) -> torch.Tensor:
    """One number for each channel, in the shape that broadcasts to (b, channels, ...)."""
    return value.reshape(-1, *[1] * (ndim - 2)) if value.ndim == 1 else value


def check_evaluable(net: nn.Module, x: torch.Tensor | None = None, name: str = "x", net_name: str = "net") -> Any:
    """Raise ValueError unless `net` is a torch module whose output is a function of its input, and takes x (b, *shape).

    Refused by name: what is no module; TorchScript; Dropout or normalization in training mode, or by the statistics of
    the batch; a batch x of a shape that the network does not take (`name` is what the caller calls x). Returns the
    output for the first of x.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"{net_name}: expected a torch module, got {type(net).__name__}")
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError(f"{net_name}: expected the module itself, got TorchScript, which hides its layers")
    for layer in net.modules():
        kind = type(layer).__name__
        if layer.training and (isinstance(layer, NORMS) or (isinstance(layer, DROPOUTS) and layer.p)):
            raise ValueError(f"{net_name}: {kind} is in training mode; call {net_name}.eval() first")
        if isinstance(layer, NORMS) and layer.running_mean is None:
            raise ValueError(f"{net_name}: {kind} without running statistics depends on the batch; "
                             "expected track_running_stats=True")  # fmt: skip
    if x is None:
        return None
    try:
        with torch.no_grad():
            return net(x[:1])
    except Exception as error:
        reason = str(error).splitlines()[0]
        kind = f"{x.dtype} of shape {tuple(x.shape[1:])}"
        raise ValueError(f"{name}: the network does not take inputs {kind}: {reason}") from error


def called(node: fx.Node) -> str:
    """The name of the function or method that a node calls, or the path of a layer."""
    return str(node.target) if node.op != "call_function" else getattr(node.target, "__name__", str(node.target))


def advice(label: str) -> str:
    """What to do about a part that is not affine."""
    if any(word in label.lower() for word in SMOOTH):
        return "smooth functions have no exact rule: expected piecewise-linear ones (ReLU, Hardtanh, max pooling)"
    return "expected affine operations, ReLU and its kin, maximum, minimum, clamp, abs and max pooling"


def unwrapped(net: nn.Module) -> nn.Module:
    """The module inside torch.compile's or DataParallel's."""
    while hasattr(net, "_orig_mod") or isinstance(net, nn.DataParallel):
        net = net._orig_mod if hasattr(net, "_orig_mod") else net.module
    return net


def record(net: nn.Module, name: str = "net", pool_first: bool = False) -> tuple[fx.Graph, nn.Module, tuple | None]:
    """(graph, root, head): the recorded forward pass, the module that its nodes' targets are attributes of, and (name,
    function) of a trailing Softmax, LogSoftmax or Sigmoid, which is cut off.

    The root shares the module's weights.
    """
    if isinstance(net, fx.GraphModule) and RECORDED in net.meta and not pool_first:
        return net.graph, net, None
    root = _Root(unwrapped(net))
    try:
        with torch.no_grad():
            graph = _recorded(root)
    except Exception as error:
        reason = str(error).splitlines()[0]
        kind = type(root.net).__name__
        if "control flow" in reason or "can't be used" in reason or "iterated" in reason:
            reason = "its forward decides by values of its input; write it without if, for or while over the input"
        if "() takes" in reason or "an int" in reason or "SymInt" in reason:
            reason += "; make tensors as x.new_zeros(...) does"
        raise ValueError(f"{name}: torch.fx cannot follow {kind}: {reason}") from error
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    if len(placeholders) > 1:
        raise ValueError(f"{name}: expected one input, got {', '.join(placeholders)}")
    head = _cut_head(graph)
    _gather_activations(graph)
    if pool_first:
        _exchange_pools(graph)
    return graph, root, head


def _recorded(root):
    try:
        return _Tracer(root, ()).trace(root)
    except Exception:  # to follow math.sqrt of a size and its like takes a third of the time
        return _Tracer(root, (math,)).trace(root)


def head_of(net: nn.Module) -> str:
    """The trailing softmax, log_softmax or sigmoid of a module, or nothing."""
    try:
        return (record(net)[2] or ("",))[0]
    except ValueError:
        return ""


class _Root(nn.Module):
    """The module as a part of another, so that torch.fx writes no constants into it and it may be a single layer."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.training = False

    def forward(self, x):
        return self.net(x)


class _Tracer(fx.Tracer):
    """Records the known nonlinearities as `act` and `max_pool`, and nothing in place.

    Layers of torch.nn are recorded by the functions that they call, or as they are where torch.fx cannot follow them.
    """

    def __init__(self, root, wrapped):
        super().__init__(wrapped)
        self._opaque = set()
        self._names = {id(parameter): name for name, parameter in root.named_parameters()}

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        name = self._names.get(id(attr_val))  # fx.Tracer goes through all parameters for every one
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def is_leaf_module(self, m, module_qualified_name):
        return m in self._opaque

    def call_module(self, m, forward, args, kwargs):
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            weight = torch.rsqrt(m.running_var + m.eps) * (1.0 if m.weight is None else m.weight)
            bias = (0.0 if m.bias is None else m.bias) - m.running_mean * weight
            return self.create_proxy("call_function", scaled, (*args, *kwargs.values(), weight, bias), {})
        try:
            path = self.path_of_module(m)
        except NameError:  # a layer made inside forward
            return forward(*args, **kwargs)
        depth = len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if not super().is_leaf_module(m, path) or m in self._opaque:
                raise
        while len(self.module_stack) > depth:
            self.module_stack.popitem()
        self._opaque.add(m)
        return super().call_module(m, forward, args, kwargs)

    def create_proxy(self, kind, target, args, kwargs, *more, **options):
        if kind == "call_function":
            target = IN_PLACE.get(target, target)
            name = getattr(target, "__name__", str(target)).removesuffix("_").removeprefix("_")
        elif kind == "call_method":
            name = target if target.endswith("__") else target.removesuffix("_")
            target = name
        if kind in ("call_function", "call_method"):
            new = _known(name, args, kwargs)
            if new is not None:
                return new
            kwargs = {**kwargs, "inplace": False} if kwargs.get("inplace") else kwargs
            if name in WEIGHTED:
                args, kwargs = _weighted(*args, **kwargs)
        return super().create_proxy(kind, target, args, kwargs, *more, **options)


def _weighted(input, weight, bias=None, *options, **named):
    return (input, weight, bias, *options), named


def _known(name, args, kwargs):
    """What a call is recorded as, or None for itself."""
    if "input" in kwargs:
        args, kwargs = (kwargs["input"], *args), {key: value for key, value in kwargs.items() if key != "input"}
    if not any(isinstance(a, fx.Proxy) for a in args[:2]):
        return None
    if name in ("max", "min") and len(args) == 2 and not isinstance(args[1], int) and not kwargs:
        name += "imum"
    if name in POOLS and not kwargs.get("return_indices"):
        return _pool(name, *args, **kwargs)
    if name in SAME or (name == "dropout" and not kwargs.get("training", [*args, True, True, True][2])):
        return args[0]
    if name == "threshold" and len({*args[1:3], *map(kwargs.get, ("threshold", "value"))} - {None}) > 1:
        return None
    return KNOWN[name](*args, **kwargs) if name in KNOWN else None


def _clamp(input, min=None, max=None):
    if max is None or (isinstance(max, float) and max == math.inf):
        return act(input) if isinstance(min, (int, float)) and min == 0 else min + act(input - min)
    below = act(max - input)
    # No sum of two activations: independent units, as the diagonal rule takes them, are right where both are off.
    return max - below if min is None else min + act((max - min) - below)


def _pool(kind, input, *sizes, **options):
    names = ("output_size",) if "adaptive" in kind else ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    options = dict(zip(names, sizes)) | {key: value for key, value in options.items() if key != "return_indices"}
    return max_pool(input, kind, options)


class _Extremes(NamedTuple):
    values: Any
    indices: Any


def _largest(input, dim, keepdim=False):
    """The largest along one axis or several, as a max pooling over their members put last."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    last = input.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    rows = last.reshape(last.shape[0], -1, last.shape[-1])
    top = _pool("adaptive_max_pool1d", rows, 1).reshape(last.shape[:-1])
    for axis in sorted(dims, key=abs) if keepdim else ():
        top = top.unsqueeze(axis)
    return top


def _extremes(sign):
    def extremes(input, dim=None, keepdim=False):
        if dim is None:
            return None
        return _Extremes(sign * _largest(sign * input, dim, keepdim), (sign * input).argmax(dim, keepdim))

    return extremes


KNOWN = {
    "relu": lambda input, inplace=False: act(input),
    "threshold": lambda input, threshold, value, inplace=False: _clamp(input, threshold),
    "leaky_relu": lambda input, negative_slope=0.01, inplace=False: act(input, negative_slope),
    "prelu": lambda input, weight: act(input, weight),
    "abs": lambda input: act(input, -1.0),
    "absolute": lambda input: act(input, -1.0),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda input, max: _clamp(input, None, max),
    "hardtanh": lambda input, min_val=-1.0, max_val=1.0, inplace=False: _clamp(input, min_val, max_val),
    "relu6": lambda input, inplace=False: _clamp(input, 0.0, 6.0),
    "hardsigmoid": lambda input, inplace=False: _clamp(input / 6 + 0.5, 0.0, 1.0),
    "rrelu": lambda input, lower=1 / 8, upper=1 / 3, training=False, inplace=False: (
        None if training else act(input, (lower + upper) / 2)
    ),
    "amax": _largest,
    "amin": lambda input, dim, keepdim=False: -_largest(-input, dim, keepdim),
    "max": _extremes(1),
    "min": _extremes(-1),
    "maximum": lambda input, other: other + act(input - other),
    "minimum": lambda input, other: input - act(input - other),
}


def _cut_head(graph):
    """(name, function) of a trailing Softmax, LogSoftmax or Sigmoid, cut off; or None."""
    end = graph.output_node()
    last = end.args[0]
    if not isinstance(last, fx.Node):
        return None
    name = called(last)
    if name not in ("softmax", "log_softmax", "sigmoid") or not last.args or not isinstance(last.args[0], fx.Node):
        return None
    rest, named = last.args[1:2], {key: value for key, value in last.kwargs.items() if key in ("dim", "dtype")}
    end.args = (last.args[0],)
    graph.erase_node(last)
    return name, lambda x: getattr(torch, name)(x, *rest, **named)


def _gather_activations(graph):
    """cat(act(a), act(b)) as act(cat(a, b)): an activation less to follow."""
    for node in graph.nodes:
        parts = node.args[0] if called(node) in ("cat", "concat") and node.args else ()
        if not isinstance(parts, (tuple, list)) or not all(getattr(p, "target", None) is act for p in parts):
            continue
        slopes = {p.args[1] for p in parts}
        if len(slopes) == 1 and not isinstance(*slopes, fx.Node) and all(len(p.users) == 1 for p in parts):
            with graph.inserting_after(node):
                new = graph.call_function(act, (node, *slopes))
            node.replace_all_uses_with(new, lambda user: user is not new)
            node.args = ([p.args[0] for p in parts], *node.args[1:])
            for p in parts:
                graph.erase_node(p)


def _exchange_pools(graph):
    """Activation and max pooling in the order pooling, activation: the values that are pooled are Gaussian."""
    for pool in graph.nodes:
        before = pool.args[0] if pool.target is max_pool else None
        if before is None or before.target is not act or len(before.users) > 1:
            continue
        if not isinstance(before.args[1], fx.Node) and before.args[1] >= 0:
            with graph.inserting_after(pool):
                new = graph.call_function(act, (pool, before.args[1]))
            pool.replace_all_uses_with(new, lambda user: user is not new)
            pool.args = (before.args[0], *pool.args[1:])
            graph.erase_node(before)


def schedule(pending: list, start: fx.Node, end: fx.Node) -> Iterator[tuple[list, list, list, list]]:
    """(affine nodes, values before them, activations or one pooling behind them, values that pass by), part by part.

    pending: the nodes that depend on the input, in order. Activations join as early as they can.
    """
    state = [start]
    while True:
        blocked: set = set()
        group: list = []
        now: list = []
        later: list = []
        for node in pending:
            waits = any(n in blocked for n in node.all_input_nodes)
            if not waits and node.target not in (act, max_pool):
                now.append(node)
                continue
            blocked.add(node)
            joins = not group or (node.target is act and group[0].target is act)
            (later if waits or not joins else group).append(node)
        needed = [n for node in later for n in node.all_input_nodes if n in {*state, *now}] + [end]
        carried = [n for n in dict.fromkeys(needed) if n not in blocked]
        yield now, state, group, carried
        if not group:
            return
        pending, state = later, group + carried
