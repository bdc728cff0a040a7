"""Steps of a quantised float network beyond those of exact lowering, and their encoding.

Start at `QuantizedBuilder` and `encode_quantized`.

Source: spec/k210-kmodel.md sections 3, 8.1 and 9.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ai8x.k210.builder import StepBuilder
from ai8x.k210.device import encode_layer_argument
from ai8x.k210.encode import Places, conv_fields, encode_step
from ai8x.k210.kmodel_layers import K210Conv, KModelLayer
from ai8x.k210.parameters import ZERO_POINT
from ai8x.k210.quantize_parameters import QuantizedParameters
from ai8x.k210.steps import ByteRange, ConvStep, CpuOp, CpuStep, FloatStep, GatherStep, MainBuffer, Step
from ai8x.network.ir import Layer

_ZERO_REGION = 256
"""Bytes of the region that borders are copied from."""


class QuantizedBuilder(StepBuilder):
    """Collects steps on tensors with zero points of their own.

    Whoever asks for a step that may need zeros first sets `border`, the byte that stands for zero in the tensors
    concerned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.border = ZERO_POINT
        self._regions: dict[int, MainBuffer] = {}

    def append_float(self, step: FloatStep) -> MainBuffer:
        """Add a step of any CPU layer; returns its result."""
        self.append(step)
        return step.target

    def zero_region(self, source: MainBuffer, layer: Layer) -> MainBuffer:
        """Bytes that all hold `border`, made of any bytes by a table of one value."""
        if self.border not in self._regions:
            name = f"{layer.name}: zeros"
            part = self.new_buffer(min(_ZERO_REGION, source.elements))
            self.append(CpuStep(name=name, layer=layer.index, op=CpuOp.REQUANTIZE, source=source, target=part,
                                table=np.full(256, self.border, np.uint8)))
            repeats = -(-_ZERO_REGION // part.elements)
            region = part
            if repeats > 1:
                region = self.new_buffer(part.elements * repeats)
                ranges = (ByteRange(buffer=part, offset=0, size=part.elements),) * repeats
                self.append(GatherStep(name=name, layer=layer.index, ranges=ranges, target=region))
            self._regions[self.border] = region
        return self._regions[self.border]

    def end_in_main_memory(self) -> None:
        """The runner ends only behind a layer whose result leaves the KPU; section 8.1."""
        last = self.steps[-1]
        if isinstance(last, ConvStep) and last.main is None:
            self.steps[-1] = replace(last, main=self.new_buffer(last.target.size_bytes))


def encode_quantized(step: Step, places: Places) -> KModelLayer:
    """The kmodel layer of a step; as `encode_step`, with the layer's own padding byte."""
    if isinstance(step, ConvStep) and isinstance(step.parameters, QuantizedParameters):
        parameters = step.parameters
        fields = conv_fields(step, places) | {"pad_value": parameters.pad_value}
        return K210Conv(words=encode_layer_argument(fields), weights=parameters.weights,
                        batch_norm=parameters.batch_norm, activation=parameters.table,
                        main_memory_output=places.address(step.main) if step.main else None)
    return encode_step(step, places)
