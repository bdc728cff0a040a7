"""A gdb remote stub for a virtual core: breakpoints, stepping, registers, memory and peripherals.

Serves one debugger on the loopback interface. Peripheral addresses are read without side effects. Start at `serve`;
connect with ``gdb-multiarch FILE.elf -ex 'target remote :PORT'``.

Source: spec/virtual-boards.md section 3.6; the remote serial protocol of the gdb manual.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Callable

from ai8x.errors import HardwareFault, user_error
from ai8x.virtual.cortex_m import CortexM
from ai8x.virtual.stop import Stop, StopCause

_REGISTERS = (*(f"R{i}" for i in range(13)), "SP", "LR", "PC", "XPSR")
_PC = _REGISTERS.index("PC")
_INTERRUPT = b"\x03"
_DIGITS = re.compile("[0-9A-Fa-f]+")
_TRAP, _SEGMENT_FAULT, _INTERRUPTED = "S05", "S0b", "S02"
_MAX_BYTES = 0x4000
_TARGET = '<?xml version="1.0"?><target version="1.0"><architecture>arm</architecture>' \
          '<feature name="org.gnu.gdb.arm.m-profile">' \
          + "".join(f'<reg name="{name.lower()}" bitsize="32"/>' for name in _REGISTERS) + "</feature></target>"


def serve(core: CortexM, *, port: int, announce: Callable[[str], None]) -> Stop:
    """Wait for a debugger and let it run the firmware.

    Args:
        core: a core that has not run yet.
        port: TCP port on the loopback interface; 0 takes a free one.
        announce: told where to connect.

    Returns:
        How the firmware ended, or that the debugger left, be it without a word.

    Raises:
        HardwareFault: a peripheral refused an access, once the debugger is done looking at it.
        UserError: E0812 the port cannot be opened.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise user_error("E0812", f"port {port} cannot be opened for the debugger: {error}",
                         help="choose another port") from error
    with listener:
        announce(f"waiting for a debugger: target remote :{listener.getsockname()[1]}")
        connection, _ = listener.accept()
        with connection:
            return _Session(core, connection).serve()


