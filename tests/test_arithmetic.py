"""How the processor calculates during a fit, and after it."""

import pytest
import torch
from lightning.pytorch import Callback
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.losses import DivergenceError
from gpa_lightning.speed.denormals import flush_denormals


def arithmetic() -> tuple[str, bool]:
    """Return the precision of products, and whether denormal numbers survive."""
    tiny = torch.full((2,), 1e-40) * 0.5
    return torch.get_float32_matmul_precision(), bool((tiny != 0).all())


class NotesArithmetic(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        self.noted = arithmetic()


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_it_is_what_the_model_asks_for_and_afterwards_what_it_was(table, precision):
    if not flush_denormals(False):
        pytest.skip("this processor does not flush denormal numbers")
    data, noted = GPADataModule(path=str(table)), NotesArithmetic()
    fit(GPARegressor(hidden_sizes=(8,), matmul_precision=precision), data, noted, epochs=1)
    assert noted.noted == (precision, False)
    assert arithmetic() == ("highest", True)

    diverging = GPARegressor(hidden_sizes=(8,), matmul_precision=precision, learning_rate=1e30)
    with pytest.raises(DivergenceError):
        fit(diverging, data, epochs=2)
    assert arithmetic() == ("highest", True)
