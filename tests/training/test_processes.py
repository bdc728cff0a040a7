"""Several processes: BatchNorm over all of them, equal shares, and a run that equals the one of a single process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.nn.fold import fold_batchnorm
from ai8x.nn.modules import FusedConv1dBNReLU, FusedConv2dBNReLU
from ai8x.training.data import BatchPlan
from ai8x.training.evaluation import EvaluationRequest, evaluate_checkpoint
from ai8x.training.processes import GatheredBatchNorm, Processes, gather_batchnorm
from ai8x.training.session import start_training

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_processes(arguments, count=2):
    """Start train.py in several processes as torchrun does; (exit status, standard output) of each."""
    port = free_port()
    started = []
    for rank in range(count):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                       "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                       "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        started.append(subprocess.Popen([sys.executable, str(ROOT / "train.py"), *arguments], env=environment,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    ended = [process.communicate(timeout=120) for process in started]
    return [(process.returncode, output, error) for process, (output, error) in zip(started, ended, strict=True)]


@pytest.fixture
def without_dropout(toy, tmp_path):
    model = tmp_path / "models" / "toy.py"
    model.write_text(model.read_text().replace("nn.Dropout(0.2)", "nn.Identity()"))
    return toy


def test_two_processes_train_the_network_of_one(without_dropout, toy_arguments):
    results = run_processes(toy_arguments)
    assert [status for status, _, _ in results] == [0, 0], results
    (run,) = Path(without_dropout["out_dir"]).iterdir()
    found = json.loads(results[0][1].splitlines()[-1])
    alone = start_training({**without_dropout, "out_dir": str(run.parent / "alone")})
    assert "2 processes share every batch" in results[0][1] and "Epoch" not in results[1][1]
    for name in ("checkpoint", "qat_checkpoint"):
        shared, single = (read_checkpoint(r["checkpoints"][name]).tensors() for r in (found, alone))
        assert list(shared) == list(single)  # no prefix of a wrapper
        for key, value in single.items():
            assert torch.allclose(shared[key].float(), value.float(), atol=2e-3), key
    rows = [(Path(r["run"]) / "metrics.csv").read_text().splitlines()[1].split(",") for r in (found, alone)]
    assert float(rows[0][2]) == pytest.approx(float(rows[1][2]), abs=1e-4)
    file = Path(found["checkpoints"]["qat_best"])
    assert evaluate_checkpoint(EvaluationRequest(file=file, settings={}))["top1"] == found["accuracy"]["qat"]["test"]


def test_incomplete_environment_is_refused(toy, toy_arguments):
    environment = {**os.environ, "LOCAL_RANK": "0"}
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *toy_arguments], env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error[E0634]" in done.stderr
    assert not Path(toy["out_dir"]).exists()


@pytest.mark.parametrize(("count", "size", "world"), [(10, 4, 2), (36, 8, 2), (7, 3, 3)])
def test_every_sample_is_taken_once_and_counts_the_same(count, size, world):
    plans = [BatchPlan(batch_size=size, seed=1, rank=rank, world=world) for rank in range(world)]
    whole = BatchPlan(batch_size=size, seed=1).index_batches(count)
    shares = [plan.index_batches(count) for plan in plans]
    for number, batch in enumerate(whole):
        if len(batch) >= world:
            assert sorted(index for share in shares for index in share[number]) == sorted(batch)
        weights = [plan.weight(number, count) for plan in plans]
        assert sum(weights) == pytest.approx(world)
        if len(batch) >= world:
            values = [sum(share[number]) / len(share[number]) for share in shares]
            mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / world
            assert mean == pytest.approx(sum(batch) / len(batch))


def test_one_process_agrees_with_itself():
    alone = Processes()
    assert alone.is_first and alone.share("x") == "x" and alone.gather(3) == [3] and alone.any(True)


def test_gathered_batchnorm_keeps_parameters_and_is_folded():
    model = torch.nn.Sequential(FusedConv2dBNReLU(1, 2, 3, bias=True), FusedConv1dBNReLU(1, 2, 3, bias=True))
    before = dict(model.state_dict())
    parameters = [id(p) for p in model.parameters()]
    gather_batchnorm(model)
    assert isinstance(model[0].bn, GatheredBatchNorm) and isinstance(model[1].bn, GatheredBatchNorm)
    assert [id(p) for p in model.parameters()] == parameters
    assert list(model.state_dict()) == list(before)
    assert len(fold_batchnorm(model)) == 2


def test_gathered_batchnorm_computes_what_torch_computes(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        own, other = GatheredBatchNorm(3, momentum=0.05), torch.nn.BatchNorm2d(3, momentum=0.05)
        data = torch.randn(4, 3, 5, 5)
        inputs = [data.clone().requires_grad_(), data.clone().requires_grad_()]
        outputs = [layer(value) for layer, value in zip((own, other), inputs, strict=True)]
        weight = torch.randn_like(data)
        for output in outputs:
            (output * weight).sum().backward()
        assert torch.allclose(outputs[0], outputs[1], atol=1e-5)
        assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
        assert torch.allclose(own.running_var, other.running_var, atol=1e-6)
        assert torch.allclose(own.running_mean, other.running_mean, atol=1e-6)
        far = (torch.randn(64, 3, 9, 9) + 20).bfloat16()  # a mean far from 0 leaves half precision nothing of the rest
        half, exact = GatheredBatchNorm(3), torch.nn.BatchNorm2d(3)
        assert torch.allclose(half(far).float(), exact(far.float()), atol=0.02) and half(far).dtype is torch.bfloat16
    finally:
        torch.distributed.destroy_process_group()
