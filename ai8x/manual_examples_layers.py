"""Examples of layers that do not suit a chip; see `ai8x.manual_examples`. Start at `LAYER_EXAMPLES`."""

from __future__ import annotations

from collections.abc import Mapping

from ai8x.manual_examples import CONV, Example

LAYER_EXAMPLES: Mapping[str, Example] = {
    "E0301": Example(
        cause="The chip is not one of ours.",
        arguments=("--device", "MAX78001"),
    ),
    "E0302": Example(
        cause="The chip is known, but not supported.",
        arguments=("--device", "MAX78002"),
    ),
    "E0312": Example(
        cause="The map enables more or fewer processors than the input has channels.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x0000000000000007
  out_offset: 0x4000
""",
    ),
    "E0313": Example(
        cause="The map enables more or fewer output processors than there are output channels.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  processors: 0x000000000000000f
  out_offset: 0x4000
  output_processors: 0x0000000000000007
""",
    ),
    "E0314": Example(
        cause="A layer has more channels than the chip can address.",
        weights={"conv1": (1028, 1, 3, 3)},
        shape=(1, 2, 2),
    ),
    "E0315": Example(
        cause="An image has more rows or columns than the counters count.",
        weights={"conv1": (1, 1, 3, 3)},
        shape=(1, 1024, 2),
    ),
    "E0317": Example(
        cause="The kernel has a size that the chip does not have.",
        layers="""\
- op: conv2d
  kernel_size: 5x5
  pad: 2
""",
        weights={"conv1": (4, 4, 5, 5)},
    ),
    "E0318": Example(
        cause="Convolutions move by one pixel.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  stride: 2
""",
    ),
    "E0319": Example(
        cause="A two-dimensional kernel is dilated.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  dilation: 2
""",
    ),
    "E0320": Example(
        cause="A one-dimensional kernel is too long.",
        layers="""\
- op: conv1d
  kernel_size: 11
  pad: 0
""",
        weights={"conv1": (4, 4, 11)},
        shape=(4, 64, 1),
    ),
    "E0321": Example(
        cause="Length and dilation of a one-dimensional kernel do not go together.",
        layers="""\
- op: conv1d
  kernel_size: 5
  pad: 0
  dilation: 4
""",
        weights={"conv1": (4, 4, 5)},
        shape=(4, 64, 1),
    ),
    "E0322": Example(
        cause="A large dilation excludes padding, pooling, operands, streaming and broken rows from the FIFO.",
        layers="""\
- op: conv1d
  kernel_size: 3
  pad: 1
  dilation: 8
""",
        weights={"conv1": (4, 4, 3)},
        shape=(4, 64, 1),
    ),
    "E0323": Example(
        cause="Transposed convolutions exist in one form only.",
        layers="""\
- op: convtranspose2d
  kernel_size: 3x3
  pad: 1
  stride: 3
""",
    ),
    "E0324": Example(
        cause="The padding exceeds what the chip adds, or is not smaller than the kernel.",
        layers="""\
- op: conv2d
  kernel_size: 1x1
  pad: 1
""",
        weights={"conv1": (4, 4, 1, 1)},
    ),
    "E0325": Example(
        cause="The pooling window is too large.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  max_pool: 17
  pool_stride: 1
""",
        shape=(4, 20, 20),
    ),
    "E0326": Example(
        cause="The pooling stride is too large, or differs between rows and columns.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  max_pool: 2
  pool_stride: [2, 1]
""",
    ),
    "E0327": Example(
        cause="The output shift exceeds the chip's 15 bits in either direction.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  output_shift: 12
  quantization: 4
""",
    ),
    "E0329": Example(
        cause="Raw accumulators are read by another layer.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  output_width: 32
- op: passthrough
""",
    ),
    "E0331": Example(
        cause="A one-dimensional convolution combines operands.",
        layers="""\
- op: conv1d
  kernel_size: 3
  pad: 1
  eltwise: add
  in_sequences: [input, input]
""",
        weights={"conv1": (4, 4, 3)},
        shape=(4, 64, 1),
    ),
    "E0333": Example(
        cause="Operands in several passes are pooled or convolved in the same layer.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  eltwise: add
  operands: 3
  in_sequences: [input, input, input]
""",
        weights={"conv1": (4, 128, 3, 3)},
        shape=(128, 4, 4),
    ),
    "E0334": Example(
        cause="Pooling behind the combination takes two operands.",
        layers="""\
- op: add
  operands: 3
  pool_first: false
  max_pool: 2
  pool_stride: 2
  in_sequences: [input, input, input]
- op: conv2d
  kernel_size: 3x3
  pad: 1
""",
    ),
    "E0335": Example(
        cause="A layer without weights pools more than 64 channels to more than one pixel.",
        layers="""\
- op: passthrough
  max_pool: 2
  pool_stride: 2
- op: conv2d
  kernel_size: 3x3
  pad: 1
""",
        weights={"conv1": (4, 80, 3, 3)},
        shape=(80, 8, 8),
    ),
    "E0336": Example(
        cause="The map is too large to be read as a vector.",
        layers="""\
- op: linear
  flatten: true
""",
        weights={"fc": (2, 1156)},
        shape=(4, 17, 17),
    ),
    "E0337": Example(
        cause="Flattening excludes pooling and streaming in the same layer.",
        layers="""\
- op: linear
  flatten: true
  max_pool: 2
  pool_stride: 2
""",
        weights={"fc": (2, 64)},
    ),
    "W0303": Example(
        cause="Memories hold four channels in a word; some of them stay unused.",
        layers=CONV + """\
- op: conv2d
  pad: 1
""",
        weights={"conv1": (6, 4, 3, 3), "conv2": (4, 6, 3, 3)},
    ),
    "W0304": Example(
        cause="Groups cost as much as the dense convolution.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  groups: 2
""",
        weights={"conv1": (4, 2, 3, 3)},
    ),
    "W0305": Example(
        cause="Raw accumulators of a layer that is not the last.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  output_width: 32
  output: true
- op: conv2d
  in_sequences: input
  pad: 1
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "W0306": Example(
        cause="A streaming layer has a bias.",
        layers="""\
- op: conv2d
  pad: 1
  streaming: true
  processors: 0x000000000000000f
  out_offset: 0x4000
""",
        entries={"conv1.op.bias": ((4,), 128)},
    ),
}
"""Code -> example."""
