"""The settings of optimisers and schedules, which a resumed run would take from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer

from gpa_lightning.resuming.checkpoint import CheckpointError

_KERNELS = ("fused", "foreach", "capturable", "differentiable")  # how, and not what, is computed


def collect_settings(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the settings of each parameter group and schedule, before a checkpoint is restored.

    Each is a dictionary of numbers and strings, with the class's name under ``class``.
    """
    groups = [(each, group) for each in trainer.optimizers for group in each.param_groups]
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [
        *(_plain(optimizer, group) for optimizer, group in groups),
        *(_plain(schedule, schedule.state_dict()) for schedule in schedules),
    ]


def _plain(owner: object, values: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in _flat(values) if name not in _KERNELS}
    return {"class": type(owner).__name__} | plain


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield numbers and strings, of nested schedules too, each with its dotted path."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{path}.")
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            yield from _flat({str(i): each for i, each in enumerate(value)}, f"{path}.")
        elif _is_plain(value):
            yield path, value


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


def compare_settings(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> None:
    """Refuse to go on with other settings than a checkpoint's, which would silently overrule them.

    Raises:
        CheckpointError: If they differ. Settings of ``then`` that are not known are left out.
    """
    if then and [each["class"] for each in now] != [each["class"] for each in then]:
        classes = (" with ".join(dict.fromkeys(each["class"] for each in s)) for s in (now, then))
        raise _refusal("the optimiser", *classes)
    for each_now, each_then in zip(now, then, strict=False):
        for name in each_now:
            if name in each_then and each_now[name] != each_then[name]:
                setting = name.rpartition(".")[2].removeprefix("initial_")
                what = f"{setting} of {each_now['class']}"
                raise _refusal(what, each_now[name], each_then[name])


def _refusal(what: str, now: object, then: object) -> CheckpointError:
    return CheckpointError(
        f"cannot go on: {what} is {now}, but the checkpoint was trained with {then}; give the "
        "checkpoint's or start a new run"
    )
