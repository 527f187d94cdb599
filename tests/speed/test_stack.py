"""A stack of layers as one operation: what it computes, and when the modules are called instead."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from gpa_lightning import FullyConnectedNetwork
from gpa_lightning.speed import onednn, stack
from gpa_lightning.speed.stack import FastForward, is_stack


@pytest.fixture
def calls(monkeypatch):
    """The arguments of each call of the operation."""
    calls = []
    apply = stack._FullyConnected.apply
    spy = lambda *arguments: calls.append(arguments) or apply(*arguments)  # noqa: E731
    monkeypatch.setattr(stack._FullyConnected, "apply", spy)
    return calls


def layers(hidden_sizes=(64,), dropout=0.0, in_features=9):
    torch.manual_seed(0)
    return FullyConnectedNetwork(in_features, hidden_sizes, dropout).layers


def results(function, modules, x, order=1):
    """The output and the gradients of its squares; with order 2, those of their squares too."""
    torch.manual_seed(1)  # the same dropout
    leaves = [x, *modules.parameters()]
    output = function(x)
    values = output.square().sum()
    for left in reversed(range(order)):
        gradients = torch.autograd.grad(
            values, leaves, create_graph=left > 0, allow_unused=True, materialize_grads=True
        )
        values = sum(gradient.square().sum() for gradient in gradients)
    return [output.detach(), *gradients]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("hidden_sizes", [(), (3,), (64, 32)])
def test_small_layers_are_computed_to_the_same_bits(hidden_sizes, rows, dropout, calls):
    modules = layers(hidden_sizes, dropout)
    x = torch.randn(rows, 9, requires_grad=True)
    ours, usual = results(FastForward(modules), modules, x), results(modules, modules, x)
    assert len(calls) == 1
    for mine, theirs in zip(ours, usual, strict=True):
        assert mine.is_contiguous()
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("hidden_sizes", [(1024, 512, 128), (64, 1024)])
def test_large_layers_are_computed_to_float32s_rounding(hidden_sizes, dropout):
    modules = layers(hidden_sizes, dropout)
    x = torch.randn(500, 9, requires_grad=True)
    ours, usual = results(FastForward(modules), modules, x), results(modules, modules, x)
    for mine, theirs in zip(ours, usual, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * scale)


def in_bfloat16(function):
    """A function whose products are of bfloat16 numbers."""
    return torch.autocast("cpu", dtype=torch.bfloat16)(function)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_small_layers_in_bfloat16_are_computed_to_the_same_bits(dropout, order, calls):
    modules = layers((64, 32), dropout)
    x = torch.randn(100, 9, requires_grad=True)
    ours, usual = (
        results(in_bfloat16(function), modules, x, order)
        for function in (FastForward(modules), modules)
    )
    assert len(calls) == onednn.multiplies_bfloat16()
    assert ours[0].dtype == torch.bfloat16
    for mine, theirs in zip(ours, usual, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs) if order == 1 else close_in_bfloat16(mine, theirs)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("hidden_sizes", [(1024, 512, 128), (64, 1024)])
def test_large_layers_are_computed_to_bfloat16s_rounding(hidden_sizes, dropout):
    modules = layers(hidden_sizes, dropout)
    x = torch.randn(500, 9, requires_grad=True)
    ours, usual = (
        results(in_bfloat16(function), modules, x) for function in (FastForward(modules), modules)
    )
    for mine, theirs in zip(ours, usual, strict=True):
        assert close_in_bfloat16(mine, theirs)


def close_in_bfloat16(ours, theirs):
    """Whether two tensors differ by less than a few roundings to eight bits."""
    return (ours - theirs).abs().max() <= 0.03 * theirs.abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_second_derivatives_are_right(dropout, calls):
    modules = layers((16, 8), dropout)
    x = torch.randn(20, 9, requires_grad=True)
    ours, usual = (
        results(function, modules, x, order=2) for function in (FastForward(modules), modules)
    )
    assert len(calls) == 1
    for mine, theirs in zip(ours, usual, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_only_where_they_are_wanted():
    modules = layers((64, 32))
    for parameter in modules[0].parameters():
        parameter.requires_grad_(False)
    modules[-1].bias.requires_grad_(False)
    x = torch.randn(50, 9)
    FastForward(modules)(x).sum().backward()
    frozen, bias, *others, output_bias = [parameter.grad for parameter in modules.parameters()]
    assert frozen is bias is output_bias is None
    expected = torch.autograd.grad(modules(x).sum(), list(modules.parameters())[2:-1])
    for ours, usual in zip(others, expected, strict=True):
        assert torch.equal(ours, usual)


def test_dropout_rests_in_evaluation():
    modules = layers((64, 32), dropout=0.5)
    x = torch.randn(100, 9)
    assert not torch.equal(FastForward(modules)(x), FastForward(modules)(x))
    modules.eval()
    assert torch.equal(FastForward(modules)(x), modules(x))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def with_own_forward(modules):
    modules.fc1.forward = lambda x: 2 * x @ modules.fc1.weight.T


def with_bias_left_out(modules):
    modules.fc1 = nn.Linear(9, 64, bias=False)


def with_every_unit_dropped(modules):
    output = modules.pop(-1)
    modules.append(nn.Dropout(1))
    modules.append(output)


CHANGES = {
    "tanh": lambda m: setattr(m, "relu1", nn.Tanh()),
    "batch norm": lambda m: setattr(m, "relu1", nn.BatchNorm1d(64)),
    "layer of a subclass": lambda m: setattr(m, "fc1", Doubled(9, 64)),
    "own forward": with_own_forward,
    "no bias": with_bias_left_out,
    "forward hook": lambda m: m.fc1.register_forward_hook(lambda *_: None),
    "pre-hook": lambda m: m.relu1.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.fc2.register_full_backward_hook(lambda *_: None),
    "pruning": lambda m: nn.utils.prune.l1_unstructured(m.fc1, "weight", 0.5),
    "orthogonal": lambda m: nn.utils.parametrizations.orthogonal(m.fc1),
    "spectral norm": lambda m: nn.utils.parametrizations.spectral_norm(m.fc1),
    "weight norm": lambda m: nn.utils.parametrizations.weight_norm(m.fc1),
    "double precision": lambda m: m.double(),
    "no output layer": lambda m: m.pop(-1),
    "a ReLU at the end": lambda m: m.append(nn.ReLU()),
    "dropout of everything": with_every_unit_dropped,
    "layers within layers": lambda m: setattr(m, "relu1", nn.Sequential(nn.ReLU())),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_modules_are_called_one_by_one(change, calls):
    modules = layers()
    assert is_stack(modules)
    change(modules)
    modules.eval()
    assert not is_stack(modules)
    x = torch.randn(5, 9, dtype=next(modules.parameters()).dtype)
    assert torch.equal(FastForward(modules)(x), modules(x))
    assert calls == []


def test_in_other_circumstances_the_modules_are_called_one_by_one(calls, monkeypatch):
    modules = layers()
    fast, x = FastForward(modules), torch.randn(5, 9)
    fast(x[0])  # no batch
    fast(nn.Parameter(x))
    with torch.autocast("cpu", dtype=torch.float16):
        assert fast(x).dtype == torch.float16
    with monkeypatch.context() as patch:  # a processor without such instructions
        patch.setattr(onednn, "multiplies_bfloat16", lambda: False)
        assert in_bfloat16(fast)(x).dtype == torch.bfloat16
    heard = []
    handle = register_module_forward_hook(lambda *_: heard.append("output"))
    fast(x)
    handle.remove()
    assert len(heard) == 3
    with FlopCounterMode(display=False) as counter:
        fast(x)
    assert counter.get_total_flops() == 2 * 5 * (9 * 64 + 64)
    modules.forward = fast
    torch.jit.trace(modules, x, check_trace=False)
    assert calls == []
    fast(x)
    assert len(calls) == 1


def test_transforms_of_torch_func(calls):
    modules = layers()
    fast, x = FastForward(modules), torch.randn(5, 9)
    grads = [torch.func.grad(lambda x, f=f: f(x).sum())(x) for f in (fast, modules)]
    assert torch.equal(*grads)
    rows = [torch.func.vmap(lambda row, f=f: f(row[None])[0])(x) for f in (fast, modules)]
    torch.testing.assert_close(*rows)
    assert calls == []


def test_it_is_copied_and_pickled_with_its_modules():
    modules = layers()
    modules.forward = FastForward(modules)
    for again in (copy.deepcopy(modules), pickle.loads(pickle.dumps(modules))):
        assert again.forward.sequential is again
        x = torch.randn(5, 9)
        assert torch.equal(again(x), modules(x))
        with torch.no_grad():
            again[0].weight.zero_()
        assert not torch.equal(again(x), modules(x))
