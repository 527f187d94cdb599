import pytest
import torch
from torch.nn.functional import mse_loss

from gpa_lightning import FullyConnectedNetwork, GPARegressor, losses
from gpa_lightning.losses import batch_mse, evaluation_mse, weight_norm


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_norm_is_that_of_the_vector_of_all_weights(norm):
    network = FullyConnectedNetwork(hidden_sizes=(7, 5))
    vector = torch.cat([parameter.flatten() for parameter in network.parameters()])
    expected = vector.abs().sum() if norm == "l1" else vector.square().sum().sqrt()
    torch.testing.assert_close(weight_norm(network.parameters(), norm), expected)


def test_the_norm_has_a_gradient_at_the_origin():
    weight = torch.zeros(3, requires_grad=True)
    weight_norm([weight], "l2").backward()
    assert weight.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [1, 7, 32, 99, 1000])
def test_chunks_give_the_loss_and_gradient_of_the_whole_batch(rows, monkeypatch):
    torch.manual_seed(0)
    network = FullyConnectedNetwork(hidden_sizes=(32, 16))
    x, y = torch.randn(100, 9), torch.randn(100, 1)
    whole = mse_loss(network(x), y)
    expected = torch.autograd.grad(whole, list(network.parameters()))

    monkeypatch.setattr(losses, "CHUNK_ROWS", rows)
    loss = batch_mse(network, x, y)
    (3 * loss).backward()

    torch.testing.assert_close(loss, whole)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 3 * gradient)


def test_chunks_pass_over_a_layer_that_is_not_trained(monkeypatch):
    network = FullyConnectedNetwork(hidden_sizes=(8, 4))
    network.layers.fc1.requires_grad_(False)
    x, y = torch.randn(100, 9), torch.randn(100, 1)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(mse_loss(network(x), y), trained)
    monkeypatch.setattr(losses, "CHUNK_ROWS", 32)
    batch_mse(network, x, y).backward()
    for parameter, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_chunks_need_no_gradient_where_none_is_wanted(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ROWS", 3)
    network = FullyConnectedNetwork(hidden_sizes=(4,))
    x, y = torch.randn(10, 9), torch.randn(10, 1)
    with torch.no_grad():
        loss = batch_mse(network, x, y)
    torch.testing.assert_close(loss, mse_loss(network(x), y).detach())


@pytest.mark.parametrize("kind", [FullyConnectedNetwork, GPARegressor])
def test_a_large_batch_keeps_only_one_chunks_activations(kind, monkeypatch):
    """Counted by what autograd saves: independent of the machine's memory."""
    monkeypatch.setattr(losses, "CHUNK_ROWS", 128)
    network = kind(hidden_sizes=(64,))
    x, y = torch.randn(4096, 9), torch.randn(4096, 1)
    largest = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        batch_mse(network, x, y).backward()
    assert 0 < largest <= 128 * 64


def test_layers_that_look_at_the_whole_batch_get_it(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ROWS", 10)
    network = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.BatchNorm1d(4))
    x, y = torch.randn(64, 9), torch.randn(64, 4)
    assert batch_mse(network, x, y).item() == mse_loss(network(x), y).item()


def test_a_batch_of_no_rows_has_no_loss_and_no_gradient():
    network = FullyConnectedNetwork(hidden_sizes=(4,))
    loss = batch_mse(network, torch.zeros(0, 9), torch.zeros(0, 1))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad.eq(0).all() for parameter in network.parameters())


def test_a_second_derivative_in_chunks_is_refused_and_not_zero(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ROWS", 5)
    network = FullyConnectedNetwork(hidden_sizes=(4,))
    loss = batch_mse(network, torch.randn(10, 9), torch.randn(10, 1))
    with pytest.raises(RuntimeError, match="cannot be differentiated again; use mse_loss"):
        torch.autograd.grad(loss, list(network.parameters()), create_graph=True)


def test_evaluation_is_exact_and_leaves_the_networks_mode_alone():
    torch.manual_seed(0)
    network = FullyConnectedNetwork(hidden_sizes=(16,), dropout=0.5)
    x, y = torch.randn(50, 9), torch.randn(50, 1)
    loss = evaluation_mse(network, x, y, rows=8)
    assert network.training
    assert loss == pytest.approx(mse_loss(network.eval()(x), y).item())
