"""Each callback, logger, strategy, precision, profiler, plugin and flag that Lightning ships.

The lists are Lightning's own, so that a class that comes with a later version is tried too. Each
either trains, or is refused in one line: for a package or a device that is not there, or for what
it cannot do with this network.
"""

import inspect
from pathlib import Path

import pytest
import torch
from lightning.fabric.connector import _PRECISION_INPUT_STR
from lightning.pytorch import Trainer, callbacks, loggers, plugins, profilers
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from runs import run_folder

from gpa_lightning.commands.train import train

pytestmark = pytest.mark.slow


def classes(module):
    return sorted({n for n in module.__all__ if inspect.isclass(getattr(module, n))})


def arguments(prefix, **values):
    return [f"{prefix}.{name}={value}" for name, value in values.items()]


# what a class cannot be built without
NEEDED = {
    "EarlyStopping": {"monitor": "val_rmse"},
    "GradientAccumulationScheduler": {"scheduling": "{1: 2}"},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "further"},
    "StochasticWeightAveraging": {"swa_lrs": "0.01"},
    "ThroughputMonitor": {"batch_size_fn": "builtins.len"},
    "BatchSizeFinder": {"max_trials": "3"},
    "LearningRateFinder": {"num_training_steps": "20"},
    "BitsandbytesPrecision": {"mode": "nf4"},
    "DeepSpeedPrecision": {"precision": "32-true"},
    "FSDPPrecision": {"precision": "32-true"},
    "MixedPrecision": {"precision": "bf16-mixed", "device": "cpu"},
    "TransformerEnginePrecision": {"weights_dtype": "torch.float32"},
}
# what is refused with a word of these, and why
REFUSED = {
    "BackboneFinetuning": "backbone",  # which the network does not have
    "BaseFinetuning": "NotImplementedError",  # to be derived from
    "Checkpoint": None,
    "SpikeDetection": "'SpikeDetection' object",  # saves no checkpoint, a bug of Lightning's
    "Timer": "Timer",  # has no form in YAML; --trainer.max_time is the flag
    "ProgressBar": "--progress_bar",
    "RichProgressBar": "--progress_bar",
    "TQDMProgressBar": "--progress_bar",
    "CometLogger": "comet-ml",
    "MLFlowLogger": "mlflow",
    "WandbLogger": "wandb",
    "LitLogger": "LitLogger",
    "Logger": "abstract",
    "Profiler": "`profiler`",
    "CheckpointIO": "abstract",
    "LayerSync": "abstract",
    "XLAProfiler": "torch_xla",
    "XLACheckpointIO": "torch_xla",
    "XLAPrecision": "torch_xla",
    "BitsandbytesPrecision": "bitsandbytes",
    "DeepSpeedPrecision": "no attribute 'step'",
    "TransformerEnginePrecision": "transformer_engine",
    "HalfPrecision": "not finite",  # Adam's epsilon is 0 in float16
    "16-true": "not finite",
    "transformer-engine": "transformer_engine",
    "transformer-engine-float16": "transformer_engine",
}
REFUSED |= dict.fromkeys(StrategyRegistry.available_strategies()) | dict.fromkeys(
    AcceleratorRegistry.available_accelerators()
)
RUNS = ("cpu", "auto", "ddp", "single_device", "ddp_find_unused_parameters_true")
RUNS += ("ddp_find_unused_parameters_false",)

