"""The K210's stages: lower, write kmodel and runner, verify with the KPU simulator.

Start at `synthesize_k210`.

Source: docs/design.md "One pass through everything"; spec/k210-kmodel.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.files import atomic_write
from ai8x.k210.codegen import RunnerModel, write_runner
from ai8x.k210.interpreter import KmodelRun, run_kmodel
from ai8x.k210.lower import LoweredModel, lower_network
from ai8x.k210.step_times import model_milliseconds
from ai8x.report_k210 import chip_report
from ai8x.synthesis import TARGET_WITNESSES, Announce, Inputs, SynthesisOptions, TargetResult
from ai8x.verify import Verdict
from ai8x.verify_k210 import compare_kmodel, memory_difference, visible_tensor
from ai8x.virtual.k210_verify import verify_kpu_firmware

KMODEL_NAME = "model.kmodel"
SAMPLE_NAME = "sample.bin"


def synthesize_k210(inputs: Inputs, options: SynthesisOptions, folder: Path, announce: Announce) -> TargetResult:
    """Everything for this target.

    Args:
        inputs: network and sample.
        options: what to do.
        folder: receives model, sample and runner; does not exist yet.
        announce: told about progress.

    Raises:
        UserError: the network has no exact form on the chip, or does not fit it.
    """
    network, sample = inputs.network, inputs.sample.values
    announce("k210: lowering to a kmodel")
    lowered = lower_network(network, options.k210)
    image = lowered.image(sample)
    run = run_kmodel(lowered.data, image)
    folder.mkdir()
    atomic_write(folder / KMODEL_NAME, lowered.data)
    atomic_write(folder / SAMPLE_NAME, image.tobytes())
    write_runner(folder, RunnerModel(name=network.name, kmodel=lowered.data, image=image, outputs=run.outputs,
                                     is_wide=tuple(network.layers[i].output_bits == 32 for i in network.outputs),
                                     labels=network.labels))
    files = {path.relative_to(folder).as_posix(): path.stat().st_size
             for path in sorted(folder.rglob("*")) if path.is_file()}
    verdicts = verify(inputs, lowered, run, folder, announce) if options.verify else unverified()
    result = lowered.results[network.outputs[-1]]

    def run_outputs(samples: NDArray[Any]) -> NDArray[np.int64]:
        runs = (run_kmodel(lowered.data, lowered.image(item)) for item in samples)
        return np.stack([visible_tensor(lowered, one, result, item) for one, item in zip(runs, samples, strict=True)])

    return TargetResult(verdicts=verdicts, chip=chip_report(network, lowered, run.milliseconds, files),
                        run_outputs=run_outputs)


def analyze_k210(inputs: Inputs, options: SynthesisOptions, folder: Path, announce: Announce) -> TargetResult:
    """What the network would cost on this target; nothing is generated.

    Args:
        inputs: network; neither sample nor trace is looked at.
        options: what to do.
        folder: is not made.
        announce: told about progress.

    Raises:
        UserError: the network has no exact form on the chip, or does not fit it.
    """
    del folder
    announce("k210: lowering to a kmodel")
    lowered = lower_network(inputs.network, options.k210)
    chip = chip_report(inputs.network, lowered, model_milliseconds(lowered.model), {})
    return TargetResult(verdicts=unverified("--analyze"), chip=chip)


def verify(inputs: Inputs, lowered: LoweredModel, run: KmodelRun, folder: Path,
           announce: Announce) -> tuple[Verdict, ...]:
    """Verdicts of the KPU simulator and of the runner's machine code."""
    announce("k210: comparing the kmodel on the KPU simulator")
    kmodel = compare_kmodel(inputs.network, lowered, run, inputs.sample.values, inputs.trace)
    if not kmodel.is_different and (difference := memory_difference(lowered, inputs.sample.values, run)):
        kmodel = Verdict(witness=kmodel.witness, difference=difference)
    announce("k210: compiling the runner and running it on the virtual board")
    return kmodel, verify_kpu_firmware(folder, lowered, run)


def unverified(reason: str = "--no-verify") -> tuple[Verdict, ...]:
    """Verdicts of a run that was told not to verify."""
    return tuple(Verdict(witness=witness, skipped=reason) for witness in TARGET_WITNESSES["k210"])
