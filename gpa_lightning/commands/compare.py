"""``scripts/compare.py``: several settings of ``scripts/train.py`` on the same seeds."""

from __future__ import annotations

import hashlib
import json
import pydoc
import re
import shlex
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gpa_lightning
from gpa_lightning.callbacks import LossCurves
from gpa_lightning.callbacks.quiet import quiet_data_module
from gpa_lightning.commands.finished_runs import read_runs
from gpa_lightning.commands.mistakes import explain
from gpa_lightning.commands.outcome import OUTCOME, make_outcome
from gpa_lightning.commands.quiet import quieten_third_parties
from gpa_lightning.commands.run_names import short_name, unique_name
from gpa_lightning.commands.study import run_and_keep
from gpa_lightning.commands.summary import final_losses
from gpa_lightning.commands.train import TrainCLI, fit_and_test
from gpa_lightning.data.table import DataError
from gpa_lightning.resuming.checkpoint import CheckpointError
from gpa_lightning.studies.comparison import CURVES, Comparison
from gpa_lightning.studies.runs import Outcome, Run, perform
from gpa_lightning.studies.settings import OUTPUT as STUDIES
from gpa_lightning.studies.settings import Jobs, Settings

OUTPUT = STUDIES / "compare"
FOR_ALL = ("seeds", "from", "output", "n_jobs", "dask")
"""Flags that are those of the comparison, and not of a setting."""

DESCRIPTION = """Train several settings on the same seeds, and compare them. A setting is a string
of flags of train.py in quotes ("" for none), the first is what the others are compared with. Flags
behind the settings that are not listed here go to all of them. Finished runs are kept: a comparison
that was stopped goes on where it was."""


class SettingCLI(TrainCLI):
    """The command line of a setting: one process, no progress bar, and a folder of the study's.

    Args:
        args: The command line, without the program's name.
        folder: Folder of the run, where there is to be one.
    """

    extra_flags = FOR_ALL

    def __init__(self, args: Sequence[str], folder: Path | None = None) -> None:
        self.folder = folder
        super().__init__(args, run=False, parser_kwargs={"exit_on_error": False})

    def before_instantiate_classes(self) -> None:
        """Refuse what would mix the runs up, and let each stay in its folder."""
        trainer = self.config.trainer
        if self.config.ckpt_path:
            raise ArgumentError(None, "--ckpt_path: each run starts anew; leave it out")
        if (self.config.checkpoint or {}).get("init_args", {}).get("dirpath"):
            raise ArgumentError(None, "--checkpoint.dirpath: each run has its own; leave it out")
        super().before_instantiate_classes()
        if trainer.devices == "auto":
            trainer.devices = 1
        if self.folder is None:
            return
        trainer.default_root_dir = str(self.folder)
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            if str(getattr(logger, "class_path", "")).endswith(("TensorBoardLogger", "CSVLogger")):
                logger.init_args.save_dir = str(self.folder.parent)
                logger.init_args.name, logger.init_args.version = "", self.folder.name

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer without a progress bar, which the study has, and with loss curves."""
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [each for each in callbacks if not isinstance(each, ProgressBar)]
        if not any(isinstance(each, LossCurves) for each in callbacks):
            callbacks.append(LossCurves())
        if trainer.world_size > 1:
            raise ArgumentError(
                None, "a comparison trains each run in one process: leave out --devices"
            )
        return trainer


def run(
    settings: Settings, folder: Path, seed: int, config: dict[str, Any], table: str, code: str
) -> Outcome:
    """Train once with the value of every flag, and return the outcome, or an ``error``.

    The SHA-256 of the table and a hash of the code tell apart runs that began with others.
    """
    quieten_third_parties()
    try:
        flags = ["--config", json.dumps(config), "--seed_everything", str(seed)]
        with quiet_data_module():
            cli = SettingCLI(flags, folder)
            if cli.datamodule.provenance.sha256 != table:
                raise DataError(f"{cli.datamodule.provenance.location}: has changed meanwhile")
            fitted = fit_and_test(cli)
            return make_outcome(cli, fitted, final_losses(cli.model, cli.datamodule))
    except Exception as error:  # a callback of the user's can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        return {"seed": seed, "error": f"failed: {reason}"}


def main(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/compare.py``.

    Returns:
        The exit code: 0, 2 for a mistake that the user can mend, 130 if stopped by Ctrl-C.
    """
    return run_and_keep(lambda: _main(sys.argv[1:] if args is None else args))


