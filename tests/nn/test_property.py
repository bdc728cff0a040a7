"""Random layers of every kind: QAT outputs times their scale are the integer outputs.

300 layers in every run; AI8X_RANDOM_MODULES=10000 for the whole bar.
"""

import os

import pytest
import torch
from torch import nn

from ai8x.nn.base import Mode, OutputScale, QuantizationAwareModule, set_mode, set_output_scale
from ai8x.nn.loading import load_state
from ai8x.quantization import quantize_state
from tests.nn.random_modules import RandomCase, random_case

COUNT = int(os.environ.get("AI8X_RANDOM_MODULES", "300"))
CHUNK = 100


def integer_layer(case: RandomCase) -> nn.Module:
    """The layer after quantize and load, as a user gets it."""
    model = nn.Sequential(case.build()).eval()
    if isinstance(case.layer, QuantizationAwareModule) and case.layer.op is not None:
        load_state(model, quantize_state(nn.Sequential(case.layer).state_dict()))
    else:
        set_mode(model, Mode.INTEGER)
    return model[0]


@pytest.mark.parametrize("start", range(0, COUNT, CHUNK))
def test_qat_times_scale_is_integer(start: int) -> None:
    for seed in range(start, min(start + CHUNK, COUNT)):
        case = random_case(seed)
        integer = integer_layer(case)
        with torch.no_grad():
            trained = case.layer(*(values / 128 for values in case.inputs)).double()
            found = integer(*case.inputs).double()
            scale = 2.0 ** (case.weight_bits - 1 + 7) if case.wide else 128.0
            assert torch.equal(trained * scale, found), case.description
            if case.wide:
                for layer in (case.layer, integer):
                    set_output_scale(nn.Sequential(layer), OutputScale.REAL)
                assert torch.equal(case.layer(case.inputs[0] / 128).double(), integer(case.inputs[0]).double()), \
                    f"{case.description} (logits on the float scale)"


def test_cases_cover_every_kind() -> None:
    cases = [random_case(seed) for seed in range(300)]
    kinds = {type(case.layer).__name__ for case in cases}
    assert len(kinds) > 70 and {case.weight_bits for case in cases} == {1, 2, 4, 8}
    assert any(case.wide for case in cases)
