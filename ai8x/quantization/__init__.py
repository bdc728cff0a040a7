"""From trained parameters to the integers of the accelerator: what quantize.py does.

`integers` needs the checkpoint alone. `task` finds model and data; `sensitivity` and `comparison` measure with them.
"""

from ai8x.quantization.integers import (
    ClipMethod,
    LayerHint,
    LayerQuantization,
    QuantizationOptions,
    check_paths,
    clip_method,
    quantize_checkpoint,
    quantize_layers,
    quantize_state,
    read_hints,
)

__all__ = [
    "ClipMethod", "LayerHint", "LayerQuantization", "QuantizationOptions", "check_paths", "clip_method",
    "quantize_checkpoint", "quantize_layers", "quantize_state", "read_hints",
]
