"""Data sets that are read from files: tiny ones in the real on-disk formats, written here."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ai8x.errors import UserError
from ai8x.nn.data import fold, unfold_batch
from ai8x.training import keywords, segmentation_sets
from ai8x.training.data import BatchPlan, LoaderArguments, TaskKind
from ai8x.training.keywords import KWS_20, arrange, fit_length
from ai8x.training.registry import discover, find_dataset
from ai8x.training.session import start_training

PLAN = BatchPlan(batch_size=64)


def codes(error):
    return [finding.code for finding in error.value.diagnostics]


def parts_of(name, folder, **settings):
    return find_dataset(discover(), name).loader(LoaderArguments(folder=folder, **settings))


def write_picture(path, pixels, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(path, quality=95)


def settings_of(tmp_path, **changes):
    return {"data": str(tmp_path), "out_dir": str(tmp_path / "runs"), "epochs": 2, "qat_start": 1, "batch_size": 8,
            "workers": 0, "tensorboard": False, "cpu": True, **changes}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["KWS_20", "cats_vs_dogs", "CamVid_s80_c3", "AISegment_80", "SVHN_74"])
def test_missing_files_are_named_and_nothing_is_fetched(name, tmp_path):
    with pytest.raises(UserError) as error:
        parts_of(name, tmp_path)
    assert codes(error) == ["E0609"] and error.value.diagnostics[0].help
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ spoken words

def write_sound(path, samples, rate=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def spoken(tmp_path):
    root = tmp_path / keywords.FOLDER
    time = np.arange(16_000)
    for number, word in enumerate(("up", "zero", "marvin")):
        for speaker in range(6):
            write_sound(root / word / f"{speaker:08x}_nohash_0.wav", 8000 * np.sin(time * (0.02 + 0.05 * number)))
    write_sound(root / "_background_noise_" / "hum.wav", 3000 * np.sin(np.arange(40_000) * 0.3))
    (root / "testing_list.txt").write_text("up/00000000_nohash_0.wav\nmarvin/00000001_nohash_0.wav\n")
    (root / "validation_list.txt").write_text("zero/00000002_nohash_0.wav\n")
    return tmp_path


def test_lists_divide_the_words(spoken):
    parts = parts_of("KWS_20", spoken)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [15, 1, 2]
    (_, classes), = parts.test.batches(PLAN)
    assert sorted(classes.tolist()) == [0, 20]
    (_, classes), = parts.validation.batches(PLAN)
    assert classes.tolist() == [keywords.WORDS.index("zero")]


def test_sound_is_seen_as_samples_in_columns(spoken):
    (inputs, classes), = parts_of("KWS_20", spoken, act_mode_8bit=True).test.batches(PLAN)
    assert inputs.shape == (2, 128, 128)
    item = inputs[classes.tolist().index(0)]
    wanted = np.clip(np.round((8000 * np.sin(np.arange(16_000) * 0.02)).astype("<i2") / 32768 * 128), -128, 127)
    assert item.T.flatten()[:16_000].tolist() == wanted.tolist()  # element [c][t] is sample t * 128 + c
    assert item.T.flatten()[16_000:].tolist() == [0] * 384


def test_arrangement_keeps_to_the_grid():
    values = arrange(fit_length(np.linspace(-1, 1, 20_000, dtype=np.float32)))
    assert values.shape == (128, 128) and float(values.min()) == 0
    assert torch.equal(values * 256, (values * 256).round())


def test_words_are_changed_in_training_only_and_the_same_way_again(spoken):
    parts = parts_of("KWS_20", spoken)
    first, again, other = (next(iter(parts.train.batches(BatchPlan(batch_size=15, seed=1, epoch=epoch))))[0]
                           for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    validated = [next(iter(parts.validation.batches(PLAN)))[0] for _ in range(2)]
    assert torch.equal(*validated)


def test_words_are_weighted_as_there_are_many_of_one_kind():
    assert KWS_20.class_weights == (1.0,) * 20 + (0.14,) and len(KWS_20.labels) == 21


def test_sound_of_another_rate_is_refused(spoken):
    write_sound(spoken / keywords.FOLDER / "up" / "00000000_nohash_0.wav", [0] * 100, rate=8000)
    with pytest.raises(UserError) as error:
        list(parts_of("KWS_20", spoken).test.batches(PLAN))
    assert codes(error) == ["E0609"] and "8000 Hz" in error.value.diagnostics[0].found


def test_keyword_network_trains_on_sounds(spoken, tmp_path):
    result = start_training(settings_of(tmp_path, dataset="KWS_20", arch="ai85kws20netv3"))
    assert result["accuracy"]["integer"] == {"test": result["accuracy"]["qat"]["test"]}


# ------------------------------------------------------------------------------------------------ cats and dogs

@pytest.fixture
def animals(tmp_path):
    for part, count in (("train", 10), ("test", 3)):
        for label, colour in (("cats", (200, 30, 30)), ("dogs", (30, 30, 200))):
            for number in range(count):
                pixels = np.tile(np.array(colour), (90, 120, 1))
                pixels[:, :60] //= 2
                write_picture(tmp_path / "cats_vs_dogs" / part / label / f"{number}.jpg", pixels)
    return tmp_path


def test_pictures_in_folders_are_scaled_and_classified(animals):
    parts = parts_of("cats_vs_dogs", animals)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [18, 2, 6]
    (images, classes), = parts.test.batches(PLAN)
    assert images.shape == (6, 3, 128, 128) and classes.tolist() == [0, 0, 0, 1, 1, 1]
    assert images[0, 0, 64, 120] > 0.4 > images[0, 0, 64, 10] > images[0, 2, 64, 120]
    assert len(parts_of("cats_vs_dogs", animals, truncate_testset=True).test) == 1


def test_pictures_are_changed_in_training_only(animals):
    parts = parts_of("cats_vs_dogs", animals)
    first, second = (next(iter(parts.train.batches(BatchPlan(batch_size=18, seed=seed))))[0] for seed in (1, 2))
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    (validated, _), = parts.validation.batches(PLAN)
    assert float((validated[:, :, :, :63] - validated[:, :, :, :1]).abs().max()) < 0.05  # one colour a half


def test_file_that_is_no_picture_is_refused(animals):
    (animals / "cats_vs_dogs" / "test" / "cats" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError) as error:
        list(parts_of("cats_vs_dogs", animals).test.batches(PLAN))
    assert codes(error) == ["E0609"]


# ------------------------------------------------------------------------------------------------ pixels

@pytest.fixture
def streets(tmp_path):
    root = tmp_path / "CamVid"
    colours = {name: (10 + 7 * i, 20 + 5 * i, 30 + 3 * i) for i, name in enumerate(segmentation_sets.ALL_CLASSES)}
    root.mkdir()
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in colours.items()]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(rows) + "\n")
    for part, count in (("train", 10), ("val", 1), ("test", 2)):
        for number in range(count):
            labels = np.zeros((72, 96, 3))
            labels[:36, :48], labels[:36, 48:], labels[36:, :48] = (colours[n] for n in ("Sky", "Building", "Tree"))
            labels[36:, 48:] = colours["Road"]
            write_picture(root / part / f"{number}.png", np.clip(labels * 2, 0, 255))
            write_picture(root / f"{part}_labels" / f"{number}_L.png", labels)
    return tmp_path


def test_colours_become_classes(streets):
    (images, classes), = parts_of("CamVid_s80_c3", streets).test.batches(PLAN)
    assert images.shape == (3, 3, 80, 80) and classes.shape == (3, 80, 80)
    assert classes[0, ::79, ::79].tolist() == [[1, 0], [2, 3]]
    (_, classes), = parts_of("CamVid_s80_c33", streets).test.batches(PLAN)
    assert classes[0, 79, 79] == segmentation_sets.ALL_CLASSES.index("Road")


def test_large_pictures_are_folded_and_their_labels_are_not(streets):
    spec = find_dataset(discover(), "CamVid_s352_c3")
    (images, classes), = parts_of("CamVid_s352_c3", streets).test.batches(PLAN)
    assert images.shape[1:] == spec.input_shape == (48, 88, 88) and classes.shape == (3, 352, 352)
    assert torch.equal(fold(4)(unfold_batch(images, 4)[0]), images[0])


def test_labels_are_mirrored_with_their_picture(streets):
    parts = parts_of("CamVid_s80_c3", streets)
    (images, classes), = parts.train.batches(BatchPlan(batch_size=10, seed=0))
    left = classes[:, 0, 0]
    assert set(left.tolist()) == {0, 1}  # the sky lies left, and mirrored right
    assert torch.equal(images[:, 0, 5, 5] == images[0, 0, 5, 5], left == left[0])


def test_missing_labels_are_named(streets):
    (streets / "CamVid" / "test_labels" / "0_L.png").unlink()
    with pytest.raises(UserError) as error:
        parts_of("CamVid_s80_c3", streets)
    assert codes(error) == ["E0609"]


def test_transparency_tells_the_person(tmp_path):
    for number in range(20):
        pixels = np.full((80, 60, 4), 200)
        pixels[:, :30, 3] = 0
        group = tmp_path / "AISegment"
        name = f"1803151818-{number:08d}"
        write_picture(group / "clip_img" / "1803151818" / "clip_00000000" / f"{name}.jpg", pixels[..., :3])
        write_picture(group / "matting" / "1803151818" / "matting_00000000" / f"{name}.png", pixels, "RGBA")
    parts = parts_of("AISegment_80", tmp_path)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [17, 1, 2]
    (images, classes), = parts.test.batches(PLAN)
    assert images.shape == (2, 3, 80, 80) and classes[0, 40, ::79].tolist() == [0, 1]
    (images, _), = parts_of("AISegment_352", tmp_path).test.batches(PLAN)
    assert images.shape == (2, 48, 88, 88)


FOLDED = '''
from torch import nn

import ai8x


class Folded(nn.Module):
    def __init__(self, num_classes=4, num_channels=48, dimensions=(88, 88), bias=True, **kwargs):
        super().__init__()
        self.conv1 = ai8x.FusedConv2dReLU(num_channels, 64, 1, bias=True, **kwargs)
        self.conv2 = ai8x.Conv2d(64, num_classes * 16, 1, bias=True, **kwargs)

    def forward(self, x):
        return self.conv2(self.conv1(x))


def foldnet(pretrained=False, **kwargs):
    return Folded(**kwargs)


models = [{"name": "foldnet", "min_input": 1, "dim": 2}]
'''


def test_folded_outputs_are_compared_pixel_by_pixel(streets, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "foldnet.py").write_text(FOLDED)
    result = start_training(settings_of(tmp_path, dataset="CamVid_s352_c3", arch="foldnet", out_fold_ratio=4, lr=0.02,
                                        models_path=str(tmp_path / "models"), epochs=6, qat_start=4))
    report = Path(result["run"], "log.txt").read_text()
    assert f"{352 * 352} samples" in report  # the validation picture, pixel by pixel
    assert result["accuracy"]["qat"]["test"] > 60
    assert result["accuracy"]["integer"] == {"test": result["accuracy"]["qat"]["test"]}


def test_small_unet_learns_pixels(streets, tmp_path):
    result = start_training(settings_of(tmp_path, dataset="CamVid_s80_c3", arch="ai85unetsmall", batch_size=4))
    assert result["accuracy"]["integer"] == {"test": result["accuracy"]["qat"]["test"]}


# ------------------------------------------------------------------------------------------------ house numbers

def write_structure(path, entries):
    """A digitStruct.mat as MATLAB 7.3 writes it: references to columns, directly a number for a single digit."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        references = file.create_group("#refs#")
        names = file.create_dataset("digitStruct/name", (len(entries), 1), dtype=h5py.ref_dtype)
        boxes = file.create_dataset("digitStruct/bbox", (len(entries), 1), dtype=h5py.ref_dtype)
        for number, (name, digits) in enumerate(entries):
            codes_ = references.create_dataset(f"n{number}", data=np.array([[ord(c)] for c in name], np.uint16))
            group = references.create_group(f"b{number}")
            for column, field in enumerate(("left", "top", "width", "height", "label")):
                values = [digit[column] for digit in digits]
                if len(values) == 1:
                    group.create_dataset(field, data=np.array([[float(values[0])]]))
                    continue
                column_ = group.create_dataset(field, (len(values), 1), dtype=h5py.ref_dtype)
                for place, value in enumerate(values):
                    cell = references.create_dataset(f"v{number}_{field}_{place}", data=np.array([[float(value)]]))
                    column_[place, 0] = cell.ref
            names[number, 0], boxes[number, 0] = codes_.ref, group.ref


