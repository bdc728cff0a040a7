"""Models as network descriptions: read again with the model's own state, they compute what the model computes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ai8x.checkpoint import arrays_from_tensors
from ai8x.errors import UserError
from ai8x.network.build import build_network
from ai8x.network.ir import Network, TensorShape
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.nn import blocks, modules
from ai8x.nn.base import quantized_layers, set_average_rounding
from ai8x.nn.describe import describe_model
from tests.nn.random_modules import random_case
from tests.nn.test_export import Everything, integer_model
from tests.nn.test_property import integer_layer


def network_of(model: nn.Module, shape: tuple[int, ...]) -> Network:
    """The network of the model's description and the model's own state."""
    file = describe_model(model, shape, name="net").network_file()
    assert not file.warnings
    state = arrays_from_tensors(model.state_dict())
    weighted = any(key.endswith(".weight") for key in state)
    rounded = any(layer.pool is not None and layer.pool.rounded for layer in quantized_layers(model).values())
    return build_network(file, parameters_from_state(state) if weighted else (), TensorShape(*(*shape, 1, 1)[:3]),
                         average_rounded=rounded)


def assert_same(model: nn.Module, shape: tuple[int, ...]) -> Network:
    """The network computes what the model computes; returns it."""
    network = network_of(model, shape)
    batch = np.random.default_rng(0).integers(-128, 128, (3, *shape))
    trace = run_network(network, batch.reshape(3, *(*shape, 1, 1)[:3]))
    outputs = model(torch.tensor(batch).float())
    for tensor, index in zip(outputs if isinstance(outputs, tuple) else (outputs,), network.outputs, strict=True):
        assert np.array_equal(trace[index].reshape(tensor.shape), tensor.detach().numpy())
    return network


class Model(nn.Module):
    """Layers by name, and a function of the module and its input for the rest."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, data: Tensor) -> Tensor:
        return self.run(self, data)


def keys(model: nn.Module, shape: tuple[int, ...]) -> str:
    """The description's layers without comments, one line a layer."""
    text = describe_model(model, shape, name="net").to_yaml()
    lines = [line for line in text.split("layers:\n")[1].splitlines() if not line.strip().startswith("#")]
    return "\n".join(" ".join(block.split()) for block in "\n".join(lines).split("\n\n"))


# --- what a description says --------------------------------------------------------------------------------------

def test_a_plain_chain_is_written_as_people_write_it() -> None:
    model = nn.Sequential(modules.FusedConv2dBNReLU(1, 4, 3, padding=1), nn.Dropout(),
                          modules.FusedMaxPoolConv2d(4, 6, 1, bias=False), nn.Flatten(),
                          modules.Linear(6 * 4 * 4, 3, wide=True))
    assert keys(model, (1, 8, 8)) == """\
- name: layer_0 op: conv2d kernel_size: 3x3 pad: 1 activate: ReLU
- name: layer_2 op: conv2d max_pool: 2 pool_stride: 2 kernel_size: 1x1 pad: 0
- name: layer_4 op: linear flatten: true output_width: 32"""


def test_rounding_of_averages_is_said_in_the_header() -> None:
    model = nn.Sequential(modules.AvgPool2d(2), modules.FusedMaxPoolConv2d(1, 1, 1))
    for rounded in (False, True):
        set_average_rounding(model, rounded=rounded)
        description = describe_model(model, (1, 8, 8), name="n")
        assert description.average_rounded is rounded
        assert ("--avg-pool-rounding" in description.to_yaml()) is rounded


def test_every_layer_has_a_comment_with_path_and_shapes() -> None:
    text = describe_model(nn.Sequential(modules.Conv1d(4, 6, 3), modules.AvgPool1d(2)), (4, 16), name="n").to_yaml()
    assert "  # 0: 4x16 -> 6x14\n  - name: layer_0\n" in text
    assert "  # 1: 6x14 -> 6x7\n  - name: layer_1\n    op: passthrough\n    avg_pool: 2\n" in text
    assert text.startswith("# n: 4x16x1 input. Written by ai8x ")
    assert "may be edited or deleted" not in text and "synthesize.py plans that" in text


def test_an_addition_joins_the_convolution_that_reads_it() -> None:
    model = Model(lambda m, x: m.b(m.add(m.a(x), x)), a=modules.Conv2d(4, 4, 1), add=modules.Add(),
                  b=modules.FusedMaxPoolConv2dReLU(4, 4, 3, padding=1))
    assert keys(model, (4, 6, 6)).splitlines()[1] == (
        "- name: b op: conv2d in_sequences: [a, input] eltwise: add pool_first: false max_pool: 2 pool_stride: 2 "
        "kernel_size: 3x3 pad: 1 activate: ReLU")


