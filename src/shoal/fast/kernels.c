/* The parts of a training step that are not matrix products, each in one pass over its data.
 *
 * Every function works on R members. Arrays are row-major float32 with a stride, in elements, from one member to the
 * next, so that a slice of a larger array can be used in place. "rows" are indices of rows, int64: entry i says which
 * row of a table stands at place i; NULL means row i itself. Gradients of tables are added up in the order of the
 * places: the same sums every time. What comes in as NaN comes out as NaN.
 *
 * Compiled with -fopenmp, the work is shared between the threads of torch; with -fopenmp-simd the pragmas only let a
 * sum be split over the lanes of a vector, and nothing uses a thread.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_max_threads() 1 /* of torch, which has the same runtime */
#endif

typedef int64_t idx;

/* Threads. A kernel's work is cut into as many parts as there are threads: whole members where there are enough of
 * them, else the same rows of each. Part 0 adds to the tables of gradients themselves, and so do parts of whole members;
 * any other part adds to zeros of its own, which are added to the tables in the order of the parts. The same sums
 * every time, then, for the same number of threads. (Attention's backward is cut by heads, which share no sum.) */
typedef struct {
    idx r, R, i, n; /* members r to R, rows i to n */
    int own;        /* whether its sums are its own */
} Part;

#define WORTH 8192 /* numbers for which it is worth telling the threads */
static inline idx parts_of(idx numbers) { return numbers < WORTH ? 1 : omp_get_max_threads(); }

static inline Part part_of(idx part, idx parts, idx R, idx n) {
    if (R >= parts) return (Part){R * part / parts, R * (part + 1) / parts, 0, n, 0};
    return (Part){0, R, n * part / parts, n * (part + 1) / parts, part > 0};
}

/* Where a part adds what belongs to a table of R members: size numbers at every stride. */
static float *sums(Part at, float *table, idx R, idx stride, idx size) {
    if (!at.own || !table) return table;
    float *zeros = calloc((R - 1) * stride + size, sizeof(float));
    if (!zeros) abort(); /* memory is at its end; a NULL would leave the sums out */
    return zeros;
}

static inline void add(float *restrict to, const float *restrict from, idx n) {
#pragma omp simd
    for (idx k = 0; k < n; k++) to[k] += from[k];
}

static void add_sums(float *table, float *own, idx R, idx stride, idx size) {
    if (own == table) return;
    for (idx r = 0; r < R; r++) add(table + r * stride, own + r * stride, size);
    free(own);
}

/* exp(x), about 1 ulp, vectorisable: 2^n by the exponent bits, the rest by a polynomial. */
static inline float exp_(float x) {
    x = x > 88.0f ? 88.0f : x; /* not fminf: a NaN must stay one */
    x = x < -87.0f ? -87.0f : x;
    float n = x * 1.44269504f;
    n = (n + 12582912.0f) - 12582912.0f; /* round to the nearest integer */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    union { int32_t i; float f; } two_n = {((int32_t)n + 127) << 23};
    return p * two_n.f;
}

static inline float sigmoid_(float x) { return 1.0f / (1.0f + exp_(-x)); }

/* tanh(x): by exp, and by its series where that would cancel. */
static inline float tanh_(float x) {
    float x2 = x * x;
    float series = x * (1.0f + x2 * (-0.333333333f + x2 * (0.133333333f + x2 * -0.0539682540f)));
    float general = 1.0f - 2.0f / (1.0f + exp_(2.0f * x));
    return x2 < 0.01f ? series : general;
}

/* The normal distribution function: Abramowitz & Stegun 7.1.26, absolute error 1.5e-7; e is exp(-x^2 / 2). */
static inline float normal_(float x, float e) {
    const float u = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * u);
    const float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
                       + t * 1.061405429f)))) * e * 0.5f;
    return x < 0.0f ? tail : 1.0f - tail;
}

/* GELU of n numbers; they become its slope there. */
void gelu(idx n, float *restrict x, float *restrict y) {
#pragma omp parallel for simd schedule(static) if (parallel : n >= WORTH)
    for (idx i = 0; i < n; i++) {
        const float e = exp_(-0.5f * x[i] * x[i]), p = normal_(x[i], e);
        y[i] = x[i] * p;
        x[i] = p + x[i] * e * 0.39894228f;
    }
}

