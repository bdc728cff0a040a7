"""150 damaged network files: none is accepted and wrong, none is refused with less than a complete message.

The same, with more files and any seed: ``python -m tests.mutation --seed 7 --count 2000``.

Source: docs/design.md "Tests".
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ai8x.errors import Diagnostic, Source, UserError
from tests.mutation import judge as judging
from tests.mutation.bases import bases
from tests.mutation.judge import DEFECTS, Kind, judge, missing_parts
from tests.mutation.mutate import Mutant, mutate
from tests.mutation.run import draw_mutant, run_mutants

SEED = 41
COUNT = 150


def test_damaged_files_are_refused_completely_or_computed_right() -> None:
    found = list(run_mutants(SEED, range(COUNT)))
    defects = [f"--seed {SEED} --only {number}: {mutant.story}, {judgement}" for number, _, mutant, judgement in found
               if judgement.kind in DEFECTS]
    assert not defects
    kinds = Counter(judgement.kind for *_, judgement in found)
    assert kinds[Kind.REFUSED] > COUNT / 2
    assert kinds[Kind.SAME] + kinds[Kind.CHANGED] > COUNT / 15
    assert len({code for *_, judgement in found for code in judgement.codes}) > 15


def test_mutants_depend_on_seed_and_number_only() -> None:
    assert draw_mutant(1, 8) == draw_mutant(1, 8)
    assert len({draw_mutant(1, number)[1].text for number in range(40)}) > 35
    assert draw_mutant(1, 8)[1] != draw_mutant(2, 8)[1]


@pytest.mark.parametrize("number", range(200))
def test_every_mutation_changes_a_line_or_says_that_it_does_not(number: int) -> None:
    base = bases()[0]
    mutant = mutate(base.text, np.random.default_rng(number))
    assert mutant.story and all(mutant.story)
    assert mutant.garbage == "" or len(mutant.story) == 1


def test_the_correct_file_means_the_same_as_itself() -> None:
    base = bases()[0]
    assert judge(base, Mutant(text=base.text, story=("nothing",))).kind is Kind.SAME


def test_accepted_garbage_is_a_defect() -> None:
    base = bases()[0]
    assert judge(base, Mutant(text=base.text, story=("pretended",), garbage="pad")).kind is Kind.NONSENSE


def test_a_wrong_result_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulators run another network than the reference."""
    base, place = bases()[0], judging.complete_placement

    def other_weights(*arguments):
        completed = place(*arguments)
        network = completed.inputs.network
        weights = network.layers[0].weights.copy()
        weights[0, 0, 1, 1] ^= 64
        changed = network.with_layers({0: replace(network.layers[0], weights=weights)})
        return replace(completed, inputs=replace(completed.inputs, network=changed))

    monkeypatch.setattr(judging, "complete_placement", other_weights)
    found = judge(base, Mutant(text=base.text, story=("nothing",)))
    assert found.kind is Kind.MISMATCH and "layer 0" in found.detail


@pytest.mark.parametrize(("error", "kind"), [
    (ZeroDivisionError("x"), Kind.TRACEBACK),
    (UserError(Diagnostic(code="E0299", message="m", help="h", found="f", source=Source(file="f", line=1, column=1))),
     Kind.INCOMPLETE),
])
def test_other_defects_are_noticed(error: Exception, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_):
        raise error

    monkeypatch.setattr(judging, "plan_network", fail)
    base = bases()[0]
    assert judge(base, Mutant(text=base.text, story=("nothing",))).kind is kind


def test_a_stage_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_, **__):
        while True:
            pass

    monkeypatch.setattr(judging, "_GIVE_UP_SECONDS", 0.05)
    monkeypatch.setattr(judging, "build_network", hang)
    base = bases()[0]
    assert judge(base, Mutant(text=base.text, story=("nothing",))).kind is Kind.SLOW


def test_a_message_has_all_parts_or_they_are_named() -> None:
    full = Diagnostic(code="E0312", message="m", found="f", allowed="a", help="h",
                      source=Source(file="f", line=1, column=1))
    assert missing_parts(full) == ()
    assert missing_parts(replace(full, help="", source=None)) == ("help", "file", "line", "column")
