"""Jacobians of layers and of recurrent steps, and the singular values of their jacobian_products, in float64.

What a small change of a state does to a later one, and what a gradient does on its way back, is the product of the
Jacobians between the two. Its singular values say how much it stretches: the largest is its operator norm.

Shapes: ``L`` layers or steps, ``D`` width, ``S`` sequence.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.models.gpt import GPT
from shoal.models.lstm import LSTMLM

Layer = Callable[[Tensor], Tensor]


def jacobian(layer: Layer, h: Tensor) -> Tensor:
    """Jacobian J of a function of vectors, ``J[i, j] = ∂layer(h)_i / ∂h_j``.

    Args:
        layer: differentiable function ``(D_in,) -> (D_out,)``; a module is copied and computes in float64.
        h: where, ``(D_in,)``.

    Returns:
        ``(D_out, D_in)``, float64.

    Raises:
        UserError: h is no vector.

    >>> jacobian(lambda h: h * h, torch.tensor([1.0, 3.0])).tolist()
    [[2.0, 0.0], [0.0, 6.0]]
    """
    if h.ndim != 1:
        raise UserError(f"h has the shape {tuple(h.shape)}: a Jacobian is taken at a vector")
    result: Tensor = torch.func.jacrev(_double(layer))(h.detach().double())
    return result.detach()


def layer_jacobians(layers: Sequence[Layer], h: Tensor) -> Tensor:
    """Jacobian of each layer ``∂h_{ℓ+1} / ∂h_ℓ`` along the states that a network takes from its input.

    Args:
        layers: functions ``(D,) -> (D,)``, the first one first.
        h: input h_0, ``(D,)``.

    Returns:
        ``(L, D, D)``, float64; for :func:`jacobian_products`.

    Raises:
        UserError: there is no layer, or h is no vector.
    """
    if not layers:
        raise UserError("no layer: a network has at least one")
    h, jacobians = h.detach().double(), []
    for layer in layers:
        jacobians.append(jacobian(layer, h))
        with torch.no_grad():
            h = _double(layer)(h)
    return torch.stack(jacobians)


def jacobian_products(jacobians: Tensor) -> Tensor:
    """Jacobians from the input to each depth: ``∂h_ℓ / ∂h_0 = J_{ℓ-1} … J_0``.

    Args:
        jacobians: of the layers, ``(L, D, D)``.

    Returns:
        ``(L, D, D)``, for ℓ from 1 to L.
    """
    result = [jacobians[0]]
    for J in jacobians[1:]:
        result.append(J @ result[-1])
    return torch.stack(result)


def singular_values(jacobians: Tensor) -> Tensor:
    """Singular values, the largest first: ``(*dims, D_out, D_in) -> (*dims, min(D_out, D_in))``."""
    values: Tensor = torch.linalg.svdvals(jacobians)
    return values


def block_jacobians(model: GPT, tokens: Tensor) -> Tensor:
    """Jacobian of each block of a GPT at the last position, ``∂h_{ℓ+1} / ∂h_ℓ``.

    The last position sees all others and none sees it. So the product of these Jacobians is the whole derivative of
    its last hidden state with respect to its embedding.

    Args:
        model: the GPT; it is not changed and computes in float64 and without dropout.
        tokens: one sequence, ``(S,)``, int64.

    Returns:
        ``(L, D, D)``, float64.

    Raises:
        UserError: tokens are no sequence.
    """
    if tokens.ndim != 1 or not len(tokens):
        raise UserError(f"tokens has the shape {tuple(tokens.shape)}: it must be one sequence")
    model = deepcopy(model).double().eval()
    with torch.no_grad():
        _, details = model(tokens.unsqueeze(0))
    hidden_states = details[0][0]  # (L + 1, S, D)
    jacobians = []
    for block, hidden in zip(model.decoder.blocks, hidden_states[:-1], strict=True):

        def last(h: Tensor, block: nn.Module = block, before: Tensor = hidden[:-1]) -> Tensor:
            output: Tensor = block(torch.cat([before, h.unsqueeze(0)]).unsqueeze(0))[0][0, -1]  # (D,)
            return output

        jacobians.append(jacobian(last, hidden[-1]))
    return torch.stack(jacobians)


def state_jacobians(model: LSTMLM, tokens: Tensor) -> Tensor:
    """Jacobian of each step of an LSTM, ``∂(h_t, c_t) / ∂(h_{t-1}, c_{t-1})``, along a sequence from the zero state.

    Args:
        model: the LSTM; it is not changed and computes in float64 and without dropout.
        tokens: one sequence, ``(S,)``, int64.

    Returns:
        ``(S, 2 L D, 2 L D)``, float64: first h of all layers, then c.

    Raises:
        UserError: tokens are no sequence.
    """
    if tokens.ndim != 1 or not len(tokens):
        raise UserError(f"tokens has the shape {tuple(tokens.shape)}: it must be one sequence")
    model = deepcopy(model).double().eval()
    start = model.start(1, len(tokens))
    shape = start["h"].shape  # (1, L, D)

    def step(state: Tensor, token: Tensor) -> Tensor:
        h, c = state.chunk(2)
        _, after = model.step(token.view(1, 1), {**start, "h": h.view(shape), "c": c.view(shape)})
        return torch.cat([after["h"].flatten(), after["c"].flatten()])

    layers = [lambda state, token=token: step(state, token) for token in tokens]
    return layer_jacobians(layers, torch.zeros(2 * start["h"].numel()))


def _double(layer: Layer) -> Layer:
    """The layer, or a copy of a module in float64 and without dropout."""
    return deepcopy(layer).double().eval() if isinstance(layer, nn.Module) else layer
