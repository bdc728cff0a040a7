"""What a network file may say about its rolling buffer: which layers move it, fill it and read it.

Start at `check_buffer_keys`.

Source: spec/max78000-cnn.md sections 7.1 and 7.2.
"""

from __future__ import annotations

from ai8x.network.ir import BUFFER_INPUT, Op, RollingBuffer, TensorShape
from ai8x.network.operators import entry_op, problem
from ai8x.network.yaml_file import LayerEntry

_COMPUTING_KEYS = ("max_pool", "avg_pool", "pool_stride", "in_crop", "eltwise", "buffer_insert", "output_width")


def check_buffer_keys(entry: LayerEntry, inputs: tuple[int, ...], buffer: RollingBuffer | None) -> None:
    """Refuse keys about a buffer that is not there, and a shifting layer that does anything else.

    Args:
        entry: the layer.
        inputs: its sources.
        buffer: the file's rolling buffer, or None.

    Raises:
        UserError: E0242.
    """
    for key, value in (("buffer_shift", entry.buffer_shift), ("buffer_insert", entry.buffer_insert)):
        if not value:
            continue
        if buffer is None:
            raise problem(entry, "E0242", f"{key} needs a rolling buffer", key, found="no data_buffer in the file",
                          allowed="a file with data_buffer:", help="add data_buffer:, or remove the key")
        most = buffer.num_pixels - (1 if key == "buffer_shift" else 0)
        if value > most:
            size = f"the buffer '{buffer.name}' of {buffer.num_pixels} places"
            raise problem(entry, "E0242", f"{key} does not fit {size}", key, found=str(value),
                          allowed=f"1 to {most}", help=f"write {key}: {most}")
    if not entry.buffer_shift or buffer is None:
        return
    if inputs != (BUFFER_INPUT,):
        raise problem(entry, "E0242", "a layer with buffer_shift reads the buffer", "in_sequences", "buffer_shift",
                      found=f"{len(inputs)} sources", allowed=buffer.name, help=f"write in_sequences: {buffer.name}")
    others = [key for key in _COMPUTING_KEYS if key in entry.sources]
    if entry_op(entry) is not Op.PASSTHROUGH or others:
        found = ", ".join([entry_op(entry).value, *others])
        raise problem(entry, "E0242", "a layer with buffer_shift copies and does nothing else", "op", *others,
                      found=found, allowed="op: passthrough", help="write op: passthrough; compute in another layer")


def check_inserted(entry: LayerEntry, shape: TensorShape, buffer: RollingBuffer | None) -> None:
    """Refuse an output that does not fill the places of ``buffer_insert``.

    Args:
        entry: the layer.
        shape: of its output.
        buffer: the file's rolling buffer, or None.

    Raises:
        UserError: E0243.
    """
    if not entry.buffer_insert or buffer is None:
        return
    pixels = shape.height * shape.width
    if pixels != entry.buffer_insert or shape.channels != buffer.shape.channels or entry.output_width == 32:
        wanted = f"{buffer.shape.channels} channels of {entry.buffer_insert} pixels, 8 bits"
        raise problem(entry, "E0243", f"the output does not fill the newest {entry.buffer_insert} places of the buffer",
                      "buffer_insert", found=f"{shape}, {entry.output_width or 8} bits", allowed=wanted,
                      help=f"write buffer_insert: {pixels}, or change the layer's output")
