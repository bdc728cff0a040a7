"""The simulated memories: data, mask, bias and TRAM, with the knowledge of which bytes hold no defined value.

Owns contents and definedness, and the two loading protocols of the mask memory. Knows nothing of layers. Start
reading at `DataMemory` and `MaskMemory`.

Every memory starts with random contents: a chip does not clear its memories either. Beside each byte stands whether
its value is undefined, and where the undefined value first came from, so that a fault can name that place.

Source: spec/max78000-cnn.md sections 1, 1.2 and 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]

_GEOMETRY = MAX78000.geometry
_LANES = _GEOMETRY.word_bytes
_MASK_BYTES = _GEOMETRY.mask_words * _GEOMETRY.mask_word_bytes


def random_bytes(rng: np.random.Generator, *shape: int) -> U8:
    """Power-up contents."""
    return rng.integers(0, 256, size=shape, dtype=np.uint8)


class DataMemory:
    """Activations: 16 instances of 8192 words of 4 byte lanes.

    Attributes:
        lanes: contents, uint8 (instance, word, lane); lane 0 is the lowest byte.
        words: the same bytes as uint32 (instance, word).
        undefined: bool (instance, word, lane).
        origin: uint32 (instance, word, lane), bus address that an undefined value came from; 0 where the byte itself
            was never given a value.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        shape = (_GEOMETRY.num_instances, _GEOMETRY.data_words, _LANES)
        self._rng = rng
        self.lanes: U8 = random_bytes(rng, *shape)
        self.words: U32 = self.lanes.view("<u4")[..., 0]
        self.undefined: Bools = np.ones(shape, dtype=np.bool_)
        self.origin: U32 = np.zeros(shape, dtype=np.uint32)

    def write_word(self, instance: int, word: int, value: int) -> None:
        """One 32-bit bus write."""
        self.words[instance, word] = value
        self.undefined[instance, word] = False

    def lose(self, quadrant: int) -> None:
        """Forget a quadrant's contents: its power was removed."""
        part = self._part(quadrant)
        self.lanes[part] = random_bytes(self._rng, *self.lanes[part].shape)
        self.undefined[part] = True
        self.origin[part] = 0

    def clear(self, quadrant: int) -> None:
        """Fill a quadrant with zeros, as the self test does."""
        part = self._part(quadrant)
        self.lanes[part] = 0
        self.undefined[part] = False

    def origins(self, instance: int, word: slice) -> U32:
        """Origin of every byte of some words: 0 where defined, else a bus address; uint32 (words, lane)."""
        undefined = self.undefined[instance, word]
        numbers = np.arange(word.start, word.stop, word.step or 1, dtype=np.uint32)
        own = (
            np.uint32(_GEOMETRY.data_address(instance))
            + numbers[:, None] * np.uint32(_LANES)
            + np.arange(_LANES, dtype=np.uint32)
        )
        origin = self.origin[instance, word]
        return np.where(undefined, np.where(origin == 0, own, origin), np.uint32(0))

    @staticmethod
    def _part(quadrant: int) -> slice:
        per = _GEOMETRY.instances_per_quadrant
        return slice(quadrant * per, (quadrant + 1) * per)


@dataclass(slots=True)
class _Loader:
    """Where a processor's mask loading stands."""

    word: int = -1
    next_offset: int = -1
    pending: bytearray = field(default_factory=bytearray)


