"""The data of a checkpoint, or of another process, compared with the data at hand.

A checkpoint's part of the data module (``state``) names its table by SHA-256, its columns and its
split. On another split, rows that it was trained on would be in the test set.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from gpa_lightning.data.split import Split
from gpa_lightning.data.table import DataError, Provenance, list_names, quote


def compare_processes(processes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Refuse processes that have another table or other settings than the first.

    Args:
        processes: Provenance and settings of each process.
        names: Names of those that have to agree.
    """
    first = processes[0]
    for rank, other in enumerate(processes):
        for name in names:
            if other[name] != first[name]:
                places = [f"{each['kind']}: {each['location']}" for each in (first, other)]
                what = f"the table ({'; '.join(places)})" if name == "sha256" else name
                raise DataError(
                    f"process {rank} differs from process 0 in {what}; give all processes "
                    "the same flags, and the same table with --data.path FILE"
                )


def compare_columns(
    state: Mapping[str, Any], table: Provenance, feature_names: Sequence[str], target_name: str
) -> None:
    """Refuse other features than a checkpoint's, and on its own table another target."""
    names, target = tuple(state["feature_names"]), state["target_name"]
    if names != tuple(feature_names):
        raise DataError(
            f"{table.location}: has the feature columns {list_names(feature_names)}, but the "
            f"checkpoint was trained on {list_names(names)}; see --data.target and --data.drop"
        )
    if table.sha256 == state["provenance"]["sha256"] and target != target_name:
        raise DataError(
            f"{table.location}: the target is {quote(target_name)}, but the checkpoint was "
            f"trained to predict {quote(target)}; give --data.target {shlex.quote(target)}"
        )


def resolve_split(
    state: Mapping[str, Any], table: Provenance, given: Mapping[str, float | None]
) -> Split:
    """Return a checkpoint's split; on another table, arguments that were given overrule it.

    Raises:
        DataError: If arguments that were given differ from it on the same table.
    """
    split = {name: state["split"][name] for name in given}
    for name, value in given.items():
        if value is not None and table.sha256 != state["provenance"]["sha256"]:
            split[name] = value
        elif value is not None and value != split[name]:
            raise DataError(
                f"--data.{name} is {value}, but the checkpoint was trained with {split[name]}: on "
                "another split it would be tested on rows that it was trained on; leave the flag "
                "out, or give the checkpoint's"
            )
    return Split(**split)


def compare_training(now: Mapping[str, Any], then: Mapping[str, Any], processes: int) -> None:
    """Refuse to go on with another table, batch size or target than a checkpoint's.

    Args:
        now: Arguments of this training; those that are not to be compared are left out.
        then: Arguments of the checkpoint's training.
        processes: Number of processes that train.
    """
    for name in ("data", "batch_size", "standardise_target"):
        if name in now and now[name] != then[name]:
            together = name == "batch_size" and processes > 1
            raise DataError(
                f"cannot resume: --data.{name} is {now[name]}"
                f"{' on all processes together' if together else ''}, but the checkpoint "
                f"was trained with {then[name]}; use the checkpoint's or start a new run"
            )
