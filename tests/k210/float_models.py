"""Small float models with random weights for tests of quantisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.activation import LINEAR, ActivationFunction, ActivationKind
from ai8x.k210.quantize_model import MODEL_INPUT, FloatLayer, FloatModel, FloatOp, batch_norm_scale
from ai8x.network.ir import TensorShape

RELU = ActivationFunction(kind=ActivationKind.RELU)
RELU6 = ActivationFunction(kind=ActivationKind.RELU6)
SAME = (1, 1, 1, 1)


class ModelWriter:
    """Appends layers with seeded weights; every method returns the index of its layer."""

    def __init__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[FloatLayer] = []
        self.channels = {MODEL_INPUT: shape[0]}
        self.shape = TensorShape(*shape)

    def add(self, op: FloatOp, *inputs: int, **fields: Any) -> int:
        """Any layer."""
        index = len(self.layers)
        self.layers.append(FloatLayer(name=f"{op.value.lower()}{index}", op=op, inputs=inputs, **fields))
        return index

    def conv(self, source: int, outputs: int, kernel: int = 3, *, norm: bool = True,
             activation: ActivationFunction = RELU, **fields: Any) -> int:
        """A convolution with He-scaled weights; depthwise where `groups` is the channels."""
        groups = fields.get("groups", 1)
        inputs = self._channels(source) // groups
        weights = self.rng.normal(0, np.sqrt(2 / (inputs * kernel * kernel)), (outputs, inputs, kernel, kernel))
        fields = {"padding": SAME if kernel == 3 else (0, 0, 0, 0), "activation": activation} | fields
        return self._named(outputs, self.add(FloatOp.CONV2D, source, weights=weights, bias=self._bias(outputs),
                                             batch_norm=self.norm(outputs) if norm else None, **fields))

    def depthwise(self, source: int, **fields: Any) -> int:
        """A 3x3 convolution of every channel."""
        channels = self._channels(source)
        return self.conv(source, channels, groups=channels, **fields)

    def dense(self, source: int, features: int, outputs: int, activation: ActivationFunction = LINEAR) -> int:
        """A dense layer."""
        weights = self.rng.normal(0, np.sqrt(1 / features), (outputs, features))
        return self._named(outputs, self.add(FloatOp.DENSE, source, weights=weights, bias=self._bias(outputs),
                                             activation=activation))

    def norm(self, channels: int) -> Any:
        """Batch norm with factors of different sizes, some of them negative."""
        rng = self.rng
        gamma = rng.uniform(0.3, 1.5, channels) * rng.choice([1, 1, 1, -1], channels)
        return batch_norm_scale(gamma, rng.normal(0, 0.3, channels), rng.normal(0, 0.2, channels),
                                rng.uniform(0.5, 2, channels), eps=1e-5)

    def model(self, *outputs: int, **fields: Any) -> FloatModel:
        """What was appended so far."""
        return FloatModel(name="test", input_shape=self.shape, layers=tuple(self.layers), outputs=outputs, **fields)

    def images(self, count: int) -> NDArray[np.uint8]:
        """Smooth random images."""
        channels, height, width = self.shape.as_tuple()
        coarse = self.rng.uniform(0, 255, (count, channels, -(-height // 4), -(-width // 4)))
        smooth = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, :height, :width]
        return np.clip(smooth + self.rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)

    def _bias(self, channels: int) -> NDArray[np.float64]:
        return self.rng.normal(0, 0.1, channels)

    def _channels(self, source: int) -> int:
        return self.channels[source]

    def _named(self, channels: int, index: int) -> int:
        self.channels[index] = channels
        return index


def mobile_net(writer: ModelWriter, *, classes: int = 10) -> FloatModel:
    """Depthwise separable layers with strides, batch norms and ReLU6; global mean, dense, softmax left out."""
    index = writer.add(FloatOp.ZERO_PAD2D, MODEL_INPUT, padding=SAME)
    writer.channels[index] = writer.channels[MODEL_INPUT]
    index = writer.conv(index, 8, padding=(0, 0, 0, 0), stride=(2, 2), activation=RELU6)
    for outputs, stride in ((16, 1), (24, 2), (24, 1), (32, 2)):
        index = writer.depthwise(index, stride=(stride, stride), activation=RELU6)
        index = writer.conv(index, outputs, 1, activation=RELU6)
    pooled = writer.add(FloatOp.GLOBAL_AVERAGE_POOL2D, index)
    return writer.model(writer.dense(pooled, 32, classes))
