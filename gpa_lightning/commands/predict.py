"""``scripts/predict.py``: GPAs for a table of raw exam scores, from a checkpoint alone."""

from __future__ import annotations

import os
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections import OrderedDict
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from jsonargparse import ArgumentParser
from pyarrow import parquet
from torch import Tensor, nn

from gpa_lightning.commands.mistakes import parse
from gpa_lightning.commands.refusal import refuse
from gpa_lightning.data.loaders import EVALUATION_ROWS
from gpa_lightning.data.sources import read_scores
from gpa_lightning.data.split import standardise
from gpa_lightning.data.table import Array, DataError, Provenance
from gpa_lightning.losses import TargetUnits
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.resuming.checkpoint import DATA_KEY, CheckpointError, read_checkpoint
from gpa_lightning.resuming.whole_file import OutputError, whole_file

SUFFIXES = (".csv", ".csv.gz", ".parquet")
DESCRIPTION = f"""Predict GPAs from raw exam scores, or the target of any other table.

Writes the input, every column as it is (those of a CSV file as the text they are), and a column
of predictions, such as predicted_gpa; empty in rows that lack a value. Columns are matched by name:
their order, their letter case and other columns, such as a gpa, do not matter. The suffix gives the
output's format: {", ".join(SUFFIXES)}."""
EXAMPLE = """example:
  python scripts/predict.py --ckpt_path last.ckpt --input students.csv --output predictions.csv"""

Accelerator = Literal["auto", "cpu", "gpu"]


