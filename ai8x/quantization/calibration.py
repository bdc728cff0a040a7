"""Calibration of activation ranges for checkpoints that were trained without quantisation.

Owns the way from a float checkpoint to one whose layers have ranges (entries of the second generation), which
`ai8x.quantization.integers` then turns into output shifts. Start at `calibrate_checkpoint`.

Source: spec/ai8x-training.md section 7; issue 4, "activation-range (output shift) calibration per layer".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.errors import Source, user_error
from ai8x.nn.statistics import ThresholdMethod
from ai8x.nn.thresholds import LayerThreshold, calibrate_activations

_RANGE_ENTRIES = (".activation_threshold", ".final_scale")


def has_ranges(checkpoint: Checkpoint) -> bool:
    """Whether activation ranges were set already, by training of the second generation or by calibration."""
    return any(name.endswith(_RANGE_ENTRIES) and bool(array.any()) for name, array in checkpoint.state.items())


def needs_ranges(checkpoint: Checkpoint) -> bool:
    """Whether float training had no clamps and no range was set: on the chip most values would saturate."""
    unclamped = [array for name, array in checkpoint.state.items() if name.endswith(".clamp_activation")]
    return bool(unclamped) and not any(bool(array.any()) for array in unclamped) and not has_ranges(checkpoint)


def calibrate_checkpoint(checkpoint: Checkpoint, model: nn.Module, batches: Iterable[Tensor], method: ThresholdMethod
                         ) -> tuple[Checkpoint, Mapping[str, LayerThreshold]]:
    """The checkpoint with BatchNorm folded and with ranges that suit its activations.

    Args:
        checkpoint: float parameters.
        model: these parameters in float mode (`ai8x.quantization.task.Task.float_model`); changed.
        batches: inputs of the training data, on the grid of 1/128.
        method: how ranges are chosen.

    Returns:
        The checkpoint, and the range of every layer.

    Raises:
        UserError: E0565 where it has ranges already.
    """
    if has_ranges(checkpoint):
        raise user_error("E0565", "the checkpoint has activation ranges already", source=Source(file=checkpoint.file),
                         found="activation_threshold other than 0", allowed="a checkpoint without ranges",
                         help="leave --calibrate out")
    plan = calibrate_activations(model, batches, method=method, spare_weights=True)
    return replace(checkpoint, state=arrays_from_tensors(model.state_dict())), plan


def format_ranges(plan: Mapping[str, LayerThreshold]) -> str:
    """A table with one line for every layer."""
    width = max(len("layer"), *(len(name) for name in plan))
    lines = [f"{'layer':{width}s}  measured   range  change of the shift"]
    for name, layer in plan.items():
        own = "wide" if layer.wide else f"2^{layer.own}"
        change = "-" if layer.wide else f"{-layer.activation_threshold:+d}"
        scale = f"  outputs times 2^{layer.final_scale}" if layer.final_scale else ""
        lines.append(f"{name:{width}s}  {f'2^{layer.measured}':>8s}  {own:>6s}  {change:>19s}{scale}")
    return "\n".join(lines)
