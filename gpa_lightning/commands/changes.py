"""The flags of a run that are not the defaults, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace

from gpa_lightning.commands.arguments import SHORT_FLAGS

_OTHERS = ("config", "ckpt_path", "name", "__path__")  # which change nothing that is trained


def changes(asked: Namespace, defaults: Namespace) -> list[str]:
    """Return the flags that were ``asked`` for, in their short form, if they are not the defaults.

    Example:
        >>> asked = Namespace(model=Namespace(dropout=0.2, penalty=None))
        >>> changes(asked, Namespace(model=Namespace(dropout=0.0, penalty=None)))
        ['--dropout 0.2']
    """
    return [*_changes(asked.as_dict(), defaults.as_dict(), "")]


def _changes(asked: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in asked.items():
        key, default = f"{prefix}{name}", defaults.get(name)
        if key in _OTHERS or _plain(value) == _plain(default):
            continue
        if name == "callbacks" and value:
            before = [each["class_path"] for each in default or []]
            for each in value if isinstance(value, list) else [value]:
                if each["class_path"] not in before:
                    yield from _class(each, {}, f"{key}+=", f"{key}.")
        elif isinstance(value, dict) and "class_path" in value:
            yield from _class(value, default or {}, f"{key} ", f"{key}.")
        elif isinstance(value, dict) and not prefix:  # a group of flags
            yield from _changes(value, default or {}, f"{key}.")
        else:
            short = {long: flag for flag, long in SHORT_FLAGS.items()}.get(key, key)
            yield f"--{short} {_plain(value)}"


def _class(
    value: Mapping[str, Any], default: Mapping[str, Any], flag: str, prefix: str
) -> Iterator[str]:
    same = value["class_path"] == default.get("class_path")
    if not same:
        yield f"--{flag}{value['class_path'].rpartition('.')[2]}"
    arguments = value.get("init_args") or {}
    yield from _changes(arguments, (default.get("init_args") or {}) if same else {}, prefix)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str, separators=(",", ":"))
