"""What the C templates are given: every statement, table line and choice, made from the register program.

Owns the wording of statements and comments, and how long lines get; the flow of the C functions is in ``templates/``.
Names and comments taken from files are reduced to harmless characters (`ai8x.ctext`): no text of a network file reaches
the compiler as code. Start reading at `template_context`.

Source: spec/max78000-cnn.md section 9; spec/virtual-boards.md section 5.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.ctext import LICENCE, c_identifier, comment_text
from ai8x.max7800x.options import ENERGY_RUNS, CodegenOptions, Core
from ai8x.max7800x.program import (
    ExpectedBlock,
    InputBlock,
    LayerCheck,
    PowerWrite,
    Program,
    RegisterWrite,
    SelfTest,
    UnloadItem,
)
from ai8x.max7800x.stored_sample import StoredSample
from ai8x.network.ir import Network

WORDS_PER_LINE = 8
BYTES_PER_LINE = 16
CNN_ENABLE_BIT = 1
"""CTRL.cnn_en, which stops and continues the first quadrant."""

CNN_IRQ_BIT = 1 << 12
"""CTRL.cnn_irq, set by the hardware at completion; polled where no interrupt is used."""


def template_context(program: Program, network: Network, options: CodegenOptions) -> dict[str, Any]:
    """Every name that the templates use.

    Args:
        program: what the firmware does.
        network: for names, shapes and labels.
        options: choices.
    """
    return {
        **_common(program, network, options),
        **_network_view(program, network),
        **_code_view(program, options),
        **_data_view(program),
        **_main_view(program, network, options),
        "configure": _configure_view(program, network, options),
    }


def hex_lines(words: Iterable[int] | NDArray[Any], *, digits: int = 8, per_line: int = WORDS_PER_LINE) -> list[str]:
    """Numbers as ``0x...,`` separated text, a fixed count per line, each with a comma at its end."""
    values = words.tolist() if isinstance(words, np.ndarray) else list(words)
    texts = [f"0x{value:0{digits}x}," for value in values]
    return [" ".join(texts[start : start + per_line]) for start in range(0, len(texts), per_line)]


def register_line(write: RegisterWrite, *, layer_name: str = "", checked: bool = False) -> str:
    """One register write as a C statement; the comment names layer, register and the fields that are not 0.

    Args:
        write: the write.
        layer_name: for the comment.
        checked: read the register back; leaves the function where it differs.
    """
    place = []
    if write.layer is not None:
        place.append(f"layer {write.layer}{f' {comment_text(layer_name)}' if layer_name else ''}")
    if write.quadrant is not None:
        place.append(f"quadrant {write.quadrant}")
    fields = ", ".join(f"{name}={value}" for name, value in write.fields.items())
    comment = f"{', '.join([*place, write.register])}: {fields or '0'}"
    if checked:
        return f"WRITE_CHECKED(0x{write.address:08x}, UINT32_C(0x{write.value:08x})); /* {comment} */"
    return f"REG32(0x{write.address:08x}) = UINT32_C(0x{write.value:08x}); /* {comment} */"


def _common(program: Program, network: Network, options: CodegenOptions) -> dict[str, Any]:
    shape = network.input_shape
    return {
        "title": comment_text(network.name),
        "licence": LICENCE,
        "timer": options.timed,
        "uses_fifo": program.uses_fifo,
        "riscv": options.core is Core.RISCV,
        "energy": options.energy,
        "energy_runs": ENERGY_RUNS,
        "header_file": f"{options.names.header}.h",
        "guard": f"{c_identifier(options.names.header).upper()}_H",
        "weights_file": f"{options.names.weights}.h",
        "sample_file": f"{options.names.sample}.h",
        "answer_file": f"{options.names.answer}.h",
        "input_shape": f"{shape.channels} x {shape.height} x {shape.width}",
        "express": any(chunk.express for chunk in program.load_weights),
    }


def _network_view(program: Program, network: Network) -> dict[str, Any]:
    """Header comments and sizes."""
    table = [
        f"{layer.index:2} {comment_text(layer.name)}: {layer.op.value} to {layer.out_shape}, {layer.macs} operations"
        for layer in network.layers
    ]
    outputs = [f"{number}: {_item_text(item)}, offset {item.offset}" for number, item in enumerate(program.unload)]
    return {
        "layer_table": table,
        "output_table": outputs,
        "outputs": program.unload,
        "total_macs": sum(layer.macs for layer in network.layers),
        "weight_bytes": sum(chunk.words.size for chunk in program.load_weights),
        "bias_bytes": sum(block.values.size for block in program.load_bias),
        "num_outputs": sum(item.num_values for item in program.unload),
        "output_words": program.output_bytes // 4,
    }


def _code_view(program: Program, options: CodegenOptions) -> dict[str, Any]:
    """Statements of the network's functions."""
    enable = [write for write in program.enable if _is_quadrant_power(write)]
    return {
        "enable": [{"line": _power_line(write), "pause": write.register == "GCFR_REG0"} for write in enable],
        "disable": [_power_line(write) for write in program.disable if _is_quadrant_power(write)],
        "init": [register_line(write) for write in program.init],
        "self_tests": [_self_test_view(test) for test in program.self_tests],
        "start": [register_line(write) for write in program.start],
        "acknowledge": [register_line(write) for write in program.acknowledge],
        "first_ctrl": f"0x{program.start[-1].address:08x}",
        "start_bit": CNN_ENABLE_BIT,
        "irq_bit": f"0x{CNN_IRQ_BIT:x}",
        "clear": [{"address": f"0x{block.address:08x}", "words": block.num_words} for block in program.clear],
        "layer_count_registers": [f"0x{write.address:08x}" for write in program.last_layer],
        "last_layer": program.last_layer[0].value if program.last_layer else 0,
        "unload": [_unload_view(number, item) for number, item in enumerate(program.unload)],
        "unload_widths": {bits: any(item.bits == bits for item in program.unload) for bits in (8, 32)},
        "verify_weights": options.verify_weights,
        "verify_writes": options.verify_writes,
        "switch_delay_ms": options.switch_delay_ms,
    }


