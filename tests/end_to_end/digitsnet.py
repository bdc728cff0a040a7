"""A digitsnet with plausible integer parameters and a sample, made in milliseconds instead of trained.

Weights are seeded random numbers. The output shift of every layer is chosen from the accumulators of its own data, so
that activations spread over the int8 range and no layer goes dead; then a changed weight has a chance to be seen.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.program import Program
from ai8x.network.build import build_network
from ai8x.network.ir import Layer, Network, TensorShape
from ai8x.network.reference import Trace, run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.synthesis import Inputs, SynthesisOptions, read_inputs
from ai8x.synthesis_max78000 import plan_network

ROOT = Path(__file__).resolve().parents[2]
NETWORK_FILE = ROOT / "networks" / "digits.yaml"
WEIGHT_SHAPES = {"conv1": (16, 1, 3, 3), "conv2": (32, 16, 3, 3), "conv3": (32, 32, 3, 3), "conv4": (16, 32, 3, 3),
                 "fc": (10, 784)}
INPUT_SHAPE = (1, 28, 28)
LOUD = 60
"""Value that the larger tenth of a layer's outputs reaches."""


def sample(seed: int = 5) -> np.ndarray:
    """A blurred random image, int8 (1, 28, 28): neighbouring pixels resemble each other, as in a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-128, 128, (1, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + rng.integers(-20, 21, INPUT_SHAPE), -128, 127).astype(np.int8)


def state(seed: int = 3, *, image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Parameters as quantize.py writes them: integer weights, biases, shifts, 8-bit flags."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, shape in WEIGHT_SHAPES.items():
        weights = np.clip(np.round(rng.normal(0, 35, shape)), -128, 127)
        arrays[f"{name}.op.weight"] = weights.astype(np.float32)
        arrays[f"{name}.op.bias"] = (rng.integers(-20, 21, shape[0]) * 128).astype(np.float32)
        arrays[f"{name}.output_shift"] = np.array([-4.0], np.float32)
        arrays[f"{name}.weight_bits"] = np.array([8.0], np.float32)
    return _with_shifts(arrays, sample() if image is None else image)


def _with_shifts(arrays: dict[str, np.ndarray], image: np.ndarray) -> dict[str, np.ndarray]:
    for name in WEIGHT_SHAPES:
        network = network_of(arrays)
        layer = next(layer for layer in network.layers if layer.name == name)
        if layer.output_bits == 32:
            arrays[f"{name}.output_shift"] = np.array([0.0], np.float32)
            continue
        raw = replace(layer, output_bits=32, activation=type(layer.activation).NONE, output_shift=0)
        cut = Network(name="cut", input_shape=network.input_shape, layers=(*network.layers[:layer.index], raw))
        loud = max(1.0, float(np.quantile(run_network(cut, image)[layer.index], 0.9)))
        arrays[f"{name}.output_shift"] = np.array([np.floor(np.log2(LOUD * 128 / loud))], np.float32)
    return arrays


def network_of(arrays: Mapping[str, np.ndarray]) -> Network:
    """The network of the bundled description with these parameters."""
    return build_network(read_network_file(NETWORK_FILE), parameters_from_state(arrays), TensorShape(*INPUT_SHAPE))


def write_digitsnet(path: Path, **changes: Any) -> Path:
    """A checkpoint of the plausible digitsnet with its sample.

    Args:
        path: file to write.
        changes: other fields of the checkpoint.
    """
    fields: dict[str, Any] = {"state": state(), "arch": "digitsnet", "epoch": 59, "sample": sample(),
                              "labels": tuple(str(digit) for digit in range(10))}
    write_checkpoint(path, Checkpoint(**{**fields, **changes}))
    return path


def lowered(checkpoint: Path, folder: Path) -> tuple[Inputs, LoweringPlan, Program]:
    """Everything up to the MAX78000's register program."""
    options = SynthesisOptions(network=NETWORK_FILE, checkpoint=checkpoint, out=folder, targets=("max78000",))
    inputs = read_inputs(options)
    plan, _ = plan_network(inputs, options)
    return inputs, plan, lower_network(inputs.network, plan, inputs.sample.values, inputs.trace)


def with_weight(network: Network, layer: Layer, index: tuple[int, ...], value: int) -> Network:
    """The network with one weight replaced."""
    assert layer.weights is not None
    weights = layer.weights.copy()
    weights[index] = value
    return network.with_layers({layer.index: replace(layer, weights=weights)})


def with_bias(network: Network, layer: Layer, channel: int, value: int) -> Network:
    """The network with one bias replaced."""
    assert layer.bias is not None
    bias = layer.bias.copy()
    bias[channel] = value
    return network.with_layers({layer.index: replace(layer, bias=bias)})


def logits(network: Network, trace: Trace) -> np.ndarray:
    """The outputs of the last layer."""
    return np.asarray(trace[network.outputs[-1]])
