"""The name of a run's folder: its number, and what the user changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from gpa_lightning.commands.arguments import names_listed

LENGTH = 80
"""Characters of a name at most; Windows takes 260 for a whole path."""

_MACHINE = {  # flags that change nothing that a network learns
    *("accelerator", "cache_dir", "ckpt_path", "default_root_dir", "devices", "in_memory"),
    *("enable_progress_bar", "logger", "name", "num_nodes", "num_workers", "path", "progress_bar"),
    *("strategy", "verbose"),
}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


def next_version(folder: Path) -> int:
    """Return the number of the next run, as Lightning counts them.

    Args:
        folder: The folder that holds the runs.
    """
    numbers = (re.match(r"version_(\d+)", path.name) for path in folder.glob("version_*"))
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def short_name(words: Sequence[str]) -> str:
    """Say which flags were given, in characters that every file system takes.

    Args:
        words: A command line, without the program's name.

    Returns:
        At most `LENGTH` characters; empty if nothing was given that changes what is learnt.

    Example:
        >>> short_name(["--config", "recommended", "--model.hidden_sizes=[64, 64]"])
        'recommended-hidden_sizes=64,64'
        >>> short_name(["--accelerator", "cpu", "--trainer.callbacks+=WeightNorms"])
        'WeightNorms'
    """
    parts: dict[str, str] = {}  # by flag, of which the last holds
    for flag, value in _pairs(names_listed(words)):
        names = flag.split(".")
        if _MACHINE & {names[0], names[-1]} or "logger" in names:
            continue
        if re.search(r"[/\\]", value):
            value = PureWindowsPath(value).stem  # which takes both kinds of slashes
        elif _CLASS_PATH.fullmatch(value):
            value = value.rpartition(".")[2]
        if names[-1] in ("config", "c", "callbacks"):
            parts[f"{flag} {value}"] = value.removesuffix(".yaml")
        else:
            parts[flag] = f"{names[-1]}={value}" if value else names[-1]
    kept: list[str] = []
    for part in (re.sub(r"[^\w.=,+-]", "", each) for each in parts.values()):
        if kept and len("-".join([*kept, part])) > LENGTH - len("-etc"):
            return "-".join([*kept, "etc"])
        kept.append(part[: LENGTH - len("-etc")])
    return "-".join(kept).rstrip(".")  # Windows takes no name that ends in one


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each flag without its dashes, and its value, which may be missing."""
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
