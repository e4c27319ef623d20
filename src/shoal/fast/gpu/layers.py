"""Kernels of LSTM, attention and GELU on a GPU. Their inputs and results are described in ``kernels.c``.

A kernel is run by many programs at once, each on a block: ``N`` rows (nodes, queries, examples) of ``K`` numbers, both
powers of two; masks leave out numbers beyond the sizes. ``r`` is the member; offsets that grow with it have 64 bits.
Code for a pointer that is None is left out when a kernel is compiled.

No two programs write the same number, and sums have a fixed order: the same work gives the same bits. Where C adds to a
table place by place, here each row of the table has a program that adds up the places that belong to it
(``attend_keys``, and ``sum_rows`` in :mod:`shoal.fast.gpu.rows`), which are sorted by row.
"""

# ruff: noqa: D103
import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    x2 = x * x
    series = x * (1.0 + x2 * (-0.333333333 + x2 * (0.133333333 + x2 * -0.0539682540)))
    general = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    return tl.where(x2 < 0.01, series, general)


@triton.jit
def gelu(n, x, y, K: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * K + tl.arange(0, K)
    value = tl.load(x + at, mask=at < n, other=0.0)
    p = 0.5 * (1.0 + tl.erf(value * 0.70710678))
    tl.store(y + at, value * p, mask=at < n)
    tl.store(x + at, p + value * tl.exp(-0.5 * value * value) * 0.39894228, mask=at < n)


@triton.jit
def _entering(gate, D, node_inputs, fresh: tl.constexpr, table, bias, projected, inside):
    """Inputs of the non-linearity of a gate, ``(N, K)``; pointers are to those of the first gate."""
    total = tl.zeros(inside.shape, tl.float32)
    if not fresh:
        total += tl.load(node_inputs + gate * D, mask=inside, other=0.0)
    if table is not None:
        total += tl.load(table + gate * D, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + gate * D, mask=inside, other=0.0)
    if projected is not None:
        total += tl.load(projected + gate * D, mask=inside, other=0.0)
    return total


@triton.jit(do_not_specialize=["start", "n"])  # they differ from level to level
def lstm_forward(
    M,
    D,
    start,
    n,
    gates,
    fresh: tl.constexpr,
    x,
    x_stride,
    x_rows,
    bias,
    projected,
    projected_stride,
    parents,
    h,
    c,
    c_parents,
    N: tl.constexpr,
    K: tl.constexpr,
):
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


@triton.jit(do_not_specialize=["start", "n"])  # they differ from level to level
def lstm_backward(
    M, D, start, n, gates, c, d_h, d_c, parents, c_parents, d_c_parents, N: tl.constexpr, K: tl.constexpr
):
    """Gradients for parents are added to them, or left in ``d_c`` of the nodes where a parent may have several."""
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
def _keys(i, n, r, h, S, E, kv_ld, kv_stride, kv_rows, lengths, j, e):
    """Mask of the keys that queries see, ``(N, J)``, offsets of a head of them, ``(N, J, K)``, and their mask."""
    seen = j[None, :] < tl.load(lengths + i, mask=i < n, other=0)[:, None]
    row = tl.load(kv_rows + (r * n + i)[:, None] * S + j[None, :], mask=seen, other=0)
    at = (r * kv_stride + row * kv_ld + h * E)[:, :, None] + e[None, None, :]
    return seen, at, seen[:, :, None] & (e < E)[None, None, :]


@triton.jit
def attend_forward(
    n,
    S,
    H,
    E,
    scale,
    q,
    q_ld,
    q_stride,
    q_rows,
    k,
    v,
    kv_ld,
    kv_stride,
    kv_rows,
    lengths,
    weights,
    context,
    N: tl.constexpr,
    J: tl.constexpr,
    K: tl.constexpr,
):
    """Attention of one head, ``E`` numbers, of ``N`` queries, each with ``J`` keys."""
    h, r = tl.program_id(1), tl.program_id(2).to(tl.int64)
    i, j, e = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, J), tl.arange(0, K)
    place = r * n + i
    row = i
    if q_rows is not None:
        row = tl.load(q_rows + place, mask=i < n, other=0)
    query_mask = (i < n)[:, None] & (e < E)[None, :]
    query = tl.load(q + r * q_stride + row[:, None] * q_ld + h * E + e[None, :], mask=query_mask, other=0.0)
    seen, at, inside = _keys(i, n, r, h, S, E, kv_ld, kv_stride, kv_rows, lengths, j, e)
    scores = scale * tl.sum(query[:, None, :] * tl.load(k + at, mask=inside, other=0.0), 2)
    top = tl.max(tl.where(seen, scores, -float("inf")), 1)
    w = tl.where(seen, tl.exp(scores - top[:, None]), 0.0)
    w = w / tl.sum(w, 1)[:, None]
    tl.store(weights + (place * H + h)[:, None] * S + j[None, :], w, mask=(i < n)[:, None] & (j < S)[None, :])
    out = tl.sum(w[:, :, None] * tl.load(v + at, mask=inside, other=0.0), 1)
    tl.store(context + (place * H + h)[:, None] * E + e[None, :], out, mask=query_mask)


