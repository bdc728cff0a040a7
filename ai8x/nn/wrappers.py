"""Models inside wrappers, and running one without training it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside a compiled wrapper and a distributed or data parallel wrapper."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        inner = inner.module
    unwrapped = getattr(inner, "_orig_mod", inner)
    if not isinstance(unwrapped, nn.Module):
        raise TypeError(f"a wrapper of {type(unwrapped).__name__} instead of a module")
    return unwrapped


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the training flag of every module is put back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
