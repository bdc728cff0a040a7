"""Rolling buffer: values and addresses computed by hand, several inferences in a row, and what is refused."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.max7800x.codegen import write_project
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, LowerOptions, lower_network
from ai8x.max7800x.lower_data import input_blocks
from ai8x.max7800x.options import CodegenOptions
from ai8x.max7800x.placement import BufferPlacement, Placement, PlacementOptions, place_network
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.build import build_network
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Network, TensorShape
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import parse_network_file
from ai8x.verify_max78000 import layer_tensor, repeat_inference, run_program, run_samples, verify_simulator

FILE = """
arch: history
dataset: test
data_buffer:
  - {processors: 0x3, channels: 2, dim: 4, offset: 0x100, name: past}
layers:
  - {name: shift, op: passthrough, in_sequences: past, buffer_shift: 1, processors: 0x3}
  - {name: insert, op: passthrough, in_sequences: input, buffer_insert: 1, processors: 0x3}
  - {name: look, op: conv1d, kernel_size: 4, pad: 0, in_sequences: past, in_dim: 4, output_width: 32, processors: 0x3,
     out_offset: 0x200}
"""
WEIGHTS = np.array([[[1, 2, 4, 8], [1, 1, 1, 1]]], np.int64)
SAMPLES = np.array([[3, -5], [1, 1], [-128, 127], [10, 0], [7, 7], [0, 0]], np.int8).reshape(6, 2, 1, 1)
# Newest last. Channel 0 times 1, 2, 4, 8 plus the sum of channel 1:
#   (0 0 0 3 | 0 0 0 -5) 24 - 5; (0 0 3 1 | 0 0 -5 1) 20 - 4; (0 3 1 -128 | 0 -5 1 127) 6 + 4 - 1024 + 123;
#   (3 1 -128 10 | -5 1 127 0) 3 + 2 - 512 + 80 + 123; (1 -128 10 7 | 1 127 0 7) 1 - 256 + 40 + 56 + 135;
#   (-128 10 7 0 | 127 0 7 0) -128 + 20 + 28 + 0 + 134
ANSWERS = [19, 16, -891, -304, -24, 54]


def read(text: str = FILE, weights: np.ndarray = WEIGHTS, shape: tuple[int, int, int] = (2, 1, 1)) -> tuple[
        Network, Placement]:
    file = parse_network_file(text)
    state = {"look.op.weight": weights, "look.output_shift": np.array([0]), "look.weight_bits": np.array([8])}
    network = build_network(file, parameters_from_state(state), TensorShape(*shape))
    assert file.data_buffer is not None
    buffer = BufferPlacement(processors=file.data_buffer.processors, offset=file.data_buffer.offset)
    return network, place_network(network, file.hints, MAX78000, PlacementOptions(buffer=buffer))


def plan_of(network: Network, placement: Placement) -> LoweringPlan:
    assert check_network(network, placement, MAX78000).errors == ()
    layers = hardware_layers(network, placement, MAX78000)
    return LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=plan_kernels(layers, MAX78000))


def lowered(network: Network, placement: Placement, sample: np.ndarray) -> tuple[LoweringPlan, Program]:
    plan = plan_of(network, placement)
    return plan, lower_network(network, plan, sample, run_network(network, sample))


def test_reference_carries_the_past_from_one_inference_to_the_next() -> None:
    network, _ = read()
    assert [layer.inputs for layer in network.layers] == [(BUFFER_INPUT,), (NETWORK_INPUT,), (BUFFER_INPUT,)]
    state, found = None, []
    for sample in SAMPLES:
        trace = run_network(network, sample, buffer=state)
        state = trace.buffer
        found.append(int(trace[2].reshape(())))
    assert found == ANSWERS
    assert state is not None and state.reshape(2, 4).tolist() == [[-128, 10, 7, 0], [127, 0, 7, 0]]


def test_batch_items_do_not_share_their_past() -> None:
    network, _ = read()
    trace = run_network(network, SAMPLES)
    alone = [int(run_network(network, sample)[2].reshape(())) for sample in SAMPLES]
    assert trace[2].reshape(-1).tolist() == alone
    assert trace.buffer is not None and trace.buffer.shape == (6, 2, 4, 1)


def test_registers_point_into_the_buffer() -> None:
    network, placement = read()
    _, program = lowered(network, placement, SAMPLES[0])
    values = {(w.layer, w.register): w.value for w in program.configure}
    # Bytes 0x100 to 0x110: the shift reads from the second word and writes the first, the insertion the fourth.
    assert values[0, "RPTR_BASE"] == 0x41 and values[0, "WPTR_BASE"] == 0x40
    assert values[0, "RCNT"] == 2
    assert values[1, "WPTR_BASE"] == 0x43
    assert values[2, "RPTR_BASE"] == 0x40
    assert [(block.address, block.num_words) for block in program.clear] == [(0x50400100, 4)]
    # The sample goes where layer 1 reads it.
    assert program.load_input[0].address == 0x50400000
    assert program.load_input[0].words.tolist() == [0xFB03]


def test_simulator_follows_the_past() -> None:
    network, placement = read()
    plan, program = lowered(network, placement, SAMPLES[0])
    accelerator = Accelerator(seed=1)
    run_program(program, accelerator)
    found = [layer_tensor(plan.layers[2], accelerator.layer_output(2))[0].item()]
    for sample in SAMPLES[1:]:
        repeat_inference(replace(program, load_input=input_blocks(MAX78000, plan.layers[1], sample)), accelerator)
        values, defined = layer_tensor(plan.layers[2], accelerator.layer_output(2))
        assert defined.all()
        found.append(values.item())
    assert found == ANSWERS


def test_samples_of_an_accuracy_run_start_without_a_past() -> None:
    network, placement = read()
    plan, program = lowered(network, placement, SAMPLES[0])
    found = [output.item() for output in run_samples(MAX78000, program, plan.layers, SAMPLES)]
    assert found == run_network(network, SAMPLES)[2].reshape(-1).tolist()


@pytest.mark.parametrize("options", [LowerOptions(), LowerOptions(check_layers=True)])
def test_firmware_follows_the_past(tmp_path: Path, options: LowerOptions) -> None:
    virtual = pytest.importorskip("ai8x.virtual.max78000")
    pytest.importorskip("unicorn")
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("no cross compiler on this machine")
    network, placement = read()
    plan = plan_of(network, placement)
    program = lower_network(network, plan, SAMPLES[0], run_network(network, SAMPLES[0]), options)
    write_project(program, network, tmp_path, CodegenOptions(debug_wait_s=0))
    strict = "WARNINGS=-Wall -Wextra -Wconversion -Wshadow -Werror"
    subprocess.run(["make", "-s", strict], cwd=tmp_path, check=True, capture_output=True)
    writes: list[tuple[int, int, int]] = []
    result = virtual.run_firmware(next(tmp_path.glob("build/*.elf")), Accelerator(seed=2, powered=False), lambda: 500,
                                  on_bus_write=lambda *write: writes.append(write))
    assert result.passed, result.console
    assert writes == list(program.bus_writes())


@pytest.mark.parametrize(("channels", "places", "step"), [(5, 7, 2), (70, 6, 3), (130, 4, 1)])
def test_any_number_of_channels_and_places(channels: int, places: int, step: int) -> None:
    share = channels if channels <= 64 else {70: 36, 130: 44}[channels]
    mask = (1 << share) - 1
    text = f"""
