"""The KPU layer of a kmodel: layer argument, weights, batch norm parameters, activation table.

Start at `K210Conv`.

Source: spec/k210-kmodel.md sections 3, 4.1 and 8.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ai8x.k210 import device
from ai8x.k210.kmodel_base import KModelLayer, LayerType, Record, freeze_fields


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchNorm(Record):
    """``((acc * mul) >> shift) + add`` for each output channel; integer arrays (OC,)."""

    mul: NDArray[np.int64]
    shift: NDArray[np.int64]
    add: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Make arrays read-only and check shapes."""
        freeze_fields(self, np.int64, "mul", "shift", "add")
        if not self.mul.shape == self.shift.shape == self.add.shape or self.mul.ndim != 1:
            raise ValueError(f"batch norm arrays differ: {self.mul.shape}, {self.shift.shape}, {self.add.shape}")

    def to_bytes(self) -> bytes:
        """As the KPU fetches it.

        Raises:
            RegisterError: a value does not fit.
        """
        values = {"mul": self.mul, "shift": self.shift, "add": self.add}
        return device.encode_words(device.BATCH_NORM_WORD, values).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> BatchNorm:
        """The inverse of `to_bytes`.

        Raises:
            RegisterError: a reserved bit is set.
        """
        return cls(**device.decode_words(device.BATCH_NORM_WORD, np.frombuffer(data, "<u8")))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivationTable(Record):
    """Piecewise linear function of 16 segments; integer arrays (16,), `start` ascending from -2**35."""

    start: NDArray[np.int64]
    mul: NDArray[np.int64]
    shift: NDArray[np.int64]
    bias: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Make arrays read-only and check shapes."""
        freeze_fields(self, np.int64, "start", "mul", "shift")
        freeze_fields(self, np.uint8, "bias")
        if any(getattr(self, name).shape != (device.TABLE_SEGMENTS,) for name in ("start", "mul", "shift", "bias")):
            raise ValueError(f"an activation table has {device.TABLE_SEGMENTS} segments")

    def to_bytes(self) -> bytes:
        """As the KPU fetches it, 144 bytes.

        Raises:
            RegisterError: a value does not fit.
        """
        words = device.encode_words(device.TABLE_WORD, {"start": self.start, "mul": self.mul, "shift": self.shift})
        return words.tobytes() + self.bias.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> ActivationTable:
        """The inverse of `to_bytes`.

        Raises:
            RegisterError: a reserved bit is set.
        """
        words = np.frombuffer(data, "<u8", device.TABLE_SEGMENTS)
        bias = np.frombuffer(data, np.uint8, device.TABLE_SEGMENTS, 8 * device.TABLE_SEGMENTS)
        return cls(**device.decode_words(device.TABLE_WORD, words), bias=bias)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class K210Conv(KModelLayer):
    """A KPU layer: its 12 words and the three arrays that the KPU fetches.

    Args:
        words: the layer argument; see `ai8x.k210.device.LAYER_ARGUMENT`.
        weights: uint8 (uint16 in a 16-bit model), (OC, IC, K, K); depthwise (C, 1, K, K).
        batch_norm: parameters of every output channel.
        activation: the table of the layer.
        main_memory_output: byte offset in the main buffer for a dense (OC, OH, OW) copy of the result, or None.
    """

    TYPE: ClassVar[LayerType] = LayerType.K210_CONV
    words: tuple[int, ...]
    weights: NDArray[Any]
    batch_norm: BatchNorm
    activation: ActivationTable
    main_memory_output: int | None = None

    def __post_init__(self) -> None:
        """Make arrays read-only and check shapes."""
        dtype = np.asarray(self.weights).dtype
        if dtype not in (np.uint8, np.uint16):
            raise ValueError(f"KPU weights are uint8 or uint16, not {dtype}")
        freeze_fields(self, dtype, "weights")
        if self.weights.shape != weight_shape(self.fields):
            raise ValueError(f"weights {self.weights.shape} do not fit the layer argument: {weight_shape(self.fields)}")
        if len(self.batch_norm.mul) != self.weights.shape[0]:
            raise ValueError(f"batch norm of {len(self.batch_norm.mul)} channels for {self.weights.shape[0]}")

    @property
    def fields(self) -> dict[str, int]:
        """The decoded words.

        Raises:
            RegisterError: a reserved bit is set.
        """
        return device.decode_layer_argument(self.words)


def weight_shape(fields: Mapping[str, int]) -> tuple[int, int, int, int]:
    """Shape of the weights of a layer argument: (OC, IC, K, K), depthwise (C, 1, K, K).

    Raises:
        ValueError: the kernel type is undefined.
    """
    if fields["kernel_type"] > 1:
        raise ValueError(f"kernel_type {fields['kernel_type']} is undefined; 0 is 1x1, 1 is 3x3")
    kernel = 3 if fields["kernel_type"] else 1
    inputs = 1 if fields["depth_wise_layer"] else fields["i_ch_num"] + 1
    return fields["o_ch_num"] + 1, inputs, kernel, kernel