@pytest.mark.parametrize(("reader", "channels"), [
    (lambda: modules.Conv1d(4, 4, 3), 4), (lambda: modules.ConvTranspose2d(4, 4, 3, stride=2, padding=1), 4),
    (lambda: modules.Conv2d(132, 4, 1), 132), (lambda: modules.MaxPool2d(2), 4)],
    ids=["conv1d", "transposed", "three passes", "pool"])
def test_an_addition_that_the_chip_cannot_join_stays_a_layer(reader: Callable[[], nn.Module], channels: int) -> None:
    layer = reader()
    shape = (channels, 8) if isinstance(layer, modules.Conv1d) else (channels, 6, 6)
    model = Model(lambda m, x: m.b(m.add(x, x)), add=modules.BitwiseOr(), b=layer)
    assert keys(model, shape).splitlines()[0] == "- name: add op: or in_sequences: [input, input]"


def test_an_addition_with_two_readers_stays_a_layer() -> None:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        total = m.add(x, m.a(x))
        return m.again(m.b(total), total)

    model = Model(run, add=modules.Add(), again=modules.Sub(), a=modules.Conv2d(4, 4, 1), b=modules.Conv2d(4, 4, 1))
    assert [line.split()[2] for line in keys(model, (4, 4, 4)).splitlines()] == ["a", "add", "b", "again"]


def test_names_that_the_language_does_not_allow_are_replaced() -> None:
    model = Model(lambda m, x: m.other(m.stop(m.register(x))), register=modules.Conv2d(1, 1, 1),
                  stop=modules.Conv2d(1, 1, 1), other=nn.Sequential(modules.Conv2d(1, 1, 1)))
    assert [layer.name for layer in describe_model(model, (1, 2, 2), name="n").layers] == [
        "register_layer", "stop_layer", "other.0"]
    assert_same(integer_model(lambda: model), (1, 2, 2))


# --- what it computes ---------------------------------------------------------------------------------------------

def test_a_model_with_everything_is_equal() -> None:
    network = assert_same(integer_model(Everything), (3, 12, 12))
    assert len(network.outputs) == 2
    shared = next(layer for layer in network.layers if layer.weight_source is not None)
    assert network.layers[shared.weight_source].name == "c"


@pytest.mark.parametrize("start", [0, 40, 80])
def test_random_layers_are_equal(start: int) -> None:
    """Every kind of layer that reads one tensor, with all arguments."""
    for seed in range(start, start + 40):
        case = random_case(seed)
        layer, inputs = integer_layer(case), case.inputs[0]
        if len(case.inputs) == 1:
            network = network_of(nn.Sequential(layer), tuple(inputs.shape[1:]))
            batch = inputs.numpy().astype(np.int64).reshape(len(inputs), *(*inputs.shape[1:], 1, 1)[:3])
            scale = 2.0 ** float(getattr(layer, "final_scale", 0))  # the program's business
            expected = layer(inputs).detach().numpy().reshape(-1) / scale
            assert np.array_equal(run_network(network, batch)[0].reshape(-1), expected), case.description


def test_parameters_find_their_layers_whatever_the_order_of_registration() -> None:
    """All layers have weights of the same shape: only names tell them apart."""
    model = integer_model(lambda: Model(lambda m, x: m.a(m.b(m.c(x))), a=modules.Conv2d(2, 2, 1),
                                        b=modules.FusedConv2dAbs(2, 2, 1), c=modules.Conv2d(2, 2, 1)))
    assert [layer.name for layer in assert_same(model, (2, 3, 3)).layers] == ["c", "b", "a"]


def test_layers_that_do_not_run_are_skipped_in_the_checkpoint() -> None:
    def build() -> nn.Module:
        return Model(lambda m, x: m.used(x), unused=modules.Conv2d(2, 2, 1), used=modules.Conv2d(2, 2, 1),
                     late=nn.ModuleDict({"it's": modules.Linear(3, 2)}))

    model = integer_model(build)
    description = describe_model(model, (2, 3, 3), name="net")
    assert description.skipped == ("unused", "late.it's")
    assert_same(model, (2, 3, 3))


