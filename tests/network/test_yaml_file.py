"""Network files: what they may say, and what is answered where they say something else."""

import random

import pytest

from ai8x.errors import UserError
from ai8x.network.ir import Activation, Eltwise, Op
from ai8x.network.yaml_file import PlacementHint, parse_network_file, read_network_file

HEAD = "arch: net\ndataset: data\nlayers:\n"
VALID = """\
---
# A network with most of the keys
arch: residual1
dataset: CIFAR-10
output_map: 0x0000.0000.0000.00ff
unload:
  - {processors: 0xff, channels: 8, dim: [4, 4], offset: 0x100, width: 32}
layers:
  - op: conv2d
    kernel_size: 3x3
    pad: 1
    activate: ReLU
    processors: 0x0000_0000_0000_0007
    data_format: HWC
    out_offset: 0x4000
    quantization: 4
    output_shift: -2
    streaming: false
  - max_pool: [2, 2]
    pool_stride: 2
    operation: None
    processors: 255
    name: bypass
    write_gap: 1
  - op: Conv2d
    eltwise: add
    in_sequences: [bypass, 0]
    kernel_size: 1x1
    pad: 0
    bias_group: [0, 1]
    output: True
"""


def parse(text):
    return parse_network_file(text, "net.yaml")


def layer(keys):
    return parse(f"{HEAD}  - {{op: conv2d, {keys}}}\n").layers[0]


def findings(text):
    with pytest.raises(UserError) as caught:
        parse(text)
    return caught.value.diagnostics


def test_keys_become_typed_fields():
    file = parse(VALID)
    assert (file.arch, file.dataset, file.output_map) == ("residual1", "CIFAR-10", 0xFF)
    item = file.unload[0]
    assert (item.processors, item.channels, item.dim, item.offset, item.width) == (255, 8, (4, 4), 256, 32)
    first, second, third = file.layers
    assert (first.op, first.kernel_size, first.pad, first.activate) == (Op.CONV2D, (3, 3), 1, Activation.RELU)
    assert (first.quantization, first.output_shift) == (4, -2)
    assert (second.op, second.max_pool, second.pool_stride, second.name) == (Op.PASSTHROUGH, (2, 2), (2,), "bypass")
    assert (third.eltwise, third.in_sequences, third.output) == (Eltwise.ADD, ("bypass", 0), True)
    assert file.warnings == ()


def test_silence_is_none():
    entry = layer("pad: 1")
    assert (entry.kernel_size, entry.stride, entry.in_sequences, entry.output) == (None, None, None, None)
    assert entry.hint.processors is None


def test_hints_hold_the_keys_about_places():
    hints = parse(VALID).hints
    assert isinstance(hints[0], PlacementHint)
    assert (hints[0].processors, hints[0].data_format, hints[0].out_offset) == (7, "HWC", 0x4000)
    assert hints[0].streaming is False
    assert (hints[1].processors, hints[1].write_gap, hints[1].out_offset) == (255, 1, None)
    assert hints[2].bias_group == (0, 1)
    assert str(hints[0].sources["processors"]) == "net.yaml:13:17"
    assert str(hints[0].source) == "net.yaml:9:5"


def test_place_is_that_of_the_first_present_key():
    entry = parse(VALID).layers[1]
    assert str(entry.place("avg_pool", "max_pool")) == "net.yaml:19:15"
    assert entry.place("kernel_size") == entry.source


@pytest.mark.parametrize(("spelling", "op", "eltwise"), [
    ("conv1d", Op.CONV1D, None), ("Conv2D", Op.CONV2D, None), ("ConvTranspose2d", Op.CONV_TRANSPOSE2D, None),
    ("linear", Op.LINEAR, None), ("FC", Op.LINEAR, None), ("MLP", Op.LINEAR, None), ("none", Op.PASSTHROUGH, None),
    ("Passthrough", Op.PASSTHROUGH, None), ("add", Op.PASSTHROUGH, Eltwise.ADD), ("sub", Op.PASSTHROUGH, Eltwise.SUB),
    ("or", Op.PASSTHROUGH, Eltwise.OR), ("BitwiseOr", Op.PASSTHROUGH, Eltwise.OR),
    ("bitwise_or", Op.PASSTHROUGH, Eltwise.OR), ("xor", Op.PASSTHROUGH, Eltwise.XOR),
    ("bitwisexor", Op.PASSTHROUGH, Eltwise.XOR), ("bitwise_xor", Op.PASSTHROUGH, Eltwise.XOR),
])
@pytest.mark.parametrize("key", ["op", "operation", "operator", "convolution"])
def test_operator_spellings(key, spelling, op, eltwise):
    entry = parse(f"{HEAD}  - {{{key}: {spelling}}}\n").layers[0]
    assert (entry.op, entry.eltwise) == (op, eltwise)


