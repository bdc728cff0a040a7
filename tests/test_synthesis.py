"""The stages together: what is written, what the record says, and when a run counts as failed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai8x import synthesis_max78000
from ai8x.errors import ExitStatus, UserError, user_error
from ai8x.files import MANIFEST_NAME
from ai8x.synthesis import WITNESSES, SynthesisOptions, SynthesisResult, accuracy_of, synthesize
from ai8x.training import test_set
from ai8x.verify import Verdict
from tests.end_to_end.digitsnet import NETWORK_FILE, sample, state, write_digitsnet

Run = Callable[..., SynthesisResult]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digitsnet(tmp_path_factory.mktemp("checkpoint") / "d.pth.tar")


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Run:
    """Synthesises digitsnet; keyword arguments change the options."""
    def synthesize_digits(**changes: Any) -> SynthesisResult:
        options = {"network": NETWORK_FILE, "checkpoint": checkpoint, "out": tmp_path / "out", "targets": ("max78000",)}
        return synthesize(SynthesisOptions(**{**options, **changes}))

    return synthesize_digits


@pytest.fixture
def no_firmware(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer without cross compiler: quicker, too."""
    monkeypatch.setattr(synthesis_max78000, "missing_tools", lambda *chain: "arm-none-eabi-gcc is not installed")


def record(result: SynthesisResult) -> dict[str, str]:
    """The verification record as a reader of report.json sees it."""
    content = json.loads((result.folder / "report.json").read_text())
    assert content["verification"] == {verdict.witness: str(verdict) for verdict in result.verdicts}
    assert tuple(content["verification"]) == WITNESSES
    return dict(content["verification"])


@pytest.mark.usefixtures("no_firmware")
def test_both_targets_are_written_and_verified(run: Run) -> None:
    result = run(targets=("max78000", "k210"))
    found = record(result)
    assert {found[witness] for witness in ("reference", "simulator", "kmodel")} == {"equal"}
    assert result.exit_status == ExitStatus.SUCCESS
    assert {path.name for path in result.folder.iterdir()} == {"max78000", "k210", "trace.npz", "report.json",
                                                              "report.html", MANIFEST_NAME}


@pytest.mark.usefixtures("no_firmware")
def test_without_a_compiler_the_firmware_is_skipped_and_said_to_be(run: Run) -> None:
    result = run()
    assert record(result)["firmware"] == "skipped: arm-none-eabi-gcc is not installed"
    assert result.exit_status == ExitStatus.SUCCESS


def test_without_the_emulators_libraries_the_firmware_is_skipped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: Any, **options: Any) -> None:
        raise user_error("E0801", "running firmware needs Unicorn, which is not installed")

    monkeypatch.setattr(synthesis_max78000, "missing_tools", lambda *chain: "")
    monkeypatch.setattr(synthesis_max78000, "build_project", lambda *arguments, **options: Path("none.elf"))
    monkeypatch.setattr(synthesis_max78000, "run_firmware", absent)
    assert record(run())["firmware"] == "skipped: running firmware needs Unicorn, which is not installed"


def test_a_build_that_fails_is_an_error_and_nothing_is_written(run: Run, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise user_error("E0804", "the firmware does not build")

    monkeypatch.setattr(synthesis_max78000, "missing_tools", lambda *chain: "")
    monkeypatch.setattr(synthesis_max78000, "build_project", broken)
    with pytest.raises(UserError, match="E0804"):
        run()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_firmware")
def test_a_target_that_was_not_asked_for_is_skipped(run: Run) -> None:
    found = record(run())
    assert found["kmodel"] == found["kpu_firmware"] == "skipped: this target was not asked for"


def test_without_verification_nothing_is_claimed(run: Run) -> None:
    found = record(run(verify=False))
    assert found["simulator"] == found["firmware"] == "skipped: --no-verify"


@pytest.mark.usefixtures("no_firmware")
def test_a_difference_fails_the_run_and_is_on_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis_max78000, "verify_simulator",
                        lambda *arguments: Verdict(witness="simulator", difference="layer 2 'bypass'"))
    result = run()
    assert record(result)["simulator"] == "different: layer 2 'bypass'"
    assert result.exit_status == ExitStatus.MISMATCH


