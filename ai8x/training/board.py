"""TensorBoard files of a run: curves, the confusion matrix as a picture, histograms of the weights.

TensorBoard is imported only when a run starts. The picture is drawn with Pillow, which torchvision and TensorBoard
bring along. Start at `Board`.

Source: spec/ai8x-training.md section 14 (group names).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from torch import Tensor, nn
    from torch.utils.tensorboard import SummaryWriter

_CELL, _SMALL_CELL = 38, 8
_MAX_LABELLED = 40
_LABEL_LETTERS = 14
_TITLE_HEIGHT = 58
_RIGHT, _WRONG = (28, 84, 158), (208, 110, 20)
_LINES = (214, 218, 224)


class Board:
    """Writes TensorBoard files, or nothing.

    Args:
        folder: where to write; None switches everything off.
        first_step: events of later epochs that a killed run left are hidden.
    """

    def __init__(self, folder: Path | None, *, first_step: int = 0) -> None:
        self._writer: SummaryWriter | None = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def scalars(self, group: str, values: Mapping[str, float], epoch: int) -> None:
        """Points of several curves, e.g. ``Performance/Validation/Top1``."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, epoch)

    def confusion(self, confusion: NDArray[np.int64], labels: tuple[str, ...], *, epoch: int, tag: str) -> None:
        """The confusion matrix as a picture."""
        if self._writer is not None:
            picture = draw_confusion(confusion, labels)
            self._writer.add_image(f"Confusion/{tag}", picture, epoch, dataformats="HWC")

    def histograms(self, model: nn.Module, epoch: int) -> None:
        """Distribution of every trained parameter."""
        if self._writer is not None:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    self._writer.add_histogram(f"Parameters/{name}", parameter.detach().cpu(), epoch)

    def embedding(self, points: Tensor, labels: list[str]) -> None:
        """Points for the projector, (N, numbers), each with a label."""
        if self._writer is not None:
            self._writer.add_embedding(points, labels)

    def precision_recall(self, label: str, truth: Tensor, chance: Tensor) -> None:
        """The precision-recall curve of a class: whether each sample belongs to it, and how sure the model is."""
        if self._writer is not None:
            self._writer.add_pr_curve(f"PR/{label}", truth, chance)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()


def draw_confusion(confusion: NDArray[np.int64], labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """A picture of the matrix: blue = right, orange = wrong, the darker the greater the share of the true class.

    Counts and names stand in it where they fit. Small shares of mistakes are drawn stronger than they are, so that
    they can be seen.

    Args:
        confusion: rows true class, columns predicted class.
        labels: one per class.

    Shapes:
        confusion (K, K); returns (H, W, 3) uint8.
    """
    from PIL import Image, ImageDraw

    count = len(labels)
    cell = _CELL if count <= _MAX_LABELLED else _SMALL_CELL
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    grid = Image.fromarray(_confusion_colours(share).repeat(cell, axis=0).repeat(cell, axis=1))
    if count > _MAX_LABELLED:
        return np.asarray(grid)
    pen = ImageDraw.Draw(grid)
    for row in range(count):
        pen.line((0, row * cell, count * cell, row * cell), fill=_LINES)
        pen.line((row * cell, 0, row * cell, count * cell), fill=_LINES)
        for column in np.flatnonzero(confusion[row]).tolist():
            ink = "white" if share[row, column] > (0.5 if row == column else 0.25) else "black"
            pen.text((column * cell + cell // 2, row * cell + cell // 2), str(confusion[row, column]), fill=ink,
                     font=_font(13), anchor="mm")
    return np.asarray(_framed(grid, confusion, [label[:_LABEL_LETTERS] for label in labels]))


def _confusion_colours(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """White to blue on the diagonal, white to orange elsewhere, (K, K, 3)."""
    right = np.eye(len(share), dtype=bool)
    strength = np.where(right, share, np.sqrt(share))[..., None]
    full = np.where(right[..., None], np.array(_RIGHT), np.array(_WRONG))
    colours: NDArray[np.uint8] = (255 - strength * (255 - full)).round().astype(np.uint8)
    return colours


def _framed(grid: Image, confusion: NDArray[np.int64], labels: list[str]) -> Image:
    """The matrix with title, names and what the axes are."""
    from PIL import Image as Images
    from PIL import ImageDraw

    font, cell = _font(13), _CELL
    widest = max(int(font.getlength(label)) for label in labels)
    upright = widest > cell - 4  # names that are wider than a column are turned
    left, top = widest + 34, _TITLE_HEIGHT + (widest if upright else 16) + 10
    hits, total = int(np.trace(confusion)), int(confusion.sum())
    title = f"{hits} of {total} right ({100 * hits / max(total, 1):.1f} %)"
    width = max(left + grid.width + 14, int(_font(15).getlength(title)) + 24)
    picture = Images.new("RGB", (width, top + grid.height + 14), "white")
    picture.paste(grid, (left, top))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, top, left + grid.width, top + grid.height), outline=_LINES)
    pen.text((10, 8), title, fill="black", font=_font(15))
    pen.text((left + grid.width // 2, _TITLE_HEIGHT), "predicted class", fill="black", font=font, anchor="ms")
    _turned_text(picture, "true class", (8, top + grid.height // 2))
    for number, label in enumerate(labels):
        middle = number * cell + cell // 2
        pen.text((left - 6, top + middle), label, fill="black", font=font, anchor="rm")
        if upright:
            _turned_text(picture, label, (left + middle - 8, top - 6), ends=True)
        else:
            pen.text((left + middle, top - 6), label, fill="black", font=font, anchor="ms")
    return picture


def _turned_text(picture: Image, words: str, place: tuple[int, int], *, ends: bool = False) -> None:
    """Text that reads upwards, with its middle (or its start, at the bottom) at a place."""
    from PIL import Image as Images
    from PIL import ImageDraw

    font = _font(13)
    strip = Images.new("RGB", (int(font.getlength(words)) + 2, 18), "white")
    ImageDraw.Draw(strip).text((1, 9), words, fill="black", font=font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    x, y = place
    picture.paste(turned, (x, y - (turned.height if ends else turned.height // 2)))


def _font(size: int) -> FreeTypeFont:
    """Pillow's own font."""
    from PIL import ImageFont

    return cast("FreeTypeFont", ImageFont.load_default(size=size))