def test_one_layer_under_two_names_is_one_layer() -> None:
    def build() -> nn.Module:
        shared = modules.Conv2d(2, 2, 1)
        return Model(lambda m, x: m.b(m.a(x)), a=shared, b=shared)

    network = assert_same(integer_model(build), (2, 3, 3))
    assert [layer.weight_source for layer in network.layers] == [None, 0]


@pytest.mark.parametrize(("build", "shape"), [
    (lambda: Model(lambda m, x: m.b(m.a(x).reshape(len(x), 4, 4, 3)), a=modules.Conv1d(2, 4, 1),
                   b=modules.Conv2d(4, 2, 3)), (2, 12)),
    (lambda: Model(lambda m, x: m.b(m.a(x).flatten(2)), a=modules.Conv2d(2, 4, 1), b=modules.Conv1d(4, 2, 3)),
     (2, 3, 4)),
    (lambda: Model(lambda m, x: m.fc(m.a(x).squeeze()), a=modules.FusedMaxPoolConv2d(2, 4, 1, pool_size=2),
                   fc=modules.Linear(4, 3)), (2, 3, 3)),
    (lambda: Model(lambda m, x: m.fc(torch.cat([m.a(x).flatten(1), m.b(x).flatten(1)], dim=-1)),
                   a=modules.Conv2d(2, 4, 1), b=modules.Conv2d(2, 3, 1), fc=modules.Linear(63, 3)), (2, 3, 3)),
    (lambda: Model(lambda m, x: m.fc(m.add(m.a(x).flatten(1), m.b(x).flatten(1))), a=modules.Conv2d(2, 4, 1),
                   b=modules.Conv2d(2, 4, 1), add=modules.Add(), fc=modules.Linear(36, 3)), (2, 3, 3)),
    (lambda: Model(lambda m, x: m.b(m.add(torch.cat([x, m.a(x)], dim=1), torch.cat([m.a(x), x], dim=1))),
                   a=modules.Conv2d(2, 2, 1), b=modules.Conv2d(4, 4, 1), add=modules.Add()), (2, 3, 3)),
    (lambda: Model(lambda m, x: m.fc(torch.cat([m.up(m.fc1(x.flatten(1)).unflatten(1, (4, 1, 1))), x], dim=-3)
                                     .flatten(1)), fc1=modules.FusedLinearReLU(8, 4),
                   up=modules.ConvTranspose2d(4, 2, 3, stride=2, padding=1), fc=modules.Linear(16, 3)), (2, 2, 2)),
    (lambda: nn.Sequential(blocks.Fire(4, 3, 5, 6, bias=False), modules.Conv2d(11, 2, 1)), (4, 6, 6)),
    (lambda: blocks.ResidualBottleneck(4, 4, 2.0, bias=True, depthwise_bias=True), (4, 6, 6)),
    (lambda: blocks.MBConvBlock(4, 6, stride=2, bias=True, expand_ratio=2), (4, 6, 6)),
    (lambda: nn.Sequential(modules.AvgPool2d((5, 1), stride=1), modules.Conv2d(3, 2, 1)), (3, 5, 1)),
    (lambda: nn.Sequential(modules.MaxPool2d((2, 3), stride=(2, 2))), (3, 5, 6)),
], ids=["1d to 2d", "2d to 1d", "squeeze", "flat concatenation", "flat addition", "concatenated operands",
        "vector to map", "fire", "bottleneck", "mbconv", "pool of a column", "oblong pool"])
