"""The rules of spec/max78000-cnn.md section 6, row by row, each with what is just legal and what is just not.

Rows count from 1 in the order of the section's tables; the numbered statements of 6.3 and 6.5 are rows, too. Every
check goes through what synthesize.py uses: `check_network` for a placed network, the reader or the builder for what a
network file says. Start at `Row`; the rows are in
``section6_shapes`` and ``section6_memories``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ai8x.errors import UserError
from ai8x.max7800x.options import ProjectOptions, check_options
from ai8x.network.build import build_network
from ai8x.network.ir import Activation, Eltwise, Pool, PoolSpec, TensorShape
from ai8x.network.weights import LayerParameters
from ai8x.network.yaml_file import parse_network_file
from ai8x.sample import sample_problem

from .constraint_examples import (
    ALL,
    PLAIN,
    codes,
    lowest,
    shaped,
    single,
    streamed,
    wide,
)
from .lowering_examples import conv, network_of, passthrough, place

Codes = list[str]
Check = Callable[[], Codes]
"""Codes of the errors and warnings that a stage finds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of section 6.

    Args:
        section: such as ``6.1``.
        number: of the row in the section, from 1.
        limit: which of the row's limits, in a few words.
        rules: functions of `ai8x.max7800x.constraints.RULES` that check it; empty where another stage does.
        legal: the last that is allowed.
        illegal: the first that is not, with the codes of its refusal.
        reason: why there is no illegal network: another limit comes first.
    """

    section: str
    number: int
    limit: str
    rules: tuple[str, ...] = ()
    legal: tuple[Check, ...] = ()
    illegal: tuple[tuple[Check, Codes], ...] = ()
    reason: str = ""

    @property
    def name(self) -> str:
        """For the names of tests."""
        return f"{self.section} row {self.number}: {self.limit}"


def read(
    keys: str,
    *,
    shape: tuple[int, int, int] = (4, 8, 8),
    weights: tuple[int, ...] | None = (4, 4, 3, 3),
    value: int = 1,
    more: str = "",
) -> Check:
    """What reader and builder say about a file of one layer with these keys.

    Args:
        keys: of the layer, in braces.
        shape: of the input.
        weights: shape of the parameters; None for a layer without.
        value: of every weight.
        more: further entries.
    """
    own = (
        ()
        if weights is None
        else (LayerParameters(name="conv1", weight_key="conv1.op.weight", weight=np.full(weights, value, np.int64)),)
    )

    def check() -> Codes:
        try:
            file = parse_network_file(f"arch: a\ndataset: d\nlayers:\n- {{{keys}}}\n{more}")
            build_network(file, own, TensorShape(*shape))
        except UserError as error:
            return [item.code for item in error.diagnostics]
        return []

    return check


def deep(count: int) -> Codes:
    """A chain of so many convolutions."""
    network = network_of(*(conv(i, (4, 4, 4), 4) for i in range(count)))
    return codes(network, *(place(0xF, 0xF, 0x1000 * ((i + 1) % 2), 0x1000 * (i % 2)) for i in range(count)))


def added(channels: int, operands: int, **changes: Any) -> Any:
    """A bare element-wise layer."""
    return passthrough(0, (channels, 4, 4), **{"inputs": (-1,) * operands, "eltwise": Eltwise.ADD, **changes})


def operands_in(first: int, second: int) -> Codes:
    """The sum of two convolutions that write to these maps."""
    side = {"inputs": (-1,), "kernel": 1, "pad": 0}
    network = network_of(
        conv(0, (4, 4, 4), 4, **side),
        conv(1, (4, 4, 4), 4, **side),
        passthrough(2, (4, 4, 4), inputs=(0, 1), eltwise=Eltwise.ADD),
    )
    return codes(
        network,
        place(0xF, first, 0x1000, write_gap=1),
        place(0xF, second, 0x1004, write_gap=1),
        place(0xF, 0xF, 0x2000, 0x1000),
    )


def joined(first: int, second: int) -> Codes:
    """A concatenation of 4 and 8 channels that lie on these processors."""
    side = {"inputs": (-1,), "kernel": 1, "pad": 0}
    network = network_of(
        conv(0, (4, 4, 4), 4, **side), conv(1, (4, 4, 4), 8, **side), conv(2, (12, 4, 4), 4, inputs=(0, 1))
    )
    return codes(network, place(0xF, first, 0x1000), place(0xF, second, 0x1000), place(0xFFF, 0xF, 0x2000, 0x1000))


def masks(count: int) -> Codes:
    """So many layers of 64 to 64 channels: 64 mask words each."""
    first = wide((64, 4, 4), 64)
    layers = [replace(first, index=i, name=f"conv{i}", inputs=(i - 1,)) for i in range(count)]
    return codes(
        network_of(*layers), *(place(ALL, ALL, 0x1000 * ((i + 1) % 2), 0x1000 * (i % 2)) for i in range(count))
    )


def biased(count: int, **changes: Any) -> Codes:
    """A layer with so many bias values."""
    layer = conv(0, (4, 4, 4), count, bias=np.ones(count, np.int64))
    return codes(network_of(layer), place(0xF, lowest(count), 0x4000, **changes))


def overwritten(third: int) -> Codes:
    """Four layers; the last adds nothing but reads the first one's output again, which the third must spare."""
    network = network_of(
        *(conv(i, (4, 8, 8), 4) for i in range(3)), passthrough(3, (4, 8, 8), inputs=(0,)), outputs=(2, 3)
    )
    return codes(
        network,
        place(0xF, 0xF, 0x1000),
        place(0xF, 0xF, 0x2000, 0x1000),
        place(0xF, 0xF, third, 0x2000),
        place(0xF, 0xF, 0x3000, 0x1000),
    )


