"""What every limit function receives and how it words a finding.

Start at `Subject` and `finding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ai8x.errors import Diagnostic
from ai8x.max7800x.device import Limits, Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import LANES, Placement, format_map, highest_bit, lowest_bit
from ai8x.network.ir import Network


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A placed network under examination.

    Args:
        network: what is computed.
        placement: where its data lies.
        layers: the layers in hardware form.
        device: the chip.
        deduplicate: equal weights, and equal biases, are stored once.
    """

    network: Network
    placement: Placement
    layers: tuple[HardwareLayer, ...]
    device: Max7800x
    deduplicate: bool = True

    @property
    def limits(self) -> Limits:
        """The chip's limits."""
        return self.device.limits

    @property
    def memory_bytes(self) -> int:
        """Size of one data memory instance."""
        return self.device.geometry.data_words * self.device.geometry.word_bytes


LayerRule = Callable[[Subject, HardwareLayer], Iterable[Diagnostic]]
"""A limit of one layer: yields what breaks it."""

NetworkRule = Callable[[Subject], Iterable[Diagnostic]]
"""A limit of the network as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The words of a finding, apart from its place; parts as in `ai8x.errors.Diagnostic`.

    Args:
        code: unique number of the rule.
        key: YAML key to point at; the layer where the file does not hold it.
    """

    code: str
    key: str
    message: str
    found: str = ""
    allowed: str = ""
    help: str = ""
    level: str = "error"

    def at(self, layer: HardwareLayer) -> Diagnostic:
        """The diagnostic for a layer."""
        place = layer.placement.place_of(self.key)
        return Diagnostic(
            code=self.code,
            message=self.message,
            source=place if place is not None else layer.layer.source,
            layer=layer.name,
            layer_index=layer.index,
            found=self.found,
            allowed=self.allowed,
            help=self.help,
            level=self.level,
        )


def contiguous_map(found: int, count: int, processors: int) -> int:
    """A map of `count` neighbouring processors that starts where the found one starts, as far as it fits.

    Args:
        found: the map that is wrong.
        count: processors needed.
        processors: processors of the chip.
    """
    start = LANES * (lowest_bit(found) // LANES)
    if start + count > processors:
        start = LANES * ((processors - count) // LANES)
    return ((1 << count) - 1) << start


def describe_map(processors: int) -> str:
    """A map with the number of its processors."""
    return f"{processors.bit_count()} enabled processors in {format_map(processors)}"


def describe_span(processors: int) -> str:
    """First and last processor of a map."""
    return f"processors {lowest_bit(processors)} to {highest_bit(processors)}"


def hexadecimal(value: int) -> str:
    """An offset as the network file spells it."""
    return f"0x{value:04x}" if value >= 0 else f"-0x{-value:04x}"


def size_text(size: tuple[int, int]) -> str:
    """Rows and columns as the network file spells them."""
    return f"{size[0]}x{size[1]}"
