"""The page in a real browser: no complaint on the console, nothing wider than the screen, text that can be read.

The page forbids scripts, so a wrapper measures it from outside: the report stands in frames of the widths of a desktop
and of a phone, as ``srcdoc``, which shares the wrapper's origin.
"""

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ai8x.report import Report
from ai8x.report_html import render_html
from tests.reports import branching_report, digits_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

WIDTHS = (1280, 390)
DARK = ("--blink-settings=preferredColorScheme=0",)
LEAST_CONTRAST = 4.5
REPORTS: Mapping[str, Callable[[], Report]] = {"digits": digits_report, "branching": branching_report}

MEASURE = """
function rgb(text) {
  const parts = text.match(/[\\d.]+/g).map(Number);
  return {r: parts[0], g: parts[1], b: parts[2], a: parts.length > 3 ? parts[3] : 1};
}
function luminance(c) {
  const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  return 0.2126 * f(c.r) + 0.7152 * f(c.g) + 0.0722 * f(c.b);
}
function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}
function background(view, element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgb(view.getComputedStyle(at).backgroundColor);
    if (colour.a > 0) return colour;
  }
  return rgb("255, 255, 255");
}
function measure(frame) {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const found = {
    scroll: root.scrollWidth, client: root.clientWidth, body: page.body.scrollWidth,
    tables: page.querySelectorAll("table").length, drawings: page.querySelectorAll("svg").length,
    nodes: page.querySelectorAll("svg a[href^='#layer-']").length, wide: [], pale: [], hidden: [],
    page: view.getComputedStyle(page.body).backgroundColor,
  };
  for (const element of page.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect();
    if (box.right > root.clientWidth + 1 && !element.closest(".scroll") && !element.closest(".skip"))
      found.wide.push(element.tagName + " " + element.className + " " + Math.round(box.right));
    if (element.closest("svg") || !box.width) continue;
    if ([...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) {
      const ratio = contrast(rgb(view.getComputedStyle(element).color), background(view, element));
      if (ratio < LEAST) found.pale.push(element.tagName + " " + element.textContent.slice(0, 30) + " " + ratio);
    }
  }
  for (const box of page.querySelectorAll(".scroll"))
    if (box.scrollWidth > box.clientWidth && view.getComputedStyle(box).overflowX !== "auto")
      found.hidden.push(box.getAttribute("aria-label"));
  return found;
}
window.addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.getElementById("found").textContent = JSON.stringify(frames.map(measure));
});
"""


def browse(folder: Path, address: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the browser without a screen."""
    assert CHROMIUM is not None
    return subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--enable-logging=stderr", "--v=0",
         *options, address.as_uri()],
        capture_output=True, text=True, timeout=120, check=True)


@cache
def measured(name: str, *, dark: bool) -> tuple[dict[str, Any], ...]:
    """What the wrapper found, one record for each width."""
    page = html.escape(render_html(REPORTS[name]()), quote=True)
    frames = "".join(f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>'
                     for width in WIDTHS)
    script = MEASURE.replace("LEAST", str(LEAST_CONTRAST))
    with tempfile.TemporaryDirectory(prefix="ai8x-test-browser-") as folder:
        wrapper = Path(folder) / "wrapper.html"
        wrapper.write_text(f'<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
                           f'<body style="margin:0">{frames}<pre id="found"></pre><script>{script}</script></body>')
        output = browse(Path(folder), wrapper, "--dump-dom", *(DARK if dark else ())).stdout
    match = re.search(r'<pre id="found">(.*?)</pre>', output, re.DOTALL)
    assert match, output[-2000:]
    return tuple(json.loads(html.unescape(match.group(1))))


def console_lines(output: str) -> list[str]:
    """What a page complained about."""
    return [line for line in output.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize("name", REPORTS)
def test_the_browser_has_nothing_to_complain_about(name: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html(REPORTS[name]()))
    assert not console_lines(browse(tmp_path, page, "--dump-dom").stderr)


def test_complaints_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html(branching_report()).replace("<main", "<script>1</script><main"))
    assert console_lines(browse(tmp_path, page, "--dump-dom").stderr), "the page's policy forbids scripts"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", REPORTS)
def test_the_page_fits_desktop_and_phone(name: str, dark: bool) -> None:
    for width, found in zip(WIDTHS, measured(name, dark=dark), strict=True):
        assert found["client"] >= width - 20
        assert found["scroll"] <= found["client"], f"{width}: {found['wide']}"
        assert not found["wide"]
        assert not found["hidden"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", REPORTS)
def test_all_text_of_the_page_can_be_read(name: str, dark: bool) -> None:
    for found in measured(name, dark=dark):
        assert not found["pale"]


@pytest.mark.parametrize("name", REPORTS)
def test_everything_is_there(name: str) -> None:
    report = REPORTS[name]()
    for found in measured(name, dark=False):
        assert found["nodes"] == len(report.layers)
        assert found["tables"] >= 4
        assert found["drawings"] >= 3


def test_the_schemes_differ() -> None:
    light, dark = (measured("branching", dark=dark)[0]["page"] for dark in (False, True))
    assert light != dark
