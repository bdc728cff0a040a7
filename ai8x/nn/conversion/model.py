"""The model that conversion makes: fused layers and the way from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.errors import Diagnostic, format_diagnostics
from ai8x.nn.conversion.fuse import LayerLine, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What conversion did.

    Args:
        layers: in the order in which they run.
        notices: what the user should know: costs, approximations, replacements.
        is_exact: in float mode the model computes what the original computes.
    """

    layers: tuple[LayerLine, ...]
    notices: tuple[Diagnostic, ...]
    is_exact: bool

    @property
    def replaced(self) -> tuple[Diagnostic, ...]:
        """Notices of operations that gave way to their nearest form, whose weights must be trained."""
        return tuple(n for n in self.notices if n.level == "warning")

    def format(self) -> str:
        """A table of the layers, then the notices."""
        name = max((len(line.name) for line in self.layers), default=0)
        kind = max((len(line.kind) for line in self.layers), default=0)
        rows = [f"{line.name:{name}s}  {line.kind:{kind}s}  {', '.join(line.origins)}".rstrip() for line in self.layers]
        notices = ["", format_diagnostics(self.notices)] if self.notices else []
        return "\n".join([*rows, *notices])


class ConvertedModel(nn.Module):
    """A plain model as fused layers; trained, saved, quantised and synthesised like any model of this package.

    Args:
        layers: by name, in the order in which they run.
        steps: what to compute, in order.
        input_name: of the model's input among the steps' tensors.
        structure: of what the model returns: a tensor's name, None, or tuples and mappings of them.
        report: what conversion did.

    Attributes:
        report: likewise.
    """

    def __init__(self, layers: Mapping[str, nn.Module], steps: Sequence[Step], input_name: str, structure: Any,
                 report: ConversionReport) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.report = report
        self.steps = tuple(steps)
        self.structure = structure
        self._input_name = input_name
        last_use = {name: number for number, step in enumerate(steps) for name in step.inputs}
        kept = set(_names(structure))
        self._done = tuple(tuple(n for n in dict.fromkeys(step.inputs) if last_use[n] == number and n not in kept)
                           for number, step in enumerate(steps))

    def forward(self, data: Tensor) -> Any:
        """Compute the model.

        Args:
            data: a batch of the example's shape; multiples of 1/128, integers in integer mode.

        Returns:
            What the original returns, lists as tuples.
        """
        tensors = {self._input_name: data}
        for step, done in zip(self.steps, self._done, strict=True):
            tensors[step.result] = self._computed(step, [tensors[name] for name in step.inputs])
            for name in done:
                del tensors[name]
        return _filled(self.structure, tensors)

    def _computed(self, step: Step, operands: list[Tensor]) -> Tensor:
        if step.kind == "concat":
            return torch.cat(operands, dim=1)
        if step.kind == "reshape":
            return operands[0].reshape(operands[0].shape[0], *step.shape)
        result: Tensor = self.get_submodule(step.target)(*operands)
        return result


def _names(structure: Any) -> tuple[str, ...]:
    if structure is None:
        return ()
    if isinstance(structure, str):
        return (structure,)
    parts = structure.values() if isinstance(structure, Mapping) else structure
    return tuple(name for part in parts for name in _names(part))


def _filled(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    if structure is None:
        return None
    if isinstance(structure, str):
        return tensors[structure]
    if isinstance(structure, Mapping):
        return {key: _filled(value, tensors) for key, value in structure.items()}
    return tuple(_filled(value, tensors) for value in structure)
