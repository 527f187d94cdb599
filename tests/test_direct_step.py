import copy

import pytest
import torch
from lightning.pytorch import Callback
from runs import fit
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import SGD, Adam, AdamW
from torch.optim.optimizer import register_optimizer_step_post_hook

from gpa_lightning import FullyConnectedNetwork, GPADataModule, GPARegressor
from gpa_lightning.speed import onednn
from gpa_lightning.speed.cuda_graph import StepGraph
from gpa_lightning.speed.direct_step import DirectStep

pytestmark = pytest.mark.skipif(
    not onednn.is_available(), reason="this build of PyTorch has no oneDNN"
)


def batches(number, rows=100):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, 9, generator=generator), torch.randn(rows, 1, generator=generator))
        for _ in range(number)
    ]


def begun(hidden_sizes=(64, 32), dropout=0.0, make=Adam, **settings):
    """A network and its optimiser, a step into the training."""
    torch.manual_seed(0)
    network = FullyConnectedNetwork(9, hidden_sizes, dropout)
    optimizer = make(network.parameters(), **{"fused": True, **settings})
    ordinary_step(network, optimizer, *batches(1)[0])
    return network, optimizer


def ordinary_step(network, optimizer, x, y):
    loss = mse_loss(network(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def direct_step_of(network, optimizer, most_rows=1000, note_loss=lambda *loss: None):
    return DirectStep.of(network, optimizer, most_rows, note_loss, StepGraph())


def by_layer(parameters, **settings):
    """A group of its own for each parameter, in another order than the network's."""
    groups = [{"params": [each], "lr": 0.001 * n} for n, each in enumerate(parameters, start=1)]
    return Adam(groups[::-1], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_sizes": ()},
        {"hidden_sizes": (1024, 512, 128)},
        {"dropout": 0.4},
        {"weight_decay": 0.1, "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-5},
        {"make": AdamW, "weight_decay": 0.1},
        {"maximize": True},
        {"make": by_layer},
    ],
)
def test_weights_gradients_losses_and_states_are_those_of_ordinary_steps(settings):
    network, optimizer = begun(**settings)
    their_network = copy.deepcopy(network)
    their_optimizer = settings.get("make", Adam)(their_network.parameters(), fused=True)
    their_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    losses, their_losses = [], []
    data = [*batches(5), *batches(1, rows=7)]

    torch.manual_seed(2)
    direct = direct_step_of(network, optimizer, 100, lambda *loss: losses.append(loss))
    for x, y in data:
        optimizer.param_groups[0]["lr"] *= 1.1  # as a schedule does
        assert direct([x, y])
    torch.manual_seed(2)
    for x, y in data:
        their_optimizer.param_groups[0]["lr"] *= 1.1
        their_losses.append((ordinary_step(their_network, their_optimizer, x, y), len(x)))

    assert losses == their_losses
    for ours, theirs in zip(network.parameters(), their_network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)
        assert not ours.grad.requires_grad
        for name, value in their_optimizer.state[theirs].items():
            assert torch.equal(optimizer.state[ours][name], value), name


def hook_layer(network, optimizer):
    network.layers[0].register_forward_hook(lambda *_: None)


def hook_network(network, optimizer):
    network.register_forward_pre_hook(lambda *_: None)


def hook_gradients(network, optimizer):
    network.layers[2].register_full_backward_hook(lambda *_: None)


def hook_weight(network, optimizer):
    network.layers[0].weight.register_hook(lambda gradient: gradient)


def hook_accumulated_gradient(network, optimizer):
    network.layers[0].weight.register_post_accumulate_grad_hook(lambda weight: None)


def hook_optimizer(network, optimizer):
    optimizer.register_step_pre_hook(lambda *_: None)


def freeze(network, optimizer):
    network.layers[0].weight.requires_grad_(False)


def prune(network, optimizer):
    nn.utils.prune.l1_unstructured(network.layers[0], "weight", amount=0.5)


def forget_state(network, optimizer):
    optimizer.state.clear()


def leave_one_out(network, optimizer):
    optimizer.param_groups[0]["params"].pop()


@pytest.mark.parametrize(
    "change",
    [
        hook_layer,
        hook_network,
        hook_gradients,
        hook_weight,
        hook_accumulated_gradient,
        hook_optimizer,
        freeze,
        prune,
        forget_state,
        leave_one_out,
    ],
)
def test_none_where_something_else_is_to_happen_too(change):
    network, optimizer = begun()
    assert direct_step_of(network, optimizer) is not None
    change(network, optimizer)
    assert direct_step_of(network, optimizer) is None


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (SGD, {}),
        (Adam, {"fused": False}),
        (Adam, {"amsgrad": True}),
        (Adam, {"lr": torch.tensor(1e-3)}),
        (type("AdamOfTheUsers", (Adam,), {}), {}),
    ],
)
def test_none_for_other_optimizers(make, settings):
    assert direct_step_of(*begun(make=make, **settings)) is None


def test_none_for_other_networks_and_in_other_circumstances():
    network, optimizer = begun()
    assert direct_step_of(network.layers, optimizer) is None
    with torch.autocast("cpu"):
        assert direct_step_of(network, optimizer) is None
    with torch.autograd.set_detect_anomaly(True):
        assert direct_step_of(network, optimizer) is None
    for register in (register_module_forward_hook, register_optimizer_step_post_hook):
        handle = register(lambda *_: None)
        assert direct_step_of(network, optimizer) is None
        handle.remove()
    assert direct_step_of(network, optimizer) is not None


def test_other_batches_are_left_alone():
    network, optimizer = begun()
    before = [weight.clone() for weight in network.parameters()]
    direct = direct_step_of(network, optimizer, most_rows=50)
    x, y = torch.randn(50, 9), torch.randn(50, 1)
    others = [
        (x.double(), y),
        (x, y.double()),
        (x[0], y[0]),
        (x, y[:, 0]),
        (x[:0], y[:0]),
        (torch.randn(51, 9), torch.randn(51, 1)),
    ]
    assert [direct(batch) for batch in others] == [False] * len(others)
    for weight, old in zip(network.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    assert direct((x, y))


class Doubled(GPARegressor):
    def training_step(self, batch, batch_idx):
        return 2 * super().training_step(batch, batch_idx)


class HooksIn(Callback):
    def on_train_start(self, trainer, pl_module):
        pl_module.network.layers[0].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("model_class", "model", "callbacks", "data", "expected"),
    [
        (GPARegressor, {}, [], {}, 24),  # of 28: a round's first step is Lightning's
        (GPARegressor, {"dropout": 0.5}, [], {}, 24),
        (GPARegressor, {"penalty": "l2"}, [], {}, 0),
        (GPARegressor, {}, [HooksIn()], {}, 0),
        (GPARegressor, {}, [], {"batch_size": "full"}, 0),
        (Doubled, {}, [], {}, 0),
    ],
)
def test_a_fit_takes_them_where_it_can(
    table, monkeypatch, model_class, model, callbacks, data, expected
):
    taken = []
    original = DirectStep.__call__
    monkeypatch.setattr(
        DirectStep, "__call__", lambda step, batch: taken.append(original(step, batch)) or taken[-1]
    )
    regressor = model_class(hidden_sizes=(16, 8), steps_per_execution=8, **model)
    module = GPADataModule(path=str(table), **{"batch_size": 25, "val_size": 0.2, **data})
    trainer = fit(regressor, module, *callbacks)
    assert sum(taken) == expected
    assert trainer.global_step == (2 if data else 28)
