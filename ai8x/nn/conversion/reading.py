"""From the calls of a run to a graph of operations, with every call that no chip layer computes as a finding.

Owns the table of modules and functions. Start at `read_graph`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ai8x.errors import Diagnostic, Diagnostics
from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule
from ai8x.nn.conversion.arguments import NotPossible, Reading, described, notice, refusal, replaced_notice
from ai8x.nn.conversion.capture import Call, Capture, Ref, output_refs
from ai8x.nn.conversion.graph import (
    Graph,
    Identity,
    Input,
    Node,
    Operation,
    Origin,
    Unknown,
    output_shape,
)
from ai8x.nn.conversion.read_layers import (
    Reader,
    read_abs,
    read_batchnorm,
    read_clamp,
    read_convolution,
    read_dropout,
    read_host_function,
    read_identity,
    read_linear,
    read_other_activation,
    read_other_norm,
    read_ready,
    read_relu,
    read_transposed,
    refuse,
)
from ai8x.nn.conversion.read_pools import read_adaptive_pool, read_mean, read_pool
from ai8x.nn.conversion.read_shapes import (
    read_concatenation,
    read_enlargement,
    read_negation,
    read_padding,
    read_pixel_shuffle,
    read_product,
    read_reshape,
    read_slice,
    read_sum,
)

INPUT_NAME = "input"

_NAMES: Mapping[Reader, str] = {
    read_convolution: "Conv1d Conv2d conv1d conv2d",
    read_transposed: "ConvTranspose2d conv_transpose2d",
    read_linear: "Linear linear",
    read_batchnorm: "BatchNorm1d BatchNorm2d batch_norm",
    read_relu: "ReLU relu",
    read_abs: "abs absolute",
    read_clamp: "ReLU6 Hardtanh relu6 hardtanh clamp clip clamp_min",
    read_other_activation: "LeakyReLU ELU SELU CELU GELU SiLU Mish Hardswish Softplus Softsign RReLU PReLU Hardsigmoid "
    "LogSigmoid Threshold Hardshrink Softshrink Tanhshrink leaky_relu elu selu celu gelu silu mish hardswish softplus "
    "softsign rrelu prelu hardsigmoid logsigmoid threshold",
    read_dropout: "Dropout Dropout1d Dropout2d AlphaDropout FeatureAlphaDropout dropout dropout1d dropout2d "
    "alpha_dropout feature_alpha_dropout",
    read_host_function: "Softmax LogSoftmax Softmax2d Sigmoid Tanh softmax log_softmax sigmoid tanh argmax",
    read_identity: "Identity contiguous clone detach data to float type_as requires_grad",
    read_other_norm: "LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d LocalResponseNorm RMSNorm layer_norm "
    "group_norm instance_norm local_response_norm rms_norm normalize",
    read_pool: "MaxPool1d MaxPool2d AvgPool1d AvgPool2d max_pool1d max_pool2d avg_pool1d avg_pool2d",
    read_adaptive_pool: "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d",
    read_mean: "mean amax",
    read_reshape: "Flatten Unflatten flatten unflatten view reshape squeeze unsqueeze view_as reshape_as",
    read_concatenation: "cat concat concatenate",
    read_sum: "add iadd radd sub isub subtract rsub",
    read_product: "mul multiply imul rmul div truediv true_divide",
    read_negation: "neg negative",
    read_padding: "ZeroPad1d ZeroPad2d ConstantPad1d ConstantPad2d ReflectionPad1d ReflectionPad2d ReplicationPad1d "
    "ReplicationPad2d CircularPad1d CircularPad2d pad",
    read_slice: "getitem",
    read_enlargement: "Upsample UpsamplingNearest2d UpsamplingBilinear2d interpolate upsample",
    read_pixel_shuffle: "PixelShuffle pixel_shuffle",
}

READERS: Mapping[str, Reader] = {name: reader for reader, names in _NAMES.items() for name in names.split()}
"""Name of a class of torch.nn or of a function -> its reader; in-place spellings lose their underscore."""


def reader_of(call: Call) -> Reader:
    """What reads a call."""
    if isinstance(call.target, (QuantizationAwareModule, ElementwiseModule)):
        return read_ready
    if not isinstance(call.target, nn.Module):
        return READERS.get(call.name, refuse)
    return next((READERS[c.__name__] for c in type(call.target).__mro__ if c.__name__ in READERS), refuse)


class _GraphReader:
    """Reads one call after the other; one instance makes one graph."""

    def __init__(self, *, replace_unsupported: bool) -> None:
        self.findings = Diagnostics()
        self.is_exact = True
        self._replace = replace_unsupported
        self._nodes: list[Node] = []
        self._names: dict[int, str] = {}
        self._used: set[str] = set()

    def unique(self, stem: str) -> str:
        """A node name: a Python identifier that is not in use."""
        clean = self._clean(stem)
        name, number = clean, 2
        while name in self._used:
            name, number = f"{clean}_{number}", number + 1
        self._used.add(name)
        return name

    @staticmethod
    def _clean(stem: str) -> str:
        """A Python identifier."""
        clean = re.sub(r"\W", "_", stem) or "layer"
        return f"layer_{clean}" if clean[0].isdigit() else clean

    def add_input(self, ref: Ref) -> None:
        """The first node."""
        self._names[ref.number] = self.unique(INPUT_NAME)
        self._nodes.append(Node(name=self._names[ref.number], operation=Input(), inputs=(), shape=ref.shape,
                                label=INPUT_NAME, origin=Origin(path="", what="input of the model")))

    def add_call(self, call: Call) -> None:
        """The nodes of a call."""
        origin = Origin(path=call.path, what=described(call), source=call.source)
        reading = self._read(call, origin)
        operands = tuple(self._names[ref.number] for ref in _read(call, reading.operations))
        stem = call.path if isinstance(call.target, nn.Module) else f"{call.path}.{call.name}".strip(".")
        shape = call.operands()[0].shape
        for position, operation in enumerate(reading.operations):
            is_last = position == len(reading.operations) - 1
            shape = call.result[0].shape if is_last else output_shape(operation, shape)
            name = self.unique(stem)
            self._nodes.append(Node(name=name, operation=operation, inputs=operands, shape=shape, origin=origin,
                                    label=self._clean(stem)))
            operands = (name,)
        for ref in call.result:
            self._names[ref.number] = operands[0]

    def _read(self, call: Call, origin: Origin) -> Reading:
        try:
            if any(0 in ref.shape for ref in (*call.operands(), *call.result)):
                raise NotPossible("nothing is left of the data", code="E0763", help="larger inputs")
            reading = reader_of(call)(call)
        except NotPossible as problem:
            return Reading(operations=self._refused(problem, origin))
        for text, remedy in reading.notices:
            self.findings.add(notice(origin, text, help=remedy))
        self.is_exact &= not reading.is_inexact
        return reading

    def _refused(self, problem: NotPossible, origin: Origin) -> tuple[Operation, ...]:
        if self._replace and problem.replacement is not None:
            self.findings.add(replaced_notice(problem, origin))
            self.is_exact = False
            return problem.replacement
        self.findings.add(refusal(problem, origin))
        return (Unknown(),)

    def graph(self, output: Any) -> Graph:
        """All nodes, with what the model returns."""
        refs = output_refs(output)
        return Graph(nodes=tuple(self._nodes), outputs=tuple(dict.fromkeys(self._names[r.number] for r in refs)),
                     structure=self._structure(output))

    def _structure(self, output: Any) -> Any:
        if isinstance(output, Ref):
            return self._names[output.number]
        if isinstance(output, Mapping):
            return {key: self._structure(value) for key, value in output.items()}
        if isinstance(output, tuple):
            return tuple(self._structure(value) for value in output)
        if output is not None:
            self.findings.add(Diagnostic(
                code="E0761", message=f"the model returns {_article(output)} that does not depend on its input",
                found=type(output).__name__, allowed="tensors computed from the input, in tuples, lists and mappings",
                help="return it from a function around the model instead"))
        return None


def _article(output: Any) -> str:
    return "a tensor" if isinstance(output, Tensor) else f"a value of type {type(output).__name__}"


def _read(call: Call, operations: tuple[Operation, ...]) -> tuple[Ref, ...]:
    """The operands of a call; what is passed on is the one of the result's shape (the other gated it)."""
    operands = call.operands()
    if len(operations) != 1 or not isinstance(operations[0], Identity):
        return operands
    return tuple(ref for ref in operands if ref.shape == call.result[0].shape)[:1]


def read_graph(capture: Capture, *, replace_unsupported: bool = False) -> tuple[Graph, Diagnostics, bool]:
    """The graph of a run.

    Args:
        capture: the run.
        replace_unsupported: put nearest forms in the place of what no layer computes.

    Returns:
        The graph, refusals and notices, and whether its outputs are those of the model.
    """
    reader = _GraphReader(replace_unsupported=replace_unsupported)
    reader.add_input(capture.input)
    for call in capture.calls:
        reader.add_call(call)
    return reader.graph(capture.output), reader.findings, reader.is_exact
