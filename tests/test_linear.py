import pytest
import torch
from torch.nn import functional

from gpa_lightning.linear import Linear, linear, onednn_is_available

needs_onednn = pytest.mark.skipif(
    not onednn_is_available(), reason="this build of PyTorch has no oneDNN"
)


@needs_onednn
@pytest.mark.parametrize(("inputs", "outputs"), [(9, 1024), (1024, 512), (512, 128), (128, 16)])
def test_it_is_the_usual_product_and_gradient(inputs, outputs):
    torch.manual_seed(0)
    arguments = [torch.randn(100, inputs), torch.randn(outputs, inputs), torch.randn(outputs)]
    results = []
    for function in (linear, functional.linear):
        leaves = [argument.clone().requires_grad_() for argument in arguments]
        output = function(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for ours, usual in zip(*results, strict=True):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-3 * usual.abs().max().item())


@needs_onednn
def test_gradients_only_where_they_are_wanted():
    x, weight, bias = torch.randn(4, 9), torch.randn(32, 9), torch.randn(32)
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(32, 9))


@needs_onednn
def test_the_layer_uses_it(monkeypatch):
    called = []

    def spy(*arguments):
        called.append(arguments)
        return functional.linear(*arguments)

    monkeypatch.setattr("gpa_lightning.linear.linear", spy)
    layer = Linear(9, 32)
    layer(torch.randn(5, 9))
    assert len(called) == 1
    layer(torch.randn(9))  # no batch
    layer.double()(torch.randn(5, 9).double())  # not single precision
    with torch.autocast("cpu"):
        layer.float()(torch.randn(5, 9))
    assert len(called) == 1


def test_a_state_dict_is_that_of_pytorchs_layer():
    layer, usual = Linear(9, 32), torch.nn.Linear(9, 32)
    usual.load_state_dict(layer.state_dict())
    x = torch.randn(5, 9)
    torch.testing.assert_close(layer(x), usual(x))


def test_the_same_weights_from_the_same_seed():
    torch.manual_seed(3)
    layer = Linear(9, 32)
    torch.manual_seed(3)
    assert torch.equal(layer.weight, torch.nn.Linear(9, 32).weight)
