"""Whether a placed network can run on the chip: every limit of the specification, all findings together.

The rules, one function each, the docstring being the rule, are in ``constraints_layers``, ``constraints_operands``,
``constraints_processors``, ``constraints_streaming``, ``constraints_buffer``, ``constraints_input`` and
``constraints_memory``. Start at `check_network`.

Source: spec/max78000-cnn.md section 6.
"""

from __future__ import annotations

from ai8x.errors import Diagnostics
from ai8x.max7800x.constraints_base import LayerRule, NetworkRule, Subject, layer_diagnostics, network_diagnostics
from ai8x.max7800x.constraints_buffer import BUFFER_PLACE_RULES, BUFFER_STATE_RULES
from ai8x.max7800x.constraints_input import check_shared_input
from ai8x.max7800x.constraints_layers import LAYER_RULES
from ai8x.max7800x.constraints_memory import LIVENESS_RULES, MEMORY_RULES
from ai8x.max7800x.constraints_operands import OPERAND_RULES
from ai8x.max7800x.constraints_processors import NETWORK_RULES, PROCESSOR_RULES
from ai8x.max7800x.constraints_streaming import BUFFER_RULES, STREAMING_RULES
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.placement import Placement
from ai8x.network.ir import Network

RULES: tuple[LayerRule | NetworkRule, ...] = (
    *LAYER_RULES,
    *OPERAND_RULES,
    *PROCESSOR_RULES,
    *MEMORY_RULES,
    *NETWORK_RULES,
    *STREAMING_RULES,
    *BUFFER_RULES,
    *BUFFER_PLACE_RULES,
    *BUFFER_STATE_RULES,
    check_shared_input,
    *LIVENESS_RULES,
)
"""Every rule, in the order in which they are applied; their docstrings are the manual's table."""


def check_network(
    network: Network, placement: Placement, device: Max7800x, *, deduplicate: bool = True
) -> Diagnostics:
    """Hold a placed network against every limit of the chip.

    Rules about data of several layers together (overlaps, weight and bias memory) need layers that are right by
    themselves: they run once the others found no error.

    Args:
        network: what is computed.
        placement: where its data lies.
        device: the chip.
        deduplicate: equal weights, and equal biases, are stored once.

    Returns:
        Errors, warnings and notices, layer by layer; nothing is raised.

    Source:
        spec/max78000-cnn.md section 6.
    """
    diagnostics = Diagnostics()
    subject = Subject(
        network=network,
        placement=placement,
        layers=hardware_layers(network, placement, device),
        device=device,
        deduplicate=deduplicate,
    )
    for layer in subject.layers:
        diagnostics.extend(layer_diagnostics(
            subject, layer, (*LAYER_RULES, *OPERAND_RULES, *PROCESSOR_RULES, *MEMORY_RULES)))
    diagnostics.extend(network_diagnostics(subject, (*NETWORK_RULES, *STREAMING_RULES, *BUFFER_PLACE_RULES)))
    for rules in ((*BUFFER_RULES, *BUFFER_STATE_RULES), (check_shared_input, *LIVENESS_RULES)):
        if not diagnostics.errors:
            diagnostics.extend(network_diagnostics(subject, rules))
    return diagnostics