class MaskMemory:
    """Weights: 768 words of 72 bits for each of 64 processors, as byte streams, least significant byte first.

    Attributes:
        stream: uint8 (processor, byte).
        undefined: bool (processor, byte).
        version: changes whenever contents change.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        shape = (_GEOMETRY.num_processors, _MASK_BYTES)
        self._rng = rng
        self.stream: U8 = random_bytes(rng, *shape)
        self.undefined: Bools = np.ones(shape, dtype=np.bool_)
        self.version = 0
        self._loaders = [_Loader() for _ in range(_GEOMETRY.num_processors)]

    def set_counter(self, processor: int, offset: int, value: int) -> None:
        """The byte write that starts an express load (section 1.2).

        Args:
            processor: 0 to 63.
            offset: bytes from the processor's base; the word number in units of `express_word_span`, plus 1.
            value: must be 1.

        Raises:
            HardwareFault: wrong byte address or value, or the load before was left inside a mask word.
        """
        word, byte = divmod(offset, _GEOMETRY.express_word_span)
        if byte != _GEOMETRY.express_address_byte or value != 1 or word >= _GEOMETRY.mask_words:
            raise self._fault(
                processor, offset, f"byte write of {value:#x}; an express load starts with 1 at 4 * word + 1"
            )
        self.end_load(processor)
        loader = self._loaders[processor]
        loader.word, loader.next_offset = word, word * _GEOMETRY.express_word_span

    def write_express(self, processor: int, offset: int, value: int) -> None:
        """Four stream bytes, the first in bits 31:24; nine of them make a mask word, most significant first.

        Raises:
            HardwareFault: no start address was set, the address is not the next one, or the memory is full.
        """
        loader = self._loaders[processor]
        if loader.word < 0 or offset != loader.next_offset:
            wanted = (
                "no start address was set"
                if loader.word < 0
                else f"next is {self._address(processor, loader.next_offset):#010x}"
            )
            raise self._fault(processor, offset, f"express load out of order: {wanted}")
        loader.next_offset += _LANES
        loader.pending += value.to_bytes(_LANES, "big")
        if len(loader.pending) < _GEOMETRY.mask_word_bytes:
            return
        self._commit(processor, loader.word, bytes(loader.pending[: _GEOMETRY.mask_word_bytes]))
        del loader.pending[: _GEOMETRY.mask_word_bytes]
        loader.word += 1

    def write_plain(self, processor: int, offset: int, value: int) -> None:
        """One of the four writes of a plain mask word: k0, k1..k4, k5..k8, 0 (the fourth commits).

        Raises:
            HardwareFault: out of order, or bits that the word does not have.
        """
        word, part = divmod(offset, _GEOMETRY.mask_word_span)
        if part == 0:
            self.end_load(processor)
            self._loaders[processor] = _Loader(word=word, next_offset=offset)
        loader = self._loaders[processor]
        if word >= _GEOMETRY.mask_words or loader.next_offset != offset:
            raise self._fault(
                processor, offset, "plain load out of order: four writes from 16 * word upwards make one mask word"
            )
        if (value >> 8 and part == 0) or (value and part == 3 * _LANES):
            raise self._fault(processor, offset, f"plain load: {value:#x} sets bits beyond the 72 of a mask word")
        if part == 3 * _LANES:
            self._commit(processor, word, bytes(loader.pending))
            self._loaders[processor] = _Loader()
            return
        loader.pending += value.to_bytes(_LANES, "big")[-1 if part == 0 else 0 :]
        loader.next_offset += _LANES

    def end_load(self, processor: int) -> None:
        """Forget the address counter; what is left of the last bus word must be padding.

        Raises:
            HardwareFault: a mask word was begun and not finished.
        """
        loader = self._loaders[processor]
        if any(loader.pending):
            raise self._fault(
                processor, max(loader.next_offset, 0), f"mask word {loader.word} was begun and not finished"
            )
        self._loaders[processor] = _Loader()

    def end_loads(self) -> None:
        """`end_load` for every processor."""
        for processor in range(_GEOMETRY.num_processors):
            self.end_load(processor)

    def read(self, processor: int, offset: int) -> int:
        """Read back in the plain layout, whatever the loading mode."""
        word, part = divmod(offset, _GEOMETRY.mask_word_span)
        if word >= _GEOMETRY.mask_words:
            raise self._fault(processor, offset, f"there are {_GEOMETRY.mask_words} mask words")
        start = word * _GEOMETRY.mask_word_bytes
        kernel = self.stream[processor, start : start + _GEOMETRY.mask_word_bytes][::-1].tobytes()
        return int.from_bytes((kernel[:1], kernel[1:5], kernel[5:9], b"\0")[part // _LANES], "big")

    def lose(self, quadrant: int) -> None:
        """Forget a quadrant's contents: its mask memory lost power."""
        part = self._part(quadrant)
        self.stream[part] = random_bytes(self._rng, *self.stream[part].shape)
        self.undefined[part] = True
        self._loaders[part] = [_Loader() for _ in self._loaders[part]]
        self.version += 1

    def clear(self, quadrant: int) -> None:
        """Fill a quadrant with zeros, as the self test does."""
        part = self._part(quadrant)
        self.stream[part] = 0
        self.undefined[part] = False
        self.version += 1

    def _commit(self, processor: int, word: int, kernel: bytes) -> None:
        if word >= _GEOMETRY.mask_words:
            raise self._fault(
                processor, word * _GEOMETRY.mask_word_span, f"there are {_GEOMETRY.mask_words} mask words"
            )
        place = slice(word * _GEOMETRY.mask_word_bytes, (word + 1) * _GEOMETRY.mask_word_bytes)
        if self.undefined[processor, place.start] or self.stream[processor, place].tobytes() != kernel[::-1]:
            self.stream[processor, place] = np.frombuffer(kernel[::-1], dtype=np.uint8)
            self.undefined[processor, place] = False
            self.version += 1

    @staticmethod
    def _part(quadrant: int) -> slice:
        per = _GEOMETRY.processors_per_quadrant
        return slice(quadrant * per, (quadrant + 1) * per)

    @staticmethod
    def _address(processor: int, offset: int) -> int:
        return _GEOMETRY.mask_address(processor) + offset

    def _fault(self, processor: int, offset: int, what: str) -> HardwareFault:
        return HardwareFault(
            f"mask memory of processor {processor}, address {self._address(processor, offset):#010x}: {what}"
        )