/* One time step of an LSTM layer over M nodes: that of n nodes from start on, with parents from node before on, or none
 * if that is negative. In place: gates (M, 4D), in the order forget, input, output, candidate, come in as a part of what
 * enters their non-linearities and go out behind them. What is missing of that part is added: a row of the table x (if
 * fresh, it replaces what gates held), bias (4D), and the projected states of the parent (., 4D).
 *   c (M, D) of the parents  ->  h (M, D), c (M, D) of the nodes */
void lstm_forward(idx R, idx M, idx D, idx start, idx n, idx before, float *gates, idx fresh, const float *x,
                  idx x_stride, const idx *x_rows, const float *bias, const float *projected, idx projected_stride,
                  const idx *parents, float *h, float *c) {
    const idx state_stride = M * D;
    const float *c_parent = before < 0 ? NULL : c + before * D;
    gates += start * 4 * D, h += start * D, c += start * D;
    const idx parts = parts_of(R * n * D);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) {
        const Part at = part_of(part, parts, R, n);
        for (idx r = at.r; r < at.R; r++)
            for (idx i = at.i; i < at.n; i++) {
                const idx parent = parents ? parents[r * n + i] : i;
                float *restrict g = gates + r * M * 4 * D + i * 4 * D;
                float *restrict hi = h + r * state_stride + i * D, *restrict ci = c + r * state_stride + i * D;
                if (x) {
                    const float *restrict xi = x + r * x_stride + x_rows[r * M + start + i] * 4 * D;
                    if (fresh)
                        memcpy(g, xi, 4 * D * sizeof(float));
                    else
                        add(g, xi, 4 * D);
                }
                if (bias) add(g, bias + r * 4 * D, 4 * D);
                if (projected) add(g, projected + r * projected_stride + parent * 4 * D, 4 * D);
                if (c_parent) {
                    const float *restrict cp = c_parent + r * state_stride + parent * D;
#pragma omp simd
                    for (idx k = 0; k < D; k++) {
                        const float f = sigmoid_(g[k]), in = sigmoid_(g[D + k]);
                        const float o = sigmoid_(g[2 * D + k]), new = tanh_(g[3 * D + k]);
                        const float cell = f * cp[k] + in * new;
                        g[k] = f, g[D + k] = in, g[2 * D + k] = o, g[3 * D + k] = new;
                        ci[k] = cell, hi[k] = o * tanh_(cell);
                    }
                } else {
#pragma omp simd
                    for (idx k = 0; k < D; k++) {
                        const float f = sigmoid_(g[k]), in = sigmoid_(g[D + k]);
                        const float o = sigmoid_(g[2 * D + k]), new = tanh_(g[3 * D + k]);
                        const float cell = in * new;
                        g[k] = f, g[D + k] = in, g[2 * D + k] = o, g[3 * D + k] = new;
                        ci[k] = cell, hi[k] = o * tanh_(cell);
                    }
                }
            }
    }
}

/* Its backward, in place: gates become the gradient before the non-linearities, from d_h and d_c (M, D). That is added to
 * d_c of the parents and, where they are given, to d_projected (., 4D) of the n_parents from before on, the table d_x
 * (., 4D) and d_bias (4D). */