arch: history
dataset: test
data_buffer:
  - {{processors: {mask:#x}, channels: {channels}, dim: {places}, offset: 0x400, name: past}}
layers:
  - {{name: shift, op: passthrough, in_sequences: past, buffer_shift: {step}}}
  - {{name: insert, op: passthrough, in_sequences: input, buffer_insert: {step}, processors: {mask:#x}}}
  - {{name: look, op: conv1d, kernel_size: 3, pad: 0, in_sequences: past, out_offset: 0x1000}}
"""
    rng = np.random.default_rng(channels)
    network, placement = read(text, rng.integers(-20, 20, (4, channels, 3)), (channels, step, 1))
    sample = rng.integers(-128, 128, (channels, step, 1))
    plan, program = lowered(network, placement, sample)
    first = run_network(network, sample)
    second = run_network(network, sample, buffer=first.buffer)
    assert not np.array_equal(first[2], second[2])
    assert not verify_simulator(network, plan.layers, program, first, second).difference
    assert "shift" in (verify_simulator(network, plan.layers, program, first, first).difference or "")


@pytest.mark.parametrize(("old", "new", "code"), [
    ("offset: 0x100, name", "offset: 0x102, name", "E0442"),
    ("offset: 0x100, name", "offset: 0x7ff4, name", "E0442"),
    ("{processors: 0x3, channels: 2", "{processors: 0x7, channels: 2", "E0442"),
    ("buffer_shift: 1,", "buffer_shift: 1, out_offset: 0x104,", "E0443"),
    ("buffer_insert: 1,", "buffer_insert: 1, out_offset: 0x108,", "E0443"),
    ("buffer_insert: 1,", "buffer_insert: 1, output_processors: 0x30,", "E0443"),
    ("out_offset: 0x200", "out_offset: 0x108", "E0444"),
    ("offset: 0x100, name", "offset: 0x0, name", "E0444"),
    ("in_dim: 4,", "in_dim: 4, in_offset: 0x104,", "E0420"),
    ("buffer_shift: 1,", "buffer_shift: 1, in_offset: 0x100,", "E0420"),
])
def test_wrong_places_are_refused(old: str, new: str, code: str) -> None:
    assert old in FILE
    network, placement = read(FILE.replace(old, new))
    assert code in {finding.code for finding in check_network(network, placement, MAX78000).errors}


def test_buffer_may_end_with_the_memory() -> None:
    network, placement = read(FILE.replace("offset: 0x100, name", "offset: 0x7ff0, name"))
    assert check_network(network, placement, MAX78000).errors == ()


@pytest.mark.parametrize(("old", "new", "code"), [
    ("buffer_shift: 1", "buffer_shift: 4", "E0242"),
    ("buffer_insert: 1", "buffer_insert: 5", "E0242"),
    ("buffer_insert: 1", "buffer_insert: 2", "E0243"),
    ("in_sequences: past, buffer_shift", "in_sequences: input, buffer_shift", "E0242"),
    ("buffer_shift: 1", "buffer_shift: 1, max_pool: 2, pool_stride: 2", "E0242"),
    ("buffer_shift: 1", "buffer_shift: 1, in_crop: [1, 0]", "E0242"),
    ("channels: 2, dim: 4", "channels: 3, dim: 4", "E0243"),
    ("name: shift", "name: past", "E0211"),
    ("in_sequences: input", "in_sequences: future", "E0230"),
    ("data_buffer:\n  - {processors: 0x3, channels: 2, dim: 4, offset: 0x100, name: past}\n", "", "E0230"),
])
def test_contradictions_in_the_file_are_refused(old: str, new: str, code: str) -> None:
    assert old in FILE
    with pytest.raises(UserError) as failure:
        read(FILE.replace(old, new))
    assert code in {finding.code for finding in failure.value.diagnostics}


def test_largest_shift_leaves_one_place() -> None:
    network, _ = read(FILE.replace("buffer_shift: 1", "buffer_shift: 3"))
    assert network.layers[0].out_shape == TensorShape(2, 1, 1)
