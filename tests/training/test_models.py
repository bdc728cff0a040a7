"""The bundled models: sizes that are published, files that are published, and that every one of them trains."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.compatibility import reset_device, set_device
from ai8x.nn.base import Mode, OutputScale, model_mode, quantized_layers, set_output_scale
from ai8x.nn.loading import load_state
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.training.config import TrainConfig
from ai8x.training.registry import build_model, discover
from ai8x.training.summary import fitting_chips, layer_figures

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / ".." / "shared" / "cases" / "max78000-trained"
SPECS = {name: spec for name, spec in discover().models.items() if spec.input_shape}

# name: weights, multiply-accumulates as published (spec/max78000-cnn.md 8.3, spec/silicon-measurements.md 3.1)
PUBLISHED = {
    "ai85net5": (71_148, 10_751_808), "ai85netextrasmall": (None, 214_400), "ai85simplenet": (None, 18_461_184),
    "ai85ressimplenet": (381_792, 18_461_184), "ai85nascifarnet": (301_760, 36_180_992),
    "ai85kws20net": (None, 13_801_088), "ai85kws20netv3": (None, 8_345_344), "ai85cdnet": (57_776, 50_432_000),
    "ai85faceidnet": (176_048, 55_234_560), "ai85tinierssd": (335_520, 198_904_320),
}


def make(name, bias=False):
    spec = SPECS[name]
    torch.manual_seed(0)
    return build_model(spec, spec.input_shape, spec.num_classes, TrainConfig(), bias=bias)


def test_the_names_of_the_issue_are_there():
    wanted = set(PUBLISHED) | {"ai85kws20netv2", "ai85unetsmall", "ai85unetlarge", "ai85autoencoder", "ai85actiontcn",
                               "ai85faceidnet_112", "digitsnet"}
    assert wanted <= set(SPECS)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_are_the_published_ones(name):
    layers = layer_figures(make(name), SPECS[name].input_shape)
    weights, macs = PUBLISHED[name]
    assert sum(layer.macs for layer in layers) == macs
    assert weights is None or sum(layer.weights for layer in layers) == weights


def test_large_unet_has_the_published_size_with_its_identity_layer():
    spec = SPECS["ai85unetlarge"]
    model = build_model(spec, (48, 48, 48), 4, TrainConfig(), bias=False)
    layers = layer_figures(model, (48, 48, 48))
    identity = 56 * 56  # the 1x1 layer on 12x12 maps that the published network description adds
    assert sum(layer.weights for layer in layers) + identity == 281_312
    assert sum(layer.macs for layer in layers) + identity * 12 * 12 == 186_753_024


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_model_fits_the_max78000_and_registers_layers_as_they_run(name):
    model = make(name, bias=True)
    layers = layer_figures(model, SPECS[name].input_shape)
    assert "MAX78000" in fitting_chips(layers)
    registered = [path for path, layer in quantized_layers(model).items() if layer.op is not None]
    ran = [layer.name for layer in layers if layer.weights]
    heads = tuple(f"{kind}_{base}" for kind in ("loc", "cl") for base in ("fire8", "fire9", "fire10", "conv12_2"))
    if name == "ai85tinierssd":  # its prediction layers run side by side
        registered, ran = ([path for path in paths if path not in heads] for paths in (registered, ran))
    assert registered == ran


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_k210_has_room_for_all_but_convolutions_with_wide_outputs(name):
    chips = fitting_chips(layer_figures(make(name), SPECS[name].input_shape))
    assert ("K210" in chips) == (name not in ("ai85simplenet", "ai85ressimplenet", "ai85tinierssd"))


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"ai85unetlarge", "ai85actiontcn", "ai85tinierssd"}))
def test_every_model_learns_in_both_phases(name):
    model = make(name).train()
    inputs = torch.rand(2, *SPECS[name].input_shape) - 0.5
    for phase in (Mode.FLOAT, Mode.QAT):
        if phase is Mode.QAT:
            switch_to_qat(model, QatPolicy(start_epoch=0, weight_bits=8))
        assert model_mode(model) is phase
        outputs = model(inputs)
        loss = sum(part.square().mean() for part in (outputs if isinstance(outputs, tuple) else (outputs,)))
        model.zero_grad()
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in grads)


def generator_state(case):
    """The parameters as the vendor's generator reads them (spec/ai8x-training.md section 10).

    The keyword-spotting file holds two sets; the one that was recorded has no biases.
    """
    state = read_checkpoint(CASES / case / "checkpoint.pth.tar").tensors()
    state = {key: value for key, value in state.items() if not key.startswith("module.")}
    return {key: value for key, value in state.items() if case != "kws20_v3" or not key.endswith(".op.bias")}


@pytest.mark.skipif(not CASES.is_dir(), reason="the published checkpoints are not on this machine")
@pytest.mark.parametrize(("case", "name"), [("mnist", "ai85net5"), ("kws20_v3", "ai85kws20netv3"),
                                            ("cats_dogs", "ai85cdnet")])
def test_published_checkpoints_give_the_recorded_integers(case, name):
    state = generator_state(case)
    recorded = np.load(CASES / case / "layers.npz")
    sample = np.load(CASES / case / "sample.npy")
    spec = SPECS[name]
    model = build_model(spec, spec.input_shape, spec.num_classes, TrainConfig(), bias=False).eval()
    set_output_scale(model, OutputScale.DEVICE)
    load_state(model, state)
    assert model_mode(model) is Mode.INTEGER
    found = {}
    for number, layer in enumerate(quantized_layers(model).values()):
        layer.register_forward_hook(lambda m, i, o, key=f"L{number}": found.__setitem__(key, o))
    with torch.no_grad():
        model(torch.from_numpy(sample.reshape(spec.input_shape)).unsqueeze(0))
    assert sorted(found) == sorted(recorded.files)
    for key, expected in recorded.items():
        assert np.array_equal(found[key][0].numpy().reshape(expected.shape), expected), key


def test_model_files_import_alone():
    for path in sorted((ROOT / "models").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"alone_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        set_device("MAX78000")
        try:
            spec.loader.exec_module(module)
        finally:
            reset_device()
        assert module.models


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"ai85unetlarge", "ai85actiontcn"}))
def test_signals_of_untrained_models_do_not_vanish(name):
    model = make(name, bias=True).train()
    spreads = {}
    for path, layer in quantized_layers(model).items():
        if layer.op is not None:  # averages of noise are small
            layer.register_forward_hook(lambda m, i, o, key=path: spreads.__setitem__(key, float(o.std())))
    inputs = torch.randint(-128, 128, (4, *SPECS[name].input_shape), generator=torch.Generator().manual_seed(0)) / 128
    with torch.no_grad():
        model(inputs)
    assert min(spreads.values()) > 4 / 128  # several steps of the chip
