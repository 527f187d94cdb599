"""A fused Adam's kernel called directly: to the same bits, where nothing else is to happen."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.optimizer import register_optimizer_step_post_hook

from gpa_lightning import FullyConnectedNetwork
from gpa_lightning.speed.fused_adam import FusedAdam, supports


def begun(make=Adam, **settings):
    """A network, and its optimiser after a step."""
    torch.manual_seed(0)
    network = FullyConnectedNetwork(9, (16, 8))
    optimizer = make(network.parameters(), **{"fused": True, **settings})
    backward(network)
    optimizer.step()
    return network, optimizer


def backward(network):
    for parameter in network.parameters():
        parameter.grad = None
    network(torch.randn(20, 9)).square().mean().backward()


def by_layer(parameters, **settings):
    """A group of its own for each parameter, in another order than the network's."""
    groups = [{"params": [each], "lr": 0.001 * n} for n, each in enumerate(parameters, start=1)]
    return Adam(groups[::-1], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1, "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-5},
        {"make": AdamW, "weight_decay": 0.1},
        {"maximize": True},
        {"make": by_layer},
    ],
)
def test_weights_and_states_are_those_of_ordinary_steps(settings):
    networks, optimizers = zip(*[begun(**settings) for _ in range(2)], strict=True)
    direct = FusedAdam(optimizers[0])
    for step, network, optimizer in zip(
        (direct.step, optimizers[1].step), networks, optimizers, strict=True
    ):
        torch.manual_seed(1)
        for _ in range(5):
            optimizer.param_groups[0]["lr"] *= 1.1  # as a schedule does
            backward(network)
            step()
    for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(ours, theirs)
        for name, value in optimizers[1].state[theirs].items():
            assert torch.equal(optimizers[0].state[ours][name], value), name


def test_a_weight_without_gradient_is_passed_over():
    networks, optimizers = zip(*[begun() for _ in range(2)], strict=True)
    before = copy.deepcopy(networks[0].layers.fc1.weight)
    for network in networks:
        torch.manual_seed(1)
        backward(network)
        network.layers.fc1.weight.grad = None
    FusedAdam(optimizers[0]).step()
    optimizers[1].step()
    assert torch.equal(networks[0].layers.fc1.weight, before)
    for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (SGD, {}),
        (Adam, {"fused": False}),
        (Adam, {"fused": None}),
        (Adam, {"amsgrad": True}),
        (Adam, {"lr": torch.tensor(1e-3)}),
        (type("AdamOfTheUsers", (Adam,), {}), {}),
    ],
)
def test_other_optimizers_are_left_alone(make, settings):
    assert not supports(begun(make, **settings)[1])


def test_what_else_is_to_happen_at_a_step_happens():
    _, optimizer = begun()
    assert supports(optimizer)
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
        register_optimizer_step_post_hook,
    ):
        handle = register(lambda *_: None)
        assert not supports(optimizer)
        handle.remove()
    assert supports(optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})  # has no state yet
    assert not supports(optimizer)