void lstm_backward(idx R, idx M, idx D, idx start, idx n, idx before, float *gates, const float *c, const float *d_h,
                   float *d_c, const idx *parents, idx n_parents, float *d_projected, idx projected_stride, float *d_x,
                   idx x_stride, const idx *x_rows, float *d_bias) {
    const idx state_stride = M * D;
    const float *c_parent = before < 0 ? NULL : c + before * D;
    float *d_c_parent = before < 0 ? NULL : d_c + before * D;
    if (d_projected) d_projected += before * 4 * D;
    gates += start * 4 * D, c += start * D, d_h += start * D, d_c += start * D;
    const idx parts = parts_of(R * n * D);
#pragma omp parallel for ordered schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) {
        const Part at = part_of(part, parts, R, n);
        float *dcs = parents ? sums(at, d_c_parent, R, state_stride, n_parents * D) : d_c_parent;
        float *dps = sums(at, d_projected, R, projected_stride, n_parents * 4 * D);
        float *dxs = sums(at, d_x, R, x_stride, x_stride), *dbs = sums(at, d_bias, R, 4 * D, 4 * D);
        for (idx r = at.r; r < at.R; r++)
            for (idx i = at.i; i < at.n; i++) {
                const idx parent = parents ? parents[r * n + i] : i;
                float *restrict g = gates + r * M * 4 * D + i * 4 * D;
                const float *restrict ci = c + r * state_stride + i * D;
                const float *restrict dh = d_h + r * state_stride + i * D, *restrict dc = d_c + r * state_stride + i * D;
                if (c_parent) {
                    const float *restrict cp = c_parent + r * state_stride + parent * D;
                    float *restrict dcp = dcs + r * state_stride + parent * D;
#pragma omp simd
                    for (idx k = 0; k < D; k++) {
                        const float f = g[k], in = g[D + k], o = g[2 * D + k], new = g[3 * D + k], t = tanh_(ci[k]);
                        const float cell = dc[k] + dh[k] * o * (1.0f - t * t);
                        g[k] = cell * cp[k] * f * (1.0f - f);
                        g[D + k] = cell * new * in * (1.0f - in);
                        g[2 * D + k] = dh[k] * t * o * (1.0f - o);
                        g[3 * D + k] = cell * in * (1.0f - new * new);
                        dcp[k] += cell * f;
                    }
                } else {
#pragma omp simd
                    for (idx k = 0; k < D; k++) {
                        const float in = g[D + k], o = g[2 * D + k], new = g[3 * D + k], t = tanh_(ci[k]);
                        const float cell = dc[k] + dh[k] * o * (1.0f - t * t);
                        g[k] = 0.0f;
                        g[D + k] = cell * new * in * (1.0f - in);
                        g[2 * D + k] = dh[k] * t * o * (1.0f - o);
                        g[3 * D + k] = cell * in * (1.0f - new * new);
                    }
                }
                if (dps) add(dps + r * projected_stride + parent * 4 * D, g, 4 * D);
                if (dxs) add(dxs + r * x_stride + x_rows[r * M + start + i] * 4 * D, g, 4 * D);
                if (dbs) add(dbs + r * 4 * D, g, 4 * D);
            }
#pragma omp ordered
        {
            add_sums(d_c_parent, dcs, R, state_stride, n_parents * D);
            add_sums(d_projected, dps, R, projected_stride, n_parents * 4 * D);
            add_sums(d_x, dxs, R, x_stride, x_stride), add_sums(d_bias, dbs, R, 4 * D, 4 * D);
        }
    }
}

/* Heads of the usual sizes get code of their own, in which every loop over a head has a known length. */
#define FOR_HEAD_SIZE(K, body) \
    switch (K) {               \
    case 8: body(8); break;    \
    case 16: body(16); break;  \
    case 32: body(32); break;  \
    case 64: body(64); break;  \
    default: body(K);          \
    }

/* Where queries, keys and values lie: q (., H K) with row length q_ld; k and v (., H K) with row length kv_ld; for each
 * query i its row of q, and the rows of its S keys, of which the first lengths[i] are seen. */
typedef struct {
    idx R, n, S, H, q_ld, q_stride, kv_ld, kv_stride;
    const idx *q_rows, *kv_rows, *lengths;
} Layout;

static inline __attribute__((always_inline)) float dot(const float *restrict a, const float *restrict b, idx K) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (idx e = 0; e < K; e++) sum += a[e] * b[e];
    return sum;
}

static inline __attribute__((always_inline)) void add_scaled(float *restrict to, float a, const float *restrict b,
                                                             idx K) {
#pragma omp simd
    for (idx e = 0; e < K; e++) to[e] += a * b[e];
}

static inline __attribute__((always_inline)) void attend(Part in, Layout at, const float *q, const float *k, const float *v,
                                                         float *weights, float *context, const idx K) {
    const float scale = 1.0f / sqrtf((float)K);
    for (idx r = in.r; r < in.R; r++)
        for (idx i = in.i; i < in.n; i++) {
            const idx place = r * at.n + i, length = at.lengths[i];
            const float *qi = q + r * at.q_stride + (at.q_rows ? at.q_rows[place] : i) * at.q_ld;
            const idx *rows = at.kv_rows + place * at.S;
            for (idx h = 0; h < at.H; h++) {
                float *w = weights + (place * at.H + h) * at.S, *out = context + (place * at.H + h) * K;
                float top = -INFINITY, total = 0.0f;
                for (idx j = 0; j < length; j++) {
                    w[j] = scale * dot(qi + h * K, k + r * at.kv_stride + rows[j] * at.kv_ld + h * K, K);
                    top = w[j] > top ? w[j] : top;
                }
                for (idx j = 0; j < length; j++) w[j] = exp_(w[j] - top), total += w[j];
                for (idx j = length; j < at.S; j++) w[j] = 0.0f;
                memset(out, 0, K * sizeof(float));
                for (idx j = 0; j < length; j++) {
                    w[j] /= total;
                    add_scaled(out, w[j], v + r * at.kv_stride + rows[j] * at.kv_ld + h * K, K);
                }
            }
        }
}

