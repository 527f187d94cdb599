"""``scripts/train.py``: fit, test the best checkpoint, and print a summary."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from gpa_lightning.commands.arguments import SHORT_FLAGS
from gpa_lightning.commands.cli import LOGS, GPALightningCLI
from gpa_lightning.commands.exit_codes import run
from gpa_lightning.commands.summary import FitReport, print_summary
from gpa_lightning.resuming.checkpoint import CheckpointError, find_last, read_checkpoint
from gpa_lightning.resuming.exact_resume import describe_position
from gpa_lightning.resuming.whole_file import PREFIX

DESCRIPTION = f"""Train the network on the GPA data, test the best checkpoint, and print a summary.
--{", --".join(SHORT_FLAGS)} are short for --trainer.{SHORT_FLAGS[0]} and so on."""


class TrainCLI(GPALightningCLI):
    """The command line of ``scripts/train.py``: no subcommand, and a checkpoint to go on from."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--ckpt_path``."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from: a path, or 'last' for the newest last.ckpt.",
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint to go on from, and let the run go on in its folder."""
        super().before_instantiate_classes()
        config = self.config
        if config.ckpt_path == "last":
            config.ckpt_path = str(find_last(Path(LOGS)))
            where = describe_position(read_checkpoint(config.ckpt_path))
            # of several runs, "last" may be another than the one that the user has in mind
            rank_zero_only(print)(f"going on from {config.ckpt_path}, {where}")
        if config.ckpt_path:
            self._compare_network(read_checkpoint(config.ckpt_path)["hyper_parameters"])
            checkpoint = Path(config.ckpt_path).resolve()
            run = checkpoint.parents[1]
            logger = config.trainer.logger
            if run.parent == Path(LOGS).resolve() and "version" in logger.get("init_args", {}):
                logger.init_args.version = run.name
                self._clear_up(checkpoint)

    def _compare_network(self, then: dict[str, Any]) -> None:
        """Refuse to go on with another network than a checkpoint's."""
        for name in ("hidden_sizes", "dropout"):
            before, now = then.get(name), self.config.model[name]
            if name == "hidden_sizes" and before is not None:
                before, now = list(before), list(now)
            if before != now:
                raise CheckpointError(
                    f"--model.{name} is {now}, but the checkpoint's network has {before}; give "
                    "the checkpoint's or start a new run"
                )

    def _clear_up(self, checkpoint: Path) -> None:
        """Make room for what a run that was killed had begun after a checkpoint of its own."""
        for unfinished in checkpoint.parents[1].glob(f"**/{PREFIX}*"):
            shutil.rmtree(unfinished)
        kept = (self.config.checkpoint or {}).get("init_args", {})
        own_folder = kept.get("dirpath", LOGS) is None
        if checkpoint.stem == "last" and own_folder and "enable_version_counter" in kept:
            kept.enable_version_counter = False  # the lost epoch's best is made again


def train(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/train.py``: fit, test the best checkpoint, print the summary.

    Args:
        args: The command line, without the program's name; by default that of the process.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    return run(_train, args)


def _train(args: Sequence[str]) -> None:
    cli = TrainCLI(
        args, run=False, parser_kwargs={"exit_on_error": False, "description": DESCRIPTION}
    )
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    started = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=cli.config.ckpt_path, weights_only=True)
    # noted before the test, which puts the callbacks back to where the best checkpoint left them
    fitted = FitReport.of(trainer, time.perf_counter() - started)
    # The checkpoint has averaged weights; this callback loads those that training goes on from.
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [each for each in callbacks if not isinstance(each, WeightAveraging)]
    best: dict[str, Any] = {"ckpt_path": fitted.checkpoint, "weights_only": True}
    best = best if fitted.checkpoint else {"model": model}
    trainer.test(datamodule=data, verbose=False, **best)
    if trainer.is_global_zero:
        print_summary(fitted, model, data)
