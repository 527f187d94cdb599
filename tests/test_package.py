"""What the package is from outside: its public names."""

import importlib

import pytest

import gpa_lightning


@pytest.mark.parametrize("package", ["gpa_lightning", "gpa_lightning.resuming"])
def test_public_names_are_found_when_they_are_asked_for(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name


def test_public_names_are_offered_before_they_are_imported():
    assert {*gpa_lightning.__all__} <= {*dir(gpa_lightning)}


def test_a_name_that_there_is_not():
    with pytest.raises(ImportError, match="cannot import name 'GPARegresor' from 'gpa_lightning'"):
        from gpa_lightning import GPARegresor  # noqa: F401
