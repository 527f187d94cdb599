"""What PyTorch and others make of a trained network: outside a fit it is plain PyTorch."""

import copy

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.throughput import measure_flops
from runs import fit
from torch import nn

from gpa_lightning import GPADataModule, GPARegressor


@pytest.fixture(scope="module")
def trained(table):
    """A network that has been trained with the default callbacks, and rows of its test set."""
    model, data = GPARegressor(hidden_sizes=(64, 32)), GPADataModule(path=str(table))
    fit(model, data)
    return model.eval(), data.dataset("test")[:50][0]


def onnx_runs(model, x, path, **settings):
    onnx = pytest.importorskip("onnx")
    if settings["dynamo"]:
        pytest.importorskip("onnxscript")
    model.to_onnx(path, x, **settings)
    graph = onnx.load(path)
    evaluator = onnx.reference.ReferenceEvaluator(graph)
    (output,) = evaluator.run(None, {graph.graph.input[0].name: x.numpy()})
    return torch.from_numpy(output)


EXPORTS = {
    "to_onnx": lambda m, x, path: onnx_runs(m, x, path, dynamo=True),
    "to_onnx, by tracing": lambda m, x, path: onnx_runs(m, x, path, dynamo=False),
    "torch.export": lambda m, x, _: torch.export.export(m.network, (x,)).module()(x),
    "torch.jit.script": lambda m, x, _: torch.jit.script(m.network)(x),
    "torch.jit.trace": lambda m, x, _: torch.jit.trace(m.network, x)(x),
    "to_torchscript": lambda m, x, path: torch.jit.load(_scripted(m, path))(x),
    "torch.fx": lambda m, x, _: torch.fx.symbolic_trace(m.network)(x),
    "torch.func": lambda m, x, _: torch.func.functional_call(
        m.network, dict(m.network.named_parameters()), (x,)
    ),
    "vmap": lambda m, x, _: torch.func.vmap(m.network)(x),
    "deepcopy": lambda m, x, _: copy.deepcopy(m)(x),
}


def _scripted(model, path):
    model.to_torchscript(file_path=path)
    return path


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_an_export_computes_the_same(export, trained, tmp_path):
    model, x = trained
    found = export(model, x, str(tmp_path / "exported"))
    torch.testing.assert_close(found.detach(), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_quantised_weights_predict_nearly_the_same(trained):
    model, x = trained
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model.network), {nn.Linear})
    assert "DynamicQuantizedLinear" in str(quantised)
    error = (quantised(x) - model(x)).abs().max().item()
    assert 0 < error < 0.1


def test_second_derivatives(trained):
    model, x = trained
    x = x.clone().requires_grad_()
    squares = model(x).square().sum()
    (slope,) = torch.autograd.grad(squares, x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x)
    hessian = torch.func.hessian(lambda row: model(row[None]).square().sum())
    expected = torch.stack([hessian(row).sum(0) for row in x.detach()])
    assert expected.abs().max() > 0
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-5)


def test_every_layers_backward_hook_is_called(trained):
    model, x = trained
    called = []
    layers = list(model.network.layers.named_children())
    handles = [
        layer.register_full_backward_hook(lambda *_, name=name: called.append(name))
        for name, layer in layers
    ]
    model(x).sum().backward()
    for handle in handles:
        handle.remove()
    assert called == [name for name, _ in reversed(layers)]


def test_lightning_counts_the_operations():
    """Of the lecture's network and 50 rows: 2 per weight that is no bias, of each row."""
    model = GPARegressor()
    x = torch.randn(50, 9)
    assert measure_flops(model, lambda: model(x)) == 2 * 50 * 599_168 == 59_916_800


def test_shap_adds_up(trained):
    shap = pytest.importorskip("shap")
    model, x = trained
    explainer = shap.DeepExplainer(model.network, x)
    shares = np.asarray(explainer.shap_values(x)).reshape(x.shape).sum(axis=1)
    predicted = model(x).detach().numpy()[:, 0]
    assert np.abs(shares + explainer.expected_value - predicted).max() < 1e-5
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
