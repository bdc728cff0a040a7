"""The system control space of a Cortex-M4: NVIC, system control block, SysTick, cycle counter.

Owns which exceptions are pending, enabled and active, and which one the core takes next. Knows nothing of the CPU
emulator. Start at `SystemControl`.

Source: spec/virtual-boards.md sections 3.2, 3.4 and 6 (addresses); priorities as in the ARMv7-M architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ai8x.virtual import systick
from ai8x.virtual.bus import WORD_MASK, extract_bytes, merge_bytes
from ai8x.virtual.clock import Counter, VirtualTime

SYSTEM_BASE = 0xE000_0000
"""Private peripheral bus; 1 MiB."""
SYSTEM_SIZE = 0x10_0000

NMI, HARD_FAULT, SVCALL, PENDSV, SYSTICK = 2, 3, 11, 14, 15
FIRST_IRQ = 16
"""Exception number of external interrupt 0."""

_SCS = 0xE000  # offset of the system control space within the private peripheral bus
_ISER, _ICER, _ISPR, _ICPR, _IABR, _IPR = 0x100, 0x180, 0x200, 0x280, 0x300, 0x400
_CPUID, _ICSR, _VTOR, _AIRCR, _SCR, _CCR = 0xD00, 0xD04, 0xD08, 0xD0C, 0xD10, 0xD14
_SHPR, _CPACR, _STIR = 0xD18, 0xD88, 0xF00
_CYCCNT_POSITION = 0xE000_1004 - SYSTEM_BASE

_PRIORITY_MASK = 0xE0  # three priority bits
_AIRCR_KEY = 0x05FA
_ALWAYS_ENABLED = 1 << NMI | 1 << HARD_FAULT | 1 << SVCALL | 1 << PENDSV | 1 << SYSTICK
_BELOW_ALL = 0x100  # execution priority of thread mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """The core's mask registers as read from the CPU."""

    primask: int = 0
    faultmask: int = 0
    basepri: int = 0


