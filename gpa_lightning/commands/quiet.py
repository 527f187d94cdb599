"""What the libraries say on the way, and no user of this project can act on."""

from __future__ import annotations

import logging
import threading
import warnings

from gpa_lightning.callbacks.quiet import withhold_advice


def quieten_third_parties() -> None:
    """Keep the libraries' advice and deprecations out of a command's output."""
    threading.excepthook = _skip_writers
    logging.basicConfig(format="%(levelname)s: %(message)s")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it warns of the restart that a resumed run marks in its curves
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
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


def _skip_writers(failed: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's writer: the training reports what it has met with."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)
