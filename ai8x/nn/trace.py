"""How data flows between the layers of a model: one run of the model, watched.

Owns the record of which layer reads which, through concatenations and changes of shape. Nothing of the model's code
is interpreted, so that control flow which depends on data does not matter; and no graph library is needed. Start at
`trace_model`.

Source: spec/ai8x-training.md section 18, defect 18.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule
from ai8x.nn.wrappers import evaluation_mode, unwrap_model

Layer = QuantizationAwareModule | ElementwiseModule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Value:
    """A tensor, by where it comes from.

    Args:
        kind: ``input``, ``layer`` (result of call number `call`), ``concat`` (of `parts` along the channels), ``shape``
            (`parts` has the one tensor that was given another shape), `CHANGED_IN_PLACE`, or the name of a function
            that is none of these.
        shape: with the batch in front.
        call: number of the call, for ``layer``.
        parts: operands.
        module: path of the module in which the function ran; empty for the model itself.
    """

    kind: str
    shape: tuple[int, ...]
    call: int = -1
    parts: tuple[Value, ...] = ()
    module: str = ""

    def sources(self) -> Iterator[Value]:
        """The inputs and layers from which it is made."""
        if self.kind in ("input", "layer"):
            yield self
        for part in self.parts:
            yield from part.sources()

    def foreign(self) -> Value | None:
        """The nearest function on the way that is neither a concatenation nor a change of shape, or None."""
        if self.kind not in ("input", "layer", "concat", "shape"):
            return self
        return next(filter(None, (part.foreign() for part in self.parts)), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One use of a layer.

    Args:
        name: path of the layer.
        layer: the module.
        operands: what it read, in order.
        output: what it returned, detached.
    """

    name: str
    layer: Layer
    operands: tuple[Value, ...]
    output: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelTrace:
    """What one run did.

    Args:
        calls: in order of execution.
        outputs: tensors that the model returned, in order.
    """

    calls: tuple[Call, ...]
    outputs: tuple[Value, ...]

    def producers(self, call: Call) -> tuple[Call, ...]:
        """Calls whose outputs a call reads, directly or through concatenations and other functions."""
        return self._calls_of(call.operands)

    def final_calls(self) -> tuple[Call, ...]:
        """Calls whose outputs the model returns."""
        return self._calls_of(self.outputs)

    def _calls_of(self, values: Iterable[Value]) -> tuple[Call, ...]:
        numbers = {source.call for value in values for source in value.sources() if source.kind == "layer"}
        return tuple(self.calls[number] for number in sorted(numbers))


CHANGED_IN_PLACE = "change in place"
"""Kind of a value that was changed after it was made, while no function returned the new one."""

_SHAPE_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset({
    torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape, Tensor.view, torch.squeeze, Tensor.squeeze,
    torch.unsqueeze, Tensor.unsqueeze, torch.unflatten, Tensor.unflatten})
_SAME_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset({
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout, torch.clone, Tensor.clone, Tensor.contiguous,
    Tensor.detach, Tensor.float, Tensor.to})
_CONCAT_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset({torch.cat, torch.concat, torch.concatenate})


