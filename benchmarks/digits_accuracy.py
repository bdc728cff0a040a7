"""Accuracy of digitsnet on the data set digits at several weight widths, over several seeds.

Every run is ``train.py`` with its defaults and ``--qat-start 40``; only the policy and the seed change. The table shows
means over the seeds: what the test part gives in float and in the chip's integers, what the switch to
quantisation-aware training costs at once, and whether every test digit gets the same scores from both.

Run: python benchmarks/digits_accuracy.py [--policies 8 4 mixed] [--seeds 5] [--jobs 1]

Source: docs/training.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

QAT_START = 40
POLICIES = {
    "8": "start_epoch: 40\nweight_bits: 8\n",
    "4": "start_epoch: 40\nweight_bits: 4\n",
    "mixed": (Path(__file__).resolve().parents[1] / "policies" / "qat_policy_digits_2bit.yaml").read_text("utf-8"),
    "2": "start_epoch: 40\nweight_bits: 2\nshift_quantile: 0.99\n",
    "1": "start_epoch: 40\nweight_bits: 1\nshift_quantile: 0.99\n",
}
"""What ``--policies`` names: a width for all layers, or the bundled mixture of 8, 4 and 2 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run, in per cent of the samples of a part.

    Args:
        policy: name in `POLICIES`.
        seed: of the run.
        last_float: validation accuracy of the last float epoch.
        first_qat: validation accuracy of the first quantisation-aware one.
        float_test: test accuracy of the best float epoch.
        integer_test: test accuracy of the quantised file.
        same_scores: test digits whose scores are the same in training and in integers.
    """

    policy: str
    seed: int
    last_float: float
    first_qat: float
    float_test: float
    integer_test: float
    same_scores: int

    @property
    def loss_at_switch(self) -> float:
        """Points that the first quantisation-aware epoch lost."""
        return self.last_float - self.first_qat


def train_once(policy: str, seed: int) -> Result:
    """One run in a folder that is removed afterwards."""
    import torch

    from ai8x.training.session import start_training

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        file = Path(folder) / "policy.yaml"
        file.write_text(POLICIES[policy], encoding="utf-8")
        result = start_training({"qat_policy": str(file), "qat_start": QAT_START, "seed": seed, "cpu": True,
                                 "tensorboard": False, "out_dir": folder})
        with (Path(result["run"]) / "metrics.csv").open(encoding="utf-8") as stream:
            epochs = {int(row["epoch"]): float(row["validation_top1"]) for row in csv.DictReader(stream)}
        same = count_same_scores(Path(result["checkpoints"]["qat_best"]))
    accuracy: dict[str, Any] = result["accuracy"]
    return Result(policy=policy, seed=seed, last_float=epochs[QAT_START - 1], first_qat=epochs[QAT_START],
                  float_test=accuracy["float"]["test"], integer_test=accuracy["integer"]["test"], same_scores=same)


def count_same_scores(file: Path) -> int:
    """Test digits whose scores from quantisation-aware training equal those of the integers, bit for bit."""
    import torch

    from ai8x.checkpoint import read_checkpoint
    from ai8x.nn.base import OutputScale, set_output_scale
    from ai8x.nn.loading import load_state
    from ai8x.quantization import quantize_state
    from ai8x.training.data import BatchPlan, LoaderArguments
    from ai8x.training.digits import DIGITS
    from models.digitsnet import digitsnet

    state = read_checkpoint(file).tensors()
    scores = []
    for integer in (False, True):
        model = digitsnet()
        load_state(model, quantize_state(state) if integer else state)
        set_output_scale(model, OutputScale.REAL)
        test = DIGITS.loader(LoaderArguments(act_mode_8bit=integer)).test
        inputs, _ = next(test.batches(BatchPlan(batch_size=len(test))))
        with torch.no_grad():
            scores.append(model.eval()(inputs).double())
    return int((scores[0] == scores[1]).all(dim=1).sum())


def format_table(results: Iterable[Result]) -> list[str]:
    """A Markdown table, one line a policy, in the order of `POLICIES`."""
    lines = ["| Weights | Float test % | Integer test % | least .. greatest | Lost at the switch | Same scores |",
             "|---|--:|--:|--:|--:|--:|"]
    found = list(results)
    for policy in POLICIES:
        rows = [row for row in found if row.policy == policy]
        if rows:
            integers = [row.integer_test for row in rows]
            lines.append(
                f"| {'8, 2 and 4 bits' if policy == 'mixed' else policy + (' bit' if policy == '1' else ' bits')} "
                f"| {statistics.fmean(row.float_test for row in rows):.2f} "
                f"| {statistics.fmean(integers):.2f} | {min(integers):.2f} .. {max(integers):.2f} "
                f"| {statistics.fmean(row.loss_at_switch for row in rows):.2f} "
                f"| {min(row.same_scores for row in rows)} of 360 |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=["8", "4", "mixed"])
    parser.add_argument("--seeds", type=int, default=5, help="runs of every policy (default 5)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    arguments = parser.parse_args(argv)
    results = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(train_once, policy, seed) for policy in arguments.policies
                   for seed in range(arguments.seeds)]
        for future in futures:
            results.append(future.result())
            print(results[-1], file=sys.stderr, flush=True)
    print("\n".join(format_table(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