@pytest.fixture
def houses(tmp_path):
    for part, count in (("train", 8), ("test", 3)):
        entries = []
        for number in range(1, count + 1):
            digits = [(20, 10, 12, 30, 10), (36, 12, 12, 28, 7)][:1 + number % 2]
            pixels = np.full((60, 80, 3), 40)
            for left, top, width, height, label in digits:
                pixels[top:top + height, left:left + width] = (250, 20 * label, 128)
            write_picture(tmp_path / "SVHN" / part / f"{number}.png", pixels)
            entries.append((f"{number}.png", digits))
        write_structure(tmp_path / "SVHN" / part / "digitStruct.mat", entries)
    return tmp_path


def test_boxes_follow_the_cut_and_the_scale(houses):
    spec = find_dataset(discover(), "SVHN_74")
    assert (spec.kind, spec.num_classes) == (TaskKind.DETECTION, 11)
    (images, (boxes, classes)), = parts_of("SVHN_74", houses).test.batches(PLAN)
    assert images.shape == (3, 3, 74, 74)
    assert [entry.tolist() for entry in classes] == [[10, 7], [10], [10, 7]]
    # two digits: the common box is 20..48 by 10..40; with the margin of 30 % 11..57 by 1..49
    wanted = torch.tensor([[9 / 46, 9 / 48, 21 / 46, 39 / 48], [25 / 46, 11 / 48, 37 / 46, 39 / 48]])
    assert torch.allclose(boxes[0], wanted)
    left, top, right, bottom = (round(float(value) * 74) for value in boxes[0][0])
    assert float(images[0, 0, top + 3:bottom - 3, left + 3:right - 3].min()) > 0.9 > float(images[0, 0, 0, 0])


