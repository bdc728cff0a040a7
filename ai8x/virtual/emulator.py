"""The instruction emulators behind the virtual cores: a typed wrapper around Unicorn, the only module that imports it.

They execute instructions and nothing of what surrounds a core. Start at `Emulator`; `ArmEmulator` and `RiscvEmulator`
are the two processors.

Source: spec/virtual-boards.md sections 2, 3.5 and 4.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import user_error
from ai8x.virtual.bus import BusDevice
from ai8x.virtual.clock import Preempted, VirtualTime

INSTALL_HELP = "pip install 'ai8x[virtual]'"
"""What to do where Unicorn or pyelftools is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A memory of the chip.

    Args:
        name: as the user knows it.
        base: first address.
        size: bytes, a multiple of 4096.
        writable: RAM; otherwise flash, which a store cannot change.
    """

    name: str
    base: int
    size: int
    writable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BadAccess:
    """An access that no memory answers.

    Args:
        kind: ``fetch``, ``read``, ``write`` or ``write to flash``.
        address: where.
        size: bytes.
    """

    kind: str
    address: int
    size: int

    def __str__(self) -> str:
        """For the user, as part of a sentence."""
        if self.kind == "write to flash":
            return f"{self.size}-byte write to flash at 0x{self.address:08x}"
        preposition = "from" if self.kind == "read" else "to"
        text = f"{self.size}-byte {self.kind} {preposition} 0x{self.address:08x}, where there is nothing"
        return f"{text} (null pointer)" if self.address < 0x1000 else text


@dataclass(slots=True)
class Signals:
    """What was noted while a slice ran."""

    sleep_at: int | None = None
    interrupt: int | None = None
    bad_access: BadAccess | None = None
    error: Exception | None = None
    cut_short: bool = False


def _unicorn() -> ModuleType:
    try:
        import unicorn
    except ImportError as error:
        raise user_error("E0801", "running firmware needs unicorn, which is not installed",
                         help=INSTALL_HELP) from error
    return unicorn


class Emulator:
    """A processor that executes instructions; memories and peripherals are attached from outside.

    Args:
        module: Unicorn.
        uc: its engine, set to the processor.
        registers: architectural name -> the engine's number.
        time: virtual time; every peripheral access lets a little of it pass.
    """

    _address_mask: ClassVar[int]

    def __init__(self, module: ModuleType, uc: Any, registers: dict[str, int], time: VirtualTime) -> None:
        self.signals = Signals()
        self.accesses = 0
        """Peripheral accesses so far."""
        self._module: Any = module
        self._uc = uc
        self._registers = registers
        self._time = time
        self._devices: list[tuple[int, int, BusDevice]] = []
        uc.hook_add(module.UC_HOOK_INTR, self._on_interrupt)
        uc.hook_add(module.UC_HOOK_MEM_INVALID, self._on_bad_access)

    def map_device(self, base: int, size: int, device: BusDevice) -> None:
        """Attach a peripheral to a range of whole pages."""
        time = self._time

        def read(_uc: object, offset: int, length: int, _data: object) -> int:
            if self.signals.error is not None:
                return 0
            self.accesses += 1
            time.now_fs += time.access_fs
            try:
                return device.read(base + offset, length)
            except Preempted:  # stopping here undoes the load: it is repeated after the handler
                self.stop()
                return device.peek(base + offset, length)
            except Exception as error:  # noqa: BLE001 - must not unwind through C code; the core raises it again
                self._abort(error)
                return 0

        def write(_uc: object, offset: int, length: int, value: int, _data: object) -> None:
            if self.signals.error is not None:
                return
            self.accesses += 1
            time.access()
            try:
                device.write(base + offset, length, value)
            except Exception as error:  # noqa: BLE001 - as above
                self._abort(error)

        self._devices.append((base, base + size, device))
        self._uc.mmio_map(base, size, read, None, write, None)

    def hook(self, address: int, callback: Callable[[int], None]) -> None:
        """Call back with the address before the instruction there is executed."""
        self._uc.hook_add(self._module.UC_HOOK_CODE, lambda _uc, at, _size, _data: callback(at),
                          begin=address, end=address)

    def flush(self) -> None:
        """Make hooks that were added after execution began take effect."""
        self._uc.ctl_flush_tb()

    def execute(self, pc: int, until: int, count: int) -> str:
        """Execute up to `count` instructions.

        What hooks noted meanwhile is in `signals`.

        Returns:
            The emulator's own complaint; empty where it had none.
        """
        self.signals = Signals()
        try:
            self._uc.emu_start(pc, until, count=count)
        except self._module.UcError as error:
            return str(error)
        return ""

    def stop(self) -> None:
        """End the slice; from a hook, or from a read that may be repeated, never from a write."""
        self.signals.cut_short = True
        self._uc.emu_stop()

    def get(self, name: str) -> int:
        """A register, by its architectural name."""
        return int(self._uc.reg_read(self._registers[name]))

    def set(self, name: str, value: int) -> None:
        """Change a register."""
        self._uc.reg_write(self._registers[name], value)

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes of memory, None where there is none."""
        try:
            return bytes(self._uc.mem_read(address, size))
        except self._module.UcError:
            return None

    def write(self, address: int, data: bytes) -> bool:
        """Change memory, flash included; False where there is none."""
        try:
            self._uc.mem_write(address, data)
        except self._module.UcError:
            return False
        return True

    def peek(self, address: int, size: int) -> bytes | None:
        """What a debugger sees: memory, or peripherals without side effects; None where there is nothing."""
        for base, end, device in self._devices:
            if base <= address and address + size <= end:
                words = range(address & ~3, address + size, 4)
                data = b"".join(device.peek(word, 4).to_bytes(4, "little") for word in words)
                return data[address & 3: (address & 3) + size]
        return self.read(address, size)

    def word(self, address: int) -> int:
        """A little-endian word of memory; 0 where there is none."""
        return int.from_bytes(self.read(address, 4) or b"", "little")

    def half(self, address: int) -> int:
        """A little-endian halfword of memory; 0 where there is none."""
        return int.from_bytes(self.read(address, 2) or b"", "little")

    def _abort(self, error: Exception) -> None:
        self.signals.error = error
        self._uc.emu_stop()

    def _on_interrupt(self, uc: Any, number: int, _data: object) -> None:
        self.signals.interrupt = number
        uc.emu_stop()  # a hook that neither stops nor moves the PC would be called for ever

    def _on_bad_access(self, _uc: object, access: int, address: int, size: int, _value: int, _data: object) -> bool:
        module = self._module
        kinds = {module.UC_MEM_FETCH_UNMAPPED: "fetch", module.UC_MEM_FETCH_PROT: "fetch",
                 module.UC_MEM_READ_UNMAPPED: "read", module.UC_MEM_READ_PROT: "read",
                 module.UC_MEM_WRITE_PROT: "write to flash"}
        self.signals.bad_access = BadAccess(kind=kinds.get(access, "write"), address=address & self._address_mask,
                                            size=size)
        return False