def _self_test_view(test: SelfTest) -> dict[str, Any]:
    return {
        "memory": test.memory,
        "start": [register_line(write) for write in test.start],
        "registers": [f"0x{write.address:08x}" for write in test.start],
        "done": f"0x{test.done:x}",
        "failed": f"0x{test.failed:x}",
        "finish": [register_line(write) for write in test.finish],
    }


def _configure_view(program: Program, network: Network, options: CodegenOptions) -> list[dict[str, Any]]:
    """Statements of cnn_configure, one section per layer and quadrant."""
    names = {layer.index: layer.name for layer in network.layers}
    sections = []
    for (layer, quadrant), group in groupby(program.configure, key=lambda write: (write.layer, write.quadrant)):
        title = "Input FIFOs" if layer is None else f"Layer {layer} ({comment_text(names[layer])}), quadrant {quadrant}"
        name = "" if layer is None else names[layer]
        lines = [register_line(write, layer_name=name, checked=options.verify_writes) for write in group]
        sections.append({"title": title, "lines": lines})
    return sections


def _is_quadrant_power(write: PowerWrite) -> bool:
    """The clock registers are written through the board library instead."""
    return write.register.startswith("GCFR_")


def _power_line(write: PowerWrite) -> str:
    member = write.register.removeprefix("GCFR_").lower()
    return f"MXC_GCFR->{member} = 0x{write.value:x}; /* {write.doc} */"


def _item_text(item: UnloadItem) -> str:
    return f"{comment_text(item.name)}, {item.channels}x{item.height}x{item.width}, {item.bits} bits per value"


def _unload_view(number: int, item: UnloadItem) -> dict[str, Any]:
    lines = [f"{{ 0x{group.address:08x}, 0x{group.lanes:x}, {group.channel} }}," for group in item.groups]
    call = "unload_bytes" if item.bits == 8 else "unload_words"
    target = f"out_buf + {item.offset // 4}" if item.offset else "out_buf"
    if item.bits == 8:
        target = f"(uint8_t *)({target})" if item.offset else "(uint8_t *)out_buf"
    pixels = item.height * item.width
    return {
        "comment": f"Output {number}: {_item_text(item)}",
        "lines": lines,
        "call": f"{call}(unload_{number}, {len(item.groups)}, {pixels}, {item.pixel_step}, {target});",
    }


