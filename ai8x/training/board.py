"""TensorBoard files of a run: curves, the confusion matrix as a picture, histograms of the weights.

TensorBoard is imported only when a run starts. The picture is drawn with Pillow, which torchvision and TensorBoard
bring along. Start at `Board`.

Source: spec/ai8x-training.md section 14 (group names).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.tensorboard import SummaryWriter

_CELL = 36
_MARGIN = 64
_MAX_LABELLED = 40
_SMALL_CELL = 8


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
    """A picture of the matrix: white = 0, blue = the whole class; with counts where they fit.

    Args:
        confusion: rows true class, columns predicted class.
        labels: one per class.

    Shapes:
        confusion (K, K); returns (H, W, 3) uint8.
    """
    from PIL import Image, ImageDraw

    count = len(labels)
    labelled = count <= _MAX_LABELLED
    cell, margin = (_CELL, _MARGIN) if labelled else (_SMALL_CELL, 0)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    colours = (255 - share[..., None] * (255 - np.array([20, 70, 160]))).round().astype(np.uint8)
    picture = Image.new("RGB", (margin + count * cell, margin + count * cell), "white")
    grid = Image.fromarray(colours.repeat(cell, axis=0).repeat(cell, axis=1))
    picture.paste(grid, (margin, margin))
    if labelled:
        pen = ImageDraw.Draw(picture)
        pen.text((4, 4), "true \\ predicted", fill="black")
        for row, label in enumerate(labels):
            middle = margin + row * cell + cell // 2
            pen.text((margin - 6, middle), label[:9], fill="black", anchor="rm")
            pen.text((middle, margin - 6), label[:5], fill="black", anchor="ms")
            for column, hits in enumerate(confusion[row].tolist()):
                if hits:
                    ink = "white" if share[row, column] > 0.5 else "black"
                    pen.text((margin + column * cell + cell // 2, middle), str(hits), fill=ink, anchor="mm")
    return np.asarray(picture)
