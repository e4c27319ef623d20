"""The kernels of ``kernels.c`` for a card, in Triton: what each computes, and of what, is said there.

A kernel is run by many programs at once, each on a block: ``N`` rows (nodes, queries, examples) of ``K`` numbers, both
powers of two, of which there may be less. ``r`` is the member; offsets that grow with it are 64 bits wide. Pointers that
are None are left out of the code.

No two programs write the same number, and nothing is added up in an order of the moment: the same work gives the same
bits. Where C adds to a table place by place, here each row of the table has a program that adds up the places that
belong to it (``sum_rows``, ``attend_keys``), and finds them sorted by row.
"""

# ruff: noqa: D103
from typing import Any

import triton
import triton.language as tl

Number = Any  # a number, or a block of numbers
Pointer = Any


@triton.jit
def _tanh(x: Number) -> Number:
    x2 = x * x
    series = x * (1.0 + x2 * (-0.333333333 + x2 * (0.133333333 + x2 * -0.0539682540)))
    general = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    return tl.where(x2 < 0.01, series, general)


@triton.jit
def gelu(n: Number, x: Pointer, y: Pointer, K: tl.constexpr) -> None:
    at = tl.program_id(0).to(tl.int64) * K + tl.arange(0, K)
    own = tl.load(x + at, mask=at < n, other=0.0)
    p = 0.5 * (1.0 + tl.erf(own * 0.70710678))
    tl.store(y + at, own * p, mask=at < n)
    tl.store(x + at, p + own * tl.exp(-0.5 * own * own) * 0.39894228, mask=at < n)


@triton.jit
def _entering(
    gate: Number,
    D: Number,
    own: Pointer,
    fresh: tl.constexpr,
    table: Pointer,
    bias: Pointer,
    projected: Pointer,
    inside: Number,
) -> Number:
    """What enters the non-linearity of a gate; pointers to the first gate's part of it, ``(N, K)``."""
    total = tl.zeros(inside.shape, tl.float32)
    if not fresh:
        total += tl.load(own + gate * D, mask=inside, other=0.0)
    if table is not None:
        total += tl.load(table + gate * D, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + gate * D, mask=inside, other=0.0)
    if projected is not None:
        total += tl.load(projected + gate * D, mask=inside, other=0.0)
    return total


@triton.jit
def lstm_forward(
    M: Number,
    D: Number,
    start: Number,
    n: Number,
    gates: Pointer,
    fresh: tl.constexpr,
    x: Pointer,
    x_stride: Number,
    x_rows: Pointer,
    bias: Pointer,
    projected: Pointer,
    projected_stride: Number,
    parents: Pointer,
    h: Pointer,
    c: Pointer,
    c_parents: Pointer,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    r = tl.program_id(1).to(tl.int64)
    i, k = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, K)[None, :]
    inside = (i < n)[:, None] & (k < D)
    parent = i
    if parents is not None:
        parent = tl.load(parents + r * n + i, mask=i < n, other=0)
    state = (r * M + start + i)[:, None] * D + k
    gates += (r * M + start + i)[:, None] * 4 * D + k
    if x is not None:
        row = tl.load(x_rows + r * M + start + i, mask=i < n, other=0)
        x += r * x_stride + row[:, None] * 4 * D + k
    if bias is not None:
        bias += r * 4 * D + k + tl.zeros(inside.shape, tl.int32)
    if projected is not None:
        projected += r * projected_stride + parent[:, None] * 4 * D + k
    f = tl.sigmoid(_entering(0, D, gates, fresh, x, bias, projected, inside))
    new_in = tl.sigmoid(_entering(1, D, gates, fresh, x, bias, projected, inside))
    o = tl.sigmoid(_entering(2, D, gates, fresh, x, bias, projected, inside))
    new = _tanh(_entering(3, D, gates, fresh, x, bias, projected, inside))
    cell = new_in * new
    if c_parents is not None:
        cell += f * tl.load(c_parents + r * M * D + parent[:, None] * D + k, mask=inside, other=0.0)
    tl.store(gates, f, mask=inside)
    tl.store(gates + D, new_in, mask=inside)
    tl.store(gates + 2 * D, o, mask=inside)
    tl.store(gates + 3 * D, new, mask=inside)
    tl.store(c + state, cell, mask=inside)
    tl.store(h + state, o * _tanh(cell), mask=inside)


