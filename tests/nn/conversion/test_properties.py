"""Random sequences of layers: what is not refused computes the same, and what is refused is refused as a finding."""

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import ai8x
from tests.nn.conversion.plain_models import with_statistics

sizes = st.integers(1, 3)


@st.composite
def image_layer(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    """A layer for images of some channels, and the channels that it makes."""
    kind = draw(st.sampled_from(["conv", "depthwise", "pool", "transposed", "norm", "relu", "pad", "up", "adaptive"]))
    if kind == "conv":
        outputs = draw(sizes)
        return nn.Conv2d(channels, outputs, (draw(sizes), draw(sizes)), stride=draw(sizes),
                         padding=draw(st.integers(0, 2)), bias=draw(st.booleans())), outputs
    if kind == "depthwise":
        return nn.Conv2d(channels, channels, draw(sizes), padding=draw(st.integers(0, 1)), groups=channels), channels
    if kind == "pool":
        window = draw(st.integers(1, 4))
        pool = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
        return pool(window, stride=draw(sizes), padding=draw(st.integers(0, window // 2)),
                    ceil_mode=draw(st.booleans())), channels
    if kind == "transposed":
        outputs, stride = draw(sizes), draw(st.integers(1, 2))
        return nn.ConvTranspose2d(channels, outputs, draw(sizes), stride=stride, padding=draw(st.integers(0, 1)),
                                  output_padding=draw(st.integers(0, stride - 1))), outputs
    others = {"norm": lambda: nn.BatchNorm2d(channels), "relu": nn.ReLU, "up": lambda: nn.Upsample(scale_factor=2),
              "pad": lambda: nn.ZeroPad2d(draw(st.integers(-1, 2))),
              "adaptive": lambda: nn.AdaptiveAvgPool2d(draw(sizes))}
    return others[kind](), channels


@st.composite
def sequence_layer(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    """A layer for sequences."""
    kind = draw(st.sampled_from(["conv", "pool", "norm", "relu", "pad"]))
    if kind == "conv":
        outputs = draw(sizes)
        return nn.Conv1d(channels, outputs, draw(st.integers(1, 9)), stride=draw(sizes), dilation=draw(sizes),
                         padding=draw(st.integers(0, 4))), outputs
    if kind == "pool":
        return draw(st.sampled_from([nn.MaxPool1d, nn.AvgPool1d]))(draw(sizes), stride=draw(sizes)), channels
    if kind == "pad":
        return nn.ConstantPad1d((draw(st.integers(0, 4)), draw(st.integers(-2, 2))), 0.0), channels
    return (nn.BatchNorm1d(channels) if kind == "norm" else nn.ReLU()), channels


@st.composite
def models(draw: st.DrawFn) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A sequence of layers and the shape of its input."""
    is_image = draw(st.booleans())
    first = channels = draw(sizes)
    layers = []
    for _ in range(draw(st.integers(1, 5))):
        layer, channels = draw(image_layer(channels) if is_image else sequence_layer(channels))
        layers.append(layer)
    ends = st.integers(6, 12)
    shape = (first, draw(ends), draw(ends)) if is_image else (first, draw(st.integers(12, 24)))
    return nn.Sequential(*layers), shape


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(models(), st.integers(0, 1000))
def test_conversion_is_exact_or_refused(drawn: tuple[nn.Sequential, tuple[int, ...]], seed: int) -> None:
    model, shape = drawn
    torch.manual_seed(seed)
    try:
        with_statistics(model, shape)
    except (RuntimeError, ValueError):
        assume(False)  # the layers do not fit each other
    data = torch.rand(2, *shape) * 2 - 1
    try:
        converted = ai8x.convert(model, data[:1])
    except ai8x.UserError as error:
        assert all(d.code.startswith(("E076", "E03")) and d.help for d in error.diagnostics)
        return
    with torch.no_grad():
        expected, found = model(data), converted(data)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))
