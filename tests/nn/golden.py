"""Access to the recorded layers in ``tests/golden/training``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai8x import compatibility
from ai8x.nn import base, modules

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "training"
INDEX: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_text())
NAMES = [case["name"] for case in INDEX]
HALVES_AWAY_FROM_ZERO = ("avgpool2_conv2d_relu_round", "avgpool2d_2_round", "avgpool2d_3s1_round")


@dataclass(frozen=True)
class Case:
    name: str
    record: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def inputs(self) -> list[Tensor]:
        """Integers as float32."""
        names = sorted(name for name in self.arrays if name.startswith("x"))
        return [torch.tensor(self.arrays[name]).float() for name in names]

    @property
    def y_int(self) -> np.ndarray:
        return self.arrays["y_int_generator" if "y_int_generator" in self.arrays else "y_int"]

    def tensor(self, name: str) -> Tensor:
        return torch.tensor(self.arrays[name]).float()

    def build(self, *, pooled: bool = True) -> nn.Module:
        """The layer in float mode, with its recorded parameters; without device where only that allows the stride."""
        text = self.record["constructor"]
        if self.record["device"] == "MAX78002":
            compatibility.set_device("MAX78002", round_avg=self.record["round_avg"])
        try:
            name, arguments = text.removesuffix(")").split("(", 1)
            if not pooled:
                name = name.replace("AvgPool", "")
                arguments = arguments.replace("pool_size=2, pool_stride=2, ", "")
            layer: nn.Module = eval(f"modules.{name}({arguments})", {"modules": modules})
        finally:
            compatibility.reset_device()
        base.set_average_rounding(layer, rounded=self.record["round_avg"])
        layer.eval()
        if "weight" in self.arrays:
            self.fill(layer, "weight", "bias")
        if "bn_mean" in self.arrays:
            layer.bn.running_mean.copy_(self.tensor("bn_mean"))
            layer.bn.running_var.copy_(self.tensor("bn_var"))
            if "bn_weight" in self.arrays:
                layer.bn.weight.data.copy_(self.tensor("bn_weight"))
                layer.bn.bias.data.copy_(self.tensor("bn_bias"))
        return layer

    def fill(self, layer: nn.Module, weight: str, bias: str) -> None:
        layer.op.weight.data = self.tensor(weight)
        if bias in self.arrays:
            layer.op.bias.data = self.tensor(bias)


def load_case(name: str) -> Case:
    record = next(case for case in INDEX if case["name"] == name)
    with np.load(FOLDER / record["file"]) as arrays:
        return Case(name, record, dict(arrays))
