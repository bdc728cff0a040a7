"""Placed steps -> layers of a kmodel: register fields and bodies.

Start at `encode_step`; `Places` says where maps and main-memory tensors lie.

Source: spec/k210-kmodel.md sections 3, 4.2, 8.1 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ai8x.k210.device import (
    channels_per_line,
    channels_per_load,
    encode_layer_argument,
    lines_per_group,
    lines_per_row,
)
from ai8x.k210.kmodel_layers import (
    Act,
    AveragePool2d,
    Dequantize,
    FullyConnected,
    GlobalAveragePool2d,
    K210AddPadding,
    K210Conv,
    K210RemovePadding,
    K210Upload,
    KModelLayer,
    MemoryRange,
    Quantize,
    QuantizedAdd,
    QuantizedConcat,
    QuantizedMaxPool2d,
    Requantize,
)
from ai8x.k210.kmodel_own import Ai8xAveragePool2d, Ai8xBitwise, BitwiseOperation
from ai8x.k210.parameters import ZERO_POINT
from ai8x.k210.steps import (
    AverageStep,
    ConvStep,
    CpuOp,
    CpuStep,
    EltwiseStep,
    FloatStep,
    GatherStep,
    MainBuffer,
    MaxPoolStep,
    Step,
    UploadStep,
)
from ai8x.network.ir import Eltwise

_ADDITION_RAISE = 256
"""Makes every sum and difference of two activations positive."""

_BITWISE = MappingProxyType({Eltwise.OR: BitwiseOperation.OR, Eltwise.XOR: BitwiseOperation.XOR})

_BURST = 15
"""dma_burst_size of every known file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Addresses by name.

    Args:
        lines: of maps, in KPU RAM.
        main: of tensors, in bytes of the main buffer.
    """

    lines: Mapping[str, int]
    main: Mapping[str, int]

    def address(self, buffer: MainBuffer) -> int:
        """Address of a main-memory tensor."""
        return self.main[buffer.name]


def encode_step(step: Step, places: Places) -> KModelLayer:
    """The kmodel layer of a step."""
    return _ENCODERS[type(step)](step, places)


def _encode_conv(step: ConvStep, places: Places) -> K210Conv:
    parameters = step.parameters
    return K210Conv(words=encode_layer_argument(conv_fields(step, places)), weights=parameters.weights,
                    batch_norm=parameters.batch_norm, activation=parameters.table,
                    main_memory_output=places.address(step.main) if step.main else None)


def conv_fields(step: ConvStep, places: Places) -> dict[str, int]:
    """The layer argument's fields; section 3. Addresses of parameters stay 0 for the runner to set."""
    source, target, parameters = step.source, step.target, step.parameters
    out_channels, in_channels, kernel, _ = parameters.weights.shape
    per_load = out_channels if step.depthwise else channels_per_load(in_channels, out_channels, kernel)
    height, width = source.height, source.width
    return {
        "depth_wise_layer": int(step.depthwise),
        "image_src_addr": places.lines[source.parts[0].name], "image_dst_addr": places.lines[target.name],
        "i_ch_num": source.channels - 1, "o_ch_num": out_channels - 1, "o_ch_num_coef": per_load - 1,
        "i_row_wid": width - 1, "i_col_high": height - 1,
        "o_row_wid": target.width - 1, "o_col_high": target.height - 1,
        "kernel_type": int(kernel == 3), "pool_type": step.pool, "load_para": 1, "dma_burst_size": _BURST,
        "pad_value": ZERO_POINT, "load_coor": 1, "load_time": -(-out_channels // per_load) - 1,
        "para_size": per_load * in_channels * kernel * kernel,
        "channel_switch_addr": lines_per_group(height, width), "row_switch_addr": lines_per_row(width),
        "coef_group": channels_per_line(width), "load_act": 1,
        "wb_channel_switch_addr": lines_per_group(target.height, target.width),
        "wb_row_switch_addr": lines_per_row(target.width), "wb_group": channels_per_line(target.width),
        "arg_x": parameters.arg_x, "arg_w": parameters.arg_w, "arg_add": parameters.arg_add,
        "channel_byte_num": (target.height * target.width - 1) & 0xFFFF, "dma_total_byte": target.size_bytes - 1,
    }


def _encode_upload(step: UploadStep, places: Places) -> KModelLayer:
    source, line = places.address(step.source), places.lines[step.target.name]
    if step.single:
        return K210AddPadding(input=source, kpu_line=line, channels=step.target.channels)
    return K210Upload(input=source, kpu_line=line, width=step.target.width, height=step.target.height,
                      channels=step.target.channels)


def _encode_eltwise(step: EltwiseStep, places: Places) -> KModelLayer:
    """``a + b`` or ``a - b``, limited to a byte; or a bitwise layer of our own.

    The shift is 1 and the factor 2, for a shift of 0 is not defined; the value that is shifted is even and positive, so
    that every reading of the rounding gives the same.

    Source: section 13.2, "Add in main memory".
    """
    first, second, target = (places.address(buffer) for buffer in (step.first, step.second, step.target))
    if step.operation in _BITWISE:
        return Ai8xBitwise(input_a=first, input_b=second, output=target, count=step.target.elements,
                           operation=_BITWISE[step.operation])
    sign = -1 if step.operation is Eltwise.SUB else 1
    return QuantizedAdd(
        input_a=first, input_b=second, output=target, count=step.target.elements,
        offset_a=_ADDITION_RAISE - ZERO_POINT, mul_a=1, shift_a=0, offset_b=-ZERO_POINT, mul_b=sign, shift_b=0,
        offset_output=ZERO_POINT - _ADDITION_RAISE, mul_output=2, shift_output=1)


def _encode_average(step: AverageStep, places: Places) -> KModelLayer:
    """AVERAGE_POOL2D where the source holds floats, else a layer of our own."""
    (channels, height, width), (_, out_height, out_width) = step.shape, step.out_shape
    pool = step.pool
    places_and_sizes = {
        "input": places.address(step.source), "output": places.address(step.target), "input_width": width,
        "input_height": height, "output_width": out_width, "output_height": out_height,
        "kernel_width": pool.window[1], "kernel_height": pool.window[0], "stride_width": pool.stride[1],
        "stride_height": pool.stride[0]}
    if step.source.is_float:
        return AveragePool2d(**places_and_sizes, input_channels=channels, output_channels=channels, pad_width=0,
                             pad_height=0, act=Act.LINEAR)
    return Ai8xAveragePool2d(**places_and_sizes, channels=channels, dilation_width=pool.dilation[1],
                             dilation_height=pool.dilation[0], rounded=int(step.rounded))


def _encode_float(step: FloatStep, places: Places) -> KModelLayer:
    return step.body(places.address(step.source), places.address(step.target))


def _encode_gather(step: GatherStep, places: Places) -> KModelLayer:
    ranges = tuple(MemoryRange(address=places.address(r.buffer) + r.offset, size=r.size) for r in step.ranges)
    return QuantizedConcat(output=places.address(step.target), ranges=ranges)


def _encode_max_pool(step: MaxPoolStep, places: Places) -> QuantizedMaxPool2d:
    (channels, height, width), (out_channels, out_height, out_width) = step.shape, step.out_shape
    return QuantizedMaxPool2d(
        input=places.address(step.source), output=places.address(step.target), input_width=width, input_height=height,
        input_channels=channels, output_width=out_width, output_height=out_height, output_channels=out_channels,
        kernel_width=step.window[1], kernel_height=step.window[0], stride_width=step.stride[1],
        stride_height=step.stride[0], pad_width=0, pad_height=0)


def _encode_cpu(step: CpuStep, places: Places) -> KModelLayer:
    source, target = places.address(step.source), places.address(step.target)
    if step.op is CpuOp.FULLY_CONNECTED:
        assert step.weights is not None and step.bias is not None
        outputs, inputs = step.weights.shape
        return FullyConnected(input=source, output=target, input_channels=inputs, output_channels=outputs,
                              act=Act.RELU if step.relu else Act.LINEAR, weights=step.weights.astype(np.float32),
                              bias=step.bias.astype(np.float32))
    if step.op is CpuOp.REMOVE_PADDING:
        return K210RemovePadding(input=source, output=target, channels=step.target.elements)
    if step.op is CpuOp.REQUANTIZE:
        assert step.table is not None
        return Requantize(input=source, output=target, count=step.target.elements, table=step.table)
    if step.op is CpuOp.GLOBAL_AVERAGE_POOL2D:
        channels = step.target.elements
        return GlobalAveragePool2d(input=source, output=target, kernel_size=step.source.elements // channels,
                                   channels=channels)
    layer = Dequantize if step.op is CpuOp.DEQUANTIZE else Quantize
    return layer(input=source, output=target, count=step.target.elements, scale=step.scale, bias=step.offset)


_ENCODERS: Mapping[type[Step], Callable[[Any, Places], KModelLayer]] = MappingProxyType({
    ConvStep: _encode_conv, UploadStep: _encode_upload, GatherStep: _encode_gather, EltwiseStep: _encode_eltwise,
    FloatStep: _encode_float, AverageStep: _encode_average, MaxPoolStep: _encode_max_pool, CpuStep: _encode_cpu})
