"""Weights to start training from.

Source: spec/ai8x-training.md section 17 (ai85net5).
"""

from __future__ import annotations

from torch import nn


def initialize_convolutions(model: nn.Module) -> None:
    """Draw the weights of every convolution so that signals keep their size from layer to layer, in place.

    Networks without BatchNorm need it: torch's default makes values half as large with every layer, until they vanish
    among the steps of 1/128.

    Source: spec/ai8x-training.md section 17: Kaiming-normal, fan_out.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