def _main(args: Sequence[str]) -> int:
    parser = compare_parser()
    try:
        own, others = parser.parse_known_args(args)
    except ArgumentError as error:
        raise ArgumentError(None, explain(error, parser, args)) from error
    given, shared = _split(others)
    if bool(given) == bool(own.runs):
        raise ArgumentError(None, "give settings in quotes, or finished runs after --from")
    if own.runs:
        if shared:
            raise ArgumentError(None, f"--from trains nothing, so it takes no {shared[0]}")
        comparison = read_runs(own.runs)
    else:
        how = {"seeds": own.seeds, "n_jobs": own.n_jobs, "dask": own.dask}
        comparison = compare(given, shared, output=own.output, **how)
    table = comparison.table
    comparison.save(Settings(output=own.output), f"scripts/compare.py {shlex.join(args)}")
    against = [table.columns[0], *table.columns[-3:-1]]  # more columns than a terminal is wide
    with Console(highlight=False) as console:  # at once, as a notebook spaces what comes apart
        for columns in (table.columns.drop(against[1:]), against):
            console.print(_rich(table[columns]))
        for note in comparison.notes:
            style = "bold red" if "SYNTHETIC" in note else None
            console.print(escape(note), style=style, soft_wrap=True)
        saved = f"saved in {own.output}; curves: tensorboard --logdir {own.output / CURVES}"
        console.print(saved, soft_wrap=True)
    return 0 if table["test loss"].any() else 2


def _rich(table: pd.DataFrame) -> Table:
    rich = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table:
        numbers = column not in ("setting", "the seeds")
        rich.add_column(escape(column), justify="right" if numbers else "left", overflow="fold")
    for row in table.itertuples(index=False):
        rich.add_row(*map(escape, row))
    return rich


