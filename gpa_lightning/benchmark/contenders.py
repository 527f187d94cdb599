"""The contenders: this project, the lecture's loop, and what a user would pick instead.

Each trains the lecture's network with Adam, from the same weights (scikit-learn draws its own) and
on the same rows, evaluates the validation MSE after each epoch, and draws no progress bar. Each is
written as its library's documentation would have it, with the options that make it fast where the
library has such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn, optim
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from gpa_lightning.benchmark.task import Measurement, Meter, Task
from gpa_lightning.data.loaders import EVALUATION_ROWS
from gpa_lightning.losses import evaluation_mse
from gpa_lightning.network import FullyConnectedNetwork
from gpa_lightning.speed.denormals import flush_denormals
from gpa_lightning.speed.stack import FastForward


def this_project(
    task: Task, meter: Meter, other_flags: Mapping[str, object] | None = None
) -> Measurement:
    """``scripts/train.py``, its validation, TensorBoard, checkpoints, early stopping and all."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401 - LossCurves would import it while it is timed

    from gpa_lightning.commands.train import TrainCLI

    meter.imported()
    flags = {
        "seed_everything": task.seed,
        "max_epochs": task.epochs,
        "accelerator": task.device,
        "devices": 1,
        "early_stopping.patience": task.epochs,  # it watches, but does not stop
        "progress_bar": "null",
        "trainer.enable_progress_bar": False,
        "trainer.logger.save_dir": task.folder,
        **{f"data.{name}": value for name, value in task.data.items() if value is not None},
        **(other_flags or {}),
    }
    cli = TrainCLI([f"--{name}={value}" for name, value in flags.items()], run=False)
    cli.trainer.callbacks.append(_epoch_clock(meter))  # type: ignore[attr-defined]
    cli.datamodule.setup()
    meter.start()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    x_val, y_val = cli.datamodule.dataset("validation").tensors
    return meter.result(evaluation_mse(cli.model, x_val, y_val))


def _epoch_clock(meter: Meter) -> LambdaCallback:
    # what later callbacks do at the end of an epoch, saving for example, falls to the next
    return LambdaCallback(on_train_epoch_end=lambda trainer, module: meter.epoch_ended())


class LectureNetwork(nn.Module):
    """The network as the lecture writes it ("Defining a Neural Network Architecture")."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 1024)
        self.fc2 = nn.Linear(1024, 512)
        self.fc3 = nn.Linear(512, 128)
        self.fc4 = nn.Linear(128, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Predict, ``(batch, in_features)`` to ``(batch, 1)``."""
        x = self.relu(self.fc1(x))
        x = self.relu(self.fc2(x))
        x = self.relu(self.fc3(x))
        prediction: Tensor = self.fc4(x)
        return prediction


def lecture(task: Task, meter: Meter) -> Measurement:
    """The lecture's loops, mini-batch or full-batch, and its evaluation after each epoch."""
    meter.imported()
    x, y, x_val, y_val = task.split()
    device = torch.device(task.device)
    torch.manual_seed(task.seed)
    net = LectureNetwork(x.shape[1]).to(device)
    optimizer = optim.Adam(net.parameters())
    loss_function = nn.MSELoss()
    x_val, y_val = x_val.to(device), y_val.to(device)

    def mini_batch_epoch() -> None:
        total_loss = 0.0
        for x_batch, y_batch in train_loader:
            x_batch, y_batch = x_batch.to(device), y_batch.to(device)
            optimizer.zero_grad()
            y_pred = net(x_batch)
            loss = loss_function(y_pred, y_batch)
            total_loss += loss.item()
            loss.backward()
            optimizer.step()

    def full_batch_epoch() -> None:
        optimizer.zero_grad()
        y_pred = net(x)
        loss = loss_function(y_pred, y)
        loss.backward()
        optimizer.step()

    if task.data["batch_size"] == "full":
        x, y = x.to(device), y.to(device)
        train_epoch = full_batch_epoch
    else:
        batch_size = task.batch_size(len(x))
        train_loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
        train_epoch = mini_batch_epoch

    meter.start()
    for _ in range(task.epochs):
        train_epoch()
        with torch.no_grad():
            val_loss = loss_function(net(x_val), y_val).item()
        meter.epoch_ended()
    return meter.result(val_loss)


