"""The comparison of float and integer layers as a picture: SVG of our own, PNG by matplotlib where it is installed.

Start at `write_plot`.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ai8x.errors import Source, user_error
from ai8x.files import atomic_write, write_text
from ai8x.quantization import svg
from ai8x.quantization.comparison import DEFAULT_LEAST_SNR, LayerComparison, first_bad_layer

_TOP_SNR = 60.0
_ROW_HEIGHT = 26
_PANEL_WIDTH = 330
_GAP = 40
_TOP = 62
_CHARACTER_WIDTH = 7.0
_SNR_TITLE = "signal-to-noise ratio, dB (more is better)"
_ERROR_TITLE = "greatest error / greatest value (less is better)"


def write_plot(path: Path, layers: Sequence[LayerComparison], *, title: str,
               least_snr: float = DEFAULT_LEAST_SNR) -> None:
    """Draw signal-to-noise ratio and greatest error of every layer.

    Args:
        path: ending in ``.svg`` or ``.png``; the folder must exist.
        layers: in order of execution.
        title: above the picture.
        least_snr: bound in dB, drawn as a line.

    Raises:
        UserError: E0564 for another kind of file, E0816 for PNG without matplotlib, E0810 where writing fails.
    """
    if path.suffix.lower() == ".svg":
        write_text(path, svg_plot(layers, title=title, least_snr=least_snr))
    elif path.suffix.lower() == ".png":
        atomic_write(path, _png(layers, title, least_snr))
    else:
        raise user_error("E0564", "the kind of picture is not known from the name", source=Source(file=str(path)),
                         found=path.name, allowed="names ending in .svg or .png", help=f"write {path.stem}.svg")


def svg_plot(layers: Sequence[LayerComparison], *, title: str, least_snr: float = DEFAULT_LEAST_SNR) -> str:
    """The picture as SVG; one row for every layer, signal-to-noise ratio on the left, errors on the right."""
    label_width = 24 + _CHARACTER_WIDTH * max(len(_label(layer)) for layer in layers)
    width = label_width + 2 * (_PANEL_WIDTH + _GAP) + 30
    height = _TOP + _ROW_HEIGHT * len(layers) + 40
    bad = first_bad_layer(layers, least_snr)
    left, right = label_width, label_width + _PANEL_WIDTH + _GAP
    decades = _decades(layers)
    parts = [svg.text(left, 46, _SNR_TITLE), svg.text(right, 46, _ERROR_TITLE)]
    parts += _axis(left, height, [(snr, f"{snr:g}") for snr in (0.0, 20.0, 40.0, 60.0)], lambda v: v / _TOP_SNR)
    parts += _axis(right, height, [(float(d), f"{10.0**d:g}") for d in range(decades[0], decades[1] + 1)],
                   lambda v: (v - decades[0]) / (decades[1] - decades[0]))
    for row, layer in enumerate(layers):
        y = _TOP + row * _ROW_HEIGHT
        color = svg.BAD if layer is bad or layer.snr_db < least_snr else svg.GOOD
        parts.append(svg.text(label_width - 12, y + 17, _label(layer), anchor="end"))
        parts.append(_bar(left, y, layer.snr_db / _TOP_SNR, color, f"{_figure(layer.snr_db)} dB", layer))
        share = _relative_error(layer)
        length = (math.log10(share) - decades[0]) / (decades[1] - decades[0]) if share > 0 else 0.0
        parts.append(_bar(right, y, length, color, f"{share:.2g}", layer))
    bound = left + _PANEL_WIDTH * min(1.0, max(0.0, least_snr / _TOP_SNR))
    parts.append(svg.line((bound, _TOP - 6), (bound, height - 34), color=svg.BAD, dashed=True))
    parts.append(svg.text(bound, height - 4, _bound_label(least_snr), anchor="middle", size=11, color=svg.BAD))
    return svg.document(width, height, title, parts)


def _bound_label(least_snr: float) -> str:
    return f"bad below {least_snr:g} dB"


def _label(layer: LayerComparison) -> str:
    return f"{layer.name}, {layer.weight_bits} bit" if layer.weight_bits else layer.name


def _figure(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ("exact" if value > 0 else "none")


def _relative_error(layer: LayerComparison) -> float:
    return layer.max_error / layer.peak if layer.peak else layer.max_error


def _decades(layers: Sequence[LayerComparison]) -> tuple[int, int]:
    """Powers of ten between which the greatest errors lie."""
    logs = [math.log10(error) for error in map(_relative_error, layers) if error > 0] or [-1.0]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return low - 1, max(high, low + 1)


def _axis(x: float, height: float, ticks: Sequence[tuple[float, str]], place: Callable[[float], float]) -> list[str]:
    """Vertical lines with their values below."""
    parts = []
    for value, text in ticks:
        at = x + _PANEL_WIDTH * place(value)
        parts.append(svg.line((at, _TOP - 6), (at, height - 34)))
        parts.append(svg.text(at, height - 18, text, anchor="middle", color=svg.MUTED))
    return parts


def _bar(x: float, y: float, share: float, color: str, text: str, layer: LayerComparison) -> str:
    """One bar with its figure; the layer's other figures show up when the pointer rests on it."""
    length = _PANEL_WIDTH * min(1.0, max(0.0, share))
    inside = length > _PANEL_WIDTH * 0.82
    label = svg.text(x + length + (-6 if inside else 6), y + 17, text, anchor="end" if inside else "start",
                  color="#ffffff" if inside else svg.INK)
    hint = (f"{layer.name}: largest error {layer.max_error:.3g} of {layer.peak:.3g}, cosine {layer.cosine:.6f}, "
            f"{_figure(layer.snr_db)} dB")
    return (f'<g><title>{html.escape(hint)}</title><rect x="{x:.1f}" y="{y + 4}" width="{max(length, 1):.1f}" '
            f'height="{_ROW_HEIGHT - 8}" rx="2" fill="{color}"/>{label}</g>')


def _png(layers: Sequence[LayerComparison], title: str, least_snr: float) -> bytes:
    """The same picture by matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise user_error("E0816", "PNG pictures need matplotlib, which is not installed", found=str(error),
                         allowed="matplotlib 3.8 or later",
                         help="run pip install 'ai8x[plots]', or give a name ending in .svg") from error
    figure = Figure(figsize=(11, 1.8 + 0.32 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [_label(layer) for layer in layers]
    colors = [svg.BAD if layer.snr_db < least_snr else svg.GOOD for layer in layers]
    bars = left.barh(names, [min(_TOP_SNR, max(0.0, layer.snr_db)) for layer in layers], color=colors)
    left.bar_label(bars, [_figure(layer.snr_db) for layer in layers], padding=3)
    left.axvline(least_snr, color=svg.BAD, linestyle="--", linewidth=1, label=_bound_label(least_snr))
    left.legend(loc="lower right", frameon=False)
    left.set_xlabel(_SNR_TITLE)
    left.set_xlim(0, 1.15 * _TOP_SNR)
    left.invert_yaxis()
    bars = right.barh(names, [max(_relative_error(layer), 1e-9) for layer in layers], color=colors)
    right.bar_label(bars, [f"{_relative_error(layer):.2g}" for layer in layers], padding=3)
    right.set_xscale("log")
    low, high = _decades(layers)
    right.set_xlim(10.0**low, 10.0 ** (high + 0.3))
    right.set_xlabel(_ERROR_TITLE)
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
