"""Describing hardware registers: fields, access kinds, encoding and decoding.

A chip's tables (``max7800x/device.py``, ``k210/device.py``) are plain literals of these types; lowering writes
through `Register.encode`, the simulators read through `Register.decode`, the manual prints the same objects.
Gaps between fields are reserved: `encode` leaves them 0 and `decode` refuses them otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Access(enum.Enum):
    """What a bus master may do with a register; a closed set."""

    RW = "read and write"
    RO = "read only"
    WO = "write only"


class RegisterError(ValueError):
    """A value does not fit its field, a field is unknown, or a reserved bit is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Bits ``low`` to ``high`` (inclusive) of a register.

    Args:
        name: as in the specification.
        low: lowest bit.
        high: highest bit, inclusive; equal to `low` for a flag.
        doc: meaning in one line.
        signed: two's complement within the field.
    """

    name: str
    low: int
    high: int
    doc: str = ""
    signed: bool = False

    @property
    def width(self) -> int:
        """Number of bits."""
        return self.high - self.low + 1

    @property
    def mask(self) -> int:
        """The field's bits at their place in the register."""
        return ((1 << self.width) - 1) << self.low

    @property
    def min(self) -> int:
        """Least value."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Greatest value."""
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1

    def extract(self, word: int) -> int:
        """The field's value in a register word."""
        value = (word & self.mask) >> self.low
        if self.signed and value > self.max:
            value -= 1 << self.width
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """A register, or a row of equal registers ``stride`` bytes apart.

    Args:
        name: as in the specification, upper case.
        offset: bytes from the base of its block.
        fields: ascending, without overlap; bits outside are reserved.
        access: what a bus master may do.
        reset: value after reset.
        bits: width, 32 or 64.
        count: number of equal registers (one per layer, say).
        stride: bytes from one to the next.
        doc: meaning in one line.
        source: section of the specification.
    """

    name: str
    offset: int
    fields: tuple[Field, ...]
    access: Access = Access.RW
    reset: int = 0
    bits: int = 32
    count: int = 1
    stride: int = 4
    doc: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        top = -1
        for field in self.fields:
            if field.low <= top or field.high < field.low or field.high >= self.bits:
                bits = f"{field.high}:{field.low}"
                raise RegisterError(f"{self.name}.{field.name}: bits {bits} overlap or leave the register")
            top = field.high
        if self.reset & ~self.mask:
            raise RegisterError(f"{self.name}: reset value {self.reset:#x} sets reserved bits")

    @property
    def mask(self) -> int:
        """All bits that belong to a field."""
        return sum(field.mask for field in self.fields)

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            RegisterError: no such field.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise RegisterError(f"{self.name} has no field {name}; it has {', '.join(f.name for f in self.fields)}")

    def encode(self, **values: int) -> int:
        """The register word for these field values; fields not named are 0.

        Raises:
            RegisterError: unknown field, or a value outside the field's range.
        """
        word = 0
        for name, value in values.items():
            field = self.field(name)
            if not field.min <= value <= field.max:
                raise RegisterError(f"{self.name}.{name} = {value}: allowed are {field.min} to {field.max}")
            word |= (int(value) << field.low) & field.mask
        return word

    def decode(self, word: int) -> dict[str, int]:
        """Field values of a register word, in ascending bit order.

        Raises:
            RegisterError: a reserved bit is set.
        """
        if word & ~self.mask:
            raise RegisterError(f"{self.name} = {word:#010x}: reserved bits {word & ~self.mask:#x} are set")
        return {field.name: field.extract(word) for field in self.fields}

    def address(self, base: int, index: int = 0) -> int:
        """Bus address of the register with that index in a block at ``base``."""
        if not 0 <= index < self.count:
            raise RegisterError(f"{self.name}[{index}]: there are {self.count}")
        return base + self.offset + index * self.stride


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterBlock:
    """Registers that share a base address."""

    name: str
    registers: tuple[Register, ...]

    def __post_init__(self) -> None:
        seen: dict[int, str] = {}
        for offset, register, index in self._places():
            if offset in seen:
                raise RegisterError(f"{self.name}: {register.name}[{index}] and {seen[offset]} share offset "
                                    f"{offset:#x}")
            seen[offset] = f"{register.name}[{index}]"

    def _places(self) -> Iterator[tuple[int, Register, int]]:
        for register in self.registers:
            for index in range(register.count):
                yield register.offset + index * register.stride, register, index

    def by_offset(self) -> dict[int, tuple[Register, int]]:
        """Byte offset -> (register, index), for a simulator's address decoder."""
        return {offset: (register, index) for offset, register, index in self._places()}

    def register(self, name: str) -> Register:
        """The register of that name.

        Raises:
            RegisterError: no such register.
        """
        for register in self.registers:
            if register.name == name:
                return register
        raise RegisterError(f"{self.name} has no register {name}")
