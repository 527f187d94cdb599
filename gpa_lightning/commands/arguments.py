"""What a command line is short for: long flags, recipes' files, and files of earlier versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parents[1] / "recipes"
SHORT_FLAGS = ("accelerator", "devices", "strategy", "num_nodes", "precision", "max_epochs")
"""Flags of the Trainer that need no ``trainer.`` in front."""

_MOVED_TO_FAST_TRAINING = ("steps_per_execution", "matmul_precision")  # from the model, in 0.1.0
_STANDARDISE = "standardise_target"
_SAVED = "# lightning.pytorch=="  # how a file begins that a run has saved
_MOVED_CLASSES = {"gpa_lightning.overfitting.": "gpa_lightning.callbacks."}


def written_out(args: Sequence[str]) -> list[str]:
    """Write out the short flags, and put paths in the place of recipes' names after ``--config``.

    Args:
        args: A command line, without the program's name.

    Returns:
        The command line that it is short for.

    Example:
        >>> written_out(["--max_epochs", "3", "--devices=1"])
        ['--trainer.max_epochs', '3', '--trainer.devices=1']
    """
    arguments = names_listed(args)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.removeprefix("--") in SHORT_FLAGS and flag.startswith("--"):
            arguments[index] = f"--trainer.{argument.removeprefix('--')}"
        elif equals and flag in ("--config", "-c"):
            arguments[index] = f"{flag}={_configuration(value)}"
        elif index and arguments[index - 1] in ("--config", "-c"):
            arguments[index] = _configuration(argument)
    return arguments


def names_listed(args: Sequence[str]) -> list[str]:
    """Write the names that follow ``--data.drop`` as the one value that they are."""
    arguments: list[str] = []
    names: list[str] | None = None
    for argument in [*args, "--"]:
        if names is not None and argument.startswith("--"):
            single = len(names) < 2  # which may be a list already
            arguments += names if single else [json.dumps(names)]
            names = None
        if names is not None:
            names.append(argument)
            continue
        arguments.append(argument)
        if argument == "--data.drop":
            names = []
    return arguments[:-1]


def _configuration(name: str) -> str:
    """Return what to parse in the place of a recipe's name, or of a file of an earlier version."""
    recipe = RECIPES / f"{name}.yaml"
    try:
        if recipe.is_file() and not Path(name).exists():
            return str(recipe)
        text = Path(name).read_text(encoding="utf-8")
        for old, new in _MOVED_CLASSES.items():
            text = text.replace(old, new)
        config = yaml.safe_load(text)
        model = config["model"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return name  # whatever is wrong with it is for the parser to say
    data = config.get("data")
    before = text.startswith(_SAVED) and isinstance(data, dict) and _STANDARDISE not in data
    if before:
        data[_STANDARDISE] = False  # as it was when the file was saved
    return json.dumps(config) if _upgrade(config, model) or before else name


def _upgrade(config: dict[str, Any], model: dict[str, Any]) -> bool:
    """Move what version 0.1.0 had among the model's settings; tell whether there was any."""
    if "steps_per_execution" not in model:
        return False
    moved = {name: model.pop(name) for name in _MOVED_TO_FAST_TRAINING if name in model}
    config["fast_training"] = {
        "class_path": "gpa_lightning.speed.FastTraining",
        "init_args": moved,
    }
    if not model.get("compile"):
        model.pop("compile", None)
    return True
