"""Limits of a network input that several layers read. Each function is one rule.

The input is loaded once, in the form in which its first reader wants it: without the rows that this layer crops, pixel
by pixel (HWC) or channel by channel (CHW). Start at `check_shared_input`.

Source: spec/max78000-cnn.md sections 5.1, 5.2, 5.4 and 7.2 (in_crop).
"""

from __future__ import annotations

from collections.abc import Iterator

from ai8x.max7800x.constraints_base import Finding, Found, Subject
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import DataFormat
from ai8x.network.ir import NETWORK_INPUT


def check_shared_input(subject: Subject) -> Iterator[Found]:
    """A layer that reads the network's input after another one needs no row that the first one crops away, and the
    first one has it in HWC.
    """
    for layer in subject.layers:
        if NETWORK_INPUT not in layer.layer.inputs or finds_input(subject, layer):
            continue
        first = first_reader(subject)
        if first.placement.data_format is DataFormat.CHW:
            yield Finding(
                code="E0445",
                key="in_sequences",
                message=f"the network input lies by channel (CHW), as layer {first.index} '{first.name}' reads it; "
                "only one layer can read it in this form",
                found=f"data_format: CHW in layer {first.index}, read again by layer {layer.index}",
                allowed="data_format: HWC for an input with several readers",
                help=f"write data_format: HWC in layer {first.index}, with one processor per channel",
                layer=layer,
            )
        else:
            loaded, wanted = list(first.layer.in_crop), list(layer.layer.in_crop)
            yield Finding(
                code="E0446",
                key="in_crop",
                message=f"the network input is loaded without the rows that layer {first.index} '{first.name}' crops, "
                "and this layer needs some of them",
                found=f"in_crop {wanted} here, in_crop {loaded} in layer {first.index}",
                allowed=f"at least {loaded[0]} rows cropped at the start and {loaded[1]} at the end",
                help=f"write in_crop: [{max(loaded[0], wanted[0])}, {max(loaded[1], wanted[1])}], or let layer "
                f"{first.index} read a passthrough layer that copies the input",
                layer=layer,
            )


def first_reader(subject: Subject) -> HardwareLayer:
    """The layer for which the network's input is loaded.

    Args:
        subject: a network of which at least one layer reads the input.
    """
    return subject.layers[subject.network.consumers(NETWORK_INPUT)[0]]


def finds_input(subject: Subject, layer: HardwareLayer) -> bool:
    """Whether what is loaded for the first reader of the network's input holds what another reader needs."""
    first = first_reader(subject)
    if first.index == layer.index:
        return True
    loaded, wanted = first.layer.in_crop, layer.layer.in_crop
    has_rows = loaded[0] <= wanted[0] and loaded[1] <= wanted[1]
    return has_rows and first.placement.data_format is not DataFormat.CHW