@triton.jit
def lstm_backward(
    M: Number,
    D: Number,
    start: Number,
    n: Number,
    gates: Pointer,
    c: Pointer,
    d_h: Pointer,
    d_c: Pointer,
    parents: Pointer,
    c_parents: Pointer,
    d_c_parents: Pointer,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """What goes to the parents is added to them, or where a parent has several children left in ``d_c`` of the nodes."""
    r = tl.program_id(1).to(tl.int64)
    i, k = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, K)[None, :]
    inside = (i < n)[:, None] & (k < D)
    state = (r * M + start + i)[:, None] * D + k
    gates += (r * M + start + i)[:, None] * 4 * D + k
    f, new_in = tl.load(gates, mask=inside, other=0.0), tl.load(gates + D, mask=inside, other=0.0)
    o, new = tl.load(gates + 2 * D, mask=inside, other=0.0), tl.load(gates + 3 * D, mask=inside, other=0.0)
    dh, t = tl.load(d_h + state, mask=inside, other=0.0), _tanh(tl.load(c + state, mask=inside, other=0.0))
    cell = tl.load(d_c + state, mask=inside, other=0.0) + dh * o * (1.0 - t * t)
    d_f = tl.zeros(inside.shape, tl.float32)
    if c_parents is not None:
        parent = i
        if parents is not None:
            parent = tl.load(parents + r * n + i, mask=i < n, other=0)
        of_parent = r * M * D + parent[:, None] * D + k
        d_f = cell * tl.load(c_parents + of_parent, mask=inside, other=0.0) * f * (1.0 - f)
        if parents is None:
            before = tl.load(d_c_parents + of_parent, mask=inside, other=0.0)
            tl.store(d_c_parents + of_parent, before + cell * f, mask=inside)
        else:
            tl.store(d_c + state, cell * f, mask=inside)
    tl.store(gates, d_f, mask=inside)
    tl.store(gates + D, cell * new * new_in * (1.0 - new_in), mask=inside)
    tl.store(gates + 2 * D, dh * t * o * (1.0 - o), mask=inside)
    tl.store(gates + 3 * D, cell * new_in * (1.0 - new * new), mask=inside)


