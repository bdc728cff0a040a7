"""Limits of a single layer: shapes, operators and output. Each function is one rule.

The input side is in ``constraints_operands``. Start at `LAYER_RULES`.

Source: spec/max78000-cnn.md sections 4.2 and 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from ai8x.max7800x.constraints_base import Finding, Found, LayerRule, Subject, hexadecimal, size_text
from ai8x.max7800x.geometry import HardwareLayer, HardwareOp, is_row_form
from ai8x.max7800x.placement import LANES, channel_passes
from ai8x.network.ir import Activation, Op


def check_channels(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A layer has at most 1024 input and 1024 output channels, in at most 16 passes."""
    limit, passes = subject.limits.max_channels, subject.limits.max_passes
    for key, word, channels in (
        ("in_channels", "input", layer.in_channels),
        ("out_channels", "output", layer.out_channels),
    ):
        if channels > limit or channel_passes(channels)[0] > passes:
            yield Finding(
                code="E0314",
                key=key,
                message=f"{channels} {word} channels are too many",
                found=f"{channels} {word} channels",
                allowed=f"1 to {limit} channels, {passes} passes",
                help=f"reduce the model's {word} channels to {limit}",
            )


def check_size(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Rows and columns are at most 1023, and as the counters see them (padding included, doubled for a transposed
    convolution, times the passes for an emulated element-wise operation) at most 1024.
    """
    limits = subject.limits
    factor = 2 if layer.op is HardwareOp.CONV_TRANSPOSE2D else 1
    row_factor = layer.passes if layer.is_emulated_eltwise else factor
    sizes = (
        ("rows", layer.in_rows, row_factor, layer.pad_rows, limits.max_rows),
        ("columns", layer.in_columns, factor, layer.pad_columns, limits.max_columns),
    )
    for word, size, repeat, pad, limit in sizes:
        count = size * repeat - 1 + 2 * pad
        if size > limit or (count > limits.max_count and not layer.flatten):
            yield Finding(
                code="E0315",
                key="in_dim",
                message=f"{size} input {word} are too many",
                found=f"{size} {word}, last counter value {count}",
                allowed=f"{limit} {word}, and size - 1 + 2*pad at most {limits.max_count}",
                help=f"feed at most {limit} {word}, or fold the input into channels",
            )


def check_frame(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Rows times columns times passes of an input are below 2**21."""
    words = layer.in_pixels * layer.passes
    if words > subject.limits.max_frame_words:
        yield Finding(
            code="E0316",
            key="in_dim",
            message=f"the input has {words} words per operand",
            found=f"{words} words",
            allowed=f"{subject.limits.max_frame_words} words",
            help="use a smaller input",
        )


def check_conv2d(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Conv2d: kernel 1x1 or 3x3, no dilation."""
    conv = layer.layer.conv
    if layer.layer.op is not Op.CONV2D or conv is None:
        return
    if conv.kernel not in subject.limits.conv2d_kernels:
        yield Finding(
            code="E0317",
            key="kernel_size",
            message=f"a {size_text(conv.kernel)} kernel is not supported",
            found=f"kernel {size_text(conv.kernel)}",
            allowed=" or ".join(size_text(kernel) for kernel in subject.limits.conv2d_kernels),
            help="write kernel_size: 3x3 and build a larger kernel from several layers",
        )
    if conv.dilation != (1, 1):
        yield Finding(
            code="E0319",
            key="dilation",
            message=f"Conv2d with dilation {size_text(conv.dilation)} is not supported",
            found=f"dilation {size_text(conv.dilation)}",
            allowed="dilation 1",
            help="write dilation: 1",
        )


def check_conv_stride(_: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A convolution moves by one pixel; subsampling belongs to the pooling of the next layer."""
    conv = layer.layer.conv
    if conv is not None and layer.op is not HardwareOp.CONV_TRANSPOSE2D and max(conv.stride) > 1:
        yield Finding(
            code="E0318",
            key="stride",
            message=f"a convolution with stride {size_text(conv.stride)} is not supported",
            found=f"stride {size_text(conv.stride)}",
            allowed="stride 1",
            help=f"write stride: 1, and pool_stride: {max(conv.stride)} in the next layer, to skip the same pixels",
        )


def check_conv1d(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Conv1d: kernel length 1 to 9."""
    conv = layer.layer.conv
    longest = subject.limits.max_conv1d_kernel
    if layer.layer.op is Op.CONV1D and conv is not None and not 1 <= conv.kernel[0] <= longest:
        yield Finding(
            code="E0320",
            key="kernel_size",
            message=f"a kernel of length {conv.kernel[0]} is not supported",
            found=f"kernel length {conv.kernel[0]}",
            allowed=f"1 to {longest}",
            help=f"write kernel_size: {longest}",
        )


def check_conv1d_dilation(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Dilated Conv1d: more than one tap; either (k-1)*d < 9, or k = 2 or 3, d at most 1023, no pooling, no padding, one
    operand, not streaming, from a FIFO only whole rows of d samples, and for k = 3 an out_offset with room for one row
    before it.
    """
    conv, limits = layer.layer.conv, subject.limits
    if layer.layer.op is not Op.CONV1D or conv is None or conv.dilation[0] == 1:
        return
    kernel, dilation = conv.kernel[0], conv.dilation[0]
    row_form = is_row_form(layer.layer, subject.device)
    if (
        kernel == 1
        or (not row_form and (kernel - 1) * dilation >= limits.max_conv1d_span)
        or dilation > limits.max_dilation
    ):
        yield Finding(
            code="E0321",
            key="dilation",
            message=f"kernel length {kernel} with dilation {dilation} is not supported",
            found=f"kernel_size {kernel}, dilation {dilation}",
            allowed=f"(kernel_size - 1) * dilation below {limits.max_conv1d_span}, or kernel_size 2 to "
            f"{limits.max_conv1d_2d_kernel} with dilation up to {limits.max_dilation}",
            help="write dilation: 1"
            if kernel == 1
            else f"write dilation: {max(1, (limits.max_conv1d_span - 1) // (kernel - 1))}, "
            f"or kernel_size: {limits.max_conv1d_2d_kernel}",
        )
    elif row_form:
        yield from _row_form_findings(layer, dilation)


def _row_form_findings(layer: HardwareLayer, dilation: int) -> Iterator[Found]:
    allowed = f"with dilation {dilation} no pooling, no padding, one operand and no streaming"
    conv = layer.layer.conv
    offenders = (
        ("max_pool", "pooling", not layer.layer.pool.is_identity, "move the pooling to a layer before it"),
        ("pad", "padding", conv is not None and conv.padding[0] > 0, "write pad: 0"),
        (
            "in_sequences",
            "an element-wise operation",
            layer.operands > 1,
            "move the element-wise operation to a layer before it",
        ),
        ("streaming", "streaming", layer.streaming, "write streaming: false"),
    )
    for key, word, broken, action in offenders:
        if broken:
            yield Finding(
                code="E0322",
                key=key,
                message=f"dilation {dilation} does not go together with {word}",
                found=word,
                allowed=allowed,
                help=action,
            )
    samples = layer.layer.operand_shape.height
    if layer.fifo_input and layer.in_pixels != samples:
        yield Finding(
            code="E0322",
            key="dilation",
            message=f"dilation {dilation} reads rows of {dilation} samples, which the FIFO does not complete",
            found=f"{samples} samples, {layer.in_pixels} are read",
            allowed=f"a multiple of {dilation} samples, or input from data memory",
            help=f"leave --fifo out, or feed {layer.in_pixels} samples",
        )
    if layer.placement.out_offset < layer.lead_bytes:
        yield Finding(
            code="E0412",
            key="out_offset",
            message=f"dilation {dilation} writes {layer.lead_bytes} bytes before out_offset",
            found=f"out_offset {hexadecimal(layer.placement.out_offset)}",
            allowed=f"at least {hexadecimal(layer.lead_bytes)} (4 * dilation * output passes)",
            help=f"write out_offset: {hexadecimal(layer.lead_bytes)} and the same in_offset where it is read",
        )


def check_transposed(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """ConvTranspose2d: kernel 3x3, stride 2, pad 0 to 2, output padding 1, no dilation, no pooling."""
    conv, limits = layer.layer.conv, subject.limits
    if layer.op is not HardwareOp.CONV_TRANSPOSE2D or conv is None:
        return
    stride = (limits.transposed_stride, limits.transposed_stride)
    allowed = (
        f"kernel {size_text(limits.transposed_kernel)}, stride {size_text(stride)}, pad 0 to {limits.max_pad}, "
        f"output_pad {limits.transposed_output_pad}, dilation 1, no pooling"
    )
    offenders = (
        (
            "kernel_size",
            f"kernel {size_text(conv.kernel)}",
            conv.kernel != limits.transposed_kernel,
            "write kernel_size: 3x3",
        ),
        (
            "stride",
            f"stride {size_text(conv.stride)}",
            conv.stride != stride,
            f"write stride: {limits.transposed_stride}",
        ),
        (
            "output_pad",
            f"output_pad {conv.output_padding}",
            conv.output_padding != limits.transposed_output_pad,
            f"write output_pad: {limits.transposed_output_pad}",
        ),
        ("dilation", f"dilation {size_text(conv.dilation)}", conv.dilation != (1, 1), "write dilation: 1"),
        ("max_pool", "pooling", not layer.layer.pool.is_identity, "move the pooling to a layer before it"),
    )
    for key, found, broken, action in offenders:
        if broken:
            yield Finding(
                code="E0323",
                key=key,
                message=f"ConvTranspose2d with {found} is not supported",
                found=found,
                allowed=allowed,
                help=action,
            )


def check_pad(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Padding is 0 to 2 and smaller than the kernel."""
    conv, limit = layer.layer.conv, subject.limits.max_pad
    if conv is None:
        return
    for pad, kernel in zip(conv.padding, conv.kernel, strict=True):
        greatest = min(limit, kernel - 1)
        if not 0 <= pad <= greatest:
            yield Finding(
                code="E0324",
                key="pad",
                message=f"pad {pad} is not possible with a kernel of size {kernel}",
                found=f"pad {pad}",
                allowed=f"0 to {greatest} (at most {limit}, less than the kernel)",
                help=f"write pad: {max(0, greatest)}",
            )
            return


def check_output_shift(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """The total output shift (layer shift + 8 - weight bits) is -15 to 15, and 0 for a pass layer."""
    limits, shift = subject.limits, layer.layer.output_shift
    low, high = (limits.min_shift, limits.max_shift) if layer.is_conv else (0, 0)
    if not low <= shift <= high:
        extra = 8 - layer.weight_bits if layer.is_conv else 0
        nearest = min(max(shift, low), high) - extra
        yield Finding(
            code="E0327",
            key="output_shift",
            message=f"a total output shift of {shift} is not possible",
            found=f"{shift} (layer shift {shift - extra}, plus {extra} for {layer.weight_bits}-bit weights)",
            allowed=f"{low} to {high}",
            help=f"write output_shift: {nearest}, or quantize the checkpoint again",
        )


def check_activation(_: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A pass layer and a 32-bit output have no activation."""
    activation = layer.layer.activation
    if activation is Activation.NONE:
        return
    if not layer.is_conv or layer.output_bits == 32:
        reason = "a layer without weights" if not layer.is_conv else "a 32-bit output"
        yield Finding(
            code="E0328",
            key="activate",
            message=f"{reason} has no activation",
            found=f"activate: {activation.value}",
            allowed="None",
            help="write activate: None",
        )


def check_output_width(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A 32-bit output needs a convolution and is read by no other layer; it is meant for the last layer."""
    if layer.output_bits == 8:
        return
    consumers = subject.network.consumers(layer.index)
    if not layer.is_conv or consumers:
        reason = f"layer {consumers[0]} reads it" if consumers else "the layer has no weights"
        yield Finding(
            code="E0329",
            key="output_width",
            message=f"the output cannot be 32 bits wide: {reason}",
            found="output_width: 32",
            allowed="32 for a final convolution, otherwise 8",
            help="write output_width: 8",
        )
    elif layer.index != len(subject.layers) - 1:
        yield Finding(
            code="W0305",
            key="output_width",
            message="a 32-bit output is meant for the last layer",
            found="output_width: 32",
            allowed="32 for the last layer",
            help="write output_width: 8 if the host does not need the accumulators",
            level="warning",
        )


def check_weight_bits(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Weights have 1, 2, 4 or 8 bits."""
    allowed = subject.limits.weight_bits
    if layer.is_conv and layer.weight_bits not in allowed:
        yield Finding(
            code="E0338",
            key="quantization",
            message=f"{layer.weight_bits}-bit weights are not supported",
            found=f"{layer.weight_bits} bits",
            allowed=", ".join(str(bits) for bits in allowed),
            help="write quantization: 8",
        )


def note_groups(_: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A grouped convolution runs as a dense one with zero weights: allowed, at the dense cost."""
    conv = layer.layer.conv
    if conv is not None and conv.groups > 1:
        yield Finding(
            code="W0304",
            key="groups",
            level="notice",
            message=f"{conv.groups} groups run as a dense convolution with zero weights: {conv.groups} times the work",
            found=f"groups {conv.groups}",
            allowed="groups 1 runs natively",
            help="write groups: 1 if the model allows it",
        )


def note_unused_lanes(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Hidden channel counts that are not multiples of 4 leave lanes of a data memory unused."""
    unused = -layer.out_channels % LANES
    if unused and subject.network.consumers(layer.index):
        yield Finding(
            code="W0303",
            key="out_channels",
            level="notice",
            message=f"{layer.out_channels} output channels leave {unused} of {LANES} lanes unused",
            found=f"{layer.out_channels} channels",
            allowed="any number; a multiple of 4 wastes no energy",
            help=f"use {layer.out_channels + unused} channels in the model",
        )


LAYER_RULES: tuple[LayerRule, ...] = (
    check_channels,
    check_size,
    check_frame,
    check_conv2d,
    check_conv_stride,
    check_conv1d,
    check_conv1d_dilation,
    check_transposed,
    check_pad,
    check_output_shift,
    check_activation,
    check_output_width,
    check_weight_bits,
    note_groups,
    note_unused_lanes,
)
"""Every rule that looks at one layer's operation."""
