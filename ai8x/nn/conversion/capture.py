"""One run of a plain torch model, written down: which modules and functions were called with which tensors.

The model's code is run, not interpreted, so control flow, sizes and loops in Python need no support here. Owns what
counts as one call: modules of ``torch.nn`` and layers of this package, and functions between them. Start at `capture`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ai8x.errors import Diagnostic, Source, UserError, user_error
from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule
from ai8x.nn.trace import function_name, num_changes, tensors_in
from ai8x.nn.wrappers import evaluation_mode

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SPATIAL = re.compile(r"(?:conv|pool).*([12])d$")
_LIBRARY_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a tensor that depends on the model's input.

    Args:
        number: of the tensor, in order of appearance; 0 is the input.
        shape: with the batch in front.
        is_stale: the tensor was changed in place since, and no call returned the new one.
    """

    number: int
    shape: tuple[int, ...]
    is_stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One call of a module or a function.

    Args:
        path: of the module; of the enclosing module where a function is called.
        target: the module, or the function's name without underscores around it.
        args: positional arguments, with `Ref` in place of tensors that depend on the input.
        kwargs: likewise.
        result: the tensors returned, in order.
        source: the line that called a function.
    """

    path: str
    target: nn.Module | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: tuple[Ref, ...]
    source: Source | None = None

    @property
    def name(self) -> str:
        """The class or function, for messages."""
        return self.target if isinstance(self.target, str) else type(self.target).__name__

    def operands(self) -> tuple[Ref, ...]:
        """The tensors that were read."""
        return tuple(_refs((self.args, tuple(self.kwargs.values()))))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """What one run did.

    Args:
        input: the example.
        calls: in order.
        output: what the model returned, with `Ref` in place of tensors.
    """

    input: Ref
    calls: tuple[Call, ...]
    output: Any


def is_leaf(module: nn.Module) -> bool:
    """Whether a module counts as one call: it is torch's, or a layer of ours, and does not only hold others."""
    if isinstance(module, (QuantizationAwareModule, ElementwiseModule)):
        return True
    if isinstance(module, _CONTAINERS):
        return False
    kind = type(module)
    if kind.__module__.startswith("torch.nn."):
        return True
    # A subclass that only adds to __init__ computes what its base computes.
    base = next((c for c in kind.__mro__ if c.__module__.startswith("torch.nn.modules.") and c is not nn.Module), None)
    return base is not None and getattr(kind, "forward", None) is getattr(base, "forward", None)


