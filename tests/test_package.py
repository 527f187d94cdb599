"""What the package is from outside: its public names, and the page that an index shows of it."""

import importlib
import inspect
import pkgutil
import re
import tomllib

import pytest
from processes import PROJECT

import gpa_lightning
from gpa_lightning.commands.program import COMMANDS, LIGHTNINGS

PACKAGE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
PAGE = (PROJECT / PACKAGE["readme"]).read_text()


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


def test_every_public_method_but_lightnings_hooks_has_a_docstring():
    found = pkgutil.walk_packages(gpa_lightning.__path__, "gpa_lightning.")
    modules = [importlib.import_module(each.name) for each in found if "__" not in each.name]
    undocumented = {
        f"{kind.__module__}.{kind.__name__}.{name}"
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if kind.__module__ == module.__name__ and name in vars(kind)
        if not kind.__name__.startswith("_") and not name.startswith("_")
        if not method.__doc__ and not any(hasattr(base, name) for base in kind.__mro__[1:])
    }
    assert len(modules) > 100
    assert not undocumented


def test_the_page_links_to_nothing_that_an_index_does_not_have():
    links = re.findall(r"\]\((.*?)\)", PAGE)
    assert links
    assert all(link.startswith("https://") for link in links)


def test_the_page_has_all_commands_and_extras():
    names = [row for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) if row[1].islower()]
    listed = re.findall(r"`(\w+)`", " ".join(names))
    assert sorted(listed) == sorted([*COMMANDS, *LIGHTNINGS, *PACKAGE["optional-dependencies"]])
