"""Where the sample comes from, and what cannot be one (docs/design.md "Reading vendor files")."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai8x.checkpoint import Checkpoint
from ai8x.errors import UserError
from ai8x.sample import SAMPLE_LIMIT_BYTES, find_sample, read_sample, sample_problem, sample_shape_error

STATE = {"a.op.weight": np.zeros((1, 1, 1, 1), np.float32)}
ITEM = np.arange(12).reshape(3, 2, 2).astype(np.int8)


def checkpoint(**fields: Any) -> Checkpoint:
    return Checkpoint(state=STATE, file="x.pth.tar", **fields)


def no_data_set(name: str) -> None:
    """A computer without the data set."""
    return None


def found(path: Path | None = None, *, item: Any = no_data_set, **fields: Any) -> tuple[np.ndarray, str]:
    sample = find_sample(path, checkpoint(**fields), "digits", item)
    assert sample.values.dtype == np.int8
    assert sample.shape.as_tuple() == sample.values.shape
    return sample.values, sample.origin


def test_the_file_comes_first(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", ITEM.astype(np.int64))
    values, origin = found(tmp_path / "s.npy", sample=np.zeros((1, 4, 4), np.int8), item=lambda name: ITEM + 1)
    np.testing.assert_array_equal(values, ITEM)
    assert origin == "file s.npy"


def test_then_the_sample_in_the_checkpoint() -> None:
    values, origin = found(sample=ITEM, item=lambda name: pytest.fail("the data set was loaded"))
    np.testing.assert_array_equal(values, ITEM)
    assert origin == "stored in the checkpoint"


def test_then_the_first_test_item_of_the_data_set() -> None:
    asked = []
    values, origin = found(item=lambda name: asked.append(name) or ITEM, input_shape=(1, 5, 5))
    np.testing.assert_array_equal(values, ITEM)
    assert asked == ["digits"]
    assert "first test item" in origin


def test_then_random_numbers_that_are_always_the_same_and_said_to_be_so() -> None:
    values, origin = found(input_shape=(2, 30, 30))
    np.testing.assert_array_equal(values, found(input_shape=(2, 30, 30))[0])
    assert (values.min(), values.max()) == (-128, 127)
    assert "random" in origin


def test_without_any_shape_the_user_is_asked() -> None:
    with pytest.raises(UserError) as error:
        found()
    (finding,) = error.value.diagnostics
    assert finding.code == "E0643"
    assert "--sample-input" in finding.help


def test_an_impossible_shape_in_the_checkpoint_is_refused() -> None:
    with pytest.raises(UserError) as error:
        found(input_shape=(SAMPLE_LIMIT_BYTES, 2, 1))
    assert error.value.diagnostics[0].code == "E0642"


@pytest.mark.parametrize("shape", [(3, 7), (3, 7, 1)])
def test_one_dimensional_data_gets_a_width_of_1(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.arange(21).reshape(shape)
    np.save(tmp_path / "s.npy", data)
    np.testing.assert_array_equal(read_sample(tmp_path / "s.npy"), data.reshape(3, 7, 1))
    np.testing.assert_array_equal(found(sample=data.astype(np.int8))[0], data.reshape(3, 7, 1))


def test_values_up_to_the_limits_are_kept(tmp_path: Path) -> None:
    data = np.array([[[-128, 127]]], np.int32)
    np.save(tmp_path / "s.npy", np.asfortranarray(data))
    np.testing.assert_array_equal(read_sample(tmp_path / "s.npy"), data)


@pytest.mark.parametrize(("values", "problem"), [
    (np.zeros((1, 2, 2)), "float64"), (np.zeros((1, 2, 2), complex), "complex128"), (np.zeros((1, 2, 2), bool), "bool"),
    (np.zeros((1, 2, 2), "U3"), "<U3"), (np.zeros(4, int), "shape (4,)"), (np.zeros((1, 1, 2, 2), int), "shape"),
    (np.zeros((1, 0, 2), int), "shape (1, 0, 2)"), (np.full((1, 1, 1), 128), "values 128 to 128"),
    (np.full((1, 1, 1), -129), "-129"), (np.full((1, 1, 1), 2**64 - 1, np.uint64), str(2**64 - 1)),
])
def test_what_cannot_be_a_sample_is_said(values: np.ndarray, problem: str) -> None:
    assert problem in sample_problem(values)


def test_a_suitable_array_has_no_problem() -> None:
    assert sample_problem(np.full((1, 2, 2), 127, np.uint8)) == ""


@pytest.mark.parametrize(("known", "shape", "blamed"), [
    ({"input_shape": (3, 2, 2)}, (3, 2, 2), False), ({"input_shape": (3, 4)}, (3, 4, 1), False), ({}, (3, 2, 2), False),
    ({"input_shape": (3, 2, 2)}, (3, 3, 2), True), ({"sample": ITEM}, (1, 2, 2), True),
    ({"sample": ITEM, "input_shape": (1, 2, 2)}, (3, 2, 2), False),
])
def test_a_sample_is_blamed_only_where_its_shape_is_not_the_checkpoints(tmp_path: Path, known: dict[str, Any],
                                                                        shape: tuple[int, ...], blamed: bool) -> None:
    np.save(tmp_path / "s.npy", np.zeros(shape, np.int8))
    own = checkpoint(**known)
    sample = find_sample(tmp_path / "s.npy", own, "digits", no_data_set)
    error = sample_shape_error(tmp_path / "s.npy", sample, own)
    assert (error is not None) == blamed
    if error:
        assert str(shape) in error.diagnostics[0].found
