"""How a model's forward pass is run while it learns: as it is, in parallel processes, or compiled.

The wrappers live here and nowhere else: files, evaluation and the switch to QAT see the model itself, so no prefix of
a wrapper ever reaches a file. Start at `wrap_forward`.

Source: spec/ai8x-training.md sections 6 and 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.training.config import TrainConfig
from ai8x.training.processes import Processes

Forward = Callable[[Tensor], Any]


def wrap_forward(model: nn.Module, config: TrainConfig, processes: Processes, *, quantized: bool) -> Forward:
    """What to call for the outputs of a training step.

    Args:
        model: in float or QAT mode, on its device.
        config: ``compiler_mode`` and ``compiler_backend`` hold for the float epochs.
        processes: more than one exchange their gradients.
        quantized: quantisation-aware training has begun.
    """
    forward: Any = model
    if processes.world > 1:
        device_ids = [processes.local_rank] if next(model.parameters()).is_cuda else None
        forward = nn.parallel.DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)
    if config.compiler_mode != "none" and not quantized:
        mode = None if config.compiler_mode == "default" else config.compiler_mode
        forward = torch.compile(forward, mode=mode, backend=config.compiler_backend)
    return forward  # type: ignore[no-any-return]


def is_half(config: TrainConfig, *, quantized: bool) -> bool:
    """Whether the forward pass is computed in bfloat16: in float epochs with ``--amp``.

    QAT rounds to multiples of 1/128, which bfloat16 cannot tell apart.
    """
    return config.amp and not quantized
