"""Kernels of sums of rows, norms, scores and Adam on a GPU; see :mod:`shoal.fast.gpu.layers` for conventions."""

# ruff: noqa: D103
import triton
import triton.language as tl


@triton.jit
def sum_rows(values, stride, size, order, starts, n, X, out, out_stride, N: tl.constexpr, K: tl.constexpr):
    """Add to row ``p`` of a table ``(., size)`` the values ``(., size)`` at ``order[starts[p] : starts[p + 1]]``."""
    p, r = tl.program_id(0), tl.program_id(2).to(tl.int64)
    k = tl.program_id(1) * K + tl.arange(0, K)
    begin, end = tl.load(starts + r * (X + 1) + p), tl.load(starts + r * (X + 1) + p + 1)
    if begin < end:
        total = tl.zeros([N, K], tl.float32)
        for first in range(begin, end, N):
            at = first + tl.arange(0, N)
            place = tl.load(order + r * n + at, mask=at < end, other=0)
            inside = (at < end)[:, None] & (k < size)[None, :]
            total += tl.load(values + r * stride + place[:, None] * size + k, mask=inside, other=0.0)
        to = out + r * out_stride + p * size + k
        tl.store(to, tl.load(to, mask=k < size, other=0.0) + tl.sum(total, 0), mask=k < size)


@triton.jit(do_not_specialize=["ld"])  # which is another in a stack of one
def add_norm_forward(
    n, D, x, x_stride, x_rows, a, bias, weight, shift, ld, eps, inverse, y, N: tl.constexpr, K: tl.constexpr
):
    r = tl.program_id(1).to(tl.int64)
    i, k = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, K)[None, :]
    inside = (i < n)[:, None] & (k < D)
    row = i
    if x_rows is not None:
        row = tl.load(x_rows + r * n + i, mask=i < n, other=0)
    at = (r * n + i)[:, None] * D + k
    of_vector = r * ld + k + tl.zeros(inside.shape, tl.int32)  # laid out as the rows are
    z = tl.load(a + at, mask=inside, other=0.0)
    z += tl.load(x + r * x_stride + row[:, None] * D + k, mask=inside, other=0.0)
    if bias is not None:
        z += tl.load(bias + of_vector, mask=inside, other=0.0)
    z = tl.where(inside, z - (tl.sum(z, 1) / D)[:, None], 0.0)
    inv = 1.0 / tl.sqrt(tl.sum(z * z, 1) / D + eps)
    z = z * inv[:, None]
    tl.store(inverse + r * n + i, inv, mask=i < n)
    tl.store(a + at, z, mask=inside)
    w, s = tl.load(weight + of_vector, mask=inside, other=0.0), tl.load(shift + of_vector, mask=inside, other=0.0)
    tl.store(y + at, z * w + s, mask=inside)


@triton.jit(do_not_specialize=["ld"])
def add_norm_backward(
    n, D, normal, inverse, weight, ld, d_y, d_sum, d_x, x_stride, adds: tl.constexpr, N: tl.constexpr, K: tl.constexpr
):
    """Gradients of the rows; ``d_x`` too, where the rows of x are those of the sum."""
    r = tl.program_id(1).to(tl.int64)
    i, k = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, K)[None, :]
    inside = (i < n)[:, None] & (k < D)
    at = (r * n + i)[:, None] * D + k
    of_vector = r * ld + k + tl.zeros(inside.shape, tl.int32)  # laid out as the rows are
    z = tl.load(normal + at, mask=inside, other=0.0)
    dz = tl.load(d_y + at, mask=inside, other=0.0) * tl.load(weight + of_vector, mask=inside, other=0.0)
    inv = tl.load(inverse + r * n + i, mask=i < n, other=0.0)
    d = inv[:, None] * (dz - (tl.sum(dz, 1) / D)[:, None] - z * (tl.sum(dz * z, 1) / D)[:, None])
    tl.store(d_sum + at, d, mask=inside)
    if d_x is not None:
        d_x += r * x_stride + i[:, None] * D + k
        if adds:
            d += tl.load(d_x, mask=inside, other=0.0)
        tl.store(d_x, d, mask=inside)


@triton.jit(do_not_specialize=["d_ld"])
def add_norm_columns(n, D, normal, d_y, d_sum, d_weight, d_shift, d_bias, d_ld, N: tl.constexpr, K: tl.constexpr):
    """Add up the gradients of weight, shift and bias over the rows."""
    r = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * K + tl.arange(0, K)
    of_weight, of_shift = tl.zeros([N, K], tl.float32), tl.zeros([N, K], tl.float32)
    of_bias = tl.zeros([N, K], tl.float32)
    for first in tl.range(0, n, N, num_stages=3):  # rows are fetched while others are added
        i = first + tl.arange(0, N)
        at, inside = (r * n + i)[:, None] * D + k[None, :], (i < n)[:, None] & (k < D)[None, :]
        dy = tl.load(d_y + at, mask=inside, other=0.0)
        of_weight += dy * tl.load(normal + at, mask=inside, other=0.0)
        of_shift += dy
        if d_bias is not None:
            of_bias += tl.load(d_sum + at, mask=inside, other=0.0)
    offsets = r * d_ld + k
    tl.store(d_weight + offsets, tl.load(d_weight + offsets, mask=k < D, other=0.0) + tl.sum(of_weight, 0), mask=k < D)
    tl.store(d_shift + offsets, tl.load(d_shift + offsets, mask=k < D, other=0.0) + tl.sum(of_shift, 0), mask=k < D)
    if d_bias is not None:
        tl.store(d_bias + offsets, tl.load(d_bias + offsets, mask=k < D, other=0.0) + tl.sum(of_bias, 0), mask=k < D)


@triton.jit
def score(n, B, V, logits, targets, share, smoothing, loss, accuracy, d_logits, K: tl.constexpr):
    """Scores of one example, answer after answer."""
    b, r = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k = tl.arange(0, K)
    total_loss, right = 0.0, 1.0
    for answer in range(n):
        i = (r * n + answer) * B + b
        counts = tl.load(share + i)
        if counts == 0.0:  # not scored
            tl.store(d_logits + i * V + k, tl.zeros([K], tl.float32), mask=k < V)
        else:
            target = tl.load(targets + i)
            z = tl.load(logits + i * V + k, mask=k < V, other=-float("inf"))
            top = tl.max(z, 0)
            e = tl.where(k < V, tl.exp(z - top), 0.0)
            total = tl.sum(e, 0)
            of_target = tl.load(logits + i * V + target)
            value = tl.log(total) + (1.0 - smoothing) * (top - of_target)
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
    P,
    theta,
    before,
    gradient,
    m,
    v,
    scale,
    lr,
    beta1,
    beta2,
    eps,
    count,
    decay,
    per_parameter: tl.constexpr,
    decoupled: tl.constexpr,
    moves,
    infinite,
    K: tl.constexpr,
):
    """Update of one block of one member; ``infinite`` of each block is 1 if it has numbers that are not finite."""
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
        own_decay = tl.load(decay + at, mask=inside, other=0.0) if per_parameter else tl.load(decay + r)
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
        is_infinite = tl.max(tl.where(inside & ((t - t) != 0.0), 1, 0), 0)
        tl.store(infinite + r * tl.num_programs(0) + block, is_infinite.to(tl.int8))
    else:
        tl.store(before + at, tl.load(theta + at, mask=inside, other=0.0), mask=inside)
        tl.store(infinite + r * tl.num_programs(0) + block, tl.zeros([], tl.int8))
