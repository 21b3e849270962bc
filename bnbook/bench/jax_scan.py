"""The MLP workloads in jax: a scan over minibatches, mapped over members, compiled as one.

Written as a reader of jax's tutorials would; the package has no other use for jax.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnbook.bench import workloads
from bnbook.bench.runner import Runner
from bnbook.bench.workloads import MLP, State

EPS, MOMENTUM = 1e-5, 0.1


def _forward(params: Any, stats: Any, x: Any) -> tuple[Any, Any]:
    """Compute logits, and the running statistics after the batch."""
    n, moved = x.shape[0], []
    for (weight, gamma, beta), (mean, var) in zip(params["hidden"], stats, strict=True):
        z = x @ weight.T
        mu = z.mean(0)
        sigma2 = jnp.square(z - mu).mean(0)
        unbiased = sigma2 * (n / (n - 1))
        moved.append((mean + MOMENTUM * (mu - mean), var + MOMENTUM * (unbiased - var)))
        x = jax.nn.sigmoid((z - mu) * jax.lax.rsqrt(sigma2 + EPS) * gamma + beta)
    weight, bias = params["output"]
    return x @ weight.T + bias, moved


def _loss(params: Any, stats: Any, x: Any, y: Any) -> tuple[Any, Any]:
    logits, moved = _forward(params, stats, x)
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, y[:, None], 1).mean(), moved


def _train(params: Any, stats: Any, rate: Any, images: Any, labels: Any, batches: Any) -> Any:
    """Train one network over all minibatches."""

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        params, stats = carry
        gradient = jax.grad(_loss, has_aux=True)
        gradients, stats = gradient(params, stats, images[batch], labels[batch])
        return (jax.tree.map(lambda p, g: p - rate * g, params, gradients), stats), None

    return jax.lax.scan(step, (params, stats), batches)[0]


class _Scan:
    """A jax run that can start again."""

    def __init__(self, workload: MLP, steps: int, seed: int, rates: list[float]) -> None:
        self.members = len(rates)
        images, labels = workload.data()
        batches = workloads.minibatches(workload, labels, steps, seed)
        self.data = [jnp.asarray(tensor.numpy()) for tensor in (images, labels, batches)]
        self.rates = jnp.asarray(rates, dtype=jnp.float32)
        ours = workload.ours(self.members, seed)
        self.depth, self.names = len(workload.hidden), list(workloads.state([ours], [1]))
        arrays = {name: tensor.numpy() for name, tensor in ours.state_dict().items()}
        self.initial = jax.tree.map(jnp.asarray, self._tree(arrays))
        mapped = jax.vmap(_train, in_axes=(0, 0, 0, None, None, None))
        self.train = jax.jit(mapped).lower(*self.initial, self.rates, *self.data).compile()
        self.result: Any = None

    def _tree(self, arrays: dict[str, np.ndarray]) -> tuple[Any, Any]:
        """Sort our model's arrays into parameters and running statistics, members first."""

        def of(layer: int, *names: str) -> tuple[np.ndarray, ...]:
            rows = [arrays[f"hidden.{layer}.{name}"] for name in names]
            return tuple(row.reshape(self.members, -1) for row in rows)

        weights = [arrays[f"hidden.{3 * k}.weight"] for k in range(self.depth)]
        hidden = [(w, *of(3 * k + 1, "weight", "bias")) for k, w in enumerate(weights)]
        stats = [of(3 * k + 1, "running_mean", "running_var") for k in range(self.depth)]
        output = arrays["output.weight"], arrays["output.bias"]
        return {"hidden": hidden, "output": output}, stats

    def reset(self) -> None:
        self.result = None

    def run(self) -> None:
        self.result = jax.block_until_ready(self.train(*self.initial, self.rates, *self.data))

    def state(self) -> State:
        params, stats = self.result
        pairs = zip(params["hidden"], stats, strict=True)
        hidden = [array for (w, *affine), moved in pairs for array in (w, *affine, *moved)]
        arrays = [*hidden, *params["output"]]
        rows = [np.asarray(array).reshape(self.members, -1) for array in arrays]
        return dict(zip(self.names, rows, strict=True))


def prepare(workload: MLP, steps: int, seed: int, rates: list[float]) -> Runner:
    """Compile for the workload and put the data where jax computes."""
    made = _Scan(workload, steps, seed, rates)
    return Runner(made.members, made.reset, made.run, made.state)
