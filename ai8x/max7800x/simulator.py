"""The MAX78000 accelerator as a bus device: register and memory writes in, memories out.

Owns the bus decoder, power and clock, the FIFOs' bus side and the state of a run. It sees nothing but addresses and
values, so that a wrong register or a wrong weight byte shows. It is strict: what the specification does not define
raises `HardwareFault`. Start reading at `Accelerator`.

Its parts: `simulator_registers` (stored registers), `simulator_memory` (memories), `simulator_power`,
`simulator_fifo`; `simulator_layer`, `simulator_checks` and `simulator_network` (what the registers mean, as records of
`simulator_config`); `simulator_compute` (arithmetic), `simulator_run` (data movement), `simulator_trace` (recorded bus
traces).

Source: spec/max78000-cnn.md sections 1, 2, 5.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_compute import Kernel, read_kernel
from ai8x.max7800x.simulator_config import LayerGeometry
from ai8x.max7800x.simulator_fifo import FastFifo, Fifos
from ai8x.max7800x.simulator_memory import DataMemory, EntryMemory, MaskMemory
from ai8x.max7800x.simulator_network import NetworkConfig, check_control, decode_network
from ai8x.max7800x.simulator_power import Power
from ai8x.max7800x.simulator_registers import RegisterFile, register_fault
from ai8x.max7800x.simulator_run import LayerRun, run_layers

__all__ = ["Accelerator", "LayerGeometry", "LayerRun", "UndefinedOrigin"]

_GEOMETRY = MAX78000.geometry
_CTRL = MAX78000.quadrant.register("CTRL")
_TEST = MAX78000.quadrant.register("TEST")
_ENABLE = _CTRL.field("cnn_en").mask
_IRQ = _CTRL.field("cnn_irq").mask
_EXPRESS = _CTRL.field("mexpress").mask
_WORD = _GEOMETRY.word_bytes
_PAGE_BITS = 14
_PAGE_MASK = (1 << _PAGE_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UndefinedOrigin:
    """Why a byte holds no defined value.

    Args:
        address: bus address of the memory place that was never written.
        layer: first layer that read it, or None where no layer did.
    """

    address: int
    layer: int | None

    def __str__(self) -> str:
        reader = "" if self.layer is None else f", first used by layer {self.layer}"
        return f"address {self.address:#010x} was never written{reader}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """What lies behind 16 KiB of the bus; `index` is a quadrant, processor or half instance."""

    read: Callable[[int, int], int]
    write: Callable[[int, int, int, int], None]
    index: int
    quadrant: int
    is_memory: bool = False
    takes_bytes: bool = False
    after_read: Callable[[], None] | None = None


class Accelerator:
    """One accelerator.

    Registers that were never written are 0. Memories start with random contents and remember that these are undefined.

    Args:
        seed: chooses the random contents; None takes a seed from the operating system.
        powered: start powered, clocked and out of reset; otherwise `power` must enable it first, and every access
            before that is a fault.
        fifo_depth: words that a FIFO takes between two reads of its status; None never fills up. A depth shows
            firmware that does not poll the status.
    """

    def __init__(self, *, seed: int | None = None, powered: bool = True, fifo_depth: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        per_quadrant = _GEOMETRY.processors_per_quadrant
        self._data = DataMemory(rng)
        self._masks = MaskMemory(rng)
        self._bias = EntryMemory(
            rng, rows=_GEOMETRY.num_quadrants, entries=_GEOMETRY.bias_entries, bits=8, rows_per_quadrant=1
        )
        self._tram = EntryMemory(
            rng, rows=_GEOMETRY.num_processors, entries=_GEOMETRY.tram_entries, bits=16, rows_per_quadrant=per_quadrant
        )
        self._registers = RegisterFile()
        self._power = Power(powered)
        self._fifos = Fifos(fifo_depth)
        self._fast_fifo = FastFifo(fifo_depth)
        self._aod = 0
        self._running = False
        self._network: NetworkConfig | None = None
        self._kernels: tuple[Kernel | None, ...] = ()
        self._decoded: tuple[object, ...] = ()
        self._runs: tuple[LayerRun, ...] = ()
        self._readers: dict[int, int] = {}
        self._pages = self._build_pages()

    # Bus

    def write(self, address: int, size: int, value: int) -> None:
        """A bus write.

        Args:
            address: absolute.
            size: 4, or 1 for the byte write that starts an express kernel load.
            value: unsigned.

        Raises:
            HardwareFault: anything that the specification does not define.
        """
        page = self._pages.get(address >> _PAGE_BITS)
        if page is None:
            raise HardwareFault(f"address {address:#010x}: write to nothing")
        if (size != _WORD and (size != 1 or not page.takes_bytes)) or address % size or value >> 8 * size:
            raise HardwareFault(
                f"address {address:#010x}: write of {value:#x} in {size} bytes; only aligned 32-bit writes and "
                "the byte write that starts an express kernel load are defined"
            )
        if not self._power.is_accessible(page.quadrant):
            raise HardwareFault(f"address {address:#010x}: write while {self._power.why_not(page.quadrant)}")
        page.write(page.index, address & _PAGE_MASK, size, value)

    def read(self, address: int, size: int) -> int:
        """A bus read, with the effects that reading has.

        Raises:
            HardwareFault: nothing is there, it cannot be read, it has no power or clock, or it is memory in use.
        """
        page = self._pages.get(address >> _PAGE_BITS)
        if page is not None and not self._power.is_accessible(page.quadrant):
            raise HardwareFault(f"address {address:#010x}: read while {self._power.why_not(page.quadrant)}")
        if page is not None and self._running and page.is_memory:
            raise HardwareFault(f"address {address:#010x}: read of a memory while the accelerator is running")
        value = self.peek(address, size)
        if page is not None and page.after_read is not None:
            page.after_read()
        return value

    def peek(self, address: int, size: int) -> int:
        """The value at an address without any effect, powered or not.

        Raises:
            HardwareFault: nothing is there, or it cannot be read.
        """
        page = self._pages.get(address >> _PAGE_BITS)
        if page is None:
            raise HardwareFault(f"address {address:#010x}: read of nothing")
        if size not in {1, 2, _WORD} or address % size:
            raise HardwareFault(
                f"address {address:#010x}: read of {size} bytes; only aligned reads of 1, 2 and 4 are defined"
            )
        word = page.read(page.index, address & _PAGE_MASK & ~(_WORD - 1))
        return word >> 8 * (address % _WORD) & ((1 << 8 * size) - 1)

    def undefined(self, address: int) -> int:
        """Which bytes of a data, bias or mask word hold no defined value.

        Args:
            address: of the word, 32-bit aligned.

        Returns:
            A mask of whole bytes, 0 where all are defined; always 0 outside the memories.
        """
        page = self._pages.get(address >> _PAGE_BITS)
        offset = address & _PAGE_MASK
        if page is None:
            return 0
        if page.read == self._read_data:
            instance, word = self._data_place(page.index, offset)
            return sum(0xFF << 8 * lane for lane in range(_WORD) if self._data.undefined[instance, word, lane])
        if page.read == self._read_mask:
            word, part = divmod(offset, _GEOMETRY.mask_word_span)
            first = word * _GEOMETRY.mask_word_bytes
            lost = (
                part < 3 * _WORD and self._masks.undefined[page.index, first : first + _GEOMETRY.mask_word_bytes].any()
            )
            return 0xFFFFFFFF if lost else 0
        return 0xFF if page.read == self._read_bias and self._bias.undefined[page.index, offset // _WORD] else 0

    def undefined_origin(self, address: int) -> UndefinedOrigin | None:
        """Where the first undefined byte of a data word came from; None where the word is defined."""
        page = self._pages.get(address >> _PAGE_BITS)
        if page is None or page.read != self._read_data:
            return None
        instance, word = self._data_place(page.index, address & _PAGE_MASK)
        origins = self._data.origins(instance, slice(word, word + 1))[0]
        if not origins.any():
            return None
        origin = int(origins[np.flatnonzero(origins)[0]])
        return UndefinedOrigin(address=origin, layer=self._readers.get(origin))

    def power(self, address: int, value: int) -> None:
        """A write to one of the chip's power, clock and reset registers that concern the accelerator.

        Args:
            address: GCFR REG0 to REG3, GCR RST0, PCLKDIV or PCLKDIS0; only the accelerator's bits are looked at.
            value: the register's new value.

        Raises:
            HardwareFault: another address, a reserved bit of GCFR, or power taken away from a run.
        """
        change = self._power.write(address, value)
        if self._running and change.disturbs:
            raise HardwareFault(
                f"address {address:#010x}: power, clock or reset of the accelerator changed during a run"
            )
        for quadrant in change.lost_masks:
            self._masks.lose(quadrant)
        for quadrant in change.lost_power:
            self._data.lose(quadrant)
            self._bias.lose(quadrant)
            self._tram.lose(quadrant)
        for quadrant in change.reset:
            self._registers.reset(quadrant)

    # Runs

    @property
    def run_requested(self) -> bool:
        """A run was started and neither completed nor cancelled."""
        return self._running

    @property
    def input_complete(self) -> bool:
        """Every FIFO word that the run needs has arrived; True without FIFO."""
        if not self._running or self._network is None:
            return True
        need = self._network.fifo
        return (self._fast_fifo if need.fast else self._fifos).is_complete

    def complete(self) -> None:
        """Execute the network that was started: outputs are in memory and the interrupt flags set afterwards.

        Raises:
            HardwareFault: nothing was started, or input is missing.
        """
        if not self._running or self._network is None:
            raise HardwareFault("no run was started: CTRL.cnn_en of quadrant 0 did not go from 0 to 1")
        if not self.input_complete:
            raise HardwareFault(f"the run waits for input: {self._fifos.missing() or self._fast_fifo.missing()}")
        words = self._fast_fifo.words() if self._network.fifo.fast else self._fifos.words()
        self._runs, readers = run_layers(self._network, self._kernels, self._data, words)
        for origin, layer in readers.items():
            self._readers.setdefault(origin, layer)
        self._running = False
        self._close_fifos()
        for quadrant in self._network.mode.quadrants:
            self._registers.store(quadrant, _CTRL.offset, self._registers.load(quadrant, _CTRL.offset) | _IRQ)

    def layer_geometry(self) -> tuple[LayerGeometry, ...]:
        """Sizes of every layer of the latest run, as its registers state them.

        Raises:
            HardwareFault: nothing was started yet.
        """
        if self._network is None:
            raise HardwareFault("no run was started: the registers have not been decoded")
        return tuple(config.geometry for config in self._network.layers)

    def layer_output(self, layer: int) -> LayerRun:
        """What a layer wrote in the latest completed run.

        Raises:
            HardwareFault: no run completed, or there is no such layer.
        """
        if not 0 <= layer < len(self._runs):
            raise HardwareFault(f"layer {layer}: the latest completed run had {len(self._runs)} layers")
        return self._runs[layer]

    def _start(self) -> None:
        self._masks.end_loads()
        control = tuple(self._registers.word(q, "CTRL") for q in range(_GEOMETRY.num_quadrants))
        decoded = (control, self._registers.version)
        if self._network is None or self._decoded[:2] != decoded:
            self._network, self._decoded = decode_network(self._registers), ()
        contents = (*decoded, self._masks.version, self._bias.version)
        if self._decoded != contents:
            self._kernels = tuple(
                read_kernel(config, self._masks, self._bias) if config.geometry.kind == "conv" else None
                for config in self._network.layers
            )
            self._decoded = contents
        for quadrant in self._network.mode.quadrants:
            if not self._power.is_accessible(quadrant) or not self._power.has_masks(quadrant):
                raise HardwareFault(f"quadrant {quadrant} was started without power of its mask memory")
        need = self._network.fifo
        if need.fast:
            self._fast_fifo.open(need.words)
        elif need.fifos:
            self._fifos.open(need.fifos, need.words)
        self._running = True

    def _close_fifos(self) -> None:
        self._fifos.close()
        self._fast_fifo.close()

    # Handlers

    def _build_pages(self) -> dict[int, _Page]:
        """Bus address / 16 KiB -> what is there; always-on blocks belong to no quadrant (-1)."""
        places = {
            _GEOMETRY.fifo_base: _Page(
                read=self._read_control, write=self._write_control, index=0, quadrant=-1, after_read=self._fifos.drain
            ),
            _GEOMETRY.fast_fifo_base: _Page(
                read=self._read_fast, write=self._write_fast, index=0, quadrant=-1, after_read=self._fast_fifo.drain
            ),
        }
        for quadrant in range(_GEOMETRY.num_quadrants):
            places[_GEOMETRY.quadrant_registers(quadrant)] = _Page(
                read=self._read_register, write=self._write_register, index=quadrant, quadrant=quadrant
            )
            places[_GEOMETRY.bias_address(quadrant)] = _Page(
                read=self._read_bias, write=self._write_bias, index=quadrant, quadrant=quadrant, is_memory=True
            )
        for processor in range(_GEOMETRY.num_processors):
            quadrant = processor // _GEOMETRY.processors_per_quadrant
            places[_GEOMETRY.tram_address(processor)] = _Page(
                read=self._read_tram, write=self._write_tram, index=processor, quadrant=quadrant, is_memory=True
            )
            places[_GEOMETRY.mask_address(processor)] = _Page(
                read=self._read_mask,
                write=self._write_mask,
                index=processor,
                quadrant=quadrant,
                is_memory=True,
                takes_bytes=True,
            )
        for half in range(2 * _GEOMETRY.num_instances):
            quadrant = half // 2 // _GEOMETRY.instances_per_quadrant
            places[_GEOMETRY.data_address(half // 2) + (half % 2 << _PAGE_BITS)] = _Page(
                read=self._read_data, write=self._write_data, index=half, quadrant=quadrant, is_memory=True
            )
        return {address >> _PAGE_BITS: page for address, page in places.items()}

    def _refuse_while_running(self, what: str) -> None:
        if self._running:
            raise HardwareFault(f"{what}: write while the accelerator is running")

    def _read_control(self, index: int, offset: int) -> int:
        if offset == _GEOMETRY.aod_base & _PAGE_MASK:
            return self._aod
        return self._fifos.read(offset)

    def _write_control(self, index: int, offset: int, size: int, value: int) -> None:
        if offset != _GEOMETRY.aod_base & _PAGE_MASK:
            self._fifos.write(offset, value, running=self._running)
            return
        self._refuse_while_running("AOD_CTRL")
        fields = MAX78000.aod.register("AOD_CTRL")
        if value & ~fields.mask:
            raise register_fault("AOD_CTRL", f"value {value:#x} sets reserved bits", address=_GEOMETRY.aod_base)
        self._aod = value
        self._power.switch_masks_off(fields.field("mask_off").extract(value))

    def _read_fast(self, index: int, offset: int) -> int:
        return self._fast_fifo.read((_GEOMETRY.fast_fifo_base & ~_PAGE_MASK) + offset)

    def _write_fast(self, index: int, offset: int, size: int, value: int) -> None:
        self._fast_fifo.write((_GEOMETRY.fast_fifo_base & ~_PAGE_MASK) + offset, value, running=self._running)

    def _read_register(self, quadrant: int, offset: int) -> int:
        register, _ = self._registers.place(quadrant, offset)
        if register.name == "MLAT":
            raise register_fault(
                "MLAT", "not implemented by the simulator", address=_GEOMETRY.quadrant_registers(quadrant) + offset
            )
        return self._registers.load(quadrant, offset)

    def _write_register(self, quadrant: int, offset: int, size: int, value: int) -> None:
        if offset == _CTRL.offset:
            self._write_ctrl(quadrant, value)
            return
        if self._running:
            register, index = self._registers.place(quadrant, offset)
            raise register_fault(
                register.name,
                "write while the accelerator is running",
                quadrant=quadrant,
                address=_GEOMETRY.quadrant_registers(quadrant) + offset,
                layer=index if register.count > 1 else None,
            )
        if offset == _TEST.offset:
            value = self._run_self_test(quadrant, value)
        self._registers.store(quadrant, offset, value)

    def _write_ctrl(self, quadrant: int, value: int) -> None:
        """Start, cancel, acknowledge, or change modes; only the first two may happen during a run."""
        before = self._registers.load(quadrant, _CTRL.offset)
        address = _GEOMETRY.quadrant_registers(quadrant)
        if self._running and (value ^ before) & ~(_ENABLE | _IRQ):
            raise register_fault(
                "CTRL",
                f"mode bits {(value ^ before) & ~(_ENABLE | _IRQ):#x} changed while the accelerator is running",
                address=address,
                quadrant=quadrant,
            )
        if value & _IRQ and not before & _IRQ:
            raise register_fault("CTRL", "cnn_irq is set by hardware only", address=address, quadrant=quadrant)
        if (value ^ before) & _EXPRESS:
            self._masks.end_loads()
        self._registers.store(quadrant, _CTRL.offset, value)
        check_control(quadrant, value)
        if quadrant:
            return
        if self._running and not value & _ENABLE:
            self._running = False
            self._close_fifos()
        elif value & _ENABLE and not self._running:
            if before & _ENABLE:
                raise register_fault(
                    "CTRL", "cnn_en must be cleared before it is set again", address=address, quadrant=quadrant
                )
            self._start()

    def _run_self_test(self, quadrant: int, value: int) -> int:
        """Start the self tests or clearing named by `value`; both leave zeros (UNVERIFIED) and never fail here."""
        address = _GEOMETRY.quadrant_registers(quadrant) + _TEST.offset
        started = {field.name for field in _TEST.fields if value & field.mask}
        result = value
        for name, memory in (("data", self._data), ("mask", self._masks), ("tram", self._tram), ("bias", self._bias)):
            for kind in ("run", "zero"):
                if f"{kind}_{name}" in started:
                    memory.clear(quadrant)
                    result |= _TEST.encode(**{f"{kind}_done_{name}": 1, f"{kind}_complete": 1})
                    started.discard(f"{kind}_{name}")
        if started:
            raise register_fault(
                "TEST", f"{', '.join(sorted(started))}: status bits are read only", address=address, quadrant=quadrant
            )
        return result

    def _read_bias(self, quadrant: int, offset: int) -> int:
        return self._bias.read(quadrant, offset // _WORD, _GEOMETRY.bias_address(quadrant) + offset)

    def _write_bias(self, quadrant: int, offset: int, size: int, value: int) -> None:
        self._refuse_while_running("bias memory")
        self._bias.write(quadrant, offset // _WORD, value, _GEOMETRY.bias_address(quadrant) + offset)

    def _read_tram(self, processor: int, offset: int) -> int:
        return self._tram.read(processor, offset // _WORD, _GEOMETRY.tram_address(processor) + offset)

    def _write_tram(self, processor: int, offset: int, size: int, value: int) -> None:
        self._refuse_while_running("TRAM")
        self._tram.write(processor, offset // _WORD, value, _GEOMETRY.tram_address(processor) + offset)

    def _read_mask(self, processor: int, offset: int) -> int:
        return self._masks.read(processor, offset)

    def _write_mask(self, processor: int, offset: int, size: int, value: int) -> None:
        self._refuse_while_running("mask memory")
        quadrant = processor // _GEOMETRY.processors_per_quadrant
        if not self._power.has_masks(quadrant):
            raise HardwareFault(
                f"address {_GEOMETRY.mask_address(processor) + offset:#010x}: write to a mask memory without power"
            )
        express = self._registers.load(quadrant, _CTRL.offset) & _EXPRESS
        if size == 1 and not express:
            raise HardwareFault(
                f"address {_GEOMETRY.mask_address(processor) + offset:#010x}: byte write with CTRL.mexpress = 0"
            )
        if size == 1:
            self._masks.set_counter(processor, offset, value)
        elif express:
            self._masks.write_express(processor, offset, value)
        else:
            self._masks.write_plain(processor, offset, value)

    @staticmethod
    def _data_place(half: int, offset: int) -> tuple[int, int]:
        return half // 2, (half % 2 << _PAGE_BITS | offset) // _WORD

    def _read_data(self, half: int, offset: int) -> int:
        return int(self._data.words[self._data_place(half, offset)])

    def _write_data(self, half: int, offset: int, size: int, value: int) -> None:
        self._refuse_while_running("data memory")
        self._data.write_word(*self._data_place(half, offset), value)
