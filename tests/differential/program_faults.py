"""Faults of an encoder: one random change at a time to a finished program. Start at `FAULTS` and `plant`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.program import Program, RegisterWrite
from ai8x.registers import Field

Fault = Callable[[np.random.Generator, Program], tuple[Program, str]]
"""Changes a program at one place; says where. Raises `NoPlaceError` where the program has no such place."""

PHASES = ("init", "configure", "configure", "configure", "configure", "start", "acknowledge")
"""Tuples of register writes; most faults go where most registers are."""

WORD_BITS = 32


class NoPlaceError(Exception):
    """The program has nothing that this fault could change."""


def plant(rng: np.random.Generator, program: Program, kind: str) -> tuple[Program, str]:
    """The program with one fault of that kind, and where it is.

    Raises:
        NoPlaceError: the program has no place for it.
    """
    changed, place = FAULTS[kind](rng, program)
    return changed, f"{kind}: {place}"


def _position(rng: np.random.Generator, items: Sequence[Any] | np.ndarray) -> int:
    if len(items) == 0:
        raise NoPlaceError
    return int(rng.integers(len(items)))


def _swap_in(program: Program, phase: str, position: int, *items: object) -> Program:
    """The program with that item of a phase replaced by others, or by none."""
    old = getattr(program, phase)
    changes: dict[str, Any] = {phase: (*old[:position], *items, *old[position + 1:])}
    return replace(program, **changes)


# --- registers ----------------------------------------------------------------------------------------------------


def _pick_write(rng: np.random.Generator, program: Program) -> tuple[str, int, RegisterWrite]:
    phase = str(rng.choice(PHASES))
    writes: tuple[RegisterWrite, ...] = getattr(program, phase)
    position = _position(rng, writes)
    return phase, position, writes[position]


def _place(write: RegisterWrite) -> str:
    return f"{write.register} of layer {write.layer}, quadrant {write.quadrant}, {write.value:#010x}"


def _fields(write: RegisterWrite) -> tuple[Field, ...]:
    for block in (MAX78000.quadrant, MAX78000.fifo, MAX78000.fast_fifo, MAX78000.aod):
        for register in block.registers:
            if register.name == write.register:
                return register.fields
    raise LookupError(write.register)


def _pick_field(rng: np.random.Generator, write: RegisterWrite) -> Field:
    """One of the fields that are not 0."""
    used = [field for field in _fields(write) if write.value & field.mask]
    return used[_position(rng, used)]


def register_bit(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """One bit of a register word inverted."""
    phase, position, write = _pick_write(rng, program)
    value = write.value ^ 1 << int(rng.integers(WORD_BITS))
    return _swap_in(program, phase, position, replace(write, value=value)), f"{_place(write)} -> {value:#010x}"


def field_shifted(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """A field one bit too high or too low in its word; what leaves the word is lost."""
    phase, position, write = _pick_write(rng, program)
    field = _pick_field(rng, write)
    bits = write.value & field.mask
    moved = (bits << 1 if rng.integers(2) else bits >> 1) & 0xFFFFFFFF
    value = write.value & ~field.mask | moved
    return (_swap_in(program, phase, position, replace(write, value=value)),
            f"{_place(write)}, {field.name} -> {value:#010x}")


def count_off_by_one(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """A field one too large or too small, within its bits."""
    phase, position, write = _pick_write(rng, program)
    field = _pick_field(rng, write)
    number = (write.value & field.mask) >> field.low
    wrong = number + int(rng.choice([-1, 1])) & field.mask >> field.low
    value = write.value & ~field.mask | wrong << field.low
    return (_swap_in(program, phase, position, replace(write, value=value)),
            f"{_place(write)}, {field.name} {number} -> {wrong}")


def register_offset(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """A word written to the register beside its own."""
    phase, position, write = _pick_write(rng, program)
    step = int(rng.choice([-4, 4]))
    return (_swap_in(program, phase, position, replace(write, address=write.address + step)),
            f"{_place(write)}, address {step:+d}")


def register_missing(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """A register that is not written."""
    phase, position, write = _pick_write(rng, program)
    return _swap_in(program, phase, position), _place(write)


def other_quadrant(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """A word written to the next quadrant instead of its own."""
    phase, position, write = _pick_write(rng, program)
    if write.quadrant is None:
        raise NoPlaceError
    step = (1 if write.quadrant == 0 else -1) * MAX78000.geometry.quadrant_stride
    return _swap_in(program, phase, position, replace(write, address=write.address + step)), _place(write)


# --- memories -----------------------------------------------------------------------------------------------------


def _flip(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """A copy with one bit inverted."""
    wrong = values.copy()
    flat = wrong.reshape(-1)
    flat[_position(rng, flat)] ^= flat.dtype.type(1 << int(rng.integers(8 * flat.itemsize)))
    return wrong


def kernel_bit(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """One bit of a weight inverted."""
    position = _position(rng, program.load_weights)
    chunk = program.load_weights[position]
    return (_swap_in(program, "load_weights", position, replace(chunk, words=_flip(rng, chunk.words))),
            f"processor {chunk.processor}, word {chunk.word}")


def kernel_word(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """Weights one word too early or too late."""
    position = _position(rng, program.load_weights)
    chunk = program.load_weights[position]
    step = 1 if chunk.word == 0 else int(rng.choice([-1, 1]))
    return (_swap_in(program, "load_weights", position, replace(chunk, word=chunk.word + step)),
            f"processor {chunk.processor}, word {chunk.word} {step:+d}")


def kernel_count(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """The last word of a group of weights missing."""
    position = _position(rng, program.load_weights)
    chunk = program.load_weights[position]
    rest = (replace(chunk, words=chunk.words[:-1].copy()),) if len(chunk.words) > 1 else ()
    return (_swap_in(program, "load_weights", position, *rest),
            f"processor {chunk.processor}, {len(chunk.words)} words from {chunk.word}")


def kernel_order(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """The nine bytes of a word in reverse."""
    position = _position(rng, program.load_weights)
    chunk = program.load_weights[position]
    words = chunk.words.copy()
    number = _position(rng, words)
    words[number] = words[number][::-1].copy()
    return (_swap_in(program, "load_weights", position, replace(chunk, words=words)),
            f"processor {chunk.processor}, word {chunk.word + number}")


def kernel_processors(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """The weights of two processors exchanged."""
    chunks = program.load_weights
    first = _position(rng, chunks)
    others = [i for i, chunk in enumerate(chunks) if chunk.processor != chunks[first].processor]
    second = others[_position(rng, others)]
    one, two = chunks[first], chunks[second]
    swapped = _swap_in(program, "load_weights", first, replace(one, processor=two.processor, base=two.base))
    return (_swap_in(swapped, "load_weights", second, replace(two, processor=one.processor, base=one.base)),
            f"processors {one.processor} and {two.processor}")


def bias_bit(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """One bit of a bias inverted."""
    position = _position(rng, program.load_bias)
    block = program.load_bias[position]
    return (_swap_in(program, "load_bias", position, replace(block, values=_flip(rng, block.values))),
            f"quadrant {block.quadrant}")


def bias_offset(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """The biases of a quadrant one entry too late."""
    position = _position(rng, program.load_bias)
    block = program.load_bias[position]
    return (_swap_in(program, "load_bias", position, replace(block, address=block.address + 4)),
            f"quadrant {block.quadrant}")


def input_bit(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """One bit of the sample's words inverted."""
    position = _position(rng, program.load_input)
    block = program.load_input[position]
    words = block.words.copy()
    words[_position(rng, words)] ^= np.uint32(1 << _position(rng, range(WORD_BITS)))
    return _swap_in(program, "load_input", position, replace(block, words=words)), block.name