@triton.jit
def sum_rows(
    values: Pointer,
    stride: Number,
    size: Number,
    order: Pointer,
    starts: Pointer,
    n: Number,
    X: Number,
    out: Pointer,
    out_stride: Number,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Add to row ``p`` of a table ``(., size)`` the values ``(., size)`` at ``order[starts[p] : starts[p + 1]]``."""
    p, r = tl.program_id(0), tl.program_id(2).to(tl.int64)
    k = tl.program_id(1) * K + tl.arange(0, K)
    begin, end = tl.load(starts + r * (X + 1) + p), tl.load(starts + r * (X + 1) + p + 1)
    if begin < end:
        total = tl.zeros([K], tl.float32)
        for first in range(begin, end, N):
            at = first + tl.arange(0, N)
            place = tl.load(order + r * n + at, mask=at < end, other=0)
            inside = (at < end)[:, None] & (k < size)[None, :]
            total += tl.sum(tl.load(values + r * stride + place[:, None] * size + k, mask=inside, other=0.0), 0)
        out += r * out_stride + p * size + k
        tl.store(out, tl.load(out, mask=k < size, other=0.0) + total, mask=k < size)


@triton.jit
def attend_forward(
    n: Number,
    S: Number,
    H: Number,
    E: Number,
    scale: Number,
    q: Pointer,
    q_ld: Number,
    q_stride: Number,
    q_rows: Pointer,
    k: Pointer,
    v: Pointer,
    kv_ld: Number,
    kv_stride: Number,
    kv_rows: Pointer,
    lengths: Pointer,
    weights: Pointer,
    context: Pointer,
    N: tl.constexpr,
    J: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """One head, ``E`` numbers, of ``N`` queries, each with ``J`` keys."""
    h, r = tl.program_id(1), tl.program_id(2).to(tl.int64)
    i, j, e = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, J), tl.arange(0, K)
    place = r * n + i
    row = i
    if q_rows is not None:
        row = tl.load(q_rows + place, mask=i < n, other=0)
    own = (i < n)[:, None] & (e < E)[None, :]
    query = tl.load(q + r * q_stride + row[:, None] * q_ld + h * E + e[None, :], mask=own, other=0.0)
    seen = j[None, :] < tl.load(lengths + i, mask=i < n, other=0)[:, None]  # (N, J)
    key = tl.load(kv_rows + place[:, None] * S + j[None, :], mask=seen, other=0)
    at = (r * kv_stride + key * kv_ld + h * E)[:, :, None] + e[None, None, :]  # (N, J, K)
    inside = seen[:, :, None] & (e < E)[None, None, :]
    scores = scale * tl.sum(query[:, None, :] * tl.load(k + at, mask=inside, other=0.0), 2)
    top = tl.max(tl.where(seen, scores, -float("inf")), 1)
    w = tl.where(seen, tl.exp(scores - top[:, None]), 0.0)
    w = w / tl.sum(w, 1)[:, None]
    tl.store(weights + (place * H + h)[:, None] * S + j[None, :], w, mask=(i < n)[:, None] & (j < S)[None, :])
    out = tl.sum(w[:, :, None] * tl.load(v + at, mask=inside, other=0.0), 1)
    tl.store(context + (place * H + h)[:, None] * E + e[None, :], out, mask=own)


@triton.jit
def attend_backward(
    n: Number,
    S: Number,
    H: Number,
    E: Number,
    scale: Number,
    k: Pointer,
    v: Pointer,
    kv_ld: Number,
    kv_stride: Number,
    kv_rows: Pointer,
    lengths: Pointer,
    weights: Pointer,
    d_context: Pointer,
    d_scores: Pointer,
    d_q: Pointer,
    d_q_stride: Number,
    adds: tl.constexpr,
    N: tl.constexpr,
    J: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Gradients of the scores, and of the queries, which are written or added to what is there."""
    h, r = tl.program_id(1), tl.program_id(2).to(tl.int64)
    i, j, e = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, J), tl.arange(0, K)
    place = r * n + i
    own = (i < n)[:, None] & (e < E)[None, :]
    d_out = tl.load(d_context + (place * H + h)[:, None] * E + e[None, :], mask=own, other=0.0)
    seen = j[None, :] < tl.load(lengths + i, mask=i < n, other=0)[:, None]  # (N, J)
    key = tl.load(kv_rows + place[:, None] * S + j[None, :], mask=seen, other=0)
    at = (r * kv_stride + key * kv_ld + h * E)[:, :, None] + e[None, None, :]  # (N, J, K)
    inside = seen[:, :, None] & (e < E)[None, None, :]
    of_scores = (place * H + h)[:, None] * S + j[None, :]
    w = tl.load(weights + of_scores, mask=seen, other=0.0)
    d_w = tl.sum(d_out[:, None, :] * tl.load(v + at, mask=inside, other=0.0), 2)
    d_score = scale * w * (d_w - tl.sum(w * d_w, 1)[:, None])
    tl.store(d_scores + of_scores, d_score, mask=seen)
    total = tl.sum(d_score[:, :, None] * tl.load(k + at, mask=inside, other=0.0), 1)
    d_q += r * d_q_stride + i[:, None] * H * E + h * E + e[None, :]
    if adds:
        total += tl.load(d_q, mask=own, other=0.0)
    tl.store(d_q, total, mask=own)


