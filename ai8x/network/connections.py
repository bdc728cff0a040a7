"""Which layer reads which, and the shape in which it finds the data.

Resolves sequence numbers and names, and applies concatenation, cropping and reshaping. Knows no operators and no
chip. Start at `Connections`.

Source: spec/max78000-cnn.md section 7.2 (in_sequences, in_dim, in_crop, operands) and 5.3 (concatenation).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, TensorShape
from ai8x.network.operators import problem
from ai8x.network.yaml_file import LayerEntry, NetworkFile, Reference
from ai8x.network.yaml_nodes import show_text


class Connections:
    """References between the layers of a file."""

    def __init__(self, file: NetworkFile) -> None:
        self._layers = file.layers
        self._by_sequence = {entry.sequence: entry.position for entry in file.layers}
        self._by_name = {entry.name: entry.position for entry in file.layers if entry.name is not None}
        self._buffer = file.data_buffer.name if file.data_buffer is not None else None

    def position(self, entry: LayerEntry, reference: Reference, key: str) -> int:
        """Position of the layer that a key of ``entry`` refers to; `NETWORK_INPUT` and `BUFFER_INPUT` for these.

        Raises:
            UserError: E0230, there is no such layer.
        """
        if reference == NETWORK_INPUT:
            return NETWORK_INPUT
        if self._buffer is not None and reference == self._buffer:
            return BUFFER_INPUT
        found = self._by_name.get(reference) if isinstance(reference, str) else self._by_sequence.get(reference)
        if found is None:
            kind = f"named '{show_text(reference)}'" if isinstance(reference, str) else f"with sequence {reference}"
            close = difflib.get_close_matches(str(reference), list(self._by_name), n=1)
            names = [str(name) for name in self._by_name] or ["no layer has a name"]
            raise problem(entry, "E0230", f"{key}: there is no layer {kind}", key, found=str(reference),
                          allowed=f"sequence {min(self._by_sequence)} to {max(self._by_sequence)}; {', '.join(names)}",
                          help=f"write {close[0]}" if close else "write the number or the name of a layer of this file")
        return found

    def inputs(self, entry: LayerEntry) -> tuple[int, ...]:
        """Positions of the sources; the previous layer where the file is silent.

        Raises:
            UserError: E0230 unknown, E0231 not an earlier layer, E0232 wrong number of operands.
        """
        if entry.in_sequences is None:
            sources: tuple[int, ...] = (entry.position - 1,)
        else:
            sources = tuple(self.position(entry, reference, "in_sequences") for reference in entry.in_sequences)
        if late := [source for source in sources if source >= entry.position]:
            raise problem(entry, "E0231", "in_sequences names a layer that runs later", "in_sequences",
                          found=f"layer {late[0]}", allowed="earlier layers and input",
                          help="change the order of the layers, or their sequence numbers")
        self._check_operands(entry, len(sources))
        return sources

    def _check_operands(self, entry: LayerEntry, num_sources: int) -> None:
        if entry.eltwise is None:
            if entry.operands is not None:
                raise problem(entry, "E0232", "operands is given for a layer without element-wise operator", "operands",
                              allowed="no such key", help="add eltwise:, or remove operands:")
            if entry.pool_first is False:
                raise problem(entry, "E0232", "pool_first: false needs an element-wise operator", "pool_first",
                              allowed="true", help="remove pool_first:")
            return
        num_operands = entry.operands or max(2, num_sources)
        if num_sources != num_operands:
            raise problem(
                entry, "E0232", f"{entry.eltwise.value} of {num_operands} operands has {num_sources} sources",
                "in_sequences", "operands", found=str(num_sources), allowed=f"{num_operands} entries in in_sequences",
                help=f"write operands: {num_sources}" if num_sources > 1 else "write in_sequences: [first, second]")

    def follower_problem(self, entry: LayerEntry) -> None:
        """Refuse a ``next_sequence`` that is not the next layer.

        Raises:
            UserError: E0240.
        """
        if entry.next_sequence is None:
            return
        is_last = entry.position == len(self._layers) - 1
        stops = isinstance(entry.next_sequence, str) and entry.next_sequence.lower() == "stop"
        if stops and is_last:
            return
        if stops or self.position(entry, entry.next_sequence, "next_sequence") != entry.position + 1:
            raise problem(entry, "E0240", "next_sequence jumps, but layers run in the order of their sequence numbers",
                          "next_sequence", found=str(entry.next_sequence),
                          allowed="the next layer" if not is_last else "stop", help="remove the key")


def operand_shape(entry: LayerEntry, shapes: Sequence[TensorShape]) -> TensorShape:
    """Shape (C, H, W) of each operand as the layer reads it: cropped, reshaped, concatenated.

    Args:
        entry: the keys.
        shapes: shapes of the sources, in order.

    Raises:
        UserError: E0233 operands differ, E0234 concatenated images differ, E0235 ``in_dim`` does not match,
            E0236 ``in_crop`` leaves nothing, E0239 ``in_channels`` does not match.
    """
    read = [_reshaped(entry, _cropped(entry, shape)) for shape in shapes]
    first = read[0]
    for index, shape in enumerate(read):
        if entry.eltwise is not None and shape != first:
            raise problem(entry, "E0233", f"operands of {entry.eltwise.value} have different shapes", "in_sequences",
                          found=f"operand 0 is {first}, operand {index} is {shape}", allowed="equal shapes",
                          help="name sources of the same shape in in_sequences")
        if (shape.height, shape.width) != (first.height, first.width):
            raise problem(entry, "E0234", "concatenated sources have different sizes", "in_sequences",
                          found=f"source 0 is {first}, source {index} is {shape}", allowed="equal height and width",
                          help="name sources of the same size, or write in_dim:")
    channels = first.channels if entry.eltwise is not None else sum(shape.channels for shape in read)
    if entry.in_channels not in (None, channels):
        raise problem(entry, "E0239", "in_channels does not match the sources", "in_channels",
                      found=str(entry.in_channels), allowed=str(channels), help="remove the key")
    return TensorShape(channels, first.height, first.width)


def _cropped(entry: LayerEntry, shape: TensorShape) -> TensorShape:
    start, end = entry.in_crop or (0, 0)
    if start + end >= shape.height:
        raise problem(entry, "E0236", "in_crop leaves nothing", "in_crop", found=f"[{start}, {end}]",
                      allowed=f"fewer than {shape.height} rows in all", help="crop fewer rows")
    return TensorShape(shape.channels, shape.height - start - end, shape.width)


def _reshaped(entry: LayerEntry, shape: TensorShape) -> TensorShape:
    if entry.in_dim is None:
        return shape
    size = shape.height * shape.width
    if len(entry.in_dim) == 2:
        height, width = entry.in_dim
    else:
        # One number is the length of 1-D data, or both sides of a square image.
        height, width = entry.in_dim[0], 1 if entry.in_dim[0] == size else entry.in_dim[0]
    if height * width != size:
        raise problem(entry, "E0235", "in_dim does not match the source", "in_dim", found=f"{height}x{width}",
                      allowed=f"a product of {size}, because the source is {shape}", help="remove the key")
    return TensorShape(shape.channels, height, width)
