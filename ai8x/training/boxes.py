"""Boxes of objects: forms, overlap, default boxes, and what a single-shot detector shows.

Boxes are float tensors (..., 4) as shares of the image: corners (left, top, right, bottom) or centre form (centre x,
centre y, width, height). Start at `detect_objects`.

Source: spec/ai8x-training.md section 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CENTRE_GAIN, SIZE_GAIN = 10.0, 5.0
"""Offsets are scaled so that centre and size weigh alike in the loss."""
_TINY = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """Objects found in one image, best first.

    Args:
        boxes: corners, (M, 4).
        labels: classes from 1, int64 (M,).
        scores: probabilities, (M,).
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def corners_of(centred: Tensor) -> Tensor:
    """Centre form to corners."""
    half = centred[..., 2:] / 2
    return torch.cat((centred[..., :2] - half, centred[..., :2] + half), dim=-1)


def centres_of(corners: Tensor) -> Tensor:
    """Corners to centre form."""
    return torch.cat(((corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]), dim=-1)


def encode_boxes(centred: Tensor, priors: Tensor) -> Tensor:
    """Offsets that a network learns, from boxes and their default boxes, both in centre form."""
    centre = (centred[..., :2] - priors[..., :2]) / (priors[..., 2:] / CENTRE_GAIN)
    size = SIZE_GAIN * torch.log(centred[..., 2:] / priors[..., 2:] + _TINY)
    return torch.cat((centre, size), dim=-1)


def decode_boxes(offsets: Tensor, priors: Tensor) -> Tensor:
    """Inverse of `encode_boxes`."""
    centre = offsets[..., :2] * (priors[..., 2:] / CENTRE_GAIN) + priors[..., :2]
    return torch.cat((centre, torch.exp(offsets[..., 2:] / SIZE_GAIN) * priors[..., 2:]), dim=-1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Shapes:
        corners (A, 4) and (B, 4); returns (A, B).
    """
    lower = torch.maximum(first[:, None, :2], second[None, :, :2])
    upper = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (upper - lower).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared).clamp(min=_TINY)


def prior_boxes(maps: Sequence[int], heights: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Default boxes in centre form: maps in order, places by row and column, one box a ratio.

    Args:
        maps: rows (and columns) of every map.
        heights: of the boxes of every map.
        ratios: width over height.

    Shapes:
        returns (sum of maps squared * ratios, 4).
    """
    boxes = [(((column + 0.5) / size), ((row + 0.5) / size), height * ratio, height)
             for size, height in zip(maps, heights, strict=True)
             for row in range(size) for column in range(size) for ratio in ratios]
    return torch.tensor(boxes, dtype=torch.float32)


def suppress(boxes: Tensor, scores: Tensor, max_overlap: float) -> Tensor:
    """Numbers of the boxes that no better one overlaps by more than ``max_overlap``, best first.

    Args:
        boxes: corners, (M, 4).
        scores: (M,).
        max_overlap: intersection over union.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    shared = (overlap(boxes[order], boxes[order]) > max_overlap).cpu()  # read one by one
    kept: list[int] = []
    for place in range(len(order)):
        if not any(bool(shared[place, other]) for other in kept):
            kept.append(place)
    return order[kept]


def detect_objects(offsets: Tensor, scores: Tensor, priors: Tensor, *, min_score: float, max_overlap: float,
                   top_k: int) -> list[Detections]:
    """The objects that a detector's outputs show.

    Args:
        offsets: of every default box.
        scores: of every class, before the softmax; class 0 is the background.
        priors: default boxes in centre form.
        min_score: least probability.
        max_overlap: of two objects of one class.
        top_k: most objects of an image.

    Shapes:
        offsets (N, P, 4), scores (N, P, classes), priors (P, 4).
    """
    chances = scores.softmax(dim=2)
    found = []
    for image in range(offsets.shape[0]):
        boxes = corners_of(decode_boxes(offsets[image], priors))
        found.append(_of_one_image(boxes, chances[image], min_score, max_overlap, top_k))
    return found


def _of_one_image(boxes: Tensor, chances: Tensor, min_score: float, max_overlap: float, top_k: int) -> Detections:
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for label in range(1, chances.shape[1]):
        numbers = torch.nonzero(chances[:, label] > min_score).flatten()
        if len(numbers):
            best = torch.topk(chances[numbers, label], min(top_k, len(numbers))).indices
            numbers = numbers[best]
            numbers = numbers[suppress(boxes[numbers], chances[numbers, label], max_overlap)]
            kept.append((boxes[numbers], torch.full((len(numbers),), label), chances[numbers, label].cpu()))
    if not kept:
        return Detections(boxes=boxes.new_zeros((0, 4)).cpu(), labels=torch.zeros(0, dtype=torch.int64),
                          scores=boxes.new_zeros(0).cpu())
    all_boxes, labels, scores = (torch.cat([entry[i].cpu() for entry in kept]) for i in range(3))
    order = torch.argsort(scores, descending=True, stable=True)[:top_k]
    return Detections(boxes=all_boxes[order].clamp(0, 1), labels=labels[order], scores=scores[order])
