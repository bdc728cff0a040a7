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
from ai8x.quantization.comparison import DEFAULT_LEAST_SNR, LayerComparison, first_bad_layer

_TOP_SNR = 60.0
_ROW_HEIGHT = 26
_PANEL_WIDTH = 330
_GAP = 40
_TOP = 62
_CHARACTER_WIDTH = 7.0
_GOOD, _BAD, _MUTED, _INK = "#2a78b5", "#c8453b", "#8a8f98", "#1d2733"


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
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="system-ui, sans-serif" font-size="12" role="img" '
        f'aria-label="{html.escape(title)}">',
        f'<rect width="100%" height="100%" fill="#ffffff"/>{_text(14, 22, title, size=15)}',
        _text(left, 46, "signal to noise, dB"), _text(right, 46, "error relative to the layer's peak (greatest)")]
    parts += _axis(left, height, [(snr, f"{snr:g}") for snr in (0.0, 20.0, 40.0, 60.0)], lambda v: v / _TOP_SNR)
    parts += _axis(right, height, [(float(d), f"1e{d}") for d in range(decades[0], decades[1] + 1)],
                   lambda v: (v - decades[0]) / (decades[1] - decades[0]))
    for row, layer in enumerate(layers):
        y = _TOP + row * _ROW_HEIGHT
        color = _BAD if layer is bad or layer.snr_db < least_snr else _GOOD
        parts.append(_text(label_width - 12, y + 17, _label(layer), anchor="end"))
        parts.append(_bar(left, y, layer.snr_db / _TOP_SNR, color, f"{_figure(layer.snr_db)} dB", layer))
        share = _relative_error(layer)
        length = (math.log10(share) - decades[0]) / (decades[1] - decades[0]) if share > 0 else 0.0
        parts.append(_bar(right, y, length, color, f"{share:.2g}", layer))
    bound = left + _PANEL_WIDTH * min(1.0, max(0.0, least_snr / _TOP_SNR))
    parts.append(f'<line x1="{bound:.1f}" x2="{bound:.1f}" y1="{_TOP - 6}" y2="{height - 34}" stroke="{_BAD}" '
                 'stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</svg>", ""])


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


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, color: str = _INK) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">'
            f'{html.escape(text)}</text>')


def _axis(x: float, height: float, ticks: Sequence[tuple[float, str]], place: Callable[[float], float]) -> list[str]:
    """Vertical lines with their values below."""
    parts = []
    for value, text in ticks:
        at = x + _PANEL_WIDTH * place(value)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 6}" y2="{height - 34}" stroke="#e3e6ea"/>')
        parts.append(_text(at, height - 18, text, anchor="middle", color=_MUTED))
    return parts


def _bar(x: float, y: float, share: float, color: str, text: str, layer: LayerComparison) -> str:
    """One bar with its figure; the layer's other figures show up when the pointer rests on it."""
    length = _PANEL_WIDTH * min(1.0, max(0.0, share))
    inside = length > _PANEL_WIDTH * 0.82
    label = _text(x + length + (-6 if inside else 6), y + 17, text, anchor="end" if inside else "start",
                  color="#ffffff" if inside else _INK)
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
    colors = [_BAD if layer.snr_db < least_snr else _GOOD for layer in layers]
    left.barh(names, [min(_TOP_SNR, max(0.0, layer.snr_db)) for layer in layers], color=colors)
    left.axvline(least_snr, color=_BAD, linestyle="--", linewidth=1)
    left.set_xlabel("signal to noise, dB")
    left.set_xlim(0, _TOP_SNR)
    left.invert_yaxis()
    right.barh(names, [max(_relative_error(layer), 1e-9) for layer in layers], color=colors)
    right.set_xscale("log")
    right.set_xlim(*(10.0**decade for decade in _decades(layers)))
    right.set_xlabel("error relative to the layer's peak (greatest)")
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