@triton.jit
def attend_keys(
    n: Number,
    S: Number,
    H: Number,
    E: Number,
    q: Pointer,
    q_ld: Number,
    q_stride: Number,
    q_rows: Pointer,
    weights: Pointer,
    d_context: Pointer,
    d_scores: Pointer,
    order: Pointer,
    starts: Pointer,
    Y: Number,
    d_k: Pointer,
    d_v: Pointer,
    kv_ld: Number,
    kv_stride: Number,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Add to row ``p`` of the keys and values, for one head, what comes of the queries that see it."""
    p, h, r = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    e = tl.arange(0, K)
    begin, end = tl.load(starts + r * (Y + 1) + p), tl.load(starts + r * (Y + 1) + p + 1)
    if begin < end:
        of_key, of_value = tl.zeros([K], tl.float32), tl.zeros([K], tl.float32)
        for first in range(begin, end, N):
            at = first + tl.arange(0, N)
            entry = tl.load(order + r * n * S + at, mask=at < end, other=0)
            place = r * n + entry // S  # of the query
            row = entry // S
            if q_rows is not None:
                row = tl.load(q_rows + place, mask=at < end, other=0)
            of_score = (place * H + h) * S + entry % S
            w = tl.load(weights + of_score, mask=at < end, other=0.0)
            d_score = tl.load(d_scores + of_score, mask=at < end, other=0.0)
            inside = (at < end)[:, None] & (e < E)[None, :]
            query = tl.load(q + r * q_stride + row[:, None] * q_ld + h * E + e[None, :], mask=inside, other=0.0)
            d_out = tl.load(d_context + (place * H + h)[:, None] * E + e[None, :], mask=inside, other=0.0)
            of_key += tl.sum(d_score[:, None] * query, 0)
            of_value += tl.sum(w[:, None] * d_out, 0)
        own = r * kv_stride + p * kv_ld + h * E + e
        tl.store(d_k + own, tl.load(d_k + own, mask=e < E, other=0.0) + of_key, mask=e < E)
        tl.store(d_v + own, tl.load(d_v + own, mask=e < E, other=0.0) + of_value, mask=e < E)


@triton.jit
def add_norm_forward(
    n: Number,
    D: Number,
    x: Pointer,
    x_stride: Number,
    x_rows: Pointer,
    a: Pointer,
    bias: Pointer,
    weight: Pointer,
    shift: Pointer,
    eps: Number,
    inverse: Pointer,
    y: Pointer,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    r = tl.program_id(1).to(tl.int64)
    i, k = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, K)[None, :]
    inside = (i < n)[:, None] & (k < D)
    row = i
    if x_rows is not None:
        row = tl.load(x_rows + r * n + i, mask=i < n, other=0)
    at = (r * n + i)[:, None] * D + k
    z = tl.load(a + at, mask=inside, other=0.0)
    z += tl.load(x + r * x_stride + row[:, None] * D + k, mask=inside, other=0.0)
    if bias is not None:
        z += tl.load(bias + r * D + k, mask=k < D, other=0.0)
    z = tl.where(inside, z - (tl.sum(z, 1) / D)[:, None], 0.0)
    inv = 1.0 / tl.sqrt(tl.sum(z * z, 1) / D + eps)
    z = z * inv[:, None]
    tl.store(inverse + r * n + i, inv, mask=i < n)
    tl.store(a + at, z, mask=inside)
    w, s = tl.load(weight + r * D + k, mask=k < D, other=0.0), tl.load(shift + r * D + k, mask=k < D, other=0.0)
    tl.store(y + at, z * w + s, mask=inside)


@triton.jit
def add_norm_backward(
    n: Number,
    D: Number,
    normal: Pointer,
    inverse: Pointer,
    weight: Pointer,
    d_y: Pointer,
    d_sum: Pointer,
    d_x: Pointer,
    x_stride: Number,
    adds: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Gradients of the rows; ``d_x`` too, where the rows of x are those of the sum."""
    r = tl.program_id(1).to(tl.int64)
    i, k = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, K)[None, :]
    inside = (i < n)[:, None] & (k < D)
    at = (r * n + i)[:, None] * D + k
    z = tl.load(normal + at, mask=inside, other=0.0)
    dz = tl.load(d_y + at, mask=inside, other=0.0) * tl.load(weight + r * D + k, mask=k < D, other=0.0)
    inv = tl.load(inverse + r * n + i, mask=i < n, other=0.0)
    d = inv[:, None] * (dz - (tl.sum(dz, 1) / D)[:, None] - z * (tl.sum(dz * z, 1) / D)[:, None])
    tl.store(d_sum + at, d, mask=inside)
    if d_x is not None:
        d_x += r * x_stride + i[:, None] * D + k
        if adds:
            d += tl.load(d_x, mask=inside, other=0.0)
        tl.store(d_x, d, mask=inside)


