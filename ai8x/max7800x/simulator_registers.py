"""The simulated registers of the four quadrants, and faults that name them.

Owns the stored values, the refusal of reserved bits, and views of one layer's registers across quadrants. Gives
no meaning to any field. Start reading at `RegisterFile` and `LayerView`.

Source: spec/max78000-cnn.md section 2.
"""

from __future__ import annotations

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.registers import Access, Register

_BLOCK = MAX78000.quadrant
_GEOMETRY = MAX78000.geometry


def register_fault(
    register: str, what: str, *, address: int, layer: int | None = None, quadrant: int | None = None
) -> HardwareFault:
    """A fault that names register, layer, quadrant and bus address."""
    place = [f"{name} {number}" for name, number in (("layer", layer), ("quadrant", quadrant)) if number is not None]
    where = f"{', '.join(place)}: " if place else ""
    return HardwareFault(f"{where}{register} ({address:#010x}): {what}")


class RegisterFile:
    """All registers of all quadrants; those never written are 0 (section 2).

    Attributes:
        version: changes whenever a register other than CTRL changes.
    """

    def __init__(self) -> None:
        self._places = _BLOCK.by_offset()
        self._masks = {offset: register.mask for offset, (register, _) in self._places.items()}
        self._by_name = {register.name: register for register in _BLOCK.registers}
        self._words: list[dict[int, int]] = [{} for _ in range(_GEOMETRY.num_quadrants)]
        self.version = 0

    def place(self, quadrant: int, offset: int) -> tuple[Register, int]:
        """Register and index at a byte offset from the quadrant's base.

        Raises:
            HardwareFault: nothing is there.
        """
        place = self._places.get(offset)
        if place is None:
            address = _GEOMETRY.quadrant_registers(quadrant) + offset
            raise HardwareFault(f"address {address:#010x}: no register at offset {offset:#x} of quadrant {quadrant}")
        return place

    def store(self, quadrant: int, offset: int, value: int) -> None:
        """Take a bus write.

        Raises:
            HardwareFault: no register there, a read-only register, or a reserved bit.
        """
        register, index = self.place(quadrant, offset)
        if value & ~self._masks[offset] or register.access is Access.RO:
            what = (
                "is read only"
                if register.access is Access.RO
                else f"value {value:#010x} sets reserved bits {value & ~register.mask:#x}"
            )
            layer = index if register.count > 1 else None
            raise register_fault(
                register.name,
                what,
                address=_GEOMETRY.quadrant_registers(quadrant) + offset,
                layer=layer,
                quadrant=quadrant,
            )
        words = self._words[quadrant]
        if words.get(offset, 0) != value:
            words[offset] = value
            self.version += register.name != "CTRL"

    def load(self, quadrant: int, offset: int) -> int:
        """The stored word; 0 where none was written."""
        return self._words[quadrant].get(offset, 0)

    def word(self, quadrant: int, name: str, index: int = 0) -> int:
        """The stored word of a register by name."""
        register = self._by_name[name]
        return self._words[quadrant].get(register.offset + index * register.stride, 0)

    def fields(self, quadrant: int, name: str, index: int = 0) -> dict[str, int]:
        """Field values of a register by name."""
        return self._by_name[name].decode(self.word(quadrant, name, index))

    def has_index(self, name: str, index: int) -> bool:
        """Whether the row of registers is that long."""
        return index < self._by_name[name].count

    def address(self, quadrant: int, name: str, index: int = 0) -> int:
        """Bus address of a register by name."""
        return self._by_name[name].address(_GEOMETRY.quadrant_registers(quadrant), index)

    def reset(self, quadrant: int) -> None:
        """All registers of a quadrant to 0."""
        self._words[quadrant].clear()
        self.version += 1


class LayerView:
    """One layer's registers in the quadrants that take part in a run."""

    def __init__(self, registers: RegisterFile, layer: int, quadrants: tuple[int, ...]) -> None:
        self._registers = registers
        self.layer = layer
        self.quadrants = quadrants

    def fields(self, name: str, quadrant: int) -> dict[str, int]:
        """Field values in one quadrant; all 0 for a stream register that the layer does not have."""
        if not self._registers.has_index(name, self.layer):
            return dict.fromkeys((field.name for field in _BLOCK.register(name).fields), 0)
        return self._registers.fields(quadrant, name, self.layer)

    def common(self, name: str, differing: tuple[str, ...] = ()) -> dict[str, int]:
        """Field values that all quadrants must share.

        Args:
            name: register.
            differing: fields that may differ; their value in the first quadrant is returned.

        Raises:
            HardwareFault: a field differs between quadrants.
        """
        first, *others = self.quadrants
        fields = self.fields(name, first)
        for quadrant in others:
            other = self.fields(name, quadrant)
            for field, value in fields.items():
                if field not in differing and other[field] != value:
                    raise self.fault(
                        name, f"{field} = {other[field]}, but {value} in quadrant {first}; both must be equal", quadrant
                    )
        return fields

    def value(self, name: str) -> int:
        """The one field of a register that all quadrants must share."""
        return next(iter(self.common(name).values()))

    def expect(
        self, name: str, fields: dict[str, int], wanted: dict[str, int], why: str = "only this is simulated"
    ) -> None:
        """Refuse a field that does not have the wanted value.

        Raises:
            HardwareFault: the first field that differs.
        """
        for field, value in wanted.items():
            if fields[field] != value:
                raise self.fault(name, f"{field} = {fields[field]}, expected {value}: {why}")

    def fault(self, name: str, what: str, quadrant: int | None = None) -> HardwareFault:
        """A fault that names this layer's register."""
        where = self.quadrants[0] if quadrant is None else quadrant
        has = self._registers.has_index(name, self.layer)
        address = self._registers.address(where, name, self.layer if has else 0)
        return register_fault(name, what, address=address, layer=self.layer, quadrant=where)
