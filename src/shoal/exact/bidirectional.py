"""Bidirectional RNN in float64 numpy, with the gradients of its squared error derived by hand.

Source: the course on representation learning, problem 3, with its letters; (f) and (b) mark the direction::

    h_t^(f) = tanh(W^(f) x_t + U^(f) h_{t-1}^(f))        h_t^(b) = tanh(W^(b) x_t + U^(b) h_{t+1}^(b))
    y_t = V^(f) h_t^(f) + V^(b) h_t^(b)                  L = Σ_t ‖z_t − y_t‖²

With e_t = 2 (y_t − z_t), backpropagation through time of the forward direction is::

    ∇_{h_t} L = Vᵀ e_t + Uᵀ ((1 − h_{t+1}²) ⊙ ∇_{h_{t+1}} L)
    a_t = (1 − h_t²) ⊙ ∇_{h_t} L
    ∇_W L = Σ_t a_t x_tᵀ      ∇_U L = Σ_t a_t h_{t-1}ᵀ      ∇_V L = Σ_t e_t h_tᵀ
    ∇_{x_t} L = Wᵀ a_t        ∇_{h_0} L = Uᵀ a_1

and of the backward direction the same with t + 1 and t − 1 exchanged. Sequences of a batch may have different lengths:
the backward direction starts at the last step of each.

Shapes: ``B`` batch, ``S`` sequence (the T of the source), ``X``, ``D`` and ``Y`` widths of inputs, states and outputs;
the two directions may have different ``D``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shoal.errors import UserError

Array = npt.NDArray[np.float64]


class States(NamedTuple):
    """Forward pass: states and outputs, 0 behind a sequence's end.

    Attributes:
        forward: h_1^(f) … h_S^(f), ``(B, S, D)``.
        backward: h_1^(b) … h_S^(b), ``(B, S, D)``.
        outputs: y_1 … y_S, ``(B, S, Y)``.
    """

    forward: Array
    backward: Array
    outputs: Array


class Gradients(NamedTuple):
    """Gradients of the loss L, each of the shape of what it belongs to; 0 behind a sequence's end.

    Attributes:
        W_f: ∇_{W^(f)} L, and so on for the six matrices.
        U_f: see ``W_f``.
        V_f: see ``W_f``.
        W_b: see ``W_f``.
        U_b: see ``W_f``.
        V_b: see ``W_f``.
        x: of the inputs, ``(B, S, X)``.
        start_f: of h_0^(f), ``(B, D)``.
        start_b: of h_{T+1}^(b), where T is the sequence's length, ``(B, D)``.
        states_f: ∇_{h_t^(f)} L, the total derivatives of the recursion, ``(B, S, D)``.
        states_b: ∇_{h_t^(b)} L, ``(B, S, D)``.
    """

    W_f: Array
    U_f: Array
    V_f: Array
    W_b: Array
    U_b: Array
    V_b: Array
    x: Array
    start_f: Array
    start_b: Array
    states_f: Array
    states_b: Array


@dataclass(frozen=True, eq=False)
class BidirectionalRNN:
    """Bidirectional RNN as six matrices.

    Attributes:
        W_f: W^(f), ``(D, X)``.
        U_f: U^(f), ``(D, D)``.
        V_f: V^(f), ``(Y, D)``.
        W_b: W^(b), ``(D, X)``; this direction's D may be another.
        U_b: U^(b), ``(D, D)``.
        V_b: V^(b), ``(Y, D)``.

    Raises:
        UserError: a matrix is none, has a number that is not finite, or does not fit the others.

    >>> rnn = BidirectionalRNN.random(input_size=3, hidden_size=4, output_size=2, seed=0)
    >>> x, z = np.ones((1, 5, 3)), np.zeros((1, 5, 2))
    >>> rnn.gradients(x, z).U_f.shape
    (4, 4)
    """

    W_f: Array
    U_f: Array
    V_f: Array
    W_b: Array
    U_b: Array
    V_b: Array

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            object.__setattr__(self, name, _finite(name, getattr(self, name), 2))
        X, Y = self.W_f.shape[1], self.V_f.shape[0]
        for end, W in (("f", self.W_f), ("b", self.W_b)):
            D = len(W)
            for letter, shape in (("W", (D, X)), ("U", (D, D)), ("V", (Y, D))):
                _has_shape(f"{letter}_{end}", getattr(self, f"{letter}_{end}"), shape)

    @classmethod
    def random(cls, input_size: int, hidden_size: int, output_size: int, seed: int) -> "BidirectionalRNN":
        """RNN with independent normal weights of variance 1 / (number of inputs of the matrix).

        Raises:
            UserError: a size is below 1.
        """
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"{name} is {size}: a size is 1 or more")
        generator = np.random.default_rng(seed)
        shapes = ((hidden_size, input_size), (hidden_size, hidden_size), (output_size, hidden_size)) * 2
        return cls(*(generator.standard_normal(shape) / np.sqrt(shape[1]) for shape in shapes))

    def forward(
        self, x: npt.ArrayLike, lengths: Sequence[int] | None = None, start_f: Any = None, start_b: Any = None
    ) -> States:
        """Run both directions.

        Args:
            x: inputs, ``(B, S, X)``; behind a sequence's end they may be anything.
            lengths: steps of each sequence, from 1 to S; S when not given.
            start_f: h_0^(f), ``(B, D)``; 0 when not given.
            start_b: h_{T+1}^(b) behind each sequence's last step T, ``(B, D)``; 0 when not given.

        Raises:
            UserError: shapes do not fit, a length is not from 1 to S, or a number is not finite.
        """
        return self._run(self._batch(x, lengths, start_f, start_b))

    def loss(
        self,
        x: npt.ArrayLike,
        z: npt.ArrayLike,
        lengths: Sequence[int] | None = None,
        start_f: Any = None,
        start_b: Any = None,
    ) -> float:
        """L = Σ ‖z_t − y_t‖² over the steps of all sequences.

        Args:
            x: inputs, ``(B, S, X)``.
            z: targets, ``(B, S, Y)``; behind a sequence's end they may be anything.
            lengths: as for :meth:`forward`.
            start_f: as for :meth:`forward`.
            start_b: as for :meth:`forward`.

        Raises:
            UserError: as for :meth:`forward`.
        """
        batch = self._batch(x, lengths, start_f, start_b)
        outputs = self._run(batch).outputs
        return float(np.square(outputs - self._targets(z, batch)).sum())

    def gradients(
        self,
        x: npt.ArrayLike,
        z: npt.ArrayLike,
        lengths: Sequence[int] | None = None,
        start_f: Any = None,
        start_b: Any = None,
    ) -> Gradients:
        """Gradients of :meth:`loss` with respect to the six matrices, the inputs and both initial states.

        Args:
            x: as for :meth:`loss`.
            z: as for :meth:`loss`.
            lengths: as for :meth:`forward`.
            start_f: as for :meth:`forward`.
            start_b: as for :meth:`forward`.

        Raises:
            UserError: as for :meth:`forward`.
        """
        batch = self._batch(x, lengths, start_f, start_b)
        states = self._run(batch)
        e = 2 * (states.outputs - self._targets(z, batch))  # (B, S, Y)
        of_f = _backwards(self.W_f, self.U_f, self.V_f, states.forward, e, batch, batch.start_f, reverse=False)
        of_b = _backwards(self.W_b, self.U_b, self.V_b, states.backward, e, batch, batch.start_b, reverse=True)
        inputs = of_f.x + of_b.x
        return Gradients(
            *(of_f.W, of_f.U, of_f.V, of_b.W, of_b.U, of_b.V, inputs, of_f.start, of_b.start, of_f.states, of_b.states)
        )

    def _run(self, batch: "_Batch") -> States:
        forward = _states(self.W_f, self.U_f, batch, batch.start_f, reverse=False)
        backward = _states(self.W_b, self.U_b, batch, batch.start_b, reverse=True)
        return States(forward, backward, forward @ self.V_f.T + backward @ self.V_b.T)

    def _batch(self, x: npt.ArrayLike, lengths: Sequence[int] | None, start_f: Any, start_b: Any) -> "_Batch":
        inputs = _numbers("x", x)
        if inputs.ndim != 3 or 0 in inputs.shape:
            raise UserError(f"x has the shape {inputs.shape}: it must be (batch, sequence, {self.W_f.shape[1]})")
        B, S, _ = inputs.shape
        _has_shape("x", inputs, (B, S, self.W_f.shape[1]))
        counts = _lengths(lengths, B, S)
        is_step = np.arange(S) < counts[:, None]  # (B, S)
        inputs = _finite("x", np.where(is_step[..., None], inputs, 0.0), 3)
        starts = []
        for name, start, D in (("start_f", start_f, len(self.W_f)), ("start_b", start_b, len(self.W_b))):
            starts.append(np.zeros((B, D)) if start is None else _finite(name, start, 2))
            _has_shape(name, starts[-1], (B, D))
        return _Batch(inputs, is_step, *starts)

    def _targets(self, z: npt.ArrayLike, batch: "_Batch") -> Array:
        """Targets, 0 behind a sequence's end, where the outputs are 0 too."""
        targets = _numbers("z", z)
        _has_shape("z", targets, (*batch.is_step.shape, len(self.V_f)))
        return _finite("z", np.where(batch.is_step[..., None], targets, 0.0), 3)


