"""Two views of a finished model for TensorBoard: the projector, and precision against recall.

Source: spec/ai8x-training.md section 12 (``--embedding``, ``--pr-curves``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ai8x.training.board import Board
from ai8x.training.data import BatchPlan, Samples
from ai8x.training.objectives import ClassificationObjective, Objective

MAX_POINTS = 100


def _outputs(model: nn.Module, samples: Samples, objective: Objective, count: int) -> tuple[Tensor, Tensor]:
    """Outputs and classes of the first samples; (0, 0) tensors where the model does not classify whole samples."""
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for inputs, targets in samples.batches(BatchPlan(batch_size=MAX_POINTS)):
            outputs = model(inputs.to(objective.device))
            if not isinstance(outputs, Tensor) or outputs.dim() != 2 or not isinstance(targets, Tensor):
                return torch.zeros(0, 0), torch.zeros(0)
            found.append((outputs.cpu(), targets))
            if sum(len(entry[1]) for entry in found) >= count:
                break
    return torch.cat([o for o, _ in found])[:count], torch.cat([t for _, t in found])[:count]


def draw_embedding(board: Board, model: nn.Module, samples: Samples, objective: Objective) -> None:
    """Outputs of up to 100 test items for the projector, with their classes."""
    outputs, targets = _outputs(model, samples, objective, MAX_POINTS)
    if len(outputs):
        board.embedding(outputs, [str(t) for t in targets.tolist()])


def draw_precision_recall(board: Board, model: nn.Module, samples: Samples, objective: Objective,
                          labels: tuple[str, ...]) -> None:
    """A precision-recall curve for every class, over the whole test part."""
    if not isinstance(objective, ClassificationObjective):
        return
    outputs, targets = _outputs(model, samples, objective, len(samples))
    for number, label in enumerate(labels if len(outputs) else ()):
        board.precision_recall(label, targets == number, outputs.softmax(dim=1)[:, number])
