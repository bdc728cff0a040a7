"""The chip's tables: addresses and encodings pinned to the specification's printed values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.device import canonical_name, get_device
from ai8x.errors import UserError
from ai8x.max7800x.device import MAX78000
from ai8x.registers import Field, Register, RegisterError

from .printed_tables import table_differences

BLOCKS = (MAX78000.quadrant, MAX78000.fifo, MAX78000.fast_fifo, MAX78000.aod, MAX78000.gcfr, MAX78000.gcr)
REGISTERS = [register for block in BLOCKS for register in block.registers]
IDS = [register.name for register in REGISTERS]
FIELDS = [(register, field) for register in REGISTERS for field in register.fields]


@pytest.mark.parametrize("register", REGISTERS, ids=IDS)
@given(data=st.data())
def test_decode_of_encode_is_identity(register: Register, data: st.DataObject) -> None:
    values = {field.name: data.draw(st.integers(field.min, field.max)) for field in register.fields}
    assert register.decode(register.encode(**values)) == values


@pytest.mark.parametrize(("register", "field"), FIELDS, ids=[f"{r.name}.{f.name}" for r, f in FIELDS])
def test_value_that_does_not_fit_is_refused(register: Register, field: Field) -> None:
    assert register.decode(register.encode(**{field.name: field.max}))[field.name] == field.max
    with pytest.raises(RegisterError, match=field.name):
        register.encode(**{field.name: field.max + 1})
    with pytest.raises(RegisterError, match=field.name):
        register.encode(**{field.name: field.min - 1})


@pytest.mark.parametrize("register", [r for r in REGISTERS if r.mask != 0xFFFFFFFF], ids=lambda r: r.name)
def test_reserved_bits_are_refused(register: Register) -> None:
    reserved = 0xFFFFFFFF & ~register.mask
    with pytest.raises(RegisterError, match="reserved"):
        register.decode(reserved & -reserved)


@pytest.mark.parametrize(
    ("name", "fields", "word"),
    [
        ("SRAM", {"rmargin_en": 1, "rmargin": 3, "wneg_en": 1}, 0x40E),
        ("CTRL", {"clk_en": 1, "ext_sync": 4, "mexpress": 1}, 0x00100808),
        ("CTRL", {"clk_en": 1, "ext_sync": 4, "mexpress": 1, "cnn_en": 1}, 0x00100809),
        ("CTRL", {"clk_en": 1, "mexpress": 1, "cnn_en": 1}, 0x00100009),
        ("RCNT", {"max": 31, "pad": 2}, 0x0002001F),
        ("LCTRL0", {"master": 1, "pool_en": 1, "maxpl_en": 1, "act_en": 1, "sramlsrc": 1, "cnnsi_en": 14}, 0xEBA0),
        ("LCTRL0", {"master": 1, "maxpl_en": 1, "sramlsrc": 1, "bigdwrt": 1}, 0x10920),
        ("LCTRL1", {"xpch_max": 59 * 8 + 0, "inpchexp": 0}, 0x1D800),
        ("LCTRL1", {"xpch_max": 9 * 8, "inpchexp": 15}, 0x480F),
        ("MCNT", {"sad": 0x2400, "max": 0x28F8}, 0x240028F8),
        ("POST", {"scale_reg": 2, "scale_shft": 1}, 0x24000),
        ("POST", {"bptr_en": 1}, 0x1000),
        ("EN", {"pro_en": 0xFFF0, "mask_en": 0xFFF0}, 0xFFF0FFF0),
        ("ONED", {"oned_width": 1}, 0x100),
    ],
)
def test_encodings_are_the_printed_words_of_sections_2_1_and_2_5(name: str, fields: dict[str, int], word: int) -> None:
    assert MAX78000.quadrant.register(name).encode(**fields) == word


def test_every_offset_field_and_address_is_the_printed_one() -> None:
    assert table_differences(MAX78000) == []


def test_fifo_setting_for_one_fifo_is_the_printed_word() -> None:
    assert MAX78000.fifo_setting | MAX78000.fifo.register("FIFO_CTRL").encode(enable=1) == 0x1908


def test_memory_addresses_are_those_of_section_1() -> None:
    geometry = MAX78000.geometry
    assert [geometry.quadrant_registers(q) for q in range(4)] == [0x50100000, 0x50500000, 0x50900000, 0x50D00000]
    assert [geometry.data_address(4 * q) for q in range(4)] == [0x50400000, 0x50800000, 0x50C00000, 0x51000000]
    assert geometry.data_address(7, 3) == 0x5081800C
    assert geometry.mask_address(17) == 0x50584000
    assert geometry.tram_address(63) == 0x50D4C000
    assert geometry.bias_address(2, 5) == 0x50908014
    assert [geometry.fifo_data_address(f) for f in range(4)] == [0x50000008, 0x5000000C, 0x50000010, 0x50000014]


def test_memory_sizes_add_up_to_the_totals_of_section_1() -> None:
    geometry = MAX78000.geometry
    assert geometry.num_instances * geometry.data_words * geometry.word_bytes == 512 * 1024
    assert geometry.num_processors * geometry.mask_words * geometry.mask_word_bytes == 442_368
    assert geometry.num_quadrants * geometry.bias_entries == 2 * 1024
    assert geometry.num_processors * geometry.tram_entries * 2 == 384 * 1024


@pytest.mark.parametrize("name", ["MAX78000", "max78000", "AI85", "ai85", "85", "78000", " Max85 "])
def test_every_spelling_finds_the_chip(name: str) -> None:
    assert canonical_name(name) == "max78000"
    assert get_device(name) is MAX78000


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MAX78002", "E0302"),
        ("87", "E0302"),
        ("ai87", "E0302"),
        ("78001", "E0301"),
        ("", "E0301"),
        ("maxk210", "E0301"),
        ("MAX", "E0301"),
    ],
)
def test_other_names_are_refused_with_a_code(name: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        get_device(name)
    assert caught.value.diagnostics[0].code == code


def test_k210_is_found_without_a_prefix() -> None:
    assert canonical_name("K210") == "k210"