@pytest.mark.parametrize(("keys", "field", "value"), [
    ("conv_groups: 2", "groups", 2), ("activation: abs", "activate", Activation.ABS),
    ("activate: NONE", "activate", Activation.NONE), ("kernel_size: 5", "kernel_size", (5,)),
    ("kernel_size: [3, 1]", "kernel_size", (3, 1)), ("kernel_size: '3x3'", "kernel_size", (3, 3)),
    ("in_sequences: -1", "in_sequences", (-1,)), ("in_sequences: input", "in_sequences", (-1,)),
    ("in_sequences: [0x1, a]", "in_sequences", (1, "a")), ("next_sequence: stop", "next_sequence", "stop"),
    ("in_dim: 16", "in_dim", (16,)), ("in_crop: [1, 2]", "in_crop", (1, 2)), ("output: TRUE", "output", True),
    ("flatten: false", "flatten", False), ("weight_source: a", "weight_source", "a"),
    ("stride: [2, 2]", "stride", (2, 2)), ("pad: +1", "pad", 1), ("pad: -0", "pad", 0),
    ("output_shift: -0x2", "output_shift", -2),
])
def test_values_and_synonyms(keys, field, value):
    assert getattr(layer(keys), field) == value


@pytest.mark.parametrize(("keys", "field", "value"), [
    ("bias_quadrant: 2", "bias_group", (2,)), ("data_format: big", "data_format", "CHW"),
    ("data_format: little", "data_format", "HWC"), ("processors: '0xffff.ffff'", "processors", 0xFFFFFFFF),
    ("processors: 0xffff_ffff_ffff_ffff", "processors", (1 << 64) - 1), ("in_offset: 0x10", "in_offset", 16),
])
def test_placement_values_and_synonyms(keys, field, value):
    assert getattr(layer(keys).hint, field) == value


@pytest.mark.parametrize("keys", ["pool_dilation: 1", "in_skip: 0", "read_gap: 0", "bypass: false", "calcx4: False",
                                  "readahead: false", "tcalc: false"])
def test_keys_of_other_devices_may_have_their_neutral_value(keys):
    assert layer(keys).op is Op.CONV2D