def input_address(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """Part of the sample one word off, or in the wrong FIFO."""
    position = _position(rng, program.load_input)
    block = program.load_input[position]
    step = int(rng.choice([-4, 4]))
    return (_swap_in(program, "load_input", position, replace(block, address=block.address + step)),
            f"{block.name} at {block.address:#010x} {step:+d}")


def input_count(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """The last word of part of the sample missing."""
    position = _position(rng, program.load_input)
    block = program.load_input[position]
    return (_swap_in(program, "load_input", position, replace(block, words=block.words[:-1].copy())),
            f"{block.name}, {len(block.words)} words")


def input_lanes(rng: np.random.Generator, program: Program) -> tuple[Program, str]:
    """The four channels of a data memory in reverse."""
    position = _position(rng, program.load_input)
    block = program.load_input[position]
    return (_swap_in(program, "load_input", position, replace(block, words=block.words.byteswap())), block.name)


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (register_bit, field_shifted, count_off_by_one, register_offset, register_missing, other_quadrant,
                  kernel_bit, kernel_word, kernel_count, kernel_order, kernel_processors, bias_bit, bias_offset,
                  input_bit, input_address, input_count, input_lanes)
}
"""Every kind of fault."""

SHARES: Mapping[str, int] = {"register_bit": 4, "field_shifted": 4, "count_off_by_one": 4, "register_offset": 2}
"""How often a kind is drawn, 1 where it is not named."""


def draw_kind(rng: np.random.Generator) -> str:
    """A kind of fault by its share."""
    shares = np.array([SHARES.get(kind, 1) for kind in FAULTS], float)
    return str(rng.choice(list(FAULTS), p=shares / shares.sum()))
