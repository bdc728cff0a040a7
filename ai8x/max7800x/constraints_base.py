"""What every limit function receives and how it words a finding.

Start at `Subject` and `Finding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """What a rule found: the words of a diagnostic; layer and place are added by `layer_diagnostics` and its sibling.

    Args:
        code: unique number of the rule.
        key: YAML key to point at; the layer where the file does not hold it.
        message, found, allowed, help, level: as in `ai8x.errors.Diagnostic`.
        layer: the layer that is to blame, for rules that look at several; else it is the one that the rule was given.
    """

    code: str
    key: str
    message: str
    found: str = ""
    allowed: str = ""
    help: str = ""
    level: str = "error"
    layer: HardwareLayer | None = None


Found = Finding | Diagnostic
"""What a rule yields; whole diagnostics come from the allocators, which know their places."""

LayerRule = Callable[[Subject, HardwareLayer], Iterable[Found]]
"""A limit of one layer: yields what breaks it."""

NetworkRule = Callable[[Subject], Iterable[Found]]
"""A limit of the network as a whole; its findings name their layers."""


def layer_diagnostics(
    subject: Subject, layer: HardwareLayer, rules: Iterable[LayerRule]
) -> Iterator[Diagnostic]:
    """What rules find about one layer."""
    for rule in rules:
        for found in rule(subject, layer):
            yield _placed(found, layer)


def network_diagnostics(subject: Subject, rules: Iterable[NetworkRule]) -> Iterator[Diagnostic]:
    """What rules find about the network."""
    for rule in rules:
        for found in rule(subject):
            yield _placed(found, None)


def _placed(found: Found, layer: HardwareLayer | None) -> Diagnostic:
    """The one place that gives a finding its layer and its place in the file."""
    if isinstance(found, Diagnostic):
        return found
    blamed = found.layer or layer
    if blamed is None:
        raise ValueError(f"a rule about the network does not say which layer {found.code} is about")
    place = blamed.placement.place_of(found.key)
    return Diagnostic(
        code=found.code,
        message=found.message,
        source=place if place is not None else blamed.layer.source,
        layer=blamed.name,
        layer_index=blamed.index,
        found=found.found,
        allowed=found.allowed,
        help=found.help,
        level=found.level,
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
