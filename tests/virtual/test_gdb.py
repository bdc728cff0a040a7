"""The debugger's stub, spoken to as gdb does."""

import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai8x.errors import HardwareFault, UserError
from ai8x.virtual.gdb import serve
from ai8x.virtual.max78000 import Latency, Max78000
from ai8x.virtual.stop import Stop, StopCause

from .firmware import Build, FakeAccelerator, main_with

PC = 15
SOURCE = main_with("""
    for (uint32_t i = 0; i < 5; i++) { work(i); }
    REG32(0x50100000) = 9;
    printf("PASS\\n");
""", before="static volatile uint32_t sink; __attribute__((noinline)) void work(uint32_t i) { sink = i; sink++; }")


RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Debugger:
    """A gdb with a board of its own, in a thread."""

    def __init__(self, elf: Path) -> None:
        self.board = Max78000(elf, FakeAccelerator(), Latency(cycles=lambda: 1000))
        self.symbols = self.board.core.program.symbols
        self.stop: Stop | None = None
        self.error: Exception | None = None
        self._announced = threading.Event()
        self._port = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._announced.wait(10)
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=20)

    def _serve(self) -> None:
        try:
            self.stop = serve(self.board.core, port=0, announce=self._note)
        except HardwareFault as error:
            self.error = error

    def _note(self, text: str) -> None:
        self._port = int(re.findall(r"\d+$", text)[0])
        self._announced.set()

    def send(self, packet: str) -> None:
        self._socket.sendall(f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())

    def receive(self) -> str:
        data = b""
        while not re.search(rb"#..$", data):
            data += self._socket.recv(1)
        return re.sub(rb"^\+*\$|#..$", b"", data).decode()

    def ask(self, packet: str) -> str:
        self.send(packet)
        return self.receive()

    def interrupt(self) -> str:
        self._socket.sendall(b"\x03")
        return self.receive()

    def register(self, index: int) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(f"p{index:x}")), "little")

    def close(self, *, killed: bool = False) -> None:
        if killed:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self._socket.close()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def debugger(build: Build) -> Iterator[Debugger]:
    session = Debugger(build(SOURCE))
    yield session
    session.close()


def test_description_names_the_registers_of_the_core(debugger: Debugger) -> None:
    assert "qXfer:features:read+" in debugger.ask("qSupported:xmlRegisters=arm")
    text = debugger.ask("qXfer:features:read:target.xml:0,3fff")
    assert text.startswith("l<?xml") and "org.gnu.gdb.arm.m-profile" in text
    first = debugger.ask("qXfer:features:read:target.xml:0,10")
    assert first == "m" + text[1:17]
    assert len(debugger.ask("g")) == 17 * 8


def test_breakpoint_is_met_each_time_and_can_be_removed(debugger: Debugger) -> None:
    work = debugger.symbols["work"]
    assert debugger.ask(f"Z0,{work:x},2") == "OK"
    for count in range(5):
        assert debugger.ask("c") == "S05"
        assert debugger.register(PC) == work and debugger.register(0) == count
        if count == 3:
            assert debugger.ask(f"z0,{work:x},2") == "OK"
            break
    assert debugger.ask("c") == "W00"


def test_single_steps_follow_the_instructions(debugger: Debugger) -> None:
    work = debugger.symbols["work"]
    debugger.ask(f"Z0,{work:x},2")
    debugger.ask("vCont;c")
    places = []
    for _ in range(3):
        assert debugger.ask("vCont;s:1") == "S05"
        places.append(debugger.register(PC))
    assert places == sorted(set(places)) and work < places[0] and places[-1] <= work + 12


def test_breakpoint_on_an_interrupt_handler_is_met(build: Build) -> None:
    body = "NVIC_EnableIRQ(GPIO0_IRQn); NVIC_SetPendingIRQ(GPIO0_IRQn); __DSB(); printf(\"PASS\\n\");"
    session = Debugger(build(main_with(body, before="volatile int seen; void GPIO0_IRQHandler(void) { seen = 1; }")))
    handler = session.symbols["GPIO0_IRQHandler"]
    session.ask(f"Z0,{handler:x},2")
    assert session.ask("c") == "S05" and session.register(PC) == handler
    assert session.register(14) == 0xFFFFFFF9 and session.register(16) & 0x1FF == 16 + 24
    assert session.ask("c") == "W00"
    session.close()


def test_registers_and_memory_can_be_changed(debugger: Debugger) -> None:
    work = debugger.symbols["work"]
    debugger.ask(f"Z0,{work:x},2")
    debugger.ask("c")
    assert debugger.ask("P0=2a000000") == "OK"
    debugger.ask(f"z0,{work:x},2")
    finish = debugger.register(14) & ~1
    debugger.ask(f"Z0,{finish:x},2")
    assert debugger.ask("c") == "S05" and debugger.register(PC) == finish
    address = debugger.symbols["sink"]
    assert debugger.ask(f"m{address:x},4") == "2b000000"
    assert debugger.ask(f"M{address:x},2:1234") == "OK" and debugger.ask(f"m{address:x},4") == "12340000"


def test_peripherals_are_read_without_side_effects(debugger: Debugger) -> None:
    debugger.ask(f"Z0,{debugger.symbols['puts']:x},2")
    debugger.ask("c")
    before = debugger.board.result(Stop(cause=StopCause.DETACHED, reason="")).statistics
    assert debugger.ask("m50100000,8") == "0900000000000000"
    assert debugger.ask("m40042004,1") == "50"
    assert debugger.ask("me000ed00,4") == "41c20f41"
    assert debugger.board.result(Stop(cause=StopCause.DETACHED, reason="")).statistics == before
    assert debugger.ask("m60000000,4") == "E02"


def test_running_firmware_can_be_interrupted(build: Build) -> None:
    before = "static volatile uint32_t sink;"
    session = Debugger(build(main_with("for (;;) { sink++; }", before=before)))
    session.send("c")
    assert session.interrupt() == "S02"
    assert session.symbols["main"] <= session.register(PC) < session.symbols["main"] + 0x40
    assert session.ask("D") == "OK"
    session.close()
    assert session.stop is not None and session.stop.cause is StopCause.DETACHED


def test_debugger_that_is_killed_ends_the_run(build: Build) -> None:
    session = Debugger(build(SOURCE))
    session.ask("?")
    session.close(killed=True)
    assert session.stop is not None and session.stop.cause is StopCause.DETACHED


def test_crash_can_be_inspected_before_the_run_ends(build: Build) -> None:
    session = Debugger(build(main_with("volatile uint32_t *p = NULL; *p = 1;")))
    assert session.ask("c") == "S0b"
    assert session.ask("?") == "S0b" and session.symbols["main"] <= session.register(PC)
    session.send("k")
    session.close()
    assert session.stop is not None and session.stop.cause is StopCause.BUS_FAULT


@pytest.mark.parametrize("packet", ["pff", "pzz", "p-1", "m-4,4",
                                    "m", "m0", "M20000000", "P3", "Z0,zz,2", "Z9,0,2", "qNonsense", "x"])
def test_packet_that_makes_no_sense_is_answered_and_survived(debugger: Debugger, packet: str) -> None:
    assert debugger.ask(packet) in ("", "E01", "E02")
    assert debugger.ask("?") == "S05"


def test_port_in_use_is_a_user_error(build: Build) -> None:
    board = Max78000(build(SOURCE), FakeAccelerator(), Latency(cycles=lambda: 1))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UserError) as caught:
        serve(board.core, port=other.getsockname()[1], announce=lambda text: None)
    assert caught.value.diagnostics[0].code == "E0812"