def behind_the_fifo(channels: int, processors: int, **changes: Any) -> Codes:
    """The FIFO's data on these processors."""
    return single(conv(0, (channels, 4, 4), 4), processors=processors, fifo=True, **changes)


def fast(layer: Any, processors: int) -> Codes:
    """Layer 0 behind the fast FIFO."""
    return codes(network_of(layer), place(processors, 0xF, 0x4000), fast_fifo=True)


def project(**changes: Any) -> Codes:
    """Options of the generated project."""
    try:
        check_options(replace(ProjectOptions(), **changes))
    except UserError as error:
        return [item.code for item in error.diagnostics]
    return []


def stream(
    width: int = 16,
    *,
    window: tuple[int, int] = (1, 1),
    stride: int = 1,
    channels: int = 4,
    height: int = 32,
    earlier: int = 1,
) -> Codes:
    """Streaming layers of which the last one pools, on rows of so many pixels."""
    pool = (
        PoolSpec(kind=Pool.MAX, window=window, stride=(stride, stride)) if max(window) > 1 or stride > 1 else PoolSpec()
    )
    layers = [
        shaped((channels, height, width), (channels, height, width), PLAIN, index=i, name=f"conv{i}", inputs=(i - 1,))
        for i in range(earlier)
    ]
    size = pool.output_size(height, width)
    layers.append(
        shaped(
            (channels, height, width),
            (channels, *size),
            PLAIN,
            pool=pool,
            index=earlier,
            name="last",
            inputs=(earlier - 1,),
        )
    )
    maps = [0xF << 4 * i if channels == 4 else lowest(channels) for i in range(earlier + 2)]
    return codes(
        network_of(*layers), *(place(maps[i], maps[i + 1], streaming=True) for i in range(earlier + 1)), fifo=True
    )


def two_streams(second: int, output: int) -> Codes:
    """Two streaming layers in the same memories: offset of the first buffer, and of the second."""
    return streamed(
        places=[
            place(0xF, 0xF, second, 0, streaming=True),
            place(0xF, 0xF0, output, second, streaming=True),
            place(0xF0, 0xF, 0x4000, output),
        ]
    )


def last_output(offset: int) -> Codes:
    """Offset of what the last streaming layer writes into the memory of the first buffer."""
    return streamed(
        places=[
            place(0xF, 0xF0, streaming=True),
            place(0xF0, 0xF, offset, 0, streaming=True),
            place(0xF, 0xF00, 0, offset),
        ]
    )


def samples(values: Any) -> Codes:
    """Whether an array is a sample."""
    return ["E0642"] if sample_problem(np.asarray(values)) else []


def only(code: str, found: Codes) -> Codes:
    """One code of several, once: where another limit is broken, too, or several layers break the same one."""
    return [code] if code in found else []


def file_key(keys: str) -> Check:
    """A key of another chip."""
    return read(f"op: conv2d, {keys}")


TWICE = {"inputs": (-1, -1), "eltwise": Eltwise.ADD}
"""Both operands are the network's input."""

WIDE = {"output_bits": 32, "activation": Activation.NONE}
"""Raw accumulators."""
