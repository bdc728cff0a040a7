"""Hits, the confusion matrix, and how they are shown."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from ai8x.training.board import Board, draw_confusion
from ai8x.training.metrics import Meter, format_confusion
from ai8x.training.progress import Reporter, StepReport


def step_report(step, num_steps=4, show_top5=True):
    figures = (("Top1", 90.0), *((("Top5", 99.0),) if show_top5 else ()))
    return StepReport(epoch=2, step=step, num_steps=num_steps, loss=0.5, figures=figures, learning_rate=0.001,
                      seconds=0.25, phase="qat")


def test_meter_counts_over_batches():
    meter = Meter(3)
    meter.add(1.0, torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 2]))
    meter.add(4.0, torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([2]))
    result = meter.result()
    assert result.count == 3 and result.loss == pytest.approx(2.0) and result.top1 == pytest.approx(200 / 3)
    assert result.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert result.top5 == 100.0


def test_top5_looks_at_the_five_best():
    outputs = torch.arange(8.0).repeat(2, 1)
    meter = Meter(8)
    meter.add(0.0, outputs, torch.tensor([3, 2]))
    assert (meter.result().top1, meter.result().top5) == (0.0, 50.0)


def test_meter_goes_on_from_its_state():
    first, second = Meter(2), Meter(2)
    first.add(0.3, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    second.load_state(first.state())
    assert second.result().loss == first.result().loss
    assert np.array_equal(second.result().confusion, first.result().confusion)


def test_empty_meter_has_no_accuracy():
    assert Meter(2).result().top1 == 0.0


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_top5_is_told_with_more_than_five_classes(classes, shown):
    assert ("Top5" in Meter(classes).result().summary()) is shown


def test_confusion_text_is_aligned():
    text = format_confusion(np.array([[10, 0], [2, 300]]), ("cat", "dog"))
    assert text == "     cat dog\n cat  10   0\n dog   2 300"


def test_confusion_picture_is_blue_where_the_class_is_right_and_orange_elsewhere():
    picture = draw_confusion(np.array([[5, 0], [5, 5]]), ("a", "b")).astype(int)
    colours = [tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()]
    assert (28, 84, 158) in colours  # all of class a
    half = (255 + 28) // 2
    assert any(abs(colour[0] - half) < 2 and colour[2] > colour[0] for colour in colours)  # half of class b
    assert any(colour[0] - colour[2] > 100 for colour in colours)  # the other half


@pytest.mark.parametrize("labels", [("a", "b"), ("a name much wider", "b")])
def test_confusion_picture_has_room_for_its_names(labels):
    picture = draw_confusion(np.diag([5, 5]), labels)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert np.all(edge == 255)  # nothing is cut off


def test_confusion_picture_of_many_classes_has_no_labels():
    assert draw_confusion(np.eye(100, dtype=np.int64), tuple("x" * 100)).shape == (800, 800, 3)


def test_board_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = Board(None)
    board.scalars("A", {"b": 1.0}, 0)
    board.confusion(np.eye(2, dtype=np.int64), ("a", "b"), epoch=0, tag="T")
    board.histograms(torch.nn.Linear(1, 1), 0)
    board.close()
    assert not list(tmp_path.iterdir())


def test_board_writes_what_tensorboard_reads(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Board(tmp_path)
    board.scalars("Performance/Validation", {"Top1": 98.5}, 3)
    board.confusion(np.eye(2, dtype=np.int64), ("a", "b"), epoch=3, tag="Test")
    board.histograms(torch.nn.Linear(2, 2), 3)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (point,) = events.Scalars("Performance/Validation/Top1")
    assert (point.step, point.value) == (3, 98.5)
    expected = draw_confusion(np.eye(2, dtype=np.int64), ("a", "b")).shape
    image = events.Images("Confusion/Test")[0]
    assert (image.height, image.width, 3) == expected
    assert set(events.Tags()["histograms"]) == {"Parameters/weight", "Parameters/bias"}


def test_plain_output_has_the_lines_that_scripts_look_for(tmp_path):
    output = io.StringIO()
    with Reporter(tmp_path / "log.txt", Console(file=output, soft_wrap=True)) as reporter:
        reporter.start_progress(4, 0)
        for step in range(1, 5):
            reporter.step(step_report(step), print_freq=3)
        reporter.line("[bold] is no markup")
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("Epoch: [2][    3/    4]    Overall Loss 0.500000    Objective Loss 0.500000    "
                               "Top1 90.000000    Top5 99.000000    LR 0.001000    Time 0.250000")
    assert lines[1].startswith("Epoch: [2][    4/    4]") and lines[2] == "[bold] is no markup" and len(lines) == 3
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == lines


def test_terminal_shows_progress_and_the_log_stays_plain(tmp_path):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    with Reporter(tmp_path / "log.txt", console) as reporter:
        reporter.start_progress(4, 1)
        for step in range(2, 5):
            reporter.step(step_report(step), print_freq=4)
    assert "epoch 2 qat" in output.getvalue() and "4/4" in output.getvalue()
    log = (tmp_path / "log.txt").read_text()
    assert "Epoch: [2][    4/    4]" in log and "\x1b" not in log and len(log.splitlines()) == 1


def test_few_classes_leave_top5_out():
    assert "Top5" not in step_report(1, show_top5=False).line()
