"""What the two memories hold, and what to do where they do not suffice. Start at `check_memories`.

Source: spec/k210-kmodel.md sections 1, 7, 11 and 17.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ai8x.capacity import Consumer, DoesNotFit, Remedy
from ai8x.errors import Diagnostic
from ai8x.k210.constraints import runs_in_float
from ai8x.k210.device import K210
from ai8x.k210.steps import KpuMap, LoweredSteps, Step, buffer_written, map_written
from ai8x.memory import Buffer, MemoryPlan
from ai8x.network.ir import Layer, Network

_SHOWN = 5
"""Tensors named in a message."""


def check_memories(network: Network, lowered: LoweredSteps, kpu: MemoryPlan, main: MemoryPlan) -> None:
    """Refuse plans that exceed their memory.

    Raises:
        DoesNotFit: E0450 KPU RAM, E0451 main memory; with the layers that hold most at the fullest step and a remedy.
    """
    names = tensor_names(lowered.steps, lowered.input_map)
    found: list[Diagnostic] = []
    consumers: list[Consumer] = []
    remedies: list[Remedy] = []
    for plan, code, memory, unit in ((kpu, "E0450", "KPU RAM", "lines of 64 bytes"),
                                     (main, "E0451", "main memory", "bytes")):
        if plan.fits:
            continue
        step = fullest_step(plan)
        consumers += [Consumer(memory=memory, layer=label(b, names), amount=b.size, unit=unit)
                      for b in sorted(_live(plan, step), key=lambda b: -b.size)[:_SHOWN]]
        own = _remedies(plan, step, names, unit)
        remedies += own
        found.append(Diagnostic(
            code=code, message=f"k210: '{network.name}' does not fit the {memory}",
            found=f"{plan.peak} {unit}; at step {step} '{_step_name(lowered, step)}' live: "
                  f"{live_at(plan, step, names)}",
            allowed=f"{plan.capacity} {unit} (no order of placing needs less than {plan.lower_bound})",
            help=own[0].action))
    if found:
        raise DoesNotFit(found, consumers=tuple(consumers), remedies=tuple(remedies))


def tensor_names(steps: Sequence[Step], input_map: KpuMap) -> dict[str, str]:
    """Name of a map or main-memory tensor -> name of the step that makes it."""
    names = {input_map.name: "input"}
    for step in steps:
        for made in (map_written(step), buffer_written(step)):
            if made is not None:
                names[made.name] = step.name
    return names


def fullest_step(plan: MemoryPlan) -> int:
    """The step at which most is alive."""
    steps = sorted({buffer.first_use for buffer in plan.buffers})
    return max(steps, key=lambda step: sum(b.size for b in _live(plan, step)), default=0)


def live_at(plan: MemoryPlan, step: int, names: Mapping[str, str]) -> str:
    """The largest tensors that are alive at a step, for people."""
    live = sorted(_live(plan, step), key=lambda b: -b.size)
    shown = ", ".join(f"{label(b, names)} {b.size}" for b in live[:_SHOWN])
    return shown + (f" and {len(live) - _SHOWN} more" if len(live) > _SHOWN else "")


def label(buffer: Buffer, names: Mapping[str, str]) -> str:
    """The steps whose results a buffer holds."""
    return " + ".join(dict.fromkeys(names.get(part, part) for part in buffer.name.split("+")))


def _live(plan: MemoryPlan, step: int) -> list[Buffer]:
    return [b for b in plan.buffers if b.first_use <= step <= b.last_use]


def _step_name(lowered: LoweredSteps, step: int) -> str:
    return lowered.steps[step].name if 0 <= step < len(lowered.steps) else "input"


def _remedies(plan: MemoryPlan, step: int, names: Mapping[str, str], unit: str) -> list[Remedy]:
    """Changes that would do, the smallest first; what they leave of the fullest step is computed, not planned."""
    live = _live(plan, step)
    largest = max(live, key=lambda b: b.size)
    needed = sum(b.size for b in live)
    excess = max(plan.lower_bound, plan.peak) - plan.capacity
    name = label(largest, names)

    def effect(size: int) -> str:
        return f"the fullest step then needs about {size} of {plan.capacity} {unit}"

    found = []
    if excess < largest.size:
        keep = 100 * (largest.size - excess) // largest.size
        found.append(Remedy(action=f"reduce the channels of '{name}' to {keep} % of what they are, or pool before it",
                            effect=effect(needed - largest.size + keep * largest.size // 100)))
    alone = "" if found else f"; '{name}' alone is not enough"
    halved = Remedy(action=f"halve the height and width of the first layers{alone}", effect=effect(needed // 4))
    if needed // 4 <= plan.capacity or not found:
        found.append(halved)
    share = 100 * plan.capacity // needed
    if 0 < share < 100:
        found.append(Remedy(action=f"multiply the channels of all hidden layers by {share / 100}",
                            effect=effect(share * needed // 100)))
    return found


def check_budget(network: Network, file_bytes: int, main_bytes: int) -> None:
    """Refuse a model that does not fit general RAM together with its main buffer.

    Raises:
        DoesNotFit: E0452, with the budget of every runtime and the layer whose weights take most.
    """
    total, capacity = file_bytes + main_bytes, K210.memory.general_bytes
    if total <= capacity:
        return
    by_size = sorted(network.layers, key=lambda layer: (-_file_bytes(layer), layer.index))
    largest = by_size[0]
    budgets = "; ".join(f"{runtime} {available}" for runtime, (_, available) in
                        memory_budgets(file_bytes, main_bytes).items())
    action = f"reduce the weights of '{largest.name}', which take {_file_bytes(largest)} bytes of the file"
    finding = Diagnostic(
        code="E0452", message=f"k210: '{network.name}' does not fit the general RAM", source=largest.source,
        layer=largest.name, layer_index=largest.index,
        found=f"{file_bytes} bytes of kmodel and {main_bytes} bytes of main buffer",
        allowed=f"{capacity} bytes in all; practical budgets: {budgets}",
        help=action)
    raise DoesNotFit(
        finding,
        consumers=tuple(Consumer(memory="general RAM", layer=layer.name, amount=_file_bytes(layer), unit="bytes")
                        for layer in by_size[:_SHOWN]),
        remedies=(Remedy(action=action, effect=f"{total - capacity} bytes less are needed"),))


def _file_bytes(layer: Layer) -> int:
    """Bytes of a layer's weights in the file: one each, four where float32 computes."""
    if layer.weights is None:
        return 0
    return layer.weights.size * (4 if runs_in_float(layer) else 1)


def memory_budgets(file_bytes: int, main_bytes: int) -> dict[str, tuple[int, int]]:
    """Bytes used and available in each runtime; section 7, last row."""
    total = file_bytes + main_bytes
    return {"C program": (total, K210.c_program_bytes), "MaixPy": (total, K210.micropython_bytes)}