def state_jacobian(U: npt.ArrayLike, h: npt.ArrayLike) -> Array:
    """Jacobian of a state with respect to the state before it in its direction: ∂h_{t+1} / ∂h_t = diag(1 − h_{t+1}²) U.

    Args:
        U: recurrent weights, ``(D, D)``.
        h: the later state, ``(*dims, D)``; of the backward direction that is h_{t-1}.

    Returns:
        ``(*dims, D, D)``; entry i, j is ∂h_{t+1, i} / ∂h_{t, j} = (1 − h_{t+1, i}²) U_{ij}.
    """
    states = np.asarray(h, dtype=np.float64)
    return (1 - np.square(states))[..., None] * np.asarray(U, dtype=np.float64)


class _Batch(NamedTuple):
    """Inputs that were checked: ``x`` is 0 behind a sequence's end, where ``is_step`` ``(B, S)`` is false."""

    x: Array
    is_step: npt.NDArray[np.bool_]
    start_f: Array
    start_b: Array


class _OneDirection(NamedTuple):
    """Gradients of one direction."""

    W: Array
    U: Array
    V: Array
    x: Array
    start: Array
    states: Array


def _order(S: int, reverse: bool) -> Iterator[int]:
    """Steps in the order in which a direction reads them."""
    return iter(range(S - 1, -1, -1) if reverse else range(S))


