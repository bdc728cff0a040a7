"""Examples of errors in files and on the command line; see `ai8x.manual_examples`. Start at `FILE_EXAMPLES`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ai8x.manual_examples import CONV, Example, npy_bytes

FILE_EXAMPLES: Mapping[str, Example] = {
    "E0101": Example(
        cause="A file is not where the command line says.",
        command=("nett.yaml", "net.safetensors"),
    ),
    "E0103": Example(
        cause="An editor saved the file in another encoding.",
        command=("latin.yaml", "net.safetensors"),
        others={"latin.yaml": "# Größe\narch: example\n".encode("latin-1")},
    ),
    "E0104": Example(
        cause="The text does not follow the rules of YAML: indentation, colons, brackets, quotes.",
        file="""\
arch: example
dataset: noise
layers:
  - op: conv2d
   pad: 1
""",
    ),
    "E0105": Example(
        cause="YAML's anchors and aliases are not read: a few lines of them can ask for gigabytes.",
        layers="""\
- &first
  op: conv2d
- *first
""",
    ),
    "E0106": Example(
        cause="YAML's tags are not read.",
        layers="""\
- op: !conv conv2d
""",
    ),
    "E0110": Example(
        cause="The file holds comments only, or nothing.",
        file="""\
# arch: example
""",
    ),
    "E0111": Example(
        cause="Two descriptions stand in one file.",
        file="""\
arch: example
---
arch: other
""",
    ),
    "E0201": Example(
        cause="A key is misspelt, or belongs to another place.",
        layers="""\
- op: conv2d
  kernel: 3x3
""",
    ),
    "E0202": Example(
        cause="A key stands twice in a mapping, perhaps once by its other name.",
        layers="""\
- op: conv2d
  operation: linear
""",
    ),
    "E0203": Example(
        cause="A mapping lacks a key that it must have.",
        file="""\
arch: example
layers:
  - op: conv2d
""",
    ),
    "E0204": Example(
        cause="A value is of the wrong kind: a text for a number, a list for a word.",
        layers="""\
- op: conv2d
  pad: one
""",
    ),
    "E0205": Example(
        cause="A value is of the right kind, but not one of the possible ones.",
        layers="""\
- op: conv2d
  max_pool: 2
  pool_stride: 0
""",
    ),
    "E0206": Example(
        cause="The key belongs to the MAX78002.",
        layers="""\
- op: conv2d
  pool_dilation: 2
""",
    ),
    "E0207": Example(
        cause="A list or a mapping stands in front of a colon.",
        layers="""\
- op: conv2d
  [pad]: 1
""",
    ),
    "E0208": Example(
        cause="YAML 1.1 has many words for true and false; only these two are read.",
        layers="""\
- op: linear
  flatten: yes
""",
    ),
    "E0209": Example(
        cause="A name becomes part of C code or of a file name, and must be safe there.",
        layers="""\
- op: conv2d
  name: my layer
""",
    ),
    "E0210": Example(
        cause="Two layers have the same sequence number.",
        layers="""\
- op: conv2d
  sequence: 1
- op: conv2d
  sequence: 1
""",
    ),
    "E0211": Example(
        cause="Two layers have the same name.",
        layers="""\
- op: conv2d
  name: first
- op: conv2d
  name: first
""",
    ),
    "E0212": Example(
        cause="Two keys of a layer contradict each other.",
        layers="""\
- op: conv2d
  max_pool: 2
  avg_pool: 2
""",
    ),
    "E0220": Example(
        cause="A layer does not say what it computes.",
        layers="""\
- kernel_size: 3x3
  pad: 1
""",
    ),
    "E0221": Example(
        cause="Pooling without a stride moves by one pixel, which is rarely meant.",
        layers="""\
- op: conv2d
  max_pool: 2
""",
    ),
    "E0230": Example(
        cause="A reference names a layer that the file does not have.",
        layers="""\
- op: conv2d
  in_sequences: frist
""",
    ),
    "E0231": Example(
        cause="A layer reads one that runs later.",
        layers="""\
- op: conv2d
  in_sequences: 1
- op: conv2d
""",
        weights={"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3)},
    ),
    "E0232": Example(
        cause="The number of operands is not the number of sources.",
        layers="""\
- op: conv2d
- op: add
  in_sequences: 0
""",
    ),
    "E0233": Example(
        cause="The operands of an element-wise operation differ in shape.",
        layers="""\
- op: conv2d
  pad: 0
- op: add
  in_sequences: [0, input]
""",
    ),
    "E0234": Example(
        cause="Concatenated tensors differ in height or width.",
        layers="""\
- op: conv2d
  pad: 0
- op: passthrough
  in_sequences: [0, input]
""",
    ),
    "E0235": Example(
        cause="in_dim asks for another number of pixels, or the operator for 1-D data.",
        layers="""\
- op: conv2d
  in_dim: [4, 4]
""",
    ),
    "E0236": Example(
        cause="in_crop drops every row.",
        layers="""\
- op: conv2d
  in_crop: [4, 4]
