"""The bundled models as networks without placement and with random weights, for the tests of the planner."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ai8x.arithmetic import weight_type
from ai8x.network.build import build_network
from ai8x.network.ir import Layer, Network, TensorShape
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import PlacementHint
from ai8x.nn.describe import describe_model
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.quantization import quantize_state
from ai8x.training.registry import BUNDLED_ROOT, ModelSpec, discover


def bundled_models() -> Mapping[str, ModelSpec]:
    """Every model of the folder ``models``, by name."""
    folder = str(BUNDLED_ROOT / "models")
    return {name: spec for name, spec in discover().models.items() if spec.origin.startswith(folder)}


def model_network(spec: ModelSpec) -> tuple[Network, tuple[PlacementHint, ...]]:
    """A fresh model, quantised, described and read back; all weights are then drawn anew."""
    torch.manual_seed(0)
    shape = spec.input_shape
    model = spec.factory(num_classes=spec.num_classes, num_channels=shape[0], dimensions=(*shape[1:], 1)[:2])
    switch_to_qat(model, QatPolicy(start_epoch=0))
    state = {key: value.detach().numpy() for key, value in quantize_state(model.state_dict()).items()}
    file = describe_model(model, shape, name=spec.name).network_file()
    network = build_network(file, parameters_from_state(state), TensorShape(*(*shape, 1, 1)[:3]))
    rng = np.random.default_rng(0)
    changed = {layer.index: _random_layer(layer, rng) for layer in network.layers if layer.weights is not None}
    return network.with_layers(changed), file.hints


def _random_layer(layer: Layer, rng: np.random.Generator) -> Layer:
    """Uniform weights and biases, and a shift with which outputs of uniform inputs fill the range without clipping."""
    if layer.weights is None:
        return layer
    limits = weight_type(layer.weight_bits)
    weights = rng.integers(limits.min, limits.max, layer.weights.shape, endpoint=True)
    bias = None if layer.bias is None else rng.integers(-64, 64, layer.bias.shape)
    shift = 2 - int(np.ceil(np.log2(layer.weights[0].size) / 2))
    return replace(layer, weights=weights, bias=bias, output_shift=layer.output_shift if layer.output_bits > 8
                   else max(-8, shift))