# some values of each flag of the Trainer's; those in the second list are mistakes
FLAGS = {
    "accelerator": (["auto", "cpu"], ["nonsense"]),
    "strategy": (["auto"], ["nonsense"]),
    "devices": (["1", "auto"], ["0", "nonsense"]),
    "num_nodes": (["1"], ["nonsense"]),
    "precision": (["32"], ["nonsense"]),
    "logger": (["false", "true"], ["nonsense"]),
    "callbacks": (["null"], ["nonsense"]),
    "fast_dev_run": (["true", "3", "0"], ["-1"]),
    "max_epochs": (["0", "1"], ["-2"]),
    "min_epochs": (["3"], ["nonsense"]),
    "max_steps": (["0", "3", "9", "-1"], ["-2"]),
    "min_steps": (["10"], ["nonsense"]),
    "max_time": (["00:00:00:00", "{seconds: 30}"], ["nonsense"]),
    "limit_train_batches": (["0", "0.5", "3"], ["-1", "1.5", "0.01"]),
    "limit_val_batches": (["0", "1"], ["-1", "0.01"]),
    "limit_test_batches": (["0", "1"], ["-1"]),
    "limit_predict_batches": (["0", "1"], ["-1"]),
    "overfit_batches": (["0", "2", "99"], ["-1", "0.01"]),
    "val_check_interval": (["0.25", "2", "00:00:00:30"], ["0", "-1", "1.5", "30"]),
    "check_val_every_n_epoch": (["2", "5", "null"], ["0", "-1"]),
    "num_sanity_val_steps": (["0", "2", "-1"], ["nonsense"]),
    "log_every_n_steps": (["0", "1"], ["nonsense"]),
    "enable_checkpointing": (["true", "false"], ["nonsense"]),
    "enable_progress_bar": (["true", "false"], ["nonsense"]),
    "enable_model_summary": (["true", "false"], ["nonsense"]),
    "accumulate_grad_batches": (["3"], ["0", "-1"]),
    "gradient_clip_val": (["0.1"], ["nonsense"]),
    "gradient_clip_algorithm": (["norm", "value"], ["nonsense"]),
    "deterministic": (["true", "warn"], ["nonsense"]),
    "benchmark": (["true"], ["nonsense"]),
    "inference_mode": (["false"], ["nonsense"]),
    "use_distributed_sampler": (["false"], ["nonsense"]),
    "profiler": (["simple", "advanced", "pytorch"], ["nonsense", "xla"]),
    "detect_anomaly": (["true"], ["nonsense"]),
    "barebones": (["true"], ["nonsense"]),
    "plugins": (["null"], ["nonsense"]),
    "sync_batchnorm": (["true"], ["nonsense"]),
    "reload_dataloaders_every_n_epochs": (["1"], ["-1"]),
    "default_root_dir": (["elsewhere"], []),
    "enable_autolog_hparams": (["false"], ["nonsense"]),
    "model_registry": (["name"], []),
}
# the values that may not change what is trained
SAME = {
    *("inference_mode", "detect_anomaly", "deterministic", "benchmark", "profiler", "logger"),
    *("log_every_n_steps", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs"),
    *("enable_progress_bar", "enable_model_summary", "sync_batchnorm", "default_root_dir"),
    *("use_distributed_sampler", "min_epochs", "min_steps", "devices", "accelerator", "strategy"),
}
SMALL = ["--model.hidden_sizes", "[16,8]", "--accelerator", "cpu", "--max_epochs", "2"]


def small(table):
    return ["--data.path", str(table), "--data.batch_size", "50", *SMALL]


@pytest.fixture
def run(table, workplace, capsys):
    """Train with flags; return the exit code, and what went wrong."""

    def once(*flags):
        code = train([*small(table), *flags])
        error = capsys.readouterr().err
        if code:
            assert code == 2
            (last,) = [line for line in error.splitlines() if line.startswith("error: ")]
            return last
        assert "error" not in error
        return ""

    return once


def as_expected(name, error):
    if name not in REFUSED or name in RUNS:
        assert error == ""
    elif REFUSED[name] is not None:
        assert REFUSED[name] in error


def kinds():
    for module, flag in (
        (callbacks, "--trainer.callbacks+"),
        (loggers, "--trainer.logger"),
        (profilers, "--trainer.profiler"),
        (plugins, "--trainer.plugins"),
    ):
        for name in classes(module):
            yield pytest.param(module, flag, name, id=f"{flag.rstrip('+')}-{name}")


@pytest.mark.parametrize(("module", "flag", "name"), kinds())
def test_a_class(module, flag, name, run):
    prefix = flag.rstrip("+")
    given = [f"{flag}={module.__name__}.{name}", *arguments(prefix, **NEEDED.get(name, {}))]
    as_expected(name, run(*given))


@pytest.mark.parametrize("name", sorted(StrategyRegistry.available_strategies()))
def test_a_strategy(name, run):
    error = run("--strategy", name)
    as_expected(name, error)
    assert name in RUNS or error


@pytest.mark.parametrize("name", sorted(AcceleratorRegistry.available_accelerators()))
def test_an_accelerator(name, run):
    as_expected(name, run("--accelerator", name))


@pytest.mark.parametrize("name", _PRECISION_INPUT_STR.__args__)
def test_a_precision(name, run):
    as_expected(name, run("--precision", name))


def test_every_flag_of_the_trainer_is_tried():
    assert set(inspect.signature(Trainer).parameters) == set(FLAGS)


def weights(version, within=Path()):
    path = run_folder(version, within) / "checkpoints/last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"] if path.is_file() else None


@pytest.fixture(scope="module")
def usual(table, tmp_path_factory):
    """The weights that a run has which is given no flag of these."""
    folder = tmp_path_factory.mktemp("usual")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(small(table)) == 0
    return weights(0, folder)


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, (right, _) in FLAGS.items() for value in right]
)
def test_a_flag_gives_what_plain_lightning_gives(flag, value, run, usual):
    given = (f"--trainer.{flag}", value)
    assert run(*given) == ""
    assert run(*given, "--fast_training", "null") == ""
    ours, theirs = weights(0), weights(1)
    assert (ours is None) == (theirs is None)
    for name in ours or ():
        assert torch.equal(ours[name], theirs[name]), name
    if flag in SAME and ours:
        assert all(torch.equal(weight, usual[name]) for name, weight in ours.items())


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, (_, wrong) in FLAGS.items() for value in wrong]
)
def test_a_mistake_in_a_flag_is_named(flag, value, run):
    error = run(f"--trainer.{flag}", value)
    assert value in error or flag in error
