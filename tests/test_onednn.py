import pytest
import torch
from torch import nn

from gpa_lightning import FullyConnectedNetwork
from gpa_lightning.speed import onednn

needs_onednn = pytest.mark.skipif(
    not onednn.is_available(), reason="this build of PyTorch has no oneDNN"
)


@pytest.fixture
def calls(monkeypatch):
    """Which layers the function has computed."""
    calls = []
    original = onednn.fully_connected

    def spy(x, layers, dropout=0.0):
        calls.append(len(layers))
        return original(x, layers, dropout)

    monkeypatch.setattr(onednn, "fully_connected", spy)
    return calls


@needs_onednn
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 100, 1000])
@pytest.mark.parametrize("hidden_sizes", [(), (3,), (1024, 512, 128), (64, 1024)])
def test_output_and_gradients_are_those_of_the_modules(hidden_sizes, rows, dropout, calls):
    torch.manual_seed(0)
    network = FullyConnectedNetwork(9, hidden_sizes, dropout)
    x = torch.randn(rows, 9, requires_grad=True)
    results = []
    for function in (network, network.layers):
        torch.manual_seed(1)  # the same dropout
        output = function(x)
        leaves = [x, *network.parameters()]
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    assert calls == [len(hidden_sizes) + 1]
    for ours, usual in zip(*results, strict=True):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-5 * usual.abs().max().item())


@needs_onednn
def test_gradients_only_where_they_are_wanted():
    torch.manual_seed(0)
    network = FullyConnectedNetwork(9, (64, 32))
    for parameter in network.layers[0].parameters():
        parameter.requires_grad_(False)
    x = torch.randn(50, 9)
    network(x).sum().backward()
    frozen, *others = [parameter.grad for parameter in network.parameters()]
    assert frozen is None
    expected = torch.autograd.grad(network.layers(x).sum(), list(network.parameters())[2:])
    assert others[0] is None
    for ours, usual in zip(others[1:], expected, strict=True):
        torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_where_it_does_not_apply_the_modules_are_called(calls):
    network = FullyConnectedNetwork(9, (64,))
    network(torch.randn(5, 9))
    assert len(calls) == 1
    network(torch.randn(9))  # no batch
    with torch.autocast("cpu"):
        network(torch.randn(5, 9))
    network.double()(torch.randn(5, 9).double())
    torch.jit.trace(network.float(), torch.randn(5, 9), check_trace=False)
    assert len(calls) == 1


@needs_onednn
def test_hooks_on_layers_are_heard(calls):
    network = FullyConnectedNetwork(9, (64,))
    heard = []
    handle = network.layers[0].register_forward_hook(lambda *_: heard.append("output"))
    network(torch.randn(5, 9))
    assert heard == ["output"]
    handle.remove()
    nn.utils.prune.l1_unstructured(network.layers[0], "weight", amount=0.5)
    network(torch.randn(5, 9)).sum().backward()
    pruned = network.layers[0].weight_mask == 0
    assert (network.layers[0].weight_orig.grad[pruned] == 0).all()
    assert calls == []


def test_dropout_rests_in_evaluation():
    network = FullyConnectedNetwork(9, (1024, 512), dropout=0.5).eval()
    x = torch.randn(100, 9)
    torch.testing.assert_close(network(x), network.layers(x), rtol=1e-4, atol=1e-5)
