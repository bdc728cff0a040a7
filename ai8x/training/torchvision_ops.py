"""Makes ``import torchvision`` work where its compiled operators cannot be loaded.

PyPI's torchvision is compiled against CUDA builds of torch. Beside a CPU build its extension library fails to load,
which torchvision itself tolerates, but it then describes the shapes of two operators that nobody has declared, and
the import ends in a RuntimeError. Declaring the two (without any implementation: calling them stays an error) lets the
rest of torchvision, data sets and transforms, be used. Nothing is declared where the real operators are present.
"""

from __future__ import annotations

from types import ModuleType
from typing import cast

import torch

_OPERATORS = ("torchvision::nms", "torchvision::qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """The torchvision package with `torchvision.datasets`, whether or not its compiled operators fit this torch."""
    try:
        import torchvision.datasets
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for operator in _OPERATORS:
            torch.library.define(operator, _SIGNATURE)
        import torchvision.datasets
    return cast(ModuleType, torchvision)
