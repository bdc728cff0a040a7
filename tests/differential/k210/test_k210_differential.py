"""More than one hundred random networks, every corner with its share: reference = KPU simulator = compiled runner.

The same, with more networks and any seed: ``python -m tests.differential.k210 --seed 7 --count 2000``.

Source: docs/design.md "Tests".
"""

import dataclasses

import numpy as np
import pytest

from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.lower import lower_network
from ai8x.toolchain import missing_k210_tools

from .draw import KINDS, draw_case
from .firmware import Runner, runner_difference
from .run import compare_case

SEED = 30
PER_KIND = 8
ON_THE_RUNNER = 2
MOST_DRAWN = 40


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner | None:
    """The compiled runner; None where there is no compiler or emulator."""
    pytest.importorskip("unicorn")
    pytest.importorskip("elftools")
    return None if missing_k210_tools() else Runner(tmp_path_factory.mktemp("runner"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_executor_computes_the_same(kind: str, runner: Runner | None) -> None:
    compared = ran = 0
    for number in range(MOST_DRAWN):
        case = draw_case(SEED, number, kind)
        if case is None:
            continue
        outcome = compare_case(case, runner if ran < ON_THE_RUNNER else None)
        assert not outcome.difference, f"python -m tests.differential.k210 --seed {SEED} --kind {kind} --only {number}"
        compared += not outcome.refused
        ran += outcome.ran
        if compared == PER_KIND:
            break
    assert compared == PER_KIND
    assert ran == (0 if runner is None else ON_THE_RUNNER)


def test_cases_depend_on_seed_and_number_only() -> None:
    first, again = draw_case(1, 4), draw_case(1, 4)
    assert first is not None and again is not None
    assert all(np.array_equal(a, b) for a, b in zip(first.samples, again.samples, strict=True))
    assert [layer.out_shape for layer in first.network.layers] == [layer.out_shape for layer in again.network.layers]


def test_a_wrong_byte_of_the_runner_is_found(runner: Runner | None) -> None:
    if runner is None:
        pytest.skip("no compiler for the K210")
    case = draw_case(SEED, 0)
    assert case is not None
    lowered = lower_network(case.network)
    image = lowered.image(case.samples[0])
    expected = run_kmodel(lowered.data, image)
    size = sum(place.size for place in lowered.model.outputs)
    run = runner.run(lowered.data, lowered.model.main_mem_usage, [image], size, seed=3)
    assert not runner_difference(run, [expected])
    outputs = run.outputs.copy()
    outputs[-1] ^= 1
    assert f"byte {size - 1}" in runner_difference(dataclasses.replace(run, outputs=outputs), [expected])
    other = run_kmodel(lowered.data, image ^ np.uint8(1))
    assert "bytes of the KPU differ" in runner_difference(run, [other])


def test_a_model_that_needs_more_memory_than_it_is_given_does_not_pass(runner: Runner | None) -> None:
    if runner is None:
        pytest.skip("no compiler for the K210")
    case = draw_case(SEED, 0)
    assert case is not None
    lowered = lower_network(case.network)
    image = lowered.image(case.samples[0])
    run = runner.run(lowered.data, lowered.model.main_mem_usage - 8, [image], 0, seed=3)
    assert "too small" in runner_difference(run, [run_kmodel(lowered.data, image)])
