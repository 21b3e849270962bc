"""The layers under torch.compile, torch.func and ONNX Runtime: the same numbers as in plain torch.

ONNX in evaluation mode only: that is what is exported.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from bnbook.layers import ensemble
from bnbook.layers.norm import (
    BatchNorm,
    FusedBatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LeanBatchNorm,
)
from bnbook.networks.models import MLP, ConvNet, ResNet
from bnbook.sweeps.planning import has_compiler
from tests.layers.test_folding import randomise

SHAPES = {"1d": (7, 4), "sequence": (5, 4, 3), "2d": (3, 4, 2, 5)}
BATCH_NORMS = [BatchNorm, LeanBatchNorm, FusedBatchNorm]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
IGNORE_TORCHS_OWN = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)
"""torch warns of what it does itself while it compiles or exports."""


def outcome(layer, called, x, cotangent):
    """Output, and the gradients of its product with the cotangent."""
    leaf = x.clone().requires_grad_()
    y = called(leaf)
    return y, *torch.autograd.grad((y * cotangent).sum(), [leaf, *layer.parameters()])


@pytest.fixture
def eager_graphs():
    """Graphs are captured whole and run by torch itself: no C++ compiler is needed."""
    torch._dynamo.reset()
    yield lambda layer: torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


def agree_compiled(layer, compiled, kind, shape):
    plain = kind(4, momentum=layer.momentum).double()
    plain.load_state_dict(layer.state_dict())
    for training in (True, True, False):
        layer.train(training)
        plain.train(training)
        x, cotangent = torch.randn(2, *shape, dtype=torch.float64) + 1
        found = outcome(layer, compiled, x, cotangent)
        for mine, right in zip(found, outcome(plain, plain, x, cotangent), strict=True):
            torch.testing.assert_close(mine, right, **CLOSE)
    for mine, right in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, right, **CLOSE)
    assert layer.num_batches_tracked == 2


@pytest.mark.slow
@IGNORE_TORCHS_OWN
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_one_graph_and_no_break(kind, shape, momentum, eager_graphs):
    layer = kind(4, momentum=momentum).double()
    agree_compiled(layer, eager_graphs(layer), kind, shape)


@pytest.mark.slow
@IGNORE_TORCHS_OWN
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler, which torch.compile needs")
@pytest.mark.parametrize("kind", [BatchNorm, LeanBatchNorm])
def test_compiled_to_machine_code(kind):
    torch._dynamo.reset()
    layer = kind(4).double()
    agree_compiled(layer, torch.compile(layer, fullgraph=True), kind, SHAPES["2d"])


def stacked(kind, momentum):
    torch.manual_seed(0)
    layers = [kind(4, momentum=momentum).double() for _ in range(3)]
    for layer in layers:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layers, *stack_module_state(layers)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_vmap_over_stacked_parameters_and_buffers(kind, shape, momentum):
    """Each of the stack is a layer of its own: outputs, gradients, running statistics."""
    layers, parameters, buffers = stacked(kind, momentum)

    def loss(parameters, buffers, x, cotangent):
        y = functional_call(layers[0], (parameters, buffers), (x,))
        return (y * cotangent).sum(), y

    for _ in range(3):
        x, cotangent = torch.randn(2, 3, *shape, dtype=torch.float64) + 1
        to_parameters, ys, to_x = _swapped(
            vmap(grad(loss, argnums=(0, 2), has_aux=True))(parameters, buffers, x, cotangent)
        )
        for e, layer in enumerate(layers):
            y, dx, dweight, dbias = outcome(layer, layer, x[e], cotangent[e])
            torch.testing.assert_close(ys[e], y, **CLOSE)
            torch.testing.assert_close(to_x[e], dx, **CLOSE)
            torch.testing.assert_close(to_parameters["weight"][e], dweight, **CLOSE)
            torch.testing.assert_close(to_parameters["bias"][e], dbias, **CLOSE)
    for name, stack in buffers.items():
        for e, layer in enumerate(layers):
            torch.testing.assert_close(stack[e], getattr(layer, name), **CLOSE)
    assert buffers["num_batches_tracked"].tolist() == [3, 3, 3]


def _swapped(found):
    (to_parameters, to_x), ys = found
    return to_parameters, ys, to_x


@pytest.mark.parametrize("kind", [BatchNorm, LeanBatchNorm])
def test_hessian_vector_products_by_torch_func(kind):
    torch.manual_seed(0)
    layer = kind(4).double()
    x, cotangent, v = torch.randn(3, 7, 4, dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(x):
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return (functional_call(layer, (parameters, buffers), (x,)).tanh() * cotangent).sum()

    _, pulled = torch.func.vjp(grad(loss), x)
    h = 1e-5
    expected = (grad(loss)(x + h * v) - grad(loss)(x - h * v)) / (2 * h)
    torch.testing.assert_close(pulled(v)[0], expected, rtol=1e-6, atol=1e-7)


EXPORTED = {
    "BatchNorm": (lambda: BatchNorm(4), SHAPES["2d"]),
    "BatchNorm, 1d": (lambda: BatchNorm(4), SHAPES["1d"]),
    "BatchNorm, not affine": (lambda: BatchNorm(4, affine=False), SHAPES["sequence"]),
    "LeanBatchNorm": (lambda: LeanBatchNorm(4), SHAPES["2d"]),
    "FusedBatchNorm": (lambda: FusedBatchNorm(4), SHAPES["2d"]),
    "LayerNorm": (lambda: LayerNorm(4), SHAPES["2d"]),
    "GroupNorm": (lambda: GroupNorm(2, 4), SHAPES["2d"]),
    "InstanceNorm": (lambda: InstanceNorm(4), SHAPES["2d"]),
    "a network": (
        lambda: nn.Sequential(
            ensemble.Linear(2, 12, 5), BatchNorm(10), nn.Sigmoid(), ensemble.Linear(2, 5, 3)
        ),
        (3, 12),
    ),
    "MLP": (lambda: MLP(BatchNorm, (0, 1), num_inputs=16, hidden=(5,)), (3, 1, 4, 4)),
    "ConvNet": (lambda: ConvNet(BatchNorm, (0, 1), in_channels=1, widths=(2, 4)), (3, 1, 4, 4)),
    "ResNet": (lambda: ResNet(None, (0, 1), n=1, in_channels=1, widths=(2, 4)), (3, 1, 4, 4)),
}


@pytest.mark.slow
@IGNORE_TORCHS_OWN
@pytest.mark.parametrize(("make", "shape"), EXPORTED.values(), ids=EXPORTED)
def test_onnx_runtime_agrees_for_any_batch_size(make, shape):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    layer = randomise(make()).float()
    program = torch.onnx.export(
        layer,
        (torch.randn(shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
    )
    onnx.checker.check_model(program.model_proto)
    session = runtime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    assert isinstance(given.shape[0], str), "the size of the batch is free"
    for size in (1, 2, 9):
        x = 3 * torch.randn(size, *shape[1:]) + 2
        (found,) = session.run(None, {given.name: x.numpy()})
        np.testing.assert_allclose(found, layer(x).detach().numpy(), rtol=1e-4, atol=1e-5)
