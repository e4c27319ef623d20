"""Decoder of R models of any family, lifted as they are: with the same rows and separate states.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``V`` vocabulary.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.models.cache import DecodingState, select


def check_parameters(model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if a parameter of the model has no values."""
    if missing := [name for name, _ in model.named_parameters() if name not in parameters]:
        raise ValueError(f"no values for the parameters {' '.join(missing)}")


class _Method(nn.Module):
    """Module whose forward pass is a model's method, for ``functional_call``, which calls forward passes alone."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *args: Any, **options: Any) -> Any:
        return getattr(self.model, self.name)(*args, **options)


class Stacked:
    """Decoder of members of one architecture, lifted over the first axis of their parameters.

    Args:
        model: model of one member; its parameters are not used, its buffers are shared by all. Dropout acts in its
            training mode.
        parameters: parameters by name, ``(R, *shape)`` each, as ``named_parameters`` lists them, tied ones once.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        check_parameters(model, parameters)
        self.model = model
        self.parameters = {f"model.{name}": tensor for name, tensor in parameters.items()}
        first = next(iter(parameters.values()))
        self.size, self.device, self.dtype = first.shape[0], first.device, first.dtype
        self._begin, self._step = _Method(model, "begin"), _Method(model, "step")

    def start(self, batch_size: int, length: int) -> DecodingState:
        """State of ``N = batch_size`` rows that can have ``length`` tokens, ``(R, N, …)`` each."""
        model: Any = self.model
        state: DecodingState = model.start(batch_size, length, device=self.device, dtype=self.dtype)
        return {name: tensor.expand(self.size, *tensor.shape) for name, tensor in state.items()}

    def begin(self, source: Tensor, seen: Tensor, length: int) -> DecodingState:
        """State of ``N`` rows before the first token of their targets, for models that read pairs.

        Args:
            source: source of each row, the same for every member, ``(N, S)``, int64.
            seen: mask of its tokens that count, ``(N, S)``, bool.
            length: largest number of tokens of a target.

        Returns:
            ``(R, N, …)`` each; entries that begin with ``memory`` belong to the source and never change.
        """

        def one(parameters: dict[str, Tensor]) -> DecodingState:
            state: DecodingState = functional_call(self._begin, parameters, (source, seen, length))
            return state

        states: DecodingState = vmap(one)(self.parameters)
        return states

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens.

        Args:
            tokens: next tokens of each row, ``(R, N, n)``, int64, padded on the right.
            state: ``(R, N, …)`` each; it is not changed.
            counts: number of each row's tokens that are no padding, ``(N,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(R, N, n or 1, V)`` and the state after the tokens.
        """

        def one(parameters: dict[str, Tensor], tokens: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
            args, options = (tokens, state, counts), {"last": last}
            result: tuple[Tensor, DecodingState] = functional_call(self._step, parameters, args, options)
            return result

        results: tuple[Tensor, DecodingState] = vmap(one)(self.parameters, tokens, dict(state))
        return results

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of some rows, ``(N',)`` the same for every member, or ``(R, N')`` for each member."""
        selected: DecodingState = vmap(select, in_dims=(0, 0 if rows.ndim == 2 else None))(dict(state), rows)
        return selected

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of all rows in a new order, as :meth:`select`, where entries ``memory…`` do not move.

        ``rows``, ``(N,)`` or ``(R, N)``, may exchange only rows of one source.
        """
        memory = {name: tensor for name, tensor in state.items() if name.startswith("memory")}
        others = {name: tensor for name, tensor in state.items() if name not in memory}
        return self.select(others, rows) | memory
