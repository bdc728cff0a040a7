"""What readers of calls have in common: arguments by name, the context of a call, and the refusal.

Start at `Reading` and `NotPossible`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ai8x.errors import Diagnostic
from ai8x.nn.conversion.capture import Call
from ai8x.nn.conversion.graph import Convolution, Operation, Origin, Shape

CONV_OPERATORS: Mapping[int, str] = {3: "Conv1d", 4: "Conv2d"}
"""Convolution of data with so many dimensions, batch and channels included."""


class NotPossible(Exception):
    """No layer of the chip computes this: a finding on its way to the list.

    Args:
        message: a sentence without full stop.
        code: of the finding.
        help: the form that comes nearest and can be computed, or empty.
        replacement: operations in place of the one refused, where that form can be put in automatically.
    """

    def __init__(self, message: str, *, code: str = "E0761", help: str = "",
                 replacement: tuple[Operation, ...] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = message
        self.nearest = help
        self.replacement = replacement


def refusal(problem: NotPossible, origin: Origin) -> Diagnostic:
    """The finding of a refusal."""
    advice = f"nearest form: {problem.nearest}" if problem.nearest else "leave it out, or compute it on the CPU"
    if problem.replacement is not None:
        advice += "; convert(..., replace_unsupported=True) puts it in, and training goes on from there"
    return Diagnostic(code=problem.code, message=f"{origin}: {problem.reason}", layer=origin.path,
                      source=origin.source, found=origin.what, allowed="what one layer of the chip computes",
                      help=advice)


def replaced_notice(problem: NotPossible, origin: Origin) -> Diagnostic:
    """Says that a refused operation was replaced."""
    return Diagnostic(code="W0761", level="warning", message=f"{origin}: replaced by {problem.nearest}",
                      layer=origin.path, source=origin.source, found=problem.reason,
                      help="train the converted model, its outputs differ from those of the original")


def notice(origin: Origin, message: str, *, help: str = "") -> Diagnostic:
    """Something that the user should know although the conversion is complete."""
    return Diagnostic(code="W0762", level="notice", message=f"{origin}: {message}", layer=origin.path,
                      source=origin.source, found=origin.what, help=help)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What a reader makes of one call.

    Args:
        operations: in a row, with their shapes; the last has the shape of the call.
        notices: messages for the user, each with a remedy or nothing.
        is_inexact: outputs may differ from those of the original.
    """

    operations: tuple[Operation, ...]
    notices: tuple[tuple[str, str], ...] = ()
    is_inexact: bool = False


class Arguments:
    """The arguments of a call by name: attributes of a module, or bound arguments of a function."""

    def __init__(self, call: Call, names: str = "") -> None:
        self.call = call
        self._values: dict[str, Any] = dict(call.kwargs)
        if not isinstance(call.target, nn.Module):
            self._values |= dict(zip(names.split(), call.args, strict=False))

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or its default."""
        if isinstance(self.call.target, nn.Module):
            return getattr(self.call.target, name, default)
        value = self._values.get(name, default)
        return default if value is None else value

    @property
    def shape(self) -> Shape:
        """Shape of the first operand."""
        return self.call.operands()[0].shape

    @property
    def out_shape(self) -> Shape:
        """Shape of the first result."""
        return self.call.result[0].shape

    @property
    def dims(self) -> int:
        """Spatial dimensions of the data."""
        return len(self.shape) - 2

    def sizes(self, name: str, default: Any = None) -> Shape:
        """An argument as one number per spatial dimension."""
        value = self.get(name, default)
        listed = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.dims
        return tuple(int(v) for v in (listed * self.dims if len(listed) == 1 else listed))


def size_text(sizes: Shape) -> str:
    """3x3 and the like."""
    return "x".join(str(size) for size in sizes)


def described(call: Call) -> str:
    """A call in a few words: its name, and the sizes that matter."""
    module = call.target
    if not isinstance(module, nn.Module):
        return call.name
    words = [call.name]
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
        inputs, outputs = ((module.in_features, module.out_features) if isinstance(module, nn.Linear) else
                           (module.in_channels, module.out_channels))
        words.append(f"{inputs}->{outputs}")
    for name, usual in _SIZES.items():
        value = getattr(module, name, None)
        sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if all(isinstance(size, int) for size in sizes) and not isinstance(value, bool) and set(sizes) != {usual}:
            words.append(f"{name.removesuffix('_size')} {size_text(sizes)}")
    return " ".join(words)


_SIZES: Mapping[str, int | None] = {"kernel_size": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
                                    "output_padding": 0, "output_size": None}
"""Attribute of a module -> the value that needs no mention."""


def is_depthwise(conv: Convolution) -> bool:
    """Every channel has its own kernel."""
    return conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