class _Session:
    """One connected debugger."""

    def __init__(self, core: CortexM, connection: socket.socket) -> None:
        self._core = core
        self._connection = connection
        self._buffer = b""
        self._last = _TRAP
        self._stop: Stop | None = None
        self._fault: HardwareFault | None = None
        self._done = False

    def serve(self) -> Stop:
        """Answer packets until the debugger leaves or the firmware has ended."""
        with contextlib.suppress(ConnectionError):  # the debugger was killed
            while not self._done and (packet := self._receive()) is not None:
                reply = self._answer(packet)
                if reply is not None:
                    self._send(reply)
        if self._fault is not None:
            raise self._fault
        return self._stop or Stop(cause=StopCause.DETACHED, reason="the debugger ended the run")

    # --- packets --------------------------------------------------------------------------------------------------

    def _receive(self) -> str | None:
        """The next packet's content; None when the connection has ended."""
        while True:
            start = self._buffer.find(b"$")
            end = self._buffer.find(b"#", start) if start >= 0 else -1
            if 0 <= end <= len(self._buffer) - 3:
                content, self._buffer = self._buffer[start + 1: end], self._buffer[end + 3:]
                self._connection.sendall(b"+")
                return content.decode("ascii", errors="replace")
            data = self._connection.recv(4096)
            if not data or len(self._buffer) > 4 * _MAX_BYTES:
                return None
            self._buffer += data

    def _send(self, content: str) -> None:
        self._connection.sendall(f"${content}#{sum(content.encode()) & 0xFF:02x}".encode())

    def _answer(self, packet: str) -> str | None:
        """The reply; empty for what is not supported, None where there is none."""
        handlers: dict[str, Callable[[str], str | None]] = {
            "?": lambda _: self._last, "g": self._read_all, "p": self._read_one, "P": self._write_one,
            "m": self._read_memory, "M": self._write_memory, "Z": self._breakpoint, "z": self._breakpoint,
            "c": lambda _: self._run(single=False), "s": lambda _: self._run(single=True), "k": self._leave,
            "D": self._leave, "H": lambda _: "OK", "v": self._verbose, "q": self._query,
        }
        handler = handlers.get(packet[:1])
        try:
            return handler(packet) if handler else ""
        except (ValueError, IndexError, HardwareFault):
            return "E01"

    def _query(self, packet: str) -> str:
        if packet.startswith("qSupported"):
            return f"PacketSize={_MAX_BYTES:x};qXfer:features:read+"
        if packet.startswith("qXfer:features:read:target.xml:"):
            offset, length = (_number(text) for text in packet.rsplit(":", 1)[1].split(","))
            part = _TARGET[offset: offset + length]
            return ("m" if offset + length < len(_TARGET) else "l") + part
        return {"qAttached": "1", "qC": "QC1", "qfThreadInfo": "m1", "qsThreadInfo": "l"}.get(packet, "")

    def _verbose(self, packet: str) -> str | None:
        if packet == "vCont?":
            return "vCont;c;s"
        if packet.startswith("vCont;"):
            return self._run(single=packet[6] in "sS")
        return ""

    def _leave(self, packet: str) -> str | None:
        self._done = True
        return "OK" if packet.startswith("D") else None

    # --- running --------------------------------------------------------------------------------------------------

    def _run(self, *, single: bool) -> str:
        """Execute until a breakpoint, the end, or the debugger's interrupt."""
        if self._stop is not None or self._fault is not None:
            self._done = True
            return "X0b"
        try:
            self._last = self._execute(single=single)
        except HardwareFault as fault:
            self._fault = fault
            self._last = _SEGMENT_FAULT
        return self._last

    def _execute(self, *, single: bool) -> str:
        while True:
            self._stop = self._core.step(1 if single else self._core.slice_instructions)
            if self._stop is not None:
                self._done = self._stop.cause is StopCause.RETURNED
                return "W00" if self._done else _SEGMENT_FAULT
            if single or self._core.at_breakpoint():
                return _TRAP
            if self._interrupted():
                return _INTERRUPTED

    def _interrupted(self) -> bool:
        """Whether the debugger asks to stop (or has gone, which the next receive notices)."""
        if select.select([self._connection], [], [], 0)[0]:
            data = self._connection.recv(4096)
            self._buffer += data
            if not data:
                return True
        before, found, after = self._buffer.partition(_INTERRUPT)
        self._buffer = before + after
        return bool(found)

    def _breakpoint(self, packet: str) -> str:
        kind, address, _ = packet[1:].split(",", 2)
        if kind not in "01":
            return ""
        change = self._core.set_breakpoint if packet[0] == "Z" else self._core.clear_breakpoint
        change(_number(address) & ~1)
        return "OK"

    # --- registers and memory -------------------------------------------------------------------------------------

    def _register(self, index: int) -> str:
        value = self._core.pc if index == _PC else self._core.emulator.get(_REGISTERS[index])
        return (value & 0xFFFF_FFFF).to_bytes(4, "little").hex()

    def _read_all(self, _packet: str) -> str:
        return "".join(self._register(index) for index in range(len(_REGISTERS)))

    def _read_one(self, packet: str) -> str:
        return self._register(_number(packet[1:]))

    def _write_one(self, packet: str) -> str:
        index, text = packet[1:].split("=")
        value = int.from_bytes(bytes.fromhex(text), "little")
        if _number(index) == _PC:
            self._core.pc = value & ~1
        else:
            self._core.emulator.set(_REGISTERS[_number(index)], value)
        return "OK"

    def _read_memory(self, packet: str) -> str:
        address, size = (_number(text) for text in packet[1:].split(","))
        data = self._core.emulator.peek(address, min(size, _MAX_BYTES))
        return "E02" if data is None else data.hex()

    def _write_memory(self, packet: str) -> str:
        place, text = packet[1:].split(":")
        written = self._core.emulator.write(_number(place.split(",")[0]), bytes.fromhex(text))
        return "OK" if written else "E02"


def _number(text: str) -> int:
    """Hexadecimal digits and nothing else: no sign, no prefix, no spaces.

    Raises:
        ValueError: anything else.
    """
    if not _DIGITS.fullmatch(text):
        raise ValueError(text)
    return int(text, 16)
