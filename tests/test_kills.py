"""`kill -9`, and then the same command with `--ckpt_path last`: as if nothing had happened."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from runs import PROJECT, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRAIN = PROJECT / "scripts/train.py"
KILLED = PROJECT / "tests/killed.py"
COMMON = ("--accelerator", "cpu", "--model.hidden_sizes", "[16,8]", "--model.dropout", "0.2")
PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"
CASES = {
    "mini-batch with early stopping": (
        *("--data.batch_size", "25", "--model.learning_rate", "0.1", "--max_epochs", "30"),
        *("--early_stopping.patience", "2"),
    ),
    "full batch with a schedule": (
        *("--data.batch_size", "full", "--max_epochs", "6", "--early_stopping", "null"),
        *("--lr_scheduler", "CosineAnnealingLR", "--lr_scheduler.T_max", "6"),
    ),
    "a step a round with a plateau": (
        *("--model.steps_per_execution", "1", "--data.batch_size", "50", "--max_epochs", "7"),
        *("--optimizer", "SGD", "--optimizer.lr", "0.5", "--lr_scheduler", PLATEAU),
        *("--lr_scheduler.monitor", "val_loss", "--lr_scheduler.patience", "0"),
    ),
}
RUN = Path("lightning_logs/version_0")


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


# the rename comes when the new checkpoint is complete and the old one is still in its place
@pytest.mark.parametrize(
    ("case", "text", "nth"),
    [
        ("mini-batch with early stopping", "os.rename", -1),
        ("full batch with a schedule", "os.remove", -2),
        ("a step a round with a plateau", "events.out", -20),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(case, text, nth, uninterrupted, tmp_path):
    command, expected, moments = uninterrupted(case)
    kill_at(number(moments, text, nth), command, tmp_path)
    assert_resumed(command, tmp_path, expected)


def test_an_epoch_without_a_better_checkpoint_is_not_lost_either(uninterrupted):
    _, expected, _ = uninterrupted("mini-batch with early stopping")
    assert expected.best["epoch"] < expected.last["epoch"]
    assert len(expected.curves["train_loss"]) == expected.last["epoch"] + 1
