"""Predict students' GPA from exam scores, and study overfitting, with PyTorch Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "FullyConnectedNetwork",
    "GPADataModule",
    "GPARegressor",
    "LightningMLPRegressor",
    "default_callbacks",
]


def lazy_getattr(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package whose names are in ``modules`` below it (PEP 562).

    So importing the package costs nothing: a module is imported when its name is asked for.
    """

    def resolve(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return resolve


if TYPE_CHECKING:
    from gpa_lightning.callbacks.defaults import default_callbacks
    from gpa_lightning.data.datamodule import GPADataModule
    from gpa_lightning.estimator import LightningMLPRegressor
    from gpa_lightning.network import FullyConnectedNetwork
    from gpa_lightning.regressor import GPARegressor
else:  # predicting does without Lightning, training without scikit-learn: both are slow to import
    __getattr__ = lazy_getattr(
        __name__,
        {
            "FullyConnectedNetwork": "network",
            "GPADataModule": "data.datamodule",
            "GPARegressor": "regressor",
            "LightningMLPRegressor": "estimator",
            "default_callbacks": "callbacks.defaults",
        },
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
