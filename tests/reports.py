"""Reports for the tests of the report: digitsnet on both chips, and one drawn by hand with everything in it."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from ai8x.capacity import Consumer, Remedy
from ai8x.report import (
    Accuracy,
    ChipLayer,
    ChipReport,
    Finding,
    LayerError,
    LayerRow,
    MemoryBlock,
    MemoryMap,
    Refusal,
    Report,
    Resource,
)
from ai8x.report_facts import known_fact
from ai8x.synthesis import SynthesisOptions, synthesize
from tests.end_to_end.digitsnet import NETWORK_FILE, write_digitsnet

LONG_NAME = "a_name_of_sixty_four_characters_" * 2


@cache
def digits_report() -> Report:
    """The report of digitsnet on both chips, unverified."""
    with TemporaryDirectory(prefix="ai8x-test-report-") as folder:
        options = SynthesisOptions(network=NETWORK_FILE, checkpoint=write_digitsnet(Path(folder) / "d.pth.tar"),
                                   out=Path(folder) / "out", verify=False)
        return synthesize(options).report


def layer_row(index: int, sources: tuple[int, ...], *, name: str = "", error: LayerError | None = None,
              is_output: bool = False) -> LayerRow:
    """A convolution; layers are called l0, l1, ... in the order of their indices."""
    names = tuple({-1: "input", -2: "window"}.get(source, f"l{source}") for source in sources)
    return LayerRow(index=index, name=name or f"l{index}", operator="Conv2d 3x3 pad 1", inputs=names, sources=sources,
                    in_shape=(8, 16, 16), out_shape=(8, 16, 16), macs=1000, weight_bits=8, weight_bytes=576,
                    bias_bytes=8, activation="ReLU", output_shift=0, output_bits=8, is_output=is_output, error=error)


def branching_report() -> Report:
    """A network with a skip, a branch and a concatenation; one chip runs it, the other refuses it."""
    exact, far = (LayerError(snr_db=snr, max_error=error, peak=1.0, saturated=0.0)
                  for snr, error in ((None, 0.0), (17.25, 0.125)))
    rows = (layer_row(0, (-1,), error=exact), layer_row(1, (0,), error=far), layer_row(2, (1, 0)),
            layer_row(3, (2,)), layer_row(4, (2,)), layer_row(5, (3, 4, 0), name=LONG_NAME, is_output=True))
    steps = (ChipLayer(index=0, name="l0", unit="KPU", processors="", cycles=100, time_us=2.0, utilisation=0.5),
             ChipLayer(index=1, name="l1: pad", unit="CPU", processors="", cycles=0, time_us=0.0, utilisation=0.0,
                       timed=False),
             ChipLayer(index=1, name="l1", unit="KPU", processors="", cycles=300, time_us=6.0, utilisation=0.25),
             ChipLayer(index=5, name=LONG_NAME, unit="CPU", processors="", cycles=100, time_us=2.0, utilisation=0.0,
                       rough=True))
    memory = MemoryMap(
        title="Memory", unit="bytes", capacity=4096, lanes=("",), steps=tuple(step.name for step in steps), peak=384,
        lower_bound=320, blocks=(MemoryBlock(label="input", lane=0, start=0, end=128, first_step=0, last_step=0),
                                 MemoryBlock(label="l0", lane=0, start=128, end=384, first_step=0, last_step=3)))
    accepts = ChipReport(
        target="k210", title="Kendryte K210", clock_hz=50_000_000, peak_macs_per_cycle=576, layers=steps,
        total_cycles=500, total_time_us=10.0, timing_note="estimated", memory_maps=(memory,), plan_peak=384,
        plan_lower_bound=320, unverified=(known_fact("k210-pooling"), known_fact("max78000-accumulator", "up to 9")),
        resources=(Resource(name="Store", used=6, capacity=64, unit="words", role="weights",
                            parts=(1, 0, 2, 0, 3, 0, 0, 0), part_capacity=8, part_name="bank", group_size=4,
                            group_name="half"),),
        proofs=("l0: below 2**24",), files={"main.c": 1234})
    refuses = ChipReport(
        target="max78000", title="MAX78000", clock_hz=0, layers=(), total_cycles=0, total_time_us=0.0, timing_note="",
        refusal=Refusal(
            findings=(Finding(code="E0464", message="the network does not fit", layer="l3", found="9 words",
                              allowed="8 words", help="use fewer"),),
            consumers=(Consumer(memory="weight memory", layer="l3", amount=4321, unit="bytes"),),
            remedies=(Remedy(action="write quantization: 4 in l3", effect="planned with success"),)))
    counts = ((5, 1, 0), (0, 7, 0), (0, 0, 0))
    return Report(
        version="0", network="branching", dataset="shapes", input_shape=(8, 16, 16), sample="by hand", layers=rows,
        chips=(refuses, accepts),
        verification={"reference": "equal", "kmodel": "different: l1", "firmware": "skipped: x"},
        accuracy=(Accuracy(executor="reference", samples=13, correct=12, mismatches=0, confusion=counts),
                  Accuracy(executor="k210", samples=13, correct=12, mismatches=0, confusion=counts)),
        messages=("a notice",), labels=("round", "square", "other"), error_samples="13 test items of shapes")
