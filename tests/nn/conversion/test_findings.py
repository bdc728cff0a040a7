"""What does not map is refused: every finding at once, with path, reason and nearest form."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ai8x
from tests.nn.conversion.test_equality import Function


def findings(model: nn.Module, shape: tuple[int, ...], **options: object) -> tuple[ai8x.Diagnostic, ...]:
    with pytest.raises(ai8x.UserError) as refused:
        ai8x.convert(model, torch.zeros(1, *shape), **options)
    return refused.value.diagnostics


CONV = nn.Conv2d(2, 2, 1)
IMAGE, SEQUENCE = (2, 8, 8), (2, 20)

# name -> module, shape, code, part of the message, part of the help, whether it is replaced on request
REFUSALS: dict[str, tuple[nn.Module, tuple[int, ...], str, str, str, bool]] = {
    "5x5": (nn.Conv2d(2, 3, 5, padding=2), IMAGE, "E0764", "kernel 5x5", "two 3x3 convolutions", True),
    "7x7 with stride": (nn.Conv2d(2, 3, 7, stride=2, padding=3), IMAGE, "E0764", "kernel 7x7", "three 3x3", True),
    "2x2": (nn.Conv2d(2, 3, 2), IMAGE, "E0764", "kernel 2x2", "one 3x3 convolution", False),
    "dilation": (nn.Conv2d(2, 3, 3, padding=2, dilation=2), IMAGE, "E0764", "dilation 2x2", "two 3x3", True),
    "unequal stride": (nn.Conv2d(2, 3, 3, stride=(2, 1)), IMAGE, "E0764", "stride 2x1", "equal stride", False),
    "1-D kernel 11": (nn.Conv1d(2, 3, 11, padding=5), SEQUENCE, "E0764", "kernel 11", "three length 5", True),
    "padding mode": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), IMAGE, "E0761", "reflect", "zeros", True),
    "4x4 transposed": (nn.ConvTranspose2d(2, 3, 4, 2, 1), IMAGE, "E0764", "kernel 4x4", "kernel_size=3", True),
    "3x3 transposed without output padding": (nn.ConvTranspose2d(2, 3, 3, 2, 1), IMAGE, "E0764", "output padding 0x0",
                                              "output_padding=1", False),
    "1-D transposed": (nn.ConvTranspose1d(2, 3, 2, 2), SEQUENCE, "E0761", "two dimensions", "ConvTranspose2d", False),
    "3-D": (nn.Conv3d(2, 3, 3), (2, 4, 4, 4), "E0761", "one or two dimensions", "Conv2d", False),
    "GELU": (nn.Sequential(CONV, nn.GELU(), CONV), IMAGE, "E0761", "GELU", "ReLU", True),
    "SiLU": (nn.Sequential(CONV, nn.SiLU(), CONV), IMAGE, "E0761", "SiLU", "ReLU", True),
    "LeakyReLU": (nn.Sequential(CONV, nn.LeakyReLU(), CONV), IMAGE, "E0761", "LeakyReLU", "ReLU", True),
    "PReLU": (nn.Sequential(CONV, nn.PReLU(), CONV), IMAGE, "E0761", "PReLU", "ReLU", True),
    "sigmoid inside": (nn.Sequential(CONV, nn.Sigmoid(), CONV), IMAGE, "E0761", "sigmoid", "ReLU", True),
    "tanh inside": (Function(lambda x, a: a(torch.tanh(a(x))), CONV), IMAGE, "E0761", "tanh", "ReLU", True),
    "softmax inside": (nn.Sequential(CONV, nn.Softmax(1), CONV), IMAGE, "E0761", "softmax", "CPU", False),
    "Hardtanh": (nn.Sequential(CONV, nn.Hardtanh()), IMAGE, "E0761", "limited to -1 to 1", "ReLU", True),
    "LayerNorm": (nn.Sequential(CONV, nn.LayerNorm([8, 8])), IMAGE, "E0761", "LayerNorm", "BatchNorm", True),
    "GroupNorm": (nn.Sequential(CONV, nn.GroupNorm(1, 2)), IMAGE, "E0761", "GroupNorm", "BatchNorm", True),
    "BatchNorm without statistics": (nn.Sequential(CONV, nn.BatchNorm2d(2, track_running_stats=False)), IMAGE, "E0761",
                                     "running statistics", "track_running_stats=True", False),
    "LSTM": (Function(lambda x, a: a(x)[0], nn.LSTM(20, 4, batch_first=True)), SEQUENCE, "E0761", "recurrent", "TCN",
             False),
    "GRU": (Function(lambda x, a: a(x)[0], nn.GRU(20, 4, batch_first=True)), SEQUENCE, "E0761", "recurrent", "TCN",
            False),
    "attention": (Function(lambda x, a: a(x, x, x)[0], nn.MultiheadAttention(20, 2, batch_first=True)), SEQUENCE,
                  "E0761", "attention", "convolutions", False),
    "product of activations": (Function(lambda x, a: a(x) * a(x), CONV), IMAGE, "E0761", "multiplies", "gate", True),
    "matrix product": (Function(lambda x, a: a(x) @ a(x), CONV), IMAGE, "E0761", "multiplies", "convolutions", False),
    "broadcast sum": (Function(lambda x, a: a(x) + a(x).mean((2, 3), keepdim=True), CONV), IMAGE, "E0762", "2x1x1",
                      "one shape", False),
    "permutation": (Function(lambda x, a: a(x.permute(0, 1, 3, 2)), CONV), IMAGE, "E0761", "order of the dimensions",
                    "channels in front", False),
    "chunk": (Function(lambda x, a: a(x).chunk(2, 1)[0], CONV), IMAGE, "E0761", "all channels", "convolutions", False),
    "cat along rows": (Function(lambda x, a: torch.cat([a(x), a(x)], 2), CONV), IMAGE, "E0762", "dimension 2", "dim=1",
                       False),
    "reshape to a map": (nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.Unflatten(1, (2, 4, 4)), CONV), IMAGE,
                         "E0762", "from 32 to 2x4x4", "transposed convolutions", False),
    "linear on the last dimension": (nn.Linear(20, 4), SEQUENCE, "E0762", "last of 3", "1x1 convolution", False),
    "unequal windows": (nn.AdaptiveAvgPool2d(3), IMAGE, "E0763", "8 elements in 3 windows", "divides 8", False),
    "maximum with padding of negative values": (nn.Sequential(CONV, nn.MaxPool2d(3, 2, 1)), IMAGE, "E0763",
                                                "may be negative", "zeros", True),
    "indices": (nn.MaxPool2d(2, return_indices=True), IMAGE, "E0763", "where the maximum was", "return_indices",
                False),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE, "E0763", "bilinear", "nearest element", True),
    "enlarging by 3": (nn.Upsample(scale_factor=3), IMAGE, "E0763", "8x8 to 24x24", "by 2", False),
    "too many features": (nn.Sequential(nn.Flatten(), nn.Linear(2048, 4)), (8, 16, 16), "E0375", "2048", "pooling",
                          False),
    "too many channels": (nn.Conv2d(2, 1030, 1), IMAGE, "E0375", "1030", "fewer channels", False),
    "unknown function": (Function(lambda x, a: torch.cumsum(a(x), 2), CONV), IMAGE, "E0761", "cumsum", "CPU", False),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_has_reason_and_nearest_form(name: str) -> None:
    model, shape, code, message, advice, is_replaced = REFUSALS[name]
    found = findings(model, shape)
    assert len(found) == 1, [d.message for d in found]
    assert found[0].code == code and message in found[0].message and advice in found[0].help
    if not is_replaced:
        assert findings(model, shape, replace_unsupported=True) == found or "E03" in code
        return
    converted = ai8x.convert(model, torch.zeros(1, *shape), replace_unsupported=True)
    assert len(converted.report.replaced) == 1 and not converted.report.is_exact
    data = torch.rand(2, *shape)
    assert converted(data).shape == model(data).shape


def test_all_findings_come_at_once_limits_included() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 5, padding=2), nn.GELU(), nn.Conv2d(4, 1030, 1), nn.Softmax(1),
                          nn.AdaptiveAvgPool2d(3), nn.Conv2d(1030, 4, (1, 2)))
    found = findings(model, IMAGE)
    assert {(d.layer, d.code) for d in found} == {("1", "E0761"), ("4", "E0763"), ("0", "E0764"), ("3", "E0761"),
                                                  ("5", "E0764"), ("2", "E0375")}


def test_functions_are_found_by_their_line() -> None:
    def forward(x: Tensor, conv: nn.Module) -> Tensor:
        return conv(torch.cumsum(x, 2))

    found = findings(Function(forward, CONV), IMAGE)[0]
    assert found.source is not None
    assert found.source.file == __file__ and found.source.line == forward.__code__.co_firstlineno + 1


def test_a_model_that_does_not_run_is_said_so() -> None:
    assert findings(nn.Conv2d(3, 4, 1), IMAGE)[0].code == "E0760"
    with pytest.raises(ai8x.UserError, match="E0760"):
        ai8x.convert(CONV, [1, 2])  # type: ignore[arg-type]


def test_layers_of_ours_that_clamp_are_refused_by_their_path() -> None:
    mixed = nn.Sequential(ai8x.FusedConv2dReLU(2, 4, 3, padding=1, bias=True), nn.Conv2d(4, 2, 3), ai8x.Conv2d(2, 2, 1))
    with torch.no_grad():
        mixed[0].op.weight.fill_(1.0)  # results beyond the clamps
    found = findings(mixed, IMAGE)
    assert [(d.code, d.layer) for d in found] == [("E0761", "0"), ("E0761", "2")]
    assert "plain torch layers throughout" in found[0].help


@pytest.mark.parametrize(("model", "shape"), [
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), (2, 8, 8)), (nn.Conv1d(2, 4, 3), (2, 20)),
    (Function(lambda x, a: F.conv2d(x, a.weight), CONV), (2, 8, 8)), (nn.Sequential(nn.MaxPool2d(2), CONV), (2, 8, 8))])
def test_an_example_without_the_dimension_of_the_batch_is_said_so(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ai8x.UserError, match="E0760") as refused:
        ai8x.convert(model, torch.zeros(shape))
    assert "example_input.unsqueeze(0)" in refused.value.diagnostics[0].help


def looks_up(x: Tensor, conv: nn.Module) -> Tensor:
    return {"maps": conv(x)}["scores"]


def asserts(x: Tensor, conv: nn.Module) -> Tensor:
    assert x.shape[1] == 3, "colours"
    return conv(x)


@pytest.mark.parametrize("forward", [looks_up, asserts])
def test_whatever_a_model_raises_is_its_failure_to_run(forward: Callable[..., Tensor]) -> None:
    assert findings(Function(forward, CONV), IMAGE)[0].code == "E0760"


def test_parameters_that_are_not_finite_are_no_defect_of_ours() -> None:
    broken = nn.Conv2d(2, 2, 1)
    nn.init.constant_(broken.weight, float("nan"))
    assert findings(broken, IMAGE)[0].code == "E0766"


def assigns(x: Tensor, conv: nn.Module) -> Tensor:
    maps = conv(x)
    maps[:, :, 0] = 0
    return conv(maps)


def changes_a_view(x: Tensor, conv: nn.Module) -> Tensor:
    maps = conv(x)
    flat = maps.flatten(2)
    maps.relu_()
    return flat


def assigns_at_the_end(x: Tensor, conv: nn.Module) -> Tensor:
    maps = conv(x)
    maps[:, 0] = 0
    return maps


@pytest.mark.parametrize("forward", [assigns, changes_a_view, assigns_at_the_end])
@pytest.mark.parametrize("replace_unsupported", [False, True])
def test_changes_in_place_that_no_result_shows_are_refused(forward: Callable[..., Tensor],
                                                           replace_unsupported: bool) -> None:
    found = findings(Function(forward, CONV), IMAGE, replace_unsupported=replace_unsupported)
    assert found[0].code == "E0761" and "in place" in found[0].message


@pytest.mark.parametrize("result", ["text", torch.zeros(3), 3])
def test_results_that_do_not_depend_on_the_input_are_refused(result: object) -> None:
    found = findings(Function(lambda x, a: (a(x), result), CONV), IMAGE)
    assert [f.code for f in found] == ["E0761"] and "returns" in found[0].message


def test_a_model_without_any_layer_is_refused() -> None:
    assert findings(Function(lambda x, a: None, CONV), IMAGE)[0].code == "E0765"
    assert findings(nn.Flatten(), IMAGE)[0].code == "E0765"


APPROXIMATE: dict[str, tuple[nn.Module, str]] = {
    "ReLU6": (nn.Sequential(CONV, nn.ReLU6()), "values above 6"),
    "Hardtanh from 0": (nn.Sequential(CONV, nn.Hardtanh(0.0, 2.0)), "values above 2"),
    "softmax at the end": (nn.Sequential(CONV, nn.Softmax(1)), "softmax at the end"),
    "log_softmax at the end": (Function(lambda x, a: F.log_softmax(a(x), 1), CONV), "log_softmax at the end"),
    "sigmoid at the end": (nn.Sequential(CONV, nn.Sigmoid()), "sigmoid at the end"),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_what_differs_before_quantisation_is_said(name: str) -> None:
    model, text = APPROXIMATE[name]
    report = ai8x.convert(model, torch.zeros(1, *IMAGE)).report
    assert not report.is_exact and len(report.notices) == 1 and text in report.notices[0].message


COSTS: dict[str, tuple[nn.Module, str]] = {
    "stride": (nn.Conv2d(2, 4, 3, stride=2, padding=1), "4 times the work"),
    "rings": (nn.Conv2d(2, 4, 3, padding=3), "1 more layer in front"),
    "groups": (nn.Conv2d(2, 4, 3, groups=2), "2 groups run as a dense convolution"),
    "activation alone": (Function(lambda x, a: F.relu(a(x) + x), CONV), "takes a layer that copies"),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_said(name: str) -> None:
    model, text = COSTS[name]
    report = ai8x.convert(model, torch.zeros(1, *IMAGE)).report
    assert report.is_exact and [text in notice.message for notice in report.notices] == [True]


def test_a_gate_that_is_left_out_leaves_no_trace() -> None:
    def gated(x: Tensor, conv: nn.Module, squeeze: nn.Module) -> Tensor:
        data = conv(x)
        return data * torch.sigmoid(squeeze(data.mean((2, 3), keepdim=True)))

    model = Function(gated, nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1))
    converted = ai8x.convert(model, torch.zeros(1, *IMAGE), replace_unsupported=True)
    assert [type(m).__name__ for m in converted.children()] == ["Conv2d"]
