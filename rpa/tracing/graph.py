"""The forward pass of a torch module as a torch.fx graph in which every known nonlinearity is `act` or `max_pool`."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["COPIES", "STRAIGHT", "SUMS", "UNITS", "WEIGHTED", "act", "advice", "broadcast", "called", "check_evaluable",
           "head_of", "max_pool", "record", "schedule", "unwrapped"]  # fmt: skip

WEIGHTED = ("linear", "conv1d", "conv2d", "conv3d", "scaled")  # called with (input, weight, bias, ...)
SUMS = ("add", "sub")  # what does not depend on the input is a constant
UNITS = (
    "flatten",
    "view",
    "reshape",
    "cat",
    "concat",
    "unflatten",
    "permute",
    "transpose",
    "chunk",
    "split",
    "getitem",
    "unsqueeze",
    "squeeze",
    "scaled",
    "contiguous",
    "clone",
    "dropout",
)  # every unit passes once
COPIES = ("pad", "roll", "flip", "stack", "expand", "repeat")  # some units may pass more often
POOLS = ("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
SAME = ("float", "double", "half", "bfloat16", "to", "type", "detach")
SMOOTH = ("softmax", "sigmoid", "tanh", "gelu", "silu", "swish", "elu", "selu", "softplus", "norm", "attention", "mish")
STRAIGHT = ("softmax", "logsoftmax", "sigmoid", "logsigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "softplus",
            "mish", "exp")  # smooth functions that are almost affine where their input is small  # fmt: skip
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
TRANSPARENT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Threshold,
               nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
               nn.Identity, nn.Flatten, nn.ZeroPad2d, *DROPOUTS)  # fmt: skip
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


def check_evaluable(net: nn.Module, x: torch.Tensor | None = None, name: str = "x", net_name: str = "net") -> None:
    """Raise ValueError unless `net` is a torch module whose output is a function of its input, and takes x (b, *shape).

    Refused by name: what is no module; TorchScript; Dropout or normalization in training mode, or by the statistics of
    the batch; a batch x of a shape that the network does not take (`name` is what the caller calls x).
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
        return
    try:
        with torch.no_grad():
            net(x[:1])
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
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


def record(net: nn.Module, name: str = "net", pool_first: bool = False) -> tuple[fx.GraphModule, tuple | None]:
    """(graph, head): the recorded forward pass, and (name, function) of a trailing Softmax, LogSoftmax or Sigmoid.

    The head is cut off. The graph shares the module's weights.
    """
    root = _Root(unwrapped(net))
    try:
        with torch.no_grad():
            graph = fx.GraphModule(root, _Tracer().trace(root))
    except Exception as error:
        reason = str(error).splitlines()[0]
        kind = type(root.net).__name__
        if "control flow" in reason or "can't be used" in reason or "iterated" in reason:
            reason = "its forward decides by values of its input; write it without if, for or while over the input"
        raise ValueError(f"{name}: torch.fx cannot follow {kind}: {reason}") from error
    graph.graph.eliminate_dead_code()
    placeholders = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    if len(placeholders) > 1:
        raise ValueError(f"{name}: expected one input, got {', '.join(placeholders)}")
    head = _cut_head(graph)
    _gather_activations(graph.graph)
    if pool_first:
        _exchange_pools(graph.graph)
    return graph, head


def head_of(net: nn.Module) -> str:
    """The trailing softmax, log_softmax or sigmoid of a module, or nothing."""
    try:
        return (record(net)[1] or ("",))[0]
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
    """Records the known nonlinearities as `act` and `max_pool`, and nothing in place."""

    def is_leaf_module(self, m, module_qualified_name):
        return super().is_leaf_module(m, module_qualified_name) and not isinstance(m, TRANSPARENT)

    def call_module(self, m, forward, args, kwargs):
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            weight = torch.rsqrt(m.running_var + m.eps) * (1.0 if m.weight is None else m.weight)
            bias = (0.0 if m.bias is None else m.bias) - m.running_mean * weight
            return self.create_proxy("call_function", scaled, (*args, *kwargs.values(), weight, bias), {})
        try:
            self.path_of_module(m)
        except NameError:  # a layer made inside forward
            return forward(*args, **kwargs)
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
    if name == "threshold" and [*args[1:], *kwargs.values()][:2] != [0, 0]:
        return None
    return KNOWN[name](*args, **kwargs) if name in KNOWN else None


def _clamp(input, min=None, max=None):
    if min is None:
        return max - act(max - input)
    low = act(input) if isinstance(min, (int, float)) and min == 0 else min + act(input - min)
    return low if max is None else low - act(input - max)


def _pool(kind, input, *sizes, **options):
    names = ("output_size",) if "adaptive" in kind else ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    options = dict(zip(names, sizes)) | {key: value for key, value in options.items() if key != "return_indices"}
    return max_pool(input, kind, options)


KNOWN = {
    "relu": lambda input, inplace=False: act(input),
    "threshold": lambda input, threshold, value, inplace=False: act(input),
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
    "maximum": lambda input, other: other + act(input - other),
    "minimum": lambda input, other: input - act(input - other),
}


def _cut_head(graph):
    """(name, function) of a trailing Softmax, LogSoftmax or Sigmoid, cut off; or None."""
    end = graph.graph.output_node()
    last = end.args[0]
    if not isinstance(last, fx.Node):
        return None
    layer = type(graph.get_submodule(last.target)).__name__ if last.op == "call_module" else called(last)
    name = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}.get(layer, layer)
    if name not in ("softmax", "log_softmax", "sigmoid") or not isinstance(last.args[0], fx.Node):
        return None
    module = graph.get_submodule(last.target) if last.op == "call_module" else None
    rest, named = last.args[1:], dict(last.kwargs)
    function = getattr(torch, name)
    end.args = (last.args[0],)
    graph.graph.erase_node(last)
    return name, module or (lambda x: function(x, *rest, **{k: v for k, v in named.items() if k in ("dim", "dtype")}))


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
