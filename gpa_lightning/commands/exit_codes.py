"""Exit codes of the command lines, and one line for each mistake that the user can mend."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from gpa_lightning.callbacks.divergence import DivergenceError
from gpa_lightning.commands.mistakes import failing_class, no_such_metric
from gpa_lightning.commands.quiet import quieten_third_parties
from gpa_lightning.commands.refusal import refuse
from gpa_lightning.commands.signals import exit_at_once
from gpa_lightning.data.table import DataError
from gpa_lightning.resuming.checkpoint import CheckpointError
from gpa_lightning.resuming.whole_file import OutputError

LOST_A_PROCESS = 1  # the exit code
DISK_ERRORS = (
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
)
_CALLS_LIGHTNING = ("gpa_lightning.commands.cli", "gpa_lightning.commands.train")
_BELOW_LIGHTNING = ("contextlib", "jsonargparse", "lightning", "lightning_utilities", "torch")
_TRANSLATORS = ("torch._dynamo.exc", "torch._inductor.exc")  # which have no public base class
_HINTS = {
    "backend": "; --accelerator cpu runs everywhere",
    "torch_xla": "; --accelerator auto takes what the machine has",
    "multiple progress bar": "; --progress_bar CLASS takes the place of this project's",
}
_GOING_ON = "the same command with --ckpt_path last goes on from the end of the last whole epoch"


def run(program: Callable[[Sequence[str]], object], args: Sequence[str] | None) -> int:
    """Run a command line, by default the process's own, and return its exit code."""
    arguments = sys.argv[1:] if args is None else args
    quieten_third_parties()
    code = _exit_code(program, arguments)
    if distributed.is_available() and distributed.is_initialized() and code != LOST_A_PROCESS:
        # Lightning leaves it to the end of the process, which its threads may turn into an abort
        distributed.destroy_process_group()
    return code


def _exit_code(program: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """Run a command line; a user's mistake becomes one line and exit code 2."""
    try:
        program(arguments)
    except (ArgumentError, CheckpointError, DataError, DivergenceError, OutputError) as error:
        return refuse(error)
    except MisconfigurationException as error:
        hints = (hint for about, hint in _HINTS.items() if about in str(error))
        return refuse(no_such_metric(error) or f"{error}{next(hints, '')}")
    except RuntimeError as error:
        if wrong := no_such_metric(error):
            return refuse(wrong)
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            return _has_lost_a_process(error)
        if type(error).__module__ in _TRANSLATORS:
            return refuse(f"torch.compile: {str(error).strip().partition(chr(10))[0]}")
        if not _is_lightnings_own(error):
            raise
        return refuse(_with_place(error))
    except SIGTERMException:
        return _interrupted(signal.SIGTERM)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning answers Ctrl-C by an orderly end and exit code 1
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted(signal.SIGINT)
        raise
    except Exception as error:
        # TensorBoardLogger passes on what its writer's thread has met with as a ValueError
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError) and reason.errno in DISK_ERRORS:
            return refuse(
                f"{reason.filename or 'the run'}: cannot be written: {reason.strerror or reason}; "
                "checkpoints that are there are whole, --ckpt_path last goes on from them"
            )
        if _is_lightnings_own(error) or _is_pytorchs_optimizers(error):
            known = isinstance(error, (ImportError, ValueError))
            hints = (hint for about, hint in _HINTS.items() if about in str(error))
            return refuse(f"{error}{next(hints, '')}" if known else _with_place(error))
        raise
    return 0


def _is_lightnings_own(error: BaseException) -> bool:
    """Tell whether an error is Lightning's own, with no code of a module or callback running.

    If so, it was given flags that do not go together, lacks a package, or cannot do something.
    """
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = [index for index, name in enumerate(modules) if name in _CALLS_LIGHTNING]
    below = [name.partition(".")[0] for name in modules[calls[-1] + 1 :]] if calls else []
    return below[:1] == ["lightning"] and all(package in _BELOW_LIGHTNING for package in below)


def _is_pytorchs_optimizers(error: BaseException) -> bool:
    """Tell whether PyTorch's own optimiser or schedule has failed, as with a step size of 0."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).startswith("torch.optim.")


def _with_place(error: BaseException) -> str:
    """Say which callback, optimiser or schedule has failed, or else where."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    place = f"{type(error).__name__} in {frame.f_globals['__name__']}, line {line}"
    return f"{failing_class(error) or place}: {error if str(error) else type(error).__name__}"


def _interrupted(by: signal.Signals) -> int:
    signal.signal(signal.SIGINT, exit_at_once)
    print(f"interrupted by {by.name}; {_GOING_ON}", file=sys.stderr)  # noqa: T201
    return 128 + by


def _has_lost_a_process(error: RuntimeError) -> int:
    """Say that another process of the training is gone, which no process can go on without."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    reason = str(error).partition("] ")[2].partition(". ")[0] or str(error)
    print(  # noqa: T201
        f"error: process {rank} has lost another process of the training "
        f"({' '.join(reason.split())}): see that one's own messages; {_GOING_ON}",
        file=sys.stderr,
    )
    return LOST_A_PROCESS
