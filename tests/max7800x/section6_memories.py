"""Rows of sections 6.2 to 6.5: processors, memories, streams. Start at `ROWS`."""

from __future__ import annotations

from dataclasses import replace

from ai8x.max7800x.options import Core, ProjectOptions
from ai8x.max7800x.placement import DataFormat
from ai8x.network.ir import ConvSpec, Pool, PoolSpec

from .constraint_examples import (
    codes,
    conv1d,
    lowest,
    shaped,
    single,
    streamed,
    wide,
)
from .lowering_examples import MAX_2X2, conv, linear, network_of, passthrough, place
from .section6 import (
    TWICE,
    WIDE,
    Codes,
    Row,
    behind_the_fifo,
    biased,
    fast,
    joined,
    last_output,
    masks,
    only,
    operands_in,
    overwritten,
    project,
    stream,
    two_streams,
)
from .section6_shapes import SHAPE_ROWS

CHW = DataFormat.CHW
FIFO_16 = 0x000F_000F_000F_000F

PROCESSOR_ROWS = (
    Row(
        section="6.2",
        number=1,
        limit="one processor per input channel of a pass",
        rules=("check_processor_count",),
        legal=(lambda: single(conv(0, (3, 8, 8), 8)), lambda: single(wide((65, 4, 4), 8))),
        illegal=(
            (lambda: single(conv(0, (3, 8, 8), 8), processors=0x3), ["E0312"]),
            (lambda: single(conv(0, (3, 8, 8), 8), processors=0xF), ["E0312"]),
            (lambda: single(wide((65, 4, 4), 8), processors=(1 << 33) - 1), ["E0312"]),
        ),
    ),
    Row(
        section="6.2",
        number=1,
        limit="one processor per output channel of a pass",
        rules=("check_output_processor_count",),
        legal=(lambda: single(conv(0, (3, 8, 8), 8)), lambda: single(wide((3, 4, 4), 65))),
        illegal=(
            (lambda: single(conv(0, (3, 8, 8), 8), outputs=0x7F), ["E0313"]),
            (lambda: single(conv(0, (3, 8, 8), 8), outputs=0x1FF), ["E0313"]),
        ),
    ),
    Row(
        section="6.2",
        number=2,
        limit="quadrant 0",
        rules=("check_first_quadrant",),
        legal=(lambda: single(conv(0, (3, 8, 8), 8), processors=0x7 << 16),),
        illegal=((lambda: single(conv(0, (3, 8, 8), 8), processors=0x7 << 16, outputs=0xFF << 16), ["E0341"]),),
    ),
    Row(
        section="6.2",
        number=3,
        limit="CHW on lane 0 of separate memories",
        rules=("check_data_format",),
        legal=(lambda: single(conv(0, (3, 8, 8), 8), processors=0x111, data_format=CHW),),
        illegal=(
            (lambda: single(conv(0, (3, 8, 8), 8), processors=0x7, data_format=CHW), ["E0344"]),
            (lambda: single(conv(0, (3, 8, 8), 8), processors=0x222, data_format=CHW), ["E0344"]),
        ),
    ),
    Row(
        section="6.2",
        number=3,
        limit="CHW for layer 0, one operand, one pass",
        rules=("check_data_format",),
        legal=(lambda: single(conv(0, (1, 8, 8), 8), data_format=CHW),),
        illegal=(
            (lambda: single(passthrough(0, (1, 8, 8), **TWICE), data_format=CHW), ["E0343"]),
            (lambda: single(wide((65, 8, 8), 8), data_format=CHW), ["E0343"]),
            (
                lambda: codes(
                    network_of(conv(0, (4, 4, 4), 1), conv(1, (1, 4, 4), 4)),
                    place(0xF, 1, 0x1000),
                    place(1, 0xF, 0, 0x1000, data_format=CHW),
                ),
                ["E0343"],
            ),
        ),
    ),
    Row(
        section="6.2",
        number=4,
        limit="FIFO: 16 HWC channels on its processors",
        rules=("check_fifo_channels",),
        legal=(lambda: behind_the_fifo(16, FIFO_16), lambda: behind_the_fifo(5, 0x1_000F)),
        illegal=((lambda: behind_the_fifo(17, lowest(17)), ["E0345"]), (lambda: behind_the_fifo(5, 0x1F), ["E0346"])),
    ),
    Row(
        section="6.2",
        number=4,
        limit="FIFO: 4 CHW channels on its processors",
        rules=("check_fifo_channels",),
        legal=(lambda: behind_the_fifo(4, 0x0001_0001_0001_0001, data_format=CHW),),
        illegal=(
            (lambda: behind_the_fifo(5, 0x11111, data_format=CHW), ["E0345"]),
            (lambda: behind_the_fifo(2, 0x11, data_format=CHW), ["E0346"]),
        ),
    ),
    Row(
        section="6.2",
        number=4,
        limit="FIFO: read by layer 0 only",
        rules=("check_fifo_reader",),
        legal=(lambda: behind_the_fifo(4, 0xF),),
        illegal=(
            (
                lambda: codes(
                    network_of(conv(0, (4, 4, 4), 4), conv(1, (4, 4, 4), 4, inputs=(-1,)), outputs=(0, 1)),
                    place(0xF, 0xF, 0x1000),
                    place(0xF, 0xF, 0x2000),
                    fifo=True,
                ),
                ["E0348"],
            ),
        ),
    ),
    Row(
        section="6.2",
        number=5,
        limit="fast FIFO: of the RISC-V",
        legal=(lambda: project(fast_fifo=True, code=replace(ProjectOptions().code, core=Core.RISCV)),),
        illegal=((lambda: project(fast_fifo=True), ["E0397"]),),
    ),
    Row(
        section="6.2",
        number=5,
        limit="fast FIFO: 4 HWC channels or 1 CHW channel",
        rules=("check_fifo_channels",),
        legal=(
            lambda: fast(conv(0, (4, 4, 4), 4), 0xF),
            lambda: codes(network_of(conv(0, (1, 4, 4), 4)), place(1, 0xF, 0x4000, data_format=CHW), fast_fifo=True),
        ),
        illegal=(
            (lambda: fast(conv(0, (5, 4, 4), 4), 0x1_000F), ["E0345"]),
            (
                lambda: codes(
                    network_of(conv(0, (2, 4, 4), 4)), place(0x11, 0xF, 0x4000, data_format=CHW), fast_fifo=True
                ),
                ["E0345"],
            ),
        ),
    ),
    Row(
        section="6.2",
        number=5,
        limit="fast FIFO: a convolution with 8-bit output",
        rules=("check_fast_fifo",),
        legal=(lambda: fast(conv(0, (4, 4, 4), 4), 0xF),),
        illegal=(
            (lambda: fast(passthrough(0, (4, 4, 4)), 0xF), ["E0347"]),
            (lambda: fast(conv(0, (4, 4, 4), 4, **WIDE), 0xF), ["E0347"]),
        ),
    ),
    Row(
        section="6.2",
        number=6,
        limit="pass layers write packed, within the quadrant",
        rules=("check_pass_output_map",),
        legal=(
            lambda: single(passthrough(0, (7, 4, 4)), outputs=0x7F),
            lambda: single(passthrough(0, (7, 4, 4)), outputs=0x7F0),
        ),
        illegal=(
            (lambda: single(passthrough(0, (7, 4, 4)), outputs=0x7F << 2), ["E0342"]),
            (lambda: single(passthrough(0, (7, 4, 4)), outputs=0xF_0007), ["E0342"]),
            (lambda: single(passthrough(0, (7, 4, 4)), outputs=0b1_0111_111), ["E0342"]),
        ),
    ),
    Row(
        section="6.2",
        number=7,
        limit="element-wise sources on one map",
        rules=("check_sources",),
        legal=(lambda: operands_in(0xF, 0xF),),
        illegal=((lambda: operands_in(0xF, 0xF0), ["E0421"]),),
    ),
    Row(
        section="6.2",
        number=8,
        limit="bias in a used quadrant",
        rules=("check_bias_group",),
        legal=(lambda: biased(4, bias_group=(0,)),),
        illegal=((lambda: biased(4, bias_group=(1,)), ["E0349"]),),
    ),
    Row(
        section="6.2",
        number=9,
        limit="concatenated parts on ascending processors",
        rules=("check_sources",),
        legal=(lambda: joined(0xF, 0xFF0),),
        illegal=((lambda: joined(0xF00, 0xFF), ["E0421", "E0421"]),),
    ),
    Row(
        section="6.2",
        number=10,
        limit="unused lanes",
        rules=("note_unused_lanes",),
        legal=(
            lambda: codes(
                network_of(conv(0, (4, 4, 4), 6), conv(1, (6, 4, 4), 4)),
                place(0xF, 0x3F, 0x1000),
                place(0x3F, 0xF, 0x2000, 0x1000),
            ),
        ),
        reason="a notice: it costs energy only",
    ),
    Row(
        section="6.3",
        number=1,
        limit="equal distances within a quadrant",
        rules=("check_output_map",),
        legal=(
            lambda: single(conv(0, (3, 8, 8), 8), outputs=0x5555),
            lambda: single(conv(0, (3, 8, 8), 8), outputs=0xFF),
            lambda: single(conv(0, (3, 8, 8), 8), outputs=0xF_000F),
        ),
        illegal=((lambda: single(conv(0, (3, 8, 8), 8), outputs=0b1_0111_1111_0), ["E0340"]),),
    ),
    Row(
        section="6.3",
        number=1,
        limit="no gap in a pass layer's map",
        rules=("check_pass_output_map",),
        legal=(lambda: single(passthrough(0, (4, 4, 4)), outputs=0xF0),),
        illegal=((lambda: single(passthrough(0, (4, 4, 4)), outputs=0x55), ["E0342"]),),
    ),
    Row(
        section="6.3",
        number=2,
        limit="above 64 outputs from a multiple of 4 (section 3.5)",
        rules=("check_output_map",),
        legal=(
            lambda: single(wide((3, 4, 4), 100), outputs=(1 << 52) - 1 << 4),
            lambda: single(wide((3, 4, 4), 8), outputs=0xFF << 2),
        ),
        illegal=((lambda: single(wide((3, 4, 4), 100), outputs=(1 << 52) - 1 << 2), ["E0340"]),),
    ),
)