@triton.jit
def attend_backward(
    n,
    S,
    H,
    E,
    scale,
    k,
    v,
    kv_ld,
    kv_stride,
    kv_rows,
    lengths,
    weights,
    d_context,
    d_scores,
    d_q,
    d_q_stride,
    adds: tl.constexpr,
    N: tl.constexpr,
    J: tl.constexpr,
    K: tl.constexpr,
):
    """Gradients of the scores, and of the queries, which are written or added to what is there."""
    h, r = tl.program_id(1), tl.program_id(2).to(tl.int64)
    i, j, e = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, J), tl.arange(0, K)
    place = r * n + i
    query_mask = (i < n)[:, None] & (e < E)[None, :]
    d_out = tl.load(d_context + (place * H + h)[:, None] * E + e[None, :], mask=query_mask, other=0.0)
    seen, at, inside = _keys(i, n, r, h, S, E, kv_ld, kv_stride, kv_rows, lengths, j, e)
    of_scores = (place * H + h)[:, None] * S + j[None, :]
    w = tl.load(weights + of_scores, mask=seen, other=0.0)
    d_w = tl.sum(d_out[:, None, :] * tl.load(v + at, mask=inside, other=0.0), 2)
    d_score = scale * w * (d_w - tl.sum(w * d_w, 1)[:, None])
    tl.store(d_scores + of_scores, d_score, mask=seen)
    total = tl.sum(d_score[:, :, None] * tl.load(k + at, mask=inside, other=0.0), 1)
    d_q += r * d_q_stride + i[:, None] * H * E + h * E + e[None, :]
    if adds:
        total += tl.load(d_q, mask=query_mask, other=0.0)
    tl.store(d_q, total, mask=query_mask)


@triton.jit
def attend_keys(
    n,
    S,
    H,
    E,
    q,
    q_ld,
    q_stride,
    q_rows,
    weights,
    d_context,
    d_scores,
    order,
    starts,
    Y,
    d_k,
    d_v,
    kv_ld,
    kv_stride,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Gradient of row ``p`` of ``Y`` rows of keys and values, for one head, from the queries that see it."""
    p, h, r = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    e = tl.arange(0, K)
    begin, end = tl.load(starts + r * (Y + 1) + p), tl.load(starts + r * (Y + 1) + p + 1)
    if begin < end:
        of_key, of_value = tl.zeros([N, K], tl.float32), tl.zeros([N, K], tl.float32)
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
            of_key += d_score[:, None] * query
            of_value += w[:, None] * d_out
        offsets = r * kv_stride + p * kv_ld + h * E + e
        tl.store(d_k + offsets, tl.load(d_k + offsets, mask=e < E, other=0.0) + tl.sum(of_key, 0), mask=e < E)
        tl.store(d_v + offsets, tl.load(d_v + offsets, mask=e < E, other=0.0) + tl.sum(of_value, 0), mask=e < E)
