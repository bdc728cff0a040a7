"""Examples of processors, offsets and options that do not suit; see `ai8x.manual_examples`.

Start at `PLACE_EXAMPLES`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ai8x.manual_examples import CONV, PLACED_CONV, Example

PLACE_EXAMPLES: Mapping[str, Example] = {
    "E0340": Example(
        cause="The enabled output processors are not evenly spaced.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  output_processors: 0x0000000000000017
""",
    ),
    "E0341": Example(
        cause="No layer uses processors 0 to 15, which start the others.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x00000000000f0000
  output_processors: 0x00000000000f0000
  out_offset: 0x4000
""",
    ),
    "E0342": Example(
        cause="A layer without weights would have to move data between processors.",
        layers="""\
- op: passthrough
  processors: 0x000000000000000f
  output_processors: 0x00000000000000aa
  out_offset: 0x4000
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
""",
        arguments=("--stop-after", "0"),
    ),
    "E0343": Example(
        cause="Only the network's input can lie by channel.",
        layers=PLACED_CONV + """\
- op: conv2d
  pad: 1
  data_format: CHW
  processors: 0x0000000000000001
  out_offset: 0x0
""",
        weights={"conv1": (1, 4, 3, 3), "conv2": (4, 1, 3, 3)},
    ),
    "E0344": Example(
        cause="Two channels of CHW data share a data memory.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  data_format: CHW
  processors: 0x000000000000000f
  out_offset: 0x4000
""",
    ),
    "E0345": Example(
        cause="The FIFO takes fewer channels.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000001ffff
  out_offset: 0x4000
""",
        weights={"conv1": (4, 17, 3, 3)},
        shape=(17, 4, 4),
        arguments=("--fifo",),
    ),
    "E0346": Example(
        cause="The FIFO feeds other processors than those of the map.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x00000000000000f0
  out_offset: 0x4000
""",
        arguments=("--fifo",),
    ),
    "E0348": Example(
        cause="A layer other than the first reads the FIFO's data.",
        layers=PLACED_CONV + """\
- op: conv2d
  pad: 1
  in_sequences: input
  processors: 0x000000000000000f
  out_offset: 0x2000
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
        arguments=("--fifo",),
    ),
    "E0349": Example(
        cause="A bias is to be stored in a quadrant that is switched off.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  bias_group: 2
""",
        entries={"conv1.op.bias": ((4,), 128)},
    ),
    "E0350": Example(
        cause="The K210 has no bitwise operations.",
        layers="""\
- op: xor
  in_sequences: [input, input]
- op: conv2d
  kernel_size: 3x3
  pad: 1
""",
        target="k210",
    ),
    "E0355": Example(
        cause="The K210 gives raw accumulators of Linear layers only.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  output_width: 32
""",
        target="k210",
    ),
    "E0392": Example(
        cause="The clock has no such divider.",
        arguments=("--clock-divider", "3"),
    ),
    "E0393": Example(
        cause="The chip has no such timer.",
        arguments=("--timer", "9"),
    ),
    "E0395": Example(
        cause="The port or the pin does not exist.",
        arguments=("--boost", "7.1"),
    ),
    "E0397": Example(
        cause="Options exclude each other.",
        arguments=("--fast-fifo",),
    ),
    "E0398": Example(
        cause="The network has no such layer.",
        arguments=("--stop-after", "3"),
    ),
    "E0413": Example(
        cause="in_offset is not a place in the data memory.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  in_offset: 0x0002
""",
    ),
    "E0414": Example(
        cause="out_offset is not a place in the data memory.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4002
""",
    ),
    "E0415": Example(
        cause="The input reaches over the end of the data memory.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  in_offset: 0x7f80
  out_offset: 0x0000
""",
    ),
    "E0416": Example(
        cause="The output reaches over the end of the data memory.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x7f80
""",
    ),
    "E0417": Example(
        cause="The distance between written words is too large.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  write_gap: 16
""",
    ),
    "E0418": Example(
        cause="A layer writes where data is still needed.",
        layers="""\
- op: linear
  flatten: true
  processors: 0x000000000000000f
  in_offset: 0x0000
  output_processors: 0x000000000000000f
  out_offset: 0x0010
""",
        weights={"fc": (4, 256)},
    ),
    "E0420": Example(
        cause="A layer looks for its input elsewhere than where it was written.",
        layers=PLACED_CONV + """\
- op: conv2d
  pad: 1
  processors: 0x000000000000000f
  in_offset: 0x2000
  out_offset: 0x0000
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "E0421": Example(
        cause="Data lies with other processors than those that read it.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  output_processors: 0x00000000000000f0
- op: conv2d
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x0000
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "E0422": Example(
        cause="Written words are further apart, or closer, than those that are read.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  write_gap: 1
- op: conv2d
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x0000
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "E0430": Example(
        cause="Streaming starts behind a layer that does not stream.",
        layers=PLACED_CONV + """\
- op: conv2d
  pad: 1
  streaming: true
  processors: 0x000000000000000f
  out_offset: 0x0000
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "E0435": Example(
        cause="The last streaming layer has no padding.",
        layers="""\
- op: conv2d
  pad: 0
  streaming: true
  processors: 0x000000000000000f
  out_offset: 0x4000
""",
    ),
    "E0445": Example(
        cause="An input that lies by channel is read twice.",
        layers="""\
- op: conv2d
  pad: 1
  data_format: CHW
  processors: 0x0000000000000011
  output_processors: 0x000000000000000f
  out_offset: 0x2000
- op: conv2d
  pad: 1
  in_sequences: input
  processors: 0x0000000000000011
  out_offset: 0x4000
""",
        weights={"conv1": (4, 2, 3, 3), "conv2": (4, 2, 3, 3)},
        shape=(2, 8, 8),
    ),
    "E0446": Example(
        cause="A layer needs rows of the input that the first layer crops away.",
        layers="""\
- op: conv2d
  pad: 1
  in_crop: [2, 0]
  processors: 0x000000000000000f
  out_offset: 0x2000
- op: conv2d
  pad: 1
  in_sequences: input
  processors: 0x000000000000000f
  out_offset: 0x4000
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
        arguments=("--stop-after", "1"),
    ),
    "E0461": Example(
        cause="Given places contradict each other.",
        layers="""\
- op: conv2d
  pad: 1
  output_processors: 0x00000000000000f0
- op: conv2d
  pad: 1
  processors: 0x000000000000000f
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "E0464": Example(
        cause="The memories cannot hold the network.",
        layers=CONV + """\
- op: linear
  flatten: true
""",
        weights={"conv1": (64, 4, 3, 3), "fc": (128, 4096)},
    ),
}
"""Code -> example."""
