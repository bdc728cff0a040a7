"""Hand-made accelerator programs for the simulator's tests: registers by name, weights and data by the written layouts.

Everything here follows spec/max78000-cnn.md sections 2 to 5 directly and shares no code with lowering.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator import Accelerator

REGISTERS = 0x50100000
QUADRANT = 0x400000
POINTERS = ("WPTR_BASE", "WPTR_TOFF", "WPTR_MOFF", "WPTR_CHOFF", "RPTR_BASE")
NAMES = (
    *("RCNT", "CCNT", "ONED", "PRCNT", "PCCNT", "STRIDE"),
    *POINTERS,
    *("LCTRL0", "MCNT", "TPTR", "EN", "POST", "STRM0", "STRM1", "FBUF", "IFRM", "LCTRL1"),
)
OFFSETS = {name: 0x10 + 0x80 * r for r, name in enumerate(NAMES)}
IDLE, ARMED, START = 0x00100808, 0x00100809, 0x00100009
EXPRESS = 1 << 20


def encode(name: str, fields: dict[str, int]) -> int:
    return MAX78000.quadrant.register(name).encode(**fields)


def data_address(processor: int, word: int) -> int:
    quadrant, local = divmod(processor, 16)
    return 0x50400000 + quadrant * QUADRANT + local // 4 * 0x8000 + 4 * word


def write_register(accelerator: Accelerator, name: str, layer: int, value: int, quadrant: int = 0) -> None:
    accelerator.write(REGISTERS + quadrant * QUADRANT + OFFSETS[name] + 4 * layer, 4, value)


def load_data(accelerator: Accelerator, processors: Sequence[int], words: int, values: np.ndarray) -> None:
    """`values` int8 (word, processor) from word `words` on; bytes of a word that no processor owns are 0."""
    for instance in sorted({p // 4 for p in processors}):
        for number, row in enumerate(values.astype(np.int64).tolist()):
            word = sum(
                (value & 0xFF) << 8 * (p % 4) for p, value in zip(processors, row, strict=True) if p // 4 == instance
            )
            accelerator.write(data_address(4 * instance, words + number), 4, word)


def kernel_bytes(masks: np.ndarray, bits: int) -> bytes:
    """Stream bytes, least significant first, of one processor's masks (number, tap); section 3.1."""
    per = 8 // bits
    count, taps = masks.shape
    stream = bytearray(-(-count // per) * taps)
    for number, tap in np.ndindex(count, taps):
        place = number // per * taps + taps - 1 - tap
        stream[place] |= (int(masks[number, tap]) & ((1 << bits) - 1)) << (number % per * bits)
    return bytes(stream)


def load_masks(
    accelerator: Accelerator, processor: int, word: int, masks: np.ndarray, bits: int, express: bool = True
) -> None:
    stream = kernel_bytes(masks, bits)
    stream += bytes(-len(stream) % 9)
    words = [stream[i : i + 9][::-1] for i in range(0, len(stream), 9)]
    quadrant, local = divmod(processor, 16)
    base = 0x50180000 + quadrant * QUADRANT + local * 0x4000
    if express:
        packed = b"".join(words)
        packed += bytes(-len(packed) % 4)
        accelerator.write(base + 4 * word + 1, 1, 1)
        for i in range(0, len(packed), 4):
            accelerator.write(base + 4 * word + i, 4, int.from_bytes(packed[i : i + 4], "big"))
        return
    for number, k in enumerate(words):
        for i, part in enumerate((k[:1], k[1:5], k[5:], b"\0")):
            accelerator.write(base + 16 * (word + number) + 4 * i, 4, int.from_bytes(part, "big"))


@dataclass
class ConvLayer:
    """One convolution on processors 0.. with outputs on processors 0.. (one pass each), single-word kernels."""

    weights: np.ndarray
    """(out, in, row, column)"""
    height: int
    width: int
    layer: int = 0
    pad: int = 0
    pool: tuple[int, int] = (1, 1)
    stride: int = 1
    average: bool = False
    bits: int = 8
    bias: np.ndarray | None = None
    shift: int = 0
    activation: str = ""
    wide: bool = False
    read_word: int = 0
    write_word: int = 0x1000
    mask_word: int = 0
    registers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Fields that replace the computed ones."""

    @property
    def taps(self) -> int:
        return self.weights.shape[2] * self.weights.shape[3]

    def fields(self) -> dict[str, dict[str, int]]:
        outs, ins, _, kw = self.weights.shape
        first_byte = 9 * self.mask_word
        start = 8 * (first_byte // self.taps)
        pooled = (self.width + self.stride - self.pool[1]) // self.stride
        fields = {
            "RCNT": {"max": self.height - 1 + 2 * self.pad, "pad": self.pad},
            "CCNT": {"max": self.width - 1 + 2 * self.pad, "pad": self.pad},
            "PRCNT": {"value": self.pool[0] - 1},
            "PCCNT": {"value": self.pool[1] - 1},
            "STRIDE": {"value": self.stride - 1},
            "WPTR_BASE": {"value": self.write_word},
            "WPTR_MOFF": {"value": 8192},
            "RPTR_BASE": {"value": self.read_word},
            "WPTR_TOFF": {"value": int(self.taps == 1)},
            "LCTRL0": {
                "master": 1,
                "pool_en": int(self.pool != (1, 1)),
                "maxpl_en": int(not self.average),
                "act_en": int(self.activation == "relu"),
                "sramlsrc": 1,
                "bigdwrt": int(self.wide),
            },
            "LCTRL1": {"xpch_max": (outs - 1) * self.bits},
            "MCNT": {"sad": start, "max": start + (outs - 1) * self.bits},
            "ONED": {"oned_sad": first_byte % self.taps, "oned_width": int(self.taps == 1)},
            "TPTR": {"max": max(0, pooled + 2 * self.pad - kw) if self.taps > 1 else 0},
            "EN": {"pro_en": (1 << ins) - 1, "mask_en": (1 << ins) - 1},
            "POST": {
                "scale_reg": abs(self.shift),
                "scale_shft": int(self.shift < 0),
                "bptr_en": int(self.bias is not None),
                "mask_size": {8: 0, 1: 1, 2: 2, 4: 3}[self.bits],
                "out_abs": int(self.activation == "abs"),
            },
        }
        for name, changed in self.registers.items():
            fields[name] = {**fields.get(name, {}), **changed}
        return fields

    def configure(self, accelerator: Accelerator) -> None:
        for name, fields in self.fields().items():
            write_register(accelerator, name, self.layer, encode(name, fields))

    def load_weights(self, accelerator: Accelerator, express: bool = True) -> None:
        outs, ins = self.weights.shape[:2]
        for channel in range(ins):
            load_masks(
                accelerator, channel, self.mask_word, self.weights[:, channel].reshape(outs, -1), self.bits, express
            )
        for entry, value in enumerate([] if self.bias is None else self.bias.tolist()):
            accelerator.write(0x50108000 + 4 * entry, 4, value & 0xFF)

    def read(self, accelerator: Accelerator, height: int, width: int) -> np.ndarray:
        """The output (out, row, column) from memory."""
        outs = self.weights.shape[0]
        result = np.zeros((outs, height * width), dtype=np.int64)
        for out, pixel in np.ndindex(*result.shape):
            word = self.write_word + (pixel * 4 + out % 4 if self.wide else pixel)
            raw = accelerator.peek(data_address(out, word), 4)
            result[out, pixel] = signed(raw, 32) if self.wide else signed(raw >> 8 * (out % 4), 8)
        return result.reshape(outs, height, width)


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def initialise(
    accelerator: Accelerator, layers: int = 1, quadrants: Iterable[int] = (0,), control: int = EXPRESS | 8
) -> None:
    for quadrant in quadrants:
        accelerator.write(REGISTERS + quadrant * QUADRANT, 4, control)
        accelerator.write(REGISTERS + quadrant * QUADRANT + 4, 4, 0x40E)
        accelerator.write(REGISTERS + quadrant * QUADRANT + 8, 4, layers - 1)


def start(accelerator: Accelerator, quadrants: Iterable[int] = (0,), extra: int = 0) -> None:
    """The writes of the vendor's cnn_start without FIFO."""
    for quadrant in quadrants:
        accelerator.write(REGISTERS + quadrant * QUADRANT, 4, (ARMED if quadrant else IDLE) | extra)
    accelerator.write(REGISTERS, 4, START | extra)


def acknowledge(accelerator: Accelerator, quadrants: Iterable[int] = (0,)) -> None:
    for quadrant in quadrants:
        address = REGISTERS + quadrant * QUADRANT
        accelerator.write(address, 4, accelerator.read(address, 4) & ~0x1001)


def input_words(image: np.ndarray) -> np.ndarray:
    """HWC words of one pass: (channel, row, column) as (pixel, channel)."""
    return image.reshape(image.shape[0], -1).T


def naive_convolution(image: np.ndarray, layer: ConvLayer) -> np.ndarray:
    """Section 4 by plain loops: (out, row, column)."""
    pooled = naive_pool(image, layer.pool, layer.stride, layer.average)
    padded = np.pad(pooled.astype(np.int64), ((0, 0), (layer.pad, layer.pad), (layer.pad, layer.pad)))
    outs, _, kh, kw = layer.weights.shape
    height, width = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    result = np.zeros((outs, height, width), dtype=np.int64)
    for out, row, column in np.ndindex(*result.shape):
        total = int((padded[:, row : row + kh, column : column + kw] * layer.weights[out]).sum())
        total += 128 * (0 if layer.bias is None else int(layer.bias[out]))
        result[out, row, column] = total if layer.wide else naive_output(total, layer.shift, layer.activation)
    return result


def naive_output(total: int, shift: int, activation: str) -> int:
    scaled = (total * 2 ** (shift + 16) * 2 + 2**23) // 2**24
    value = min(max(scaled, -128), 127)
    if activation == "abs":
        return min(abs(value), 127)
    return max(value, 0) if activation == "relu" else value


def naive_pool(
    image: np.ndarray, window: tuple[int, int], stride: int, average: bool, rounding: bool = False
) -> np.ndarray:
    """Pooling by plain loops, on the last two axes."""
    height = (image.shape[-2] + stride - window[0]) // stride
    width = (image.shape[-1] + stride - window[1]) // stride
    result = np.zeros((*image.shape[:-2], height, width), dtype=np.int64)
    for place in np.ndindex(*result.shape):
        *lead, row, column = place
        part = image[
            (*lead, slice(row * stride, row * stride + window[0]), slice(column * stride, column * stride + window[1]))
        ]
        total, count = int(part.sum()), part.size
        magnitude = (2 * abs(total) + count) // (2 * count) if rounding else abs(total) // count
        result[place] = (magnitude if total >= 0 else -magnitude) if average else int(part.max())
    return result


def random_array(rng: np.random.Generator, low: int, high: int, *shape: int) -> np.ndarray:
    return rng.integers(low, high, size=shape, endpoint=True)


class Recorder(Accelerator):
    """An accelerator that notes every write."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.log: list[tuple[int, int, int]] = []

    def write(self, address: int, size: int, value: int) -> None:
        self.log.append((address, size, value))
        super().write(address, size, value)


def recorded_trace() -> dict[str, np.ndarray]:
    """A bus trace of a 1x1 layer with weights 64 and -64 on the input 10: outputs 5 and -5."""
    accelerator = Recorder()
    initialise(accelerator)
    layer = ConvLayer(weights=np.array([64, -64]).reshape(2, 1, 1, 1), height=1, width=1)
    layer.load_weights(accelerator)
    layer.configure(accelerator)
    load_data(accelerator, [0], 0, np.array([[10]]))
    start(accelerator)
    address, size, value = (np.array(column) for column in zip(*accelerator.log, strict=True))
    return {
        "address": address.astype(np.uint32),
        "size": size.astype(np.uint8),
        "value": value.astype(np.uint32),
        "expected": np.array([[data_address(0, 0x1000), 0xFFFF, 0xFB05]], dtype=np.uint32),
    }
