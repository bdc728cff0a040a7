"""What all layers of a kmodel v3 file share: type numbers, field descriptions, equality of arrays.

Source: spec/k210-kmodel.md section 9.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ai8x.k210 import device


class LayerType(enum.IntEnum):
    """Type numbers of a v3 file. Source: section 9."""

    ADD = 1
    QUANTIZED_ADD = 2
    GLOBAL_MAX_POOL2D = 3
    QUANTIZED_GLOBAL_MAX_POOL2D = 4
    GLOBAL_AVERAGE_POOL2D = 5
    QUANTIZED_GLOBAL_AVERAGE_POOL2D = 6
    MAX_POOL2D = 7
    QUANTIZED_MAX_POOL2D = 8
    AVERAGE_POOL2D = 9
    QUANTIZED_AVERAGE_POOL2D = 10
    QUANTIZE = 11
    DEQUANTIZE = 12
    REQUANTIZE = 13
    L2_NORMALIZATION = 14
    SOFTMAX = 15
    CONCAT = 16
    QUANTIZED_CONCAT = 17
    FULLY_CONNECTED = 18
    QUANTIZED_FULLY_CONNECTED = 19
    TENSORFLOW_FLATTEN = 20
    QUANTIZED_TENSORFLOW_FLATTEN = 21
    RESIZE_NEAREST_NEIGHBOR = 22
    QUANTIZED_RESIZE_NEAREST_NEIGHBOR = 23
    CHANNELWISE_DEQUANTIZE = 24
    LOGISTIC = 25
    K210_CONV = 10240
    K210_ADD_PADDING = 10241
    K210_REMOVE_PADDING = 10242
    K210_UPLOAD = 10243
    AI8X_AVERAGE_POOL2D = 24576
    AI8X_BITWISE = 24577


OWN_TYPES = frozenset({LayerType.AI8X_AVERAGE_POOL2D, LayerType.AI8X_BITWISE})
"""Types that only the generated stand-alone runner knows."""

NON_STOCK_TYPES = frozenset({
    LayerType.GLOBAL_MAX_POOL2D, LayerType.QUANTIZED_GLOBAL_MAX_POOL2D, LayerType.QUANTIZED_GLOBAL_AVERAGE_POOL2D,
    LayerType.MAX_POOL2D, LayerType.QUANTIZED_AVERAGE_POOL2D, LayerType.QUANTIZED_FULLY_CONNECTED,
    LayerType.QUANTIZED_TENSORFLOW_FLATTEN}) | OWN_TYPES
"""Types at which the stock SDK stops; Sipeed's drivers know type 21. Source: section 9."""


class Act(enum.IntEnum):
    """Activation of a float layer."""

    LINEAR = 0
    RELU = 1
    RELU6 = 2


def _scalar(code: str) -> Any:
    return dataclasses.field(metadata={"code": code})


def u32() -> Any:
    """A dataclass field stored as an unsigned 32-bit number."""
    return _scalar("I")


def i32() -> Any:
    """A dataclass field stored as a signed 32-bit number."""
    return _scalar("i")


def f32() -> Any:
    """A dataclass field stored as a 32-bit float; the Python value is the exact widening of it."""
    return _scalar("f")


def _equal(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return left == right or (left != left and right != right)  # two NaN count as equal


class Record:
    """Base of dataclasses that hold arrays: equality compares types, shapes and bytes of the arrays."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """Whether every field is equal; arrays by dtype, shape and bytes."""
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)


def frozen_array(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The array in that dtype, read-only; values must survive the conversion."""
    given = np.asarray(array)
    converted: NDArray[Any] = np.ascontiguousarray(given, dtype)
    if given.flags.writeable and np.shares_memory(given, converted):
        converted = converted.copy()
    if given.dtype.kind in "iu" and not np.array_equal(given, converted):
        raise ValueError(f"values {given.min()} to {given.max()} do not fit {np.dtype(dtype)}")
    converted.flags.writeable = False
    return converted


def freeze_fields(record: Record, dtype: Any, *names: str) -> None:
    """Replace these fields of a frozen dataclass that is being made by `frozen_array` of them."""
    for name in names:
        object.__setattr__(record, name, frozen_array(getattr(record, name), dtype))


class KModelLayer(Record):
    """Base of every layer; `TYPE` is its number in the file."""

    __slots__ = ()
    TYPE: ClassVar[LayerType]

    @classmethod
    def scalar_format(cls) -> str:
        """The `struct` format of the leading scalar fields of the body, without the flags word."""
        codes = (f.metadata.get("code", "") for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        return "<" + "".join(codes)

    @classmethod
    def scalar_names(cls) -> tuple[str, ...]:
        """Names of the leading scalar fields."""
        return tuple(f.name for f in dataclasses.fields(cls) if "code" in f.metadata)  # type: ignore[arg-type]

    def tail(self) -> bytes:
        """The bytes of the body after the scalar fields."""
        return b""

    @classmethod
    def tail_fields(cls, scalars: dict[str, Any], reader: TailReader) -> dict[str, Any]:
        """Read what `tail` wrote.

        Args:
            scalars: the scalar fields just read, by name.
            reader: gives the bytes that follow them.
        """
        return {}


class TailReader(Protocol):
    """Reads the variable part of a body; every size is checked before use."""

    def take(self, dtype: str, count: int, name: str) -> NDArray[Any]:
        """A read-only array of the next `count` elements.

        Raises:
            UserError: they do not lie inside the body.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRange:
    """Bytes of the main buffer."""

    address: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnknownLayer(KModelLayer):
    """A layer of a type without a known body; kept so that a file can be described. No runner accepts it.

    Args:
        type: its number.
        body: its bytes, a multiple of 8.
    """

    type: int
    body: bytes

    def __post_init__(self) -> None:
        """Check the size."""
        if len(self.body) % device.K210.alignment.body:
            raise ValueError(f"body of {len(self.body)} bytes; a multiple of {device.K210.alignment.body} is needed")


def layer_type(layer: KModelLayer) -> int:
    """The number of a layer's type in the file."""
    return layer.type if isinstance(layer, UnknownLayer) else int(layer.TYPE)


def layer_type_name(number: int) -> str:
    """The name of a type number, ``type 999`` where it has none."""
    try:
        return LayerType(number).name
    except ValueError:
        return f"type {number}"
