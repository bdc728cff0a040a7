"""Boxes, the multi-box loss and the mean average precision against values worked out by hand."""

import math

import pytest
import torch

from ai8x.errors import UserError
from ai8x.training.boxes import (
    Detections,
    centres_of,
    corners_of,
    decode_boxes,
    detect_objects,
    encode_boxes,
    overlap,
    prior_boxes,
    suppress,
)
from ai8x.training.detection import (
    DetectionMeter,
    DetectionParameters,
    MultiBoxLoss,
    match_priors,
    mean_average_precision,
    read_detection_parameters,
)

PRIORS = prior_boxes((2,), (0.5,), (1.0,))


def found(boxes, labels, scores):
    return Detections(boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels),
                      scores=torch.tensor(scores))


def wanted(boxes, labels):
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels)


def test_default_boxes_lie_in_the_middle_of_their_places():
    assert PRIORS.tolist() == [[0.25, 0.25, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5],
                               [0.75, 0.75, 0.5, 0.5]]
    assert prior_boxes((18, 9, 4, 2), (0.25, 0.4, 0.6, 0.8), (0.3, 0.5, 0.75, 1.0)).shape == (1700, 4)


def test_forms_of_boxes_are_inverse():
    boxes = torch.rand(20, 4) * 0.4 + 0.1
    assert torch.allclose(centres_of(corners_of(boxes)), boxes, atol=1e-6)
    priors = torch.rand(20, 4) * 0.4 + 0.1
    assert torch.allclose(decode_boxes(encode_boxes(boxes, priors), priors), boxes, atol=1e-5)


def test_offsets_are_those_of_the_specification():
    offsets = encode_boxes(torch.tensor([[0.35, 0.25, 1.0, 0.25]]), PRIORS[:1])
    assert torch.allclose(offsets, torch.tensor([[2.0, 0.0, 5 * math.log(2), -5 * math.log(2)]]), atol=1e-5)


def test_overlap_is_intersection_over_union():
    first = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
    second = torch.tensor([[0.25, 0.0, 0.75, 0.5], [0.9, 0.9, 1.0, 1.0]])
    assert torch.allclose(overlap(first, second), torch.tensor([[1 / 3, 0.0], [0.25, 0.01]]), atol=1e-6)


def test_every_object_keeps_its_best_default_box():
    small = torch.tensor([[0.2, 0.2, 0.3, 0.3], [0.5, 0.5, 1.0, 1.0]])
    classes, offsets = match_priors(small, torch.tensor([4, 9]), PRIORS)
    assert classes.tolist() == [4, 0, 0, 9]
    assert torch.allclose(offsets[3], torch.zeros(4), atol=1e-5)
    assert match_priors(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), PRIORS)[0].tolist() == [0] * 4


def test_loss_counts_the_matched_and_the_hardest_boxes():
    scores = torch.zeros(1, 4, 3)
    scores[0, 1, 0] = 3.0  # an easy background box
    offsets = torch.zeros(1, 4, 4)
    offsets[0, 3] = 0.5
    targets = [torch.tensor([[0.5, 0.5, 1.0, 1.0]])], [torch.tensor([2])]
    loss = MultiBoxLoss(PRIORS, DetectionParameters(alpha=2.0, neg_pos_ratio=2.0))(offsets, scores, targets)
    assert float(loss) == pytest.approx(3 * math.log(3) + 2 * 0.125, abs=1e-4)
    nothing = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    loss = MultiBoxLoss(PRIORS, DetectionParameters())(offsets, torch.zeros(1, 4, 3), nothing)
    assert float(loss) == pytest.approx(math.log(3))


def test_worse_boxes_at_the_same_place_are_suppressed():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.05, 0.0, 0.55, 0.5], [0.6, 0.6, 1.0, 1.0]])
    assert suppress(boxes, torch.tensor([0.6, 0.9, 0.5]), 0.3).tolist() == [1, 2]


def test_objects_are_found_in_outputs():
    scores = torch.zeros(1, 4, 3)
    scores[0, :, 0] = 8.0
    scores[0, 3] = torch.tensor([0.0, 0.0, 6.0])
    (detections,) = detect_objects(torch.zeros(1, 4, 4), scores, PRIORS, min_score=0.2, max_overlap=0.3, top_k=5)
    assert detections.labels.tolist() == [2] and float(detections.scores[0]) > 0.9
    assert torch.allclose(detections.boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]), atol=1e-6)
    (none,) = detect_objects(torch.zeros(1, 4, 4), scores, PRIORS, min_score=0.999, max_overlap=0.3, top_k=5)
    assert len(none.labels) == 0 and none.boxes.shape == (0, 4)


def test_precision_of_a_worked_example():
    here, there = [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]
    images = [found([here, there, here], [1, 1, 1], [0.9, 0.8, 0.7]), found([there], [1], [0.6])]
    objects = [wanted([here], [1]), wanted([there], [1])]
    # in order of the scores: right, wrong, double (wrong), right: precision 1 up to recall 1/2, then 1/2
    assert mean_average_precision(images, objects, 3) == pytest.approx(0.75)
    assert mean_average_precision([found([], [], [])], [wanted([here], [2])], 3) == 0.0
    assert mean_average_precision([found([], [], [])], [wanted([], [])], 3) == 0.0


def test_classes_count_alike():
    here = [0.0, 0.0, 0.5, 0.5]
    images = [found([here, here], [1, 2], [0.9, 0.9])]
    objects = [wanted([here, [0.6, 0.6, 0.9, 0.9]], [1, 2])]
    meter = DetectionMeter(3)
    meter.add(0.5, images, ([objects[0][0]], [objects[0][1]]))
    result = meter.result()
    assert result.figures == {"map": pytest.approx(50.0)} and result.loss == 0.5
    assert result.rank() == (pytest.approx(50.0), -0.5)


def test_parameters_are_read_and_checked(tmp_path):
    path = tmp_path / "ssd.yaml"
    path.write_text("multi_box_loss: {alpha: 2, neg_pos_ratio: 3}\nnms: {min_score: 0.75, max_overlap: 0.3, top_k: 20}")
    assert read_detection_parameters(path) == DetectionParameters(alpha=2, neg_pos_ratio=3, min_score=0.75,
                                                                  max_overlap=0.3, top_k=20)
    path.write_text("multi_box_loss: {alpha: x, beta: 1}\nnms: {min_score: 0.75, max_overlap: 0.3, top_k: 20}")
    with pytest.raises(UserError) as error:
        read_detection_parameters(path)
    assert [finding.code for finding in error.value.diagnostics] == ["E0630"] * 3
