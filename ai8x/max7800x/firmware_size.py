"""How much of flash and SRAM the tables of a project take, and which options make them fit.

Owns the sizes and the choice of options; the sizes are those of the tables that `codegen` writes, the limits those of
the generated linker scripts. Start at `firmware_size` and `smaller_options`.

Source: spec/virtual-boards.md section 5.3; spec/max78000-cnn.md sections 3.6, 5.4 to 5.6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from ai8x.max7800x.options import Core, ProjectOptions, SyntheticInput
from ai8x.max7800x.program import ExpectedBlock, Program

FLASH_BYTES = MappingProxyType({Core.ARM: 512 << 10, Core.RISCV: 448 << 10})
"""Flash for the program that drives the accelerator; the launcher of a two-core project takes the rest."""

SRAM_BYTES = MappingProxyType({Core.ARM: 128 << 10, Core.RISCV: 48 << 10})

CODE_BYTES = 32 << 10
"""Flash kept free for machine code: programs of 800 register writes take half of it."""

STACK_BYTES = 8 << 10
"""SRAM kept free for stack, heap and variables."""

SYNTHETIC_INCREMENT = 0x2F61A5D3
"""Odd in every byte, so that each channel runs through all its values before the sample repeats itself."""

MAX_STORED_WORDS = 64
MIN_STORED_WORDS = 8
MIN_ANSWER_WORDS = 1024
"""Fewer words of the known answer are not worth keeping a whole sample for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareSize:
    """Bytes that a project takes.

    Args:
        weights: weights and biases.
        sample: input, or the words that it is made from.
        answer: known answer.
        answer_words: words of it.
        layers: known answers of single layers (``--debug-layers``).
        outputs: buffer for the outputs, in SRAM.
        flash, sram: what there is.
    """

    weights: int
    sample: int
    answer: int
    answer_words: int
    layers: int
    outputs: int
    flash: int
    sram: int

    @property
    def tables(self) -> int:
        """Everything in flash except machine code."""
        return self.weights + self.sample + self.answer + self.layers

    @property
    def flash_excess(self) -> int:
        """Bytes by which the tables alone are larger than the flash; 0 where they are not."""
        return max(0, self.tables - self.flash)

    @property
    def sram_excess(self) -> int:
        """Bytes by which the output buffer alone is larger than the SRAM; 0 where it is not."""
        return max(0, self.outputs - self.sram)

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("sample", self.sample), ("known answer", self.answer),
                 ("known answers of single layers", self.layers), ("output buffer", self.outputs))
        return ", ".join(f"{name} {amount:,} bytes" for name, amount in parts if amount)


def firmware_size(program: Program, options: ProjectOptions) -> FirmwareSize:
    """The sizes of a project's tables.

    Args:
        program: what the project does.
        options: of the project.
    """
    core, stored = options.code.core, program.stored_sample
    weights = sum(8 + 4 * chunk.bus_words.size for chunk in program.load_weights)
    weights += sum(block.values.size for block in program.load_bias)
    if stored is None:
        sample = sum(4 * block.words.size for block in program.load_input)
    else:
        lanes = sum(block.lanes.nbytes for block in program.load_input if block.lanes is not None)
        sample = stored.words.nbytes + lanes
    expected = program.expected if options.code.known_answer else ()
    return FirmwareSize(
        weights=weights, sample=sample, flash=FLASH_BYTES[core], sram=SRAM_BYTES[core],
        answer=_answer_bytes(expected), answer_words=sum(block.values.size for block in expected),
        layers=sum(_answer_bytes(check.expected) for check in program.layer_checks),
        outputs=program.output_bytes if options.code.unload else 0)


def _answer_bytes(blocks: Iterable[ExpectedBlock]) -> int:
    return sum(12 + 4 * block.values.size for block in blocks)


def smaller_options(size: FirmwareSize, options: ProjectOptions, groups: int, *, code_bytes: int = CODE_BYTES,
                    drop_outputs: bool = False) -> ProjectOptions | None:
    """The options with the least changes that make a project fit; None where sample, answer and buffer do not help.

    A shorter answer comes first: fewer words are compared on the device, but the sample stays as it is.

    Args:
        size: of the project.
        options: of the project.
        groups: words of the sample for each pixel, ceil(channels / 4).
        code_bytes: flash that machine code takes.
        drop_outputs: the SRAM is known to be too small for the output buffer.
    """
    drop_outputs = drop_outputs or size.outputs + STACK_BYTES > size.sram
    result = replace(options, code=replace(options.code, unload=False, softmax=False)) if drop_outputs else options
    room = size.flash - code_bytes - size.weights - size.layers
    if room >= size.sample + size.answer:
        return result
    can_shorten = options.code.compact
    if (words := _answer_words(size, room - size.sample)) >= MIN_ANSWER_WORDS:
        return _with_answer(result, words)
    if can_shorten and (stored := _stored_words(room - size.answer, groups)):
        return _with_sample(result, stored)
    if can_shorten and (stored := _stored_words(room // 2, groups)):
        return _with_answer(_with_sample(result, stored), _answer_words(size, room - 4 * groups * stored))
    return None


def _answer_words(size: FirmwareSize, room: int) -> int:
    """Words of the known answer that fit, a power of two; words that do not follow each other take several more."""
    return _power_of_two(room // -(-size.answer // size.answer_words)) if size.answer_words else 0


def _stored_words(room: int, groups: int) -> int:
    """Words to store for every four channels; 0 where too few fit."""
    fitting = _power_of_two(room // (4 * groups))
    return min(fitting, MAX_STORED_WORDS) if fitting >= MIN_STORED_WORDS else 0


def _power_of_two(limit: int) -> int:
    """The greatest power of two up to a limit; 0 where there is none."""
    return 1 << limit.bit_length() - 1 if limit > 0 else 0


def _with_answer(options: ProjectOptions, words: int) -> ProjectOptions:
    return replace(options, lower=replace(options.lower, max_verify_words=words))


def _with_sample(options: ProjectOptions, words: int) -> ProjectOptions:
    """With this many stored words, or fewer where the user wants fewer; the user's increment stays."""
    given = options.synthetic_input or SyntheticInput(increment=SYNTHETIC_INCREMENT, words=words)
    return replace(options, synthetic_input=replace(given, words=min(given.words, words)))


def changed_options(before: ProjectOptions, after: ProjectOptions) -> str:
    """The command line options that `smaller_options` has changed, ready to be copied."""
    texts = []
    if after.synthetic_input is not None and after.synthetic_input != before.synthetic_input:
        made = after.synthetic_input
        texts.append(f"--synthesize-input {made.increment & 0xFFFFFFFF:#010x} --synthesize-words {made.words}")
    if after.lower.max_verify_words != before.lower.max_verify_words:
        texts.append(f"--max-verify-length {after.lower.max_verify_words}")
    if after.code.unload != before.code.unload:
        texts.append("--no-unload")
    return " ".join(texts)
