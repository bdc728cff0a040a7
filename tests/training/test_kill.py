"""A killed run ends with the same bits; more kills: python -m tests.training.kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.kill import differences

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("kinds", "processes"), [(("FILE", "SWITCH"), 1), (("SWITCH",), 2)])
def test_runs_killed_in_any_line_end_with_the_same_bits(kinds, processes):
    command = [sys.executable, "-m", "tests.training.kill", "--kills", str(len(kinds)), "--variants", "1",
               "--seed", "5", "--processes", str(processes), "--kinds", *kinds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("; ")[1] for line in lines[:-1]] == ["same bits"] * len(kinds)
    assert all("killed" in line for line in lines[:-1])


def test_a_difference_of_one_bit_is_found():
    weights = {"conv": torch.tensor([1.0, 2.0])}
    other = {"conv": torch.tensor([1.0, 2.0000002])}
    assert differences({"a": weights, "metrics.csv": "1"}, {"a": weights, "metrics.csv": "1"}) == []
    assert differences({"a": weights}, {"a": other}) == ["a"]
    assert differences({"a": weights, "metrics.csv": "1"}, {"metrics.csv": "2"}) == ["a", "metrics.csv"]
