"""A plain model from training to verified programs: what the tests do for two models and the benchmark for all ten."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ai8x
from ai8x.nn.describe import describe_model
from ai8x.nn.functional import Q7_ONE
from ai8x.quantization.model import to_grid
from ai8x.synthesis import TARGETS, SynthesisOptions, synthesize
from ai8x.training.digits import load_images, split_indices
from tests.nn.conversion.plain_models import PLAIN, Plain

BATCH = 32
LEARNING_RATE = 2e-3
CALIBRATION = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Inputs of -1 to 127/128 and what belongs to them."""

    train: Tensor
    train_targets: Tensor
    test: Tensor
    test_targets: Tensor


def digits() -> Samples:
    """The digits with their fixed split."""
    images, labels = load_images()
    split, targets = split_indices(labels), torch.from_numpy(labels)
    data = to_grid(images * 2 - 1)
    return Samples(train=data[split.train], train_targets=targets[split.train], test=data[split.test],
                   test_targets=targets[split.test])


def copies() -> Samples:
    """Digits to be copied: an autoencoder's task. Targets lie between 0 and 1, as a sigmoid's outputs do."""
    found = digits()
    return Samples(train=found.train, train_targets=(found.train + 1) / 2, test=found.test,
                   test_targets=(found.test + 1) / 2)


def tones(count: int = 1200) -> Samples:
    """Four kinds of sequences of 64 features: a band of features that swells, with noise."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(0, 4, (count,), generator=generator)
    steps, features = torch.arange(64).view(1, 1, 64), torch.arange(64).view(1, 64, 1)
    phase = torch.rand(count, 1, 1, generator=generator) * 6.3
    band = torch.exp(-((features - 8 - 16 * targets.view(-1, 1, 1)) / 6.0) ** 2)
    data = band * torch.sin(steps * (0.2 + 0.1 * targets.view(-1, 1, 1)) + phase)
    data = to_grid(0.5 * data + 0.35 * torch.randn(count, 64, 64, generator=generator))
    return Samples(train=data[:-200], train_targets=targets[:-200], test=data[-200:], test_targets=targets[-200:])


def shapes(count: int = 800) -> Samples:
    """Images with a square and a disc; every pixel belongs to the ground (0), the square (1) or the disc (2)."""
    generator = torch.Generator().manual_seed(4)
    rows, columns = torch.arange(28).view(1, 28, 1), torch.arange(28).view(1, 1, 28)
    place = torch.randint(6, 22, (4, count, 1, 1), generator=generator)
    square = ((rows - place[0]).abs() < 5) & ((columns - place[1]).abs() < 5)
    disc = (rows - place[2]) ** 2 + (columns - place[3]) ** 2 < 25
    targets = torch.where(disc, 2, torch.where(square, 1, 0))
    noise = 0.2 * torch.randn(count, 28, 28, generator=generator)
    data = to_grid(targets.float() * 0.6 - 0.6 + noise).unsqueeze(1)
    return Samples(train=data[:-100], train_targets=targets[:-100], test=data[-100:], test_targets=targets[-100:])


SETS = {"digits": digits, "copy": copies, "tones": tones, "shapes": shapes}


def loss_of(plain: Plain, outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of scores (of log-probabilities likewise); squared error of copies."""
    return F.mse_loss(outputs, targets) if plain.data == "copy" else F.cross_entropy(outputs, targets)


def train(model: nn.Module, plain: Plain, samples: Samples, *, epochs: int = 1, limit: int | None = None) -> None:
    """Passes over the training part (over ``limit`` samples of it), in random order."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(5)
    model.train()
    for _ in range(epochs):
        for indices in torch.randperm(len(samples.train), generator=generator)[:limit].split(BATCH):
            optimizer.zero_grad()
            loss_of(plain, model(samples.train[indices]), samples.train_targets[indices]).backward()
            optimizer.step()
    model.eval()


@torch.no_grad()
def score(plain: Plain, outputs: Tensor, targets: Tensor) -> float:
    """Share of right answers (of pixels, too) in percent; for copies the signal-to-noise ratio in decibels."""
    if plain.data == "copy":
        return float(10 * torch.log10((targets - targets.mean()).square().mean() / F.mse_loss(outputs, targets)))
    return 100 * float((outputs.argmax(1) == targets).float().mean())


@dataclass
class Run:
    """What became of one plain model.

    Args:
        layers: of the converted model.
        replaced: operations that gave way to their nearest form.
        plain: score of the plain model after its training.
        converted: score of the converted model in float.
        integer: score on integers.
        verdicts: target -> witness and verdict, or the refusal.
        seconds: processor time of conversion alone.
    """

    layers: int = 0
    replaced: int = 0
    plain: float = 0.0
    converted: float = 0.0
    integer: float = 0.0
    verdicts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def fits(self, target: str) -> bool:
        """Whether a target took the model and every witness agreed."""
        return self.verdicts[target].startswith("equal")


def run(name: str, folder: Path, *, epochs: int = 1, limit: int | None = None) -> Run:
    """Train, convert, train again where operations were replaced, quantise, synthesise, verify."""
    torch.manual_seed(0)
    plain = PLAIN[name]
    samples, result = SETS[plain.data](), Run()
    model = plain.make()
    train(model, plain, samples, epochs=epochs, limit=limit)
    result.plain = score(plain, model(samples.test), samples.test_targets)
    before = time.process_time()
    converted = ai8x.convert(model, samples.train[:1], replace_unsupported=plain.replaces)
    result.seconds = time.process_time() - before
    result.layers, result.replaced = len(converted.report.layers), len(converted.report.replaced)
    if plain.replaces:
        train(converted, plain, samples, epochs=epochs, limit=limit)
    host = torch.sigmoid if plain.data == "copy" else copy.copy
    result.converted = score(plain, host(converted(samples.test)), samples.test_targets)
    quantized = ai8x.quantize_model(converted, arch=name, batches=samples.train[:CALIBRATION].split(64),
                                    sample=samples.test[0])
    is_wide = any(getattr(layer, "wide", False) for layer in quantized.model.modules())
    outputs = quantized.model(samples.test * Q7_ONE) / (1 if is_wide else Q7_ONE)
    result.integer = score(plain, host(outputs), samples.test_targets)
    description = describe_model(quantized.model, plain.shape, name=name)
    for target in TARGETS:
        result.verdicts[target] = _synthesised(SynthesisOptions(
            network=description, checkpoint=quantized.checkpoint, out=folder / f"{name}-{target}", targets=(target,)))
    return result


def _synthesised(options: SynthesisOptions) -> str:
    """What the witnesses said, or why the chip refuses."""
    try:
        verdicts = synthesize(options).verdicts
    except ai8x.UserError as error:
        return "refused: " + "; ".join(f"{d.code} {d.message}" for d in error.diagnostics)
    if different := [str(v.witness) for v in verdicts if v.is_different]:
        return "different: " + ", ".join(different)
    return "equal: " + ", ".join(str(getattr(v.witness, "value", v.witness)) for v in verdicts if not v.skipped)