SIXTEEN = (4, 16, 16)

MEMORY_ROWS = (
    Row(
        section="6.4",
        number=1,
        limit="HWC input of 32768 bytes",
        rules=("check_input_fits",),
        legal=(
            lambda: single(conv(0, SIXTEEN, 4), in_offset=0x8000 - 0x400, out_offset=0),
            lambda: single(shaped((4, 128, 64), (4, 64, 32), ConvSpec(), pool=MAX_2X2), outputs=0xF0, out_offset=0),
        ),
        illegal=(
            (lambda: single(conv(0, SIXTEEN, 4), in_offset=0x8000 - 0x3FC, out_offset=0), ["E0415"]),
            (
                lambda: single(shaped((4, 129, 64), (4, 64, 32), ConvSpec(), pool=MAX_2X2), outputs=0xF0, out_offset=0),
                ["E0415"],
            ),
        ),
    ),
    Row(
        section="6.4",
        number=1,
        limit="CHW input of 32768 bytes",
        rules=("check_input_fits",),
        legal=(
            lambda: single(shaped((1, 256, 128), (4, 32, 16), ConvSpec(), pool=_EIGHTH), data_format=CHW, outputs=0xF0),
        ),
        illegal=(
            (
                lambda: single(
                    shaped((1, 257, 128), (4, 32, 16), ConvSpec(), pool=_EIGHTH), data_format=CHW, outputs=0xF0
                ),
                ["E0415"],
            ),
        ),
    ),
    Row(
        section="6.4",
        number=1,
        limit="input times passes and operands",
        rules=("check_input_fits",),
        legal=(lambda: single(wide((128, 16, 16), 4, **TWICE), in_offset=0x7000, out_offset=0),),
        illegal=((lambda: single(wide((128, 16, 16), 4, **TWICE), in_offset=0x7004, out_offset=0), ["E0415"]),),
    ),
    Row(
        section="6.4",
        number=2,
        limit="8-bit output of 32768 bytes",
        rules=("check_output_fits",),
        legal=(
            lambda: single(conv(0, SIXTEEN, 4), out_offset=0x8000 - 0x400),
            lambda: single(wide((4, 16, 16), 128), out_offset=0x8000 - 0x800),
        ),
        illegal=(
            (lambda: single(conv(0, SIXTEEN, 4), out_offset=0x8000 - 0x3FC), ["E0416"]),
            (lambda: single(wide((4, 16, 16), 128), out_offset=0x8000 - 0x7FC), ["E0416"]),
        ),
    ),
    Row(
        section="6.4",
        number=2,
        limit="wide output of 32768 bytes",
        rules=("check_output_fits",),
        legal=(lambda: single(conv(0, SIXTEEN, 4, **WIDE), out_offset=0x8000 - 0x1000),),
        illegal=((lambda: single(conv(0, SIXTEEN, 4, **WIDE), out_offset=0x8000 - 0xFFC), ["E0416"]),),
    ),
    Row(
        section="6.4",
        number=2,
        limit="output with gaps",
        rules=("check_output_fits",),
        legal=(lambda: single(conv(0, SIXTEEN, 4), out_offset=0x8000 - 0x7FC, write_gap=1),),
        illegal=((lambda: single(conv(0, SIXTEEN, 4), out_offset=0x8000 - 0x7F8, write_gap=1), ["E0416"]),),
    ),
    Row(
        section="6.4",
        number=2,
        limit="surplus of a dilated Conv1d",
        rules=("check_output_fits",),
        legal=(lambda: single(conv1d(length=98, kernel=2, dilation=10), out_offset=0x8000 - 400),),
        illegal=((lambda: single(conv1d(length=98, kernel=2, dilation=10), out_offset=0x8000 - 396), ["E0416"]),),
    ),
    Row(
        section="6.4",
        number=3,
        limit="out_offset below 0x20000, multiples of 4",
        rules=("check_out_offset",),
        legal=(
            lambda: only("E0414", single(conv(0, SIXTEEN, 4), out_offset=0x1FFFC)),
            lambda: single(conv(0, SIXTEEN, 4), in_offset=0x4000, out_offset=0),
        ),
        illegal=(
            (lambda: single(conv(0, SIXTEEN, 4), out_offset=0x20000), ["E0414", "E0416"]),
            (lambda: single(conv(0, SIXTEEN, 4), out_offset=0x4001), ["E0414"]),
            (lambda: single(conv(0, SIXTEEN, 4), in_offset=0x4000, out_offset=-4), ["E0414"]),
        ),
    ),
    Row(
        section="6.4",
        number=4,
        limit="own input",
        rules=("check_overwrite",),
        legal=(
            lambda: single(conv(0, SIXTEEN, 4), out_offset=0x400),
            lambda: single(linear(0, (4, 4, 4), 4), in_offset=0x100, out_offset=0x140),
            lambda: single(conv(0, SIXTEEN, 4), out_offset=0, outputs=0xF0),
        ),
        illegal=((lambda: single(linear(0, (4, 4, 4), 4), in_offset=0x100, out_offset=0x13C), ["E0418"]),),
    ),
    Row(
        section="6.4",
        number=4,
        limit="data of a later reader",
        rules=("check_overwrite",),
        legal=(lambda: overwritten(0),),
        illegal=((lambda: overwritten(0x1000), ["E0418"]), (lambda: overwritten(0x10FC), ["E0418"])),
    ),
    Row(
        section="6.4",
        number=4,
        limit="outputs of the network",
        rules=("check_overwrite",),
        legal=(lambda: _two_outputs(0x1100),),
        illegal=((lambda: _two_outputs(0x10FC), ["E0418"]),),
    ),
    Row(
        section="6.4",
        number=5,
        limit="write increment 16",
        rules=("check_write_gap",),
        legal=(
            lambda: single(conv(0, (4, 4, 4), 4), write_gap=15),
            lambda: single(conv(0, (4, 4, 4), 128), write_gap=7),
        ),
        illegal=(
            (lambda: single(conv(0, (4, 4, 4), 4), write_gap=16), ["E0417"]),
            (lambda: single(conv(0, (4, 4, 4), 128), write_gap=8), ["E0417"]),
            (lambda: single(conv(0, (4, 4, 4), 4), write_gap=-1), ["E0417"]),
        ),
    ),
    Row(
        section="6.4",
        number=6,
        limit="768 mask words",
        rules=("check_weight_memory",),
        legal=(lambda: masks(12),),
        illegal=((lambda: masks(13), ["E0410"]),),
    ),
    Row(
        section="6.4",
        number=6,
        limit="mask addresses below 65536",
        rules=("check_weight_memory",),
        legal=(lambda: single(wide((4, 2, 2), 512, kernel=1, pad=0)),),
        reason="768 words end at address 8 * 9 * 768 = 55296, for kernels of any size",
    ),
    Row(
        section="6.4",
        number=7,
        limit="512 biases in a quadrant",
        rules=("check_bias_memory",),
        legal=(lambda: biased(512),),
        illegal=((lambda: biased(516), ["E0411"]),),
    ),
)

