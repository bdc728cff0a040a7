"""The options of ai8x-training: every one is answered, and those that are kept do something.

Source: spec/ai8x-training.md section 12.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ai8x.cli.train import DROPPED_OPTIONS, LATER_OPTIONS, SUMMARIES, build_parser, main
from ai8x.network.yaml_file import read_network_file
from ai8x.training.config import config_options

KEPT_TEXT = """
--device -8 --8-bit-mode -a --arch --model -f --out-fold-ratio --dataset --truncate-testset --data -j --workers --epochs
-b --batch-size --use-bias --avg-pool-rounding --copy-output-folder --kd-relationbased --qat-policy --optimizer --lr
--learning-rate --momentum --weight-decay --wd -p --print-freq --resume-from --exp-load-weights-from --load-weights-from
--reset-optimizer -e --evaluate --save-sample --slice-sample --param-hist --summary --summary-filename --compress
--schedule --deterministic --det --seed --gpus --cpu -n --name -o --out-dir --validation-split --valid-size --vs
--confusion --embedding --pr-curves --show-train-accuracy --enable-tensorboard --tensorboard --no-tensorboard
--regression --num-best-scores --compiler-mode --compiler-backend --enable-obj-detection --obj-detection
--obj-detection-params --kd-teacher --kd-resume --kd-temperature --kd-temp --kd-distill-wt --kd-dw --kd-student-wt
--kd-sw --kd-teacher-wt --kd-tw --kd-start-epoch --yaml-template
"""
"""Spellings that ai8x-training has, or that are ours beside them, with a meaning here."""

NOT_YET_TEXT = """
--dr --scaf-margin --scaf-scale --scaf-lr --backbone-checkpoint --nas --nas-policy --nas-kd-resume-from
--nas-stage-transition-list
"""
KEPT, NOT_YET = KEPT_TEXT.split(), NOT_YET_TEXT.split()
WITHOUT_EFFECT = ["--pretrained", "--activation-stats", "--act-stats", "--kd-pretrained"]
MANY = """
--model TOYNET --epochs 2 --qat-start 1 -b 16 -p 1 -n try --optimizer SGD --lr 0.25 --momentum 0.5 --wd 0 --vs 0.2
--confusion --num-best-scores 2 --show-train-accuracy last_batch --use-bias --avg-pool-rounding --truncate-testset
--seed 4 --compress s.yaml --copy-output-folder copies --device max78002
"""
KNOWN = {option: action for action in build_parser()._actions for option in action.option_strings}


@pytest.mark.parametrize("option", [*KEPT, *WITHOUT_EFFECT, *NOT_YET])
def test_every_option_of_the_table_is_answered(option):
    assert option in KNOWN
    assert (option in DROPPED_OPTIONS) == (option in WITHOUT_EFFECT)
    assert (option in LATER_OPTIONS) == (option in NOT_YET)


SETTINGS = [
    ("--device MAX78002", "device", "MAX78002"), ("-a NetX", "arch", "NetX"), ("-f 4", "out_fold_ratio", 4),
    ("--out-fold-ratio 2", "out_fold_ratio", 2), ("--dataset KWS_20", "dataset", "KWS_20"),
    ("--truncate-testset", "truncate_testset", True), ("--data there", "data", "there"), ("-j 3", "workers", 3),
    ("--workers 0", "workers", 0), ("--epochs 7", "epochs", 7), ("-b 9", "batch_size", 9),
    ("--batch-size 10", "batch_size", 10), ("--use-bias", "use_bias", True),
    ("--avg-pool-rounding", "avg_pool_rounding", True), ("--copy-output-folder c", "copy_output_folder", "c"),
    ("--kd-relationbased", "kd_relationbased", True), ("--qat-policy None", "qat_policy", "None"),
    ("--optimizer SGD", "optimizer", "SGD"), ("--lr 0.5", "lr", 0.5), ("--learning-rate 0.25", "lr", 0.25),
    ("--momentum 0.5", "momentum", 0.5), ("--wd 0.01", "weight_decay", 0.01),
    ("--weight-decay 0", "weight_decay", 0.0), ("-p 3", "print_freq", 3), ("--param-hist", "param_hist", True),
    ("--compress s.yaml", "schedule", "s.yaml"), ("--det", "deterministic", True),
    ("--deterministic", "deterministic", True), ("--seed 4", "seed", 4), ("--gpus 1", "gpus", "1"),
    ("--cpu", "cpu", True), ("-n x", "name", "x"), ("-o out", "out_dir", "out"), ("--out-dir o", "out_dir", "o"),
    ("--vs 0.2", "validation_split", 0.2), ("--valid-size 0.3", "validation_split", 0.3),
    ("--confusion", "confusion", True), ("--embedding", "embedding", True), ("--pr-curves", "pr_curves", True),
    ("--show-train-accuracy last_batch", "show_train_accuracy", "last_batch"),
    ("--enable-tensorboard", "tensorboard", True), ("--tensorboard", "tensorboard", True),
    ("--no-tensorboard", "tensorboard", False), ("--regression", "regression", True),
    ("--num-best-scores 4", "num_best_scores", 4), ("--compiler-mode default", "compiler_mode", "default"),
    ("--compiler-backend eager", "compiler_backend", "eager"), ("--obj-detection", "obj_detection", True),
    ("--enable-obj-detection", "obj_detection", True), ("--obj-detection-params p", "obj_detection_params", "p"),
    ("--kd-teacher t", "kd_teacher", "t"), ("--kd-resume r", "kd_resume", "r"), ("--kd-temp 2", "kd_temperature", 2.0),
    ("--kd-temperature 3", "kd_temperature", 3.0), ("--kd-dw 0.1", "kd_distill_wt", 0.1),
    ("--kd-distill-wt 0.2", "kd_distill_wt", 0.2), ("--kd-sw 0.1", "kd_student_wt", 0.1),
    ("--kd-student-wt 0", "kd_student_wt", 0.0), ("--kd-tw 0", "kd_teacher_wt", 0.0),
    ("--kd-start-epoch 2", "kd_start_epoch", 2),
]


@pytest.mark.parametrize(("words", "name", "value"), SETTINGS, ids=[words for words, _, _ in SETTINGS])
def test_options_become_settings(words, name, value):
    given = {key: found for key, found in vars(build_parser().parse_args(words.split())).items()
             if key in config_options()}
    assert given == {name: value} and type(given[name]) is type(value)


def test_a_run_with_many_options_does_all_of_them(toy_arguments, capsys):
    Path("s.yaml").write_text(yaml.safe_dump({
        "lr_schedulers": {"rate": {"class": "MultiStepLR", "milestones": [1], "gamma": 0.5}},
        "policies": [{"lr_scheduler": {"instance_name": "rate"}, "starting_epoch": 0, "ending_epoch": 9,
                      "frequency": 1}]}))
    arguments = [*toy_arguments, *MANY.split()]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])
    run = Path(result["run"])
    assert run.name.startswith("try_") and Path(result["copy"]).is_dir()
    assert "32 training, 8 validation, 1 test samples" in shown  # --vs, --truncate-testset
    steps = [line for line in shown.splitlines() if line.startswith("Epoch: [0]")]
    assert [" Top1 " in line for line in steps] == [True, True]  # two steps of 16, both among the last two
    assert "==> Confusion:" in shown and shown.count("==> Best [") == 2
    rates = [line.rsplit(",", 1)[1] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert rates == ["0.25", "0.125"]
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["seed"], settings["optimizer"], settings["avg_pool_rounding"]) == (4, "SGD", True)


def test_accuracy_of_the_last_steps_only(toy_arguments, capsys):
    assert main([*toy_arguments, "--epochs", "1", "-p", "1", "--show-train-accuracy", "last_batch"]) == 0
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch: [0]")]
    assert [" Top1 " in line for line in steps] == [False, False, False, True, True]


@pytest.mark.parametrize("kind", [kind for kind in SUMMARIES if kind.startswith("png")])
def test_pictures_of_a_model_are_refused_with_another_way(kind, toy_arguments, capsys):
    assert main([*toy_arguments, "--summary", kind]) == 2
    error = capsys.readouterr().err
    assert "error[E0639]" in error and "--summary onnx" in error


@pytest.mark.parametrize("kind", ["onnx", "onnx_simplified"])
def test_float_network_is_written_as_onnx(kind, toy_arguments, capsys, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main([*toy_arguments, "--summary", kind, "--summary-filename", "toy"]) == 0
    assert "toy.onnx" in capsys.readouterr().out
    session = onnxruntime.InferenceSession("toy.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"input": np.zeros((2, 1, 8, 8), np.float32)})
    assert outputs.shape == (2, 3)
    content = Path("toy.onnx").read_bytes()
    assert (b"BatchNormalization" in content) == (kind == "onnx")


def test_network_description_is_written(toy_arguments, capsys):
    assert main([*toy_arguments, "--yaml-template", "toy.yaml"]) == 0
    assert "3 layers" in capsys.readouterr().out
    file = read_network_file(Path("toy.yaml"))
    assert (file.arch, [layer.name for layer in file.layers]) == ("toynet", ["conv1", "conv2", "fc"])


def test_modules_is_another_name_of_model(toy_arguments, capsys):
    shown = []
    for kind in ("model", "modules"):
        assert main([*toy_arguments, "--summary", kind]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
