"""The end of a run: the best checkpoint of each phase on the test part, in float, QAT and integers, and the reports.

Start at `finish_run`.

Source: spec/ai8x-training.md section 14; docs/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ai8x.files import write_json
from ai8x.nn.loading import load_state
from ai8x.quantization import quantize_state
from ai8x.training.board_extras import draw_embedding, draw_precision_recall
from ai8x.training.checkpoints import TrainingCheckpoint
from ai8x.training.data import BatchPlan
from ai8x.training.evaluation import describe, evaluate_state, load_parts
from ai8x.training.metrics import Evaluation, format_confusion
from ai8x.training.pruning import fit_layers
from ai8x.training.qat_report import format_report, layer_rows
from ai8x.training.registry import ModelSpec, create_model
from ai8x.training.run import BEST, LAST
from ai8x.training.trainer import Output, Task

REPORT_NAME = "qat_report.json"
_REPORT_SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What the end of a run works on.

    Args:
        task: that was learnt.
        spec: record of the model.
    """

    task: Task
    spec: ModelSpec


def finish_run(finish: Finish, output: Output) -> dict[str, Any]:
    """Test the best checkpoint of each phase, and the quantised one with integers as well.

    Returns:
        Figures for the JSON line.
    """
    task, config = finish.task, finish.task.config
    accuracy: dict[str, Any] = {}
    checkpoints: dict[str, str] = {}
    for qat in (False, True):
        file = output.run.checkpoint(BEST, qat=qat)
        if file.is_file():
            name = "qat" if qat else "float"
            saved = TrainingCheckpoint.read(file)
            result = _test_phase(finish, saved, file, output)
            accuracy[name] = _figures(saved, result)
            prefix = "qat_" if qat else ""
            checkpoints[f"{prefix}best"] = str(file)
            checkpoints[f"{prefix}checkpoint"] = str(output.run.checkpoint(LAST, qat=qat))
    if "qat" in accuracy:
        accuracy["integer"] = {"test": _main(_test_integers(finish, output))}
        _report_layers(finish, output, accuracy)
    return {"status": "finished", "run": str(output.run.path), "arch": config.arch, "dataset": config.dataset,
            "epochs": config.epochs, "seed": config.seed, "metric": task.objective.meter(training=False).result(
            ).main[0], "checkpoints": checkpoints, "accuracy": accuracy}


def _main(result: Evaluation) -> float:
    """The figure that decides, rounded for the JSON line."""
    return float(describe(result)[result.main[0]])


def _figures(saved: TrainingCheckpoint, result: Evaluation) -> dict[str, Any]:
    score = saved.history[-1]  # the best copy is written when its own epoch is the best
    validation = next(iter(score["figures"].values()), 0.0)
    return {"epoch": score["epoch"], "validation": round(validation, 4), "test": _main(result)}


def _test_phase(finish: Finish, saved: TrainingCheckpoint, file: Path, output: Output) -> Evaluation:
    task, reporter = finish.task, output.reporter
    phase = "qat" if saved.is_quantized else "float"
    result = _evaluate(finish, saved.state, integer=False)
    reporter.line(f"--- test ---------------------  {phase}, {file.name} of epoch {saved.history[-1]['epoch']}")
    reporter.line(result.summary())
    last = task.config.epochs - 1
    if result.is_picture_worthy:
        if task.config.confusion:
            reporter.line("==> Confusion:\n" + format_confusion(result.confusion, task.data.labels))
        output.board.confusion(result.confusion, task.data.labels, epoch=last, tag=f"Test {phase}")
    output.board.scalars("Performance/Test", {f"{name} {phase}": value for name, value in result.shown()[:1]}, last)
    _draw_extras(finish, saved, output)
    return result


def _draw_extras(finish: Finish, saved: TrainingCheckpoint, output: Output) -> None:
    config = finish.task.config
    if config.embedding or config.pr_curves:
        model = _model_of(finish, saved.state)
        if config.embedding:
            draw_embedding(output.board, model, finish.task.parts.test, finish.task.objective)
        if config.pr_curves:
            draw_precision_recall(output.board, model, finish.task.parts.test, finish.task.objective,
                                  finish.task.data.labels)


def _test_integers(finish: Finish, output: Output) -> Evaluation:
    saved = TrainingCheckpoint.read(output.run.checkpoint(BEST, qat=True))
    result = _evaluate(finish, quantize_state(saved.state), integer=True)
    output.reporter.line("--- test ---------------------  integer, as quantize.py makes it of qat_best")
    output.reporter.line(result.summary())
    output.board.scalars("Performance/Test", {f"{name} integer": value for name, value in result.shown()[:1]},
                         finish.task.config.epochs - 1)
    return result


def _evaluate(finish: Finish, state: Mapping[str, Tensor], *, integer: bool) -> Evaluation:
    task = finish.task
    parts = load_parts(task.data, task.config, integer=True) if integer else task.parts
    model = create_model(finish.spec, task.data, task.config)
    return evaluate_state(model, state, parts.test, task.objective)


def _model_of(finish: Finish, state: Mapping[str, Tensor]) -> nn.Module:
    """A new model with a state, for evaluation."""
    model = create_model(finish.spec, finish.task.data, finish.task.config)
    fit_layers(model, state)
    load_state(model, state)
    return model.to(finish.task.objective.device).eval()


def _report_layers(finish: Finish, output: Output, accuracy: Mapping[str, Any]) -> None:
    """The table of all layers, in the log and as a file."""
    saved = TrainingCheckpoint.read(output.run.checkpoint(BEST, qat=True))
    model = _model_of(finish, saved.state)
    samples = finish.task.parts.test
    inputs, _ = next(iter(samples.batches(BatchPlan(batch_size=min(_REPORT_SAMPLES, len(samples))))))
    rows = layer_rows(model, inputs.to(finish.task.objective.device))
    tested = {name: entry["test"] for name, entry in accuracy.items()}
    _write_report(output, rows, tested, len(inputs))
    for line in format_report(rows, tested):
        output.reporter.line(line)


def _write_report(output: Output, rows: list[dict[str, Any]], tested: Mapping[str, float], count: int) -> None:
    write_json(output.run.path / REPORT_NAME, {"samples": count, "test": dict(tested), "layers": rows})