def test_detector_learns_house_numbers(houses, tmp_path):
    (tmp_path / "ssd.yaml").write_text("multi_box_loss: {alpha: 2, neg_pos_ratio: 3}\n"
                                       "nms: {min_score: 0.2, max_overlap: 0.3, top_k: 20}\n")
    result = start_training(settings_of(tmp_path, dataset="SVHN_74", arch="ai85tinierssd", obj_detection=True,
                                        obj_detection_params=str(tmp_path / "ssd.yaml"), batch_size=4,
                                        validation_split=0.0))
    assert result["metric"] == "map" and "==> mAP: " in Path(result["run"], "log.txt").read_text()
    assert result["accuracy"]["integer"]["test"] == pytest.approx(result["accuracy"]["qat"]["test"])
    rows = Path(result["run"], "metrics.csv").read_text().splitlines()
    assert rows[0] == "epoch,phase,train_loss,validation_loss,validation_map,learning_rate"
    assert float(rows[2].split(",")[2]) < float(rows[1].split(",")[2])
    assert json.loads(Path(result["run"], "qat_report.json").read_text())["layers"]


def test_plain_model_on_boxes_is_refused(houses, tmp_path):
    with pytest.raises(UserError) as error:
        start_training(settings_of(tmp_path, dataset="SVHN_74", arch="ai85netextrasmall"))
    assert codes(error) == ["E0631"]


# ------------------------------------------------------------------------------------------------ made up

def test_fake_data_is_always_the_same_and_can_be_learnt(tmp_path):
    first, second = (next(iter(parts_of("FakeData", tmp_path).test.batches(PLAN))) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert len(parts_of("FakeData", tmp_path, truncate_testset=True).test) == 1
    result = start_training(settings_of(tmp_path, dataset="FakeData", arch="ai85netextrasmall", batch_size=32, lr=0.01,
                                        epochs=4, qat_start=3))
    assert result["accuracy"]["integer"]["test"] > 60