""",
    ),
    "E0237": Example(
        cause="Kernel or window do not fit the data.",
        layers="""\
- op: conv2d
  max_pool: 9
  pool_stride: 1
""",
    ),
    "E0238": Example(
        cause="A key has no meaning for the layer's operator.",
        layers="""\
- op: conv2d
- op: passthrough
  activate: ReLU
""",
    ),
    "E0239": Example(
        cause="A number of channels is given that sources or weights contradict.",
        layers="""\
- op: conv2d
  in_channels: 3
""",
    ),
    "E0240": Example(
        cause="The file asks for something that is not available.",
        layers="""\
- op: conv2d
  next_sequence: 2
- op: passthrough
- op: passthrough
""",
    ),
    "E0241": Example(
        cause="weight_source names a layer without weights.",
        layers="""\
- op: passthrough
  name: copy
- op: conv2d
  weight_source: copy
- op: conv2d
""",
        weights={"conv2": (4, 4, 3, 3)},
    ),
    "E0242": Example(
        cause="A key about the rolling buffer does not suit the file's buffer.",
        layers="""\
- op: conv2d
  buffer_insert: 2
""",
    ),
    "E0244": Example(
        cause="An output is so large that computing it would take all memory.",
        layers="""\
- op: convtranspose2d
  stride: 1000
""",
    ),
    "E0290": Example(
        cause="The command line lacks a file, or has one too many.",
        command=("net.yaml",),
    ),
    "E0291": Example(
        cause="A number of test items is negative.",
        arguments=("--samples", "-1"),
    ),
    "E0501": Example(
        cause="The checkpoint is not where the command line says.",
        command=("net.yaml", "best.pth.tar"),
    ),
    "E0502": Example(
        cause="The file is no checkpoint.",
        command=("net.yaml", "net.yaml"),
    ),
    "E0503": Example(
        cause="The checkpoint is cut off or has changed bytes.",
        command=("net.yaml", "cut.pth.tar"),
        others={"cut.pth.tar": b"PK\x03\x04" + bytes(60)},
    ),
    "E0540": Example(
        cause="A batch normalisation is still a layer of its own.",
        entries={"conv1.bn.running_mean": ((4,), 0.0)},
    ),
    "E0541": Example(
        cause="The model has layers that are not ours.",
        weights={},
        entries={"conv1.weight": ((4, 4, 3, 3), 1)},
    ),
    "E0542": Example(
        cause="The checkpoint holds fractions: it is from before quantize.py.",
        weights={},
        entries={"conv1.op.weight": ((4, 4, 3, 3), 0.25)},
    ),
    "E0543": Example(
        cause="An array has a shape that no layer has.",
        entries={"conv1.weight_bits": ((3,), 8)},
    ),
    "E0544": Example(
        cause="The checkpoint names a width that does not exist.",
        entries={"conv1.weight_bits": ((1,), 3)},
    ),
    "E0545": Example(
        cause="The checkpoint names a shift that no chip has.",
        entries={"conv1.output_shift": ((1,), 40)},
    ),
    "E0546": Example(
        cause="The checkpoint has no weights.",
        weights={},
        entries={"conv1.output_shift": ((1,), 1)},
    ),
    "E0550": Example(
        cause="Description and checkpoint name different models.",
        arch="digitsnet",
    ),
    "E0551": Example(
        cause="The description has more or fewer layers with weights than the checkpoint.",
        layers=CONV + """\
- op: conv2d
  kernel_size: 3x3
  pad: 1
""",
    ),
    "E0552": Example(
        cause="The weights have another shape than the description says.",
        layers="""\
- op: conv2d
  kernel_size: 1x1
  pad: 0
""",
    ),
    "E0553": Example(
        cause="The weights need more bits than the description gives them.",
        layers="""\
- op: conv2d
  kernel_size: 3x3
  pad: 1
  quantization: 2
""",
        weights={},
        entries={"conv1.op.weight": ((4, 4, 3, 3), 5)},
    ),
    "E0554": Example(
        cause="There are more or fewer biases than output channels.",
        entries={"conv1.op.bias": ((3,), 128)},
    ),
    "E0555": Example(
        cause="A bias exceeds eight bits.",
        entries={"conv1.op.bias": ((4,), 20000)},
    ),
    "E0640": Example(
        cause="The sample is not where the command line says.",
        arguments=("--sample-input", "sample.npy"),
    ),
    "E0641": Example(
        cause="The sample is not a file of numpy.",
        arguments=("--sample-input", "sample.npy"),
        others={"sample.npy": b"1, 2, 3\n"},
    ),
    "E0642": Example(
        cause="The sample has another type, shape or range.",
        arguments=("--sample-input", "sample.npy"),
        others={"sample.npy": npy_bytes(np.full((4, 8, 8), 300))},
    ),
    "E0811": Example(
        cause="The output folder holds files that are not ours.",
        arguments=("--out", "."),
        others={"thesis.txt": b"x"},
    ),
}
"""Code -> example."""
