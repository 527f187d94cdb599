"""The standardised split of a table, and the loaders of its three sets."""

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import BatchSizeFinder
from torch import Tensor
from torch.utils.data import DataLoader

from gpa_lightning.data.compatibility import (
    compare_columns,
    compare_processes,
    compare_training,
    resolve_split,
)
from gpa_lightning.data.loaders import EVALUATION_ROWS, BatchSampler, TableDataset, table_loader
from gpa_lightning.data.split import MeanAndScale, Split, blocks, fit_scaler, standardise
from gpa_lightning.data.table import (
    FEATURES,
    TARGET,
    DataError,
    Missing,
    Provenance,
    Selection,
    Source,
    Table,
)
from gpa_lightning.losses import TargetUnits
from gpa_lightning.resuming.checkpoint import stamp

# Annotations are not postponed here: to make them out, --help would import what follows, slowly.
if TYPE_CHECKING:
    from gpa_lightning.data.streaming import MappedTable, StreamedTable

log = logging.getLogger(__name__)


BATCHES_AT_LEAST = 32
"""Number of batches of an epoch that ``batch_size="auto"`` keeps to, on a small table."""

SetName = Literal["training", "validation", "test"]


class GPADataModule(LightningDataModule):
    """Splits a table at random into training, validation and test set, standardised.

    As in the lecture, a share of the rows is held out for the test and the features are
    standardised by the mean and deviation of the training rows alone. A validation set, which the
    lecture does without, comes out of the remaining rows.

    Args:
        source: Where the table comes from. ``auto``: ``path`` if given, else ``data/GPA.csv`` if
            it is there, else an earlier download, else a download, else the synthetic twin.
        path: A ``.csv``, ``.tsv``, ``.csv.gz``, ``.tsv.gz``, ``.parquet`` or ``.xlsx`` file, or a
            folder of Parquet files. The environment variable ``GPA_CSV`` stands in for it.
        batch_size: Rows a training batch, or ``full`` for all of them (full-batch training), or
            ``auto`` for 100, and fewer of a small table, so that an epoch has 32 batches. Of
            several processes, each takes batches of this size.
        test_size: Share of all rows that is held out for the test. By default 0.2, or a
            checkpoint's.
        val_size: Share of the remaining rows that is held out for validation. 0 is the lecture's
            own set-up: the test set doubles as the validation set. By default 0.2, or a
            checkpoint's.
        seed: Seed of the split and of the shuffling. By default that of ``--seed_everything``, or a
            checkpoint's.
        num_workers: Processes that gather batches in the background. With the table in memory,
            0 is the fastest.
        in_memory: Whether the table is taken into memory, or else streamed once into a file on
            disk, of which batches are read; results are the same. By default a file or folder is
            streamed if its values would take more than a quarter of the machine's memory. Of
            several processes on a machine, the first puts them there for all.
        cache_dir: Folder for the files of streamed tables, by default the user's cache folder.
        target: Column to predict: by default the course's GPA, or any other table's last.
        drop: Names of columns to leave out: neither features nor target.
        standardise_target: Whether the network learns the target standardised, which is undone in
            losses and predictions. By default for any target but the course's GPA.
        missing: Treatment of rows that lack a value: ``refuse`` the table, or ``drop`` the rows.

    Raises:
        DataError: If the table is not to be had, not valid, or too short for the split.

    Attributes:
        max_rows: Number of rows that are sampled from a larger table; None for all of them.

    Example:
        >>> data = GPADataModule(source="synthetic")
        >>> data.setup()
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape, data.rows
        (torch.Size([100, 9]), torch.Size([100, 1]), {'training': 27713, 'validation': 6929, 'test': 8661})
    """  # noqa: E501 - the example's output

    max_rows: int | None = None

    def __init__(
        self,
        source: Source = "auto",
        path: str | None = None,
        batch_size: int | Literal["full", "auto"] = 100,
        test_size: float | None = None,
        val_size: float | None = None,
        seed: int | None = None,
        num_workers: int = 0,
        in_memory: bool | None = None,
        cache_dir: str | None = None,
        target: str | None = None,
        drop: list[str] | str | None = None,
        standardise_target: bool | None = None,
        missing: Missing = "refuse",
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, str) and batch_size < 1:
            raise DataError(
                f"--data.batch_size must be a positive number, 'full' or 'auto', not {batch_size}"
            )
        if test_size is not None and not 0 < test_size < 1:
            raise DataError(f"--data.test_size must be above 0 and below 1, not {test_size}")
        if val_size is not None and not 0 <= val_size < 1:
            raise DataError(f"--data.val_size must be at least 0 and below 1, not {val_size}")
        for name, number in (("seed", seed), ("num_workers", num_workers)):
            if number is not None and number < 0:
                raise DataError(f"--data.{name} must not be negative, but is {number}")
        self.source = source
        self.path = path
        names = (drop,) if isinstance(drop, str) else tuple(drop or ())
        self._selection = Selection(target, names, missing)
        self.batch_size = batch_size
        self._given_split = {"test_size": test_size, "val_size": val_size, "seed": seed}
        self.test_size = 0.2 if test_size is None else test_size
        self.val_size = 0.2 if val_size is None else val_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.num_workers = num_workers
        self.in_memory = in_memory
        self.cache_dir = cache_dir
        self.standardise_target = standardise_target
        self.save_hyperparameters()
        self.save_hyperparameters(asdict(self._split))  # what the defaults stand for
        self._table: Table | StreamedTable | None = None
        self._feature_names: tuple[str, ...] = ()
        self._target_name = ""
        self._provenance: Provenance | None = None
        self._sets: dict[SetName, TableDataset] = {}
        self._scaler: dict[str, Tensor] = {}
        self._target_units: MeanAndScale | None = None

    def prepare_data(self) -> None:
        """Load or stream the table once a machine, which downloads it if need be."""
        if self._sets:
            return
        table = self._load()
        if not isinstance(table, Table):
            self._standardise_streamed(table)
            return
        # refused here if too short, before the run has a folder
        self._split.sizes(len(table.target), table.provenance.location)
        beside_others = self.trainer and self.trainer.world_size > self.trainer.num_nodes
        if table.provenance.kind == "file" and beside_others:
            self._table = shared = self._stream(table.provenance.location)
            shared.standardise(self.cache_dir, self._split, self._scaler, table)
        elif self.cache_dir is not None:
            self._warn(
                "--data.cache_dir %s changes nothing: the table is taken into memory; "
                "--data.in_memory false streams it by way of that folder",
                self.cache_dir,
            )

    def _stream(self, location: str) -> "StreamedTable":
        from gpa_lightning.data.streaming import StreamedTable

        return StreamedTable(Path(location), location, self._selection)

    def _standardise_streamed(self, table: "StreamedTable") -> "MappedTable":
        return table.standardise(self.cache_dir, self._split, self._scaler)

    def _load(self) -> "Table | StreamedTable":
        if self._table is None:
            from gpa_lightning.data.sources import load_table  # brings pandas, which is slow

            file = self._file_to_stream()
            self._table = file or load_table(self.source, self.path, self._selection)
            self._feature_names = self._table.feature_names
            self._target_name = self._table.target_name
        return self._table

    def _file_to_stream(self) -> "StreamedTable | None":
        from gpa_lightning.data.sources import training_file
        from gpa_lightning.data.streaming import fits_into_memory

        location = training_file(self.source, self.path)
        if location is None:
            if self.in_memory is False:
                raise DataError(
                    "--data.in_memory false streams a file: say which, with --data.path FILE"
                )
            return None
        in_memory = self.in_memory
        rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        if rank != "0":
            in_memory = False  # `prepare_data` of the machine's first process shares the rows
        elif in_memory is None:
            in_memory = fits_into_memory(Path(location), location)
        return None if in_memory else self._stream(location)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in the network's order."""
        return self._feature_names or self._load().feature_names

    @property
    def target_name(self) -> str:
        """Name of the column that is predicted."""
        return self._target_name or self._load().target_name

    @property
    def in_features(self) -> int:
        """Number of feature columns."""
        return len(self.feature_names)

    @property
    def provenance(self) -> Provenance:
        """Name, size and SHA-256 of the table."""
        if self._provenance is None:
            table = self._load()
            if isinstance(table, Table):
                self._provenance = table.provenance
            else:
                self._provenance = self._standardise_streamed(table).provenance
        return self._provenance

    @property
    def rows(self) -> dict[SetName, int]:
        """Number of rows of each set, once `setup` has run."""
        return {name: len(dataset) for name, dataset in self._sets.items()}

    def setup(self, stage: str | None = None) -> None:
        """Split and standardise the table, once.

        Raises:
            DataError: If the table is not to be had or not valid, or the network to be trained
                has another number of inputs than it has features.
        """
        self._check_network()
        self._check_finder()
        if not self._sets:
            self._make_sets()
        if stage == "fit" and self.trainer is not None:
            self._set_target_units(self.trainer.lightning_module)

    def _set_target_units(self, module: LightningModule) -> None:
        """Give a module with `TargetUnits` those of the target; any other learns it as it is."""
        own = getattr(module, "target_units", None)
        if isinstance(own, TargetUnits):
            units = self._target_units if self._standardises_target else None
            own.set_once(units, like=next(module.parameters()))

    @property
    def _standardises_target(self) -> bool:
        """Whether the target is learnt in units of the training rows."""
        if self.standardise_target is not None:
            return self.standardise_target
        return self.target_name != TARGET or not set(self.feature_names) <= {*FEATURES}

    def _make_sets(self) -> None:
        """Split and standardise the table."""
        table, self._table = self._load(), None
        if isinstance(table, Table):
            table = table.sample(self.max_rows)
            self._provenance = table.provenance
            self._compare_processes()
            x, y, training, validation = self._standardise_table(table)

            def dataset(rows: slice) -> TableDataset:
                return TableDataset(x[rows], y[rows])
        elif self.max_rows is not None:
            raise DataError(
                f"{table.location}: is streamed; a sample of its rows needs it in memory"
            )
        else:
            mapped = self._standardise_streamed(table)
            training, validation, dataset = mapped.training, mapped.validation, mapped.dataset
            self._provenance, self._scaler = mapped.provenance, mapped.scaler
            self._target_units = mapped.target_units
            self._compare_processes()

        self._sets = {"training": dataset(slice(training))}
        test = dataset(slice(training + validation, None))
        if validation:
            self._sets["validation"] = dataset(slice(training, training + validation))
        else:
            self._sets["validation"] = test
            self._warn(
                "The test set doubles as the validation set (--data.val_size 0), as in the "
                "lecture: a test loss that guided the training flatters it."
            )
        self._sets["test"] = test

    def _check_network(self) -> None:
        module = self.trainer.lightning_module if self.trainer else None
        inputs = module.hparams.get("in_features") if module else None
        if inputs is not None and inputs != self.in_features:
            raise DataError(
                f"the data have {self.in_features} feature columns, but the network {inputs} "
                f"inputs; give GPARegressor(in_features={self.in_features})"
            )

    def _check_finder(self) -> None:
        callbacks = self.trainer.callbacks if self.trainer else []  # type: ignore[attr-defined]
        finds = any(isinstance(callback, BatchSizeFinder) for callback in callbacks)
        if isinstance(self.batch_size, str) and finds:
            raise DataError(
                "BatchSizeFinder begins with a number: give --data.batch_size 100, not "
                f"'{self.batch_size}'"
            )

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _compare_processes(self) -> None:
        """Make sure that all processes have the same table and split it alike."""
        mine = asdict(self.provenance) | self._split_settings()
        everyone = [mine] * self._processes
        if len(everyone) > 1:
            torch.distributed.all_gather_object(everyone, mine)
        compare_processes(everyone, ["sha256", *self._split_settings()])

    @property
    def _split(self) -> Split:
        return Split(self.test_size, self.val_size, self.seed)

    def _standardise_table(self, table: Table) -> tuple[Tensor, Tensor, int, int]:
        """Return features and target in the order of the split, and the sizes of its sets."""
        order, training, validation = self._split.draw(len(table.target), table.provenance.location)
        parts = (order[:training][block] for block in blocks(training))
        fitted, self._target_units = fit_scaler(
            np.column_stack([table.features[rows], table.target[rows]]) for rows in parts
        )
        self._scaler = self._scaler or fitted  # that of a checkpoint
        x = torch.empty(table.features.shape)
        y = torch.empty(len(order), 1)
        for block in blocks(len(order)):
            rows = order[block]
            x.numpy()[block] = standardise(table.features[rows], self._scaler)
            y.numpy()[block, 0] = table.target[rows]
        return x, y, training, validation

    def standardise(self, features: npt.NDArray[np.float64]) -> Tensor:
        """Standardise raw scores by the training rows' mean and deviation.

        Args:
            features: Shape ``(rows, in_features)``, columns in the order of `feature_names`.

        Returns:
            Standardised features, float32 of the same shape.
        """
        return torch.from_numpy(standardise(features, self._scaler))

    def dataset(self, name: SetName) -> TableDataset:
        """Return a set: features ``(rows, in_features)`` and target ``(rows, 1)``, float32."""
        return self._sets[name]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training set's batches, in a new order each epoch."""
        return self._loader("training", self.batch_rows, shuffle=True)

    @property
    def batch_rows(self) -> int | None:
        """Number of rows of a training batch; None for all."""
        if self.batch_size == "auto":
            training, _ = self._split.sizes(self.provenance.rows, self.provenance.location)
            return max(1, min(100, training // BATCHES_AT_LEAST))
        return None if self.batch_size == "full" else self.batch_size

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation set's batches: large, in order, each row once."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test set's batches, likewise."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the test set's batches, likewise."""
        return self._loader("test")

    def _loader(
        self, name: SetName, batch_size: int | None = EVALUATION_ROWS, shuffle: bool = False
    ) -> DataLoader[Any]:
        dataset, trainer = self._sets[name], self.trainer
        sampler = BatchSampler(
            dataset,
            batch_size,
            shuffle,
            self.seed,
            num_replicas=self._processes,
            rank=trainer.global_rank if trainer else 0,
        )
        device = None
        if trainer and isinstance(trainer.accelerator, CUDAAccelerator):
            device = trainer.strategy.root_device
        return table_loader(dataset, sampler, self.num_workers, device)

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler, the columns, the split and the provenance, for a checkpoint."""
        state = {
            "feature_names": list(self.feature_names),
            "target_name": self.target_name,
            "provenance": asdict(self.provenance),
            "split": self._split_settings(),
            "standardised_target": self._standardises_target,
            **self._scaler,
        }
        stamp(state)
        return state

    def _split_settings(self) -> dict[str, Any]:
        # of rows a step, so that a run may go on with another number of processes
        rows = self.batch_rows * self._processes if self.batch_rows else "full"
        names = ("test_size", "val_size", "seed")
        return {"batch_size": rows, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's split and scaler.

        Another split would put rows that the network was trained on into the test set.

        Raises:
            DataError: If another split is asked for, or the table has other features; in training,
                if the table or the batch size is not the checkpoint's.
        """
        provenance = Provenance(**state_dict["provenance"])
        scaler = {name: state_dict[name] for name in ("mean", "scale")}
        if not self._sets:
            self._take_over_split(self._resolve_split(state_dict, provenance))
            self._feature_names = tuple(state_dict["feature_names"])
            self._target_name = state_dict["target_name"]
            self._provenance, self._scaler = provenance, scaler
            return
        is_another_table = provenance.sha256 != self.provenance.sha256
        self._take_over_split(self._resolve_split(state_dict, self.provenance))
        self._compare_columns(state_dict)
        if self.trainer is not None and self.trainer.training:
            self._compare_training(state_dict, str(self.trainer.ckpt_path or ""))
        else:
            if is_another_table:
                self._warn(
                    "%s is not the table that the checkpoint was trained on: whether it holds rows "
                    "of that is not known.",
                    self.provenance.location,
                )
            self._restandardise(scaler)
        self._scaler = scaler

    def _compare_training(self, state_dict: dict[str, Any], ckpt_path: str) -> None:
        now = {"data": self.provenance.sha256, **self._split_settings()}
        then = {"data": state_dict["provenance"]["sha256"], **state_dict["split"]}
        if Path(ckpt_path).name.startswith(".scale_batch_size_"):
            del now["batch_size"]  # Lightning's finder puts back what its trials have changed
        if self.standardise_target is not None:
            now["standardise_target"] = self.standardise_target
        then["standardise_target"] = before = state_dict.get("standardised_target", False)
        self.standardise_target = before  # in an earlier version, no target was standardised
        compare_training(now, then, self._processes)

    def _compare_columns(self, state_dict: dict[str, Any]) -> None:
        compare_columns(state_dict, self.provenance, self.feature_names, self.target_name)

    def _warn(self, message: str, *values: object) -> None:
        """Log a warning on the first process."""
        if self.trainer is None or self.trainer.is_global_zero:
            log.warning(message, *values)

    def _resolve_split(self, state_dict: dict[str, Any], table: Provenance) -> Split:
        return resolve_split(state_dict, table, self._given_split)

    def check_split(self, state_dict: dict[str, Any]) -> None:
        """Refuse a table in memory that `load_state_dict` would refuse, before a run has a folder.

        Args:
            state_dict: The data module's part of a checkpoint.

        Raises:
            DataError: If other columns, or another split of the same table, are asked for.
        """
        if isinstance(self._table, Table):
            self._compare_columns(state_dict)
            self._resolve_split(state_dict, self._table.provenance)

    def _take_over_split(self, split: Split) -> None:
        if split == self._split:
            return
        self._warn("The split is the checkpoint's: %s.", split)
        self.test_size, self.val_size, self.seed = split.test_size, split.val_size, split.seed
        self.hparams.update(asdict(split))
        if self._sets:
            self._sets, self._scaler, self._provenance = {}, {}, None
            self.setup()

    def _restandardise(self, scaler: dict[str, Tensor]) -> None:
        """Change the features from this table's units to the checkpoint's."""
        factor = self._scaler["scale"] / scaler["scale"]
        shift = (self._scaler["mean"] - scaler["mean"]) / scaler["scale"]
        if factor.eq(1).all() and shift.eq(0).all():
            return
        for data in set(self._sets.values()):  # the test set may double as the validation set
            data.rescale(factor.float(), shift.float())
