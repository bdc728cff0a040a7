"""Ranges of activations for checkpoints that were trained in float."""

from dataclasses import replace

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.nn.statistics import ThresholdMethod
from ai8x.quantization import QuantizationOptions, quantize_checkpoint
from ai8x.quantization.calibration import calibrate_checkpoint, format_ranges, has_ranges, needs_ranges
from ai8x.quantization.comparison import compare_models


def snr(task, reference, checkpoint) -> dict[str, float]:
    quantized, _ = quantize_checkpoint(checkpoint)
    layers = compare_models(task.float_model(reference), task.integer_model(quantized), task.test_batches(30))
    return {layer.name: layer.snr_db for layer in layers}


@pytest.mark.parametrize("method", list(ThresholdMethod))
def test_large_activations_are_represented_after_calibration_only(trained, task_of, method: ThresholdMethod) -> None:
    checkpoint = trained("unclamped", gain=40.0)
    task = task_of(checkpoint)
    calibrated, plan = calibrate_checkpoint(checkpoint, task.float_model(checkpoint), task.training_batches(40), method)
    assert plan["conv2"].own >= 3 and plan["conv2"].own == plan["skip"].own == plan["add"].own
    before, after = snr(task, checkpoint, checkpoint), snr(task, checkpoint, calibrated)
    assert before["conv2"] < 5 and min(after.values()) > 25


def shrunk(checkpoint, factor: float):
    """The same function with the outputs of conv2 smaller and those that read them larger."""
    state = {name: np.array(array) for name, array in checkpoint.state.items()}
    for name in ("conv2.op.weight", "conv2.op.bias", "skip.op.bias", "fc.op.bias"):
        state[name] *= factor
    return replace(checkpoint, state=state)


def test_small_activations_gain_resolution(trained, task_of) -> None:
    checkpoint = shrunk(trained(), 1 / 64)
    task = task_of(checkpoint)
    calibrated, plan = calibrate_checkpoint(checkpoint, task.float_model(checkpoint), task.training_batches(40),
                                            ThresholdMethod.MSE)
    assert plan["conv2"].own < 0
    before, after = snr(task, checkpoint, checkpoint), snr(task, checkpoint, calibrated)
    assert after["conv2"] > before["conv2"] + 6 and after["add"] > before["add"] + 6


def test_calibration_changes_shifts_and_biases_only(trained, task_of) -> None:
    checkpoint = shrunk(trained(), 1 / 64)
    task = task_of(checkpoint)
    calibrated, plan = calibrate_checkpoint(checkpoint, task.float_model(checkpoint), task.training_batches(40),
                                            ThresholdMethod.MAX)
    plain, _ = quantize_checkpoint(checkpoint, QuantizationOptions())
    found, _ = quantize_checkpoint(calibrated, QuantizationOptions())
    for name, layer in plan.items():
        if name in ("conv2", "skip"):
            assert np.array_equal(found.state[f"{name}.op.weight"], plain.state[f"{name}.op.weight"])
            change = found.state[f"{name}.output_shift"] - plain.state[f"{name}.output_shift"]
            assert float(change.item()) == -layer.activation_threshold
    assert found.state["fc.final_scale"] == plan["add"].own
    assert "2^" in format_ranges(plan) and "conv2" in format_ranges(plan)


def test_ranges_are_set_once(trained, task_of) -> None:
    checkpoint = trained("unclamped", gain=40.0)
    assert needs_ranges(checkpoint) and not has_ranges(checkpoint) and not needs_ranges(trained())
    task = task_of(checkpoint)

    def again(given):
        return calibrate_checkpoint(given, task.float_model(given), task.training_batches(8), ThresholdMethod.MAX)[0]

    calibrated = again(checkpoint)
    assert has_ranges(calibrated) and not needs_ranges(calibrated)
    with pytest.raises(UserError) as caught:
        again(calibrated)
    assert caught.value.diagnostics[0].code == "E0565"


def test_biases_that_would_need_a_larger_step_hold_the_range(trained, task_of) -> None:
    checkpoint = shrunk(trained(), 1 / 64)
    state = {**checkpoint.state, "fc.op.bias": np.full(3, 8.0, np.float32)}
    checkpoint = replace(checkpoint, state=state)
    task = task_of(checkpoint)
    _, plan = calibrate_checkpoint(checkpoint, task.float_model(checkpoint), task.training_batches(40),
                                   ThresholdMethod.MSE)
    assert plan["conv2"].measured < 0 and plan["conv2"].own == 0
