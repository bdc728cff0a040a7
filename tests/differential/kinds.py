"""What is drawn: one function for each corner of the accelerator's abilities. Start at `KINDS` and `draw_case`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ai8x.max7800x.placement import WORD_BYTES, DataFormat, channel_passes
from ai8x.network.ir import BUFFER_INPUT, Activation, ConvSpec, Eltwise, Op, RollingBuffer, TensorShape

from .sketch import NO_POOL, Case, Sketch, Tensor

ONE = ConvSpec()
THREE = ConvSpec(kernel=(3, 3), padding=(1, 1))


def _image(rng: np.random.Generator, channels: int, low: int = 3, high: int = 12) -> TensorShape:
    return TensorShape(channels, int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1)))


def _chain(sketch: Sketch, tensor: Tensor, count: int) -> Tensor:
    """Some Conv2d and pass layers."""
    for _ in range(count):
        if sketch.layers and sketch.layers[-1].output_bits == 32:
            return tensor
        shape = tensor.shape
        pool = sketch.pool(shape.height, shape.width)
        size = pool.output_size(shape.height, shape.width)
        if sketch.chance(0.15) and tensor.processors % 16 == 0 and shape.channels <= 16:
            tensor = sketch.copy(tensor, pool=pool)
        else:
            tensor = sketch.conv(tensor, sketch.between(1, 20), sketch.spec_2d(*size), pool=pool)
    return tensor


def conv2d(rng: np.random.Generator, number: int) -> Case:
    """Conv2d, pooling, passing, Linear at the end."""
    sketch = Sketch(rng, _image(rng, int(rng.integers(1, 20))))
    tensor = _chain(sketch, sketch.source, sketch.between(1, 4))
    if sketch.layers[-1].output_bits == 8 and sketch.chance(0.5) and tensor.shape.height * tensor.shape.width <= 64:
        sketch.linear(tensor, sketch.between(1, 12))
    return sketch.finish("conv2d", number)


def conv1d(rng: np.random.Generator, number: int) -> Case:
    """Conv1d with every kernel length, pooled, padded or dilated by zero taps."""
    sketch = Sketch(rng, TensorShape(int(rng.integers(1, 30)), int(rng.integers(9, 60)), 1))
    tensor = sketch.source
    for _ in range(sketch.between(1, 3)):
        if sketch.layers and sketch.layers[-1].output_bits == 32:
            break
        pool = sketch.pool(tensor.shape.height, 1, is_1d=True)
        rows = pool.output_size(tensor.shape.height, 1)[0]
        kernel = sketch.between(1, min(9, rows))
        dilation = sketch.between(1, max(1, 8 // max(1, kernel - 1))) if kernel > 1 and sketch.chance(0.4) else 1
        pad = min(sketch.between(0, 2), kernel - 1)
        if rows + 2 * pad < (kernel - 1) * dilation + 1:
            dilation = 1
        spec = ConvSpec(kernel=(kernel, 1), padding=(pad, 0), dilation=(dilation, 1))
        tensor = sketch.conv(tensor, sketch.between(1, 24), spec, op=Op.CONV1D, pool=pool)
    return sketch.finish("conv1d", number)


def dilated(rng: np.random.Generator, number: int) -> Case:
    """Conv1d whose taps lie so far apart that it runs on rows."""
    kernel = int(rng.integers(2, 4))
    dilation = int(rng.integers(-(-9 // (kernel - 1)), 24))
    length = int(rng.integers((kernel - 1) * dilation + 1, (kernel - 1) * dilation + 60))
    sketch = Sketch(rng, TensorShape(int(rng.integers(1, 12)), length, 1))
    source = sketch.source
    sketch.cursor += 4 * dilation
    sketch.conv(source, sketch.between(1, 12), ConvSpec(kernel=(kernel, 1), dilation=(dilation, 1)), op=Op.CONV1D,
                place={"out_offset": sketch.cursor})
    return sketch.finish("dilated", number)


def transposed(rng: np.random.Generator, number: int) -> Case:
    """ConvTranspose2d with every padding, also of several passes."""
    channels = int(rng.choice([1, 3, 16, 64, 70]))
    sketch = Sketch(rng, _image(rng, channels, 2, 6))
    pad = sketch.between(0, 2)
    spec = ConvSpec(kernel=(3, 3), padding=(pad, pad), stride=(2, 2), output_padding=1)
    tensor = sketch.conv(sketch.source, sketch.pick(1, 4, 9, 66), spec, op=Op.CONV_TRANSPOSE2D)
    _chain(sketch, tensor, 1) if tensor.shape.channels <= 64 else None
    return sketch.finish("transposed", number)


def passes(rng: np.random.Generator, number: int) -> Case:
    """More than 64 channels, up to 1024, on either side."""
    many = int(rng.choice([65, 68, 100, 128, 129, 192, 256, 512, 1024]))
    sketch = Sketch(rng, TensorShape(many, *((1, 1) if many > 256 else rng.integers(1, 5, 2).tolist())))
    source = sketch.source
    outputs = sketch.pick(1, 8, 64, 65, 130, 300 if many < 200 else 70)
    size = min(source.shape.height, source.shape.width)
    spec = THREE if size > 1 and many <= 256 and outputs <= 130 and sketch.chance(0.5) else ONE
    tensor = sketch.conv(source, outputs, spec)
    if tensor.shape.channels > 64 and sketch.layers[-1].output_bits == 8:
        sketch.conv(tensor, sketch.between(1, 8), ONE)
    return sketch.finish("passes", number)


def eltwise(rng: np.random.Generator, number: int) -> Case:
    """Element-wise combination of 2 to 16 operands, alone or before a convolution, pooled before or after."""
    many = bool(rng.random() < 0.3)
    channels = int(rng.choice([66, 96, 128, 200])) if many else int(rng.integers(1, 17))
    sketch = Sketch(rng, _image(rng, channels, 2, 5 if many else 8))
    source = sketch.source
    operands = 2 if not many and sketch.chance(0.4) else sketch.pick(2, 3, 4) if many else sketch.between(2, 16)
    num_passes = channel_passes(channels)[0]
    start = sketch.reserve(source.shape, words=operands)
    target = source.processors
    made = []
    for operand in range(operands):
        place = {"output_processors": target, "out_offset": start + WORD_BYTES * operand}
        if target % 16 == 0 and channels <= 16 and sketch.chance(0.4):
            made.append(sketch.copy(source, place=place, gap=operands - 1))
        else:
            spec = ONE if many or sketch.chance(0.5) else THREE
            made.append(sketch.conv(source, channels, spec, place=place, gap=operands - 1))
    both = Tensor(made[0].index, source.shape, target, start)
    kind = {"inputs": tuple(tensor.index for tensor in made), "eltwise": sketch.pick(*Eltwise)}
    bare = num_passes > 1 and not (num_passes == 2 and operands == 2)
    pool = NO_POOL if bare else sketch.pool(source.shape.height, source.shape.width, largest=2)
    if pool.window != (1, 1) and operands == 2 and sketch.chance(0.5):
        kind["pool_first"] = False
    if bare or (sketch.chance(0.4) and (num_passes == 1 or pool.is_identity)):
        sketch.copy(both, pool=pool, changes=kind)
    else:
        sketch.conv(both, sketch.between(1, 12), sketch.pick(ONE, THREE), pool=pool, changes=kind)
    return sketch.finish("eltwise", number)


def concatenation(rng: np.random.Generator, number: int) -> Case:
    """Producers side by side, or word by word in turn for more than 64 channels."""
    sketch = Sketch(rng, _image(rng, int(rng.integers(1, 9)), 2, 6))
    source, shape = sketch.source, sketch.shape
    if sketch.chance(0.4):
        start = sketch.reserve(TensorShape(128, shape.height, shape.width))
        everywhere = (1 << 64) - 1
        made = [sketch.conv(source, 64, sketch.pick(ONE, THREE), gap=1,
                            place={"output_processors": everywhere, "out_offset": start + WORD_BYTES * i})
                for i in range(2)]
        both = Tensor(0, TensorShape(128, shape.height, shape.width), everywhere, start)
    else:
        counts = [4 * sketch.between(1, 4) for _ in range(sketch.between(1, 3))] + [sketch.between(1, 9)]
        first = 4 * sketch.between(0, (60 - sum(counts)) // 4)
        start = sketch.reserve(shape)
        made, total = [], 0
        for count in counts:
            place = {"output_processors": ((1 << count) - 1) << first + total, "out_offset": start}
            made.append(sketch.conv(source, count, sketch.pick(ONE, THREE), place=place,
                                    changes={"output_bits": 8}))
            total += count
        both = Tensor(0, TensorShape(total, shape.height, shape.width), ((1 << total) - 1) << first, start)
    sketch.conv(both, sketch.between(1, 10), sketch.pick(ONE, THREE),
                changes={"inputs": tuple(tensor.index for tensor in made)})
    return sketch.finish("concatenation", number)


def flatten(rng: np.random.Generator, number: int) -> Case:
    """Linear layers over maps of up to 256 pixels and of several passes."""
    channels = int(rng.choice([1, 3, 12, 64, 80]))
    sketch = Sketch(rng, _image(rng, channels, 1, 6 if channels > 16 else 16))
    tensor = sketch.linear(sketch.source, sketch.pick(1, 2, 10, 21))
    if sketch.layers[-1].output_bits == 8 and sketch.chance(0.6):
        sketch.linear(tensor, sketch.between(1, 9))
    return sketch.finish("flatten", number)


def pools(rng: np.random.Generator, number: int) -> Case:
    """Windows and strides up to 16, not square, with and without a convolution."""
    sketch = Sketch(rng, _image(rng, int(rng.integers(1, 9)), 16, 30), input_map=0)
    source = sketch.source
    pool = sketch.pool(source.shape.height, source.shape.width, largest=16)
    if sketch.chance(0.3):
        sketch.copy(replace_map(sketch, source), pool=pool)
    else:
        size = pool.output_size(source.shape.height, source.shape.width)
        sketch.conv(source, sketch.between(1, 9), sketch.spec_2d(*size), pool=pool)
    return sketch.finish("pools", number)


def replace_map(sketch: Sketch, source: Tensor) -> Tensor:
    """The input on processors from a quadrant's start on, which a pass layer can read."""
    sketch.input_map = ((1 << source.shape.channels) - 1) << 16 * sketch.between(0, 3)
    return Tensor(source.index, source.shape, sketch.input_map, source.offset)


