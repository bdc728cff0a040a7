"""Every recorded MAX78000 case as a kmodel: the recorded integers, layer by layer, or the reason of refusal.

    python benchmarks/k210_cases.py [--cases DIR ...] [--only SUBSTRING] [--firmware]

With ``--firmware`` the C runner is compiled too and its machine code runs on the virtual K210. Ends with status 1 if a
case differs, or is refused for another reason than a bitwise operator.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import UserError
from ai8x.k210.codegen import RunnerModel, write_runner
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel_layers import layer_type, layer_type_name
from ai8x.k210.lower import LoweredModel, lower_network
from ai8x.network.build import build_network
from ai8x.network.ir import Network, TensorShape
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.verify_k210 import compare_kmodel
from ai8x.virtual.k210_verify import verify_kpu_firmware

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "cases"
NO_FORM = "E0350"
"""Code of the refusal of bitwise operators."""


def read_case(folder: Path) -> tuple[Network, np.ndarray, dict[int, np.ndarray]]:
    """Network, sample (C, H, W) and the recorded output of every layer."""
    if (folder / "checkpoint.pth.tar").exists():
        checkpoint = read_checkpoint(folder / "checkpoint.pth.tar")
        state, arch, sample = checkpoint.state, checkpoint.arch, np.load(folder / "sample.npy")
        layers = np.load(folder / "layers.npz")
    else:
        layers = np.load(folder / "case.npz")
        state, arch, sample = {key[2:]: layers[key] for key in layers.files if key[:2] == "w:"}, None, layers["sample"]
    expected = {int(key[1:]): layers[key] for key in layers.files if key[0] == "L"}
    options = (folder / "options").read_text().split() if (folder / "options").exists() else []
    shape = TensorShape(*(*sample.shape, 1)[:3])
    network = build_network(read_network_file(folder / "net.yaml"), parameters_from_state(state), shape,
                            checkpoint_arch=arch, average_rounded="--avg-pool-rounding" in options)
    return network, sample.reshape(shape.as_tuple()), expected


def firmware_verdict(network: Network, lowered: LoweredModel, sample: np.ndarray) -> str:
    """The compiled runner on the virtual board."""
    image = lowered.image(sample)
    run = run_kmodel(lowered.data, image)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model.kmodel").write_bytes(lowered.data)
        (folder / "sample.bin").write_bytes(image.tobytes())
        write_runner(folder, RunnerModel(name=network.name, kmodel=lowered.data, image=image, outputs=run.outputs,
                                         is_wide=tuple(network.layers[i].output_bits == 32 for i in network.outputs)))
        return str(verify_kpu_firmware(folder, lowered, run))


def check(folder: Path, *, firmware: bool, types: Counter[str]) -> str:
    """``equal``, ``refused``, or what is wrong."""
    network, sample, expected = read_case(folder)
    try:
        lowered = lower_network(network)
    except UserError as error:
        codes = {finding.code for finding in error.diagnostics}
        return "refused" if codes == {NO_FORM} else f"refused: {error}"
    types.update(layer_type_name(layer_type(layer)) for layer in lowered.model.layers)
    run = run_kmodel(lowered.data, lowered.image(sample))
    verdict = str(compare_kmodel(network, lowered, run, sample, expected))
    return firmware_verdict(network, lowered, sample) if firmware and verdict == "equal" else verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, nargs="+", default=[SHARED / "max78000", SHARED / "max78000-trained"])
    parser.add_argument("--only", default="")
    parser.add_argument("--firmware", action="store_true")
    arguments = parser.parse_args()
    start, counts, types = time.perf_counter(), Counter[str](), Counter[str]()
    for root in arguments.cases:
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and arguments.only in path.name):
            verdict = check(folder, firmware=arguments.firmware, types=types)
            counts[verdict if verdict in ("equal", "refused") else "wrong"] += 1
            if verdict not in ("equal", "refused"):
                print(f"{folder.name}: {verdict}")
    print(f"{counts['equal']} equal, {counts['refused']} refused (or/xor), {counts['wrong']} wrong, "
          f"{time.perf_counter() - start:.0f} s; layers: {dict(types.most_common())}")
    return int(bool(counts["wrong"]) or not counts["equal"])


if __name__ == "__main__":
    sys.exit(main())