/* Heads in [from, to), counted over the members: no two of them add to the same numbers. */
static inline __attribute__((always_inline)) void attend_back(idx from, idx to, Layout at, const float *q,
                                                              const float *k, const float *v, const float *weights,
                                                              const float *d_context, float *d_q, float *d_k,
                                                              float *d_v, const idx K) {
    const float scale = 1.0f / sqrtf((float)K);
    for (idx r = from / at.H; r * at.H < to; r++) {
        const idx first = from > r * at.H ? from - r * at.H : 0, end = to < (r + 1) * at.H ? to - r * at.H : at.H;
        for (idx i = 0; i < at.n; i++) {
            const idx place = r * at.n + i, length = at.lengths[i];
            const idx query = r * at.q_stride + (at.q_rows ? at.q_rows[place] : i) * at.q_ld;
            const idx *rows = at.kv_rows + place * at.S;
            for (idx h = first; h < end; h++) {
                const float *w = weights + (place * at.H + h) * at.S, *d_out = d_context + (place * at.H + h) * K;
                float d_w[at.S], mean = 0.0f; /* sum_j w_j d_w_j, which softmax takes off */
                for (idx j = 0; j < length; j++) {
                    d_w[j] = dot(d_out, v + r * at.kv_stride + rows[j] * at.kv_ld + h * K, K);
                    mean += w[j] * d_w[j];
                }
                for (idx j = 0; j < length; j++) {
                    const idx key = r * at.kv_stride + rows[j] * at.kv_ld + h * K;
                    const float d_score = scale * w[j] * (d_w[j] - mean);
                    add_scaled(d_q + query + h * K, d_score, k + key, K);
                    add_scaled(d_k + key, d_score, q + query + h * K, K);
                    add_scaled(d_v + key, w[j], d_out, K);
                }
            }
        }
    }
}

/* Causal attention  ->  weights (n, H, S), context (n, H K) */
void attend_forward(idx R, idx n, idx S, idx H, idx K, const float *q, idx q_ld, idx q_stride, const idx *q_rows,
                    const float *k, const float *v, idx kv_ld, idx kv_stride, const idx *kv_rows, const idx *lengths,
                    float *weights, float *context) {
    const Layout at = {R, n, S, H, q_ld, q_stride, kv_ld, kv_stride, q_rows, kv_rows, lengths};
    const idx parts = parts_of(R * n * H * K);
#define BODY(size) attend(in, at, q, k, v, weights, context, size)
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) {
        const Part in = part_of(part, parts, R, n);
        FOR_HEAD_SIZE(K, BODY)
    }
#undef BODY
}

/* Its backward: d_context (n, H K) -> added to d_q, d_k, d_v, which are laid out as q, k and v. */
void attend_backward(idx R, idx n, idx S, idx H, idx K, const float *q, idx q_ld, idx q_stride, const idx *q_rows,
                     const float *k, const float *v, idx kv_ld, idx kv_stride, const idx *kv_rows, const idx *lengths,
                     const float *weights, const float *d_context, float *d_q, float *d_k, float *d_v) {
    const Layout at = {R, n, S, H, q_ld, q_stride, kv_ld, kv_stride, q_rows, kv_rows, lengths};
    const idx threads = parts_of(R * n * H * K), parts = threads < R * H ? threads : R * H;
#define BODY(size) attend_back(from, to, at, q, k, v, weights, d_context, d_q, d_k, d_v, size)
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) {
        const idx from = R * H * part / parts, to = R * H * (part + 1) / parts;
        FOR_HEAD_SIZE(K, BODY)
    }
#undef BODY
}

/* LayerNorm of x + a + bias.  x (., D), a (n, D), bias (D) or NULL  ->  y (n, D), inverse deviation (n), and in the place
 * of a the sum, normal (n, D). ld is the stride of bias, weight and shift. */
