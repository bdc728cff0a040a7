"""A second statement of what a network computes: explicit loops over Python integers, straight from the formulas.

Shares nothing with `ai8x.network.reference` and `ai8x.arithmetic`. Source: spec/max78000-cnn.md section 4.
"""

from fractions import Fraction
from itertools import product
from math import floor, trunc

from ai8x.network.ir import Activation, Eltwise, Layer, Network, Op, Pool

Tensor = list[list[list[int]]]


def clip(value: int) -> int:
    return max(-128, min(127, value))


def run(network: Network, sample: Tensor) -> dict[int, Tensor]:
    outputs = {-1: sample}
    for layer in network.layers:
        outputs[layer.index] = run_layer(layer, [outputs[i] for i in layer.inputs])
    return outputs


def run_layer(layer: Layer, sources: list[Tensor]) -> Tensor:
    read = [reshape(crop(source, layer), layer) for source in sources]
    if layer.eltwise is None:
        data = pool([channel for source in read for channel in source], layer)
    elif layer.pool_first:
        data = combine([pool(source, layer) for source in read], layer.eltwise)
    else:
        data = pool(combine(read, layer.eltwise), layer)
    if layer.op is Op.PASSTHROUGH:
        return data
    if layer.flatten:
        data = [[[value]] for channel in data for row in channel for value in row]
    sums = scatter(layer, data) if layer.op is Op.CONV_TRANSPOSE2D else correlate(layer, data)
    return [[[finish(layer, value, out) for value in row] for row in channel] for out, channel in enumerate(sums)]


def crop(source: Tensor, layer: Layer) -> Tensor:
    start, end = layer.in_crop
    return [channel[start : len(channel) - end] for channel in source]


def reshape(source: Tensor, layer: Layer) -> Tensor:
    height, width = layer.operand_shape.height, layer.operand_shape.width
    result = []
    for channel in source:
        pixels = [value for row in channel for value in row]
        result.append([pixels[row * width : (row + 1) * width] for row in range(height)])
    return result


def pool(source: Tensor, layer: Layer) -> Tensor:
    spec = layer.pool
    height, width = spec.output_size(len(source[0]), len(source[0][0]))
    result = []
    for channel in source:
        result.append([[0] * width for _ in range(height)])
        for row in range(height):
            for column in range(width):
                values = [channel[row * spec.stride[0] + i][column * spec.stride[1] + j]
                          for i in range(spec.window[0]) for j in range(spec.window[1])]
                result[-1][row][column] = pool_value(values, spec.kind, rounded=layer.average_rounded)
    return result


def pool_value(values: list[int], kind: Pool, *, rounded: bool) -> int:
    if kind is not Pool.AVG:
        return max(values)
    mean = Fraction(sum(values), len(values))
    if not rounded:
        return clip(trunc(mean))
    return clip(floor(abs(mean) + Fraction(1, 2)) * (1 if mean >= 0 else -1))


def combine(sources: list[Tensor], eltwise: Eltwise) -> Tensor:
    operation = {"add": int.__add__, "sub": int.__sub__, "or": int.__or__, "xor": int.__xor__}[eltwise.value]
    result = sources[0]
    for source in sources[1:]:
        result = [[[operation(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(p, q, strict=True)]
                  for p, q in zip(result, source, strict=True)]
    return [[[clip(value) for value in row] for row in channel] for channel in result]


def correlate(layer: Layer, data: Tensor) -> Tensor:
    conv, weights = layer.conv, layer.weights.tolist()
    per_group = len(data) // conv.groups
    height, width = len(data[0]), len(data[0][0])
    result = layer_zeros(layer)
    for out, row, column in indices(*layer.out_shape.as_tuple()):
        group = out // (len(weights) // conv.groups)
        for channel, i, j in indices(per_group, *conv.kernel):
            y = row * conv.stride[0] - conv.padding[0] + i * conv.dilation[0]
            x = column * conv.stride[1] - conv.padding[1] + j * conv.dilation[1]
            if 0 <= y < height and 0 <= x < width:
                value = data[group * per_group + channel][y][x]
                result[out][row][column] += value * weights[out][channel][i][j]
    return result


def scatter(layer: Layer, data: Tensor) -> Tensor:
    """A transposed convolution in its textbook form: every input pixel adds its kernel to the output."""
    conv, weights = layer.conv, layer.weights.tolist()
    per_group = len(data) // conv.groups
    out_per_group = len(weights) // conv.groups
    result = layer_zeros(layer)
    for channel, row, column in indices(len(data), len(data[0]), len(data[0][0])):
        group = channel // per_group
        for number, i, j in indices(out_per_group, *conv.kernel):
            out = group * out_per_group + number
            y = row * conv.stride[0] - conv.padding[0] + i
            x = column * conv.stride[1] - conv.padding[1] + j
            if 0 <= y < layer.out_shape.height and 0 <= x < layer.out_shape.width:
                # The stored kernel is the correlation kernel, flipped in both axes.
                factor = weights[out][channel % per_group][conv.kernel[0] - 1 - i][conv.kernel[1] - 1 - j]
                result[out][y][x] += data[channel][row][column] * factor
    return result


def indices(*sizes: int) -> product:
    return product(*(range(size) for size in sizes))


def layer_zeros(layer: Layer) -> Tensor:
    shape = layer.out_shape
    return [[[0] * shape.width for _ in range(shape.height)] for _ in range(shape.channels)]


def finish(layer: Layer, total: int, out: int) -> int:
    if layer.bias is not None:
        total += 128 * int(layer.bias[out])
    if layer.output_bits == 32:
        return total
    value = clip(floor(Fraction(total) * Fraction(2) ** layer.output_shift / 128 + Fraction(1, 2)))
    if layer.activation is Activation.RELU:
        return max(0, value)
    return min(127, abs(value)) if layer.activation is Activation.ABS else value
