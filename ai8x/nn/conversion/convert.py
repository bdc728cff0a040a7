"""`convert`: from a plain torch model to fused layers of the chip.

Source: spec/ai8x-training.md sections 3 (layers) and 7 (float training without clamps).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ai8x.compatibility import current_settings
from ai8x.errors import Diagnostic, Diagnostics, user_error
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import (
    ElementwiseModule,
    Mode,
    OutputScale,
    QuantizationAwareModule,
    set_output_scale,
    use_scheme,
)
from ai8x.nn.conversion.capture import capture
from ai8x.nn.conversion.fuse import LayerBuilder
from ai8x.nn.conversion.graph import Graph
from ai8x.nn.conversion.model import ConversionReport, ConvertedModel
from ai8x.nn.conversion.reading import read_graph
from ai8x.nn.conversion.rewrite import rewrite
from ai8x.nn.conversion.rewriting import Rewriting
from ai8x.nn.trace import tensors_in
from ai8x.nn.wrappers import evaluation_mode

RELATIVE_TOLERANCE = 1e-4
"""Greatest difference between original and conversion, as a share of the greatest output; float32 makes 1e-6."""

DEFAULT_DEVICE = "MAX78000"


def convert(module: nn.Module, example_input: Tensor, *, replace_unsupported: bool = False,
            device: str | int | None = None) -> ConvertedModel:
    """Rewrite a plain torch model into the fused layers of the chip.

    The model is run once on the example, and what it computes is rewritten exactly: kernels smaller than 3x3 get zeros,
    strides become subsampling, pooling moves in front of convolutions, BatchNorm and activations move into layers, and
    layers that copy are added where nothing else fits. Parameters are copied; layers used several times stay one. The
    result computes in float without clamps (the second generation of training) what the original computes.

    Args:
        module: any model of one tensor; it stays as it is.
        example_input: a batch that it takes, (N, C, H, W) or (N, C, L).
        replace_unsupported: put the nearest form in the place of what the chip cannot compute; its weights are new and
            must be trained. Without it such a model is refused.
        device: chip whose limits hold; None takes what `ai8x.set_device` set, else the MAX78000.

    Returns:
        The converted model, in training mode if the original is; its ``report`` lists layers and notices.

    Raises:
        UserError: E0760 where the model does not run, E0761 to E0765 for operations without a form, E0372 to E0386 for
            limits of the chip; all findings together, each with the path of the layer and the nearest form. E0766
            where the model computes no finite numbers.
    """
    source, example = _on_cpu(module, example_input)
    captured = capture(source, example)
    graph, findings, is_exact = read_graph(captured, replace_unsupported=replace_unsupported)
    rewriting = Rewriting(replace_unsupported=replace_unsupported, findings=findings, is_exact=is_exact)
    graph = rewrite(graph, rewriting)
    builder = LayerBuilder(device=device or current_settings().device or DEFAULT_DEVICE, findings=findings)
    builder.build(graph)
    findings.raise_if_errors()
    model = _assembled(graph, builder, findings, is_exact=rewriting.is_exact)
    model.train(module.training)
    if rewriting.is_exact:
        _check_equality(source, model, example)
    parameter = next(module.parameters(), None)
    return model if parameter is None else model.to(parameter.device)


def _check_plain(module: nn.Module) -> None:
    """Refuse layers of this package that clamp or round, where that made results differ from those without.

    Raises:
        UserError: E0761, with the path of each such layer.
    """
    findings = Diagnostics()
    for path, layer in module.named_modules():
        if not isinstance(layer, (QuantizationAwareModule, ElementwiseModule)):
            continue
        if layer.mode is Mode.FLOAT and layer.scheme is Scheme.V2:
            continue
        findings.add(Diagnostic(
            code="E0761", message="a layer of ai8x that limits its values cannot be converted", layer=path,
            found=f"ai8x {type(layer).__name__} in {layer.mode.value} mode, scheme {layer.scheme.value}",
            allowed="plain torch layers",
            help="use plain torch layers throughout, or build the whole model of ai8x layers, which needs no convert"))
    findings.raise_if_errors()


def _on_cpu(module: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """Model and example in float32 on the CPU: themselves where they are, else copies."""
    is_there = all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.int64)
                   for p in (*module.parameters(), *module.buffers()))
    if is_there or not isinstance(example, Tensor):
        return module, example
    return copy.deepcopy(module).cpu().float(), example.cpu().float()


def _assembled(graph: Graph, builder: LayerBuilder, findings: Diagnostics, *, is_exact: bool) -> ConvertedModel:
    """The model in float mode without clamps."""
    if not builder.layers:
        raise user_error("E0765", "the model computes nothing that a chip could", found="no layer",
                         help="convert a model with convolutions or linear layers")
    report = ConversionReport(layers=tuple(builder.lines), notices=findings.items, is_exact=is_exact)
    model = ConvertedModel(builder.layers, builder.steps, graph.nodes[0].name, graph.structure, report)
    use_scheme(model, Scheme.V2)
    set_output_scale(model, OutputScale.REAL)
    return model


def _check_equality(module: nn.Module, model: ConvertedModel, example: Tensor) -> None:
    """Hold the conversion against the original.

    Raises:
        UserError: E0766, the original's results are not finite, so that nothing can be compared; E0761, they differ
            and layers of this package limit their values.
        RuntimeError: they differ, which is a defect of the conversion.
    """
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(example.shape, generator=generator).mul(2).sub(1).to(example)
    with evaluation_mode(module), evaluation_mode(model):
        # The original may change its input in place.
        pairs = list(zip(tensors_in(module(sample.clone())), tensors_in(model(sample)), strict=True))
    for expected, found in pairs:
        if not bool(expected.isfinite().all()):
            raise user_error("E0766", "the model does not compute finite numbers", found="infinity or NaN in its "
                             "results for inputs of -1 to 1", allowed="finite results",
                             help="look for NaN in its parameters, and train it again")
        if expected.shape != found.shape:
            raise _defect(f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
        difference = float((expected - found).abs().max())
        if not difference <= RELATIVE_TOLERANCE * max(1.0, float(expected.abs().max())):
            _check_plain(module)
            raise _defect(f"by {difference}")


def _defect(how: str) -> RuntimeError:
    return RuntimeError(f"the converted model differs from the original: {how}; please report this with the model")
