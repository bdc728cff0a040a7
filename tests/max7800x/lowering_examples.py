"""Small networks with their placement, for the tests of lowering and code generation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, LowerOptions, lower_network
from ai8x.max7800x.placement import DataFormat, LayerPlacement, Placement, PlacementOptions, place_network
from ai8x.max7800x.program import Program
from ai8x.network.build import build_network
from ai8x.network.ir import Activation, ConvSpec, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "max78000"
TRAINED = CASES.parent / "max78000-trained"

NO_POOL = PoolSpec()
DEFAULT = LowerOptions()
MAX_2X2 = PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(2, 2))
AVG_2X2 = PoolSpec(kind=Pool.AVG, window=(2, 2), stride=(2, 2))


def conv(
    index: int,
    in_shape: tuple[int, int, int],
    channels: int,
    *,
    kernel: int = 3,
    pad: int = 1,
    pool: PoolSpec = NO_POOL,
    **changes: Any,
) -> Layer:
    """A Conv2d with random weights that depend on `index` only."""
    rng = np.random.default_rng(index)
    operand = TensorShape(*in_shape)
    rows, columns = pool.output_size(operand.height, operand.width)
    grow = 2 * pad - kernel + 1
    fields: dict[str, Any] = {
        "name": f"conv{index}",
        "index": index,
        "op": Op.CONV2D,
        "inputs": (index - 1,),
        "operand_shape": operand,
        "out_shape": TensorShape(channels, rows + grow, columns + grow),
        "pool": pool,
        "conv": ConvSpec(kernel=(kernel, kernel), padding=(pad, pad)),
        "activation": Activation.RELU,
        "weights": rng.integers(-128, 128, (channels, operand.channels, kernel, kernel)),
    }
    return Layer(**{**fields, **changes})


def linear(index: int, in_shape: tuple[int, int, int], features: int, **changes: Any) -> Layer:
    """A flattening Linear layer with random weights."""
    rng = np.random.default_rng(index)
    shape = TensorShape(*in_shape)
    fields: dict[str, Any] = {
        "name": f"fc{index}",
        "index": index,
        "op": Op.LINEAR,
        "inputs": (index - 1,),
        "operand_shape": shape,
        "out_shape": TensorShape(features, 1, 1),
        "conv": ConvSpec(),
        "flatten": True,
        "weights": rng.integers(-128, 128, (features, shape.numel, 1, 1)),
    }
    return Layer(**{**fields, **changes})


def passthrough(index: int, shape: tuple[int, int, int], **changes: Any) -> Layer:
    """A pass layer."""
    fields: dict[str, Any] = {
        "name": f"pass{index}",
        "index": index,
        "op": Op.PASSTHROUGH,
        "inputs": (index - 1,),
        "operand_shape": TensorShape(*shape),
        "out_shape": TensorShape(*shape),
    }
    return Layer(**{**fields, **changes})


def network_of(*layers: Layer, name: str = "example", **changes: Any) -> Network:
    """A network of these layers; the input is the first layer's operand."""
    return Network(name=name, input_shape=layers[0].operand_shape, layers=layers, **changes)


def place(processors: int, outputs: int, out_offset: int = 0, in_offset: int = 0, **changes: Any) -> LayerPlacement:
    """A layer's placement."""
    return LayerPlacement(
        processors=processors, output_processors=outputs, in_offset=in_offset, out_offset=out_offset, **changes
    )


def plan_of(network: Network, placement: Placement) -> LoweringPlan:
    """All decisions between network and program."""
    layers = hardware_layers(network, placement, MAX78000)
    return LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=plan_kernels(layers, MAX78000))


