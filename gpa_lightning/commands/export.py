"""``scripts/export.py``: a checkpoint as one file that predicts without this project."""

from __future__ import annotations

import json
import logging
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gpa_lightning.commands.predict import file_parser, restore, run_file_command, trained_on
from gpa_lightning.resuming.checkpoint import CheckpointError
from gpa_lightning.resuming.whole_file import OutputError, whole_file

INPUT, OUTPUT = "scores", "gpas"
FEATURE_NAMES = "feature_names"
"""Under which a file holds the columns of its input, in their order, as a list in JSON."""

Format = Literal["onnx", "pt2"]

DESCRIPTION = f"""Export a checkpoint to one file that predicts without this project.

The file takes raw {INPUT}, float64 of shape (batch, features), and gives {OUTPUT}, float32 of
shape (batch, 1); the scaler is inside. It names its columns under {FEATURE_NAMES}. The format
onnx is for ONNX Runtime and others, pt2 for PyTorch's torch.export.load."""
EXAMPLE = """example:
  python scripts/export.py --ckpt_path last.ckpt --format onnx --output gpa.onnx"""


def main(args: Sequence[str] | None = None) -> int:
    """Run ``scripts/export.py``.

    Returns:
        The exit code: 0, or 2 for a mistake that the user can mend.
    """
    parser = file_parser(DESCRIPTION, EXAMPLE)
    parser.add_argument("--format", required=True, type=Format, help="also the output's suffix")
    # it warns of each operation that it cannot export without torchvision
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    return run_file_command(export_file, parser, args)


def export_file(
    ckpt_path: str,
    format: Format,  # noqa: A002 - as the flag
    output: str,
    overwrite: bool = False,
) -> str:
    """Export a checkpoint to one file that takes raw scores and gives GPAs.

    Args:
        ckpt_path: A checkpoint that this project's training wrote.
        format: ``onnx``, or ``pt2`` for a program of `torch.export`.
        output: The file to write, with the format as its suffix.
        overwrite: Whether ``output`` may be replaced.

    Returns:
        One line for the user: what was written, the columns in their order, and which data the
        checkpoint was trained on.

    Raises:
        ArgumentError: If a package is missing that the format needs.
        CheckpointError: If the checkpoint cannot be used, or its training has diverged.
        OutputError: If the output cannot or must not be written.
    """
    if not output.lower().endswith(f".{format}"):
        raise OutputError(f"{output}: is not named .{format}, as the format is")
    missing = [name for name in ("onnx", "onnxscript") if not find_spec(name)]
    if format == "onnx" and missing:
        raise ArgumentError(
            None, f"--format onnx: needs {' and '.join(missing)}: pip install onnx onnxscript"
        )
    with whole_file(output, overwrite) as temporary:
        trained = restore(ckpt_path)
        model = FromRawScores(trained.network, **trained.scaler).eval()
        if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
            raise CheckpointError(f"{ckpt_path}: the training that wrote it diverged")
        names = trained.feature_names
        (_write_onnx if format == "onnx" else _write_pt2)(model, names, temporary)
    return (
        f"{output} takes {', '.join(names)}, in this order; "
        f"the checkpoint was trained on {trained_on(trained.provenance)}"
    )


class FromRawScores(nn.Module):
    """A network with its scaler in front, rounded where `standardise` rounds.

    Args:
        network: Maps standardised scores ``(batch, in_features)`` to ``(batch, 1)``.
        mean: Of each score in the training rows, shape ``(in_features,)``, float64.
        scale: Deviation of each score likewise.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, scores: Tensor) -> Tensor:
        """Predict GPAs, shape ``(batch, 1)``, from raw scores ``(batch, in_features)``."""
        gpas: Tensor = self.network(((scores - self.mean) / self.scale).float())
        return gpas


def _write_onnx(model: FromRawScores, names: list[str], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # in PyTorch's own code
        program = torch.onnx.export(
            model,
            _scores(names),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_SHAPES,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[FEATURE_NAMES] = json.dumps(names)
    program.save(path, external_data=False)


def _write_pt2(model: FromRawScores, names: list[str], path: Path) -> None:
    program = torch.export.export(model, _scores(names), dynamic_shapes=_SHAPES)
    torch.export.save(program, path, extra_files={FEATURE_NAMES: json.dumps(names)})


_SHAPES = {INPUT: {0: torch.export.Dim("batch")}}


def _scores(names: list[str]) -> tuple[Tensor]:
    return (torch.zeros(2, len(names), dtype=torch.float64),)  # 2, as 1 would be taken for fixed
