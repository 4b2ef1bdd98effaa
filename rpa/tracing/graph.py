"""The forward pass of a torch module as a torch.fx graph in which every known nonlinearity is `act` or `max_pool`."""

from __future__ import annotations

import copy
import operator
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn

from rpa.tracing import nonlinear
from rpa.tracing.nonlinear import KNOWN, act, max_pool

NAMED = ("input", "weight", "bias", "other")  # arguments that are recorded by position
# Called with (input, weight, bias, ...).
WEIGHTED = ("linear", "scaled", *(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)))
SUMS = ("add", "sub")  # what does not depend on the input is a constant
# Every unit passes once.
UNITS = ("flatten", "view", "reshape", "cat", "concat", "unflatten", "permute", "transpose", "chunk", "split",
         "getitem", "unsqueeze", "squeeze", "scaled", "contiguous", "clone")  # fmt: skip
COPIES = ("pad", "roll", "flip", "stack", "expand", "repeat")  # some units may pass more often
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
# Layers that torch.fx cannot follow, beside those that make weights of weights.
OPAQUE = (nn.modules.padding._CircularPadNd, nn.modules.instancenorm._InstanceNorm, nn.Softmax2d, nn.RNNBase,
          nn.RNNCellBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)  # fmt: skip
IN_PLACE = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}


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
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if layer.training and (drops or isinstance(layer, NORMS)):
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


def unwrapped(net: nn.Module) -> nn.Module:
    """The module inside torch.compile's or DataParallel's."""
    while hasattr(net, "_orig_mod") or isinstance(net, nn.DataParallel):
        net = net._orig_mod if hasattr(net, "_orig_mod") else net.module
    return net


def channels_last(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """A copy of a network of 2d convolutions with channels last, in which they take half the time; else net itself.

    x (1, *shape): an input, which a module that calls x.view does not take then.
    """
    if any(isinstance(layer, nn.Conv2d) for layer in net.modules()):
        with suppress(RuntimeError):  # weights that a hook computes cannot be copied
            fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
            fast(x)
            return fast
    return net


def fx_graph(net: nn.Module, name: str = "net", pool_first: bool = False) -> tuple[fx.Graph, nn.Module, tuple | None]:
    """(graph, root, head): the recorded forward pass, the module that its nodes' targets are attributes of, and (name,
    function) of a trailing Softmax, LogSoftmax or Sigmoid, which is cut off.

    The root shares the module's weights.
    """
    # As a part of another module, it may be a single layer, and torch.fx writes no constants into it.
    root = nn.Sequential(unwrapped(net))
    try:
        with torch.no_grad():
            graph = _Tracer(root).trace(root)
    except Exception as error:
        reason = str(error).splitlines()[0]
        if "control flow" in reason or "can't be used" in reason or "iterated" in reason:
            reason = "its forward decides by values of its input; write it without if, for or while over the input"
        if "() takes" in reason or "an int" in reason or "SymInt" in reason:
            reason += "; make tensors as x.new_zeros(...) does"
        raise ValueError(f"{name}: torch.fx cannot follow {type(root[0]).__name__}: {reason}") from error
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    head = _cut_head(graph)
    _delay_activations(graph, pool_first)
    return graph, root, head


def head_of(net: nn.Module) -> str:
    """The trailing softmax, log_softmax or sigmoid of a module, or nothing."""
    try:
        return (fx_graph(net)[2] or ("",))[0]
    except ValueError:
        return ""


class _Tracer(fx.Tracer):
    """Records layers by the functions that they call, nonlinearities as `act` and `max_pool`, and nothing in place."""

    def __init__(self, root):
        super().__init__(())  # to follow calls of the module math takes most of the time of a small network
        self._names = {id(parameter): name for name, parameter in root.named_parameters()}

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        name = self._names.get(id(attr_val))  # fx.Tracer goes through all parameters for every one
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, OPAQUE) or type(m).__module__.startswith("torch.nn.utils.parametrizations")

    def call_module(self, m, forward, args, kwargs):
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            weight = torch.rsqrt(m.running_var + m.eps) * (1.0 if m.weight is None else m.weight)
            bias = (0.0 if m.bias is None else m.bias) - m.running_mean * weight
            return nonlinear.scaled(*args, *kwargs.values(), weight, bias)
        try:
            self.path_of_module(m)
        except NameError:  # a layer made inside forward
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_proxy(self, kind, target, args, kwargs, *more, **options):
        if kind in ("call_function", "call_method"):
            target = IN_PLACE.get(target, target)
            name = getattr(target, "__name__", str(target))
            name = name if name.endswith("__") else name.removesuffix("_").removeprefix("_")
            new = KNOWN[name](*args, **kwargs) if name in KNOWN else None
            if new is not None:
                return new
            target = name if kind == "call_method" else target
            kwargs = {**kwargs, "inplace": False} if kwargs.get("inplace") else kwargs
            if name in (*WEIGHTED, *SUMS):
                args = (*args, *(kwargs[key] for key in NAMED if key in kwargs))
                kwargs = {key: value for key, value in kwargs.items() if key not in NAMED}
            if "alpha" in kwargs and name in SUMS:
                args, kwargs = (args[0], kwargs["alpha"] * args[1]), {}
        return super().create_proxy(kind, target, args, kwargs, *more, **options)


def _cut_head(graph):
    """(name, function) of a trailing Softmax, LogSoftmax or Sigmoid, cut off; or None."""
    end = graph.output_node()
    last = end.args[0]
    name = called(last) if isinstance(last, fx.Node) else ""
    if name not in ("softmax", "log_softmax", "sigmoid"):
        return None
    rest, named = last.args[1:2], {key: value for key, value in last.kwargs.items() if key in ("dim", "dtype")}
    end.args = (last.all_input_nodes[0],)
    graph.erase_node(last)
    return name, lambda x: getattr(torch, name)(x, *rest, **named)


def _delay_activations(graph, pool_first):
    """cat(act(a), act(b)) as act(cat(a, b)), an activation less to follow. And, if pool_first, max_pool(act(a)) as
    act(max_pool(a)): the values that are pooled are Gaussian.
    """
    for node in graph.nodes:
        if called(node) not in ("cat", "concat") and not (pool_first and node.target is max_pool):
            continue
        before = node.all_input_nodes
        slopes = {each.args[1] if each.target is act and len(each.users) == 1 else None for each in before}
        slope = slopes.pop()
        if slopes or not isinstance(slope, (int, float)) or (node.target is max_pool and slope < 0):
            continue
        with graph.inserting_after(node):
            new = graph.call_function(act, (node, slope))
        node.replace_all_uses_with(new, lambda user, new=new: user is not new)
        for each in before:
            node.replace_input_with(each, each.args[0])
            graph.erase_node(each)
