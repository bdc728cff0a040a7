"""Holding the MAX78000 simulator, driven by bus writes or by machine code, against the reference.

The simulator keeps what every layer wrote; it is read back here at the places that the layout rules give, so a value
in the wrong place counts as wrong. Start at `verify_simulator` and `compare_layers`.

Source: docs/design.md "Verification record"; spec/max78000-cnn.md section 5.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.lower_data import input_blocks
from ai8x.max7800x.program import Program
from ai8x.max7800x.regions import write_layout
from ai8x.max7800x.simulator import Accelerator, LayerRun
from ai8x.network.ir import NETWORK_INPUT, Network
from ai8x.network.reference import compare_layer
from ai8x.verify import Verdict

SEEDS = (1, 2)
"""Random memory contents to start from; results must not depend on them (docs/design.md "Tests")."""


def verify_simulator(network: Network, layers: Sequence[HardwareLayer], program: Program,
                     trace: Mapping[int, NDArray[Any]], second: Mapping[int, NDArray[Any]] | None = None) -> Verdict:
    """Feed the program's bus writes to fresh simulators with different memory contents and compare every layer.

    On the last one the inference is repeated without a new set-up, as firmware does.

    Args:
        network: what is computed.
        layers: in hardware form.
        program: under test.
        trace: reference of the first inference.
        second: reference of the second one, where a rolling buffer makes it differ.
    """
    witness = "simulator"
    try:
        for seed in SEEDS:
            accelerator = Accelerator(seed=seed)
            run_program(program, accelerator)
            verdict = compare_layers(witness, network, layers, accelerator, trace)
            if verdict.is_different:
                return verdict
        repeat_inference(program, accelerator)
        return compare_layers(witness, network, layers, accelerator, trace if second is None else second)
    except HardwareFault as fault:
        return Verdict(witness=witness, difference=str(fault))


def compare_layers(witness: str, network: Network, layers: Sequence[HardwareLayer], accelerator: Accelerator,
                   trace: Mapping[int, NDArray[Any]]) -> Verdict:
    """The first difference between the latest run of a simulator and the reference, in order of execution."""
    for layer, hardware in zip(network.layers, layers, strict=True):
        try:
            values, defined = layer_tensor(hardware, accelerator.layer_output(layer.index))
        except KeyError as error:
            return Verdict(witness=witness, difference=f"layer {layer.index} '{layer.name}': {error.args[0]}")
        difference = compare_layer(layer, trace[layer.index].astype(np.int64), values)
        if difference:
            return Verdict(witness=witness, difference=str(difference))
        if not defined.all():
            where = tuple(int(i) for i in np.argwhere(~defined)[0])
            undefined = (f"layer {layer.index} '{layer.name}': the value at (channel, row, column) {where} depends on "
                         "memory that nobody wrote")
            return Verdict(witness=witness, difference=undefined)
    return Verdict(witness=witness)


def layer_tensor(layer: HardwareLayer, run: LayerRun) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What a layer materialised, read at the addresses of section 5.3.

    Returns:
        Values int64 and whether each is defined, both (C, H, W).

    Raises:
        KeyError: the layer wrote nothing to one of the places.
    """
    layout = write_layout(layer)
    words = layout.words[:, None] + layout.step * np.arange(layout.num_words)
    lanes = np.zeros_like(layout.processors) if layer.output_bits == 32 else layout.processors % 4
    values, defined = run.values_at((layout.processors // 4)[:, None], words, lanes[:, None])
    shape = layer.layer.out_shape.as_tuple()
    return values.astype(np.int64).reshape(shape), defined.reshape(shape)


def run_program(program: Program, accelerator: Accelerator) -> None:
    """Set up the accelerator as the firmware does and run one inference.

    Raises:
        HardwareFault: the program does something the chip does not define.
    """
    _write(accelerator, program.setup_writes())
    repeat_inference(program, accelerator)


def repeat_inference(program: Program, accelerator: Accelerator) -> None:
    """Load the input again and run once more without a new set-up."""
    _write(accelerator, program.inference_writes(acknowledge=False))
    accelerator.complete()
    _write(accelerator, (write.bus_write for write in program.acknowledge))


def run_samples(device: Max7800x, program: Program, layers: Sequence[HardwareLayer],
                samples: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.int64]]:
    """The last layer's output (C, H, W) for each sample, on one simulator that is set up once.

    Each sample starts with an empty rolling buffer.

    Raises:
        HardwareFault: the program does something the chip does not define.
    """
    accelerator = Accelerator(seed=SEEDS[0])
    run_program(program, accelerator)
    reader = next(layer for layer in layers if NETWORK_INPUT in layer.layer.inputs)
    for sample in samples:
        _write(accelerator, program.clear_writes())
        repeat_inference(replace(program, load_input=input_blocks(device, reader, sample)), accelerator)
        yield layer_tensor(layers[-1], accelerator.layer_output(layers[-1].index))[0]


def _write(accelerator: Accelerator, writes: Iterable[tuple[int, int, int]]) -> None:
    for address, size, value in writes:
        accelerator.write(address, size, value)
