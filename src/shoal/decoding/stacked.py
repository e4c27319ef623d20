"""R models of any family as one, lifted as they are: each has the same rows, and a state of its own.

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
    """A model's method as the forward pass of a module, which is all that ``functional_call`` calls."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *args: Any, **options: Any) -> Any:
        return getattr(self.model, self.name)(*args, **options)


class Stacked:
    """Members of one architecture, lifted over the first axis of their parameters.

    Args:
        model: of one member; its parameters are not used, its buffers are everybody's. Dropout acts if it trains.
        parameters: by name, ``(R, *shape)`` each, as ``named_parameters`` lists them: what is tied is there once.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        check_parameters(model, parameters)
        self.model = model
        self.parameters = {f"model.{name}": tensor for name, tensor in parameters.items()}
        first = next(iter(parameters.values()))
        self.size, self.device, self.dtype = first.shape[0], first.device, first.dtype
        self._begin, self._step = _Method(model, "begin"), _Method(model, "step")

    def start(self, batch_size: int, length: int) -> DecodingState:
        """The state of ``N = batch_size`` rows that can have ``length`` tokens, ``(R, N, …)`` each."""
        model: Any = self.model
        state: DecodingState = model.start(batch_size, length, device=self.device, dtype=self.dtype)
        return {name: tensor.expand(self.size, *tensor.shape) for name, tensor in state.items()}

    def begin(self, source: Tensor, seen: Tensor, length: int) -> DecodingState:
        """The state of ``N`` rows before the first token of their targets, of a model that reads pairs.

        Args:
            source: of each row, the same of every member, ``(N, S)``, int64.
            seen: which of its tokens count, ``(N, S)``, bool.
            length: tokens that a target can have.

        Returns:
            ``(R, N, …)`` each; what begins with ``memory`` is of the source and stays.
        """

        def one(parameters: dict[str, Tensor]) -> DecodingState:
            state: DecodingState = functional_call(self._begin, parameters, (source, seen, length))
            return state

        found: DecodingState = vmap(one)(self.parameters)
        return found

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Predict what follows each of the next tokens.

        Args:
            tokens: the next of each row, ``(R, N, n)``, int64, padded on the right.
            state: ``(R, N, …)`` each; it stays as it is.
            counts: how many of each row's tokens are no padding, ``(N,)``, int64; all when not given.
            last: predict only what follows the last of each row's tokens.

        Returns:
            Logits ``(R, N, n or 1, V)`` and the state after the tokens.
        """

        def one(parameters: dict[str, Tensor], tokens: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
            args, options = (tokens, state, counts), {"last": last}
            found: tuple[Tensor, DecodingState] = functional_call(self._step, parameters, args, options)
            return found

        found: tuple[Tensor, DecodingState] = vmap(one)(self.parameters, tokens, dict(state))
        return found

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """The state of some rows, ``(N',)`` the same of every member, or ``(R, N')`` each member's own."""
        found: DecodingState = vmap(select, in_dims=(0, 0 if rows.ndim == 2 else None))(dict(state), rows)
        return found

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """As :meth:`select`, where what a row will never change, called ``memory…``, is the same for all that change.

        ``rows`` ``(N,)`` or ``(R, N)`` take each other's place only within rows of one source.
        """
        memory = {name: tensor for name, tensor in state.items() if name.startswith("memory")}
        others = {name: tensor for name, tensor in state.items() if name not in memory}
        return self.select(others, rows) | memory