@triton.jit
def add_norm_columns(
    n: Number,
    D: Number,
    normal: Pointer,
    d_y: Pointer,
    d_sum: Pointer,
    d_weight: Pointer,
    d_shift: Pointer,
    d_bias: Pointer,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Add up the gradients of weight, shift and bias over the rows."""
    r = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * K + tl.arange(0, K)
    of_weight, of_shift, of_bias = tl.zeros([K], tl.float32), tl.zeros([K], tl.float32), tl.zeros([K], tl.float32)
    for first in range(0, n, N):
        i = first + tl.arange(0, N)
        at, inside = (r * n + i)[:, None] * D + k[None, :], (i < n)[:, None] & (k < D)[None, :]
        dy = tl.load(d_y + at, mask=inside, other=0.0)
        of_weight += tl.sum(dy * tl.load(normal + at, mask=inside, other=0.0), 0)
        of_shift += tl.sum(dy, 0)
        if d_bias is not None:
            of_bias += tl.sum(tl.load(d_sum + at, mask=inside, other=0.0), 0)
    own = r * D + k
    tl.store(d_weight + own, tl.load(d_weight + own, mask=k < D, other=0.0) + of_weight, mask=k < D)
    tl.store(d_shift + own, tl.load(d_shift + own, mask=k < D, other=0.0) + of_shift, mask=k < D)
    if d_bias is not None:
        tl.store(d_bias + own, tl.load(d_bias + own, mask=k < D, other=0.0) + of_bias, mask=k < D)


@triton.jit
def score(
    n: Number,
    B: Number,
    V: Number,
    logits: Pointer,
    targets: Pointer,
    share: Pointer,
    smoothing: Number,
    loss: Pointer,
    accuracy: Pointer,
    d_logits: Pointer,
    K: tl.constexpr,
) -> None:
    """One example, answer after answer."""
    b, r = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    total_loss, right = 0.0, 1.0
    for answer in range(0, n):
        i = (r * n + answer) * B + b
        counts = tl.load(share + i)
        if counts == 0.0:  # of no interest, whatever it is
            tl.store(d_logits + i * V + k, tl.zeros([K], tl.float32), mask=k < V)
        else:
            target = tl.load(targets + i)
            z = tl.load(logits + i * V + k, mask=k < V, other=-float("inf"))
            top = tl.max(z, 0)
            e = tl.where(k < V, tl.exp(z - top), 0.0)
            total = tl.sum(e, 0)
            own = tl.load(logits + i * V + target)
            value = tl.log(total) + (1.0 - smoothing) * (top - own)
            if smoothing > 0.0:  # the mean may be infinite
                value += smoothing * (top - tl.sum(tl.where(k < V, z, 0.0), 0) / V)
            total_loss += counts * value
            first = tl.min(tl.where((k < V) & (z >= top), k, K), 0)
            right = tl.where(first == target, right, 0.0)
            d = e / total - smoothing / V
            tl.store(d_logits + i * V + k, tl.where(k == target, d - (1.0 - smoothing), d), mask=k < V)
    tl.store(loss + r * B + b, total_loss)
    tl.store(accuracy + r * B + b, right)


@triton.jit
def adam(
    P: Number,
    theta: Pointer,
    before: Pointer,
    gradient: Pointer,
    m: Pointer,
    v: Pointer,
    scale: Pointer,
    lr: Pointer,
    beta1: Pointer,
    beta2: Pointer,
    eps: Pointer,
    count: Pointer,
    decay: Pointer,
    per_parameter: tl.constexpr,
    decoupled: tl.constexpr,
    moves: Pointer,
    odd: Pointer,
    K: tl.constexpr,
) -> None:
    """``odd`` says of each block whether it has numbers that are not finite."""
    r, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    k = block * K + tl.arange(0, K)
    at, inside = r * P + k, k < P
    if tl.load(moves + r) != 0:
        own1, own2, rate = tl.load(beta1 + r), tl.load(beta2 + r), tl.load(lr + r)  # float64
        steps = tl.load(count + r)
        power1, power2 = tl.exp(steps * tl.log(own1)), tl.exp(steps * tl.log(own2))
        w1, w2, w3 = (1.0 - own1).to(tl.float32), own2.to(tl.float32), (1.0 - own2).to(tl.float32)
        root = tl.sqrt(1.0 - power2).to(tl.float32)
        size, tiny = (rate / (1.0 - power1)).to(tl.float32), tl.load(eps + r).to(tl.float32)
        if per_parameter:
            own_decay = tl.load(decay + at, mask=inside, other=0.0)
        else:
            own_decay = tl.load(decay + r)
        t = tl.load(theta + at, mask=inside, other=0.0)
        tl.store(before + at, t, mask=inside)
        g = tl.load(scale + r) * tl.load(gradient + at, mask=inside, other=0.0)
        if decoupled:
            t *= (1.0 - rate * own_decay).to(tl.float32)
        else:
            g += own_decay.to(tl.float32) * t
        mk, vk = tl.load(m + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0)
        mk += w1 * (g - mk)
        vk = w2 * vk + w3 * g * g
        t -= size * (mk / (tl.sqrt(vk) / root + tiny))
        tl.store(m + at, mk, mask=inside)
        tl.store(v + at, vk, mask=inside)
        tl.store(theta + at, t, mask=inside)
        is_odd = tl.max(tl.where(inside & ((t - t) != 0.0), 1, 0), 0)
        tl.store(odd + r * tl.num_programs(0) + block, is_odd.to(tl.int8))
    else:
        tl.store(before + at, tl.load(theta + at, mask=inside, other=0.0), mask=inside)
        tl.store(odd + r * tl.num_programs(0) + block, tl.zeros([], tl.int8))