class TextbookRegressor(LightningModule):
    """The lecture's network as Lightning's tutorials wrap one."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.network = LectureNetwork(in_features)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Compute the loss and log its mean over the epoch."""
        x, y = batch
        loss = mse_loss(self.network(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", mse_loss(self.network(x), y))

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.Adam(self.parameters())


def textbook_lightning(task: Task, meter: Meter) -> Measurement:
    """Lightning with TensorDatasets, default Adam, and a `self.log` each step."""
    meter.imported()
    x, y, x_val, y_val = task.split()
    train_loader = DataLoader(TensorDataset(x, y), task.batch_size(len(x)), shuffle=True)
    val_loader = DataLoader(TensorDataset(x_val, y_val), EVALUATION_ROWS)
    torch.manual_seed(task.seed)
    model = TextbookRegressor(x.shape[1])
    trainer = Trainer(
        accelerator=task.device,
        devices=1,
        max_epochs=task.epochs,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        default_root_dir=task.folder,
        callbacks=[_epoch_clock(meter)],
    )
    meter.start()
    trainer.fit(model, train_loader, val_loader)
    return meter.result(evaluation_mse(model.network, x_val, y_val))


def plain_pytorch(task: Task, meter: Meter) -> Measurement:
    """A loop without a framework that does all that makes this project fast."""
    meter.imported()
    x, y, x_val, y_val = (tensor.to(task.device) for tensor in task.split())
    batch_size = task.batch_size(len(x))
    flush_denormals(True)
    torch.manual_seed(task.seed)
    network = FullyConnectedNetwork(x.shape[1]).to(task.device)
    network.layers.forward = FastForward(network.layers)  # type: ignore[method-assign]
    optimizer = optim.Adam(network.parameters(), fused=True)
    loss_function = nn.MSELoss()
    meter.start()
    for _ in range(task.epochs):
        loss_sum = torch.zeros((), device=task.device)
        for rows in torch.split(torch.randperm(len(x), device=task.device), batch_size):
            loss = loss_function(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(rows)
        val_loss = evaluation_mse(network, x_val, y_val)
        meter.epoch_ended()
    return meter.result(val_loss)


def skorch(task: Task, meter: Meter) -> Measurement:
    """Train with skorch's `NeuralNetRegressor`."""
    from skorch import NeuralNetRegressor
    from skorch.callbacks import Callback as SkorchCallback
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    class Clock(SkorchCallback):  # type: ignore[misc]  # skorch has no types
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            meter.epoch_ended()

    meter.imported()
    x, y, x_val, y_val = task.split()
    net = NeuralNetRegressor(
        LectureNetwork,
        module__in_features=x.shape[1],
        optimizer=optim.Adam,
        lr=1e-3,
        max_epochs=task.epochs,
        batch_size=task.batch_size(len(x)),
        iterator_train__shuffle=True,
        iterator_valid__batch_size=EVALUATION_ROWS,
        train_split=predefined_split(Dataset(x_val.numpy(), y_val.numpy())),
        callbacks=[Clock()],
        verbose=0,
        device=task.device,
    )
    torch.manual_seed(task.seed)
    meter.start()
    net.fit(x.numpy(), y.numpy())
    return meter.result(evaluation_mse(net.module_, x_val, y_val))


def scikit_learn(task: Task, meter: Meter) -> Measurement:
    """scikit-learn's `MLPRegressor`, one `partial_fit` an epoch."""
    from sklearn.metrics import mean_squared_error
    from sklearn.neural_network import MLPRegressor

    meter.imported()
    x, y, x_val, y_val = (tensor.numpy() for tensor in task.split())
    model = MLPRegressor(
        hidden_layer_sizes=(1024, 512, 128),
        alpha=0.0,
        batch_size=task.batch_size(len(x)),
        # a seed would shuffle each epoch alike
        random_state=np.random.RandomState(task.seed),
    )
    meter.start()
    for _ in range(task.epochs):
        model.partial_fit(x, y.ravel())
        val_loss = mean_squared_error(y_val, model.predict(x_val))
        meter.epoch_ended()
    return meter.result(float(val_loss))


def _initial_weights(task: Task, in_features: int) -> list[Any]:
    """Return PyTorch's initial weights: ``(inputs, outputs)`` and ``(outputs,)`` of each layer."""
    torch.manual_seed(task.seed)
    return [p.detach().numpy().T for p in FullyConnectedNetwork(in_features).parameters()]


def _jax_device_memory(task: Task) -> int:
    import jax

    return int(jax.devices()[0].memory_stats()["peak_bytes_in_use"]) if task.device == "cuda" else 0


def keras(task: Task, meter: Meter) -> Measurement:
    """Keras on JAX, several steps per execution."""
    import keras

    meter.imported()
    x, y, x_val, y_val = (tensor.numpy() for tensor in task.split())
    weights = _initial_weights(task, x.shape[1])
    *hidden, output = [bias.size for bias in weights[1::2]]
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(output)])
    model.set_weights(weights)
    keras.utils.set_random_seed(task.seed)
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), "mse", steps_per_execution=32)
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: meter.epoch_ended())
    meter.start()
    model.fit(
        x,
        y,
        batch_size=task.batch_size(len(x)),
        epochs=task.epochs,
        validation_data=(x_val, y_val),
        validation_batch_size=EVALUATION_ROWS,
        callbacks=[clock],
        verbose=0,
    )
    val_loss = model.evaluate(x_val, y_val, batch_size=EVALUATION_ROWS, verbose=0)
    return meter.result(float(val_loss), _jax_device_memory(task))


