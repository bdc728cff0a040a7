"""Checkpoint states of every generation give the same parameters; what cannot be used is refused by key."""

import numpy as np
import pytest

from ai8x.checkpoint import normalized_name
from ai8x.errors import Diagnostics, UserError
from ai8x.network.weights import correlation_kernel, hardware_bias, parameters_from_state


def state(prefix="", op="op", layers=("conv1", "fire.squeeze"), **changes):
    entries = {}
    for number, name in enumerate(layers):
        entries |= {
            f"{prefix}{name}.output_shift": np.array([number - 1.0], np.float32),
            f"{prefix}{name}.weight_bits": np.array([8]),
            f"{prefix}{name}.{op}.weight": np.full((2, 3, 1, 1), number - 5, np.float32),
            f"{prefix}{name}.{op}.bias": np.array([128.0, -256.0], np.float32),
        }
    entries.update(changes)
    return {key: value for key, value in entries.items() if value is not None}


def refusal(entries):
    with pytest.raises(UserError) as caught:
        parameters_from_state(entries, "best.pth.tar")
    assert all(str(finding.source) == "best.pth.tar" and finding.help for finding in caught.value.diagnostics)
    return caught.value.diagnostics


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("op", ["op", "conv2d", "linear"])
def test_every_generation_of_keys_is_read(prefix, op):
    first, second = parameters_from_state(state(prefix, op))
    assert (first.name, second.name) == ("conv1", "fire.squeeze")
    assert first.weight_key == f"{prefix}conv1.{op}.weight"
    assert (first.output_shift, second.output_shift, first.weight_bits) == (-1, 0, 8)
    assert first.weight.dtype == np.int64 and set(first.weight.flat) == {-5}
    assert first.bias.tolist() == [128, -256]


def test_missing_entries_take_their_defaults():
    (layer,) = parameters_from_state({"conv1.conv2d.weight": np.ones((1, 1, 3, 3))})
    assert (layer.output_shift, layer.weight_bits, layer.bias) == (0, 8, None)


def test_zero_bits_mean_eight():
    (layer,) = parameters_from_state({"a.op.weight": np.ones((1, 1)), "a.weight_bits": np.array([0])})
    assert layer.weight_bits == 8


def test_parameters_are_read_only():
    layer = parameters_from_state(state())[0]
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0] = 1


@pytest.mark.parametrize(("key", "expected"), [
    ("module.conv1.op.weight", "conv1.op.weight"), ("model.module.conv1.op.bias", "model.conv1.op.bias"),
    ("_orig_mod.module.a.weight", "a.weight"), ("modules.a.op.weight", "modules.a.op.weight"),
    ("module.module.a.op.weight", "module.a.op.weight"),
])
def test_wrappers_are_dropped_from_keys(key, expected):
    assert normalized_name(key) == expected


def test_layer_stored_twice_is_read_from_its_first_copy():
    wrapped = {key: value for key, value in state("module.").items() if not key.endswith(".bias")}
    warnings = Diagnostics()
    layers = parameters_from_state(wrapped | state(), warnings=warnings)
    assert [layer.weight_key for layer in layers] == ["module.conv1.op.weight", "module.fire.squeeze.op.weight"]
    assert layers[0].bias is None
    assert [warning.code for warning in warnings.items] == ["E0547", "E0547"]


def test_copies_with_different_values_are_refused():
    other = state()
    other["conv1.op.weight"] = other["conv1.op.weight"] + 1
    (finding,) = refusal(state("module.") | other)
    assert finding.code == "E0541"
    assert finding.found == "module.conv1.op.weight, conv1.op.weight"


@pytest.mark.parametrize(("changes", "code", "word"), [
    ({"conv1.op.weight": np.full((2, 3), 0.25)}, "E0542", "not quantised"),
    ({"conv1.op.weight": np.full((2, 3), np.nan)}, "E0542", "not finite"),
    ({"conv1.op.bias": np.array([np.inf, 0])}, "E0542", "not finite"),
    ({"conv1.op.bias": np.array([0.5, 0])}, "E0542", "conv1.op.bias"),
    ({"conv1.op.weight": np.full((2, 3), 1e30)}, "E0542", "too large"),
    ({"conv1.op.weight": np.full((2, 3), "x")}, "E0542", "no numbers"),
    ({"conv1.op.weight": np.ones(3)}, "E0543", "impossible shape"),
    ({"conv1.op.weight": np.ones((1, 1, 1, 1, 1))}, "E0543", "impossible shape"),
    ({"conv1.op.weight": np.ones((0, 3))}, "E0543", "impossible shape"),
    ({"conv1.op.bias": np.ones((2, 2))}, "E0543", "impossible shape"),
    ({"conv1.weight_bits": np.array([3])}, "E0544", "1, 2, 4, 8"),
    ({"conv1.weight_bits": np.array([8, 8])}, "E0543", "single number"),
    ({"conv1.weight_bits": np.array([])}, "E0543", "single number"),
    ({"conv1.output_shift": np.array([32])}, "E0545", "-31 to 31"),
    ({"conv1.output_shift": np.array([0.5])}, "E0542", "conv1.output_shift"),
    ({"conv1.bn.weight": np.ones(2)}, "E0540", "'conv1'"),
    ({"fc.weight": np.ones((2, 2))}, "E0541", "'fc.weight'"),
])
def test_unusable_entries_are_refused_by_name(changes, code, word):
    (finding,) = refusal(state(**changes))
    assert finding.code == code
    assert word in finding.format()


def test_unfolded_batch_norm_without_affine_parameters_is_refused_once():
    (finding,) = refusal(state(**{"conv1.bn.running_mean": np.ones(2), "conv1.bn.running_var": np.ones(2),
                                  "conv1.bn.num_batches_tracked": np.array(1)}))
    assert finding.code == "E0540"
    assert "quantize.py" in finding.help


@pytest.mark.parametrize("entries", [{}, {"conv1.output_shift": np.array([1])}])
def test_checkpoint_without_weights_is_refused(entries):
    assert refusal(entries)[0].code == "E0546"


def test_all_findings_come_together():
    changes = {"conv1.op.weight": np.full((2, 3), 0.25), "fire.squeeze.weight_bits": np.array([5])}
    assert [finding.code for finding in refusal(state(**changes))] == ["E0542", "E0544"]


@pytest.mark.parametrize(("bits", "stored", "expected"), [
    (8, [128, 127, 0, -1, -128, -16384], [1, 0, 0, -1, -1, -128]), (4, [8, 7, -8], [1, 0, -1]), (2, [3, -3], [1, -2]),
    (1, [127, -128], [127, -128]),
])
def test_bias_is_divided_with_floor(bits, stored, expected):
    assert hardware_bias(np.array(stored), bits).tolist() == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_kernel_correlates_like_torch(groups):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(groups)
    weight = rng.integers(-8, 8, (4, 3, 3, 3))
    data = rng.integers(-8, 8, (1, 4, 5, 5))
    expected = torch.nn.functional.conv_transpose2d(
        torch.tensor(data, dtype=torch.float64), torch.tensor(weight, dtype=torch.float64), stride=2, padding=1,
        output_padding=1, groups=groups).numpy()
    stuffed = np.zeros((1, 4, 9 + 3, 9 + 3))
    stuffed[:, :, 1:10:2, 1:10:2] = data
    kernel = torch.tensor(correlation_kernel(weight, groups), dtype=torch.float64)
    found = torch.nn.functional.conv2d(torch.tensor(stuffed), kernel, groups=groups).numpy()
    assert np.array_equal(found, expected)
