"""What Lightning and the data module say on the way, and no user of this project can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from lightning.fabric.utilities.warnings import PossibleUserWarning

_LEAF_SPEC = r".*isinstance\(treespec, LeafSpec\).*"  # PyTorch's deprecation, in Lightning's code


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