@pytest.mark.usefixtures("no_firmware")
def test_the_trace_holds_every_layer_of_the_reference(run: Run) -> None:
    result = run()
    with np.load(result.folder / "trace.npz") as trace:
        assert list(trace) == [f"L{index}" for index in range(6)]
        assert [trace[name].shape for name in trace] == [(16, 28, 28), (32, 14, 14), (32, 14, 14), (32, 14, 14),
                                                         (16, 7, 7), (10, 1, 1)]
        assert trace["L5"].dtype == np.int32
        np.testing.assert_array_equal(trace["L1"], trace["L2"])


def test_the_plausible_network_is_alive_in_every_layer(run: Run) -> None:
    """The tests that plant faults rely on it."""
    with np.load(run(verify=False).folder / "trace.npz") as trace:
        for name in trace:
            assert np.count_nonzero(trace[name]) > 0.3 * trace[name].size, name
            assert np.count_nonzero(trace[name] == 127) < 0.1 * trace[name].size, name


@pytest.mark.usefixtures("no_firmware")
def test_the_report_tells_costs_of_every_layer(run: Run) -> None:
    result = run()
    content = json.loads((result.folder / "report.json").read_text())
    layers = content["layers"]
    assert [layer["name"] for layer in layers] == ["conv1", "conv2", "bypass", "conv3", "conv4", "fc"]
    assert [layer["macs"] for layer in layers] == [112896, 903168, 0, 1806336, 225792, 7840]
    assert [layer["weight_bytes"] for layer in layers] == [144, 4608, 0, 9216, 4608, 7840]
    (chip,) = content["chips"]
    assert sum(row["cycles"] for row in chip["layers"]) + 1 == chip["total_cycles"]
    assert all(row["processors"].startswith("0x") for row in chip["layers"])
    assert content["totals"] == {"macs": sum(layer["macs"] for layer in layers), "weight_bytes": 26416}
    assert chip["files"]["weights.h"] == (result.folder / "max78000" / "weights.h").stat().st_size


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    network = tmp_path / "net.yaml"
    network.write_text(NETWORK_FILE.read_text().replace("out_offset: 0x1000", "out_offset: 0x8000", 1))
    with pytest.raises(UserError, match="E0416"):
        run(network=network)
    assert [path.name for path in tmp_path.iterdir()] == ["net.yaml"]


def test_messages_in_the_report_do_not_tell_where_files_lie(run: Run, tmp_path: Path) -> None:
    network = tmp_path / "net.yaml"
    network.write_text(NETWORK_FILE.read_text())
    arrays = state()
    arrays["conv1.op.weight"], arrays["conv1.op.bias"] = arrays["conv1.op.weight"][:15], arrays["conv1.op.bias"][:15]
    arrays["conv2.op.weight"] = arrays["conv2.op.weight"][:, :15]
    network.write_text(network.read_text().replace("0x0000.0000.0000.ffff", "0x0000.0000.0000.7fff", 1))
    result = run(network=network, checkpoint=write_digitsnet(tmp_path / "odd.pth.tar", state=arrays), verify=False)
    assert result.messages, "an odd number of channels gives a notice"
    messages = json.loads((result.folder / "report.json").read_text())["messages"]
    assert len(messages) == len(result.messages)
    assert all(message.startswith("net.yaml:") for message in messages)
    assert str(tmp_path) not in (result.folder / "report.html").read_text()


# --- accuracy -----------------------------------------------------------------------------------------------------

