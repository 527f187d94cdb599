"""What the tests of the studies share."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from gpa_lightning.commands.study import main


@pytest.fixture(scope="session")
def everything(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of ``all --tiny``."""
    folder = tmp_path_factory.mktemp("studies")
    flags = ["--tiny", "--accelerator", "cpu", "--data.path", str(table)]
    assert main(["all", *flags, "--seeds", "0", "1", "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder of each training that is done, in the order of doing."""
    done: list[Path] = []
    fit = Trainer.fit

    def counted(trainer: Trainer, *args: object, **kwargs: object) -> None:
        fit(trainer, *args, **kwargs)
        done.append(Path(trainer.log_dir))

    monkeypatch.setattr(Trainer, "fit", counted)
    return done
