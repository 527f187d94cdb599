"""A checkpoint that was taken within an epoch: how far it was, and how it goes on from there.

Lightning's loops go on within an epoch if their loader does, but lose what the epoch has logged so
far, and, depending on the hook that saved, a validation that was due or the rest of the epoch. They
have no public names for any of it; those that resuming needs stand in this file, and its tests
compare resumed runs with runs that were never stopped.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric

_COUNTS = ("ready", "started", "processed", "completed")


def position(trainer: Trainer) -> dict[str, Any]:
    """Return how far a run is, when a checkpoint of it is saved.

    Args:
        trainer: The Trainer that fits.

    Returns:
        A dictionary of

        - ``batches``: number of batches of the epoch that have been learnt from,
        - ``within``: whether the epoch has batches left, or something to do after the last one,
        - ``ended``: whether the epoch is over all the same, by ``max_steps`` or an early stop,
        - ``whole``: whether no batches are left,
        - ``pending``: whether what follows the latest batch (a validation that is due, the counting
          of the step) is yet to be done,
        - ``validated``: whether that validation is over.
    """
    epoch_loop, epochs = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_progress.current
    batches, validation = epoch_loop.batch_progress.current, epoch_loop.val_loop.batch_progress
    ended = epochs.processed == epochs.ready  # type: ignore[attr-defined]
    is_last = (
        batches.ready == trainer.num_training_batches or epoch_loop.batch_progress.is_last_batch
    )
    whole = is_last and batches.processed == batches.ready  # type: ignore[attr-defined]
    after_batch = batches.completed < batches.processed  # type: ignore[attr-defined]
    begun = epochs.started == epochs.ready > 0  # type: ignore[attr-defined]
    return {
        "batches": batches.processed,  # type: ignore[attr-defined]
        "within": begun and not (ended and whole),
        "ended": ended,
        "whole": whole,
        "pending": not ended and (trainer.validating or after_batch),
        "validated": trainer.validating
        and validation.is_last_batch
        and validation.current.completed == validation.current.ready,
    }


def set_counters(loops: dict[str, Any], at: dict[str, Any]) -> None:
    """Set the counters in a checkpoint to a moment between two batches, or between two epochs.

    Args:
        loops: State of the loops of a fit, as Lightning saves it; it is changed.
        at: `position` of the checkpoint.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for level in ("total", "current"):
        done = epochs[level]["processed"] - (at["within"] and at["ended"])
        epochs[level].update(dict.fromkeys(_COUNTS, done))
        batches[level].update(dict.fromkeys(_COUNTS, batches[level]["processed"]))
    if not at["within"]:
        batches["current"].update(dict.fromkeys(_COUNTS, 0))
        batches["is_last_batch"] = False
        loops["state_dict"].pop("combined_loader", None)
        return
    for level in ("total", "current"):
        epochs[level].update(dict.fromkeys(("ready", "started"), epochs[level]["ready"] + 1))
    batches["is_last_batch"] = at["whole"]
    if at["pending"] and not at["validated"]:
        # what Lightning takes for a validation that was cut off, and makes up for
        validation = loops["epoch_loop.val_loop.batch_progress"]
        behind = validation["total"]["ready"] - 1
        validation["total"].update(processed=behind, completed=behind)
        validation["current"].update(dict.fromkeys(_COUNTS, 0))


def resume_loops(trainer: Trainer, at: dict[str, Any]) -> None:
    """Resume the loops from where `set_counters` has set them, when training starts."""
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    # else a schedule that waits for a plateau would miss the end of this epoch
    fit_loop._restarting = False
    if not at["within"]:
        epoch_loop.restarting = False
        return
    fetcher = fit_loop._data_fetcher
    assert fetcher is not None
    due = epoch_loop._should_check_val_fx(fetcher)  # Lightning then counts the step itself
    if at["whole"] and not due:
        fetcher.iterator = iter(())  # or else Lightning would look for one more batch
    if at["pending"] and not due:
        epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        epoch_loop._batches_that_stepped += not epoch_loop._should_accumulate()
    elif due and not at["pending"]:
        epoch_loop._batches_that_stepped -= 1


def collect(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the sums of an epoch so far, of this process, in a form that a checkpoint may hold.

    That is: the states of the metrics, the values whose mean of the epoch is to be logged, and
    gradients that are being accumulated.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    accumulates = epoch_loop._should_accumulate()
    validation = {id(logged.value) for logged in epoch_loop.val_loop._results.values()}
    return {
        "metrics": {
            name: {"states": metric.metric_state, "updates": metric.update_count}
            for name, metric in module.named_modules()
            if isinstance(metric, Metric) and metric.update_called and id(metric) not in validation
        },
        "logged": [_logged(each) for each in epoch_loop._results.values() if not each.has_reset],
        "gradients": {
            name: weight.grad
            for name, weight in module.named_parameters()
            if weight.grad is not None and accumulates
        },
    }


def _logged(result: Any) -> dict[str, Any]:
    meta = result.meta
    names = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "add_dataloader_idx")
    return {
        "arguments": {name: getattr(meta, name) for name in names}
        | {
            "metric_attribute": meta.metric_attribute,
            "reduce_fx": meta.reduce_fx.__name__,
            "sync_dist": meta.sync.should,
            "rank_zero_only": meta.sync.rank_zero_only,
        },
        "states": result.metric_state if result.is_tensor else {},
    }


def restore(trainer: Trainer, module: LightningModule, gathered: dict[str, Any]) -> None:
    """Restore what `collect` has returned."""
    connector, results = trainer._logger_connector, trainer.fit_loop.epoch_loop._results
    for name, state in gathered["metrics"].items():
        metric = module.get_submodule(name)
        _set_states(metric, state["states"], module.device)
        metric._update_count = state["updates"]
    for each in gathered["logged"]:
        arguments, states = dict(each["arguments"]), each["states"]
        attribute = arguments["metric_attribute"]
        value = (
            module.get_submodule(attribute) if attribute else torch.zeros((), device=module.device)
        )
        arguments["reduce_fx"] = getattr(torch, arguments["reduce_fx"])
        known = set(results)
        results.log(value=value, sync_dist_fn=trainer.strategy.reduce, **arguments)
        (key,) = results.keys() - known
        _set_states(results[key], states, module.device)
    if gathered["logged"]:
        connector._first_loop_iter = False  # else the first batch would forget what was logged
    for name, gradient in gathered["gradients"].items():
        module.get_parameter(name).grad = gradient.to(module.device)


def _set_states(metric: Any, states: dict[str, Any], device: torch.device) -> None:
    for name, value in states.items():
        moved = [each.to(device) for each in value] if isinstance(value, list) else value.to(device)
        setattr(metric, name, moved)


def unlogged(trainer: Trainer, at: dict[str, Any], at_end: bool) -> dict[str, Any]:
    """Return the metrics that are yet to be logged when a checkpoint is saved."""
    connector = trainer._logger_connector
    after_batch = at["pending"] and not at["validated"] and connector.should_update_logs
    return connector.metrics["log"] if at_end or after_batch else {}
