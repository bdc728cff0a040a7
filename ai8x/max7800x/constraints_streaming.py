"""Limits of streaming: which layers, register ranges, buffers. Each function is one rule.

Start at `STREAMING_RULES` and `BUFFER_RULES`.

Source: spec/max78000-cnn.md sections 3.7 and 6.5.
"""

from __future__ import annotations

from collections.abc import Iterator

from ai8x.max7800x.constraints_base import Finding, Found, NetworkRule, Subject, hexadecimal
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.regions import DataRegion, data_regions, stream_buffer
from ai8x.max7800x.streaming import input_frame_words, stream_settings


def check_stream_layers(subject: Subject) -> Iterator[Found]:
    """Streaming layers are the first ones, consecutive, at most 8, fed by the FIFO; each reads the layer before it and
    nothing else reads what it streams on.
    """
    streaming = [layer for layer in subject.layers if layer.streaming]
    limit = subject.limits.max_stream_layers
    for position, layer in enumerate(streaming):
        if layer.index != position:
            yield _finding(
                "E0430",
                layer,
                f"streaming starts at layer {layer.index}, after layers that do not stream",
                "layers 0, 1, ... without interruption",
                "write streaming: false",
            )
        elif layer.index >= limit:
            yield _finding(
                "E0431",
                layer,
                f"{len(streaming)} streaming layers are too many",
                f"1 to {limit}",
                "write streaming: false",
            )
        elif layer.index > 0 and layer.layer.inputs != (layer.index - 1,):
            yield _finding(
                "E0432",
                layer,
                "a streaming layer reads the layer before it only",
                f"layer {layer.index - 1} as input",
                "write streaming: false",
            )
        readers = subject.network.consumers(layer.index)
        if layer.index + 1 in {other.index for other in streaming} and readers != (layer.index + 1,):
            yield _finding(
                "E0433",
                layer,
                f"what layer {layer.index} streams to the next layer cannot be read again",
                "one reader",
                f"write streaming: false in layer {layer.index + 1}",
            )
    if streaming and not subject.placement.reads_fifo:
        yield _finding(
            "E0434", streaming[0], "streaming needs input through the FIFO", "--fifo", "add --fifo to the command"
        )


def check_stream_pad(subject: Subject) -> Iterator[Found]:
    """The last streaming layer has padding."""
    streaming = [layer for layer in subject.layers if layer.streaming]
    if streaming and max(streaming[-1].pad_rows, streaming[-1].pad_columns) < subject.limits.min_last_stream_pad:
        yield Finding(
            code="E0435",
            key="pad",
            message="the last streaming layer has no padding",
            found="pad 0",
            allowed="pad 1 or 2",
            help="write pad: 1, or end the streaming one layer earlier or later",
            layer=streaming[-1],
        )


def check_stream_registers(subject: Subject) -> Iterator[Found]:
    """Start, increments, pass count, buffer size and TRAM positions of a stream fit their register fields."""
    block = subject.device.quadrant
    for layer, settings in zip(subject.layers, stream_settings(subject.layers, subject.device), strict=True):
        if settings is None:
            continue
        values = (
            ("start", settings.start, block.register("STRM0").field("start").max),
            ("delta1", settings.delta1, block.register("STRM1").field("delta1").max),
            ("delta2", settings.delta2, block.register("STRM1").field("delta2").max),
            ("number of earlier passes", settings.invol, block.register("STRM1").field("invol").max),
            ("buffer size in words", settings.buffer_words, block.register("FBUF").field("rollover").max),
            ("TRAM position", settings.tram_end, subject.limits.max_stream_tram),
        )
        for word, value, limit in values:
            if value > limit:
                yield _finding(
                    "E0436",
                    layer,
                    f"the {word} of the stream is {value}",
                    f"0 to {limit}",
                    "use a narrower input, a smaller pooling window, or fewer streaming layers",
                )
        frame = block.register("IFRM").field("value").max
        if layer.fifo_input and input_frame_words(layer) > frame:
            yield _finding(
                "E0437",
                layer,
                f"the input frame has {input_frame_words(layer)} FIFO words",
                f"1 to {frame}",
                "use a smaller input",
            )


def note_stream_bias(subject: Subject) -> Iterator[Found]:
    """A bias in a streaming layer is called unreliable by the vendor: a warning."""
    for layer in subject.layers:
        if layer.streaming and layer.bias is not None:
            yield Finding(
                code="W0306",
                key="streaming",
                message="the vendor calls a bias in a streaming layer unreliable",
                found=f"{len(layer.bias)} bias values",
                allowed="no bias",
                help="train the layer without bias",
                level="warning",
                layer=layer,
            )