class SystemControl:
    """Registers of the private peripheral bus and the exception logic behind them.

    Args:
        time: virtual time.
        num_irqs: external interrupts of the chip.
        vectors: address of the vector table after reset.
    """

    def __init__(self, time: VirtualTime, *, num_irqs: int, vectors: int) -> None:
        self._time = time
        self._num_exceptions = FIRST_IRQ + num_irqs
        self._pending = 0
        self._enabled = _ALWAYS_ENABLED
        self._active: list[int] = []
        self._priorities = [0] * self._num_exceptions
        self._words: dict[int, int] = {}
        self._group_bits = 0
        self._cycles = Counter(time, time.hz)
        self._cycles.run(running=True)
        self._systick = systick.SysTick(time, self.pend)
        self.vectors = vectors
        self.before_fpu_change: Callable[[], None] = lambda: None
        """Called before CPACR, which grants access to the floating-point unit, changes."""
        self.sleep_on_exit = False
        self.reset_requested = False
        self._words[_SCS + _CCR] = 0x200  # STKALIGN

    # --- exceptions -----------------------------------------------------------------------------------------------

    def pend(self, exception: int) -> None:
        """Make an exception pending."""
        self._pending |= 1 << exception

    def is_enabled(self, exception: int) -> bool:
        """Whether the exception can be taken at all."""
        return bool(self._enabled >> exception & 1)

    @property
    def waiting(self) -> bool:
        """Some enabled exception is pending, whatever the priorities say."""
        return bool(self._pending & self._enabled)

    @property
    def active(self) -> tuple[int, ...]:
        """Exceptions being handled, outermost first."""
        return tuple(self._active)

    @property
    def fpu_enabled(self) -> bool:
        """Full access to the floating-point unit has been granted in CPACR."""
        return self._words.get(_SCS + _CPACR, 0) >> 20 & 0xF == 0xF

    @property
    def enabled_irqs(self) -> tuple[int, ...]:
        """External interrupts that are enabled."""
        return tuple(n - FIRST_IRQ for n in range(FIRST_IRQ, self._num_exceptions) if self.is_enabled(n))

    def next_exception(self, masks: Masks) -> int | None:
        """The exception to take now, None where none is pending, enabled and urgent enough."""
        candidates = self._pending & self._enabled
        if not candidates:
            return None
        best = min((n for n in range(self._num_exceptions) if candidates >> n & 1),
                   key=lambda n: (self._priority(n), n))
        return best if self._group(self._priority(best)) < self._execution_priority(masks) else None

    def wakes(self, masks: Masks) -> bool:
        """Whether WFI ends: as `next_exception`, but PRIMASK does not hold the wake-up back."""
        return self.next_exception(Masks(faultmask=masks.faultmask, basepri=masks.basepri)) is not None

    def enter(self, exception: int) -> None:
        """The exception is taken."""
        self._pending &= ~(1 << exception)
        self._active.append(exception)

    def leave(self) -> int:
        """The innermost handler returned; gives the exception that is active now, 0 for thread mode."""
        self._active.pop()
        return self._active[-1] if self._active else 0

    def set_clock(self, hz: int) -> None:
        """Change the CPU clock."""
        self._systick.set_clock(hz)
        self._cycles.set_hz(hz)

    def _priority(self, exception: int) -> int:
        if exception in (NMI, HARD_FAULT):
            return exception - 4  # -2 and -1
        return self._priorities[exception]

    def _group(self, priority: int) -> int:
        """The part of a priority that decides pre-emption."""
        return priority if priority < 0 else priority & ~((2 << self._group_bits) - 1) & 0xFF

    def _execution_priority(self, masks: Masks) -> int:
        level = min((self._group(self._priority(n)) for n in self._active), default=_BELOW_ALL)
        if masks.basepri & _PRIORITY_MASK:
            level = min(level, self._group(masks.basepri & _PRIORITY_MASK))
        if masks.primask & 1:
            level = min(level, 0)
        return min(level, -1) if masks.faultmask & 1 else level

    # --- registers ------------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> int:
        """Bus read."""
        offset = (address & ~3) - SYSTEM_BASE
        if offset == _CYCCNT_POSITION:
            self._time.poll()
        elif _SCS + systick.CTRL <= offset <= _SCS + systick.CALIB:
            return extract_bytes(self._systick.read(offset - _SCS), address, size)
        return extract_bytes(self._peek_word(offset), address, size)

    def peek(self, address: int, size: int) -> int:
        """Debugger read."""
        return extract_bytes(self._peek_word((address & ~3) - SYSTEM_BASE), address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Bus write."""
        offset = (address & ~3) - SYSTEM_BASE
        if size != 4:
            clears = self._bit_row(offset) is not None  # writing 0 bits there changes nothing
            value = merge_bytes(0 if clears else self._peek_word(offset), address, size, value)
        self._write_word(offset, value & WORD_MASK)

    def _peek_word(self, offset: int) -> int:
        if offset == _CYCCNT_POSITION:
            return self._cycles.value() & WORD_MASK
        if not _SCS <= offset < _SCS + 0x1000:
            return self._words.get(offset, 0)
        register = offset - _SCS
        if systick.CTRL <= register <= systick.CALIB:
            return self._systick.peek(register)
        row = self._bit_row(offset)
        if row is not None:
            kind, shift = row
            bits = {_ISER: self._enabled, _ISPR: self._pending, _IABR: self._active_bits()}[kind]
            return bits >> shift & WORD_MASK
        first = self._first_priority(register)
        if first is not None:
            return sum(self._priorities[n] << 8 * i for i, n in enumerate(range(first, first + 4))
                       if n < self._num_exceptions)
        return self._peek_control(register)

    def _peek_control(self, register: int) -> int:
        if register == _CPUID:
            return 0x410F_C241
        if register == _VTOR:
            return self.vectors
        if register == _AIRCR:
            return 0xFA05_0000 | self._group_bits << 8
        if register == _ICSR:
            ready = self._pending & self._enabled
            first = (ready & -ready).bit_length() - 1 if ready else 0
            return ((self._active[-1] if self._active else 0) | first << 12 | (self._pending >> PENDSV & 1) << 28
                    | (self._pending >> SYSTICK & 1) << 26)
        return self._words.get(_SCS + register, 0)

    def _write_word(self, offset: int, value: int) -> None:
        if offset == _CYCCNT_POSITION:
            self._cycles.set(value)
            return
        if not _SCS <= offset < _SCS + 0x1000:
            self._words[offset] = value
            return
        register = offset - _SCS
        if systick.CTRL <= register <= systick.CALIB:
            self._systick.write(register, value)
        elif self._bit_row(offset) is not None:
            self._write_bits(register, value)
        elif (first := self._first_priority(register)) is not None:
            for i, number in enumerate(range(first, min(first + 4, self._num_exceptions))):
                self._priorities[number] = value >> 8 * i & _PRIORITY_MASK
        else:
            self._write_control(register, value)

    def _write_bits(self, register: int, value: int) -> None:
        """Set-enable, clear-enable, set-pending and clear-pending rows: ones act, zeros do nothing."""
        bits = value << FIRST_IRQ + 8 * (register & 0x7C) & (1 << self._num_exceptions) - 1
        kind = register & ~0x7F
        if kind == _ISER:
            self._enabled |= bits
        elif kind == _ICER:
            self._enabled &= ~bits
        elif kind == _ISPR:
            self._pending |= bits
        elif kind == _ICPR:
            self._pending &= ~bits

    def _write_control(self, register: int, value: int) -> None:
        if register == _VTOR:
            self.vectors = value & ~0x7F
        elif register == _AIRCR:
            if value >> 16 == _AIRCR_KEY:
                self._group_bits = value >> 8 & 7
                self.reset_requested |= bool(value >> 2 & 1)
        elif register == _ICSR:
            self._pending |= (value >> 28 & 1) << PENDSV | (value >> 26 & 1) << SYSTICK | (value >> 31) << NMI
            self._pending &= ~((value >> 27 & 1) << PENDSV | (value >> 25 & 1) << SYSTICK)
        elif register == _STIR:
            self.pend(FIRST_IRQ + (value & 0x1FF))
        else:
            if register == _CPACR:
                self.before_fpu_change()
            self._words[_SCS + register] = value
            if register == _SCR:
                self.sleep_on_exit = bool(value >> 1 & 1)

    def _bit_row(self, offset: int) -> tuple[int, int] | None:
        """(kind, exception number of bit 0) of a register that holds one bit per interrupt."""
        register = offset - _SCS
        if not _ISER <= register < _IABR + 0x80:
            return None
        kind = {_ISER: _ISER, _ICER: _ISER, _ISPR: _ISPR, _ICPR: _ISPR, _IABR: _IABR}[register & ~0x7F]
        return kind, FIRST_IRQ + 8 * (register & 0x7C)

    def _first_priority(self, register: int) -> int | None:
        """Exception whose priority is in byte 0 of the register, None where it holds no priorities."""
        if _IPR <= register < _IPR + self._num_exceptions - FIRST_IRQ:
            return FIRST_IRQ + register - _IPR
        return 4 + register - _SHPR if _SHPR <= register < _SHPR + 12 else None

    def _active_bits(self) -> int:
        return sum(1 << n for n in self._active)
