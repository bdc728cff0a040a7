"""Who adds: the KPU, on maps that lie side by side, or the CPU, in main memory; what is faster for the whole model.

A KPU layer that adds costs as much as any 1x1 convolution, which is much for many channels on small maps, and it needs
its operands in KPU RAM; QUANTIZED_ADD costs the same for every element and needs them in main memory. What that means
for the steps before and after depends on the network, so both forms are lowered and their times compared. Start at
`cheapest_steps`.

Source: spec/k210-kmodel.md sections 13.2 and 16.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from ai8x.errors import UserError
from ai8x.k210.constraints import adds_on_cpu, channels_combined
from ai8x.k210.device import K210
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.k210.legalize import legalize, resolve_alias
from ai8x.k210.step_times import steps_milliseconds
from ai8x.k210.steps import ConvStep, LoweredSteps, UploadStep
from ai8x.network.ir import Network

MOST_TRIALS = 16
"""Layers for which the second form is tried; each takes as long as lowering the network."""


def cheapest_steps(network: Network, forms: Forms = EXACT_FORMS) -> LoweredSteps:
    """The steps of a network, every addition in its faster form.

    Args:
        network: passed `constraints.check_network`.
        forms: what the user allows.

    Raises:
        UserError: E0360, a layer's numbers or maps exceed what the KPU holds.
    """
    chosen = frozenset(layer.index for layer in network.layers
                       if adds_on_cpu(layer) and channels_combined(layer) > K210.limits.max_channels)
    best = legalize(network, cpu_additions=chosen, forms=forms)
    least_ms = steps_milliseconds(best.steps)
    for index in [index for index in _worth_trying(network, best) if index not in chosen][:MOST_TRIALS]:
        try:
            trial = legalize(network, cpu_additions=chosen | {index}, forms=forms)
        except UserError:  # this form does not exist here; the other does
            continue
        if (trial_ms := steps_milliseconds(trial.steps)) < least_ms:
            best, least_ms, chosen = trial, trial_ms, chosen | {index}
    return best


def _worth_trying(network: Network, lowered: LoweredSteps) -> Iterable[int]:
    """Layers whose addition takes the KPU, uploads included, longer than the CPU would need for adding alone."""
    for layer in network.layers:
        if not adds_on_cpu(layer) or resolve_alias(layer.index, network) != layer.index:
            continue
        steps = [step for step in lowered.steps
                 if step.layer == layer.index and isinstance(step, ConvStep | UploadStep)]
        if steps_milliseconds(steps) > 1e3 * layer.operand_shape.numel * K210.latency.quantized_add_s:
            yield layer.index
