"""Firmware with a wrong bit must not say PASS: the known-answer test and the strict simulator are worth their place.

Faults are drawn by seed: in ``weights.h`` until enough of them change the logits according to the reference executor,
and in the register values of ``cnn_configure``.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ai8x.errors import HardwareFault
from ai8x.network.ir import Network, Op
from ai8x.network.reference import run_network
from ai8x.simulate import main as simulate
from ai8x.verify_max78000 import compare_layers

from .digitsnet import logits as network_logits
from .digitsnet import with_bias, with_weight
from .firmware import FaultBench, Outcome, Subject, logits
from .weight_addressing import Parameter, Token, bias_at, kernel_words, tokens, weight_at

pytestmark = pytest.mark.usefixtures("cross_compiler")

NUM_FAULTS = 50
SEED = 20240607


@pytest.fixture
def bench(digitsnet: Subject, tmp_path: Path) -> FaultBench:
    return FaultBench(digitsnet, tmp_path)


def weight_faults(subject: Subject, text: str) -> Iterator[tuple[Token, int, Parameter]]:
    """Endless random (number in the text, bit, parameter it belongs to); padding and fillers are left out."""
    rng = np.random.default_rng(SEED)
    words = list(kernel_words(text))
    biases = [(quadrant, entry, token) for quadrant in range(4) if f"#define BIAS_{quadrant} " in text
              for entry, token in enumerate(tokens(text, f"BIAS_{quadrant}"))]
    while True:
        choice = int(rng.integers(len(words) + len(biases)))
        if choice < len(words):
            processor, stream_byte, token = words[choice]
            bit = int(rng.integers(32))
            parameter = weight_at(subject.network, subject.program, processor, stream_byte, bit)
        else:
            quadrant, entry, token = biases[choice - len(words)]
            bit = int(rng.integers(8))
            parameter = bias_at(subject.network, subject.program, quadrant, entry, bit)
        if parameter is not None:
            yield token, bit, parameter


def with_fault(network: Network, parameter: Parameter) -> Network:
    """The network in which the parameter has the fault's value."""
    layer = network.layers[parameter.layer]
    value = parameter.flipped(network)
    if parameter.is_bias:
        return with_bias(network, layer, parameter.index[0], value)
    return with_weight(network, layer, parameter.index, value)


def flip(token: Token, bit: int) -> Callable[[str], str]:
    """Inverts a bit of a number in a text."""
    return lambda text: token.replaced(text, token.value ^ 1 << bit)


def test_unchanged_firmware_passes(bench: FaultBench, digitsnet: Subject) -> None:
    outcome = bench.run_unchanged()
    assert outcome.passed, outcome.summary
    np.testing.assert_array_equal(logits(digitsnet, outcome.accelerator), digitsnet.trace[5])


