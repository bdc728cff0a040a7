"""Random layers of every kind, made from a number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai8x import compatibility
from ai8x.nn import modules
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import QuantizationAwareModule, set_average_rounding, use_scheme
from ai8x.nn.qat import LayerOverride, QatPolicy, switch_to_qat

COMBINATIONS = (modules.Add, modules.Sub, modules.BitwiseOr, modules.BitwiseXor)
FAMILIES = ("Conv2d", "Conv2d", "Conv1d", "Conv1d", "ConvTranspose2d", "Linear", "Pool", "Eltwise")


@dataclass(frozen=True)
class RandomCase:
    """A layer in QAT mode, how to build it again, and integer inputs."""

    description: str
    layer: nn.Module
    build: Any
    inputs: tuple[Tensor, ...]
    wide: bool
    weight_bits: int


class _Draw:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def of(self, *values: Any) -> Any:
        return values[self.random.integers(len(values))]

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high, endpoint=True))


def _weighted(draw: _Draw, family: str) -> tuple[str, list[int], dict[str, Any], tuple[int, ...]]:
    """Class name, positional and keyword arguments, shape of one sample."""
    activation = draw.of("", "ReLU", "Abs")
    wide = not activation and draw.of(True, False)
    if family == "Linear":
        name = f"FusedLinear{activation}" if activation else "Linear"
        features = draw.number(1, 40)
        return name, [features, draw.number(1, 12)], {"bias": draw.of(True, None), "wide": wide}, (features,)
    one_dimensional, transposed = family == "Conv1d", family == "ConvTranspose2d"
    pooling, depthwise, norm = draw.of("", "MaxPool", "AvgPool"), draw.of("", "", "Depthwise"), draw.of("", "", "BN")
    fused = "Fused" if pooling or norm or activation else ""
    channels = draw.number(1, 12)
    outputs = channels if depthwise else draw.number(1, 12)
    kernel = draw.number(1, 9) if one_dimensional else 3 if transposed else draw.of(1, 3)
    dilation = draw.number(1, 3) if one_dimensional and kernel <= 3 else 1
    padding = draw.number(0, 2) if dilation == 1 else 0
    arguments: dict[str, Any] = {"padding": padding, "bias": bool(norm) or draw.of(True, False), "wide": wide,
                                 "dilation": dilation} | ({"stride": 2} if transposed else {})
    if pooling:
        arguments |= {"pool_size": draw.number(1, 4), "pool_stride": draw.number(1, 3)}
    if norm:
        arguments["batchnorm"] = draw.of("Affine", "NoAffine")
    size = draw.number(28, 40) if one_dimensional else draw.number(11, 13)
    shape = (channels, size) if one_dimensional else (channels, size, size)
    return f"{fused}{pooling}{depthwise}{family}{norm}{activation}", [channels, outputs, kernel], arguments, shape


def _fill(draw: _Draw, layer: nn.Module) -> None:
    """Parameters of any size, some of them exactly powers of two."""
    if not isinstance(layer, QuantizationAwareModule) or layer.op is None:
        return
    for parameter in (layer.op.weight, layer.op.bias):
        if parameter is not None:
            values = draw.random.normal(size=tuple(parameter.shape)) * 2.0 ** draw.number(-7, 3)
            if draw.of(True, False, False):
                values = np.clip(values, -0.5, 0.5)
            parameter.data = torch.tensor(values, dtype=torch.float32)
    if layer.bn is not None:
        layer.bn.running_mean.normal_(generator=torch.Generator().manual_seed(draw.number(0, 1000)))
        layer.bn.running_var.uniform_(0.01, 2.0, generator=torch.Generator().manual_seed(draw.number(0, 1000)))


def random_case(seed: int) -> RandomCase:
    """The case of a number."""
    draw = _Draw(seed)
    family = draw.of(*FAMILIES)
    bits, quantile, rounded = draw.of(1, 2, 4, 8), draw.of(1.0, 1.0, 0.985, 0.9), draw.of(True, False)
    positional: list[int] = []
    arguments: dict[str, Any] = {}
    count = 1
    if family == "Eltwise":
        kind = draw.of(*COMBINATIONS).__name__
        shape: tuple[int, ...] = (draw.number(1, 6), draw.number(1, 8), draw.number(1, 8))
        count = draw.number(2, 4)
    elif family == "Pool":
        kind = draw.of("MaxPool2d", "AvgPool2d", "MaxPool1d", "AvgPool1d")
        positional = [draw.number(1, 6), draw.number(1, 4)]
        shape = (draw.number(1, 6), 12, 13)[: 2 if kind.endswith("1d") else 3]
    else:
        kind, positional, arguments, shape = _weighted(draw, family)

    def build() -> nn.Module:
        compatibility.set_device("MAX78002")
        try:
            made = nn.Sequential(getattr(modules, kind)(*positional, **arguments))
        finally:
            compatibility.reset_device()
        set_average_rounding(made, rounded=rounded)
        return made[0]

    layer = build().eval()
    _fill(draw, layer)
    wrapper = nn.Sequential(layer)
    second = family not in ("Eltwise", "Pool") and draw.of(True, False, False)
    if second:
        use_scheme(wrapper, Scheme.V2)
    switch_to_qat(wrapper, QatPolicy(start_epoch=0, weight_bits=bits, overrides={
        "0": LayerOverride(shift_quantile=quantile)} if family != "Eltwise" else {}))
    if second:
        layer.set_thresholds(activation_threshold=draw.number(-4, 4), final_scale=draw.number(-3, 3))
    inputs = tuple(torch.tensor(draw.random.integers(-128, 128, (2, *shape))).float() for _ in range(count))
    description = f"seed {seed}: {kind}({positional}, {arguments}), {bits} bits, quantile {quantile}, {shape}"
    return RandomCase(description=description, layer=layer, build=build, inputs=inputs,
                      wide=bool(arguments.get("wide")), weight_bits=bits)
