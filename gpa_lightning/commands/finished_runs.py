"""Finished runs, read from their folders for a comparison: ``scripts/compare.py --from``."""

from __future__ import annotations

import json
import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

import yaml

from gpa_lightning.commands.flag_checks import LOGS
from gpa_lightning.commands.outcome import OUTCOME
from gpa_lightning.commands.run_names import unique_name
from gpa_lightning.resuming.checkpoint import read_checkpoint
from gpa_lightning.studies.comparison import Comparison
from gpa_lightning.studies.runs import Outcome


def read_runs(folders: Sequence[Path]) -> Comparison:
    """Read finished runs from their folders; those that differ only in seeds are one setting.

    Raises:
        ArgumentError: If a folder is missing or holds no run.
    """
    outcomes = {folder: _outcome(folder) for folder in folders}
    groups: dict[str, list[Path]] = {}
    for folder in outcomes:
        groups.setdefault(_setting(folder), []).append(folder)
    named: dict[str, list[Path]] = {}
    for group in groups.values():
        seeds = {json.dumps([outcomes[f].get(k) for k in ("seed", "split_seed")]) for f in group}
        # the same flags and seed twice: what differs is not in the flags
        for part in [group] if len(seeds) == len(group) else [[folder] for folder in group]:
            kept = re.sub(r"^version_\d+-?|-?seed_everything=\d+", "", part[0].name)
            kept = re.sub(r"-seed-\d+-[0-9a-f]{16}$", "", kept)
            named[
                unique_name(kept if len(group) == len(part) and kept else part[0].name, named)
            ] = part
    return Comparison(
        {name: [outcomes[folder] for folder in part] for name, part in named.items()},
        {name: " ".join(map(str, part)) for name, part in named.items()},
    )


def _setting(folder: Path) -> str:
    """Return the flags of a run, without the seed and its folder."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        for name in ("seed_everything", "ckpt_path"):
            config.pop(name, None)
        config["data"]["seed"] = None
        for name in ("logger", "default_root_dir"):
            config["trainer"].pop(name, None)
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return str(folder)
    return json.dumps(config, sort_keys=True)


def _outcome(folder: Path) -> Outcome:
    """Read the outcome of a run, or of one that was not tested the curves that it has left."""
    if not folder.is_dir():
        raise ArgumentError(
            None, f"--from {folder}: no such folder; give those of runs, {LOGS}/..."
        )
    try:
        outcome: Outcome = json.loads((folder / OUTCOME).read_text())
        if isinstance(outcome, dict) and {"test_loss", "error"} & outcome.keys():
            return outcome
        raise ValueError("it holds no run's outcome")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise ArgumentError(None, f"--from {folder}: {OUTCOME} cannot be read: {error}") from error
    last = sorted(folder.glob("checkpoints/last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if not last:
        raise ArgumentError(None, f"--from {folder}: holds no run with {OUTCOME} or a checkpoint")
    checkpoint = read_checkpoint(last[-1])
    curves = checkpoint["callbacks"].get("LossCurves", {})
    return {
        "error": f"never tested: it has no {OUTCOME}",
        "epochs": checkpoint["epoch"] + 1,
        "training_curve": curves.get("training", []),
        "validation_curve": curves.get("validation", []),
    }
