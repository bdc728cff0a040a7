"""One process or several: who takes which share of a batch, and how they agree. Start at `join_processes`.

torchrun sets the environment; without it there is one process and nothing here costs anything.

Source: spec/ai8x-training.md section 12 (environment); docs/design.md "Training that can be interrupted".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ai8x.errors import user_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of the run.

    Args:
        rank: number of this process; 0 logs and saves.
        world: number of processes.
        local_rank: number on this machine, which is the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first process's value, everywhere."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of them."""
        if self.world == 1:
            return flag
        total = torch.tensor([float(flag)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(total)
        return bool(total.item())

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Join the other processes that torchrun started, for as long as the context lasts.

    Args:
        device: nccl connects GPUs, gloo everything else.

    Raises:
        UserError: E0634 where the environment of torchrun is incomplete.
    """
    if "LOCAL_RANK" not in os.environ:
        yield Processes()
        return
    try:
        processes = Processes(rank=int(os.environ["RANK"]), world=int(os.environ["WORLD_SIZE"]),
                              local_rank=int(os.environ["LOCAL_RANK"]))
    except (KeyError, ValueError) as error:
        raise user_error("E0634", "the environment for several processes is incomplete", found=str(error),
                         allowed="RANK, WORLD_SIZE and LOCAL_RANK", help="start with torchrun --nproc-per-node N "
                         "train.py ..., or unset LOCAL_RANK") from error
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield processes
        dist.barrier()  # the first process still tests and writes: nobody may hang up on it
    finally:
        dist.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    """Sum of every process's tensor; its gradient is the sum of every process's gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The sum."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum of the gradients."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class GatheredBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, on any device; torch's own works on GPUs only.

    The entries of its state are those of every BatchNorm, so that files do not depend on it.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) to the same."""
        if not self.training:
            return super().forward(input)
        values = input.float()  # sums of bfloat16 would be too coarse
        axes = [0, *range(2, input.dim())]
        count = values.new_tensor([input.numel() / input.shape[1]])
        sums = torch.cat((values.sum(axes), (values * values).sum(axes), count))
        sums = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        channels, total = input.shape[1], sums[-1].detach()
        mean = sums[:channels] / total
        variance = (sums[channels:-1] / total - mean * mean).clamp(min=0)
        self._remember(mean.detach(), variance.detach() * (total / (total - 1).clamp(min=1)))
        shape = [1, -1, *[1] * (input.dim() - 2)]
        result: Tensor = (values - mean.reshape(shape)) * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.weight is not None:
            result = result * self.weight.reshape(shape) + self.bias.reshape(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def gather_batchnorm(model: nn.Module) -> None:
    """Make every BatchNorm of a model take its statistics from all processes, in place; parameters stay the same."""
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            gathered = GatheredBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            gathered.weight, gathered.bias = child.weight, child.bias
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(gathered, buffer, getattr(child, buffer))
            gathered.train(child.training)
            setattr(model, name, gathered)
        else:
            gather_batchnorm(child)
