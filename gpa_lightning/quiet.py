"""What the libraries say on the way, and no user of this project can act on."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_LEAF_SPEC = r".*isinstance\(treespec, LeafSpec\).*"  # PyTorch's deprecation, in Lightning's code


def quieten_third_parties() -> None:
    """Keep the libraries' advice and deprecations out of a command's output."""
    threading.excepthook = _skip_writers
    logging.basicConfig(format="%(levelname)s: %(message)s")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it warns of the restart that a resumed run marks in its curves
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    # it warns of each operation that it cannot export without torchvision
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # it says which process has ended, before it ends those that wait for it
    launcher = "lightning.fabric.strategies.launchers.subprocess_script"
    logging.getLogger(launcher).setLevel(logging.INFO)
    withhold_advice()
    for pattern in (
        r".*`GPARegressor.configure_optimizers` will be overridden by.*",
        r".*LightningCLI's args parameter is intended.*",
        r".*enabled val dataloader shuffling.*",  # which nobody has
        r".*The number of training batches .* is smaller than the logging interval.*",
        r".*callbacks used to create the checkpoint need to be provided.*",
        r".*the hooks will not be called on every batch.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r"\s*Unable to serialize instance.*",
    ):
        warnings.filterwarnings("ignore", pattern)


def withhold_advice() -> None:
    """Keep out of a run what Lightning advises and no user of this project can act on.

    Its tips name packages for a service of its own, and workers make a loader of a table in memory
    slower.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(f"{name}.utilities.rank_zero").addFilter(_is_no_tip)
    for pattern in (_LEAF_SPEC, r".*does not have many workers.*"):
        warnings.filterwarnings("ignore", pattern)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Withhold Lightning's notes and advice while an estimator or a study fits."""
    # imported here, since `predict` and `export` do without Lightning
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    with _log_level("lightning.pytorch", logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", _LEAF_SPEC)
        yield


def quiet_data_module() -> AbstractContextManager[None]:
    """Withhold the data module's advice: a study says by itself where the test set is used."""
    return _log_level("gpa_lightning.data.datamodule", logging.ERROR)


@contextmanager
def _log_level(name: str, level: int) -> Iterator[None]:
    """Raise the level of a logger for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(max(before, level))
    try:
        yield
    finally:
        logger.setLevel(before)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: " not in record.getMessage()


def _skip_writers(failed: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's writer: the training reports what it has met with."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)
