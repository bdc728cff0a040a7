"""Registers encode and decode without loss, and refuse what does not fit; over both chips' tables and invented ones."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.max7800x.device import MAX78000
from ai8x.registers import Field, Register, RegisterBlock, RegisterError


def tables() -> Iterator[Register]:
    """Every register that MAX78000's device record describes."""
    for name in MAX78000.__slots__:
        block = getattr(MAX78000, name)
        if isinstance(block, RegisterBlock):
            yield from block.registers


REGISTERS = tuple(tables())


@st.composite
def registers(draw: st.DrawFn) -> Register:
    """Registers with random fields and gaps."""
    bits = draw(st.sampled_from((32, 64)))
    fields, low = [], 0
    while True:
        low += draw(st.integers(0, 5))
        width = draw(st.integers(1, 17))
        if low + width > bits:
            return Register(name="R", offset=0, bits=bits, fields=tuple(fields))
        fields.append(Field(name=f"f{len(fields)}", low=low, high=low + width - 1, signed=draw(st.booleans())))
        low += width


@st.composite
def contents(draw: st.DrawFn, register: Register) -> dict[str, int]:
    """A value for every field."""
    return {f.name: draw(st.integers(f.min, f.max)) for f in register.fields}


def test_the_table_is_not_empty() -> None:
    assert len(REGISTERS) > 20


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
@given(data=st.data())
def test_every_register_of_the_chip_decodes_what_it_encodes(register: Register, data: st.DataObject) -> None:
    values = data.draw(contents(register))
    word = register.encode(**values)
    assert 0 <= word < 1 << register.bits
    assert register.decode(word) == values


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_every_field_of_the_chip_refuses_the_next_value(register: Register) -> None:
    for field in register.fields:
        assert register.decode(register.encode(**{field.name: field.max}))[field.name] == field.max
        for value in (field.max + 1, field.min - 1):
            with pytest.raises(RegisterError, match=field.name):
                register.encode(**{field.name: value})


@given(st.data())
def test_encoding_and_decoding_are_inverse(data: st.DataObject) -> None:
    register = data.draw(registers())
    values = data.draw(contents(register))
    assert register.decode(register.encode(**values)) == values


@given(st.data())
def test_decoding_and_encoding_are_inverse(data: st.DataObject) -> None:
    register = data.draw(registers())
    word = data.draw(st.integers(0, (1 << register.bits) - 1)) & register.mask
    assert register.encode(**register.decode(word)) == word


@given(st.data())
def test_fields_do_not_touch_each_other(data: st.DataObject) -> None:
    register = data.draw(registers().filter(lambda r: len(r.fields) > 1))
    one, other = data.draw(st.permutations(register.fields))[:2]
    word = register.encode(**{one.name: one.min if one.signed else one.max})
    assert other.extract(word) == 0


@given(st.data())
def test_reserved_bits_are_refused(data: st.DataObject) -> None:
    register = data.draw(registers().filter(lambda r: r.mask != (1 << r.bits) - 1))
    bit = data.draw(st.sampled_from([b for b in range(register.bits) if not register.mask >> b & 1]))
    with pytest.raises(RegisterError, match="reserved"):
        register.decode(1 << bit)


def test_a_signed_field_covers_negative_values() -> None:
    register = Register(name="R", offset=0, fields=(Field(name="a", low=4, high=7, signed=True),))
    assert register.encode(a=-8) == 0x80
    assert register.decode(0xF0) == {"a": -1}
    assert register.decode(0x70) == {"a": 7}


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    register = Register(name="R", offset=0, fields=(Field(name="a", low=0, high=0),))
    with pytest.raises(RegisterError, match="no field b; it has a"):
        register.encode(b=1)


@pytest.mark.parametrize("fields", [
    (Field(name="a", low=0, high=4), Field(name="b", low=4, high=5)),
    (Field(name="a", low=4, high=5), Field(name="b", low=0, high=1)),
    (Field(name="a", low=3, high=2),), (Field(name="a", low=31, high=32),),
], ids=["overlap", "not ascending", "reversed", "outside"])
def test_impossible_fields_are_refused(fields: tuple[Field, ...]) -> None:
    with pytest.raises(RegisterError):
        Register(name="R", offset=0, fields=fields)


def test_a_reset_value_outside_the_fields_is_refused() -> None:
    with pytest.raises(RegisterError, match="reset"):
        Register(name="R", offset=0, fields=(Field(name="a", low=0, high=0),), reset=2)


def test_rows_of_registers_have_addresses() -> None:
    register = Register(name="R", offset=0x10, fields=(), count=3, stride=8)
    assert [register.address(0x1000, i) for i in range(3)] == [0x1010, 0x1018, 0x1020]
    for index in (-1, 3):
        with pytest.raises(RegisterError, match="there are 3"):
            register.address(0, index)


def test_blocks_find_registers_and_refuse_overlaps() -> None:
    row = Register(name="R", offset=0, fields=(), count=2)
    block = RegisterBlock(name="B", registers=(row, Register(name="S", offset=8, fields=())))
    places = {offset: (register.name, index) for offset, (register, index) in block.by_offset().items()}
    assert places == {0: ("R", 0), 4: ("R", 1), 8: ("S", 0)}
    assert block.register("S").offset == 8
    with pytest.raises(RegisterError, match="no register T"):
        block.register("T")
    with pytest.raises(RegisterError, match="share offset"):
        RegisterBlock(name="B", registers=(row, Register(name="S", offset=4, fields=())))
