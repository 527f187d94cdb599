import pytest
import torch
from lightning.pytorch import Callback
from runs import fit

from gpa_lightning import GPADataModule, GPARegressor


class NotesPrecision(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        self.precision = torch.get_float32_matmul_precision()


@pytest.mark.parametrize(
    ("model", "precision"), [({}, "highest"), ({"matmul_precision": "high"}, "high")]
)
def test_products_have_the_precision_that_the_model_asks_for(table, model, precision):
    noted = NotesPrecision()
    fit(GPARegressor(hidden_sizes=(8,), **model), GPADataModule(path=str(table)), noted, epochs=1)
    assert noted.precision == precision
    assert torch.get_float32_matmul_precision() == "highest"
