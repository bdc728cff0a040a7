"""The search for processors: every group of tensors gets one of its candidate maps.

Owns a greedy start with local improvement, restarts where that does not fit, and repetitions with faster maps only;
everything is deterministic. Start at `search`.

Source: spec/max78000-cnn.md sections 3.4, 6.2 and 8.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ai8x.max7800x.planner_evaluator import Evaluator, Found, Score
from ai8x.max7800x.planner_problem import Choices, Maps, Problem

SEARCH_BUDGET = 4_000
"""Plans that are weighed at most."""

HOPELESS_SHARE = 25
"""Divisor of that where the network exceeds the memories on any processors: enough for fair numbers in the error."""


def search(problem: Problem, budget: int = SEARCH_BUDGET) -> Found:
    """The best maps and offsets found.

    Groups change one at a time for as long as something improves: first memory alone counts, so that layers spread,
    then the complete score draws them together again where that costs nothing. Where the result does not fit although
    the memories are large enough in all, other starts are tried; where it fits but a pass layer could be faster on
    other processors, the search is repeated with those only.

    Args:
        problem: what can be chosen.
        budget: plans that are weighed at most.
    """
    evaluator = Evaluator(problem)
    lowest = _maps_of(problem, problem.choices, [0] * len(problem.choices))
    is_hopeful = evaluator.parameters_may_fit(lowest) and evaluator.data_may_fit(lowest)
    left = [budget if is_hopeful else budget // HOPELESS_SHARE]
    best = _descend(evaluator, problem.choices, left)
    is_hopeful = is_hopeful and any(len(choices) > 1 for choices in problem.choices)
    if best.score.overflow and not best.score.impossible and is_hopeful:
        generator = np.random.default_rng(0)
        while not best.score.fits and left[0] > 0:
            start = [int(generator.integers(len(choices))) for choices in problem.choices]
            best = min(best, _descend(evaluator, problem.choices, left, start), key=lambda found: found.score)
    if best.score.fits:
        best = _faster(evaluator, best, left)
    final = evaluator.weigh(best.maps, thorough=True)
    return final if final is not None and final.score <= best.score else best


def _faster(evaluator: Evaluator, best: Found, left: list[int]) -> Found:
    """A plan in which pass layers run on fewer of each quadrant's memories, those that gain most first."""
    choices = evaluator.problem.choices
    for layer, _ in sorted(evaluator.slow_passes(best.maps), key=lambda slow: (-slow[1], slow[0])):
        if left[0] <= 0:
            break
        fewer = evaluator.fastest_choices(choices, layer)
        found = _descend(evaluator, fewer, left)
        if found.score.fits and found.score < best.score:
            best, choices = found, fewer
    return best


def _descend(evaluator: Evaluator, choices: Choices, left: list[int], start: Sequence[int] = ()) -> Found:
    """Both parts of the search from one start; `left` counts what may still be weighed."""
    left[0] -= 1
    picked = list(start) or [0] * len(choices)
    best = evaluator.weigh(_maps_of(evaluator.problem, choices, picked))
    if best is None:
        raise ValueError("a plan that is weighed alone is never cut off")
    for key in (_balanced, _complete):
        best, picked = _improve(evaluator, choices, (best, picked), key, left)
    return best


def _balanced(score: Score) -> tuple[int, ...]:
    return score.balanced


def _complete(score: Score) -> tuple[int, ...]:
    return score.complete


def _improve(
    evaluator: Evaluator, choices: Choices, end: tuple[Found, list[int]], key: Callable[[Score], tuple[int, ...]],
    left: list[int],
) -> tuple[Found, list[int]]:
    """Change one group after the other until nothing improves."""
    best, picked = end
    changed = True
    while changed and left[0] > 0:
        changed = False
        for group, own in enumerate(choices):
            for candidate in range(len(own)):
                if candidate == picked[group] or left[0] <= 0:
                    continue
                left[0] -= 1
                trial = [*picked[:group], candidate, *picked[group + 1 :]]
                found = evaluator.weigh(_maps_of(evaluator.problem, choices, trial), best.score)
                if found is not None and key(found.score) < key(best.score):
                    best, picked, changed = found, trial, True
    return best, picked


def _maps_of(problem: Problem, choices: Choices, picked: Sequence[int]) -> Maps:
    maps = [0] * (len(problem.network.layers) + 1)
    for group, number in zip(choices, picked, strict=True):
        for tensor, found in group[number]:
            maps[tensor] = found
    return tuple(maps)
