"""The cycle formula against published totals, and the plan's and the registers' view of the same layer."""

import numpy as np
import pytest

from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.cycles import (
    LayerWork,
    layer_cycles,
    network_cycles,
    predicted_time_us,
    work_from_geometry,
    work_from_layer,
)
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.placement import Placement, channel_passes
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Eltwise

from .lowering_examples import CASES, conv, mnist, network_of, passthrough, place, plan_of, program_of, read_case

CLOCK_HZ = MAX78000.clock_hz


def conv_work(shape, slots, kernel=3, pad=1, pool=1, stride=1, **changes):
    """A square convolution of a (C, H, W) input."""
    channels, height, width = shape
    rows, columns = (height + stride - pool) // stride, (width + stride - pool) // stride
    fields = {
        "passes": -(-channels // 64),
        "pool_pixels": pool * pool,
        "pooled_rows": rows,
        "pooled_columns": columns,
        "out_columns": columns + 2 * pad - kernel + 1,
        "kernel_rows": kernel,
        "kernel_columns": kernel,
        "pad_rows": pad,
        "pad_columns": pad,
        "slots": slots,
    }
    return LayerWork(**{**fields, **changes})


def pass_work(size, **changes):
    return LayerWork(**{"pooled_rows": size, "pooled_columns": size, "is_conv": False, "operands": 2, **changes})


PUBLISHED_UNITS = {
    "64x20x20 max 2x2/2 p2 to 16": (conv_work((64, 20, 20), 16, pad=2, pool=2, stride=2), 3049),
    "3x65x65 pool 16x16/4 to 32": (conv_work((3, 65, 65), 32, pool=16, stride=4), 49010),
    "3x32x32 to 64": (conv_work((3, 32, 32), 64), 67981),
    "3x32x32 p0 to 64": (conv_work((3, 32, 32), 64, pad=0), 59773),
    "3x32x32 2x2/2 p0 to 64": (conv_work((3, 32, 32), 64, pad=0, pool=2, stride=2), 13885),
    "128x8x8 2x2/2 to 16": (conv_work((128, 8, 8), 16, pool=2, stride=2), 773),
    "128x8x8 to 16": (conv_work((128, 8, 8), 16), 2485),
    "128x8x8 p0 to 16": (conv_work((128, 8, 8), 16, pad=0), 1437),
    "1x28x28 to 8": (conv_work((1, 28, 28), 8), 8189),
    "4x12x12 add": (pass_work(12), 721),
    "3x7x9 transposed to 64": (conv_work((3, 14, 18), 64), 16837),
    "12x4x4 flatten to 10": (conv_work((12, 4, 4), 10, kernel=1, pad=0), 193),
    "4x12x12 add in 2 passes": (pass_work(12, passes=2), 1441),
    "79x11x11 p0 to 1": (conv_work((79, 11, 11), 1, pad=0), 687),
    "8x17x17 add, then max 2x2/2": (pass_work(8, pool_pixels=4, transfer_cycles=2, combine_first=True), 705),
    "12x8x8 flatten to 10": (conv_work((12, 8, 8), 10, kernel=1, pad=0, long_flatten=True), 770),
    "1x1x1 to 1": (conv_work((1, 1, 1), 1), 29),
    "12x1x1 1x1 to 17": (conv_work((12, 1, 1), 17, kernel=1, pad=0), 20),
    "5x31x7 dilated Conv1d in 2-D to 11": (conv_work((5, 31, 7), 11), 3062),
}
"""The 19 unit configurations of the specification's section 8.2; totals include the start."""


@pytest.mark.parametrize(("work", "total"), PUBLISHED_UNITS.values(), ids=PUBLISHED_UNITS.keys())
def test_unit_configuration_takes_the_published_cycles(work: LayerWork, total: int) -> None:
    assert network_cycles([work]) == total


def layered(channels, size, rows):
    """Works of a chain of square layers, as the measurement page lists them: (pooling and stride, kernel, outputs)."""
    works = []
    for pool, kernel, outputs in rows:
        passes, share = channel_passes(outputs)
        works.append(conv_work((channels, size, size), passes * share, kernel, kernel // 2, pool, pool))
        channels, size = outputs, works[-1].out_columns
    return works


CIFAR100 = [
    (1, 3, 16),
    (1, 3, 20),
    (1, 3, 20),
    (1, 3, 20),
    (2, 3, 20),
    (1, 3, 20),
    (1, 3, 44),
    (2, 3, 48),
    (1, 3, 48),
    (2, 3, 96),
    (2, 1, 512),
    (1, 1, 128),
    (2, 3, 128),
    (1, 1, 100),
]
CIFAR100_CYCLES = [18828, 22924, 22924, 22924, 6604, 5836, 11980, 3500, 3308, 1676, 4136, 4160, 306, 212]
FACE_V2 = [(1, 3, 8), (2, 3, 16), (2, 3, 32), (2, 3, 64), (2, 3, 64), (2, 3, 64)]
FACE_V2_CYCLES = [78508, 41196, 18184, 8493, 1797, 312]
ROCK_PAPER_SCISSORS = [(1, 3, 16), (2, 3, 32), (2, 3, 60), (2, 3, 32), (2, 3, 32), (1, 3, 32)]
ROCK_PAPER_SCISSORS_CYCLES = [74508, 38284, 16844, 2476, 652, 604]


@pytest.mark.parametrize(
    ("channels", "size", "rows", "cycles"),
    [
        (3, 32, CIFAR100, CIFAR100_CYCLES),
        (3, 88, FACE_V2, FACE_V2_CYCLES),
        (3, 64, ROCK_PAPER_SCISSORS, ROCK_PAPER_SCISSORS_CYCLES),
    ],
    ids=["cifar100-simple", "facenet_v2", "rps-chw"],
)
def test_layers_of_a_published_network_take_the_published_cycles(channels, size, rows, cycles) -> None:
    assert [layer_cycles(work) for work in layered(channels, size, rows)] == cycles


def test_cifar100_total_is_the_published_one() -> None:
    assert network_cycles(layered(3, 32, CIFAR100)) == 129319


def planned_works(plan):
    return [work_from_layer(layer, kernels) for layer, kernels in zip(plan.layers, plan.kernels.kernels, strict=True)]


def test_mnist_takes_the_published_cycles() -> None:
    works = planned_works(plan_of(*mnist()))
    assert [layer_cycles(work) for work in works] == [48956, 16664, 4012, 332, 192]
    assert network_cycles(works) == 70157


def conv1d_work(channels, length, slots, kernel, pad, pool=1):
    rows = length // pool
    return LayerWork(
        passes=-(-channels // 64),
        pool_pixels=pool,
        pooled_rows=rows,
        pooled_columns=1,
        out_columns=1,
        kernel_rows=kernel,
        kernel_columns=1,
        pad_rows=pad,
        pad_columns=0,
        slots=slots,
    )


def test_keyword_spotting_takes_the_published_cycles() -> None:
    works = [
        conv1d_work(128, 128, 104, 1, 0),
        conv1d_work(100, 128, 96, 3, 0),
        conv1d_work(96, 126, 64, 3, 1, 2),
        conv1d_work(64, 63, 48, 3, 0),
        conv1d_work(48, 61, 64, 3, 1, 2),
        conv1d_work(64, 30, 96, 3, 0),
        conv1d_work(96, 28, 104, 3, 1, 2),
        conv1d_work(100, 14, 64, 6, 1, 2),
        LayerWork(pooled_rows=4, pooled_columns=1, slots=21),
    ]
    assert [layer_cycles(work) for work in works] == [27136, 24706, 8452, 3056, 2016, 2750, 3006, 567, 92]
    assert network_cycles(works) == 71782


@pytest.mark.parametrize(
    ("cycles", "measured_us"),
    [(70157, 1410), (85265, 1712), (71782, 1442), (129319, 2593)],
    ids=["mnist", "cifar10", "kws20_v3", "cifar100-simple"],
)
def test_predicted_time_is_within_half_a_microsecond_of_silicon(cycles: int, measured_us: int) -> None:
    assert abs(predicted_time_us(cycles, CLOCK_HZ) - measured_us) < 0.5


def test_streaming_estimate_is_half_as_much_again_rounded_up() -> None:
    work = conv_work((1, 1, 1), 1)
    assert layer_cycles(work) == 28
    odd = LayerWork(pooled_rows=1, pooled_columns=1, slots=1)
    assert layer_cycles(odd) == 4
    assert layer_cycles(LayerWork(pooled_rows=1, pooled_columns=1, slots=3, streaming=True)) == 8
    assert layer_cycles(conv_work((3, 128, 128), 15, streaming=True)) == -(
        -layer_cycles(conv_work((3, 128, 128), 15)) * 3 // 2
    )


def test_streaming_layers_of_cats_dogs_take_the_published_estimate() -> None:
    streams = [
        conv_work((3, 128, 128), 16, streaming=True),
        conv_work((16, 128, 128), 32, pool=2, stride=2, streaming=True),
    ]
    assert [layer_cycles(work) for work in streams] == [444690, 228498]


def test_combining_before_pooling_pays_for_the_place_in_weight_memory() -> None:
    base = dict(operands=2, pool_pixels=4, combine_first=True)
    near, far = (conv_work((8, 16, 16), 8, pool=2, stride=2, **base, start_word=start) for start in (0, 10))
    per_word = (8 + 2 - 3 + 1) * 1 + (8 + 2 - 3 + 1) * 1 - 1
    assert layer_cycles(far) - layer_cycles(near) == 10 * per_word


def decoded_works(writes):
    """What the simulator decodes from bus writes."""
    accelerator = Accelerator(seed=0)
    for address, size, value in writes:
        accelerator.write(int(address), int(size), int(value))
        if accelerator.run_requested and accelerator.input_complete:
            accelerator.complete()
            break
    return [work_from_geometry(geometry) for geometry in accelerator.layer_geometry()]


def three_operands():
    """An element-wise operation of 128 channels, which runs as one pass over twice the rows."""
    both = (1 << 64) - 1
    reads_input = {"kernel": 1, "pad": 0, "inputs": (-1,)}
    network = network_of(
        conv(0, (4, 3, 3), 128, **reads_input),
        conv(1, (4, 3, 3), 128, **reads_input),
        conv(2, (4, 3, 3), 128, **reads_input),
        passthrough(3, (128, 3, 3), inputs=(0, 1, 2), eltwise=Eltwise.ADD),
    )
    producers = [place(0xF, both, 0x1000 + 4 * operand, write_gap=2) for operand in range(3)]
    return network, Placement(layers=(*producers, place(both, both, 0x2000, 0x1000)))


@pytest.mark.parametrize("example", [mnist, three_operands])
def test_registers_and_plan_give_the_same_cycles(example) -> None:
    network, placement = example()
    assert not check_network(network, placement, MAX78000).errors
    expected = [layer_cycles(work) for work in planned_works(plan_of(network, placement))]
    assert [layer_cycles(work) for work in decoded_works(program_of(network, placement).bus_writes())] == expected


@pytest.mark.skipif(not CASES.exists(), reason="recorded cases are not part of the repository")
@pytest.mark.parametrize(
    "name",
    [
        "conv1d-1",
        "dilated-1",
        "eltwise_5-1",
        "transpose-1",
        "fifo_streaming-1",
        "multipass-1",
        "residual-1",
        "several_outputs-1",
        "eltwise_2pool-1",
    ],
)
def test_recorded_registers_and_plan_give_the_same_cycles(name: str) -> None:
    _, plan, _, _ = read_case(CASES / name)
    with np.load(CASES / name / "bus.npz") as bus:
        writes = zip(bus["address"], bus["size"], bus["value"], strict=True)
        found = decoded_works(writes)
    assert [layer_cycles(work) for work in found] == [layer_cycles(work) for work in planned_works(plan)]