def _data_view(program: Program) -> dict[str, Any]:
    """Tables of the three data headers."""
    kernels: list[str] = []
    for chunk in program.load_weights:
        words = chunk.bus_words
        kernels += [f"0x{chunk.address:08x}, {words.size},", *hex_lines(words)]
    return {
        "kernel_lines": kernels,
        "expected_lines": _expected_lines(program.expected),
        "layer_checks": [_layer_check_view(check) for check in program.layer_checks],
        "bias_blocks": [
            {
                "quadrant": block.quadrant,
                "address": f"0x{block.address:08x}",
                "lines": hex_lines(block.values, digits=2, per_line=BYTES_PER_LINE),
            }
            for block in program.load_bias
        ],
        "input_blocks": [_input_view(block) for block in program.load_input],
        "stored_sample": _stored_view(program.stored_sample),
    }


def _expected_lines(blocks: Iterable[ExpectedBlock]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        lines += [f"0x{block.address:08x}, 0x{block.mask:08x}, {block.values.size},", *hex_lines(block.values)]
    return lines


def _layer_check_view(check: LayerCheck) -> dict[str, Any]:
    return {
        "layer": check.layer,
        "macro": f"LAYER_{check.layer}_OUTPUT",
        "variable": f"layer_{check.layer}_output",
        "lines": _expected_lines(check.expected),
    }


def _input_view(block: InputBlock) -> dict[str, Any]:
    view = {
        "name": block.name,
        "variable": block.name.lower(),
        "full": f"0x{1 << block.full_bit:x}",
        "address": f"0x{block.address:08x}",
        "lines": hex_lines(block.words),
        "words": block.words.size,
    }
    if block.lanes is not None:
        lanes = [", ".join(str(channel) for channel in step) for step in block.lanes.tolist()]
        view |= {"steps": len(lanes), "lines": [f"{{ {step} }}," for step in lanes]}
    return view


def _stored_view(stored: StoredSample | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {
        "lines": hex_lines(stored.words.reshape(-1)),
        "columns": stored.words.shape[1],
        "period": stored.period,
        "increment": f"0x{stored.increment:x}",
        "first_pixel": stored.first_pixel,
        "num_pixels": stored.num_pixels,
        "planar": stored.planar,
    }


def _main_view(program: Program, network: Network, options: CodegenOptions) -> dict[str, Any]:
    """Choices of the application."""
    classifier = _classifier_bits(program) if options.softmax and options.unload else None
    labels = [comment_text(label) for label in network.labels] if classifier else []
    final = network.layers[program.unload[0].layer] if classifier and program.unload[0].layer is not None else None
    boost = options.boost
    return {
        "known_answer": options.known_answer,
        "unloads": options.unload,
        "wfi": options.wfi,
        "compact": options.compact,
        "forever": options.forever,
        "stop_start": bool(program.stop_start),
        "debug_wait_s": options.debug_wait_s,
        "classifier": classifier,
        "labels": labels if program.unload and len(labels) == program.unload[0].num_values else [],
        "softmax_shift": 8 - final.weight_bits if final is not None and final.conv is not None else 0,
        "boost": {"port": f"MXC_GPIO{boost.port}", "pin": f"MXC_GPIO_PIN_{boost.pin}"} if boost else None,
        "iso_clock": program.clock.source == "ISO",
        "clock_source": f"MXC_S_GCR_PCLKDIV_CNNCLKSEL_{program.clock.source}",
        "clock_divider": f"MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV{program.clock.divider}",
        "fifo_status": f"0x{program.fifo_status:08x}",
        "input_words": max((block.words.size for block in program.load_input), default=0),
        "input_statements": [] if options.compact else _input_statements(program),
    }


def _classifier_bits(program: Program) -> int | None:
    """Width of the output's values if the output is one vector, else None."""
    if len(program.unload) != 1:
        return None
    item = program.unload[0]
    return item.bits if item.height * item.width == 1 else None


def _input_statements(program: Program) -> list[str]:
    """One statement per input word, in bus order."""
    fifos = {block.address: block for block in program.load_input if block.fifo is not None}
    lines = []
    for address, _, value in program.input_writes():
        block = fifos.get(address)
        if block is None:
            lines.append(f"REG32(0x{address:08x}) = UINT32_C(0x{value:08x});")
        else:
            lines.append(f"fifo_put(0x{1 << block.full_bit:x}, 0x{address:08x}, UINT32_C(0x{value:08x}));")
    return lines