@dataclass
class _Recorder(TorchFunctionMode):
    """Numbers tensors and appends calls; inside a leaf module nothing is recorded."""

    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        TorchFunctionMode.__init__(self)
        self._refs: dict[int, Ref] = {}
        self._kept: list[Tensor] = []  # keeps identities from being reused
        self._versions: list[int] = []  # by number, how often the tensor had been changed in place
        self._paths: list[str] = [""]
        self._arguments: list[tuple[Any, Any]] = []
        self._leaves = 0

    def remember(self, tensor: Tensor) -> Ref:
        """A new number for a tensor; one that was changed in place gets another."""
        ref = Ref(len(self._kept), tuple(tensor.shape))
        self._kept.append(tensor)
        self._versions.append(num_changes(tensor))
        self._refs[id(tensor)] = ref
        return ref

    def replaced(self, nested: Any) -> Any:
        """Nested arguments with `Ref` in place of known tensors."""
        if isinstance(nested, Tensor):
            ref = self._refs.get(id(nested))
            if ref is None:
                return nested
            return replace(ref, is_stale=self._versions[ref.number] != num_changes(nested))
        if isinstance(nested, Mapping):
            return {key: self.replaced(value) for key, value in nested.items()}
        if isinstance(nested, (tuple, list)):
            return tuple(self.replaced(value) for value in nested)
        return nested

    def _append(self, target: nn.Module | str, arguments: tuple[Any, Any], result: Any, source: Source | None) -> None:
        tensors = list(tensors_in(result))
        if not tensors:
            return
        _check_not_stale(arguments, self._paths[-1])
        args, kwargs = arguments
        self.calls.append(Call(path=self._paths[-1], target=target, args=args, kwargs=kwargs,
                               result=tuple(self.remember(t) for t in tensors), source=source))

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        if self._leaves:
            return func(*args, **(kwargs or {}))
        # In-place functions change what was remembered, so arguments are looked up before the call.
        arguments = (self.replaced(args), self.replaced(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _refs(arguments)):
            self._append(function_name(func), arguments, result, _calling_line())
        return result

    def enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A module starts."""
        self._paths.append(path)
        if not self._leaves:
            self._arguments.append((self.replaced(args), self.replaced(kwargs)))
        self._leaves += is_leaf(module)

    def leave(self, module: nn.Module, result: Any) -> None:
        """A module is done."""
        self._leaves -= is_leaf(module)
        if not self._leaves:
            arguments = self._arguments.pop()
            if is_leaf(module) and any(True for _ in _refs(arguments)):
                self._append(module, arguments, result, None)
        self._paths.pop()


def _check_not_stale(nested: Any, path: str) -> None:
    """Refuse tensors of which nothing says what they hold by now.

    Raises:
        UserError: E0761.
    """
    if any(ref.is_stale for ref in _refs(nested)):
        raise UserError(Diagnostic(
            code="E0761", message="a tensor is read that was changed in place under another name", layer=path,
            source=_calling_line(), found="an assignment to a part of it, or an in-place function on a view",
            allowed="in-place functions whose result is what is read on",
            help="write it without a change in place, such as y = F.relu(y)"))


def _calling_line() -> Source | None:
    """The line of the user's code that is running."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY_FOLDERS):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or not Path(frame.f_code.co_filename).is_file():
        return None
    return Source(file=frame.f_code.co_filename, line=frame.f_lineno, column=1)


def _refs(nested: Any) -> Iterator[Ref]:
    if isinstance(nested, Ref):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from _refs(value)
    elif isinstance(nested, (tuple, list)):
        for value in nested:
            yield from _refs(value)


def output_refs(nested: Any) -> tuple[Ref, ...]:
    """The tensors that a model returned, in order."""
    return tuple(_refs(nested))


def capture(module: nn.Module, example: Tensor) -> Capture:
    """Run a model once, in evaluation and without gradients, and write down its calls.

    Args:
        module: any model of one input.
        example: a batch.

    Raises:
        UserError: E0760 where the example is no batch, or the model cannot be run on it; E0761 where a tensor is
            changed in place so that no call returns the new one.
    """
    if not isinstance(example, Tensor) or example.dim() < 2:
        found = f"{type(example).__name__} {tuple(getattr(example, 'shape', ()))}"
        raise user_error("E0760", "the example is one batch of data", found=found,
                         allowed="a tensor (N, C, H, W), (N, C, L) or (N, F)",
                         help="write convert(model, torch.zeros(1, 3, 32, 32))")
    example = example.clone()  # the model may change its input in place
    recorder = _Recorder()
    reference = recorder.remember(example)
    handles = []
    for path, inner in module.named_modules():
        handles.append(inner.register_forward_pre_hook(
            lambda m, args, kwargs, path=path: recorder.enter(path, m, args, kwargs), with_kwargs=True))
        handles.append(inner.register_forward_hook(lambda m, args, result: recorder.leave(m, result)))
    try:
        with evaluation_mode(module), recorder:
            result = module(example)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise user_error("E0760", f"the model does not run on the example: {_first_line(error)}",
                         found=f"an example of shape {tuple(example.shape)}", allowed="a batch that the model accepts",
                         help="call convert(model, example_input) with a batch that model(example_input) takes"
                         ) from error
    finally:
        for handle in handles:
            handle.remove()
    _check_batched(recorder.calls, reference.shape)
    output = recorder.replaced(result)
    _check_not_stale(output, "")
    return Capture(input=reference, calls=tuple(recorder.calls), output=output)


def _check_batched(calls: Iterable[Call], shape: tuple[int, ...]) -> None:
    """Refuse an example without the dimension of the batch, which torch's convolutions and pooling take as well.

    Raises:
        UserError: E0760.
    """
    for call in calls:
        spatial = _SPATIAL.search(call.name.lower())
        operands = call.operands()
        if spatial is None or not operands:
            continue
        if len(operands[0].shape) == len(shape) == int(spatial[1]) + 1:
            raise user_error("E0760", "the example has no dimension for the batch",
                             found=f"an example of shape {shape} for {call.name}",
                             allowed=f"a batch, such as {(1, *shape)}",
                             help="write convert(model, example_input.unsqueeze(0))")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
