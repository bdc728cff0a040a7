"""When and how a model starts quantisation-aware training.

Owns the policy (file and dataclass), the switch itself, and carrying the optimizer over. Start at
`read_policy` and `switch_to_qat`.

Source: spec/ai8x-training.md section 6.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ai8x.arithmetic import WEIGHT_BITS
from ai8x.errors import Diagnostic, Diagnostics, Source, UserError, user_error
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import ElementwiseModule, Mode, quantized_layers, use_scheme
from ai8x.nn.fold import fold_batchnorm
from ai8x.nn.statistics import DEFAULT_Z_SCORE
from ai8x.nn.thresholds import calibrate_activations
from ai8x.nn.wrappers import unwrap_model as unwrap_model

MAX_POLICY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOverride:
    """What one layer does differently; None takes the value of the policy."""

    weight_bits: int | None = None
    shift_quantile: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QatPolicy:
    """When quantisation-aware training starts and with which widths.

    Args:
        start_epoch: the switch happens before this epoch, counted from 0; 0 trains quantised from the start.
        weight_bits: 1, 2, 4 or 8 for weights and biases of all layers.
        shift_quantile: quantile of the magnitudes that the output shift must represent, above 0 up to 1.
        overrides: layer path -> what it does differently.
        scheme: generation; the second measures activations at the switch and needs float training without clamps
            (`prepare_training`).
        outlier_removal_z_score: of the second generation: activations farther from their mean, in standard
            deviations, do not count; None takes 8.
    """

    start_epoch: int
    weight_bits: int = 8
    shift_quantile: float = 1.0
    overrides: Mapping[str, LayerOverride] = field(default_factory=dict)
    scheme: Scheme = Scheme.V1
    outlier_removal_z_score: float | None = None

    def for_layer(self, name: str) -> LayerOverride:
        """Width and quantile of one layer, complete."""
        override = self.overrides.get(name, LayerOverride())
        bits = self.weight_bits if override.weight_bits is None else override.weight_bits
        quantile = self.shift_quantile if override.shift_quantile is None else override.shift_quantile
        return LayerOverride(weight_bits=bits, shift_quantile=quantile)


_Check = tuple[Callable[[Any], bool], str]

_CHECKS: Mapping[str, _Check] = {
    "start_epoch": (lambda v: type(v) is int and v >= 0, "a whole number, 0 or more"),
    "weight_bits": (lambda v: type(v) is int and v in WEIGHT_BITS, "1, 2, 4 or 8"),
    "shift_quantile": (lambda v: type(v) in (int, float) and 0 < v <= 1, "a number above 0, up to 1"),
    "scheme": (lambda v: v in [scheme.value for scheme in Scheme], "v1 or v2"),
    "outlier_removal_z_score": (lambda v: type(v) in (int, float) and v > 0, "a number above 0"),
}
_EXAMPLES: Mapping[str, str] = {"start_epoch": "10", "weight_bits": "8", "scheme": "v1"}
_OVERRIDE_KEYS = ("weight_bits", "shift_quantile")
_REQUIRED_KEYS = ("start_epoch", "weight_bits")


class _PolicyReader:
    """Turns the nodes of one policy file into a `QatPolicy`, collecting what is wrong with them."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.findings = Diagnostics()

    def source(self, node: yaml.Node) -> Source:
        """The place of a node."""
        mark, end = node.start_mark, node.end_mark
        length = end.column - mark.column if end.line == mark.line else 1
        text = self.lines[mark.line] if mark.line < len(self.lines) else ""
        return Source(file=self.file, line=mark.line + 1, column=mark.column + 1, length=max(1, length), text=text)

    def report(self, code: str, message: str, node: yaml.Node, *, found: str = "", allowed: str, help: str) -> None:
        """Remember a finding at a node."""
        self.findings.add(Diagnostic(code=code, message=message, source=self.source(node), found=found,
                                     allowed=allowed, help=help))

    def entries(self, node: yaml.Node, allowed: tuple[str, ...] | None) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Key, key node and value node of a mapping; unknown and repeated keys are reported and left out."""
        if not isinstance(node, yaml.MappingNode):
            self.report("E0652", "a mapping of keys to values is expected here", node, allowed="key: value",
                        help="write start_epoch: 10 and weight_bits: 8 on lines of their own")
            return
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if allowed is not None and key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=1)
                self.report("E0653", f"unknown key '{key}' in a QAT policy", key_node, found=key,
                            allowed=", ".join(allowed), help=f"write {near[0]}" if near else f"remove {key}")
            elif key in seen:
                self.report("E0654", f"key '{key}' appears twice", key_node, found=key, allowed="each key once",
                            help="remove one of them")
            else:
                seen.add(key)
                yield key, key_node, value_node

    def value(self, key: str, node: yaml.Node) -> Any:
        """A checked scalar; None after reporting."""
        is_good, allowed = _CHECKS[key]
        try:
            value = yaml.SafeLoader("").construct_object(node) if isinstance(node, yaml.ScalarNode) else None
        except (yaml.YAMLError, ValueError):  # unknown tags, integers of thousands of digits
            value = None
        if is_good(value):
            return value
        found = str(node.value)[:60] if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        self.report("E0655", f"{key} has no usable value", node, found=found, allowed=allowed,
                    help=f"write {key}: {_EXAMPLES.get(key, '1.0')}")
        return None

    def overrides(self, node: yaml.Node) -> dict[str, LayerOverride]:
        """The ``overrides`` mapping."""
        found: dict[str, LayerOverride] = {}
        for layer, _, layer_node in self.entries(node, None):
            values = {key: self.value(key, n) for key, _, n in self.entries(layer_node, _OVERRIDE_KEYS)}
            found[layer] = LayerOverride(**values)
        return found

    def policy(self, node: yaml.Node) -> QatPolicy:
        """The whole file."""
        values: dict[str, Any] = {}
        for key, _, value_node in self.entries(node, (*_CHECKS, "overrides")):
            values[key] = self.overrides(value_node) if key == "overrides" else self.value(key, value_node)
        for key in _REQUIRED_KEYS:
            if key not in values:
                self.report("E0656", f"key '{key}' is missing", node, allowed=_CHECKS[key][1],
                            help=f"add {key}: {8 if key == 'weight_bits' else 10}")
        self.findings.raise_if_errors()
        return QatPolicy(**{**values, "scheme": Scheme(values.get("scheme", "v1"))})


def read_policy(path: str | Path) -> QatPolicy:
    """Read a QAT policy from a YAML file.

    Raises:
        UserError: E0651 where the file cannot be read or is no YAML, E0652 to E0656 with line and column for keys
            and values that are wrong; all findings together.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_POLICY_BYTES + 1)
        if len(data) > MAX_POLICY_BYTES:
            raise user_error("E0651", "the QAT policy is too large", source=Source(file=file),
                             found=f"more than {MAX_POLICY_BYTES} bytes", allowed="a short YAML file",
                             help="check the name of the file")
        text = data.decode("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise user_error("E0651", f"the QAT policy cannot be read: {_first_line(error)}", source=Source(file=file),
                         allowed="a YAML file with start_epoch and weight_bits",
                         help="check the file, or turn QAT off with --qat-policy None") from error
    if node is None:
        raise user_error("E0651", "the QAT policy is empty", source=Source(file=file), found="no keys",
                         allowed="start_epoch and weight_bits", help="write start_epoch: 10 and weight_bits: 8")
    return _PolicyReader(file, text).policy(node)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_policy(model: nn.Module, policy: QatPolicy) -> None:
    """Refuse overrides of layers that the model does not have; worth calling before a long training.

    Raises:
        UserError: E0657 for each of them, with the nearest layer name.
    """
    names = tuple(quantized_layers(unwrap_model(model)))
    findings = []
    for name in policy.overrides:
        if name in names:
            continue
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        findings.append(Diagnostic(code="E0657", message=f"the QAT policy overrides layer '{name}', which the model "
                                   "does not have", layer=name, found=name,
                                   allowed="layer paths such as " + ", ".join(near or names[:5]),
                                   help=f"write {near[0]}" if near else "remove the override"))
    if findings:
        raise UserError(findings)


