"""Settings: defaults, checks, sources and their precedence; the command line derived from them."""

import contextlib
import io

import pytest

from ai8x.cli.train import build_parser, main
from ai8x.errors import Source, UserError
from ai8x.training.config import (
    TrainConfig,
    config_options,
    convert_value,
    field_types,
    parse_assignment,
    resolve_config,
)
from ai8x.training.run import read_config_file


def codes(error):
    return [finding.code for finding in error.value.diagnostics]


def test_defaults_are_those_of_the_decisions():
    config = TrainConfig()
    assert (config.arch, config.dataset, config.epochs, config.out_dir) == ("digitsnet", "digits", 60, "runs")
    assert resolve_config() == config


def test_later_sources_win():
    assert resolve_config({"lr": 0.1, "epochs": 5}, {"lr": 0.2}) == TrainConfig(lr=0.2, epochs=5)


def test_all_bad_values_are_reported_together():
    with pytest.raises(UserError) as error:
        resolve_config({"epochs": 0, "lr": -1.0, "optimizer": "rmsprop"})
    assert codes(error) == ["E0601"] * 3
    assert "--epochs" in error.value.diagnostics[0].message and error.value.diagnostics[0].help


@pytest.mark.parametrize(("name", "good", "bad"), [
    ("epochs", 1, 0), ("batch_size", 1, 0), ("lr", 1e-9, 0.0), ("lr", 1.0, float("nan")), ("momentum", 0.0, 1.0),
    ("weight_decay", 0.0, -1e-9), ("seed", 0, -1), ("validation_split", 0.0, 1.0), ("workers", 0, -1),
    ("print_freq", 1, 0), ("qat_start", 0, -1), ("name", "a-b_C1", "../x"), ("arch", "net5", "a/b"),
    ("optimizer", "ADAM", "adamax"), ("decay", "none", "linear"), ("dataset", "CIFAR10", "a b"),
])
def test_limits_of_settings(name, good, bad):
    assert getattr(resolve_config({name: good}), name) == good
    with pytest.raises(UserError) as error:
        resolve_config({name: bad})
    assert codes(error) == ["E0601"]


def test_unknown_chip_is_refused():
    with pytest.raises(UserError) as error:
        resolve_config({"device": "AI84"})
    assert codes(error) == ["E0371"]


@pytest.mark.parametrize(("text", "expected"), [
    ("lr=0.01", ("lr", 0.01)), ("epochs=7", ("epochs", 7)), ("use_bias=true", ("use_bias", True)),
    ("name=none", ("name", None)), ("qat_policy=None", ("qat_policy", "None")), ("schedule=a=b", ("schedule", "a=b")),
    ("qat_start=12", ("qat_start", 12)),
])
def test_assignment_gives_the_type_of_the_field(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(("text", "code"), [
    ("lr", "E0611"), ("lr=fast", "E0611"), ("epochs=1.5", "E0611"), ("use_bias=yes", "E0611"), ("epoch=3", "E0610"),
    ("epochs=none", "E0611"),
])
def test_bad_assignment_is_refused(text, code):
    with pytest.raises(UserError) as error:
        parse_assignment(text)
    assert codes(error) == [code]


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(UserError) as error:
        convert_value("learning_rte", 1, source=Source(file="x"))
    assert "known settings" in error.value.diagnostics[0].help or "did you mean" in error.value.diagnostics[0].help
    with pytest.raises(UserError) as error:
        convert_value("epoch", 1, source=Source(file="x"))
    assert error.value.diagnostics[0].help == "did you mean 'epochs'?"


def test_config_file_gives_typed_values_and_names_the_line_of_a_mistake(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-2\nname: null\ntensorboard: false\nqat_start: 4\n")
    assert read_config_file(path) == {"lr": 0.01, "name": None, "tensorboard": False, "qat_start": 4}
    path.write_text("lr: 0.01\nepochs: many\n")
    with pytest.raises(UserError) as error:
        read_config_file(path)
    finding = error.value.diagnostics[0]
    assert finding.code == "E0611" and (finding.source.line, finding.source.column) == (2, 9)


@pytest.mark.parametrize(("text", "code"), [
    ("- lr\n", "E0612"), ("lr: 1\nlr: 2\n", "E0612"), ("[a]: 1\n", "E0612"), ("format: 99\n", "E0619"),
    ("lr: &x 1\n", "E0105"), ("lr: [\n", "E0104"), ("lr: [1, 2]\n", "E0611"),
])
def test_bad_config_file_is_refused(tmp_path, text, code):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_config_file(path)
    assert codes(error) == [code]


def test_every_setting_has_a_type_that_the_command_line_can_read():
    assert {kind for kind, _ in field_types().values()} <= {str, int, float, bool}


def test_parser_leaves_out_what_was_not_given():
    given = vars(build_parser().parse_args(["--model", "net5", "--no-tensorboard", "--use-bias"]))
    settings = {name: value for name, value in given.items() if name in config_options()}
    assert settings == {"arch": "net5", "tensorboard": False, "use_bias": True}


@pytest.mark.parametrize("option", ["-a", "--arch", "--model", "--compress", "--schedule", "--det", "--wd", "--vs",
                                    "--learning-rate", "-b", "-j", "-p", "-n", "-o", "--enable-tensorboard"])
def test_spellings_of_ai8x_training_are_known(option):
    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit):
        build_parser().parse_args(["--help-all"])
    assert f"{option} " in output.getvalue().replace(",", " ").replace("\n", " ")


def shown_options(argument):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as stop:
        build_parser().parse_args([argument])
    assert stop.value.code == 0
    return [line for line in output.getvalue().splitlines() if line.startswith("  -")]


def test_help_is_short_and_help_all_complete():
    assert len(shown_options("--help")) <= 25
    everything = "\n".join(shown_options("--help-all"))
    for option in config_options().values():
        assert option.flags[0] in everything


@pytest.mark.parametrize("arguments", [["--nassau"], ["--epochs", "many"], ["--batch", "3"]])
def test_unknown_options_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(("arguments", "code"), [
    (["-8"], "E0621"), (["--evaluate"], "E0621"), (["--save-sample", "0"], "E0621"),
    (["--resume", "x", "--exp-load-weights-from", "y"], "E0621"),
    (["--evaluate", "a", "--exp-load-weights-from", "b"], "E0621"),
    (["--epochs", "0"], "E0601"), (["--set", "lr"], "E0611"), (["--config", "/nonexistent.yaml"], "E0101"),
])
def test_contradictions_end_with_status_2_and_their_code(arguments, code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert f"error[{code}]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
