"""What the passes over a graph share: findings, replacements, and applying rules until none applies.

Start at `Rewriting` and `settled`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ai8x.errors import Diagnostics
from ai8x.nn.conversion.arguments import NotPossible, notice, refusal, replaced_notice
from ai8x.nn.conversion.graph import Graph, Node, Operation, Ready, Reshape, Shape, Unknown, output_shape


@dataclass
class Rewriting:
    """What the passes share: findings, and how strict they are.

    Args:
        replace_unsupported: put nearest forms in the place of what no layer computes.
        findings: refusals and notices.
        is_exact: outputs are still those of the model.
    """

    replace_unsupported: bool
    findings: Diagnostics = field(default_factory=Diagnostics)
    is_exact: bool = True

    def refused(self, node: Node, problem: NotPossible) -> tuple[Operation, ...]:
        """What stands in the place of a refused operation: the nearest form, or one that only has the shape."""
        if self.replace_unsupported and problem.replacement is not None:
            self.findings.add(replaced_notice(problem, node.origin))
            self.is_exact = False
            return problem.replacement
        self.findings.add(refusal(problem, node.origin))
        return (Unknown(),)

    def notice(self, node: Node, message: str, *, help: str = "") -> None:
        """Tell the user something."""
        self.findings.add(notice(node.origin, message, help=help))


def with_operations(graph: Graph, node: Node, operations: tuple[Operation, ...]) -> Graph:
    """A node replaced by operations in a row; where the shape is not known it is that of the node."""
    chain: list[tuple[Operation, Shape]] = []
    shape = graph.producer(node).shape
    for operation in operations:
        known = not isinstance(operation, (Unknown, Reshape, Ready))
        shape = output_shape(operation, shape) if known else node.shape
        chain.append((operation, shape))
    return graph.with_chain(node, chain)


Rule = Callable[[Graph, Node], Graph | None]


def settled(graph: Graph, rules: tuple[Rule, ...]) -> Graph:
    """Apply rules until none changes the graph; each of them brings it nearer to its final form."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            for rule in rules:
                result = rule(graph, node) if node.inputs else None
                if result is not None:
                    graph, changed = result, True
                    break
            if changed:
                break
    return graph