def random_tensors(network: Network, seed: int = 7) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A sample, and an invented answer for every output."""
    rng = np.random.default_rng(seed)
    answers = {}
    for index in network.outputs:
        layer = network.layers[index]
        limit = 1 << (layer.output_bits - 1)
        answers[index] = rng.integers(-limit, limit, layer.out_shape.as_tuple())
    return rng.integers(-128, 128, network.input_shape.as_tuple()), answers


def program_of(network: Network, placement: Placement, options: LowerOptions = DEFAULT) -> Program:
    """The program for a random sample and an invented answer."""
    sample, answers = random_tensors(network)
    return lower_network(network, plan_of(network, placement), sample, answers, options)


def mnist() -> tuple[Network, Placement]:
    """The five layers of the worked example, with random weights."""
    all_but_four = 0xFFFFFFFFFFFFFFF0
    network = network_of(
        conv(0, (1, 28, 28), 60),
        conv(1, (60, 28, 28), 60, pad=2, pool=MAX_2X2, output_shift=-2),
        conv(2, (60, 16, 16), 56, pool=MAX_2X2),
        conv(3, (56, 8, 8), 12, pool=AVG_2X2),
        linear(4, (12, 4, 4), 10, output_bits=32, bias=np.arange(1, 11)),
        name="mnist",
    )
    placement = Placement(
        layers=(
            place(0x1, all_but_four, 0x2000, data_format=DataFormat.CHW),
            place(all_but_four, all_but_four, 0, 0x2000),
            place(all_but_four, 0x0FFFFFFFFFFFFFF0, 0x2000),
            place(0x0FFFFFFFFFFFFFF0, 0x0FFF, 0, 0x2000),
            place(0x0FFF, 0x3FF, 0x1000),
        )
    )
    return network, placement


def small(*, fifo: bool = False, wide: bool = True) -> tuple[Network, Placement]:
    """Two layers in quadrant 0: convolution, then flattening Linear with ten outputs."""
    network = network_of(
        conv(0, (3, 8, 8), 6, bias=np.array([3, -1, 0, 7, -128, 127])),
        linear(1, (6, 8, 8), 10, output_bits=32 if wide else 8, output_shift=0 if wide else -8),
        name="small",
    )
    return network, Placement(layers=(place(0x7, 0x3F, 0x4000), place(0x3F, 0x3FF, 0, 0x4000)), fifo=fifo)


def residual() -> tuple[Network, Placement]:
    """A copy and a convolution of the same data, interleaved in quadrant 3, added; four quadrants in use."""
    add = {"eltwise": Eltwise.ADD, "inputs": (1, 2)}
    network = network_of(
        conv(0, (8, 6, 6), 8, output_shift=-3),
        passthrough(1, (8, 6, 6)),
        conv(2, (8, 6, 6), 8, inputs=(0,), output_shift=-4),
        conv(3, (8, 6, 6), 70, output_shift=-5, **add),
        conv(4, (70, 6, 6), 5, kernel=1, pad=0, output_shift=-4),
        name="residual",
        outputs=(1, 4),
    )
    high = 0xFF << 56
    both_passes = (1 << 36) - 1
    placement = Placement(
        layers=(
            place(0xFF, high, 0x4000),
            place(high, high, 0x100, 0x4000, write_gap=1),
            place(high, high, 0x104, 0x4000, write_gap=1),
            place(high, both_passes, 0, 0x100),
            place(both_passes, 0x1F, 0x6000),
        )
    )
    return network, placement


def real_program(network: Network, placement: Placement, options: LowerOptions = DEFAULT) -> Program:
    """The program for a random sample and the answer that the reference gives."""
    sample, _ = random_tensors(network)
    return lower_network(network, plan_of(network, placement), sample, run_network(network, sample), options)


def read_case(folder: Path) -> tuple[Network, LoweringPlan, np.ndarray, Mapping[int, np.ndarray]]:
    """Network, plan, sample and recorded layer outputs of a recorded case."""
    arrays = np.load(folder / "case.npz")
    state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
    outputs = {int(key[1:]): arrays[key] for key in arrays.files if key.startswith("L")}
    sample = np.atleast_3d(arrays["sample"])
    options = (folder / "options").read_text().split() if (folder / "options").exists() else []
    file = read_network_file(str(folder / "net.yaml"))
    network = build_network(
        file, parameters_from_state(state), TensorShape(*sample.shape), average_rounded="--avg-pool-rounding" in options
    )
    placement = place_network(
        network, [entry.hint for entry in file.layers], MAX78000, PlacementOptions(fifo="--fifo" in options)
    )
    return network, plan_of(network, placement), sample, outputs