def test_shapes_between_layers_are_kept(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert_same(integer_model(build), shape)


def test_concatenated_operands_are_copied_together() -> None:
    model = Model(lambda m, x: m.add(torch.cat([x, x], dim=1), torch.cat([x, x], dim=1)), add=modules.Add())
    text = describe_model(model, (2, 3, 3), name="n").to_yaml()
    assert text.count("copies the parts of a concatenation to one place") == 1
    assert keys(model, (2, 3, 3)).splitlines()[1] == "- name: add op: add in_sequences: [concat, concat]"


@pytest.mark.parametrize("mode", ["float", "qat", "wrapped", "training"])
def test_any_mode_gives_the_same_description(mode: str) -> None:
    from ai8x.nn.qat import QatPolicy, switch_to_qat

    model: nn.Module = Everything()
    expected = describe_model(model, (3, 12, 12), name="n").to_yaml()
    if mode == "qat":
        switch_to_qat(model, QatPolicy(start_epoch=0))
    if mode == "training":
        model.train()
    given = nn.DataParallel(model) if mode == "wrapped" else model
    assert describe_model(given, (3, 12, 12), name="n").to_yaml() == expected
    assert model.training


# --- what has no counterpart --------------------------------------------------------------------------------------

class Inner(nn.Module):
    """A block with something in it that no chip layer computes."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between

    def forward(self, data: Tensor) -> Tensor:
        return self.between(data)


def first_row_cleared(t: Tensor) -> Tensor:
    t[:, :, 0] = 0
    return t


@pytest.mark.parametrize(("between", "found", "help"), [
    (lambda t: F.relu(t), "relu in module 'middle'", "ai8x.FusedConv2dReLU"),
    (lambda t: t + t, "add in module 'middle'", "ai8x.Add"),
    (lambda t: t - 1, "sub in module 'middle'", "ai8x.Sub"),
    (lambda t: F.max_pool2d(t, 2), "max_pool2d in module 'middle'", "ai8x.MaxPool2d"),
    (lambda t: t.mean((2, 3), keepdim=True), "mean in module 'middle'", "ai8x.AvgPool2d"),
    (lambda t: t.transpose(2, 3), "transpose in module 'middle'", "order of dimensions"),
    (lambda t: torch.cat([t, t], dim=2), "cat in module 'middle'", "dim=1"),
    (lambda t: torch.concat([t, t], dim=2), "cat in module 'middle'", "dim=1"),
    (first_row_cleared, "change in place", "compute another"),
    (lambda t: torch.cat([t, torch.zeros_like(t)], dim=1), "zeros_like in module 'middle'", ""),
    (lambda t: torch.cat([t, torch.zeros(t.shape)], dim=1), "constant", "bias"),
    (lambda t: t[:, :1], "getitem", "layer of its own"),
    (lambda t: F.interpolate(t, scale_factor=2), "interpolate in module 'middle'", "ConvTranspose2d"),
    (lambda t: t.reshape(len(t), 8, 2, 2), "a change of shape from 2x4x4 to 8x2x2", "channels stay"),
], ids=["relu", "add", "sub", "max", "mean", "transpose", "rows", "rows, other name", "assignment", "zeros_like",
        "zeros", "slice", "resize", "channels"])
def test_what_no_layer_computes_is_refused_with_its_place(
    between: Callable[[Tensor], Tensor], found: str, help: str
) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle = modules.Conv2d(1, 2, 1), Inner(between)
            self.last = modules.Conv2d(between(torch.zeros(2, 2, 4, 4)).shape[1], 1, 1)

        def forward(self, data: Tensor) -> Tensor:
            return self.last(self.middle(self.first(data)))

    with pytest.raises(UserError) as caught:
        describe_model(Odd(), (1, 4, 4), name="net")
    (finding,) = caught.value.diagnostics
    assert finding.code == "E0720" and finding.message.startswith("layer 'last'")
    assert found in finding.found and help in finding.help


def test_plain_layers_of_torch_are_named() -> None:
    model = nn.Sequential(modules.Conv2d(1, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1)), modules.Conv2d(2, 1, 1))
    with pytest.raises(UserError) as caught:
        describe_model(model, (1, 4, 4), name="net")
    (finding,) = caught.value.diagnostics
    assert finding.found == "conv2d in module '1.0'" and "ai8x.Conv2d" in finding.help


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Identity()])
def test_a_model_without_layers_of_ours_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="E0725"):
        describe_model(model, (1, 4, 4), name="net")


@pytest.mark.parametrize("shape", [(3, 4, 4), (1,), (1, 0, 0)])
def test_an_input_that_the_model_does_not_take_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="E0726") as caught:
        describe_model(nn.Sequential(modules.Conv2d(1, 1, 3)), shape, name="net")
    assert "input_shape" in caught.value.diagnostics[0].help


def test_a_linear_layer_on_a_map_is_refused() -> None:
    with pytest.raises(UserError, match="E0720") as caught:
        describe_model(nn.Sequential(modules.Linear(4, 3)), (2, 3, 4), name="net")
    assert caught.value.diagnostics[0].help == "flatten first: data.flatten(1)"


def test_functions_behind_the_outputs_are_left_to_the_program() -> None:
    model = nn.Sequential(modules.Linear(4, 3), nn.Softmax(dim=1))
    assert describe_model(model, (4,), name="n").behind == ("softmax",)
    assert "(softmax) is left to the" in " ".join(describe_model(model, (4,), name="n").to_yaml().split("\n# "))
