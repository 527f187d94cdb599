"""The folders of runs: their names, and that of a run that goes on."""

from __future__ import annotations

import re
import shutil
from argparse import ArgumentError
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from jsonargparse import Namespace

from gpa_lightning.commands.arguments import flag_values, long_flags
from gpa_lightning.commands.flag_checks import warn
from gpa_lightning.resuming.whole_file import PREFIX

LENGTH = 80
"""Characters of a name at most; Windows takes 260 for a whole path."""

_MACHINE = {  # flags that change nothing that a network learns
    *("accelerator", "cache_dir", "ckpt_path", "default_root_dir", "devices", "in_memory"),
    *("enable_progress_bar", "logger", "name", "num_nodes", "num_workers", "path", "progress_bar"),
    *("strategy", "verbose"),
}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


def name_run(flags: Namespace, changed: str) -> None:
    """Name the folder of a run by its number and ``--name``, or else by what was changed.

    The name becomes the version of the logger, if that makes a folder.

    Raises:
        ArgumentError: If ``--name`` is a path.
    """
    logger = flags.trainer.logger
    if flags.name and Path(flags.name).name != flags.name:
        raise ArgumentError(None, f"--name {flags.name}: names one folder, without a slash")
    kind = logger.get("class_path", "") if isinstance(logger, Namespace) else ""
    if not kind.endswith(("TensorBoardLogger", "CSVLogger")):
        if flags.name:
            warn(f"--name {flags.name} changes nothing: no logger makes a folder of that name")
        return
    arguments = logger.init_args
    if arguments.version is not None:
        if flags.name:
            warn(f"--name {flags.name} changes nothing beside --trainer.logger.version")
        return
    number = _next_version(Path(arguments.save_dir, arguments.name or ""))
    arguments.version = "-".join(filter(None, [f"version_{number}", flags.name or changed]))


def _next_version(folder: Path) -> int:
    """Return the number of the next run in a folder of runs, as Lightning counts them."""
    numbers = (re.match(r"version_(\d+)", path.name) for path in folder.glob("version_*"))
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def go_on_in_folder_of(checkpoint: Path, flags: Namespace, logs: Path) -> None:
    """Keep the folder of a checkpoint's run, if it is in the folder of runs.

    Files that a kill has left unfinished there are removed.
    """
    run, logger = checkpoint.parents[1], flags.trainer.logger
    versioned = isinstance(logger, Namespace) and "version" in logger.get("init_args", {})
    if run.parent != logs.resolve() or not versioned:
        return
    if flags.name and flags.name not in run.name:
        warn(f"--name {flags.name} changes nothing: the run goes on in {run.name}")
    logger.init_args.version = run.name
    for unfinished in run.glob(f"**/{PREFIX}*"):
        shutil.rmtree(unfinished)
    kept = (flags.checkpoint or {}).get("init_args", {})
    own_folder = kept.get("dirpath", "elsewhere") is None
    if checkpoint.stem == "last" and own_folder and "enable_version_counter" in kept:
        kept.enable_version_counter = False  # the lost epoch's best is made again


def short_name(words: Sequence[str]) -> str:
    """Name a run by the flags of its command line, in at most `LENGTH` characters.

    They are characters that every file system takes. The name is empty if no flag changes what is
    learnt.

    Example:
        >>> short_name(["--config", "recommended", "--model.hidden_sizes=[64, 64]"])
        'recommended-hidden_sizes=64,64'
        >>> short_name(["--accelerator", "cpu", "--trainer.callbacks+=WeightNorms"])
        'WeightNorms'
    """
    parts: dict[str, str] = {}  # by flag, of which the last holds
    for flag, value in flag_values(long_flags(words)):
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


def unique_name(name: str, taken: Iterable[str]) -> str:
    """Number a name that there is already, in letters of whichever case.

    Example:
        >>> unique_name("Mine", ["mine", "other"])
        'Mine-2'
    """
    lower = {each.lower() for each in taken}
    number = 1
    while (numbered := name if number == 1 else f"{name}-{number}").lower() in lower:
        number += 1
    return numbered
