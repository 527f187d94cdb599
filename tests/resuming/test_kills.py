"""`kill -9`, and then the same command with `--ckpt_path last`: as if nothing had happened."""

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import PROJECT, Program, run
from runs import long
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRAIN = PROJECT / "scripts/train.py"
KILLED = PROJECT / "tests/killed.py"
COMMON = (
    *("--accelerator", "cpu", "--model.hidden_sizes", "[16,8]", "--model.dropout", "0.2"),
    *("--name", "killed"),
)
PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"
MINI_BATCH = "mini-batch, plateau, early stopping"
CASES = {
    MINI_BATCH: (
        *("--data.batch_size", "25", "--model.learning_rate", "0.1", "--max_epochs", "30"),
        *("--early_stopping.patience", "2", "--lr_scheduler", PLATEAU),
        *("--lr_scheduler.monitor", "val_loss", "--lr_scheduler.patience", "0"),
    ),
    "full batch, cosine": (
        *("--data.batch_size", "full", "--max_epochs", "6", "--early_stopping", "null"),
        *("--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max", "6"),
    ),
    "one step per execution": (
        *(
            "--fast_training.steps_per_execution",
            "1",
            "--data.batch_size",
            "50",
            "--max_epochs",
            "7",
        ),
        *("--optimizer", "SGD", "--optimizer.lr", "0.1", "--optimizer.momentum", "0.9"),
    ),
}
RUN = Path("lightning_logs/version_0-killed")


@dataclass(frozen=True)
class Outcome:
    """Everything that a run leaves behind but how long it took."""

    last: dict
    best: dict
    curves: dict[str, list[tuple[int, float]]]
    picture: bytes
    summary: list[str]

    @classmethod
    def of(cls, folder: Path, output: str) -> "Outcome":
        run = folder / RUN
        last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        (state,) = (s for name, s in last["callbacks"].items() if "ModelCheckpoint" in name)
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        return cls(
            last,
            torch.load(folder / state["best_model_path"], weights_only=True),
            {
                name: [(event.step, event.value) for event in events.Scalars(name)]
                for name in events.Tags()["scalars"]
            },
            (run / "loss_curves.png").read_bytes(),
            [
                line
                for line in output[output.index("Losses") :].splitlines()
                if not line.startswith("time ")
            ],
        )


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Name where two nested values differ, tensors by their bits."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in a | b for d in differences(a.get(key), b.get(key), f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if a == b else [f"{where}: {a!r} is not {b!r}"]


@pytest.fixture(scope="session")
def uninterrupted(table, tmp_path_factory):
    """Run each case once without harm; return how to run it, its outcome and its moments."""
    done = {}

    def get(case: str) -> tuple[list[str], Outcome, list[str]]:
        if case not in done:
            folder = tmp_path_factory.mktemp("uninterrupted")
            command = [str(TRAIN), "--data.path", str(table), *COMMON, *CASES[case]]
            result = run(KILLED, "0", *command, cwd=folder)
            assert result.returncode == 0, result.stderr
            moments = (folder / "moments.txt").read_text().splitlines()
            done[case] = command, Outcome.of(folder, result.stdout), moments
        return done[case]

    return get


def assert_resumed(command: list[str], folder: Path, expected: Outcome) -> None:
    """Go on after a kill; the outcome has to be the expected one."""
    last = folder / RUN / "checkpoints/last.ckpt"
    if last.exists():
        torch.load(last, weights_only=True)
    result = run(*command, "--ckpt_path", "last", cwd=folder)
    if not last.exists():
        assert result.returncode == 2
        assert "no last.ckpt in any run below lightning_logs; start a new run" in result.stderr
        assert result.stderr.count("\n") == 1
        return
    assert result.returncode == 0, result.stderr
    outcome = Outcome.of(folder, result.stdout)
    assert differences(expected.last, outcome.last) == []
    assert differences(expected.best, outcome.best) == []
    assert outcome.curves == expected.curves
    assert outcome.summary == expected.summary
    assert outcome.picture == expected.picture
    assert not list(folder.glob("**/.unfinished*"))


