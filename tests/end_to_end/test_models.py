"""From a torch model to both chips: what the simulators and the firmware compute is what the model computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ai8x
from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.nn import modules
from ai8x.nn.fold import describe_layers
from ai8x.nn.loading import load_state
from ai8x.quantization import quantize_checkpoint
from tests.nn.test_describe import Model


def decoder() -> nn.Module:
    """Down and up again, joined by a concatenation."""
    return Model(lambda m, x: m.last(torch.cat([m.up(m.pool(x)), x], dim=1)), pool=modules.MaxPool2d(2),
                 last=modules.FusedConv2dReLU(12, 4, 3, padding=1),
                 up=modules.FusedConvTranspose2dReLU(4, 8, 3, stride=2, padding=1))


def joined_operands() -> nn.Module:
    """Operands that are concatenations, a difference of three, and a layer that runs twice."""
    return Model(lambda m, x: m.last(m.sub(torch.cat([x, m.twice(x)], 1), torch.cat([m.twice(x), x], 1), m.wide(x))),
                 last=modules.FusedMaxPoolConv2dReLU(8, 8, 3, padding=1), sub=modules.Sub(),
                 twice=modules.FusedConv2dReLU(4, 4, 3, padding=1), wide=modules.Conv2d(4, 8, 1))


def sequence() -> nn.Module:
    """One-dimensional data that becomes a map and a sequence again, and an addition in front of a linear layer."""
    def run(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        data = m.after(m.square(m.before(x).reshape(len(x), 8, 8, 4)).flatten(2)).flatten(1)
        return m.last(m.add(m.one(data), m.other(data)))

    return Model(run, before=modules.FusedConv1dReLU(4, 8, 3, padding=1), add=modules.Add(),
                 square=modules.FusedConv2dReLU(8, 8, 3, padding=1), after=modules.Conv1d(8, 4, 3),
                 last=modules.Linear(8, 4, bias=True, wide=True), one=modules.FusedLinearReLU(120, 8),
                 other=modules.Linear(120, 8))


@pytest.mark.parametrize(("build", "shape"), [(decoder, (4, 8, 8)), (joined_operands, (4, 8, 8)), (sequence, (4, 32))])
def test_chips_compute_what_the_model_computes(build: Callable[[], nn.Module], shape: tuple[int, ...],
                                               tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build().eval()
    stored = Checkpoint(state=arrays_from_tensors(model.state_dict()), extras={"layers": describe_layers(model)})
    quantised, _ = quantize_checkpoint(stored)
    values = np.random.default_rng(0).integers(-128, 128, shape)
    result = ai8x.synthesize(model, quantised, out=tmp_path / "out", sample=values)
    for verdict in result.verdicts:
        assert str(verdict) == "equal" or verdict.skipped, verdict
    assert [chip.refusal for chip in result.report.chips] == [None, None]
    load_state(model, quantised.tensors())
    expected = model(torch.tensor(values)[None].float()).detach().numpy()
    with np.load(result.folder / "trace.npz") as trace:
        assert np.array_equal(trace[f"L{len(trace.files) - 1}"].reshape(-1), expected.reshape(-1))
