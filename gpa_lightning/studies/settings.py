"""The settings of every study: on which data, where, how often and how thoroughly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jsonargparse.typing import restricted_number_type

from gpa_lightning import GPADataModule
from gpa_lightning.callbacks.quiet import quiet_data_module
from gpa_lightning.data.table import DataError, Provenance

OUTPUT = Path("lightning_studies")
QUICK_ROWS = 5000

Size: TypeAlias = Literal["full", "quick", "tiny"]
Jobs = restricted_number_type("Jobs", int, [(">=", 1), ("==", -1)], join="or")
"""Type of ``--n_jobs``."""


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Args:
        data: Arguments of `GPADataModule` that choose the table: ``source``, ``path``,
            ``test_size``. Each study sets batches, validation share and seed by itself.
        accelerator: Device to compute on; ``auto`` is a CUDA GPU if there is one, else the CPU.
        seeds: Seeds of the split, the initial weights and the shuffling, one per repetition.
        output: Folder that gets a folder for each study.
        size: ``full``; ``quick`` shows the point in about a minute, with one seed on a sample of
            the table; ``tiny`` takes seconds and shows that all works. Only ``full`` judges.
        n_jobs: Number of runs at a time, as joblib counts: -1 is one a core.
        dask: Address of the scheduler of a Dask cluster that does the runs, ``n_jobs``
            notwithstanding; its workers reach the table and ``output`` under the same paths.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    output: Path = OUTPUT
    size: Size = "full"
    n_jobs: int = 1
    dask: str | None = None

    @property
    def repetitions(self) -> Sequence[int]:
        """Seeds that are used: the first one of a quick look, two of a tiny version."""
        return self.seeds[: {"full": None, "quick": 1, "tiny": 2}[self.size]]

    @property
    def max_rows(self) -> int | None:
        """Number of rows that are sampled from the table; None for all of them."""
        return QUICK_ROWS if self.size == "quick" else None

    @cached_property  # a worker on another machine takes over what was found on the first
    def device(self) -> Literal["cpu", "gpu"]:
        """Device that ``accelerator`` stands for on this machine."""
        if self.accelerator == "auto":
            return "gpu" if torch.cuda.is_available() else "cpu"
        return self.accelerator

    @cached_property
    def _data(self) -> tuple[dict[str, Any], Provenance, int]:
        """Arguments of the one table of all runs, its provenance, and its number of features."""
        data = GPADataModule(**{**self.data, "seed": 0})
        table = data.provenance
        return {**self.data, **table.arguments}, table, data.in_features

    @property
    def provenance(self) -> Provenance:
        """Name, size and SHA-256 of the table.

        Raises:
            DataError: If the table is not to be had or not valid.
        """
        return self._data[1]

    @property
    def in_features(self) -> int:
        """Number of the table's feature columns."""
        return self._data[2]

    def data_module(
        self, seed: int, kind: type[GPADataModule] = GPADataModule, **own: Any
    ) -> GPADataModule:
        """Build the data module of a run, set up.

        Args:
            seed: Seed of the split and the shuffling.
            kind: `GPADataModule` or a subclass.
            own: Further arguments of the data module.
        """
        data = kind(**{**self._data[0], "seed": seed, **own})
        data.max_rows = self.max_rows
        with quiet_data_module():
            data.setup()
        if data.provenance.sha256 != self.provenance.sha256:
            raise DataError(
                f"{data.provenance.location}: is not the table that the study began with; "
                "give all workers the same one, with --data.path FILE"
            )
        return data
