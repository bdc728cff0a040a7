"""The quantisation-aware module: one fused layer of the chip in three modes.

Owns the modes, the six entries that every layer keeps in ``state_dict``, and the order of operations inside a
layer. Which layers exist is stated in `ai8x.nn.layers` and `ai8x.nn.modules`; when modes change, in
`ai8x.nn.qat`. Start at `Mode` and `QuantizationAwareModule`.

Source: spec/ai8x-training.md sections 3.1, 4 and 5.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ai8x import compatibility
from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.errors import Diagnostic, UserError, user_error
from ai8x.nn import functional as AF
from ai8x.nn.arguments import PoolArguments, QuantizationArguments, Scheme
from ai8x.nn.functional import ActivationKind

DEFAULT_WEIGHT_BITS = 8
BATCHNORM_DIVISOR = 4.0
"""The output of a BatchNorm is divided by 4 while it is not folded; section 3.1."""


class Mode(enum.Enum):
    """How a layer computes.

    FLOAT: float parameters, clamped activations. QAT: float parameters rounded to the chip's integers in every
    step, data in multiples of 1/128. INTEGER: integer parameters of a quantised file, data -128..127.
    """

    FLOAT = "float"
    QAT = "qat"
    INTEGER = "integer"


class OutputScale(enum.Enum):
    """Scale of wide outputs.

    DEVICE: as the accumulator has them, without output shift. REAL: multiplied by what was left out, so that
    float, QAT and integer evaluation give logits on one scale.
    """

    DEVICE = "device"
    REAL = "real"


_ENTRIES: Mapping[Scheme, tuple[str, ...]] = {
    Scheme.V1: ("output_shift", "weight_bits", "bias_bits", "quantize_activation", "adjust_output_shift",
                "shift_quantile"),
    Scheme.V2: ("output_shift", "activation_threshold", "final_scale", "weight_bits", "bias_bits",
                "quantize_activation", "clamp_activation", "adjust_output_shift", "shift_quantile"),
}
"""A layer's own entries, in the order of the files of each generation; sections 4 and 7."""

Operation = nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def _entry(value: bool | int | float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]), requires_grad=False)


