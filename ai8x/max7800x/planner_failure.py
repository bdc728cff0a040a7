"""Why a network does not fit."""
from __future__ import annotations
from collections.abc import Sequence
from dataclasses import dataclass
from ai8x.errors import UserError, Diagnostic
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.planner_draft import Draft
from ai8x.max7800x.planner_problem import Problem
from ai8x.max7800x.planner_search import Found
from ai8x.network.ir import Network

@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failure:
    problem: Problem
    found: Found | None = None

def does_not_fit(network: Network, failures: Sequence[Failure], device: Max7800x) -> UserError:
    return UserError([Diagnostic(code="E0464", message=f"does not fit {f.problem.draft.mode} {f.found and f.found.score} layers {len(f.problem.draft.network.layers)}") for f in failures])