def _states(W: Array, U: Array, batch: _Batch, start: Array, reverse: bool) -> Array:
    """States of one direction ``(B, S, D)``; a row's state waits at its start until its own first step is read."""
    B, S, _ = batch.x.shape
    inputs = batch.x @ W.T  # (B, S, D)
    states, h = np.zeros((B, S, len(W))), start
    for t in _order(S, reverse):
        is_step = batch.is_step[:, t, None]  # (B, 1)
        h = np.where(is_step, np.tanh(inputs[:, t] + h @ U.T), h)
        states[:, t] = np.where(is_step, h, 0.0)
    return states


def _backwards(
    W: Array, U: Array, V: Array, states: Array, e: Array, batch: _Batch, start: Array, reverse: bool
) -> _OneDirection:
    """Backpropagation through time of one direction, from its last step to its start."""
    B, S, _ = batch.x.shape
    totals, pre_activations = np.zeros_like(states), np.zeros_like(states)  # ∇_{h_t} L and a_t, (B, S, D)
    from_outputs, slopes = e @ V, 1 - np.square(states)  # (B, S, D)
    later = np.zeros((B, len(W)))  # Uᵀ a of the step that reads this state
    for t in _order(S, not reverse):
        is_step = batch.is_step[:, t, None]  # (B, 1)
        totals[:, t] = np.where(is_step, from_outputs[:, t] + later, 0.0)
        pre_activations[:, t] = slopes[:, t] * totals[:, t]
        later = np.where(is_step, pre_activations[:, t] @ U, later)
    before = _states_before(states, batch, start, reverse)
    outer = "bsi,bsj->ij"
    return _OneDirection(
        np.einsum(outer, pre_activations, batch.x),
        np.einsum(outer, pre_activations, before),
        np.einsum(outer, e, states),
        pre_activations @ W,
        later,
        totals,
    )


def _states_before(states: Array, batch: _Batch, start: Array, reverse: bool) -> Array:
    """State that each step continues, ``(B, S, D)``: h_{t-1}, of the backward direction h_{t+1}; at first the start."""
    before = np.zeros_like(states)
    if reverse:
        before[:, :-1] = states[:, 1:]
        rows = np.arange(len(states))
        before[rows, batch.is_step.sum(axis=1) - 1] = start
    else:
        before[:, 1:] = states[:, :-1]
        before[:, 0] = start
    return before


def _lengths(lengths: Sequence[int] | None, B: int, S: int) -> npt.NDArray[np.int64]:
    if lengths is None:
        return np.full(B, S)
    counts = np.asarray(lengths)
    if counts.shape != (B,) or counts.dtype.kind not in "iu":
        raise UserError(
            f"lengths has the shape {counts.shape} and the type {counts.dtype}: one integer for each of {B}"
        )
    for row, count in enumerate(counts.tolist()):
        if not 1 <= count <= S:
            raise UserError(f"lengths[{row}] is {count}: a length is from 1 to {S}, the steps of x")
    return counts.astype(np.int64)


def _numbers(name: str, value: Any) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}: it must be an array of real numbers") from None


def _finite(name: str, value: Any, ndim: int) -> Array:
    array = _numbers(name, value)
    if array.ndim != ndim:
        raise UserError(f"{name} has the shape {array.shape}: it must have {ndim} axes")
    bad = np.argwhere(~np.isfinite(array)).tolist()
    if bad:
        raise UserError(f"{name}[{', '.join(map(str, bad[0]))}] is {array[tuple(bad[0])]}: it must be finite")
    return array


def _has_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise UserError(f"{name} has the shape {array.shape}: it must be {shape} to fit the others")
