import pytest
import torch

from gpa_lightning import FullyConnectedNetwork


def test_the_default_is_the_lectures_network():
    network = FullyConnectedNetwork()
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes == [(1024, 9), (1024,), (512, 1024), (512,), (128, 512), (128,), (1, 128), (1,)]
    assert sum(parameter.numel() for parameter in network.parameters()) == 600_833


def test_relu_stands_after_each_hidden_layer_and_not_after_the_output():
    torch.manual_seed(0)
    network = FullyConnectedNetwork(in_features=3, hidden_sizes=(5, 4))
    x = torch.randn(64, 3)
    w1, b1, w2, b2, w3, b3 = network.parameters()
    expected = ((x @ w1.T + b1).relu() @ w2.T + b2).relu() @ w3.T + b3
    torch.testing.assert_close(network(x), expected)
    assert network(x).min() < 0


def test_no_hidden_layer_is_linear_regression():
    network = FullyConnectedNetwork(in_features=3, hidden_sizes=())
    x = torch.randn(8, 3)
    torch.testing.assert_close(network(2 * x) - network(x), network(x) - network(0 * x))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    network = FullyConnectedNetwork(hidden_sizes=(64,), dropout=0.5)
    x = torch.randn(8, 9)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_sizes": (4, 0)}, "at least one unit"),
        ({"in_features": 0}, "at least one unit"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FullyConnectedNetwork(**arguments)


def test_the_weights_are_those_of_pytorchs_layers():
    torch.manual_seed(3)
    network = FullyConnectedNetwork(9, (32,))
    torch.manual_seed(3)
    layers = torch.nn.Sequential(torch.nn.Linear(9, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    for ours, usual in zip(network.parameters(), layers.parameters(), strict=True):
        assert torch.equal(ours, usual)