def kill_at(moment: int, command: list[str], folder: Path) -> None:
    elsewhere = {**os.environ, "TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else None
    assert run(KILLED, str(moment), *command, cwd=folder, env=elsewhere).returncode == -9


def number(moments: list[str], text: str, nth: int) -> int:
    """Return the number of the n-th moment with a text, counted from 1, or from the end."""
    found = [i for i, moment in enumerate(moments, start=1) if text in moment]
    return found[nth]


# The rename comes when the new checkpoint is complete and the old one is still in its place. The
# removal of the one before comes when all is saved; then `train_loss` is logged, then the epoch.
@pytest.mark.parametrize(
    ("text", "nth", "later"),
    [
        ("os.rename", -4, 0),
        pytest.param("loss_curves.png", 0, 0, marks=pytest.mark.slow),
        pytest.param("os.remove", 3, 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(text, nth, later, uninterrupted, tmp_path):
    command, expected, moments = uninterrupted(MINI_BATCH)
    kill_at(number(moments, text, nth) + later, command, tmp_path)
    assert_resumed(command, tmp_path, expected)


def test_an_epoch_without_a_better_checkpoint_is_not_lost_either(uninterrupted):
    _, expected, _ = uninterrupted(MINI_BATCH)
    assert expected.best["epoch"] < expected.last["epoch"]
    assert len(expected.curves["train_loss"]) == expected.last["epoch"] + 1


def random_moments(case: str, total: int) -> list[int]:
    return random.Random(case).sample(range(1, total + 1), min(total, long(12)))


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_at_any_moment_goes_on(case, uninterrupted, tmp_path):
    command, expected, moments = uninterrupted(case)
    for moment in random_moments(case, len(moments)):
        folder = tmp_path / str(moment)
        folder.mkdir()
        kill_at(moment, command, folder)
        assert_resumed(command, folder, expected)
        print(f"killed before: {moments[moment - 1]}")


LARGE = ("--model.hidden_sizes", "[1500,1500]", "--max_epochs", "4", "--early_stopping", "null")


def killed_while(process: Program, half_written: Path) -> bool:
    """Kill a process as soon as a checkpoint of its is there in part."""
    while process.poll() is None:
        try:
            sizes = [part.stat().st_size for part in half_written.glob(".unfinished-*/*.ckpt")]
        except FileNotFoundError:  # it has just been renamed
            continue
        if any(sizes):
            process.kill()
            return True
    return False


@pytest.mark.long
def test_a_run_killed_in_the_middle_of_writing_a_checkpoint_goes_on(table, tmp_path):
    command = [str(TRAIN), "--data.path", str(table), *COMMON, *LARGE]
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = Outcome.of(whole, run(*command, cwd=whole).stdout)
    full_size = (whole / RUN / "checkpoints/last.ckpt").stat().st_size
    torn = 0
    for attempt in range(long(8)):
        folder = tmp_path / str(attempt)
        checkpoints = folder / RUN / "checkpoints"
        folder.mkdir()
        process = Program(*command, cwd=folder)
        while attempt % 2 and not (checkpoints / "last.ckpt").exists():  # half of them later
            assert process.poll() is None
        assert killed_while(process, checkpoints)
        process.wait()
        sizes = [part.stat().st_size for part in checkpoints.glob(".unfinished-*/*.ckpt")]
        torn += any(size < full_size for size in sizes)
        assert_resumed(command, folder, expected)
    print(f"{torn} of {long(8)} kills left half a checkpoint behind, under its temporary name")


@pytest.mark.long
def test_a_run_killed_at_any_time_goes_on(uninterrupted, tmp_path):
    command, expected, _ = uninterrupted(MINI_BATCH)
    draw = random.Random(0)
    for attempt in range(long(6)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = Program(*command, cwd=folder)
        while not (folder / RUN / "checkpoints").exists():
            assert process.poll() is None
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_resumed(command, folder, expected)


@pytest.mark.slow
def test_workers_and_steps_per_execution_change_nothing(uninterrupted, tmp_path):
    command, expected, _ = uninterrupted(MINI_BATCH)
    flags = ("--data.num_workers", "2", "--fast_training.steps_per_execution", "1")
    result = run(*command, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    outcome = Outcome.of(tmp_path, result.stdout)
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "random_states"):
        assert differences(expected.last[name], outcome.last[name]) == []
    assert outcome.curves == expected.curves
    # what was changed is in the summary, and nothing else
    found, wanted = (
        [line for line in each.summary if not line.startswith("flags ")]
        for each in (outcome, expected)
    )
    assert found == wanted


@pytest.mark.slow
def test_the_same_command_gives_the_same_run(uninterrupted, tmp_path):
    command, expected, _ = uninterrupted(MINI_BATCH)
    outcome = Outcome.of(tmp_path, run(*command, cwd=tmp_path).stdout)
    assert differences(expected.last, outcome.last) == []
    assert (outcome.curves, outcome.summary) == (expected.curves, expected.summary)
    assert outcome.picture == expected.picture
