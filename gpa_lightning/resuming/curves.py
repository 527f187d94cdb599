"""TensorBoard's curves of a run that goes on from a checkpoint."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger


def resume_curves(
    logger: TensorBoardLogger, step: int, saved_at: float, unlogged: dict[str, float], epoch: int
) -> None:
    """Hide from TensorBoard what was logged after a checkpoint, and log what was not, but before.

    The event that TensorBoard knows a restart by hides every point from its step on, so the points
    of the checkpoint's own step are logged again if they are older than the checkpoint.

    Args:
        logger: Logger of the run that goes on.
        step: Last step before the checkpoint.
        saved_at: Time at which the checkpoint was saved, in seconds as `time.time` counts them.
        unlogged: Values of this step that were yet to be logged.
        epoch: Epoch of these values.
    """
    # slow to import, and needed only here
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    curves = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    logged = {
        name: point.value
        for name in curves.Tags()["scalars"]
        for point in curves.Scalars(name)
        if point.step == step and point.wall_time <= saved_at
    }
    start = SessionLog(status=SessionLog.START)
    logger.experiment.file_writer.add_event(Event(step=max(step, 0), session_log=start))
    for writer in getattr(logger, "writers", {}).values():  # of curves by epochs
        writer.file_writer.add_event(Event(step=epoch, session_log=start))
    for values in (logged, unlogged):
        if values:
            logger.log_metrics({**values, "epoch": epoch}, step)
    logger.experiment.flush()
