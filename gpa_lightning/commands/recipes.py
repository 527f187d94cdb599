"""Recipes: files of flags that go by a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"


def with_recipes(args: Sequence[str]) -> list[str]:
    """Put the path of a recipe in the place of its name, after ``--config``."""
    arguments = list(args)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if equals and flag in ("--config", "-c"):
            arguments[index] = f"{flag}={_recipe(value)}"
        elif index and arguments[index - 1] in ("--config", "-c"):
            arguments[index] = _recipe(argument)
    return arguments


def _recipe(name: str) -> str:
    path = RECIPES / f"{name}.yaml"
    return str(path) if path.is_file() and not Path(name).exists() else name
