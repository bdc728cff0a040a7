"""Folding BatchNorm into the weight and the bias of the layer in front of it.

Owns the one statement of the folding rule, used on modules when quantisation-aware training starts and on
``state_dict`` entries by the quantiser.

Source: spec/ai8x-training.md section 5.9.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ai8x.nn.arguments import Scheme
from ai8x.nn.base import BATCHNORM_DIVISOR, quantized_layers

BATCHNORM_GAIN = 1 / BATCHNORM_DIVISOR
"""Gain of a folded BatchNorm: the division by 4 of float training moves into the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormStatistics:
    """What a BatchNorm computes in evaluation: ``gamma * (x - mean) / sqrt(var + eps) + beta``, per channel.

    Args:
        mean: running mean, (channels,).
        var: running variance, (channels,).
        gamma: None means 1.
        beta: None means 0.
        eps: as trained; 1e-5 unless the model says otherwise.
    """

    mean: Tensor
    var: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    eps: float


def fold_parameters(weight: Tensor, bias: Tensor | None, statistics: BatchNormStatistics, *, transposed: bool = False,
                    groups: int = 1, gain: float = BATCHNORM_GAIN) -> tuple[Tensor, Tensor]:
    """Weight and bias that compute the layer and its BatchNorm at once.

    ``w' = w * k`` and ``b' = (b - mean) * k + gain * beta`` with ``k = gain * gamma / sqrt(var + eps)``.

    Args:
        weight: (out, in / groups, ...), transposed (in, out / groups, row, column).
        bias: (out,), or None for zero.
        statistics: of the BatchNorm.
        transposed: the output channels are counted by dimension 1 of the weight.
        groups: of a transposed convolution, whose output channels are spread over both dimensions.
        gain: 1/4 for files of the first generation, 1 for the second.

    Returns:
        New tensors of the same dtype.
    """
    wide = torch.float64
    scale = gain / torch.sqrt(statistics.var.to(wide) + statistics.eps)
    if statistics.gamma is not None:
        scale = scale * statistics.gamma.to(wide)
    offset = -statistics.mean.to(wide) if bias is None else bias.to(wide) - statistics.mean.to(wide)
    folded_bias = offset * scale
    if statistics.beta is not None:
        folded_bias = folded_bias + gain * statistics.beta.to(wide)
    return (weight.to(wide) * _per_output(scale, weight, transposed=transposed, groups=groups)).to(weight.dtype), \
        folded_bias.to(weight.dtype)


def _per_output(scale: Tensor, weight: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """The scale of every output channel, shaped to multiply the weight."""
    ones = [1] * (weight.dim() - 2)
    if not transposed:
        return scale.reshape(-1, 1, *ones)
    per_group = scale.reshape(groups, 1, -1)
    return per_group.expand(groups, weight.shape[0] // groups, -1).reshape(weight.shape[0], -1, *ones)


def describe_layers(model: nn.Module) -> dict[str, dict[str, object]]:
    """What folding needs and a ``state_dict`` does not say, for the key ``layers`` of a checkpoint's extras.

    Returns:
        Layer path -> ``{"transposed": bool}`` and, for layers with BatchNorm, ``"batchnorm_eps"``.
    """
    described: dict[str, dict[str, object]] = {}
    for name, layer in quantized_layers(model).items():
        if layer.op is not None:
            described[name] = {"transposed": isinstance(layer.op, nn.ConvTranspose2d)}
            eps = getattr(layer.bn, "eps", None)
            if isinstance(eps, float):
                described[name]["batchnorm_eps"] = eps
    return described


def fold_batchnorm(model: nn.Module) -> tuple[str, ...]:
    """Fold every BatchNorm of a model into its layer, in place; parameters stay the same objects.

    Reaches layers inside Sequential, ModuleList and any other container.

    Returns:
        Paths of the layers that had one.
    """
    folded = []
    for name, layer in quantized_layers(model).items():
        bn, op = layer.bn, layer.op
        if not isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)) or op is None:
            continue
        if bn.running_mean is None or bn.running_var is None or op.bias is None:
            raise TypeError(f"layer '{name}': BatchNorm without running statistics, or layer without bias")
        statistics = BatchNormStatistics(mean=bn.running_mean, var=bn.running_var, gamma=bn.weight, beta=bn.bias,
                                         eps=bn.eps)
        with torch.no_grad():
            weight, bias = fold_parameters(op.weight, op.bias, statistics,
                                           transposed=isinstance(op, nn.ConvTranspose2d),
                                           groups=getattr(op, "groups", 1),
                                           gain=1.0 if layer.scheme is Scheme.V2 else BATCHNORM_GAIN)
            op.weight.copy_(weight)
            op.bias.copy_(bias)
        layer.bn = None
        folded.append(name)
    return tuple(folded)
