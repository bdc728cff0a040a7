"""Limits of a layer's input side: pooling, element-wise operations, flattening. Each function is one rule.

Start at `OPERAND_RULES`.

Source: spec/max78000-cnn.md section 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from ai8x.max7800x.constraints_base import Finding, Found, LayerRule, Subject, size_text
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.network.ir import Op


def check_pool_window(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A pooling window has 1 to 16 rows and columns, without dilation, and fits the input."""
    pool, limit = layer.layer.pool, subject.limits.max_pool
    key = "avg_pool" if layer.pools_average else "max_pool"
    if max(pool.window) > limit:
        yield Finding(
            code="E0325",
            key=key,
            message=f"a pooling window of {size_text(pool.window)} is too large",
            found=size_text(pool.window),
            allowed=f"1 to {limit} rows and columns",
            help=f"write {key}: {limit}",
        )
    if pool.dilation != (1, 1):
        yield Finding(
            code="E0325",
            key="pool_dilation",
            message=f"pooling with dilation {size_text(pool.dilation)} is not supported",
            found=f"pool_dilation {size_text(pool.dilation)}",
            allowed="1",
            help="write pool_dilation: 1",
        )


def check_pool_stride(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A pooling stride is 1 to 16 and equal in both directions."""
    stride, limit = layer.layer.pool.stride, subject.limits.max_stride
    unequal = stride[0] != stride[1] and layer.in_columns > 1 and not layer.layer.op.is_1d
    if max(stride) > limit or unequal:
        yield Finding(
            code="E0326",
            key="pool_stride",
            message=f"a pooling stride of {size_text(stride)} is not supported",
            found=size_text(stride),
            allowed=f"1 to {limit}, the same for rows and columns",
            help=f"write pool_stride: {min(*stride, limit)}",
        )


def check_eltwise(_: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """An element-wise operation is not part of a Conv1d.

    Above 64 channels it is a bare pass layer (no convolution, no pooling, no stride) unless it has 2 passes and 2
    operands. (The network representation itself allows 2 to 16 operands of equal shape only.)
    """
    if layer.operands == 1:
        return
    if layer.layer.op is Op.CONV1D:
        yield Finding(
            code="E0331",
            key="eltwise",
            message="an element-wise operation cannot be part of a Conv1d",
            found="Conv1d",
            allowed="Conv2d, ConvTranspose2d, Linear or a pass layer",
            help="move the element-wise operation to a layer of its own",
        )
    bare = not layer.is_conv and layer.layer.pool.is_identity
    if layer.is_emulated_eltwise and not bare:
        yield Finding(
            code="E0333",
            key="operands",
            message=f"{layer.operands} operands of {layer.in_channels} channels cannot be pooled or convolved at once",
            found=f"{layer.operands} operands in {layer.passes} passes",
            allowed="2 operands in 2 passes, or a layer that does nothing else",
            help="put the element-wise operation into a layer of its own",
        )


def check_pool_first(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """pool_first: false needs pooling and an element-wise operation of at most 2 operands."""
    if layer.layer.pool_first:
        return
    most = subject.limits.max_operands_pool_after
    if layer.operands == 1 or not layer.is_pooled or layer.operands > most:
        yield Finding(
            code="E0334",
            key="pool_first",
            message="pool_first: false needs pooling and an element-wise operation",
            found=f"{layer.operands} operands, {'pooling' if layer.is_pooled else 'no pooling'}",
            allowed=f"2 to {most} operands with pooling",
            help="write pool_first: true",
        )


def check_pass_pooling(_: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A pass layer of more than 64 channels pools only to a single pixel."""
    pixels = layer.pooled_rows * layer.pooled_columns
    if not layer.is_conv and layer.passes > 1 and layer.is_pooled and pixels > 1:
        yield Finding(
            code="E0335",
            key="max_pool",
            message=f"{layer.in_channels} channels cannot be pooled without a convolution",
            found=f"{layer.passes} passes, pooled size {layer.pooled_rows}x{layer.pooled_columns}",
            allowed="1 pass, or a pooled size of 1x1",
            help="pool in the convolution that follows",
        )


def check_flatten(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A flattened input has at most 256 pixels and 16384 features, and is neither pooled nor streamed."""
    if not layer.flatten:
        return
    limits, features = subject.limits, layer.in_channels * layer.flatten_pixels
    if layer.flatten_pixels > limits.max_flatten_pixels or features > limits.max_flatten_features:
        yield Finding(
            code="E0336",
            key="flatten",
            message=f"an input of {layer.in_channels} channels and {layer.flatten_pixels} pixels is "
            "too large to be flattened",
            found=f"{layer.flatten_pixels} pixels, {features} features",
            allowed=f"{limits.max_flatten_pixels} pixels and {limits.max_flatten_features} features",
            help="pool before the linear layer",
        )
    for key, word, broken in (
        ("max_pool", "pooling", not layer.layer.pool.is_identity),
        ("streaming", "streaming", layer.streaming),
    ):
        if broken:
            yield Finding(
                code="E0337",
                key=key,
                message=f"flatten does not go together with {word}",
                found=word,
                allowed="flatten alone",
                help=f"move the {word} to the layer before",
            )


OPERAND_RULES: tuple[LayerRule, ...] = (
    check_pool_window,
    check_pool_stride,
    check_eltwise,
    check_pool_first,
    check_pass_pooling,
    check_flatten,
)
"""Every rule that looks at what enters a layer."""