def jax_scan(task: Task, meter: Meter) -> Measurement:
    """JAX, an epoch and its validation compiled into one function."""
    import jax
    import jax.numpy as jnp
    import optax

    meter.imported()
    x, y, x_val, y_val = (jnp.asarray(tensor.numpy()) for tensor in task.split())
    weights = _initial_weights(task, x.shape[1])
    arrays = [jnp.asarray(weight) for weight in weights]
    layers = list(zip(arrays[::2], arrays[1::2], strict=True))
    adam = optax.adam(1e-3)

    def mse(layers: Any, x: Any, y: Any) -> Any:
        *hidden, (weight, bias) = layers
        for hidden_weight, hidden_bias in hidden:
            x = jax.nn.relu(x @ hidden_weight + hidden_bias)
        return jnp.mean((x @ weight + bias - y) ** 2)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, x: Any, y: Any, x_val: Any, y_val: Any, batches: Any, rest: Any) -> Any:
        def step(state: Any, rows: Any) -> Any:
            layers, moments = state
            loss, gradient = jax.value_and_grad(mse)(layers, x[rows], y[rows])
            updates, moments = adam.update(gradient, moments)
            return (optax.apply_updates(layers, updates), moments), loss * len(rows)

        state, losses = jax.lax.scan(step, state, batches)
        loss_sum = losses.sum()
        if len(rest):
            state, loss = step(state, rest)
            loss_sum += loss
        return state, loss_sum / len(x), mse(state[0], x_val, y_val)

    state = layers, adam.init(layers)
    batch_size = task.batch_size(len(x))
    in_batches = len(x) // batch_size * batch_size
    generator = np.random.default_rng(task.seed)
    meter.start()
    for _ in range(task.epochs):
        order = generator.permutation(len(x))
        batches = order[:in_batches].reshape(-1, batch_size)
        state, _, val_loss = epoch(state, x, y, x_val, y_val, batches, order[in_batches:])
        val_loss.block_until_ready()
        meter.epoch_ended()
    return meter.result(float(val_loss), _jax_device_memory(task))


@dataclass(frozen=True)
class Contender:
    """A way to do a task.

    Args:
        title: Name in tables.
        run: Function that does the task and returns what the meter measured.
        validates: Whether the library evaluates the validation set by itself.
        packages: Packages that it needs besides this project's own requirements.
        full_batch: Whether it also takes part in full-batch training by default.
        gpu: Whether it can train on a GPU.
    """

    title: str
    run: Callable[[Task, Meter], Measurement]
    validates: bool = False
    packages: tuple[str, ...] = ()
    full_batch: bool = False
    gpu: bool = True


CONTENDERS = {
    "this-project": Contender("this project", this_project, validates=True, full_batch=True),
    "lecture": Contender("the lecture's loop", lecture, full_batch=True),
    "textbook-lightning": Contender("textbook Lightning", textbook_lightning, validates=True),
    "plain-pytorch": Contender("plain PyTorch, same tricks", plain_pytorch),
    "skorch": Contender("skorch", skorch, validates=True, packages=("skorch",)),
    "scikit-learn": Contender("scikit-learn MLPRegressor", scikit_learn, gpu=False),
    "keras": Contender("Keras on JAX", keras, validates=True, packages=("keras", "jax")),
    "jax": Contender("JAX lax.scan", jax_scan, packages=("jax", "optax")),
}