class ArmEmulator(Emulator):
    """A Cortex-M4; addresses of code are given without the Thumb bit.

    Args:
        time: virtual time.

    Raises:
        UserError: E0801 Unicorn is not installed.
    """

    _address_mask = 0xFFFF_FFFF

    def __init__(self, time: VirtualTime) -> None:
        unicorn = _unicorn()
        from unicorn import arm_const

        uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        uc.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M4)
        super().__init__(unicorn, uc, _numbers(arm_const, "UC_ARM_REG_"), time)

    def map_memory(self, memory: Memory, generator: random.Random) -> None:
        """Add a memory: flash is erased (all ones), RAM holds arbitrary bytes."""
        access = self._module.UC_PROT_READ | self._module.UC_PROT_EXEC
        access |= self._module.UC_PROT_WRITE if memory.writable else 0
        self._uc.mem_map(memory.base, memory.size, access)
        self.write(memory.base, generator.randbytes(memory.size) if memory.writable else b"\xff" * memory.size)

    def execute(self, pc: int, until: int, count: int) -> str:
        """As `Emulator.execute`."""
        return super().execute(pc | 1, until, count)


class RiscvEmulator(Emulator):
    """An RV64 core; registers are called ``PC``, ``A0``, ``X5``, ``MSTATUS``.

    Args:
        time: virtual time.

    Raises:
        UserError: E0801 Unicorn is not installed.
    """

    _address_mask = 0xFFFF_FFFF_FFFF_FFFF

    def __init__(self, time: VirtualTime) -> None:
        unicorn = _unicorn()
        from unicorn import riscv_const

        uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        super().__init__(unicorn, uc, _numbers(riscv_const, "UC_RISCV_REG_"), time)
        self._memories: list[NDArray[np.uint8]] = []  # the engine holds only their addresses

    def map_memory(self, memory: NDArray[np.uint8], base: int) -> None:
        """Make an array of whole pages visible at an address; one array may be visible at several."""
        self._memories.append(memory)
        self._uc.mem_map_ptr(base, memory.size, self._module.UC_PROT_ALL, ctypes.c_void_p(memory.ctypes.data))


def _numbers(constants: ModuleType, prefix: str) -> dict[str, int]:
    """The engine's register numbers by architectural name."""
    return {name.removeprefix(prefix): value for name, value in vars(constants).items() if name.startswith(prefix)}
