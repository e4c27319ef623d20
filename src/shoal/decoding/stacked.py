"""Decoder of R models of any family, lifted as they are: with the same rows and separate states.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``V`` vocabulary.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.models.cache import DecodingState, Overwritable, select


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

    **In inference mode, in which searches run, a state given to** :meth:`step` **or** :meth:`reorder` **is
    overwritten**, as far as the model can; elsewhere it is not changed.

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
        return _own({name: tensor.expand(self.size, *tensor.shape) for name, tensor in state.items()})

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

        return _own(vmap(one)(self.parameters))

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens.

        Args:
            tokens: next tokens of each row, ``(R, N, n)``, int64, padded on the right.
            state: ``(R, N, …)`` each; it is overwritten in inference mode.
            counts: number of each row's tokens that are no padding, ``(N,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(R, N, n or 1, V)`` and the state after the tokens.
        """

        def one(parameters: dict[str, Tensor], tokens: Tensor, state: DecodingState) -> tuple[Tensor, DecodingState]:
            given = Overwritable(state) if torch.is_inference_mode_enabled() else state
            args, options = (tokens, given, counts), {"last": last}
            logits, after = functional_call(self._step, parameters, args, options)
            return logits, dict(after)

        results: tuple[Tensor, DecodingState] = vmap(one)(self.parameters, tokens, dict(state))
        return results

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of some rows, ``(N',)`` the same for every member, or ``(R, N')`` for each member."""
        selected: DecodingState = vmap(select, in_dims=(0, 0 if rows.ndim == 2 else None))(dict(state), rows)
        return selected

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of all rows in a new order, as :meth:`select`, where entries ``memory…`` do not move.

        ``rows``, ``(N,)`` or ``(R, N)``, may exchange only rows of one source. In inference mode rows that move are
        written into the tensors of the given state, and no others are copied.
        """
        N = rows.shape[-1]
        rows = rows.expand(self.size, N)
        member, row = (rows != torch.arange(N, device=rows.device)).nonzero(as_tuple=True)  # (m,) each, those that move
        if not len(row):
            return dict(state)
        after, moving = dict(state), {name: state[name] for name in state if not name.startswith("memory")}
        alone = _alone(state) if torch.is_inference_mode_enabled() else set()
        for name in moving.keys() & alone:
            moving[name][member, row] = moving[name][member, rows[member, row]]  # gathered before any is written
        return after | self.select({name: moving[name] for name in moving if name not in alone}, rows)


def _own(state: DecodingState) -> DecodingState:
    """State whose entries have memory of their own, but for those of the source, which are never written to."""
    contiguous = torch.contiguous_format
    return {
        name: tensor if name.startswith("memory") else tensor.clone(memory_format=contiguous)
        for name, tensor in state.items()
    }


def _alone(state: Mapping[str, Tensor]) -> set[str]:
    """Names of entries each number of which has a place in memory that no other number has."""
    sharing = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    return {
        name
        for name, tensor in state.items()
        if sharing[tensor.untyped_storage().data_ptr()] == 1
        and all(stride or size == 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    }