def test_every_weight_bit_that_changes_the_logits_makes_the_firmware_fail(
        bench: FaultBench, digitsnet: Subject, record_property: Callable[[str, object], None]) -> None:
    text = (digitsnet.folder / "weights.h").read_text()
    wanted = {True: NUM_FAULTS // 2, False: NUM_FAULTS // 2}  # in a convolution or not
    drawn = silent = 0
    for token, bit, parameter in weight_faults(digitsnet, text):
        if not any(wanted.values()):
            break
        is_conv = digitsnet.network.layers[parameter.layer].op is Op.CONV2D
        if not wanted[is_conv]:
            continue
        drawn += 1
        faulty = with_fault(digitsnet.network, parameter)
        expected = network_logits(faulty, run_network(faulty, digitsnet.sample))
        if np.array_equal(expected, digitsnet.trace[5]):
            silent += 1
            continue
        wanted[is_conv] -= 1
        outcome = bench.run("weights.h", flip(token, bit))
        assert outcome.failed_by_itself, f"{parameter}: {outcome.summary}"
        # The mapping of the bit to the parameter is right: the machine computes what the changed network computes.
        np.testing.assert_array_equal(logits(digitsnet, outcome.accelerator), expected, err_msg=str(parameter))
    record_property("silent_weight_faults", silent / drawn)
    print(f"\nweights.h: {NUM_FAULTS} of {NUM_FAULTS} effective faults reported; "
          f"{silent} of {drawn} drawn faults ({silent / drawn:.0%}) do not change the logits")


def test_a_weight_bit_that_changes_nothing_leaves_the_firmware_passing(bench: FaultBench, digitsnet: Subject) -> None:
    text = (digitsnet.folder / "weights.h").read_text()
    for token, bit, parameter in weight_faults(digitsnet, text):
        faulty = with_fault(digitsnet.network, parameter)
        if np.array_equal(network_logits(faulty, run_network(faulty, digitsnet.sample)), digitsnet.trace[5]):
            assert bench.run("weights.h", flip(token, bit)).passed
            return


def test_a_wrong_address_or_count_of_a_kernel_chunk_is_reported(bench: FaultBench, digitsnet: Subject) -> None:
    text = (digitsnet.folder / "weights.h").read_text()
    heads = list(re.finditer(r"^    0x([0-9a-f]{8}), (\d+), \\$", text, re.MULTILINE))
    rng = np.random.default_rng(SEED)
    for _ in range(6):
        head = heads[int(rng.integers(len(heads)))]
        if rng.integers(2):
            address = int(head.group(1), 16) ^ 1 << int(rng.integers(2, 24))
            line = f"    0x{address:08x}, {head.group(2)}, \\"
        else:
            line = f"    0x{head.group(1)}, {int(head.group(2)) ^ 1 << int(rng.integers(9))}, \\"
        outcome = bench.run("weights.h", lambda text, h=head, ln=line: text[:h.start()] + ln + text[h.end():])
        assert not outcome.passed, f"{head.group(0)!r} became {line!r}"


def configure_values(text: str) -> list[Token]:
    """The register values of cnn_configure."""
    start = text.index("int cnn_configure(void)")
    end = text.index("\n}", start)
    return [Token(start=start + m.start(1), digits=8, value=int(m.group(1), 16))
            for m in re.finditer(r"= UINT32_C\((0x[0-9a-f]{8})\);", text[start:end])]


def difference(subject: Subject, outcome: Outcome) -> str:
    """The first layer output that differs from the reference after a run, in words."""
    try:
        verdict = compare_layers("firmware", subject.network, subject.plan.layers, outcome.accelerator, subject.trace)
    except HardwareFault as fault:
        return str(fault)
    return verdict.difference


def test_a_wrong_bit_in_a_layer_register_passes_only_where_no_layer_changes(
        bench: FaultBench, digitsnet: Subject, record_property: Callable[[str, object], None]) -> None:
    values = configure_values((digitsnet.folder / "cnn.c").read_text())
    assert len(values) == len(digitsnet.program.configure)
    rng = np.random.default_rng(SEED)
    silent, refused, by_itself = [], 0, 0
    for _ in range(NUM_FAULTS):
        number, bit = int(rng.integers(len(values))), int(rng.integers(32))
        outcome = bench.run("cnn.c", flip(values[number], bit))
        write = digitsnet.program.configure[number]
        name = f"layer {write.layer}, quadrant {write.quadrant}, {write.register} bit {bit}"
        if outcome.passed:
            assert not difference(digitsnet, outcome), f"{name}: PASS, but {difference(digitsnet, outcome)}"
            silent.append(name)
        refused += bool(outcome.fault)
        by_itself += outcome.failed_by_itself
    record_property("silent_register_faults", len(silent) / NUM_FAULTS)
    print(f"\ncnn_configure: {refused} of {NUM_FAULTS} faults refused by the simulator, {by_itself} reported as FAIL, "
          f"{NUM_FAULTS - refused - by_itself - len(silent)} ended otherwise, {len(silent)} silent "
          f"({len(silent) / NUM_FAULTS:.0%}): {'; '.join(silent)}")
    assert refused + by_itself >= NUM_FAULTS // 2


def test_the_simulate_command_reports_a_faulty_project(digitsnet: Subject, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    FaultBench(digitsnet, tmp_path)
    project = tmp_path / "project"
    assert simulate(["firmware", str(project)]) == 0
    assert "PASS" in capsys.readouterr().out
    text = (project / "weights.h").read_text()
    token, bit, _ = next((t, b, p) for t, b, p in weight_faults(digitsnet, text)
                         if digitsnet.network.layers[p.layer].op is Op.LINEAR)
    (project / "weights.h").write_text(flip(token, bit)(text))
    (project / "build" / "cnn.o").unlink()
    assert simulate(["firmware", str(project)]) == 3
    printed = capsys.readouterr().out
    assert "FAIL" in printed
    assert "PASS" not in printed