@pytest.mark.parametrize(("keys", "code", "column", "word"), [
    ("pad: 01", "E0204", 24, "write 1"),
    ("pad: 1:30", "E0204", 24, "integer"),
    ("pad: 1.0", "E0204", 24, "integer"),
    ("pad: 1e3", "E0204", 24, "integer"),
    ("pad: '1'", "E0204", 24, "quotes"),
    ("pad: -1", "E0205", 24, "0 to"),
    ("pad: 4294967296", "E0205", 24, "0 to"),
    ("pad: 99999999999999999999999999", "E0204", 24, "integer"),
    ("pad: .nan", "E0204", 24, "integer"),
    ("pad: .inf", "E0204", 24, "integer"),
    ("pad: [1]", "E0204", 24, "integer"),
    ("pad:", "E0204", None, "integer"),
    ("flatten: yes", "E0208", 28, "write true"),
    ("flatten: Off", "E0208", 28, "write false"),
    ("flatten: 'true'", "E0204", 28, "true or false"),
    ("flatten: maybe", "E0204", 28, "true or false"),
    ("flatten: {}", "E0204", 28, "true or false"),
    ("pda: 1", "E0201", 19, "write pad:"),
    ("zzzzzz: 1", "E0201", 19, "remove the key"),
    ("Pad: 1", "E0201", 19, "write pad:"),
    ("? [a] : 1", "E0207", 21, "brackets"),
    ("pad: 1, pad: 2", "E0202", 27, "remove one"),
    ("operation: conv2d", "E0202", 19, "remove one"),
    ("activate: relu6", "E0205", 29, "write relu"),
    ("activate: [relu]", "E0204", 29, "word"),
    ("activate: ''", "E0204", 29, "word"),
    ("activate: ~", "E0204", 29, "word"),
    ("quantization: 3", "E0205", 33, "1, 2, 4, 8"),
    ("quantization: bin", "E0204", 33, "integer"),
    ("output_width: 16", "E0205", 33, "8, 32"),
    ("operands: 1", "E0205", 29, "2 to 16"),
    ("operands: 17", "E0205", 29, "2 to 16"),
    ("kernel_size: 3x", "E0204", 32, "write 3x3"),
    ("kernel_size: 0", "E0205", 32, "1 to"),
    ("kernel_size: [1, 2, 3]", "E0204", 32, "rows, columns"),
    ("in_crop: 1", "E0204", 28, "start, end"),
    ("in_crop: [1, 2, 3]", "E0204", 28, "start, end"),
    ("in_sequences: []", "E0204", 33, "remove the key"),
    ("in_sequences: -2", "E0205", 33, "-1 to"),
    ("in_sequences: [a b]", "E0204", 34, "sequence number"),
    ("processors: 0", "E0205", 31, "1 to 64 bits"),
    ("processors: 0x1_ffff_ffff_ffff_ffff", "E0205", 31, "1 to 64 bits"),
    ("processors: -1", "E0204", 31, "map of"),
    ("processors: all", "E0204", 31, "map of"),
    ("bias_group: 4", "E0205", 31, "0 to 3"),
    ("data_format: HCW", "E0205", 32, "write hwc"),
    ("name: stop", "E0209", 25, "write stop_layer"),
    ("name: Input", "E0209", 25, "write Input_layer"),
    ("name: register", "E0209", 25, "write register_layer"),
    ("name: 'a*/b'", "E0209", 25, "letters"),
    ('name: "a\\nb"', "E0209", 25, "letters"),
    ("name: ../a", "E0209", 25, "letters"),
    ("name: '%s'", "E0209", 25, "letters"),
    ("name: 1", "E0209", 25, "letters"),
    ("name: " + "a" * 65, "E0209", 25, "letters"),
    ("name: kоnv", "E0209", 25, "letters"),
    ("pad: 32", "E0205", 24, "0 to 31"),
    ("pool_dilation: 2", "E0206", 34, "MAX78002"),
    ("in_skip: 1", "E0206", 28, "MAX78002"),
    ("bypass: true", "E0206", 27, "MAX78002"),
    ("snoop_sequence: 1", "E0206", 35, "MAX78002"),
    ("simulated_sequence: 1", "E0206", 39, "MAX78002"),
    ("calcx4: true", "E0206", 27, "MAX78002"),
    ("readahead: true", "E0206", 30, "MAX78002"),
    ("tcalc: true", "E0206", 26, "MAX78002"),
    ("max_pool: 2, avg_pool: 2", "E0212", 42, "remove one"),
    ("max_pool: 0", "E0205", 29, "1 to"),
    ("buffer_shift: 0", "E0205", 33, "1 to"),
])
def test_bad_layer_keys(keys, code, column, word):
    found = findings(f"{HEAD}   - {{op: conv2d, {keys}}}\n")
    finding = found[0]
    assert (finding.code, finding.source.line, finding.layer_index) == (code, 4, 0)
    assert column is None or finding.source.column == column, finding.format()
    assert word in finding.format()
    assert finding.help and finding.allowed
    assert len(found) == 1


@pytest.mark.parametrize(("word", "help_text"), [
    ("maxpool2d", "write max_pool: 2"), ("AvgPool", "write max_pool: 2"), ("BatchNorm2d", "quantize.py folds"),
    ("ReLU", "write activate: ReLU"), ("Dropout", "training only"), ("concat", "write in_sequences: [first, second]"),
    ("flatten", "write flatten: true"), ("softmax", "--softmax"), ("conv2", "write conv2d"),
    ("xyz", "one of these words"),
])
def test_operators_of_other_tools_are_translated(word, help_text):
    (finding,) = findings(f"{HEAD}  - {{op: {word}}}\n")
    assert finding.code == "E0205" and help_text in finding.help


def test_a_misspelt_mandatory_key_is_one_mistake():
    (finding,) = findings("arhc: a\ndataset: d\nlayers: [{op: conv2d}]\n")
    assert (finding.code, finding.help) == ("E0201", "write arch:")


def test_keys_of_another_chip_are_not_proposed():
    (finding,) = findings(f"{HEAD}  - {{op: conv2d, calcx: 1}}\n")
    assert "calcx4" not in finding.allowed.split(", ") and "pool_stride" in finding.allowed