def main(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/predict.py``.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    parser = file_parser(DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "--input", required=True, type=str, help="a table of raw scores, or - for standard input"
    )
    parser.add_argument(
        "--accelerator", type=Accelerator, default="auto", help="auto takes a GPU if there is one"
    )
    return run_file_command(predict_file, parser, args)


def file_parser(description: str, example: str) -> ArgumentParser:
    """Return the parser of a command that makes one file from a checkpoint."""
    parser = ArgumentParser(
        description=description,
        epilog=example,
        formatter_class=RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument("--ckpt_path", required=True, type=str, help="what scripts/train.py wrote")
    parser.add_argument("--output", required=True, type=str, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    return parser


def run_file_command(
    make_file: Callable[..., str], parser: ArgumentParser, args: Sequence[str] | None
) -> int:
    """Parse a command line, make the file, print what was written, and return the exit code."""
    try:
        print(make_file(**parse(parser, args)))  # noqa: T201
    except (ArgumentError, CheckpointError, DataError, OutputError) as error:
        return refuse(error)
    return 0


def predict_file(
    ckpt_path: str,
    input: str,  # noqa: A002 - as the flag
    output: str,
    overwrite: bool = False,
    accelerator: Accelerator = "auto",
) -> str:
    """Predict a GPA for each row of a table, and write the table with the predictions.

    Args:
        ckpt_path: A checkpoint that this project's training wrote.
        input: A table with the checkpoint's feature columns: a file, a folder of Parquet files, or
            ``-`` for standard input.
        output: The file to write, in the format that its suffix says: the input's columns and one
            of predictions, float32, named ``predicted_`` and the target. CSV has decimal commas
            where the input has.
        overwrite: Whether ``output`` may be replaced.
        accelerator: Where to compute; ``auto`` takes a GPU if there is one.

    Returns:
        One line for the user: what was written, and which data the checkpoint was trained on.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        DataError: If the table is not valid, or a prediction is not a finite number.
        OutputError: If the output cannot or must not be written.
    """
    if not output.lower().endswith(SUFFIXES):
        raise OutputError(f"{output}: is not named {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if os.path.realpath(output) == os.path.realpath(input):
        raise OutputError(f"{output}: is the input, which must not be replaced")
    with whole_file(output, overwrite) as temporary:
        device = _device(accelerator)
        trained = restore(ckpt_path)
        frame, features = read_scores(input, trained.feature_names)
        name = f"predicted_{trained.target_name}"
        if name.casefold() in map(str.casefold, frame.columns):
            raise DataError(f"{input}: there is a column {name!r} already; leave it out")
        trained.network.to(device)
        gpas = _predict(trained, features)
        infinite = np.flatnonzero(~np.isfinite(gpas) & np.isfinite(features).all(axis=1))
        if infinite.size:
            raise DataError(
                f"{input}, row {infinite[0] + 1}: the prediction is {gpas[infinite[0]]}; its "
                f"scores are out of all range, or the training that wrote {ckpt_path} diverged"
            )
        frame[name] = gpas
        if output.lower().endswith(".parquet"):
            table = pa.Table.from_pandas(frame, preserve_index=False)
            # without pandas' notes, which would have its readers take up pyarrow's types
            parquet.write_table(table.replace_schema_metadata(), temporary)
        else:
            decimal = frame.attrs["decimal"]
            separator = ";" if decimal == "," else ","
            frame.to_csv(temporary, index=False, sep=separator, decimal=decimal)
    return (
        f"{len(frame):,} rows written to {output}; "
        f"the checkpoint was trained on {trained_on(trained.provenance)}"
    )


def trained_on(provenance: Provenance) -> str:
    """Describe the data that a checkpoint was trained on, in capitals if they are synthetic."""
    data = f"{provenance.location!r}, {provenance.rows} rows"
    if provenance.kind == "synthetic":
        return f"SYNTHETIC DATA, NOT ON REAL STUDENTS: these GPAs mean nothing ({data})"
    return data


def _device(accelerator: Accelerator) -> torch.device:
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "gpu" and gpu is None:
        raise ArgumentError(None, "--accelerator gpu: there is no GPU; use auto or cpu")
    return torch.device("cpu") if accelerator == "cpu" or gpu is None else gpu


class Trained(NamedTuple):
    """The parts of a checkpoint that predict.

    Attributes:
        network: Maps standardised scores ``(batch, in_features)`` to predictions ``(batch, 1)`` in
            the target's units; in evaluation mode and single precision.
        scaler: ``mean`` and ``scale`` of each score, float64 of shape ``(in_features,)``.
        feature_names: Names of the columns, in the network's order.
        target_name: Name of the column that is predicted.
        provenance: Data that it was trained on.
    """

    network: nn.Sequential
    scaler: dict[str, Tensor]
    feature_names: list[str]
    target_name: str
    provenance: Provenance


def restore(ckpt_path: str) -> Trained:
    """Read a checkpoint, and rebuild its network with the target's units behind it.

    No more of the regressor, since these need nothing but plain numbers: the hyperparameters of
    one from the command line also name code to import. And no data module, nor anything else of
    Lightning's, which takes longer to import than most tables to predict.

    Raises:
        CheckpointError: If it cannot be read, lacks a part, or its parts do not belong together.
    """
    checkpoint = read_checkpoint(ckpt_path)
    try:
        sizes = {name: checkpoint["hyper_parameters"][name] for name in _ARGUMENTS}
        with torch.device("meta"):  # whatever sizes it claims, no memory but that of its weights
            parts = {"network": FullyConnectedNetwork(**sizes), "target_units": TargetUnits()}
        network = nn.Sequential(OrderedDict(parts))
        weights = {
            name: weight
            for name, weight in checkpoint["state_dict"].items()
            if name.partition(".")[0] in parts
        }
        network.load_state_dict(weights, assign=True)
        network.float().eval()  # from any precision of the training
        data = checkpoint[DATA_KEY]
        trained = Trained(
            network,
            scaler={name: data[name] for name in ("mean", "scale")},
            feature_names=[str(name) for name in data["feature_names"]],
            target_name=str(data["target_name"]),
            provenance=Provenance(**data["provenance"]),
        )
        _predict(trained, np.zeros((1, len(trained.feature_names))))
    except Exception as error:  # a file that anyone may have made can raise anything
        raise CheckpointError(f"{ckpt_path}: is incomplete or contradicts itself") from error
    return trained


_ARGUMENTS = tuple(signature(FullyConnectedNetwork).parameters)


@torch.inference_mode()
def _predict(trained: Trained, features: Array) -> npt.NDArray[np.float32]:
    """Predict GPAs, shape ``(rows,)``, from raw scores ``(rows, in_features)``, in blocks."""
    with np.errstate(all="ignore"):  # what overflows is found in the predictions
        x = torch.from_numpy(standardise(features, trained.scaler))
    device = next(trained.network.parameters()).device
    blocks = [trained.network(block.to(device)).cpu() for block in torch.split(x, EVALUATION_ROWS)]
    gpas: npt.NDArray[np.float32] = torch.cat(blocks).squeeze(1).numpy()
    return gpas