_EIGHTH = PoolSpec(kind=Pool.MAX, window=(8, 8), stride=(8, 8))

STREAM_ROWS = (
    Row(
        section="6.5",
        number=1,
        limit="needs the FIFO",
        rules=("check_stream_layers",),
        legal=(streamed,),
        illegal=((lambda: streamed(fifo=False), ["E0434"]),),
    ),
    Row(
        section="6.5",
        number=2,
        limit="at most 8 layers",
        rules=("check_stream_layers",),
        legal=(lambda: streamed(count=8),),
        illegal=((lambda: streamed(count=9), ["E0431"]),),
    ),
    Row(
        section="6.5",
        number=3,
        limit="first layers, consecutive",
        rules=("check_stream_layers",),
        legal=(streamed,),
        illegal=(
            (
                lambda: streamed(places=[place(0xF, 0xF0), place(0xF0, 0xF00, streaming=True), place(0xF00, 0xF000)]),
                ["E0430"],
            ),
        ),
    ),
    Row(
        section="6.5",
        number=4,
        limit="the last one has padding",
        rules=("check_stream_pad",),
        legal=(lambda: streamed(pads=[0, 1]),),
        illegal=((lambda: streamed(pads=[1, 0]), ["E0435"]),),
    ),
    Row(
        section="6.5",
        number=5,
        limit="start below 2**14",
        rules=("check_stream_registers",),
        legal=(lambda: only("E0436", stream(1021, window=(15, 11), stride=2)),),
        illegal=((lambda: only("E0436", stream(1021, window=(15, 12), stride=2)), ["E0436"]),),
    ),
    Row(
        section="6.5",
        number=6,
        limit="delta1 below 2**5",
        rules=("check_stream_registers",),
        legal=(lambda: stream(40, window=(2, 2), stride=16),),
        reason="a streaming layer has one operand and a stride of at most 16",
    ),
    Row(
        section="6.5",
        number=7,
        limit="delta2 below 2**12",
        rules=("check_stream_registers",),
        legal=(lambda: stream(270, window=(1, 15), stride=16, height=16),),
        illegal=((lambda: stream(270, window=(1, 16), stride=16, height=16), ["E0436"]),),
    ),
    Row(
        section="6.5",
        number=8,
        limit="passes of earlier layers below 2**4",
        rules=("check_stream_registers",),
        legal=(lambda: only("E0436", stream(8, channels=192, height=8, earlier=5)),),
        illegal=((lambda: only("E0436", stream(8, channels=256, height=8, earlier=4)), ["E0436"]),),
    ),
    Row(
        section="6.5",
        number=9,
        limit="buffer below 2**17 words",
        rules=("check_stream_registers",),
        legal=(lambda: stream(1000, window=(2, 2), stride=2),),
        reason="start below 2**14, 15 rows of 1023 pixels and a window of 16 make less than 2**15 words",
    ),
    Row(
        section="6.5",
        number=10,
        limit="TRAM positions below 2**12",
        rules=("check_stream_registers",),
        legal=(lambda: stream(512, height=4, earlier=7),),
        illegal=((lambda: stream(513, height=4, earlier=7), ["E0436"]),),
    ),
    Row(
        section="6.5",
        number=11,
        limit="buffers end below 32768",
        rules=("check_stream_buffers",),
        legal=(lambda: two_streams(0x1000, 0),),
        illegal=((lambda: two_streams(0x7FF0, 0), ["E0438"]),),
    ),
    Row(
        section="6.5",
        number=12,
        limit="buffers apart in a memory",
        rules=("check_stream_buffers",),
        legal=(lambda: two_streams(0x1000, 0),),
        illegal=((lambda: two_streams(0x4, 0), ["E0439"]),),
    ),
    Row(
        section="6.5",
        number=13,
        limit="the last output apart from the buffers",
        rules=("check_stream_buffers",),
        legal=(lambda: last_output(0x1000),),
        illegal=((lambda: last_output(0), ["E0439"]),),
    ),
    Row(
        section="6.5",
        number=14,
        limit="streaming above 8192 pixels (HWC)",
        rules=("check_input_fits",),
        legal=(lambda: stream(129, window=(2, 2), stride=2, height=64),),
        illegal=(
            (
                lambda: single(shaped((4, 129, 64), (4, 64, 32), ConvSpec(), pool=MAX_2X2), outputs=0xF0, out_offset=0),
                ["E0415"],
            ),
        ),
    ),
)


def _two_outputs(second: int) -> Codes:
    network = network_of(conv(0, (4, 8, 8), 4), conv(1, (4, 8, 8), 4, inputs=(-1,)), outputs=(0, 1))
    return codes(network, place(0xF, 0xF, 0x1000), place(0xF, 0xF, second))


ROWS = (*SHAPE_ROWS, *PROCESSOR_ROWS, *MEMORY_ROWS, *STREAM_ROWS)
"""Every row, in order."""