class EntryMemory:
    """A memory of small entries, one per 32-bit bus address: bias (8 bits) or TRAM (16 bits).

    Attributes:
        values: (row, entry), unsigned.
        undefined: bool of the same shape.
        version: changes whenever contents change.
    """

    def __init__(self, rng: np.random.Generator, *, rows: int, entries: int, bits: int, rows_per_quadrant: int) -> None:
        self._rng = rng
        self._bits = bits
        self._rows_per_quadrant = rows_per_quadrant
        self.values = rng.integers(0, 1 << bits, size=(rows, entries)).astype(np.uint16)
        self.undefined: Bools = np.ones((rows, entries), dtype=np.bool_)
        self.version = 0

    def write(self, row: int, entry: int, value: int, address: int) -> None:
        """One bus write.

        Raises:
            HardwareFault: no such entry, or bits that an entry does not have.
        """
        self._check(entry, address)
        if value >> self._bits:
            raise HardwareFault(f"address {address:#010x}: {value:#x} does not fit an entry of {self._bits} bits")
        if self.undefined[row, entry] or self.values[row, entry] != value:
            self.values[row, entry] = value
            self.undefined[row, entry] = False
            self.version += 1

    def read(self, row: int, entry: int, address: int) -> int:
        """One bus read.

        Raises:
            HardwareFault: no such entry.
        """
        self._check(entry, address)
        return int(self.values[row, entry])

    def lose(self, quadrant: int) -> None:
        """Forget a quadrant's contents: its power was removed."""
        part = slice(quadrant * self._rows_per_quadrant, (quadrant + 1) * self._rows_per_quadrant)
        self.values[part] = self._rng.integers(0, 1 << self._bits, size=self.values[part].shape)
        self.undefined[part] = True
        self.version += 1

    def clear(self, quadrant: int) -> None:
        """Fill a quadrant with zeros, as the self test does."""
        part = slice(quadrant * self._rows_per_quadrant, (quadrant + 1) * self._rows_per_quadrant)
        self.values[part] = 0
        self.undefined[part] = False
        self.version += 1

    def _check(self, entry: int, address: int) -> None:
        if entry >= self.values.shape[1]:
            raise HardwareFault(f"address {address:#010x}: beyond the {self.values.shape[1]} entries of this memory")
