"""Power, isolation, reset and clock of the quadrants.

Owns the chip registers of spec/max78000-cnn.md section 1.1 as far as they decide whether an access can work. Start
reading at `Power`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_registers import register_fault
from ai8x.registers import Register

_GEOMETRY = MAX78000.geometry
_ALL = (1 << _GEOMETRY.num_quadrants) - 1
_CLOCK_OFF = MAX78000.gcr.register("GCR_PCLKDIS0").field("cnn")
_RESET = MAX78000.gcr.register("GCR_RST0").field("cnn")
_DIVIDER = MAX78000.gcr.register("GCR_PCLKDIV").field("cnnclkdiv")
_LAST_DIVIDER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerChange:
    """What a write to a power or clock register did.

    Args:
        lost_power: quadrants whose data, bias and TRAM contents are gone.
        lost_masks: quadrants whose mask contents are gone.
        reset: quadrants whose registers are 0 now.
        disturbs: whether a run could not survive it.
    """

    lost_power: tuple[int, ...] = ()
    lost_masks: tuple[int, ...] = ()
    reset: tuple[int, ...] = ()
    disturbs: bool = False


def _quadrants(bits: int) -> tuple[int, ...]:
    return tuple(quadrant for quadrant in range(_GEOMETRY.num_quadrants) if bits >> quadrant & 1)


class Power:
    """Which quadrants have power, are connected, out of reset and clocked.

    Args:
        powered: start with everything on.
    """

    def __init__(self, powered: bool) -> None:
        self._bits = {"GCFR_REG0": _ALL, "GCFR_REG1": _ALL, "GCFR_REG2": 0, "GCFR_REG3": 0}
        if not powered:
            self._bits = {"GCFR_REG0": 0, "GCFR_REG1": 0, "GCFR_REG2": _ALL, "GCFR_REG3": 0}
        self._clock = powered
        self._mask_off = 0
        self._accessible: list[bool] = []
        self._masks_on: list[bool] = []
        self._update()

    def is_accessible(self, quadrant: int) -> bool:
        """Whether bus accesses reach a quadrant; -1 for the blocks that only need the clock."""
        return self._accessible[quadrant]

    def has_masks(self, quadrant: int) -> bool:
        """Whether the quadrant's mask memory has power."""
        return self._masks_on[quadrant]

    def switch_masks_off(self, quadrants: int) -> None:
        """Take AOD_CTRL.mask_off: one bit for each quadrant whose mask memory is off."""
        self._mask_off = quadrants
        self._update()

    def why_not(self, quadrant: int) -> str:
        """The reason why a quadrant is not accessible, for a message."""
        if not self._clock:
            return "the accelerator's clock is stopped (PCLKDIS0 bit 25)"
        states = (
            ("GCFR_REG0", 1, "has no power (GCFR REG0)"),
            ("GCFR_REG3", 0, "is held in reset (GCFR REG3)"),
            ("GCFR_REG2", 0, "is isolated (GCFR REG2)"),
        )
        for name, good, text in states:
            if self._bits[name] >> quadrant & 1 != good:
                return f"quadrant {quadrant} {text}"
        return "it is accessible"

    def write(self, address: int, value: int) -> PowerChange:
        """Take a write to GCFR REG0 to REG3, or to the accelerator's bits of RST0, PCLKDIV or PCLKDIS0.

        Raises:
            HardwareFault: another address, or a value without meaning.
        """
        for block, base in ((MAX78000.gcfr, _GEOMETRY.gcfr_base), (MAX78000.gcr, _GEOMETRY.gcr_base)):
            place = block.by_offset().get(address - base)
            if place is not None:
                take = self._write_gcfr if block is MAX78000.gcfr else self._write_gcr
                return take(place[0], address, value)
        raise HardwareFault(f"address {address:#010x}: not a power or clock register of the accelerator")

    def _write_gcfr(self, register: Register, address: int, value: int) -> PowerChange:
        if value & ~register.mask:
            raise register_fault(register.name, f"value {value:#x} sets reserved bits", address=address)
        before, self._bits[register.name] = self._bits[register.name], value
        self._update()
        lost = _quadrants(before & ~value)
        if register.name == "GCFR_REG0":
            return PowerChange(lost_power=lost, reset=lost, disturbs=bool(lost))
        if register.name == "GCFR_REG1":
            return PowerChange(lost_masks=lost, disturbs=bool(lost))
        gained = _quadrants(value & ~before)
        return PowerChange(reset=gained if register.name == "GCFR_REG3" else (), disturbs=bool(gained))

    def _write_gcr(self, register: Register, address: int, value: int) -> PowerChange:
        if register.name == "GCR_RST0":
            reset = bool(_RESET.extract(value))
            return PowerChange(reset=_quadrants(_ALL) if reset else (), disturbs=reset)
        if register.name == "GCR_PCLKDIV":
            if _DIVIDER.extract(value) > _LAST_DIVIDER:
                raise register_fault(
                    register.name,
                    f"cnnclkdiv = {_DIVIDER.extract(value)}: 0 to {_LAST_DIVIDER} are defined",
                    address=address,
                )
            return PowerChange()
        self._clock = not _CLOCK_OFF.extract(value)
        self._update()
        return PowerChange(disturbs=not self._clock)

    def _update(self) -> None:
        bits = self._bits
        good = bits["GCFR_REG0"] & ~bits["GCFR_REG2"] & ~bits["GCFR_REG3"]
        # The last entry stands for quadrant -1: blocks outside the quadrants.
        quadrants = range(_GEOMETRY.num_quadrants)
        self._accessible = [self._clock and bool(good >> quadrant & 1) for quadrant in quadrants] + [self._clock]
        self._masks_on = [bool(bits["GCFR_REG1"] & ~self._mask_off & 1 << quadrant) for quadrant in quadrants]
