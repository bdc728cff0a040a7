"""How accuracy falls with pruning, before any training that makes up for it: which share is worth a try.

For every share, the smallest weights of one layer, of all layers, and whole channels of the network are taken away from
a copy of the model, which is then evaluated. Start at `measure_pruning`.

Source: issue 4 ("magnitude and structured channel pruning").
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import Source, UserError, user_error
from ai8x.files import write_text
from ai8x.nn.base import Mode, quantized_layers
from ai8x.nn.loading import load_state
from ai8x.quantization import svg
from ai8x.training.config import resolve_config
from ai8x.training.data import Samples
from ai8x.training.evaluation import choose_device, create_matching_model, load_parts, stored_settings
from ai8x.training.loop import evaluate
from ai8x.training.metrics import FIGURE_NAMES
from ai8x.training.objectives import Objective, create_objective
from ai8x.training.pruning import prune_channels, prune_layer, prune_weights
from ai8x.training.registry import discover, find_dataset, find_model

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""What is taken away."""

WEIGHTS, CHANNELS = "single weights", "whole channels"
"""Names of the curves of the whole network."""

_PERCENT = ("top1", "map")
_Prune = Callable[[nn.Module, float], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningCurve:
    """A figure over the share that is taken away.

    Args:
        name: path of the layer, `WEIGHTS` or `CHANNELS`.
        figures: one for each of `SHARES`, e.g. accuracy in per cent.
    """

    name: str
    figures: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningCurves:
    """All curves of a model.

    Args:
        metric: what the figures are, e.g. "top1".
        whole: of the whole network.
        layers: of every layer alone, in registration order.
        notices: why a curve is missing.
    """

    metric: str
    whole: tuple[PruningCurve, ...]
    layers: tuple[PruningCurve, ...]
    notices: tuple[str, ...] = ()


def measure_pruning(model: nn.Module, samples: Samples, objective: Objective, sample: Tensor) -> PruningCurves:
    """Evaluate a model with less and less of it.

    Args:
        model: in float or QAT mode; not changed.
        samples: to evaluate on, such as the validation part.
        objective: says what good is.
        sample: one input, (1, C, H, W) or (1, C, L).
    """
    complete = evaluate(model, samples, objective)
    metric, figure = complete.main

    def curve(name: str, prune: _Prune) -> PruningCurve:
        figures = [figure]
        for share in SHARES[1:]:
            smaller = copy.deepcopy(model)
            prune(smaller, share)
            figures.append(evaluate(smaller, samples, objective).main[1])
        return PruningCurve(name=name, figures=tuple(figures))

    whole, notices = [curve(WEIGHTS, prune_weights)], []
    try:
        whole.append(curve(CHANNELS, lambda smaller, share: prune_channels(smaller, sample, share)))
    except UserError as error:  # E0636: the model cannot be followed
        notices += [finding.message for finding in error.diagnostics]
    layers = [curve(name, partial(prune_layer, name)) for name, layer in quantized_layers(model).items()
              if layer.op is not None]
    return PruningCurves(metric=metric, whole=tuple(whole), layers=tuple(layers), notices=tuple(notices))


def draw_pruning(file: Path, settings: Mapping[str, Any], target: Path | None = None) -> Iterator[str]:
    """Measure a checkpoint on the validation part, draw the picture, and tell both (``--prune-curve``).

    Args:
        file: checkpoint of training.
        settings: given by the user; they win over those in the file.
        target: an .svg file; by default beside the checkpoint.

    Raises:
        UserError: E0628 for a quantised checkpoint, and those of `ai8x.training.evaluation.evaluate_checkpoint`.
    """
    checkpoint = read_checkpoint(file)
    config = resolve_config(stored_settings(checkpoint), settings)
    catalogue = discover(config.models_path, config.datasets_path)
    data = find_dataset(catalogue, config.dataset)
    model = create_matching_model(find_model(catalogue, config.arch), data, config, checkpoint)
    if load_state(model, checkpoint.tensors()).mode is Mode.INTEGER:
        raise user_error("E0628", "quantised networks are not pruned", source=Source(file=str(file)),
                         found="a file of quantize.py", allowed="a checkpoint of training",
                         help="give the file from before quantize.py")
    device = choose_device(config)
    model.to(device)
    objective = create_objective(data, config, model, device)
    parts = load_parts(data, config, integer=False)
    curves = measure_pruning(model, parts.validation, objective, torch.zeros(1, *data.input_shape, device=device))
    yield from format_curves(curves)
    stem = file.name.removesuffix(".tar").removesuffix(".pth").removesuffix(".safetensors")
    target = target or file.with_name(f"{stem}-pruning.svg")
    title = f"{config.arch} on {data.name}: {len(parts.validation)} validation samples, pruned without further training"
    write_text(target, pruning_plot(curves, title=title))
    yield f"wrote {target}"


def format_curves(curves: PruningCurves) -> Iterator[str]:
    """The curves as an aligned table."""
    rows = [*curves.whole, *curves.layers]
    width = max(len(row.name) for row in rows)
    name = FIGURE_NAMES.get(curves.metric, curves.metric)
    yield f"{name} after pruning without further training".ljust(width)
    yield "away".ljust(width) + "".join(f"{100 * share:7.0f} %" for share in SHARES)
    for row in rows:
        yield row.name.ljust(width) + "".join(f"{_shown(value, curves.metric):>9}" for value in row.figures)
    yield from (f"notice: {notice}" for notice in curves.notices)


def _shown(value: float, metric: str) -> str:
    return f"{value:.1f}" if metric in _PERCENT else f"{value:.3g}"


_LEFT, _CELL, _ROW, _PLOT_TOP, _PLOT_HEIGHT = 130, 62, 24, 64, 190
_MAP_TOP = _PLOT_TOP + _PLOT_HEIGHT + 96
_COLOURS = (svg.GOOD, "#d0801f")
"""Of the two curves; blue and orange differ for every kind of colour vision, and one is dashed."""


def pruning_plot(curves: PruningCurves, *, title: str) -> str:
    """The picture as SVG: curves of the whole network above, a map of the layers below.

    Args:
        curves: of `measure_pruning`.
        title: above the picture.
    """
    width = _LEFT + _CELL * len(SHARES) + 140
    height = _MAP_TOP + _ROW * len(curves.layers) + 24
    return svg.document(width, height, title, [*_curve_parts(curves), *_map_parts(curves)])


def _limits(curves: PruningCurves) -> tuple[float, float]:
    """Least and greatest figure, rounded outwards."""
    figures = [value for row in (*curves.whole, *curves.layers) for value in row.figures]
    if curves.metric in _PERCENT:
        return 0.0, 100.0
    return 0.0, max(figures) or 1.0


def _column(number: int) -> float:
    """Middle of a share's column."""
    return _LEFT + _CELL * (number + 0.5)


def _curve_parts(curves: PruningCurves) -> Iterator[str]:
    low, high = _limits(curves)
    name = FIGURE_NAMES.get(curves.metric, curves.metric)
    unit = " in %" if high == 100.0 else ""
    yield svg.text(_LEFT, 50, f"{name}{unit} of the whole network", color=svg.INK)

    def place(value: float) -> float:
        return _PLOT_TOP + _PLOT_HEIGHT * (1 - (value - low) / (high - low))

    for step in range(5):
        value = low + (high - low) * step / 4
        yield svg.line((_LEFT, place(value)), (_column(len(SHARES) - 1) + _CELL / 2, place(value)))
        yield svg.text(_LEFT - 8, place(value) + 4, f"{value:g}", anchor="end", color=svg.MUTED)
    yield from _share_labels(_PLOT_TOP + _PLOT_HEIGHT + 18)
    yield svg.text(_LEFT + _CELL * len(SHARES), _PLOT_TOP + _PLOT_HEIGHT + 36, "share taken away", anchor="end",
                   color=svg.MUTED)
    ends: list[float] = []
    for row, colour in zip(curves.whole, _COLOURS, strict=False):
        points = " ".join(f"{_column(number):.1f},{place(value):.1f}" for number, value in enumerate(row.figures))
        dashes = ' stroke-dasharray="7 4"' if colour != _COLOURS[0] else ""
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"{dashes}/>'
        end = place(row.figures[-1])
        end -= 16 if any(abs(end - other) < 14 for other in ends) else 0
        ends.append(end)
        yield svg.text(_column(len(SHARES) - 1) + 10, end + 4, row.name, color=colour)


def _share_labels(y: float) -> Iterator[str]:
    for number, share in enumerate(SHARES):
        yield svg.text(_column(number), y, f"{100 * share:.0f} %", anchor="middle", color=svg.MUTED)


def _map_parts(curves: PruningCurves) -> Iterator[str]:
    """A row for every layer; the darker, the more of the figure is lost."""
    low, high = _limits(curves)
    name = FIGURE_NAMES.get(curves.metric, curves.metric)
    yield svg.text(_LEFT, _MAP_TOP - 32, f"{name} where the smallest weights of one layer alone are taken away; "
                   "dark: much is lost")
    yield from _share_labels(_MAP_TOP - 10)
    for row, layer in enumerate(curves.layers):
        top = _MAP_TOP + _ROW * row
        yield svg.text(_LEFT - 8, top + 16, layer.name[-18:], anchor="end")
        for number, value in enumerate(layer.figures):
            loss = min(1.0, abs(layer.figures[0] - value) / (high - low))
            yield (f'<rect x="{_LEFT + _CELL * number:.1f}" y="{top:.1f}" width="{_CELL - 1}" height="{_ROW - 1}" '
                   f'fill="{_shade(loss)}"/>')
            yield svg.text(_column(number), top + 16, _shown(value, curves.metric), anchor="middle",
                           color="#ffffff" if loss > _DARK else svg.INK)


_DARK = 0.4
"""Loss from which white letters are read better than black ones."""


def _shade(loss: float) -> str:
    """White to dark blue."""
    dark = (15, 60, 115)
    return "#" + "".join(f"{round(245 + (value - 245) * loss**0.6):02x}" for value in dark)
