"""The board support of the MAX78000 ends every wait, also where the hardware does not answer."""

from pathlib import Path

import pytest

from ai8x.toolchain import build_project, missing_tools, write_build_files
from ai8x.virtual.bus import RegisterFile
from ai8x.virtual.peripherals import CacheControl, GlobalControl, Timer, Uart
from ai8x.virtual.systick import SysTick

from .firmware import Build, main_with, run

TIME_OUT = "main returned -10"


@pytest.fixture(scope="module")
def build_impatient(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a main with few polls."""
    if missing := missing_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")

    def build_source(source: str) -> Path:
        folder = tmp_path_factory.mktemp("impatient")
        write_build_files(folder, "impatient")
        (folder / "project.mk").write_text("PROJ_CFLAGS = -DMAX_POLLS=1000u\n")
        (folder / "main.c").write_text(source)
        return build_project(folder)

    return build_source


@pytest.mark.parametrize("clock", ["IPO", "ISO", "IBRO", "ERTCO"])
def test_oscillator_that_does_not_start_is_reported(build_impatient: Build, monkeypatch: pytest.MonkeyPatch,
                                                    clock: str) -> None:
    monkeypatch.setattr(GlobalControl, "peek_word", RegisterFile.peek_word)
    elf = build_impatient(main_with(f"return MXC_SYS_Clock_Select(MXC_SYS_CLOCK_{clock});", clock=False))
    result = run(elf)
    assert result.reason.startswith(TIME_OUT) and not result.console


def test_cache_that_is_never_ready_does_not_stop_the_start(build_impatient: Build,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheControl, "peek_word", RegisterFile.peek_word)
    assert run(build_impatient(main_with('printf("PASS\\n");'))).passed


def test_delays_end_where_nothing_counts(build_impatient: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SysTick, "peek", lambda timer, offset: 0)
    monkeypatch.setattr(Timer, "peek_word", RegisterFile.peek_word)
    body = "MXC_TMR_Delay(MXC_TMR1, 1000); MXC_TMR_SW_Start(MXC_TMR0); return MXC_Delay(100);"
    assert run(build_impatient(main_with(body))).reason.startswith(TIME_OUT)


def test_timer_that_does_not_count_ends_its_delay(build_impatient: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, peek_word = 0x0C, Timer.peek_word
    monkeypatch.setattr(Timer, "peek_word", lambda timer, offset: peek_word(timer, offset) & ~(offset == flags))
    assert run(build_impatient(main_with('MXC_TMR_Delay(MXC_TMR1, 100); printf("PASS\\n");'))).passed


def test_console_that_takes_nothing_loses_characters(build_impatient: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    full = 1 << 7 | 1 << 19
    monkeypatch.setattr(Uart, "peek_word", lambda uart, offset: full)
    result = run(build_impatient(main_with('putchar(65); return 5;')))
    assert result.reason.startswith("main returned 5") and not result.console
