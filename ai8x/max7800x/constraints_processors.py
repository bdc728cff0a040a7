"""Limits of processor maps: counts, input formats, output maps, bias quadrants. Each function is one rule.

Start at `PROCESSOR_RULES`.

Source: spec/max78000-cnn.md sections 3.5, 5.3, 5.4, 6.2 and 6.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ai8x.max7800x.constraints_base import (
    Finding,
    Found,
    LayerRule,
    NetworkRule,
    Subject,
    contiguous_map,
    describe_map,
)
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import (
    LANES,
    PROCESSORS,
    QUADRANT_PROCESSORS,
    DataFormat,
    format_map,
    lowest_bit,
    quadrant_map,
    quadrants_of,
    set_bits,
)
from ai8x.network.ir import NETWORK_INPUT


def check_processor_count(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """One enabled processor per input channel of a pass; for several passes that is a multiple of 4."""
    needed, found = layer.channels_per_pass, layer.processors
    if found.bit_count() == needed and found.bit_length() <= subject.device.processors:
        return
    value = format_map(contiguous_map(found, needed, subject.device.processors))
    yield Finding(
        code="E0312",
        key="processors",
        message=f"{layer.in_channels} input channels{_in_passes(layer.passes)} need {needed} processors, "
        f"{found.bit_count()} are enabled",
        found=describe_map(found),
        allowed=f"one enabled processor per input channel of a pass ({_passes(layer.passes)}: {needed})",
        help=f"write processors: {value}",
    )


def check_output_processor_count(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """One enabled output processor per output channel of a pass; for several passes that is a multiple of 4."""
    needed, found = layer.out_channels_per_pass, layer.output_processors
    if found.bit_count() == needed and found.bit_length() <= subject.device.processors:
        return
    if _is_a_readers_bad_map(subject, layer):
        return
    value = format_map(contiguous_map(found, needed, subject.device.processors))
    own = "output_processors" in layer.placement.sources or not subject.network.consumers(layer.index)
    place = "output_processors" if own else "processors of the layer that reads it"
    yield Finding(
        code="E0313",
        key="output_processors",
        message=f"{layer.out_channels} output channels{_in_passes(layer.out_passes)} need {needed} output processors, "
        f"{found.bit_count()} are enabled",
        found=f"{describe_map(found)} ({place})",
        allowed=f"one enabled processor per output channel of a pass ({_passes(layer.out_passes)}: {needed})",
        help=f"write output_processors: {value}, and the same processors in the layer that reads it",
    )


def check_output_map(_: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Within a quadrant the output processors of a convolution have equal distances; with more than 64 output channels
    the map starts at a multiple of 4.
    """
    if not layer.is_conv:
        return
    for quadrant in quadrants_of(layer.output_processors):
        bits = set_bits(quadrant_map(layer.output_processors, quadrant))
        distances = {high - low for low, high in itertools.pairwise(bits)}
        if len(distances) > 1:
            yield _bad_output_map(
                layer,
                f"processors of quadrant {quadrant} have unequal distances",
                "equal distances between the processors of a quadrant",
            )
            return
    if layer.out_passes > 1 and layer.start_column:
        yield _bad_output_map(
            layer,
            f"{layer.out_channels} output channels start at processor lane {layer.start_column}",
            "a first processor divisible by 4 for more than 64 output channels",
        )


