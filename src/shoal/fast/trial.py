"""Trial of kernels on a device before anything is trained with them: their results beside PyTorch's."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from shoal.fast.adam import FusedAdam
from shoal.fast.kernels import KernelOps, Library
from shoal.fast.ops import Array, Ops, TorchOps
from shoal.fast.prefixes import Nodes, Prefixes
from shoal.fast.program import Arena, Program
from shoal.fast.scorer import parameter_values, unflattened

R, N, S, V, D, H = 2, 72, 5, 6, 12, 3  # members, examples, positions, tokens, width, heads
LAYOUT = {
    "table": torch.Size([V, D]),
    "lower.gates": torch.Size([2 * D, 2 * D]),
    "lower.gates.bias": torch.Size([2 * D]),
    "upper.gates": torch.Size([2 * D, 2 * D]),
    "upper.gates.bias": torch.Size([2 * D]),
    "queries": torch.Size([D, D]),
    "keys": torch.Size([2 * D, D]),
    "inner": torch.Size([2 * D, D]),
    "outer": torch.Size([D, 2 * D]),
    "bias": torch.Size([D]),
    "weight": torch.Size([D]),
    "shift": torch.Size([D]),
}


def largest_error(library_for: Callable[[Program | None], Library], device: torch.device) -> float:
    """Largest error of losses, gradients and an update of small models, relative to the largest of each in PyTorch.

    NaN where any of them is.
    """
    random = torch.Generator().manual_seed(0)
    P = sum(shape.numel() for shape in LAYOUT.values())
    theta = (0.5 * torch.randn(R, P, generator=random)).to(device).requires_grad_()
    inputs = torch.randint(V, (R, N, S), generator=random)
    inputs *= torch.rand(R, N, S, generator=random) < 0.5  # one token more often than a program adds up at once
    inputs[:, :, 0] = 0  # as an equation begins: prefixes that examples share
    nodes = Prefixes(inputs.to(device), N, S - 2).nodes(torch.arange(N).expand(R, N).to(device)).clone()
    targets = torch.randint(V, (R, 2 * N), generator=random).to(device)
    scored = (torch.rand(R, 2, N, generator=random) < 0.8).to(device)
    errors = [_update_error(library_for(None), theta.detach().clone(), random)]
    for outputs in (_recurrent, _attentive):
        loss, right = _loss(outputs, unflattened(theta, LAYOUT), nodes, targets, scored, TorchOps())
        (expected,) = torch.autograd.grad(loss.sum(), theta)
        gradient = torch.zeros_like(theta, requires_grad=False)
        program = Program(Arena(), gradient)
        values = parameter_values(theta.detach(), gradient, LAYOUT, slice(None))
        _loss(outputs, values, nodes, targets, scored, KernelOps(library_for(program), program))
        program.finish()
        program.forward()
        program.d_loss.fill_(1)
        program.backward()
        errors += [_error(program.loss, loss), _error(gradient, expected), (program.accuracy - right).abs().max().cpu()]
    return float(torch.stack(errors).max())


def _loss(
    outputs: Callable[[Mapping[str, Array], Nodes, Ops[Array]], Array],
    parameters: Mapping[str, Array],
    nodes: Nodes,
    targets: Tensor,
    scored: Tensor,
    ops: Ops[Array],
) -> tuple[Tensor, Tensor]:
    """Losses of an answer at each of the last two levels."""
    last = ops.tail(outputs(parameters, nodes, ops), nodes.starts[S - 2])  # (R, 2 N, D)
    return ops.score(ops.linear(last, parameters["table"]), targets, scored, 0.1)


def _recurrent(parameters: Mapping[str, Array], nodes: Nodes, ops: Ops[Array]) -> Array:
    """Outputs of two layers of an LSTM."""
    x = parameters["table"]
    rows: Tensor | None = nodes.tokens
    for gates in (["lower", "upper"], ["upper", "lower"]):
        weight = ops.join([parameters[f"{part}.gates"] for part in gates])
        bias = ops.join([parameters[f"{part}.gates.bias"] for part in gates])
        x, rows = ops.lstm_layer(x, rows, weight, bias, nodes), None
    return x


def _attentive(parameters: Mapping[str, Array], nodes: Nodes, ops: Ops[Array]) -> Array:
    """Attention over rows of a table, then over nodes."""
    norm = (parameters["weight"], parameters["shift"])
    x = ops.pairs(parameters["table"], torch.linspace(-1, 1, S * D, device=nodes.lengths.device).reshape(S, D))
    rows: Tensor | None = (pairs := nodes.tokens + (nodes.lengths - 1) * V)
    paths = ops.prepared(lambda: pairs.gather(1, nodes.paths.flatten(1)).reshape(nodes.paths.shape))
    for layer in range(2):
        q, kv = ops.linear(x, parameters["queries"]), ops.linear(x, parameters["keys"])
        context = ops.attend(q, rows, kv, paths, nodes.lengths, H)
        inner = ops.gelu(ops.linear(context, parameters["inner"]))
        y = ops.add_norm(x, rows, ops.linear(inner, parameters["outer"]), parameters["bias"], norm)
        x = ops.apply(torch.add, x, y) if layer else y  # what was normalised has a gradient before that of the norm
        rows, paths = None, ops.prepared(lambda: nodes.paths)
    return x


def _update_error(library: Library, theta: Tensor, random: torch.Generator) -> Tensor:
    gradient = torch.randn(theta.shape, generator=random).to(theta.device)
    expected = theta.clone().requires_grad_()
    optimizer = torch.optim.AdamW([expected], lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    state = {"m": torch.zeros_like(theta), "v": torch.zeros_like(theta)}
    settings = {"lr": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.1}
    column = theta.new_ones(R, 1, dtype=torch.float64)
    hyper = {name: value * column for name, value in settings.items()}
    update, moved = FusedAdam(library, decoupled=True), torch.ones(R, dtype=torch.bool, device=theta.device)
    for step in (1, 2, 3):
        expected.grad = gradient * step
        optimizer.step()
        update(theta, gradient * step, column.float(), state, hyper, step * column, moved)
    return _error(theta, expected.detach())


def _error(result: Tensor, expected: Tensor) -> Tensor:
    return ((result - expected).abs().max() / expected.abs().max()).detach().cpu()