def prepare_training(model: nn.Module, policy: QatPolicy) -> None:
    """Let float training follow the generation of the policy; call it before the first epoch."""
    use_scheme(unwrap_model(model), policy.scheme)


def switch_to_qat(model: nn.Module, policy: QatPolicy, batches: Iterable[Tensor] | None = None) -> tuple[str, ...]:
    """Fold BatchNorm and quantise every layer from now on; nothing is changed if the policy does not fit.

    Works on the model inside compiled and parallel wrappers. Parameters stay the same objects; those of BatchNorm
    are gone, so call `update_optimizer` with the names from before.

    Args:
        model: in float mode.
        policy: widths and generation.
        batches: inputs of the whole training data, from which the second generation takes its statistics. A model
            that was trained with the clamps of the first generation is measured with them.

    Returns:
        Paths of the layers whose BatchNorm was folded.

    Raises:
        UserError: E0657 for overrides of unknown layers.
        ValueError: the second generation without batches.

    Source:
        spec/ai8x-training.md section 6, steps 1, 2 and 5; section 7.
    """
    inner = unwrap_model(model)
    check_policy(inner, policy)
    if policy.scheme is Scheme.V2 and batches is None:
        raise ValueError("the second generation takes statistics: batches of training data are needed")
    folded = fold_batchnorm(inner)
    if policy.scheme is Scheme.V2 and batches is not None:
        calibrate_activations(inner, batches, z_score=policy.outlier_removal_z_score or DEFAULT_Z_SCORE)
    for name, layer in quantized_layers(inner).items():
        chosen = policy.for_layer(name)
        layer.set_quantization(weight_bits=chosen.weight_bits or policy.weight_bits,
                               shift_quantile=policy.shift_quantile if chosen.shift_quantile is None
                               else chosen.shift_quantile)
    for module in inner.modules():
        if isinstance(module, ElementwiseModule):
            module.set_mode(Mode.QAT)
    return folded


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name, without the prefixes of wrappers; keep it from before the switch for `update_optimizer`."""
    return dict(unwrap_model(model).named_parameters())


def update_optimizer(optimizer: torch.optim.Optimizer, before: Mapping[str, nn.Parameter], model: nn.Module) -> None:
    """Let an optimizer follow a changed model, in place; momentum and moments are carried over by parameter name.

    Parameters that are gone leave their group; new ones join the last group. Hyper-parameters of the groups stay,
    and so do learning-rate schedulers that point at the optimizer.

    Args:
        optimizer: of any class.
        before: `named_parameters` of the model as it was.
        model: as it is now.
    """
    after = named_parameters(model)
    name_of = {id(parameter): name for name, parameter in before.items()}
    kept: set[str] = set()
    for group in optimizer.param_groups:
        names = [name_of[id(p)] for p in group["params"] if id(p) in name_of and name_of[id(p)] in after]
        group["params"] = [after[name] for name in names]
        kept.update(names)
    new = [parameter for name, parameter in after.items() if name not in kept and name not in before]
    optimizer.param_groups[-1]["params"].extend(new)
    old_state = {name_of[id(p)]: state for p, state in optimizer.state.items() if id(p) in name_of}
    optimizer.state.clear()
    for name, state in old_state.items():
        if name in after and after[name].shape == before[name].shape:
            optimizer.state[after[name]] = state
