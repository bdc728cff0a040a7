"""What layers are told when they are made: quantisation, pooling, and the generation of training they follow.

Source: spec/ai8x-training.md sections 3.2 and 7.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ai8x.arithmetic import WEIGHT_BITS
from ai8x.errors import user_error


class Scheme(enum.Enum):
    """Which generation of quantisation-aware training a layer follows; the values are those of a policy file.

    V1: activations are clamped to [-1, 127/128] in float training, so that they have the range of the chip.
    V2: float training has no clamps; when quantisation starts, statistics of the activations give every layer a
    power of two that maps its range to that of the chip (`ai8x.nn.thresholds`).

    Source: spec/ai8x-training.md section 7.
    """

    V1 = "v1"
    V2 = "v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationArguments:
    """The three quantisation arguments that models hand down to every layer (section 3.2), and the device.

    Args:
        weight_bits: None in float mode, else 1, 2, 4 or 8.
        bias_bits: None exactly when `weight_bits` is.
        quantize_activation: True exactly when `weight_bits` is given.
        device: name or die number; None takes what `ai8x.set_device` set.
    """

    weight_bits: int | None = None
    bias_bits: int | None = None
    quantize_activation: bool = False
    device: str | int | None = None

    def checked(self, layer: str) -> QuantizationArguments:
        """The same arguments.

        Raises:
            UserError: E0387 for combinations that are neither float nor quantised mode.
        """
        floating = (self.weight_bits, self.bias_bits, self.quantize_activation) == (None, None, False)
        quantized = (self.weight_bits in WEIGHT_BITS and self.bias_bits in WEIGHT_BITS and self.quantize_activation)
        if floating or quantized:
            return self
        found = (f"weight_bits={self.weight_bits}, bias_bits={self.bias_bits}, "
                 f"quantize_activation={self.quantize_activation}")
        raise user_error("E0387", f"{layer}: quantisation arguments do not belong together", found=found,
                         allowed="(None, None, False) for float, or widths of 1, 2, 4 or 8 with True",
                         help="hand the three keyword arguments of the model down to every layer unchanged")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolArguments:
    """Pooling in front of the operation.

    Args:
        kind: "Max" or "Avg".
        size: rows and columns of the window, or its length in one dimension.
        stride: likewise.
        dilation: likewise; maximum pooling only.
        rounded: average pooling rounds halves away from zero instead of truncating.
    """

    kind: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    rounded: bool
