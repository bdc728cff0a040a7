"""Model and data of a checkpoint, by their names."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ai8x.checkpoint import Checkpoint
from ai8x.errors import UserError
from ai8x.nn.base import Mode, model_mode
from ai8x.quantization import quantize_checkpoint
from ai8x.quantization.task import find_task


@pytest.mark.parametrize("kind", ["float", "unclamped", "qat"])
def test_float_model_has_the_parameters_without_rounding(trained, task_of, kind: str) -> None:
    checkpoint = trained(kind)
    model = task_of(checkpoint).float_model(checkpoint)
    assert model_mode(model) is Mode.FLOAT and not model.training
    assert model.conv1.bn is None
    assert np.array_equal(model.fc.op.weight.detach().numpy(), checkpoint.state["fc.op.weight"])


def test_integer_model_and_float_model_are_on_one_scale(trained, task_of) -> None:
    checkpoint = trained("qat")
    task = task_of(checkpoint)
    quantized, _ = quantize_checkpoint(checkpoint)
    inputs = next(task.test_batches(8))
    expected = task.float_model(checkpoint)(inputs)
    found = task.integer_model(quantized)(inputs * 128)
    assert float((found - expected).detach().abs().max()) < 0.1


def test_samples_are_on_the_grid_limited_and_the_same_every_time(trained, task_of) -> None:
    task = task_of(trained())
    for batches in (task.training_batches, task.test_batches):
        first, second = torch.cat(list(batches(20))), torch.cat(list(batches(20)))
        assert first.shape == (20, 2, 8, 8) and torch.equal(first, second)
        assert torch.equal(first * 128, (first * 128).round())
    assert sum(len(batch) for batch in task.test_batches(1000)) == 30
    assert not torch.equal(next(task.training_batches(4)), next(task.test_batches(4)))


def test_wrong_kinds_of_checkpoints_are_refused(trained, task_of) -> None:
    checkpoint = trained()
    task = task_of(checkpoint)
    quantized, _ = quantize_checkpoint(checkpoint)
    for make, given, code in ((task.float_model, quantized, "E0561"), (task.integer_model, checkpoint, "E0562")):
        with pytest.raises(UserError) as caught:
            make(given)
        assert caught.value.diagnostics[0].code == code


def test_unnamed_and_unknown_models_are_refused(trained, settings) -> None:
    for checkpoint, code in ((replace(trained(), arch=""), "E0560"), (replace(trained(), arch="tinynat"), "E0603")):
        with pytest.raises(UserError) as caught:
            find_task(checkpoint, "noise", settings=settings)
        assert caught.value.diagnostics[0].code == code


def test_settings_of_the_run_are_taken(trained, settings) -> None:
    checkpoint = replace(trained(), training={"config": {"arch": "tinynet", "dataset": "noise", **settings}})
    assert isinstance(checkpoint, Checkpoint)
    assert find_task(checkpoint).data.name == "noise"
