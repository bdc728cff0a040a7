"""Damaged kmodels are refused with an offset and a rule, or run; never a traceback, a stray access or a hang.

More of them with any seed: ``python -m tests.k210.mutations --seed 7 --count 2000``.
"""


import pytest

from ai8x.k210.kmodel import read_kmodel_file, write_kmodel
from tests.k210.host_runner import HostRunner, NoSanitizers
from tests.k210.mutations import Base, bases, mutations, truncations, try_all, try_compiled

COUNT = 120


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> HostRunner:
    try:
        return HostRunner(tmp_path_factory.mktemp("host"))
    except NoSanitizers as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("base", bases(), ids=lambda base: base.name)
def test_damaged_files_do_no_harm(base: Base, runner: HostRunner) -> None:
    files = list(mutations(base, 3, COUNT))
    counts, defects = try_all(base, iter(files))
    statuses, found = try_compiled(base, runner, files)
    assert not defects + found
    assert counts.total() == statuses.total() == COUNT
    assert 0 < counts["runs"] < COUNT and len(statuses) > 3


def test_a_file_cut_at_any_byte_is_refused(runner: HostRunner) -> None:
    base = bases()[0]
    files = list(truncations(base))
    counts, defects = try_all(base, iter(files))
    statuses, found = try_compiled(base, runner, files)
    assert not defects + found
    assert counts.total() == len(base.data) and not counts["runs"] and not statuses["status 0"]


def test_intact_files_survive_reading_and_writing() -> None:
    for base in bases():
        assert write_kmodel(read_kmodel_file(base.data).model) == base.data