@pytest.fixture
def three_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of three test items."""
    images = np.stack([sample(5), sample(6), sample(7)])
    items = test_set.TestSet(inputs=images, targets=np.array([0, 1, 2]), labels=("0", "1", "2"))
    monkeypatch.setattr(test_set, "load_test_set", lambda name, **options: items if name == "digits" else None)


@pytest.mark.usefixtures("no_firmware", "three_items")
def test_test_items_run_on_every_simulator(run: Run) -> None:
    result = run(targets=("max78000", "k210"), test_samples=2)
    rows = {row.executor: row for row in result.report.accuracy}
    assert {name: (row.samples, row.mismatches) for name, row in rows.items()} == {
        "reference": (3, 0), "max78000": (2, 0), "k210": (2, 0)}
    assert rows["max78000"].correct == rows["k210"].correct <= rows["reference"].correct
    assert result.exit_status == ExitStatus.SUCCESS


def test_confusion_has_a_row_for_each_true_class_and_a_column_for_each_answer() -> None:
    expected = np.array([[5, 1, 0], [2, 2, 1], [0, 9, 3], [-4, -9, -3]])[:, :, None, None]
    found = expected.copy()
    found[3, 1] = 7
    row = accuracy_of("max78000", expected, found, np.array([0, 1, 1, 2]))
    assert (row.executor, row.samples, row.correct, row.mismatches) == ("max78000", 4, 2, 1)
    # The second item's logits are equal: the first class is the answer. The fourth is wrong by a wrong logit only.
    assert row.confusion == ((1, 0, 0), (1, 1, 0), (0, 1, 0))
    reference = accuracy_of("reference", expected, expected, np.array([0, 1, 1, 2]))
    assert (reference.correct, reference.mismatches) == (3, 0)


def test_labels_beyond_the_outputs_get_rows_of_their_own() -> None:
    logits = np.array([[1, 0], [0, 1]])[:, :, None, None]
    row = accuracy_of("reference", logits, logits, np.array([0, 3]))
    assert row.correct == 1 and row.confusion == ((1, 0, 0, 0), (0,) * 4, (0,) * 4, (0, 1, 0, 0))


@pytest.mark.usefixtures("no_firmware", "three_items")
def test_more_items_than_there_are_is_all_of_them(run: Run) -> None:
    assert [row.samples for row in run(test_samples=100).report.accuracy] == [3, 3]


@pytest.mark.usefixtures("no_firmware", "three_items")
def test_one_wrong_logit_in_a_test_item_fails_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*arguments: Any) -> Any:
        for values in synthesis_max78000_run_samples(*arguments):
            wrong = values.copy()
            wrong[3] += 1
            yield wrong

    synthesis_max78000_run_samples = synthesis_max78000.run_samples
    monkeypatch.setattr(synthesis_max78000, "run_samples", off_by_one)
    result = run(test_samples=3)
    assert [row.mismatches for row in result.report.accuracy] == [0, 3]
    assert not any(verdict.is_different for verdict in result.verdicts)
    assert result.exit_status == ExitStatus.MISMATCH


@pytest.mark.usefixtures("no_firmware")
def test_a_data_set_that_is_not_to_be_had_is_an_error(run: Run, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_set, "load_test_set", lambda name, **options: None)
    with pytest.raises(UserError, match="E0644") as caught:
        run(test_samples=1)
    assert caught.value.diagnostics[0].source is not None
    with pytest.raises(UserError, match="E0644") as caught:
        run(dataset="MNIST", test_samples=1)
    assert caught.value.diagnostics[0].source is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "found"), [("cifar10", "--dataset cifar10"), ("", "cifar10")])
def test_an_unknown_data_set_is_refused_before_anything_runs(run: Run, tmp_path: Path, option: str, found: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def run_nothing(*given: Any, **options: Any) -> None:
        raise AssertionError("a stage ran")

    monkeypatch.setattr("ai8x.synthesis.run_network", run_nothing)
    file = tmp_path / "net.yaml"
    file.write_text(NETWORK_FILE.read_text().replace("dataset: digits", "dataset: cifar10"))
    with pytest.raises(UserError) as caught:
        run(network=file, dataset=option, test_samples=1)
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.found, finding.help) == ("E0604", found, "did you mean 'CIFAR10'?")
    assert "CIFAR10" in finding.allowed
    assert (finding.source is None) == bool(option) and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_firmware")
def test_a_data_set_without_classes_has_no_accuracy(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = test_set.TestSet(inputs=np.stack([sample(5)]), targets=None, labels=("0", "1"))
    monkeypatch.setattr(test_set, "load_test_set", lambda name, **options: items)
    with pytest.raises(UserError, match="E0645"):
        run(test_samples=1)
    assert not list(tmp_path.iterdir())


# --- formats of checkpoints ---------------------------------------------------------------------------------------

def test_a_safetensors_checkpoint_gives_the_same_network(run: Run, tmp_path: Path) -> None:
    """Its tensors are stored in another order than the network's layers."""
    expected = (run(verify=False).folder / "trace.npz").read_bytes()
    result = run(checkpoint=write_digitsnet(tmp_path / "d.safetensors"), out=tmp_path / "other", verify=False)
    assert (result.folder / "trace.npz").read_bytes() == expected


def test_the_record_of_a_run_is_immutable(run: Run) -> None:
    result = run(verify=False)
    assert replace(result, accuracy_differs=True).exit_status == ExitStatus.MISMATCH
    assert result.exit_status == ExitStatus.SUCCESS
