"""The time model against published measurements; spec section 16.2."""

import subprocess
import sys
from pathlib import Path

import pytest

from ai8x.k210 import silicon
from ai8x.k210.kmodel import read_kmodel
from ai8x.k210.kmodel_layers import K210Conv

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / ".." / "shared" / "cases" / "k210"
FILES = {"MobileNet v1 0.75, 224x224": "emc_mbnetv1", "20-class YOLO, 320x240": "rc5_yolo"}


def test_every_layer_is_within_six_percent_and_all_within_two_and_a_half() -> None:
    comparisons = silicon.compare_layers()
    assert len(silicon.DETECTOR_RUNS + silicon.FURTHER_RUNS) == 26
    assert len(silicon.BENCHMARK_RUNS) == 10
    assert {str(c.run.layer): c.error for c in comparisons if abs(c.error) > silicon.LAYER_TOLERANCE} == {}
    assert silicon.root_mean_square(comparisons) <= silicon.RMS_TOLERANCE


def test_sum_of_the_face_detector_is_the_published_one() -> None:
    time = silicon.model_time("vendor's face detector, 320x240")
    assert time.kpu_ms == pytest.approx(12.328, rel=0.01)
    assert sorted(map(str, time.layers)) == sorted(str(run.layer) for run in silicon.DETECTOR_RUNS)


@pytest.mark.parametrize("name", silicon.MODELS)
def test_layer_list_of_a_model_is_that_of_the_published_file(name: str) -> None:
    path = CASES / FILES.get(name, "none") / "model.kmodel"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    layers = [layer for layer in read_kmodel(path.read_bytes()).layers if isinstance(layer, K210Conv)]
    names = ("i_ch_num", "o_ch_num", "i_col_high", "i_row_wid", "kernel_type", "depth_wise_layer")
    found = [[layer.fields[name] for name in names] for layer in layers]
    timed = silicon.model_time(name).layers
    assert [[layer.fields[name] for name in names] for layer in timed] == found
    assert [layer.to_main_memory for layer in timed] == [layer.main_memory_output is not None for layer in layers]


def test_a_lower_clock_takes_longer_but_loading_stays() -> None:
    fast, slow = (silicon.model_time("20-class YOLO, 320x240", clock) for clock in (400_000_000, 300_000_000))
    assert slow.compute_ms == pytest.approx(fast.compute_ms * 4 / 3)
    assert fast.kpu_ms < slow.kpu_ms < fast.kpu_ms * 4 / 3


def test_layer_that_does_not_follow_is_refused() -> None:
    wrong = silicon.ModelRun(input_shape=(3, 8, 8), layers="3x3 3-16; 1x1 8-8", published="")
    with pytest.raises(ValueError, match="1x1 8-8"):
        list(silicon.model_layers(wrong))


def test_command_prints_both_tables() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "k210_times.py")], capture_output=True, text=True,
                          check=True)
    lines = done.stdout.splitlines()
    assert sum(line.startswith(("| face", "| board")) for line in lines) == 36
    assert all(any(line.startswith(f"| {name}") for line in lines) for name in silicon.MODELS)