def check_stream_buffers(subject: Subject) -> Iterator[Found]:
    """Stream buffers end inside the data memory and share no memory with each other, nor with the output of the last
    streaming layer.
    """
    settings = stream_settings(subject.layers, subject.device)
    streaming = [layer for layer in subject.layers if layer.streaming]
    buffers = [(layer, stream_buffer(layer, settings, subject.layers)) for layer in streaming]
    for layer, region in buffers:
        if region.end_byte > subject.memory_bytes:
            yield _finding(
                "E0438",
                layer,
                f"the stream buffer ends at {hexadecimal(region.end_byte)}",
                f"up to {hexadecimal(subject.memory_bytes)}",
                f"write in_offset: {hexadecimal(subject.memory_bytes - _size(region))} or less, and the same "
                "out_offset in the layer before",
            )
    for position, (layer, region) in enumerate(buffers):
        for other, earlier in buffers[:position]:
            if _overlap(region, earlier):
                yield _overlap_finding(
                    layer, region, earlier, f"the stream buffer of layer {other.index} '{other.name}'"
                )
    if streaming and all(region.end_byte <= subject.memory_bytes for _, region in buffers):
        yield from _output_overlaps(subject, streaming[-1], buffers)


def check_stream_offsets(subject: Subject) -> Iterator[Found]:
    """A streaming layer reads its buffer where, and on the processors on which, the layer before it writes."""
    for layer in subject.layers[1:]:
        if not layer.streaming:
            continue
        previous = subject.layers[layer.index - 1].placement
        if previous.out_offset != layer.placement.in_offset:
            yield Finding(
                code="E0440",
                key="in_offset",
                message=f"the stream is read at {hexadecimal(layer.placement.in_offset)} and written at "
                f"{hexadecimal(previous.out_offset)}",
                found=hexadecimal(layer.placement.in_offset),
                allowed="the out_offset of the layer before",
                help=f"write in_offset: {hexadecimal(previous.out_offset)}",
                layer=layer,
            )
        if previous.output_processors != layer.processors:
            yield Finding(
                code="E0441",
                key="processors",
                message="the stream is read on other processors than those that are written",
                found=f"written to 0x{previous.output_processors:016x}",
                allowed=f"0x{layer.processors:016x}",
                help=f"write output_processors: 0x{layer.processors:016x} in layer {layer.index - 1}",
                layer=layer,
            )


def _output_overlaps(
    subject: Subject, last: HardwareLayer, buffers: list[tuple[HardwareLayer, DataRegion]]
) -> Iterator[Found]:
    output = next(
        region
        for region in data_regions(subject.network, subject.layers, subject.device)
        if region.layer == last.index and not region.is_stream_buffer
    )
    for other, region in buffers:
        if _overlap(output, region):
            yield _overlap_finding(
                last, output, region, f"the stream buffer of layer {other.index} '{other.name}'", key="out_offset"
            )


def _overlap_finding(
    layer: HardwareLayer, region: DataRegion, other: DataRegion, whose: str, key: str = "in_offset"
) -> Finding:
    what = "output" if key == "out_offset" else "stream buffer"
    return Finding(
        code="E0439",
        key=key,
        message=f"the {what} overlaps {whose} in a shared data memory",
        found=f"{_bytes_text(region)} and {_bytes_text(other)}",
        allowed="separate bytes, or separate data memories",
        help=f"write {key}: {hexadecimal(other.end_byte)}"
        + ("" if key == "out_offset" else ", and the same out_offset in the layer before"),
        layer=layer,
    )


def _overlap(one: DataRegion, other: DataRegion) -> bool:
    shared = set(one.instances) & set(other.instances)
    return bool(shared) and one.start_byte < other.end_byte and other.start_byte < one.end_byte


def _bytes_text(region: DataRegion) -> str:
    return f"bytes {hexadecimal(region.start_byte)} to {hexadecimal(region.end_byte)}"


def _size(region: DataRegion) -> int:
    return region.end_byte - region.start_byte


def _finding(code: str, layer: HardwareLayer, message: str, allowed: str, action: str) -> Finding:
    return Finding(
        code=code,
        key="streaming",
        message=message,
        found=f"streaming: {str(layer.streaming).lower()}",
        allowed=allowed,
        help=action,
        layer=layer,
    )


STREAMING_RULES: tuple[NetworkRule, ...] = (
    check_stream_layers,
    check_stream_pad,
    check_stream_registers,
    note_stream_bias,
)
"""Every rule about streams that does not need memory to be right."""

BUFFER_RULES: tuple[NetworkRule, ...] = (check_stream_buffers, check_stream_offsets)
"""Every rule about the memory of streams."""
