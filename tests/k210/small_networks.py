"""Small networks with random parameters, layer by layer, and a run of their kmodels against the reference."""

from typing import Any

import numpy as np

from ai8x.arithmetic import weight_type
from ai8x.k210.lower import LoweredModel, lower_network
from ai8x.network.ir import (
    Activation,
    ConvSpec,
    Eltwise,
    Layer,
    Network,
    Op,
    Pool,
    PoolSpec,
    TensorShape,
)
from ai8x.network.reference import run_network
from ai8x.verify_k210 import verify_kmodel


def max_pool(window: int, stride: int | None = None) -> PoolSpec:
    return PoolSpec(kind=Pool.MAX, window=(window, window), stride=(stride or window,) * 2)


def average_pool(window: int, stride: int | None = None) -> PoolSpec:
    return PoolSpec(kind=Pool.AVG, window=(window, window), stride=(stride or window,) * 2)


def subsample(stride: int) -> PoolSpec:
    return PoolSpec(stride=(stride, stride))


class Chain:
    """Builds a network; every layer reads the one before unless told otherwise."""

    def __init__(self, channels: int, height: int, width: int, *, seed: int = 0) -> None:
        self.input_shape = TensorShape(channels, height, width)
        self.layers: list[Layer] = []
        self._random = np.random.default_rng(seed)

    def shape_of(self, index: int) -> TensorShape:
        return self.input_shape if index < 0 else self.layers[index].out_shape

    def _add(self, op: Op, outputs: int, conv: ConvSpec | None, **options: Any) -> int:
        index = len(self.layers)
        inputs = options.pop("inputs", (index - 1,))
        pool, eltwise = options.pop("pool", PoolSpec()), options.get("eltwise")
        sources = [self.shape_of(i) for i in inputs]
        channels = sources[0].channels if eltwise else sum(shape.channels for shape in sources)
        operand = options.pop("operand", TensorShape(channels, sources[0].height, sources[0].width))
        size = pool.output_size(operand.height, operand.width)
        weights = bias = None
        if conv is not None:
            flatten = options.get("flatten", False)
            features = operand.channels * size[0] * size[1] if flatten else operand.channels
            size = (1, 1) if flatten else conv.output_size(*size, is_transposed=op is Op.CONV_TRANSPOSE2D)
            limits = weight_type(options.get("weight_bits", 8))
            weights = self._random.integers(limits.min, limits.max, (outputs, features // conv.groups, *conv.kernel),
                                            endpoint=True)
            bias = self._random.integers(-128, 127, outputs, endpoint=True)
        self.layers.append(Layer(
            name=f"layer{index}", index=index, op=op, inputs=inputs, operand_shape=operand, pool=pool, conv=conv,
            out_shape=TensorShape(outputs if conv else operand.channels, *size), weights=weights, bias=bias, **options))
        return index

    def conv(self, outputs: int, kernel: int = 3, pad: int | None = None, **options: Any) -> int:
        spec = ConvSpec(kernel=(kernel, kernel), padding=(kernel // 2 if pad is None else pad,) * 2,
                        stride=(options.pop("stride", 1),) * 2, dilation=(options.pop("dilation", 1),) * 2,
                        groups=options.pop("groups", 1))
        return self._add(Op.CONV2D, outputs, spec, **{"output_shift": -3} | options)

    def conv1d(self, outputs: int, kernel: int, pad: int = 0, **options: Any) -> int:
        spec = ConvSpec(kernel=(kernel, 1), padding=(pad, 0), stride=(options.pop("stride", 1), 1),
                        dilation=(options.pop("dilation", 1), 1), groups=options.pop("groups", 1))
        return self._add(Op.CONV1D, outputs, spec, **{"output_shift": -3} | options)

    def transposed(self, outputs: int, pad: int = 1, **options: Any) -> int:
        spec = ConvSpec(kernel=(3, 3), padding=(pad, pad), stride=(2, 2), output_padding=1)
        return self._add(Op.CONV_TRANSPOSE2D, outputs, spec, **{"output_shift": -3} | options)

    def linear(self, outputs: int, **options: Any) -> int:
        return self._add(Op.LINEAR, outputs, ConvSpec(), **{"flatten": True, "output_shift": -4} | options)

    def passthrough(self, **options: Any) -> int:
        return self._add(Op.PASSTHROUGH, 0, None, **options)

    def add(self, *inputs: int, **options: Any) -> int:
        return self.passthrough(inputs=inputs, **{"eltwise": Eltwise.ADD} | options)

    def network(self, *outputs: int) -> Network:
        return Network(name="small", input_shape=self.input_shape, layers=tuple(self.layers), outputs=outputs)

    def sample(self) -> np.ndarray:
        return self._random.integers(-128, 127, self.input_shape.as_tuple(), endpoint=True)

    def check(self, *outputs: int) -> LoweredModel:
        """Lower, run, compare every layer; returns the kmodel."""
        network = self.network(*outputs)
        lowered = lower_network(network)
        shape = self.input_shape.as_tuple()
        for sample in (self.sample(), np.full(shape, -128), np.full(shape, 127)):
            verdict = verify_kmodel(network, lowered, sample, run_network(network, sample))
            assert str(verdict) == "equal"
        return lowered


def kinds(lowered: LoweredModel) -> list[str]:
    """Type of every kmodel layer, in order."""
    return [type(layer).__name__ for layer in lowered.model.layers]


RELU = Activation.RELU
ABS = Activation.ABS