def fifo(rng: np.random.Generator, number: int) -> Case:
    """Input through the FIFOs, as pixels of up to 16 channels or as up to 4 planes."""
    planar = bool(rng.random() < 0.4)
    channels = int(rng.integers(1, 5 if planar else 17))
    share = 1 if planar else 4
    mask = sum(1 << 16 * (channel // share) + channel % share for channel in range(channels))
    sketch = Sketch(rng, _image(rng, channels, 4, 12), input_map=mask)
    source = sketch.source
    pool = sketch.pool(source.shape.height, source.shape.width)
    size = pool.output_size(source.shape.height, source.shape.width)
    tensor = sketch.conv(source, sketch.between(1, 16), sketch.spec_2d(*size), pool=pool,
                         place={"data_format": DataFormat.CHW if planar else DataFormat.HWC})
    _chain(sketch, tensor, 1)
    sketch.placement["fifo"] = True
    return sketch.finish("fifo", number)


def streaming(rng: np.random.Generator, number: int) -> Case:
    """The first one to four layers work while the input arrives."""
    channels = int(rng.integers(1, 5))
    planar = bool(rng.random() < 0.2) and channels <= 4
    mask = sum(1 << 16 * i for i in range(channels)) if planar else (1 << channels) - 1
    sketch = Sketch(rng, _image(rng, channels, 10, 20), input_map=mask)
    tensor = Tensor(-1, sketch.shape, mask, 0)
    count, region = sketch.between(1, 3), 0x1000
    for index in range(count):
        pool = NO_POOL
        if index and min(tensor.shape.height, tensor.shape.width) >= 6:
            pool = sketch.pool(tensor.shape.height, tensor.shape.width, largest=2)
        place: dict[str, Any] = {"streaming": True, "out_offset": region}
        if planar and index == 0:
            place["data_format"] = DataFormat.CHW
        size = pool.output_size(tensor.shape.height, tensor.shape.width)
        spec = THREE if index == count - 1 or sketch.chance(0.7) or min(size) < 3 else ConvSpec(kernel=(3, 3))
        bias = {} if sketch.chance(0.3) else {"bias": None}
        tensor = sketch.conv(tensor, sketch.between(1, 12), spec, pool=pool, place=place,
                             changes={"output_bits": 8} | bias)
        region += 0x1000
    sketch.cursor = region + 0x1800
    if sketch.chance(0.6):
        _chain(sketch, tensor, 1)
    sketch.placement["fifo"] = True
    return sketch.finish("streaming", number)


def maps(rng: np.random.Generator, number: int) -> Case:
    """Output maps that start anywhere, skip processors, or leave gaps between quadrants."""
    channels = int(rng.choice([1, 2, 5, 8, 64, 70, 130]))
    sketch = Sketch(rng, _image(rng, channels, 3, 6 if channels < 64 else 3))
    source = sketch.source
    step = sketch.pick(1, 2, 3, 5)
    quadrants = sorted({int(q) for q in rng.integers(0, 4, sketch.between(1, 3))})
    per_quadrant = sketch.between(1, (15 - sketch.between(0, 3)) // step + 1)
    first = sketch.between(0, 15 - (per_quadrant - 1) * step)
    mask = sum(1 << 16 * quadrant + first + step * i for quadrant in quadrants for i in range(per_quadrant))
    tensor = sketch.conv(source, mask.bit_count(), sketch.pick(ONE, THREE), place={"output_processors": mask},
                         changes={"output_bits": 8})
    sketch.conv(tensor, sketch.between(1, 8), sketch.pick(ONE, THREE))
    return sketch.finish("maps", number)


def outputs(rng: np.random.Generator, number: int) -> Case:
    """Several output layers, cropped and reshaped sources."""
    sketch = Sketch(rng, _image(rng, int(rng.integers(1, 9)), 4, 10))
    first = sketch.conv(sketch.source, sketch.between(1, 9), THREE, changes={"output_bits": 8})
    crop = sketch.between(0, 2)
    shape = TensorShape(first.shape.channels, first.shape.height - crop, first.shape.width)
    cropped = Tensor(first.index, shape, first.processors, first.offset + 4 * crop * first.shape.width)
    second = sketch.conv(cropped, sketch.between(1, 9), ONE, changes={"in_crop": (crop, 0), "output_bits": 8})
    flat = TensorShape(second.shape.channels, second.shape.height * second.shape.width, 1)
    spec = ConvSpec(kernel=(min(3, flat.height), 1))
    sketch.conv(Tensor(second.index, flat, second.processors, second.offset), sketch.between(1, 5), spec, op=Op.CONV1D)
    return sketch.finish("outputs", number, outputs=tuple(sorted({0, 2} if sketch.chance(0.5) else {0, 1, 2})))


def rolling(rng: np.random.Generator, number: int) -> Case:
    """A rolling buffer: shifted, filled with the input, read."""
    channels, places = int(rng.choice([1, 3, 8, 66])), int(rng.integers(2, 9))
    step = int(rng.integers(1, places))
    sketch = Sketch(rng, TensorShape(channels, step, 1))
    sketch.input_map = ((1 << channel_passes(channels)[1]) - 1) << 16 * (sketch.between(0, 2) if channels < 17 else 0)
    mask, source = sketch.input_map, sketch.source
    buffer = RollingBuffer(name="past", shape=TensorShape(channels, places, 1))
    offset = sketch.keep_buffer(buffer, mask)
    pixel = WORD_BYTES * channel_passes(channels)[0]
    older = Tensor(BUFFER_INPUT, TensorShape(channels, places - step, 1), mask, offset + pixel * step)
    sketch.copy(older, place={"out_offset": offset}, changes={"buffer_shift": step})
    sketch.copy(source, place={"out_offset": offset + pixel * (places - step)}, changes={"buffer_insert": step})
    whole = Tensor(BUFFER_INPUT, buffer.shape, mask, offset)
    sketch.conv(whole, sketch.between(1, 9), ConvSpec(kernel=(sketch.between(1, min(9, places)), 1)), op=Op.CONV1D)
    return sketch.finish("rolling", number)


def groups(rng: np.random.Generator, number: int) -> Case:
    """Depthwise and grouped convolutions."""
    count, share = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    sketch = Sketch(rng, _image(rng, count * share, 3, 8))
    spec = replace(sketch.pick(ONE, THREE), groups=count)
    tensor = sketch.conv(sketch.source, count * sketch.between(1, 3), spec)
    if sketch.layers[-1].output_bits == 8:
        sketch.conv(tensor, sketch.between(1, 8), ONE)
    return sketch.finish("groups", number)


def planar(rng: np.random.Generator, number: int) -> Case:
    """Input as planes in data memory."""
    channels = int(rng.integers(1, 9))
    first = int(rng.integers(0, 17 - channels))
    mask = sum(1 << 4 * (first + channel) for channel in range(channels))
    sketch = Sketch(rng, _image(rng, channels, 3, 14), input_map=mask)
    source = sketch.source
    pool = sketch.pool(source.shape.height, source.shape.width)
    size = pool.output_size(source.shape.height, source.shape.width)
    tensor = sketch.conv(source, sketch.between(1, 12), sketch.spec_2d(*size), pool=pool,
                         place={"data_format": DataFormat.CHW})
    _chain(sketch, tensor, 1)
    return sketch.finish("planar", number)


def shared(rng: np.random.Generator, number: int) -> Case:
    """Layers with the same weights and biases, stored once."""
    channels = int(rng.integers(2, 12))
    sketch = Sketch(rng, _image(rng, channels, 3, 8))
    mask, tensor = sketch.input_map, sketch.source
    spec = sketch.pick(ONE, THREE)
    fields = sketch.parameters(channels, channels, spec)
    for index in range(sketch.between(2, 4)):
        extra = {"weight_source": 0} if index else {}
        tensor = sketch.conv(tensor, channels, spec, place={"output_processors": mask},
                             changes=fields | extra | {"output_bits": 8, "activation": Activation.NONE})
    return sketch.finish("shared", number)


def quad(rng: np.random.Generator, number: int) -> Case:
    """Fast FIFO, with and without quad mode; there is no emulator of the core that feeds it."""
    channels = int(rng.integers(1, 5))
    sketch = Sketch(rng, _image(rng, channels, 4, 10), input_map=(1 << channels) - 1)
    source = sketch.source
    pool = sketch.pool(source.shape.height, source.shape.width)
    size = pool.output_size(source.shape.height, source.shape.width)
    count = sketch.between(1, 24)
    place = {"output_processors": ((1 << count) - 1) << 4 * sketch.between(0, 10)}
    tensor = sketch.conv(source, count, sketch.spec_2d(*size), pool=pool, place=place, changes={"output_bits": 8})
    _chain(sketch, tensor, 1)
    sketch.placement |= {"fast_fifo": True, "quad": sketch.chance(0.6)}
    return sketch.finish("quad", number)


Kind = Callable[[np.random.Generator, int], Case]

KINDS: Mapping[str, Kind] = {
    kind.__name__: kind
    for kind in (conv2d, conv1d, dilated, transposed, passes, eltwise, concatenation, flatten, pools, fifo, streaming,
                 maps, outputs, rolling, groups, planar, shared, quad)
}
"""Every corner; a run takes them in turn, so each gets its share."""


def draw_case(seed: int, number: int, kind: str = "") -> Case | None:
    """The case with this number, the same on every machine; None where the draw contradicts itself.

    Args:
        seed: of the run.
        number: of the case.
        kind: of `KINDS`; by number in turn where empty.
    """
    name = kind or list(KINDS)[number % len(KINDS)]
    rng = np.random.default_rng([seed, number])
    try:
        return KINDS[name](rng, number)
    except ValueError:  # the network representation refuses it, or a range is empty
        return None