def compare_parser() -> ArgumentParser:
    """Return the parser of the flags of ``scripts/compare.py`` that are not of ``train.py``."""
    parser = ArgumentParser(
        "compare.py",
        usage='%(prog)s "FLAGS" "FLAGS" ... [options] [flags of train.py for all]\n'
        "       %(prog)s --from RUN RUN ... [--output FOLDER]",
        description=DESCRIPTION,
        exit_on_error=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--seeds", type=PositiveInt, default=5, help="Number of seeds, from 0 on (default: 5).")
    add(
        "--from",
        dest="runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="Compare these folders of finished runs instead.",
    )
    add(
        "--output",
        type=Path,
        default=OUTPUT,
        help="Folder for runs, table, figure and report (default: %(default)s).",
    )
    add("--n_jobs", type=Jobs, default=1, help="Runs at a time; -1: one a core (default: 1).")
    add("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster, which then does the runs.")
    return parser


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate settings, each a string of flags, from the flags behind them.

    Example:
        >>> _split(["", "--model.dropout 0.2", "--early_stopping=null", "--max_epochs", "3"])
        (['', '--model.dropout 0.2', '--early_stopping=null'], ['--max_epochs', '3'])
    """
    settings = list(takewhile(lambda each: not each or re.search(r"[\s=]", each), args))
    return settings, list(args[len(settings) :])


def words(setting: str) -> list[str]:
    """Split a setting into words as a shell does, but leave Windows' backslashes alone."""
    lexer = shlex.shlex(setting, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    return list(lexer)


def compare(
    settings: Sequence[str],
    flags: Sequence[str] = (),
    *,
    seeds: int = 5,
    output: Path = OUTPUT,
    n_jobs: int = 1,
    dask: str | None = None,
) -> Comparison:
    """Train several settings on the same seeds, as ``scripts/compare.py`` does.

    Args:
        settings: Flags of ``scripts/train.py``, a string a setting; that to compare with first.
        flags: Flags of all settings.
        seeds: Number of seeds, from 0 on.
        output: Folder for the runs, of which those that are finished are kept.
        n_jobs: Runs at a time; -1 is one a core.
        dask: Address of the scheduler of a Dask cluster, which then does the runs.

    Returns:
        What they came to: a table, a figure, a row a run.

    Raises:
        ArgumentError: If a setting is none, or the same as another.
    """
    quieten_third_parties()
    if not settings:
        raise ArgumentError(None, "give settings: strings of flags")
    configs: dict[str, dict[str, Any]] = {}
    runs: list[Run] = []
    first: dict[str, Any] = {}  # which data the first setting has
    for setting in settings:
        cli, config = _parse(setting, flags)
        if same := [name for name, other in configs.items() if other == config]:
            raise ArgumentError(None, f'setting "{setting}": is the same as {same[0]}')
        data = cli.datamodule
        name = unique_name(short_name(words(setting)) or "defaults", configs)
        configs[name] = config
        shared = {"config": config, "table": data.provenance.sha256, "code": _code(config)}
        runs += [Run(f"{name}-seed-{s}", run, {"seed": s, **shared}) for s in range(seeds)]
        first = first or {**data.provenance.arguments, "test_size": data.test_size}
    output = output.absolute()
    study = Settings(first, seeds=range(seeds), output=output.parent, n_jobs=n_jobs, dask=dask)
    _forget_failures(runs, study)
    outcomes = iter(perform(output.name, runs, study))
    compared = {name: list(islice(outcomes, seeds)) for name in configs}
    return Comparison(compared, dict(zip(configs, settings, strict=True)))


def _parse(setting: str, flags: Sequence[str]) -> tuple[SettingCLI, dict[str, Any]]:
    """Parse a setting after the flags of all; return its command line, and every flag's value."""
    try:
        given = words(setting)
        if of_all := [w for w in given if w.partition("=")[0] in map("--{}".format, FOR_ALL)]:
            raise ArgumentError(None, f"{of_all[0]} is for all settings, and goes behind them")
        if any(word.startswith("--seed_everything") for word in [*given, *flags]):
            raise ArgumentError(None, "--seed_everything: --seeds gives the seeds")
        cli = SettingCLI([*flags, *given, "--seed_everything", "0"])
        config = yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False))
        config["data"].update(cli.datamodule.provenance.arguments)  # one table for all its runs
    except (
        ArgumentError,
        CheckpointError,
        DataError,
        MisconfigurationException,
        ValueError,  # shlex's, of a quotation mark too few
    ) as error:
        raise ArgumentError(None, f'setting "{setting}": {error}') from error
    return cli, config


def _forget_failures(runs: Sequence[Run], settings: Settings) -> None:
    """Let runs be done again that have failed, perhaps for want of memory."""
    for each in runs:
        for path in settings.output.glob(f"*/runs/*-{each.key(settings)}/{OUTCOME}"):
            if "error" in json.loads(path.read_text()):
                path.unlink()


def _code(config: Mapping[str, Any]) -> str:
    """Return a hash of the code of a setting: this package's, and classes of the user's."""
    paths = re.findall(r'"class_path": "([\w.]+)"', json.dumps(config))
    classes = [kind for path in paths for kind in getattr(pydoc.locate(path), "__mro__", ())]
    files = {getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in classes}
    package = Path(gpa_lightning.__file__).parent
    sources = sorted({*package.rglob("*.py"), *(Path(file) for file in files if file)})
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
