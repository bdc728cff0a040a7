"""Pieces of the SVG pictures: one font, one set of colours that also people with colour blindness tell apart.

Start at `document`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

GOOD, BAD, MUTED, GRID, INK = "#2a78b5", "#c8453b", "#6b7280", "#e3e6ea", "#1d2733"


def document(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A whole picture on white, with its title at the top left."""
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="12" role="img" '
            f'aria-label="{html.escape(title)}">')
    return "\n".join([head, f'<rect width="100%" height="100%" fill="#ffffff"/>{text(14, 22, title, size=15)}', *parts,
                      "</svg>", ""])


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, color: str = INK) -> str:
    """A line of text; ``anchor`` is start, middle or end."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">'
            f'{html.escape(words)}</text>')


def line(start: tuple[float, float], end: tuple[float, float], *, color: str = GRID, dashed: bool = False) -> str:
    """A straight line."""
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return (f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
            f'stroke="{color}"{dashes}/>')
