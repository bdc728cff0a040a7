"""The data set `KWS_20`: twenty spoken words and everything else, from the files of Speech Commands.

On disk, as its archive unpacks: a folder of WAV files for every word, ``_background_noise_``, and the lists
``testing_list.txt`` and ``validation_list.txt``. A second of sound becomes 128 channels of 128 steps. Start at `load`.

Source: spec/ai8x-training.md section 16 ("Audio") and section 17.
"""

from __future__ import annotations

import random
import tarfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ai8x.errors import Source
from ai8x.nn.data import normalize
from ai8x.training.data import DataSpec, LoaderArguments
from ai8x.training.loader import PluginLoader, require_folder, unreadable

NAME = "KWS_20"
WORDS = ("up", "down", "left", "right", "stop", "go", "yes", "no", "on", "off", "one", "two", "three", "four", "five",
         "six", "seven", "eight", "nine", "zero")
LABELS = (*WORDS, "UNKNOWN")
UNKNOWN_WEIGHT = 0.14
"""The class of all other words is about seven times as large as the others."""
RATE, NUM_SAMPLES, NUM_CHANNELS = 16_000, 16_384, 128
URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
FOLDER = "speech_commands_v0.02"
_NOISE = "_background_noise_"
_TEST_LIST, _VALIDATION_LIST = "testing_list.txt", "validation_list.txt"
_SPEED, _SHIFT, _LOUDEST_NOISE = 0.2, 0.1, 0.1


def read_sound(path: Path) -> NDArray[np.float32]:
    """A WAV file of one channel and 16 bits as values in [-1, 1).

    Raises:
        UserError: E0609 for another kind of file.
    """
    try:
        with wave.open(str(path), "rb") as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            if kind != (1, 2, RATE):
                raise wave.Error(f"{kind[0]} channels, {8 * kind[1]} bits, {kind[2]} Hz")
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise unreadable("a sound of the data set cannot be read", source=Source(file=str(path)),
                         found=str(error), allowed=f"one channel, 16 bits, {RATE} Hz",
                         help="fetch the data set again") from error
    sound: NDArray[np.float32] = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    return sound


def fit_length(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exactly 16,384 samples: zeros behind, or the end cut off."""
    fitted = np.zeros(NUM_SAMPLES, np.float32)
    fitted[:len(sound)] = sound[:NUM_SAMPLES]
    return fitted


def arrange(sound: NDArray[np.float32]) -> Tensor:
    """16,384 samples as (128, 128) values in [0, 1): element [c][t] is sample ``t * 128 + c``, in steps of 1/256."""
    steps = np.clip(np.round((sound + 1) * 128), 0, 255).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(steps.reshape(-1, NUM_CHANNELS).T)) / 256


def change_speed(sound: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Faster by a factor, by linear interpolation; pitch moves along."""
    places = np.arange(0, len(sound) - 1, factor)
    changed: NDArray[np.float32] = np.interp(places, np.arange(len(sound)), sound).astype(np.float32)
    return changed


class Sounds(Dataset[Any]):
    """Spoken words.

    Args:
        files: sounds and their classes.
        noises: sounds to mix in; none leaves the words as they are.
        args: of the loader.
    """

    def __init__(self, files: list[tuple[Path, int]], noises: list[Path], args: LoaderArguments) -> None:
        self.valid_indices: list[int] = []
        self._files = files
        self._noises = [read_sound(path) for path in noises]
        self._args = args
        self._transform = normalize(args)

    def plain(self) -> Sounds:
        """The same words, unchanged."""
        return Sounds(self._files, [], self._args)

    def __len__(self) -> int:
        """Number of words."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Sound (128, 128) and its class."""
        path, number = self._files[index]
        sound = read_sound(path)
        if self._noises:
            sound = self._augment(sound)
        return self._transform(arrange(fit_length(sound))), number

    def _augment(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Another speed, another place, and noise; drawn from the global generator, which the loader seeds."""
        sound = fit_length(change_speed(sound, random.uniform(1 - _SPEED, 1 + _SPEED)))  # noqa: S311
        sound = np.roll(sound, random.randint(-int(_SHIFT * RATE), int(_SHIFT * RATE)))  # noqa: S311
        noise = random.choice(self._noises)  # noqa: S311
        start = random.randrange(max(1, len(noise) - NUM_SAMPLES))  # noqa: S311
        level = random.uniform(0, _LOUDEST_NOISE)  # noqa: S311
        return np.clip(sound + level * fit_length(noise[start:]), -1, 1)


def load(data: tuple[str, LoaderArguments], load_train: bool = True, load_test: bool = True
         ) -> tuple[Sounds | None, Sounds | None]:
    """Training and test part; the lists of the archive say what belongs to test and validation.

    Raises:
        UserError: E0609 where the files are not there.
    """
    folder, args = data
    candidates = tuple(Path(folder) / part for part in (FOLDER, f"SpeechCommands/{FOLDER}", "KWS", "."))
    if args.download and not any((candidate / _TEST_LIST).exists() for candidate in candidates):
        fetch(Path(folder))
    root = require_folder(candidates, _TEST_LIST, NAME, "add --download to fetch it (2.3 GB), or name its folder with "
                          "--data DIR")
    tests, validations = _listed(root / _TEST_LIST), _listed(root / _VALIDATION_LIST)
    files = [(path, _class_of(path)) for path in sorted(root.glob("*/*.wav")) if path.parent.name != _NOISE]
    names = [f"{path.parent.name}/{path.name}" for path, _ in files]
    train = test = None
    if load_train:
        chosen = [i for i, name in enumerate(names) if name not in tests]
        train = Sounds([files[i] for i in chosen], sorted((root / _NOISE).glob("*.wav")), args)
        train.valid_indices = [place for place, i in enumerate(chosen) if names[i] in validations]
    if load_test:
        test = Sounds([file for file, name in zip(files, names, strict=True) if name in tests], [], args)
    return train, test


def _listed(path: Path) -> frozenset[str]:
    return frozenset(path.read_text(encoding="utf-8").split()) if path.exists() else frozenset()


def _class_of(path: Path) -> int:
    word = path.parent.name
    return WORDS.index(word) if word in WORDS else len(WORDS)


def fetch(folder: Path) -> None:
    """Download and unpack the archive into ``FOLDER`` below a folder.

    Raises:
        UserError: E0609 where that fails.
    """
    target = folder / FOLDER
    archive = folder / f"{FOLDER}.tar.gz"
    try:
        target.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(archive))
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")
        archive.unlink()
    except (OSError, tarfile.TarError) as error:
        raise unreadable(f"data set '{NAME}' cannot be fetched", source=Source(file=URL),
                         found=str(error)[:100], help=f"fetch it by hand and unpack it into {target}") from error


KWS_20 = DataSpec(name=NAME, input_shape=(NUM_CHANNELS, NUM_SAMPLES // NUM_CHANNELS), labels=LABELS,
                  loader=PluginLoader(NAME, load), class_weights=(1.0,) * len(WORDS) + (UNKNOWN_WEIGHT,))
"""The record that the registry lists."""