@pytest.mark.parametrize(("text", "code", "line", "word"), [
    ("dataset: d\nlayers: [{op: conv2d}]\n", "E0203", 1, "add arch:"),
    ("arch: a\nlayers: [{op: conv2d}]\n", "E0203", 1, "add dataset:"),
    ("arch: a\ndataset: d\n", "E0203", 1, "add layers:"),
    ("arch: a\ndataset: d\nlayers:\n", "E0204", 3, "- "),
    ("arch: a\ndataset: d\nlayers: []\n", "E0204", 3, "- "),
    ("arch: a\ndataset: d\nlayers: {op: conv2d}\n", "E0204", 3, "- "),
    ("arch: a\ndataset: d\nlayers: [3]\n", "E0204", 3, "mapping"),
    ("arch: a\ndataset: d\nlayers: [[]]\n", "E0204", 3, "mapping"),
    ("arch: ../a\ndataset: d\nlayers: [{op: conv2d}]\n", "E0209", 1, "rename"),
    ("arch: a\ndataset: d e\nlayers: [{op: conv2d}]\n", "E0209", 2, "rename"),
    ("arch: [a]\ndataset: d\nlayers: [{op: conv2d}]\n", "E0204", 1, "word"),
    ("arch: a\ndataset: d\nsnoop: 1\nlayers: [{op: conv2d}]\n", "E0206", 3, "MAX78002"),
    ("arch: a\ndataset: d\nunload: 1\nlayers: [{op: conv2d}]\n", "E0204", 3, "- "),
    ("arch: a\ndataset: d\nunload: [1]\nlayers: [{op: conv2d}]\n", "E0204", 3, "mapping"),
    ("arch: a\ndataset: d\nunload: [{channels: 1, dim: 1, offset: 0}]\nlayers: [{op: none}]\n", "E0203", 3,
     "processors"),
    ("arch: a\ndataset: d\narch: b\nlayers: [{op: conv2d}]\n", "E0202", 3, "twice"),
    (HEAD + "- {op: conv2d, sequence: 3}\n- {op: conv2d, sequence: 3}\n", "E0210", 5, "sequence: 4"),
    (HEAD + "- {op: conv2d, name: a}\n- {op: conv2d, name: a}\n", "E0211", 5, "a_1"),
    (HEAD + "- {op: add, eltwise: sub}\n", "E0212", 4, "remove"),
])
def test_bad_files(text, code, line, word):
    finding = findings(text)[0]
    assert (finding.code, finding.source.line) == (code, line)
    assert word in finding.format()
    assert finding.help


def test_all_findings_are_reported_together():
    found = findings("arch: a b\nlayers:\n- {op: conv3d, pad: x}\n- {pool: 2}\n")
    assert [(d.code, d.layer_index) for d in found] == [
        ("E0209", None), ("E0203", None), ("E0205", 0), ("E0204", 0), ("E0201", 1)]


def test_second_data_buffer_is_refused():
    entry = "{processors: 1, channels: 1, dim: 1, offset: 0, name: b}"
    text = f"arch: a\ndataset: d\ndata_buffer: [{entry}]\nlayers: [{{op: conv2d}}]\n"
    assert parse(text).data_buffer.name == "b"
    assert findings(text.replace(f"[{entry}]", f"[{entry}, {entry}]"))[0].code == "E0205"


@pytest.mark.parametrize(("keys", "code"), [("pad: 1", "E0220"), ("op: conv2d, max_pool: 2", "E0221")])
def test_silent_defaults_warn(keys, code):
    (warning,) = parse(f"{HEAD}  - {{{keys}}}\n").warnings
    assert (warning.code, warning.level, warning.source.line) == (code, "warning", 4)


def test_layers_run_in_the_order_of_their_sequence():
    layers = "- {op: conv2d, sequence: 5, pad: 0}\n- {op: conv2d, pad: 1}\n- {op: conv2d, sequence: 1, pad: 2}\n"
    file = parse(HEAD + layers)
    assert [(e.position, e.sequence, e.pad) for e in file.layers] == [(0, 1, 2), (1, 5, 0), (2, 6, 1)]


def test_reading_and_parsing_agree(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text(VALID)
    file = read_network_file(path)
    assert file.path == str(path)
    assert [entry.pad for entry in file.layers] == [entry.pad for entry in parse(VALID).layers]


def mutate(text, rng):
    """One random change of a character, a token or a line."""
    position = rng.randrange(len(text))
    kind = rng.randrange(6)
    if kind == 0:
        return text[:position] + text[position + 1 :]
    if kind == 1:
        return text[:position] + rng.choice("\t\n :[]{}-#&*!|>'\"%@`0xy\x00\x85\ud800é,?~") + text[position:]
    if kind == 2:
        return text[:position] + chr(rng.randrange(0x110000)) + text[position + 1 :]
    lines = text.split("\n")
    index = rng.randrange(len(lines))
    if kind == 3:
        lines.insert(rng.randrange(len(lines)), lines[index])
    elif kind == 4:
        del lines[index]
    else:
        words = ["-1", "0", "99999999999", "null", "[]", "{}", "yes", "'", "0x", "1.5", "a: b", "&a b", "*a", ".nan"]
        lines[index] = lines[index].split(":")[0] + ": " + rng.choice(words)
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_files_are_read_or_refused_with_place_and_remedy(seed):
    rng = random.Random(seed)
    for _ in range(60):
        text = mutate(VALID, rng)
        try:
            parse(text)
        except UserError as error:
            for finding in error.diagnostics:
                assert finding.source is not None and finding.help, finding.format()