void add_norm_forward(idx R, idx n, idx D, const float *x, idx x_stride, const idx *x_rows, float *a, const float *bias,
                      const float *weight, const float *shift, idx ld, float eps, float *inverse, float *y) {
    const idx parts = parts_of(R * n * D);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) {
        const Part at = part_of(part, parts, R, n);
        for (idx r = at.r; r < at.R; r++)
            for (idx i = at.i; i < at.n; i++) {
                const float *restrict xi = x + r * x_stride + (x_rows ? x_rows[r * n + i] : i) * D;
                const float *restrict w = weight + r * ld, *restrict s = shift + r * ld;
                float *restrict z = a + (r * n + i) * D, *restrict yi = y + (r * n + i) * D;
                float mean = 0.0f, variance = 0.0f;
                add(z, xi, D);
                if (bias) add(z, bias + r * ld, D);
#pragma omp simd reduction(+ : mean)
                for (idx k = 0; k < D; k++) mean += z[k];
                mean /= (float)D;
#pragma omp simd reduction(+ : variance)
                for (idx k = 0; k < D; k++) {
                    z[k] -= mean;
                    variance += z[k] * z[k];
                }
                const float inv = 1.0f / sqrtf(variance / (float)D + eps);
                inverse[r * n + i] = inv;
#pragma omp simd
                for (idx k = 0; k < D; k++) {
                    z[k] *= inv;
                    yi[k] = z[k] * w[k] + s[k];
                }
            }
    }
}

/* Its backward: d_y (n, D) -> d_sum (n, D), the gradient of x, a and bias alike; added to d_weight, d_shift (D) and,
 * where given, d_bias (D), of stride d_ld; written to d_x (., D) or, with add, added. */
void add_norm_backward(idx R, idx n, idx D, const float *normal, const float *inverse, const float *weight,
                       idx ld, const float *d_y, float *d_sum, float *d_weight, float *d_shift, float *d_bias, idx d_ld,
                       float *d_x, idx x_stride, const idx *x_rows, idx add_x) {
    const idx parts = parts_of(R * n * D);
#pragma omp parallel for ordered schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) {
        const Part at = part_of(part, parts, R, n);
        float *dws = sums(at, d_weight, R, d_ld, D), *dss = sums(at, d_shift, R, d_ld, D);
        float *dbs = sums(at, d_bias, R, d_ld, D);
        float *dxs = x_rows ? sums(at, d_x, R, x_stride, x_stride) : d_x;
        for (idx r = at.r; r < at.R; r++) {
            float *restrict dw = dws + r * d_ld, *restrict ds = dss + r * d_ld;
            const float *restrict w = weight + r * ld;
            for (idx i = at.i; i < at.n; i++) {
                const float *restrict z = normal + (r * n + i) * D, *restrict dy = d_y + (r * n + i) * D;
                float *restrict d = d_sum + (r * n + i) * D;
                float mean = 0.0f, slope = 0.0f;
#pragma omp simd reduction(+ : mean, slope)
                for (idx k = 0; k < D; k++) {
                    const float dz = dy[k] * w[k];
                    mean += dz;
                    slope += dz * z[k];
                    dw[k] += dy[k] * z[k];
                    ds[k] += dy[k];
                }
                mean /= (float)D, slope /= (float)D;
                const float inv = inverse[r * n + i];
#pragma omp simd
                for (idx k = 0; k < D; k++) d[k] = inv * (dy[k] * w[k] - mean - z[k] * slope);
                if (dbs) {
                    float *restrict db = dbs + r * d_ld;
#pragma omp simd
                    for (idx k = 0; k < D; k++) db[k] += d[k];
                }
                float *restrict dx = dxs + r * x_stride + (x_rows ? x_rows[r * n + i] : i) * D;
                if (add_x)
                    add(dx, d, D);
                else
                    memcpy(dx, d, D * sizeof(float));
            }
        }
#pragma omp ordered
        {
            add_sums(d_weight, dws, R, d_ld, D), add_sums(d_shift, dss, R, d_ld, D), add_sums(d_bias, dbs, R, d_ld, D);
            add_sums(d_x, dxs, R, x_stride, x_stride);
        }
    }
}

/* Cross-entropy and right answers of B examples with n answers each, answer l of example b in row l B + b of logits (n B, V)
 * and targets (n B); smoothing is the share of a target that is spread over all tokens, share (n, B) what an answer counts
 * in its example  ->  loss (B), accuracy (B): 1 where the first of the highest logits is the target's in every answer that
 * counts, and the gradient of each answer's loss d_logits (n B, V). */
