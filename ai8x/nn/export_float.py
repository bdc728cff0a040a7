"""A model with float parameters as ONNX: for viewers, and for other tools that quantise themselves.

Layers are written as they compute in float mode: pooling, operation, BatchNorm, activation, clamp. Parameters of
quantisation-aware training are written without rounding. Start at `export_float_onnx`.

Source: spec/ai8x-training.md sections 5.2 and 7 (float mode); issue 4, "float export".
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ai8x.errors import UserError, user_error
from ai8x.network.onnx_graph import GraphBuilder, TensorInfo
from ai8x.nn import elementwise
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import BATCHNORM_DIVISOR, ElementwiseModule, Mode, QuantizationAwareModule, model_mode
from ai8x.nn.functional import Q7_MAX, Q7_MIN, WIDE_LIMIT, ActivationKind
from ai8x.nn.trace import Call, Value, trace_model

INPUT_NAME = "input"
_OPERATORS = {elementwise.Add: "Add", elementwise.Sub: "Sub"}
_PLAIN_FUNCTIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def export_float_onnx(model: nn.Module, input_shape: tuple[int, ...], *, name: str,
                      labels: tuple[str, ...] = ()) -> bytes:
    """The bytes of an ``.onnx`` file of a model in float mode.

    Args:
        model: in float or QAT mode.
        input_shape: (C, H, W) or (C, L).
        name: of the model.
        labels: names of the classes, for the metadata.

    Raises:
        UserError: E0817 where onnx is not installed, E0723 for functions between layers that have no counterpart,
            E0724 for a model in integer mode.
    """
    if model_mode(model) is Mode.INTEGER:
        raise user_error("E0724", "the model holds integers", found="a quantised checkpoint",
                         allowed="float parameters", help="write quantize.py IN --onnx FILE for the integer network")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    trace = trace_model(model, torch.zeros(1, *input_shape, device=device))
    exporter = _Exporter(trace.calls)
    outputs = [exporter.output(number, value) for number, value in enumerate(trace.outputs)]
    metadata = {"ai8x.labels": json.dumps(list(labels)), "ai8x.input": "float: multiples of 1/128 from -1 to 127/128"}
    source = TensorInfo(name=INPUT_NAME, dtype=np.float32, shape=input_shape)
    return exporter.graph.serialized(name, [source], outputs, metadata)


class _Exporter:
    """Appends the nodes of one layer after the other."""

    def __init__(self, calls: tuple[Call, ...]) -> None:
        self.graph = GraphBuilder()
        self._input = self.graph.unique(INPUT_NAME)
        self._results: list[str] = []
        for call in calls:
            self._results.append(self._call(call))

    def output(self, number: int, value: Value) -> TensorInfo:
        """Make a value an output of the graph."""
        name = self.graph.node("Identity", [self._value(value, "output")], f"output{number or ''}")
        return TensorInfo(name=name, dtype=np.float32, shape=value.shape[1:])

    def _scalar(self, value: float) -> str:
        return self.graph.constant("constant", np.array(value, np.float32))

    def _value(self, value: Value, reader: str) -> str:
        """The tensor of a value.

        Raises:
            UserError: E0723.
        """
        if value.kind == "input":
            return self._input
        if value.kind == "layer":
            return self._results[value.call]
        parts = [self._value(part, reader) for part in value.parts]
        if value.kind == "shape":
            sizes = np.array([0, *value.shape[1:]], np.int64)
            return self.graph.node("Reshape", [parts[0], self.graph.constant("sizes", sizes)], "reshaped")
        if value.kind == "concat":
            return self.graph.node("Concat", parts, "concat", axis=1)
        if value.kind in _PLAIN_FUNCTIONS and len(parts) == 1:
            return self.graph.node(_PLAIN_FUNCTIONS[value.kind], parts, value.kind)
        if value.kind in ("softmax", "log_softmax") and len(value.shape) == 2:
            return self.graph.node("Softmax" if value.kind == "softmax" else "LogSoftmax", parts, value.kind, axis=1)
        raise _refusal(reader, value.kind)

    def _call(self, call: Call) -> str:
        operands = [self._value(operand, call.name) for operand in call.operands]
        name = call.name.replace(".", "_") or "layer"
        if isinstance(call.layer, ElementwiseModule):
            return self._combined(call.layer, operands, name)
        data = self._pooled(call.layer, operands[0], name)
        return data if call.layer.op is None else self._operated(call.layer, data, name)

    def _combined(self, layer: ElementwiseModule, operands: list[str], name: str) -> str:
        if type(layer) not in _OPERATORS:
            raise _refusal(name, f"{type(layer).__name__}, which combines bits of integers")
        result = operands[0]
        for operand in operands[1:]:
            result = self.graph.node(_OPERATORS[type(layer)], [result, operand], name)
        return result if layer.scheme is Scheme.V2 else self._clip(result, Q7_MIN, Q7_MAX, name)

    def _clip(self, data: str, low: float, high: float, name: str) -> str:
        return self.graph.node("Clip", [data, self._scalar(low), self._scalar(high)], f"{name}_clamped")

    def _pooled(self, layer: QuantizationAwareModule, data: str, name: str) -> str:
        pool = layer.pool
        if pool is None:
            return data
        window = {"kernel_shape": list(pool.size), "strides": list(pool.stride)}
        if pool.kind == "Max":
            return self.graph.node("MaxPool", [data], f"{name}_pool", dilations=list(pool.dilation), **window)
        mean = self.graph.node("AveragePool", [data], f"{name}_pool", **window)
        return mean if layer.scheme is Scheme.V2 else self._clip(mean, Q7_MIN, Q7_MAX, f"{name}_pool")

    def _operated(self, layer: QuantizationAwareModule, data: str, name: str) -> str:
        graph = self.graph
        sums = self._sums(layer, data, name)
        if layer.bn is not None:
            sums = self._normalised(layer, layer.bn, sums, name)
        factor = 1.0
        if layer.scheme is Scheme.V2 and not layer.wide:
            factor = 2.0 ** -float(layer.activation_threshold)
        if factor != 1.0:
            sums = graph.node("Mul", [sums, self._scalar(factor)], f"{name}_scaled")
        if layer.activation is ActivationKind.RELU:
            sums = graph.node("Relu", [sums], f"{name}_relu")
        elif layer.activation is ActivationKind.ABS:
            sums = graph.node("Abs", [sums], f"{name}_abs")
        if layer.scheme is Scheme.V1:
            low, high = (-WIDE_LIMIT, WIDE_LIMIT) if layer.wide else (Q7_MIN, Q7_MAX)
            return self._clip(sums, low, high, name)
        if float(layer.final_scale):
            return graph.node("Mul", [sums, self._scalar(2.0 ** float(layer.final_scale))], f"{name}_final")
        return sums

    def _sums(self, layer: QuantizationAwareModule, data: str, name: str) -> str:
        op = layer.op
        if op is None:
            raise TypeError("a layer that only pools has no operation")
        constants = [self._constant(f"{name}_{kind}", array) for kind, array in (("weight", op.weight),
                                                                                ("bias", op.bias)) if array is not None]
        if isinstance(op, nn.Linear):
            return self.graph.node("Gemm", [data, *constants], f"{name}_sums", transB=1)
        padding = [int(p) for p in op.padding]
        attributes: dict[str, Any] = {"kernel_shape": list(op.kernel_size), "strides": list(op.stride),
                                      "dilations": list(op.dilation), "group": op.groups, "pads": [*padding, *padding]}
        if isinstance(op, nn.ConvTranspose2d):
            return self.graph.node("ConvTranspose", [data, *constants], f"{name}_sums",
                                   output_padding=list(op.output_padding), **attributes)
        return self.graph.node("Conv", [data, *constants], f"{name}_sums", **attributes)

    def _normalised(self, layer: QuantizationAwareModule, bn: nn.Module, sums: str, name: str) -> str:
        """BatchNorm and, in the first generation, the division behind it."""
        if not isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)) or bn.running_mean is None \
                or bn.running_var is None:
            raise _refusal(name, "a BatchNorm without running statistics")
        ones = torch.ones_like(bn.running_mean)
        gamma, beta = (ones if bn.weight is None else bn.weight), (0 * ones if bn.bias is None else bn.bias)
        named = {"gamma": gamma, "beta": beta, "mean": bn.running_mean, "var": bn.running_var}
        constants = [self._constant(f"{name}_bn_{kind}", array) for kind, array in named.items()]
        result = self.graph.node("BatchNormalization", [sums, *constants], f"{name}_bn", epsilon=bn.eps)
        if layer.scheme is Scheme.V2:
            return result
        return self.graph.node("Mul", [result, self._scalar(1 / BATCHNORM_DIVISOR)], f"{name}_bn")

    def _constant(self, name: str, tensor: Tensor) -> str:
        array: NDArray[Any] = tensor.detach().cpu().numpy()
        return self.graph.constant(name, array)


def _refusal(reader: str, what: str) -> UserError:
    return user_error("E0723", f"'{reader}' reads something that has no counterpart in the export", found=what,
                      allowed="outputs of layers, concatenated, reshaped, or behind relu, sigmoid, tanh or softmax",
                      help="write that part with layers of ai8x")
