"""Short flags, names of recipes, and files of earlier versions: what they are short for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parents[1] / "recipes"
SHORT_FLAGS = {
    "accelerator": "trainer.accelerator",
    "devices": "trainer.devices",
    "strategy": "trainer.strategy",
    "num_nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "max_epochs": "trainer.max_epochs",
    "hidden_sizes": "model.hidden_sizes",
    "dropout": "model.dropout",
    "learning_rate": "model.learning_rate",
    "penalty": "model.penalty",
    "penalty_weight": "model.penalty_weight",
    "batch_size": "data.batch_size",
    "patience": "early_stopping.patience",
}
"""Short flags, and the flags that they are short for."""

_SIZES = "--model.hidden_sizes"
_COMMA_LIST = re.compile(r"\s*(\d+(?:\s*,\s*\d+)*)\s*,?\s*")
_MOVED_TO_FAST_TRAINING = ("steps_per_execution", "matmul_precision")  # from the model, in 0.1.0
_STANDARDISE = "standardise_target"
_SAVED = "# lightning.pytorch=="  # how a file begins that a run has saved
_MOVED_CLASSES = {"gpa_lightning.overfitting.": "gpa_lightning.callbacks."}


def recipes() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def long_flags(args: Sequence[str]) -> list[str]:
    """Expand the short flags of a command line, and put sizes separated by commas into brackets.

    Example:
        >>> long_flags(["--max_epochs", "3", "--hidden_sizes=64,64"])
        ['--trainer.max_epochs', '3', '--model.hidden_sizes=[64,64]']
    """
    arguments = join_dropped_names(args)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = f"--{SHORT_FLAGS.get(flag[2:], flag[2:])}"
            value = _in_brackets(value) if flag == _SIZES else value
            arguments[index] = f"{flag}{equals}{value}"
        elif index and arguments[index - 1] == _SIZES:
            arguments[index] = _in_brackets(argument)
    return arguments


def _in_brackets(value: str) -> str:
    sizes = _COMMA_LIST.fullmatch(value)
    return f"[{sizes[1]}]" if sizes else value


def expand(args: Sequence[str]) -> list[str]:
    """Expand short flags, and the names of recipes after ``--config`` into paths."""
    arguments = long_flags(args)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if equals and flag in ("--config", "-c"):
            arguments[index] = f"{flag}={_configuration(value)}"
        elif index and arguments[index - 1] in ("--config", "-c"):
            arguments[index] = _configuration(argument)
    return arguments


def join_dropped_names(args: Sequence[str]) -> list[str]:
    """Join the names that follow ``--data.drop`` into one value, a list in JSON."""
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


def flag_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each flag of a command line without its dashes, and its value, empty if it has none.

    Example:
        >>> list(flag_values(["--dropout", "0.1", "--quick", "--callbacks+=Timer"]))
        [('dropout', '0.1'), ('quick', ''), ('callbacks', 'Timer')]
    """
    waiting = ""
    for word in words:
        if word.startswith("-") and not re.match(r"-[\d.]", word):
            if waiting:
                yield waiting, ""
            flag, equals, value = word.lstrip("-").partition("=")
            flag = flag.removesuffix("+")
            waiting = "" if equals else flag
            if equals:
                yield flag, value
        elif waiting:
            yield waiting, word
            waiting = ""
    if waiting:
        yield waiting, ""


def _configuration(name: str) -> str:
    """Return the path of a recipe, or the content of an earlier version's file as it is now."""
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
    """Move settings of the speed, in version 0.1.0 the model's; tell whether there were any."""
    if "steps_per_execution" not in model:
        return False
    moved = {name: model.pop(name) for name in _MOVED_TO_FAST_TRAINING if name in model}
    config["fast_training"] = {"class_path": "gpa_lightning.speed.FastTraining", "init_args": moved}
    if not model.get("compile"):
        model.pop("compile", None)
    return True
