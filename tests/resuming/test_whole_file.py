"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from gpa_lightning.resuming.whole_file import OutputError, whole_file


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "report.csv.gz"
    with whole_file(str(path)) as temporary:
        assert temporary.name == path.name
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert names(tmp_path) == [path.name]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    with whole_file(tmp_path / "report") as temporary:
        temporary.write_text("all")
    assert (tmp_path / "report").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_existing_file_is_refused_before_any_work(tmp_path):
    path = tmp_path / "report"
    path.write_text("old")
    with pytest.raises(OutputError, match="is there already; --overwrite"), whole_file(path):
        pytest.fail("the work began")
    assert path.read_text() == "old"


def test_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "report"
    path.write_text("old")
    path.chmod(0o600)
    with whole_file(path, overwrite=True) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_failed_work(tmp_path, error):
    path = tmp_path / "report"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path, overwrite=True) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report"]


def test_failure_to_write_is_explained(tmp_path):
    message = r"report: cannot be written: No space left on device$"
    with pytest.raises(OutputError, match=message), whole_file(tmp_path / "report"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_missing_folder_is_refused(tmp_path):
    path = tmp_path / "no" / "report"
    with pytest.raises(OutputError, match="cannot be written: No such file"), whole_file(path):
        pytest.fail("the work began")


@pytest.mark.parametrize("path", [Path(), Path(os.devnull)])
def test_only_files_are_replaced(path):
    with pytest.raises(OutputError, match="is not a regular"), whole_file(path, overwrite=True):
        pytest.fail("the work began")
