"""ai8x: from PyTorch to the CNN accelerators of two microcontrollers, verified before anyone touches a board.

Importing the package loads nothing heavy. Layers and switches are found on first use, so ``import ai8x`` followed by
``ai8x.FusedConv2dReLU(...)`` works as it does upstream, while the synthesis half never loads torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ai8x.compatibility": ("set_device", "reset_device", "current_settings", "DeviceSettings"),
    "ai8x.errors": ("UserError", "HardwareFault", "Diagnostic"),
    "ai8x.checkpoint": ("Checkpoint", "read_checkpoint", "write_checkpoint"),
    "ai8x.nn.base": ("Mode", "OutputScale", "QuantizationAwareModule", "model_mode", "quantized_layers",
                     "set_average_rounding", "set_integer_mode", "set_output_scale", "update_model"),
    "ai8x.nn.conversion": ("ConversionReport", "ConvertedModel", "convert"),
    "ai8x.nn.data": ("bayer_filter", "fold", "normalize", "unfold_batch"),
    "ai8x.nn.fold": ("fold_batchnorm",),
    "ai8x.nn.loading": ("load_state",),
    "ai8x.nn.qat": ("QatPolicy", "read_policy", "switch_to_qat", "update_optimizer"),
    "ai8x.quantization.model": ("QuantizedModel", "calibrate", "quantize_model"),
    "ai8x.nn.describe": ("describe_model",),
    "ai8x.synthesis_model": ("synthesize",),
    "ai8x.quantization": ("quantize_checkpoint", "quantize_state"),
}
_LAYER_MODULES = ("ai8x.nn.modules", "ai8x.nn.blocks")


def __getattr__(name: str) -> Any:
    if name == "dev":
        return importlib.import_module("ai8x.compatibility").current_settings()
    if name.startswith("_"):
        raise AttributeError(f"module 'ai8x' has no attribute '{name}'")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    # Layer names are capitalised; anything else must not cost an import of torch.
    if name[0].isupper():
        for module in _LAYER_MODULES:
            layers = importlib.import_module(module)
            if name in layers.__all__:
                return getattr(layers, name)
    raise AttributeError(f"module 'ai8x' has no attribute '{name}'")