class QuantizationAwareModule(nn.Module):
    """One fused layer: pooling, operation, BatchNorm, output scale, activation, rounding, clamp.

    The constructor is called by the layer classes; its arguments are checked there.

    Args:
        operation: convolution or linear layer, or None for a layer that only pools.
        bn: BatchNorm over the outputs, or None.
        pool: pooling in front, or None.
        activation: after the output scale.
        wide: 32-bit output.
        quantization: mode and device.

    Attributes:
        op, bn: child modules; their names are part of the ``state_dict`` layout.
        scheme: generation; `Scheme.V2` adds the entries activation_threshold, final_scale and clamp_activation.
        output_shift, weight_bits, bias_bits, quantize_activation, adjust_output_shift, shift_quantile: the layer's
            own entries, one element each.
        mode: how `forward` computes.
        output_scale: scale of a wide output.
    """

    activation_threshold: nn.Parameter
    final_scale: nn.Parameter

    def __init__(self, operation: Operation | None, *, quantization: QuantizationArguments, bn: nn.Module | None = None,
                 pool: PoolArguments | None = None, activation: ActivationKind = ActivationKind.NONE,
                 wide: bool = False) -> None:
        super().__init__()
        settings = compatibility.current_settings()
        quantized = quantization.weight_bits is not None
        self.output_shift = _entry(0.0)
        self.weight_bits = _entry(quantization.weight_bits or 0)
        self.bias_bits = _entry(quantization.bias_bits or 0)
        self.quantize_activation = _entry(quantized)
        self.adjust_output_shift = _entry(quantized and not settings.simulate)
        self.shift_quantile = _entry(1.0)
        self.op = operation
        self.bn = bn
        self.pool = pool
        self.activation = activation
        self.wide = wide
        self.output_scale = OutputScale.DEVICE
        self.scheme = Scheme.V1
        self.mode = Mode.INTEGER if settings.simulate else Mode.QAT if quantized else Mode.FLOAT
        self.refresh()

    @property
    def output_dim(self) -> int:
        """Dimension of the weight that counts output channels: 1 for transposed convolutions, else 0."""
        return 1 if isinstance(self.op, nn.ConvTranspose2d) else 0

    def stored_mode(self) -> Mode:
        """What the parameters hold, by the layer's own entries."""
        if not bool(self.quantize_activation):
            return Mode.FLOAT
        return Mode.QAT if bool(self.adjust_output_shift) else Mode.INTEGER

    def use_scheme(self, scheme: Scheme) -> None:
        """Follow a generation: the second adds entries, in the order of its files (section 7)."""
        if self.scheme is scheme:
            return
        entries = {name: getattr(self, name) for name in _ENTRIES[self.scheme]}
        new = {"activation_threshold": torch.tensor(0.0), "final_scale": torch.tensor(0.0),
               "clamp_activation": torch.tensor([self.mode is not Mode.FLOAT])}
        for name, value in new.items():
            entries.setdefault(name, nn.Parameter(value.to(self.output_shift.device), requires_grad=False))
        for name in _ENTRIES[self.scheme]:
            delattr(self, name)
        self.scheme = scheme
        for name in _ENTRIES[scheme]:
            self.register_parameter(name, entries[name])
        self.refresh()

    def set_thresholds(self, *, activation_threshold: float, final_scale: float) -> None:
        """Set the two powers of two of the second generation.

        Args:
            activation_threshold: log2 of the range of the outputs relative to that of the inputs.
            final_scale: log2 of what outputs of the model must be multiplied by.
        """
        self._fill(activation_threshold=activation_threshold, final_scale=final_scale)
        self.refresh()

    def set_quantization(self, *, weight_bits: int, shift_quantile: float) -> None:
        """Switch this layer to QAT; bias and weight get the same width (section 6, step 5)."""
        self._fill(weight_bits=weight_bits, bias_bits=weight_bits, quantize_activation=True, adjust_output_shift=True,
                   shift_quantile=shift_quantile, output_shift=0.0)
        if self.scheme is Scheme.V2:
            self._fill(clamp_activation=True)
        self.mode = Mode.QAT
        self.refresh()

    def set_mode(self, mode: Mode) -> None:
        """Set how `forward` computes; the stored parameters must belong to that mode.

        Raises:
            UserError: E0520 where they do not.
        """
        self.mode = mode
        self.refresh()
        if self._conflict:
            raise self._mode_error()

    def _fill(self, **values: float) -> None:
        with torch.no_grad():
            for name, value in values.items():
                getattr(self, name).fill_(value)

    def refresh(self) -> None:
        """Read the entries once, so that `forward` needs no transfer from a GPU for them."""
        stored = self.stored_mode()
        # A fresh layer of a simulating model waits for its quantised file: (8, 8, True) without adjustment.
        mixed = (stored is Mode.INTEGER) != (self.mode is Mode.INTEGER)
        self._conflict = mixed and self.op is not None
        if not mixed:
            self.mode = stored
        self._bits = int(self.weight_bits) or DEFAULT_WEIGHT_BITS
        self._quantile = float(self.shift_quantile)
        is_second = self.scheme is Scheme.V2
        self._threshold = int(self.activation_threshold) if is_second else 0
        self._factor = 2.0 ** float(self.final_scale) if is_second else 1.0

    def _mode_error(self) -> UserError:
        stored = self.stored_mode()
        name = type(self).__name__
        if stored is Mode.INTEGER:
            return user_error("E0520", f"{name} holds integer parameters of a quantised file, but computes in "
                              f"{self.mode.value} mode", found="a quantised state_dict", allowed=f"{self.mode.value} "
                              "parameters", help="call ai8x.set_integer_mode(model), or load the file from before "
                              "quantize.py")
        return user_error("E0520", f"{name} holds {stored.value} parameters, but integer evaluation needs integer "
                          "ones", found="a state_dict that quantize.py has not processed", allowed="a quantised file",
                          help="run quantize.py on the checkpoint and load its output")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(dict(state_dict), *args, **kwargs)
        self.refresh()

    def extra_repr(self) -> str:
        """Mode and fused parts, for ``print(model)``."""
        parts = [self.mode.value]
        if self.mode is not Mode.FLOAT:
            parts.append(f"{self._bits} bits")
        if self.pool is not None:
            parts.append(f"{self.pool.kind} pool {self.pool.size} stride {self.pool.stride}")
        if self.activation is not ActivationKind.NONE:
            parts.append(str(self.activation.value))
        return ", ".join([*parts, *(["wide"] if self.wide else [])])

    def forward(self, data: Tensor) -> Tensor:
        """Compute the layer.

        Args:
            data: (N, C, H, W), (N, C, L) or (N, F); on the grid of 1/128 in float and QAT mode, integers in integer
                mode.

        Returns:
            Same kind of data; wide outputs of integer mode are float64 where float32 could not hold them.

        Raises:
            UserError: E0520 where the loaded parameters do not belong to the mode.
        """
        if self._conflict:
            raise self._mode_error()
        if self.mode is Mode.INTEGER and not data.is_floating_point():
            data = data.to(torch.float32)
        if self.pool is not None:
            data = self._pooled(data, self.pool)
        if self.op is not None:
            data = self._operated(data, self.op)
        return data if self._factor == 1.0 else data * self._factor

    def _operated(self, data: Tensor, op: Operation) -> Tensor:
        if self.mode is Mode.INTEGER:
            return self._forward_integer(data)
        if self.mode is Mode.QAT:
            return self._forward_qat(data, op)
        if self.scheme is Scheme.V2:
            return self._forward_unclamped(data, op)
        return self._forward_float(data, op)

    def _pooled(self, data: Tensor, pool: PoolArguments) -> Tensor:
        dims = len(pool.size)
        if pool.kind == "Max":
            return AF.max_pool(data, dims, pool.size, pool.stride, pool.dilation)
        mean = AF.average_pool(data, dims, pool.size, pool.stride)
        if self.mode is Mode.FLOAT:
            return mean if self.scheme is Scheme.V2 else mean.clamp(AF.Q7_MIN, AF.Q7_MAX)
        if self.mode is Mode.QAT:
            return AF.quantize_average(mean, rounded=pool.rounded)
        return AF.round_average(mean, rounded=pool.rounded)

    def _apply_operation(self, data: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        op = self.op
        if isinstance(op, nn.ConvTranspose2d):
            return nn.functional.conv_transpose2d(data, weight, bias, op.stride, op.padding,  # type: ignore[arg-type]
                                                  op.output_padding, op.groups)
        if isinstance(op, nn.Linear):
            return nn.functional.linear(data, weight, bias)
        if op is None:
            raise TypeError("a layer that only pools has no operation")
        convolution = nn.functional.conv1d if isinstance(op, nn.Conv1d) else nn.functional.conv2d
        result: Tensor = convolution(data, weight, bias, op.stride, op.padding, op.dilation, op.groups)
        return result

    def _forward_float(self, data: Tensor, op: Operation) -> Tensor:
        sums = op(data)
        if self.bn is not None:
            sums = self.bn(sums) / BATCHNORM_DIVISOR
        return AF.clamp_activation(sums, self.activation, wide=self.wide)

    def _forward_unclamped(self, data: Tensor, op: Operation) -> Tensor:
        """Float mode of the second generation: no division after BatchNorm, no clamps."""
        sums = op(data)
        if self.bn is not None:
            sums = self.bn(sums)
        if self._threshold and not self.wide:
            sums = sums * 2.0**-self._threshold
        return AF.activate(sums, self.activation)

    def current_shift(self) -> Tensor:
        """Output shift of the current parameters, 0-dimensional int32; positive = left (section 5.1)."""
        if self.op is None:
            raise TypeError("a layer that only pools has no output shift")
        if self.mode is Mode.INTEGER:
            return self.output_shift.detach()[0].to(torch.int32)
        return AF.parameter_shift(AF.magnitude_quantile(self.op.weight, self.op.bias, self._quantile),
                                  self._bits)

    def _forward_qat(self, data: Tensor, op: Operation) -> Tensor:
        shift = self.current_shift()
        apply_shift = not self.wide and self.bn is None
        output_shift = AF.limited_shift(shift - self._threshold, self._bits) if self._threshold else shift
        weight, bias = AF.quantize_parameters(op.weight, op.bias, bits=self._bits, shift=shift,
                                              output_shift=output_shift if apply_shift else None)
        sums = self._apply_operation(data, weight, bias)
        if self.bn is not None:
            sums = self.bn(sums) if self.scheme is Scheme.V2 else self.bn(sums) / BATCHNORM_DIVISOR
            if not self.wide:
                sums = sums * AF.power_of_two(output_shift, sums)
        if not self.wide:
            return AF.quantize_activation(sums, self.activation)
        outputs = AF.quantize_wide(sums)
        return outputs * AF.power_of_two(shift, outputs) if self.output_scale is OutputScale.REAL else outputs

    def integer_parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a quantised file in units of the accumulator, float64.

        The bias is stored as ``b * 2**(bits-1)``; the accumulator adds ``b * 128``. Files of 2020 hold values between
        these steps, of which the generator takes the next lower one (section 10).
        """
        if self.op is None:
            raise TypeError("a layer that only pools has no parameters")
        weight = self.op.weight.detach().double().round()
        if self.op.bias is None:
            return weight, None
        steps = (self.op.bias.detach().double() / (1 << (self._bits - 1))).floor()
        return weight, steps * (1 << BIAS_SHIFT)

    def _forward_integer(self, data: Tensor) -> Tensor:
        sums = self._exact_sums(data)
        shift = self.current_shift().to(sums.device)
        if self.wide:
            wide = self._integer_wide(sums, shift)
            return wide if wide.device == data.device else wide.to(data)
        steps = sums * AF.power_of_two(shift + DEFAULT_WEIGHT_BITS - self._bits - BIAS_SHIFT, sums)
        return AF.round_to_int8(steps, self.activation).to(data)

    @torch.no_grad()
    def _exact_sums(self, data: Tensor) -> Tensor:
        where = data.device if data.device.type in ("cpu", "cuda") else torch.device("cpu")
        weight, bias = self.integer_parameters()
        dtype = torch.float64
        if where.type == "cpu":
            dtype = AF.exact_dtype(AF.sum_bound(weight, bias, output_dim=self.output_dim,
                                                groups=getattr(self.op, "groups", 1)))
        with AF.exact_kernels():
            return self._apply_operation(data.to(where, dtype), weight.to(where, dtype),
                                         None if bias is None else bias.to(where, dtype))

    def _integer_wide(self, sums: Tensor, shift: Tensor) -> Tensor:
        limited = sums.clamp(-(2**29), 2**29 - 1)
        if self.output_scale is OutputScale.DEVICE:
            return limited
        # The second generation stores the shift less its threshold; sums were made with the shift of the parameters.
        return limited * AF.power_of_two(shift + self._threshold - (self._bits - 1) - BIAS_SHIFT, limited)


def quantized_layers(model: nn.Module) -> dict[str, QuantizationAwareModule]:
    """Every quantisation-aware layer of a model by its path, in registration order, however deeply nested."""
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantizationAwareModule)}


class ElementwiseModule(nn.Module):
    """Base of the element-wise layers: two or more operands, from the left, one clamp after the last.

    Attributes:
        mode: FLOAT and QAT compute on the grid of 1/128, INTEGER on integers.
        scheme: generation; `Scheme.V2` does not clamp in float mode and adds the entry activation_threshold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode = Mode.INTEGER if compatibility.current_settings().simulate else Mode.FLOAT
        self.scheme = Scheme.V1

    def set_mode(self, mode: Mode) -> None:
        """Set how `forward` computes."""
        self.mode = mode

    def use_scheme(self, scheme: Scheme) -> None:
        """Follow a generation (section 7)."""
        if scheme is not self.scheme and scheme is Scheme.V2:
            self.activation_threshold = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        elif scheme is not self.scheme:
            del self.activation_threshold
        self.scheme = scheme

    def combine(self, operands: tuple[Tensor, ...]) -> Tensor:
        """The result before the clamp."""
        raise NotImplementedError

    def forward(self, *operands: Tensor) -> Tensor:
        """Combine two or more tensors of one shape.

        Raises:
            UserError: E0388 for fewer than two operands or different shapes.
        """
        shapes = [tuple(o.shape) for o in operands]
        if len(operands) < 2 or len(set(shapes)) != 1:
            raise user_error("E0388", f"{type(self).__name__} combines tensors of one shape", found=str(shapes),
                             allowed="two or more operands of equal shape", help="pad, pool or convolve the operands "
                             "to one shape first")
        result = self.combine(operands)
        if self.mode is Mode.INTEGER:
            return result.clamp(INT8.min, INT8.max)
        if self.mode is Mode.FLOAT and self.scheme is Scheme.V2:
            return result
        return result.clamp(AF.Q7_MIN, AF.Q7_MAX)


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Set how every layer of a model computes.

    Raises:
        UserError: E0520 with every layer whose parameters do not belong to the mode.
    """
    findings: list[Diagnostic] = []
    for name, module in model.named_modules():
        if not isinstance(module, (QuantizationAwareModule, ElementwiseModule)):
            continue
        try:
            module.set_mode(mode)
        except UserError as error:
            findings += [Diagnostic(code=d.code, message=f"layer '{name}': {d.message}", layer=name, found=d.found,
                                    allowed=d.allowed, help=d.help) for d in error.diagnostics]
    if findings:
        raise UserError(findings)


def set_integer_mode(model: nn.Module) -> None:
    """Compute on integers, as the chip does; the model must hold a quantised state.

    Raises:
        UserError: E0520 where it does not (upstream evaluates garbage silently).
    """
    set_mode(model, Mode.INTEGER)


def update_model(model: nn.Module) -> None:
    """Make every layer follow its own entries again, after these were changed from outside (the vendor's name)."""
    for layer in quantized_layers(model).values():
        layer.refresh()


def model_mode(model: nn.Module) -> Mode:
    """The mode of the first layer; a model without layers of this package is in float mode."""
    return next((layer.mode for layer in quantized_layers(model).values()), Mode.FLOAT)


def set_output_scale(model: nn.Module, scale: OutputScale) -> None:
    """Choose the scale of wide outputs.

    `OutputScale.REAL`, set before training, keeps the loss from jumping when quantisation-aware training starts.
    """
    for layer in quantized_layers(model).values():
        layer.output_scale = scale


def use_scheme(model: nn.Module, scheme: Scheme) -> None:
    """Let every layer of a model follow a generation; call it before float training starts."""
    for module in model.modules():
        if isinstance(module, (QuantizationAwareModule, ElementwiseModule)):
            module.use_scheme(scheme)


def model_scheme(model: nn.Module) -> Scheme:
    """The generation of the first layer; a model without layers of this package follows the first."""
    return next((layer.scheme for layer in quantized_layers(model).values()), Scheme.V1)


def set_average_rounding(model: nn.Module, *, rounded: bool) -> None:
    """Make average pooling of the whole model round halves away from zero (True) or truncate (False)."""
    for layer in quantized_layers(model).values():
        if layer.pool is not None:
            layer.pool = replace(layer.pool, rounded=rounded)