def check_pass_output_map(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A pass layer writes within each quadrant: the output map holds there as many processors as the input map,
    contiguous, from a multiple of 4.
    """
    if layer.is_conv:
        return
    expected = 0
    for quadrant in range(subject.device.num_quadrants):
        have = quadrant_map(layer.output_processors, quadrant)
        need = quadrant_map(layer.processors, quadrant).bit_count()
        start = LANES * (lowest_bit(have) // LANES)
        start = min(start, LANES * ((QUADRANT_PROCESSORS - need) // LANES))
        expected |= ((1 << need) - 1) << start + QUADRANT_PROCESSORS * quadrant
    if expected != layer.output_processors:
        yield Finding(
            code="E0342",
            key="output_processors",
            message="a layer without weights cannot move data between quadrants or leave gaps",
            found=f"{describe_map(layer.output_processors)} for inputs from {format_map(layer.processors)}",
            allowed="per quadrant as many output as input processors, contiguous, the first divisible by 4",
            help=f"write output_processors: {format_map(expected)}",
        )


def check_data_format(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """CHW data: layer 0 only, one operand, one pass, every channel on the first processor of its own data memory."""
    if layer.placement.data_format is not DataFormat.CHW:
        return
    if layer.index > 0 or layer.operands > 1 or layer.passes > 1:
        yield Finding(
            code="E0343",
            key="data_format",
            message="CHW data is possible for layer 0 with one operand and up to 64 channels only",
            found=f"layer {layer.index}, {layer.operands} operands, {layer.passes} passes",
            allowed="HWC",
            help="write data_format: HWC",
        )
        return
    memories = subject.device.geometry.num_instances
    if any(processor % LANES for processor in set_bits(layer.processors)):
        if layer.in_channels > memories:
            action = "write data_format: HWC"
        else:
            action = (
                f"write processors: {format_map(sum(1 << LANES * channel for channel in range(layer.in_channels)))}"
            )
        yield Finding(
            code="E0344",
            key="processors",
            message="every CHW channel needs a data memory of its own",
            found=format_map(layer.processors),
            allowed="processors divisible by 4 (0, 4, 8, ...)",
            help=action,
        )


def check_fifo_channels(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """FIFO input: at most 16 HWC channels on processors 0-3, 16-19, 32-35, 48-51, filled four by four.

    CHW: at most 4 channels on processors 0, 16, 32, 48. The fast FIFO: 4 HWC channels on processors 0-3 or one CHW
    channel on processor 0.
    """
    if not layer.fifo_input:
        return
    limits, chw = subject.limits, layer.placement.data_format is DataFormat.CHW
    if subject.placement.fast_fifo:
        most = limits.fast_fifo_chw_channels if chw else limits.fast_fifo_hwc_channels
    else:
        most = limits.fifo_chw_channels if chw else limits.fifo_hwc_channels
    kind = "CHW" if chw else "HWC"
    if layer.in_channels > most:
        yield Finding(
            code="E0345",
            key="processors",
            message=f"{layer.in_channels} channels do not fit the FIFO",
            found=f"{layer.in_channels} {kind} channels",
            allowed=f"1 to {most} {kind} channels",
            help="load the input into data memory: leave --fifo and streaming out",
        )
        return
    share = 1 if chw else LANES
    expected = sum(
        1 << QUADRANT_PROCESSORS * (channel // share) + channel % share for channel in range(layer.in_channels)
    )
    if layer.processors != expected:
        yield Finding(
            code="E0346",
            key="processors",
            message="FIFO input reaches other processors",
            found=format_map(layer.processors),
            allowed="processors 0, 16, 32, 48" if chw else "processors 0-3, then 16-19, 32-35, 48-51",
            help=f"write processors: {format_map(expected)}",
        )


def check_fast_fifo(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Layer 0 behind the fast FIFO is a convolution with 8-bit output."""
    if layer.fifo_input and subject.placement.fast_fifo and (not layer.is_conv or layer.output_bits != 8):
        yield Finding(
            code="E0347",
            key="op",
            message="the fast FIFO feeds a convolution with 8-bit output only",
            found=f"{layer.op.value}, {layer.output_bits}-bit output",
            allowed="a convolution, 8-bit output",
            help="leave --fast-fifo out",
        )


def check_quad(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """Quad mode: the input comes through the fast FIFO; layer 0 has at most 64 output channels, from a processor
    divisible by 4 on.
    """
    if not layer.quad:
        return
    if subject.placement.fast_fifo and layer.out_passes == 1 and not layer.start_column:
        return
    yield Finding(
        code="E0339",
        key="output_processors",
        message="quad mode does not suit this input or this layer",
        found=f"{'the fast FIFO' if subject.placement.fast_fifo else 'no fast FIFO'}, {layer.out_channels} output "
        f"channels from processor {lowest_bit(layer.output_processors)} on",
        allowed=f"the fast FIFO, and 1 to {subject.device.processors} output channels from a processor divisible by 4",
        help="leave --fast-fifo-quad out",
    )


def check_fifo_reader(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """FIFO data reaches layer 0, which has no other input, and no other layer."""
    inputs = layer.layer.inputs
    if subject.placement.reads_fifo and (inputs != (NETWORK_INPUT,) if layer.index == 0 else NETWORK_INPUT in inputs):
        yield Finding(
            code="E0348",
            key="in_sequences",
            message="FIFO input is read once, by layer 0",
            found=f"inputs {', '.join('input' if i == NETWORK_INPUT else str(i) for i in inputs)}",
            allowed="the network input as the one input of layer 0",
            help="leave --fifo out, or read the output of layer 0",
        )


def check_bias_group(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """A bias may be stored in a quadrant that the network uses."""
    if layer.bias is None:
        return
    used = subject.placement.used_quadrants
    if any(quadrant not in used for quadrant in layer.placement.bias_group):
        kept = [str(quadrant) for quadrant in layer.placement.bias_group if quadrant in used] or [str(used[0])]
        value = kept[0] if len(kept) == 1 else f"[{', '.join(kept)}]"
        yield Finding(
            code="E0349",
            key="bias_group",
            message="the bias cannot be stored in a quadrant that is not used",
            found=", ".join(str(quadrant) for quadrant in layer.placement.bias_group),
            allowed=", ".join(str(quadrant) for quadrant in used),
            help=f"write bias_group: {value}",
        )


def check_first_quadrant(subject: Subject) -> Iterator[Found]:
    """The network uses quadrant 0, which starts the others."""
    used = subject.placement.bias_quadrants
    if subject.layers and 0 not in used:
        first = subject.layers[0]
        value = format_map(contiguous_map(1, first.channels_per_pass, subject.device.processors))
        yield Finding(
            code="E0341",
            key="processors",
            message="no layer uses quadrant 0 (processors 0 to 15)",
            found="quadrants " + ", ".join(str(quadrant) for quadrant in used),
            allowed="at least one processor of 0 to 15",
            help=f"write processors: {value}",
            layer=first,
        )


def check_layer_count(subject: Subject) -> Iterator[Found]:
    """A network has at most 32 layers."""
    limit, count = subject.limits.max_layers, len(subject.layers)
    if count > limit:
        yield Finding(
            code="E0311",
            key="op",
            message=f"{count} layers are too many",
            found=f"{count} layers",
            allowed=f"1 to {limit}",
            help=f"remove {count - limit} layers; pooling and element-wise operations can join the next convolution",
            layer=subject.layers[limit],
        )


def _bad_output_map(layer: HardwareLayer, message: str, allowed: str) -> Finding:
    value = format_map(contiguous_map(layer.output_processors, layer.out_channels_per_pass, PROCESSORS))
    return Finding(
        code="E0340",
        key="output_processors",
        message=message,
        found=describe_map(layer.output_processors),
        allowed=allowed,
        help=f"write output_processors: {value}, and the same processors in the layer that reads it",
    )


def _is_a_readers_bad_map(subject: Subject, layer: HardwareLayer) -> bool:
    """Whether the output map is only the input map of a reader, and wrong there already: one mistake, one error."""
    if "output_processors" in layer.placement.sources:
        return False
    readers = [subject.layers[index] for index in subject.network.consumers(layer.index)]
    return any(reader.processors == layer.output_processors and any(check_processor_count(subject, reader))
               for reader in readers)


def _passes(passes: int) -> str:
    return "1 pass" if passes == 1 else f"{passes} passes"


def _in_passes(passes: int) -> str:
    return "" if passes == 1 else f" in {passes} passes"


PROCESSOR_RULES: tuple[LayerRule, ...] = (
    check_processor_count,
    check_output_processor_count,
    check_output_map,
    check_pass_output_map,
    check_data_format,
    check_fifo_channels,
    check_fast_fifo,
    check_quad,
    check_fifo_reader,
    check_bias_group,
)
"""Every rule that looks at one layer's processors."""

NETWORK_RULES: tuple[NetworkRule, ...] = (check_layer_count, check_first_quadrant)
"""Every rule that looks at all layers together."""