void score(idx R, idx n, idx B, idx V, const float *logits, const idx *targets, const float *share, float smoothing,
           float *loss, float *accuracy, float *d_logits) {
#pragma omp parallel for schedule(static) if (R * n * B * V >= WORTH)
    for (idx example = 0; example < R * B; example++) {
        float sum = 0.0f, all = 1.0f;
        for (idx l = 0; l < n; l++) {
            const idx i = (example / B * n + l) * B + example % B, target = targets[i];
            const float *restrict z = logits + i * V;
            float *restrict d = d_logits + i * V;
            if (share[i] == 0.0f) { /* of no interest, whatever it is */
                memset(d, 0, V * sizeof(float));
                continue;
            }
            float top = z[0], mean = 0.0f, total = 0.0f;
#pragma omp simd reduction(max : top) reduction(+ : mean)
            for (idx k = 0; k < V; k++) {
                top = z[k] > top ? z[k] : top;
                mean += z[k];
            }
            mean /= (float)V;
#pragma omp simd reduction(+ : total)
            for (idx k = 0; k < V; k++) {
                d[k] = exp_(z[k] - top);
                total += d[k];
            }
            float answer = logf(total) + (1.0f - smoothing) * (top - z[target]);
            if (smoothing > 0.0f) answer += smoothing * (top - mean); /* which may be infinite */
            sum += share[i] * answer;
            idx first = 0;
            while (first < V - 1 && z[first] < top) first++;
            if (first != target) all = 0.0f;
            const float over = 1.0f / total, spread = smoothing / (float)V;
#pragma omp simd
            for (idx k = 0; k < V; k++) d[k] = d[k] * over - spread;
            d[target] -= 1.0f - smoothing;
        }
        loss[example] = sum, accuracy[example] = all;
    }
}

/* Adam for P parameters of each member, the members that finite names: on return it says which of those have finite
 * parameters, and before holds the parameters as they were. Per member: scale of the gradient, lr, beta1, beta2, eps,
 * count (the step, from 1 on); decay is one number per member or, with per_parameter, P of them, which shrinks the
 * parameters if decoupled (AdamW) and is added to the gradient if not. */
#define ADAM(keep, add)                                                                                                     \
    _Pragma("omp parallel for simd schedule(static) reduction(+ : odd) if (parallel : P >= WORTH)") for (idx k = 0; k < P; k++) { \
        const float g = factor * gr[k] + (add) * t[k];                                                                      \
        b[k] = t[k];                                                                                                        \
        mr[k] += w1 * (g - mr[k]);                                                                                          \
        vr[k] = w2 * vr[k] + w3 * g * g;                                                                                    \
        t[k] = (keep) * t[k] - size * (mr[k] / (sqrtf(vr[k]) / root + tiny));                                               \
        odd += t[k] - t[k]; /* NaN for what is not finite */                                                                \
    }

void adam(idx R, idx P, float *theta, float *before, const float *gradient, float *m, float *v, const float *scale,
          const double *lr, const double *beta1, const double *beta2, const double *eps, const double *count,
          const double *decay, idx per_parameter, idx decoupled, uint8_t *finite) {
    for (idx r = 0; r < R; r++) {
        if (!finite[r]) continue;
        const float w1 = (float)(1.0 - beta1[r]), w2 = (float)beta2[r], w3 = (float)(1.0 - beta2[r]), tiny = (float)eps[r];
        const float factor = scale[r], root = (float)sqrt(1.0 - pow(beta2[r], count[r]));
        const float size = (float)(lr[r] / (1.0 - pow(beta1[r], count[r])));
        float *restrict t = theta + r * P, *restrict b = before + r * P, *restrict mr = m + r * P, *restrict vr = v + r * P;
        const float *restrict gr = gradient + r * P;
        const double *restrict dr = decay + r * P, rate = lr[r];
        float odd = 0.0f;
        if (per_parameter && decoupled)
            ADAM((float)(1.0 - rate * dr[k]), 0.0f)
        else if (per_parameter)
            ADAM(1.0f, (float)dr[k])
        else {
            const float kept = decoupled ? (float)(1.0 - rate * decay[r]) : 1.0f;
            const float added = decoupled ? 0.0f : (float)decay[r];
            ADAM(kept, added)
        }
        finite[r] = odd == 0.0f;
    }
}