class _Recorder(TorchFunctionMode):
    """Follows tensors from call to call; functions inside a layer are the layer's own business."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.modules: list[str] = []  # paths of the modules that run, the innermost last
        self._inside = 0
        self._values: dict[int, Value] = {}
        self._versions: dict[int, int] = {}  # how often a tensor had been changed in place when it was seen
        self._kept: list[Tensor] = []  # keeps identities from being reused
        self._remember(inputs, Value(kind="input", shape=tuple(inputs.shape)))

    def _remember(self, tensor: Tensor, value: Value) -> None:
        self._kept.append(tensor)
        self._values[id(tensor)] = value
        self._versions[id(tensor)] = num_changes(tensor)

    def value(self, tensor: Tensor) -> Value:
        """Where a tensor comes from; one that was not seen is a constant."""
        found = self._values.get(id(tensor))
        if found is None:
            return Value(kind="constant", shape=tuple(tensor.shape))
        if self._versions[id(tensor)] != num_changes(tensor):
            return Value(kind=CHANGED_IN_PLACE, shape=found.shape, parts=(found,))
        return found

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        operands = tuple(self.value(t) for t in tensors_in((args, kwargs)))  # before the function changes them in place
        result = func(*args, **kwargs)
        if any(value.kind != "constant" for value in operands):
            module = self.modules[-1] if self.modules else ""
            for tensor in tensors_in(result):
                self._remember(tensor, replace(_derived(func, tensor, operands, args, kwargs), module=module))
        return result

    def enter_layer(self) -> None:
        """A layer starts."""
        self._inside += 1

    def leave_layer(self, name: str, layer: Layer, operands: tuple[Value, ...], output: Tensor) -> None:
        """A layer is done."""
        self._inside -= 1
        self.calls.append(Call(name=name, layer=layer, operands=operands, output=output.detach()))
        self._remember(output, Value(kind="layer", shape=tuple(output.shape), call=len(self.calls) - 1))


def _derived(func: Callable[..., Any], tensor: Tensor, operands: tuple[Value, ...], args: tuple[Any, ...],
             kwargs: Mapping[str, Any]) -> Value:
    """The value of a function's result."""
    shape = tuple(tensor.shape)
    if func in _SAME_FUNCTIONS and shape == operands[0].shape:
        return operands[0]
    if func in _SHAPE_FUNCTIONS and shape[:1] == operands[0].shape[:1]:
        return Value(kind="shape", shape=shape, parts=operands[:1])
    if func in _CONCAT_FUNCTIONS:
        dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        return Value(kind="concat" if dim in (1, 1 - tensor.ndim) else "cat", shape=shape, parts=operands)
    return Value(kind=function_name(func), shape=shape, parts=operands)


def function_name(func: Callable[..., Any]) -> str:
    """Name of a function without underscores around it; of the access to an attribute, that of the attribute."""
    name = str(getattr(func, "__name__", "function"))
    owner = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", name) if name == "__get__" else name).strip("_")


def num_changes(tensor: Tensor) -> int:
    """How often a tensor's memory was changed in place, through whatever view; 0 where torch does not count."""
    with torch._C.DisableTorchFunction():  # asking is a call of torch as well, which a recorder would see
        return 0 if tensor.is_inference() else tensor._version


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and mappings."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for entry in nested.values():
            yield from tensors_in(entry)
    elif isinstance(nested, (tuple, list)):
        for entry in nested:
            yield from tensors_in(entry)


class _Hooks:
    """The hooks of one layer, or of a module that holds layers."""

    def __init__(self, recorder: _Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self._operands: list[tuple[Value, ...]] = []

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._operands.append(tuple(self._recorder.value(t) for t in tensors_in((args, kwargs))))
        self._recorder.enter_layer()

    def after(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(layer, (QuantizationAwareModule, ElementwiseModule)):
            raise TypeError(f"hook of {type(layer).__name__}")
        self._recorder.leave_layer(self._name, layer, self._operands.pop(), output)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._recorder.modules.append(self._name)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._recorder.modules.pop()


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Every layer and element-wise operation of a model by its path, in registration order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, (QuantizationAwareModule, ElementwiseModule))}


def trace_model(model: nn.Module, inputs: Tensor) -> ModelTrace:
    """Run a model once in evaluation mode and record what its layers read and returned.

    Args:
        model: possibly inside wrappers; its training flags are put back.
        inputs: one batch, on the device of the model.
    """
    inner = unwrap_model(model)
    recorder = _Recorder(inputs)
    handles = []
    for name, module in inner.named_modules():
        hooks = _Hooks(recorder, name)
        handles += [module.register_forward_pre_hook(hooks.enter), module.register_forward_hook(hooks.leave)]
        if isinstance(module, (QuantizationAwareModule, ElementwiseModule)):
            handles += [module.register_forward_pre_hook(hooks.before, with_kwargs=True),
                        module.register_forward_hook(hooks.after)]
    try:
        with evaluation_mode(inner), recorder:
            outputs = inner(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return ModelTrace(calls=tuple(recorder.calls), outputs=tuple(recorder.value(t) for t in tensors_in(outputs)))
