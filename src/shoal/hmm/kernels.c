/* Expected counts of hidden Markov models in float64: forward and backward messages, and what they sum to.
 *
 * Rows. Whatever belongs to one place t of a sequence is a row of J columns, in vectors of 8. For few states a vector
 * holds 8 models: column 8 k + r belongs to state k of model r, and J = 8 K ("lanes"). For more states a row holds one
 * model: column k belongs to state k, and J is K rounded up to a multiple of 8; columns beyond K are 0 ("states").
 * Vectors are of the compiler's own kind, so that they are right on any processor: one register of AVX-512, two of
 * AVX, four of SSE.
 *
 * Scaling. With l_t the likelihoods of the observation at t, f_1 = pi * l_1 and f_t = s_t (f_{t-1} P) * l_t, where
 * s_t is a power of 2 at every 8th place and 1 elsewhere, so that nothing is divided and no bit is lost. The messages
 * backwards take the same factors, b_{t-1} = s_t P (l_t * b_t), from b_n = weight / sum f_n: then f_t * b_t are the
 * posteriors times the weight of the sequence, and f_{t-1}(i) P(i, j) s_t l_t(j) b_t(j) those of pairs.
 *
 * Memory. T rows are kept. Of a longer sequence the last f of every T rows is, and each T rows are computed again, to the
 * same bits, before the messages backwards come to them.
 *
 * Numbers that are too small. A state whose message fell below 1e-290 although a path leads to it is "lost": the caller
 * computes that sequence in logarithms. Models without
 * transitions below 1e-100 cannot lose one, and are not guarded.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t idx;
typedef double vec __attribute__((vector_size(64), aligned(8)));
typedef int64_t bits __attribute__((vector_size(64), aligned(8)));
#define INLINE static inline __attribute__((always_inline))
#define W 8 /* columns of a vector */

enum { CATEGORICAL, DIAGONAL, FULL };
enum { POSSIBLE = -1, LOST = -2 };
#define LOWEST 1e-290 /* message of a state that can be reached */
#define SMALL 1e-190  /* after an observation; with transitions of at least 1e-100 no message gets below LOWEST */
#define LOW_SUM 1e-60 /* sum of a row after 8 places; below, the sequence is scaled at every place */
#define LOST_SUM 1e-180 /* sum of a row after one place */

typedef struct {
    idx groups;          /* of up to 8 models in lanes, or of one: arrays below that end in J, or (S, 8), follow each other */
    idx K, J, S, kind, V, D, T, is_lanes, is_guarded;
    const idx *begin;          /* (S + 1): first place of each sequence */
    const int32_t *symbols;    /* (n), -1 where there is none */
    const double *values;      /* (n, D), 0 where there is none */
    const uint8_t *seen;       /* (n) */
    const double *start;       /* (J) */
    const double *moves;       /* lanes (K, J), states (rows, J): P */
    const double *moves_back;  /* states (rows, J): P transposed */
    const double *emit;        /* (1 + V, J): the first row, of no symbol, is 1 */
    const double *means;       /* (D, J) */
    const double *whiten;      /* (D or D (D + 1) / 2, J): 1 / standard deviation, or the inverse Cholesky factor */
    const double *constants;   /* (J): logarithm of the density at the mean */
    const double *weights;     /* (S, 8) */
    double *log_likelihood;    /* (S, 8) */
    idx *impossible;           /* (S, 8): first impossible place, POSSIBLE or LOST */
    double *starts;            /* (J) */
    double *pairs;             /* lanes (K, J), states (rows, J): to be multiplied by P */
    double *emitted;           /* categorical (1 + V, J); else (1 + D + D or D (D + 1) / 2, J): sums of 1, x - mean, products */
} Task;

typedef struct { /* vectors first, each in a line of the cache */
    vec sum, lowest, peaks, peaks_error; /* of the last row; lowest sum of a scaled row; sum of largest log densities */
    bits exponent, suspected, lost, zero; /* of the factors; of states; first place of sum 0, or -1 */
    const Task *task;
    vec *f, *w, *g, *l;  /* rows; f has one more, of the place before */
    vec *scale;          /* a vector per row */
    vec *reach;          /* (J / 8): 1 where a path leads, else 0 */
    vec *beta, *links;   /* (J / 8); P > 0 as 1 and 0 */
    vec *checkpoints;    /* rows */
    vec *room[4];        /* (J / 8) each, for more than fit in registers */
    idx first, begin, end, every; /* place of row 0; sequence; places between scalings */
    int guard; /* 1: suspect lost states, 2: find them */
} Run;

INLINE vec splat(double x) { return (vec){x, x, x, x, x, x, x, x}; }
INLINE vec choose(bits mask, vec a, vec b) { return (vec)(((bits)a & mask) | ((bits)b & ~mask)); }
INLINE vec where(bits mask, vec a) { return (vec)((bits)a & mask); }
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

#ifdef __clang__
#define SWAP(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else /* which gcc has had for longer */
#define SWAP(x, ...) __builtin_shuffle(x, (bits){__VA_ARGS__})
#endif
#define HALVES 4, 5, 6, 7, 0, 1, 2, 3
#define QUARTERS 2, 3, 0, 1, 6, 7, 4, 5
#define NEIGHBOURS 1, 0, 3, 2, 5, 4, 7, 6
INLINE vec sum_everywhere(vec x) {
    x += SWAP(x, HALVES), x += SWAP(x, QUARTERS);
    return x + SWAP(x, NEIGHBOURS);
}
INLINE vec largest_everywhere(vec x) {
    x = larger(x, SWAP(x, HALVES)), x = larger(x, SWAP(x, QUARTERS));
    return larger(x, SWAP(x, NEIGHBOURS));
}

/* exp(x) for x <= 0, about 1 ulp: 2^n by the exponent bits, the rest by its series; 0 below -708. */
INLINE vec exp_(vec x) {
    bits is_zero = x < -708.0;
    x = choose(is_zero, splat(-708.0), x);
    vec shifted = x * 1.4426950408889634 + 0x1.8p52, n = shifted - 0x1.8p52;
    vec r = (x - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b39p-40;
    static const double inverse_factorials[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2,     1.0,
        1.0};
    vec p = splat(1.0 / 6227020800.0);
    for (int i = 0; i < 13; i++) p = p * r + inverse_factorials[i];
    return where(~is_zero, (vec)((bits)p + ((bits)shifted << 52)));
}

/* Rows of f, from that of the place before row 0. */
INLINE vec *f_of(const Run *run, idx t) { return run->f + (t - run->first + 1) * (run->task->J / W); }
INLINE vec *row(const Run *run, vec *rows, idx t) { return rows + (t - run->first) * (run->task->J / W); }
INLINE const vec *likelihoods(const Run *run, idx t) {
    const Task *task = run->task;
    if (task->kind != CATEGORICAL) return row(run, run->l, t);
    return (const vec *)(task->emit + (task->symbols[t] + 1) * task->J);
}
INLINE int is_scaled(const Run *run, idx t) { return !((t - run->begin + 1) & (run->every - 1)); }

/* Scale of a row whose columns sum to `sum`, a power of 2; the sum becomes 1 to 2. */
INLINE vec scaled(Run *run, idx t, vec sum, int is_first, vec *total) {
    bits exponent = (bits)sum >> 52; /* biased; the sum is not negative */
    vec scale = (vec)((2046 - exponent) << 52);
    run->scale[t - run->first] = scale;
    *total = sum * scale;
    if (!is_first) return scale;
    run->exponent += exponent - 1023;
    run->lowest = choose(sum < run->lowest, sum, run->lowest);
    if (run->every == 1) run->zero = (bits)choose((sum == 0.0) & (run->zero < 0), (vec)((bits)splat(0.0) + t), (vec)run->zero);
    return scale;
}

/* out = x M for one row of K lanes, or of states. */
INLINE void lanes_product(const idx K, const vec *M, const vec *x, vec *out) {
    for (idx j = 0; j < K; j++) out[j] = x[0] * M[j];
#pragma GCC unroll 8
    for (idx i = 1; i < K; i++)
#pragma GCC unroll 8
        for (idx j = 0; j < K; j++) out[j] += x[i] * M[i * K + j];
}

#define TILE 4
INLINE void tile_product(const idx n, idx rows, idx N, const vec *M, const double *x, vec *out) {
    vec sums[2][TILE];
    for (idx v = 0; v < n; v++) sums[0][v] = sums[1][v] = splat(0.0);
    vec more[2][TILE];
    for (idx v = 0; v < n; v++) more[0][v] = more[1][v] = splat(0.0);
    for (idx i = 0; i < rows; i += 4)
        for (idx v = 0; v < n; v++) {
            sums[0][v] += x[i] * M[i * N + v];
            sums[1][v] += x[i + 1] * M[(i + 1) * N + v];
            more[0][v] += x[i + 2] * M[(i + 2) * N + v];
            more[1][v] += x[i + 3] * M[(i + 3) * N + v];
        }
    for (idx v = 0; v < n; v++) out[v] = (sums[0][v] + sums[1][v]) + (more[0][v] + more[1][v]);
}

/* Rows of x and M are padded to a multiple of 4. */
INLINE void states_product(const idx N, idx K, const vec *M, const double *x, vec *out) {
    idx rows = (K + 3) / 4 * 4, v = 0;
    for (; v + TILE <= N; v += TILE) tile_product(TILE, rows, N, M + v, x, out + v);
    if (N - v == 3) tile_product(3, rows, N, M + v, x, out + v);
    if (N - v == 2) tile_product(2, rows, N, M + v, x, out + v);
    if (N - v == 1) tile_product(1, rows, N, M + v, x, out + v);
}

/* The two families share the code below: N vectors per row, K states. */
INLINE void moved(const idx K, const idx N, int is_lanes, const vec *M, const vec *x, vec *out) {
    if (is_lanes)
        lanes_product(K, M, x, out);
    else
        states_product(N, K, M, (const double *)x, out);
}

INLINE vec row_sum(const idx N, int is_lanes, const vec *x) {
    vec sum = x[0];
    for (idx v = 1; v < N; v++) sum += x[v];
    return is_lanes ? sum : sum_everywhere(sum);
}

/* First look at a guarded model: a message that became small, from which more could be lost. */
INLINE void suspect(const idx N, Run *run, const vec *l, const vec *a, const vec *f) {
    bits suspected = run->suspected, is_positive = (bits)splat(0.0) - (run->task->kind != CATEGORICAL);
    for (idx v = 0; v < N; v++) suspected |= (f[v] < SMALL) & (a[v] > 0.0) & ((l[v] > 0.0) | is_positive);
    run->suspected = suspected;
}

/* Second look: states that a path leads to and whose message was lost. */
INLINE void find_lost(const idx K, const idx N, int is_lanes, Run *run, idx t, const vec *l, const vec *a) {
    vec few[2][W], *from = N <= W ? few[0] : run->room[0], *to = N <= W ? few[1] : run->room[1];
    int is_zero_possible = run->task->kind == CATEGORICAL;
    for (idx v = 0; v < N; v++) from[v] = is_zero_possible ? where(l[v] > 0.0, run->reach[v]) : run->reach[v];
    moved(K, N, is_lanes, run->links, from, to);
    bits lost = run->lost;
    for (idx v = 0; v < N; v++) {
        bits is_reached = to[v] > 0.0;
        run->reach[v] = where(is_reached, splat(1.0));
        lost |= is_reached & (a[v] < LOWEST) & (t + 1 < run->end ? -1 : 0);
    }
    run->lost = lost;
}

INLINE void forward(const idx K, const idx N, int is_lanes, Run *run, idx from, idx to, int is_first) {
    const Task *task = run->task;
    const int is_short = is_lanes && K <= 3; /* steps that wait for the one before, more than for arithmetic */
    const vec *P = (const vec *)task->moves;
    vec few[2][W], *a = N <= W ? few[0] : run->room[2], *f = N <= W ? few[1] : run->room[3], sum = splat(0.0);
    if (from == run->begin) {
        for (idx v = 0; v < N; v++) a[v] = ((const vec *)task->start)[v];
        if (is_first && run->guard == 2)
            for (idx v = 0; v < N; v++) run->reach[v] = where(a[v] > 0.0, splat(1.0));
    } else {
        moved(K, N, is_lanes, P, f_of(run, from - 1), a);
    }
    for (idx v = 0; v < N; v++) f[v] = splat(0.0);
    for (idx t = from; t < to; t++) {
        const vec *l = likelihoods(run, t);
        vec *kept = f_of(run, t);
        if (is_short && t > from) { /* f P * l as f (P * l), which does not wait for f */
            vec next[W];
            for (idx j = 0; j < K; j++) next[j] = f[0] * (P[j] * l[j]);
            for (idx i = 1; i < K; i++)
                for (idx j = 0; j < K; j++) next[j] += f[i] * (P[i * K + j] * l[j]);
            for (idx j = 0; j < K; j++) f[j] = next[j];
        } else {
            for (idx v = 0; v < N; v++) f[v] = a[v] * l[v];
        }
        if (is_first && run->guard == 1) suspect(N, run, l, a, f);
        if (is_scaled(run, t)) {
            vec scale = scaled(run, t, row_sum(N, is_lanes, f), is_first, &sum);
            for (idx v = 0; v < N; v++) f[v] *= scale;
        }
        for (idx v = 0; v < N; v++) kept[v] = f[v];
        if (!is_short || (is_first && run->guard)) moved(K, N, is_lanes, P, is_lanes ? f : kept, a);
        if (is_first && run->guard == 2) find_lost(K, N, is_lanes, run, t, l, a);
    }
    if (is_first && to == run->end) run->sum = row_sum(N, is_lanes, f);
}

INLINE void backward(const idx K, const idx N, int is_lanes, Run *run, idx from, idx to) {
    const Task *task = run->task;
    const int is_short = is_lanes && K <= 3;
    const vec *P = (const vec *)(is_lanes ? task->moves : task->moves_back);
    vec few[2][W], *b = N <= W ? few[0] : run->room[0], *w = N <= W ? few[1] : run->room[1];
    for (idx v = 0; v < N; v++) b[v] = run->beta[v];
    for (idx t = to - 1; t >= from; t--) {
        const vec *l = likelihoods(run, t), *f = f_of(run, t);
        vec *kept = row(run, run->w, t);
        if (task->is_guarded) /* of a state that no path leads to b may be infinite */
            for (idx v = 0; v < N; v++) b[v] = where(f[v] > 0.0, b[v]);
        if (task->kind == CATEGORICAL) {
            vec *emitted = (vec *)(task->emitted + (task->symbols[t] + 1) * task->J);
            for (idx v = 0; v < N; v++) emitted[v] += f[v] * b[v];
        } else {
            vec *g = row(run, run->g, t);
            bits is_seen = (bits)splat(0.0) - task->seen[t];
            for (idx v = 0; v < N; v++) g[v] = where(is_seen, f[v] * b[v]);
        }
        if (t == run->begin) {
            for (idx v = 0; v < N; v++) ((vec *)task->starts)[v] += f[v] * b[v];
            for (idx v = 0; v < N; v++) kept[v] = splat(0.0);
            break;
        }
        for (idx v = 0; v < N; v++) w[v] = l[v] * b[v];
        if (is_scaled(run, t))
            for (idx v = 0; v < N; v++) w[v] *= run->scale[t - run->first];
        for (idx v = 0; v < N; v++) kept[v] = w[v];
        if (is_short) {
            vec before[W], scale = is_scaled(run, t) ? run->scale[t - run->first] : splat(1.0);
            for (idx i = 0; i < K; i++) before[i] = (P[i * K] * (l[0] * scale)) * b[0];
            for (idx i = 0; i < K; i++)
                for (idx j = 1; j < K; j++) before[i] += (P[i * K + j] * (l[j] * scale)) * b[j];
            for (idx i = 0; i < K; i++) b[i] = before[i];
        } else if (is_lanes) {
#pragma GCC unroll 8
            for (idx i = 0; i < K; i++) {
                b[i] = P[i * K] * w[0];
#pragma GCC unroll 8
                for (idx j = 1; j < K; j++) b[i] += P[i * K + j] * w[j];
            }
        } else {
            states_product(N, K, P, (const double *)kept, b);
        }
    }
    for (idx v = 0; v < N; v++) run->beta[v] = b[v];
}

/* sums(i, j) += f_{t-1}(i) w_t(j) over all rows, in tiles that stay in registers. */
INLINE void lanes_tile(const idx m, const idx n, const idx K, const vec *f, const vec *w, idx rows, vec *sums) {
    vec tile[TILE][TILE];
    for (idx i = 0; i < m; i++)
        for (idx j = 0; j < n; j++) tile[i][j] = splat(0.0);
    for (idx t = 0; t < rows; t++, f += K, w += K)
        for (idx i = 0; i < m; i++)
            for (idx j = 0; j < n; j++) tile[i][j] += f[i] * w[j];
    for (idx i = 0; i < m; i++)
        for (idx j = 0; j < n; j++) sums[i * K + j] += tile[i][j];
}

INLINE void states_tile(const idx n, idx N, const double *f, const vec *w, idx rows, vec *sums) {
    vec tile[TILE][TILE];
    for (idx i = 0; i < TILE; i++)
        for (idx v = 0; v < n; v++) tile[i][v] = splat(0.0);
    for (idx t = 0; t < rows; t++, f += N * W, w += N)
        for (idx i = 0; i < TILE; i++)
            for (idx v = 0; v < n; v++) tile[i][v] += f[i] * w[v];
    for (idx i = 0; i < TILE; i++)
        for (idx v = 0; v < n; v++) sums[i * N + v] += tile[i][v];
}

INLINE void add_pairs(const idx K, const idx N, int is_lanes, Run *run, idx rows) {
    vec *sums = (vec *)run->task->pairs;
    if (is_lanes) {
        for (idx i = 0; i < K; i += TILE)
            for (idx j = 0; j < K; j += TILE)
                lanes_tile(K - i < TILE ? K - i : TILE, K - j < TILE ? K - j : TILE, K, run->f + i, run->w + j, rows,
                           sums + i * K + j);
        return;
    }
    for (idx i = 0; i < K; i += TILE) {
        const double *f = (const double *)run->f + i;
        idx v = 0;
        for (; v + TILE <= N; v += TILE) states_tile(TILE, N, f, run->w + v, rows, sums + i * N + v);
        if (N - v == 3) states_tile(3, N, f, run->w + v, rows, sums + i * N + v);
        if (N - v == 2) states_tile(2, N, f, run->w + v, rows, sums + i * N + v);
        if (N - v == 1) states_tile(1, N, f, run->w + v, rows, sums + i * N + v);
    }
}

/* Densities of rows from `from` to `to`, relative to the largest of each model. */
static void densities(Run *run, idx from, idx to, int is_first) {
    const Task *task = run->task;
    const idx N = task->J / W, D = task->D;
    if (task->kind == CATEGORICAL) return;
    const vec *means = (const vec *)task->means, *whiten = (const vec *)task->whiten;
    const vec *constants = (const vec *)task->constants;
    for (idx t = from; t < to; t++) {
        const double *x = task->values + t * D;
        vec *l = row(run, run->l, t), largest = splat(-INFINITY);
        if (!task->seen[t]) {
            for (idx v = 0; v < N; v++) l[v] = splat(1.0);
            continue;
        }
        for (idx v = 0; v < N; v++) {
            vec squares = splat(0.0);
            if (task->kind == DIAGONAL)
                for (idx d = 0; d < D; d++) {
                    vec z = (x[d] - means[d * N + v]) * whiten[d * N + v];
                    squares += z * z;
                }
            else
                for (idx d = 0, at = 0; d < D; d++) {
                    vec z = splat(0.0);
                    for (idx e = 0; e <= d; e++, at++) z += (x[e] - means[e * N + v]) * whiten[at * N + v];
                    squares += z * z;
                }
            l[v] = constants[v] - 0.5 * squares;
            largest = larger(largest, l[v]);
        }
        if (!task->is_lanes) largest = largest_everywhere(largest);
        bits is_any = largest > -INFINITY; /* all squares may be infinite: then the sequence is lost */
        for (idx v = 0; v < N; v++) l[v] = where(is_any, exp_(l[v] - largest));
        if (is_first) { /* Kahan's sum */
            vec y = largest - run->peaks_error, total = run->peaks + y;
            run->peaks_error = (total - run->peaks) - y;
            run->peaks = total;
        }
    }
}

/* Sums of g (x - mean) and g (x - mean)(x - mean)' over all rows, for up to 4 dimensions e and one d. */
INLINE void products(const idx n, Run *run, idx rows, idx v, idx d, idx e, vec *sums) {
    const Task *task = run->task;
    const idx N = task->J / W, D = task->D;
    const vec *means = (const vec *)task->means, *g = run->g + v;
    const double *x = task->values + run->first * D;
    vec own = means[d * N + v], others[TILE], tile[TILE];
    for (idx i = 0; i < n; i++) others[i] = means[(e + i) * N + v], tile[i] = splat(0.0);
    for (idx t = 0; t < rows; t++, g += N, x += D) {
        vec share = *g * (x[d] - own);
        for (idx i = 0; i < n; i++) tile[i] += share * (x[e + i] - others[i]);
    }
    for (idx i = 0; i < n; i++) sums[i * N] += tile[i];
}

INLINE void moments(const idx n, Run *run, idx rows, idx v, idx d, vec *firsts, vec *seconds) {
    const Task *task = run->task;
    const idx N = task->J / W, D = task->D;
    const vec *means = (const vec *)task->means, *g = run->g + v;
    const double *x = task->values + run->first * D;
    vec own[TILE], first[TILE], second[TILE];
    for (idx i = 0; i < n; i++) own[i] = means[(d + i) * N + v], first[i] = second[i] = splat(0.0);
    for (idx t = 0; t < rows; t++, g += N, x += D)
        for (idx i = 0; i < n; i++) {
            vec from_mean = x[d + i] - own[i], share = *g * from_mean;
            first[i] += share;
            second[i] += share * from_mean;
        }
    for (idx i = 0; i < n; i++) firsts[i * N] += first[i];
    if (seconds)
        for (idx i = 0; i < n; i++) seconds[i * N] += second[i];
}

static void add_moments(Run *run, idx rows) {
    const Task *task = run->task;
    const idx N = task->J / W, D = task->D;
    if (task->kind == CATEGORICAL) return;
    vec *counts = (vec *)task->emitted, *firsts = counts + N, *seconds = firsts + D * N;
    for (idx v = 0; v < N; v++) {
        vec count = splat(0.0);
        for (idx t = 0; t < rows; t++) count += run->g[t * N + v];
        counts[v] += count;
        vec *own = task->kind == DIAGONAL ? seconds + v : NULL;
        for (idx d = 0; d < D; d += TILE) {
            vec *first = firsts + d * N + v, *second = own ? own + d * N : NULL;
            if (D - d >= 4) moments(4, run, rows, v, d, first, second);
            if (D - d == 3) moments(3, run, rows, v, d, first, second);
            if (D - d == 2) moments(2, run, rows, v, d, first, second);
            if (D - d == 1) moments(1, run, rows, v, d, first, second);
        }
        if (own) continue;
        for (idx d = 0; d < D; d++)
            for (idx e = 0; e <= d; e += TILE) {
                vec *sums = seconds + (d * (d + 1) / 2 + e) * N + v;
                if (d + 1 - e >= 4) products(4, run, rows, v, d, e, sums);
                if (d + 1 - e == 3) products(3, run, rows, v, d, e, sums);
                if (d + 1 - e == 2) products(2, run, rows, v, d, e, sums);
                if (d + 1 - e == 1) products(1, run, rows, v, d, e, sums);
            }
    }
}

typedef struct {
    void (*forward)(Run *, idx, idx, int);
    void (*backward)(Run *, idx, idx);
    void (*add_pairs)(Run *, idx);
} Family;

#define FAMILY(name, K, N, is_lanes)                                                                          \
    static void forward_##name(Run *run, idx from, idx to, int is_first) {                                    \
        forward(K, N, is_lanes, run, from, to, is_first);                                                     \
    }                                                                                                         \
    static void backward_##name(Run *run, idx from, idx to) { backward(K, N, is_lanes, run, from, to); }      \
    static void add_pairs_##name(Run *run, idx rows) { add_pairs(K, N, is_lanes, run, rows); }
#define MEMBERS(name) {forward_##name, backward_##name, add_pairs_##name}
FAMILY(lanes1, 1, 1, 1)
FAMILY(lanes2, 2, 2, 1)
FAMILY(lanes3, 3, 3, 1)
FAMILY(lanes4, 4, 4, 1)
FAMILY(lanes5, 5, 5, 1)
FAMILY(lanes6, 6, 6, 1)
FAMILY(lanes7, 7, 7, 1)
FAMILY(lanes8, 8, 8, 1)
FAMILY(states1, run->task->K, 1, 0)
FAMILY(states2, run->task->K, 2, 0)
FAMILY(states3, run->task->K, 3, 0)
FAMILY(states4, run->task->K, 4, 0)
FAMILY(states, run->task->K, run->task->J / W, 0)
static const Family by_lanes[] = {MEMBERS(lanes1), MEMBERS(lanes2), MEMBERS(lanes3), MEMBERS(lanes4),
                                  MEMBERS(lanes5), MEMBERS(lanes6), MEMBERS(lanes7), MEMBERS(lanes8)};
static const Family by_states[] = {MEMBERS(states1), MEMBERS(states2), MEMBERS(states3), MEMBERS(states4),
                                   MEMBERS(states)};

/* First pass over a sequence; keeps the last row of every T in `checkpoints` where there are more. */
static void pass(Run *run, const Family *family, idx every, int guard) {
    const Task *task = run->task;
    const idx N = task->J / W;
    run->every = every, run->guard = guard;
    run->exponent = run->lost = run->suspected = (bits)splat(0.0);
    run->zero = run->exponent - 1;
    run->lowest = splat(INFINITY);
    run->peaks = run->peaks_error = splat(0.0);
    if (run->end - run->begin > task->T) run->first = run->begin; /* it has all rows for itself */
    if (run->end - run->begin <= task->T) {
        densities(run, run->begin, run->end, 1);
        family->forward(run, run->begin, run->end, 1);
        return;
    }
    for (idx from = run->begin, block = 0; from < run->end; from += task->T, block++) {
        idx to = from + task->T < run->end ? from + task->T : run->end;
        if (from > run->begin) memcpy(run->f, f_of(run, from - 1), N * sizeof(vec));
        run->first = from;
        memcpy(run->checkpoints + block * N, run->f, N * sizeof(vec));
        densities(run, from, to, 1);
        family->forward(run, from, to, 1);
    }
}

static void add_rows(Run *run, const Family *family, idx rows) {
    if (!rows) return;
    family->add_pairs(run, rows);
    add_moments(run, rows);
}

/* Outcome of a first pass for each lane, and where the messages backwards start. */
static void conclude(Run *run, idx s) {
    const Task *task = run->task;
    const idx N = task->J / W;
    vec beta = splat(0.0);
    bits lost = (bits)splat(0.0);
    if (task->is_lanes)
        lost = run->lost;
    else /* one model has all columns */
        for (int r = 0; r < W; r++) lost |= (bits)splat(0.0) + run->lost[r];
    for (int r = 0; r < W; r++) {
        idx *impossible = task->impossible + s * W + r;
        double sum = run->sum[r], *log_likelihood = task->log_likelihood + s * W + r;
        *impossible = POSSIBLE;
        *log_likelihood = log(sum) + run->exponent[r] * 0.6931471805599453 + run->peaks[r];
        beta[r] = task->weights[s * W + r] / sum;
        if (!lost[r] && run->zero[r] < 0 && !(run->lowest[r] < LOST_SUM) && sum >= LOST_SUM) continue;
        int is_certain = task->kind == CATEGORICAL && !task->is_guarded && run->zero[r] >= 0;
        *impossible = is_certain ? run->zero[r] - run->begin : LOST;
        *log_likelihood = -INFINITY;
        beta[r] = 0.0;
    }
    for (idx v = 0; v < N; v++) run->beta[v] = beta;
}

static void sequence(Run *run, const Family *family, idx s) {
    const Task *task = run->task;
    const idx N = task->J / W;
    pass(run, family, 8, task->is_guarded);
    int is_low = 0, is_suspect = 0;
    for (int r = 0; r < W; r++) is_low |= run->lowest[r] < LOW_SUM || run->sum[r] < LOW_SUM;
    if (is_low) pass(run, family, 1, task->is_guarded);
    for (int r = 0; r < W; r++) is_suspect |= run->suspected[r] != 0;
    if (is_suspect) pass(run, family, run->every, 2);
    conclude(run, s);
    if (run->end - run->begin <= task->T) {
        family->backward(run, run->begin, run->end);
        return;
    }
    idx last = (run->end - run->begin - 1) / task->T * task->T;
    for (idx block = last / task->T; block >= 0; block--) {
        idx from = run->begin + block * task->T, to = from + task->T < run->end ? from + task->T : run->end;
        if (block < last / task->T) {
            run->first = from;
            memcpy(run->f, run->checkpoints + block * N, N * sizeof(vec));
            densities(run, from, to, 0);
            family->forward(run, from, to, 0);
        }
        family->backward(run, from, to);
        add_rows(run, family, to - from);
    }
}

static vec *vectors(idx n, int *is_missing) {
    void *made = NULL;
    if (posix_memalign(&made, sizeof(vec), (n ? n : 1) * sizeof(vec))) *is_missing = 1;
    return made;
}

/* Expected counts of one group, added to those of the task. */
static void group(Run *run, const Family *family) {
    const Task *task = run->task;
    idx first = task->begin[0], filled = 0;
    for (idx s = 0; s < task->S; s++) {
        idx begin = task->begin[s], n = task->begin[s + 1] - begin;
        if (filled + n > task->T) {
            run->first = first;
            add_rows(run, family, filled);
            first = begin, filled = 0;
        }
        run->first = first, run->begin = begin, run->end = begin + n;
        sequence(run, family, s);
        if (n > task->T)
            first = begin + n, filled = 0;
        else
            filled += n;
    }
    run->first = first;
    add_rows(run, family, filled);
}

/* Rows of a matrix of states: of transitions, padded for states; of a whitening map; of emissions. */
static idx rows_of_moves(const Task *task) { return task->is_lanes ? task->K : (task->K + 3) / 4 * 4; }
static idx rows_of_whiten(const Task *task) { return task->kind == FULL ? task->D * (task->D + 1) / 2 : task->D; }
static idx rows_of_emitted(const Task *task) {
    return task->kind == CATEGORICAL ? 1 + task->V : 1 + task->D + rows_of_whiten(task);
}

static Task next_group(Task task) {
    const idx J = task.J, lanes = task.S * W;
    task.start += J, task.starts += J, task.pairs += rows_of_moves(&task) * J;
    task.moves += rows_of_moves(&task) * J, task.moves_back += rows_of_moves(&task) * J;
    task.emitted += rows_of_emitted(&task) * J;
    task.weights += lanes, task.log_likelihood += lanes, task.impossible += lanes;
    if (task.kind == CATEGORICAL)
        task.emit += rows_of_emitted(&task) * J;
    else
        task.means += task.D * J, task.whiten += rows_of_whiten(&task) * J, task.constants += J;
    return task;
}

/* Expected counts of all groups and sequences. Returns 0, or 1 where there is no memory. */
int expected_counts(const Task *asked) {
    Task task = *asked;
    const idx N = task.J / W, T = task.T, is_gaussian = task.kind != CATEGORICAL;
    idx longest = 0;
    for (idx s = 0; s < task.S; s++) {
        idx n = task.begin[s + 1] - task.begin[s];
        longest = n > longest ? n : longest;
    }
    int is_missing = 0;
    idx links = task.is_guarded ? rows_of_moves(&task) * N : 0;
    Run run __attribute__((aligned(64))) = {.task = &task};
    run.f = vectors((T + 1) * N, &is_missing), run.w = vectors(T * N, &is_missing);
    run.g = vectors(is_gaussian * T * N, &is_missing), run.l = vectors(is_gaussian * T * N, &is_missing);
    run.scale = vectors(T, &is_missing), run.reach = vectors(N, &is_missing), run.beta = vectors(N, &is_missing);
    run.links = vectors(links, &is_missing);
    for (int i = 0; i < 4; i++) run.room[i] = vectors(N, &is_missing);
    run.checkpoints = vectors(longest > T ? (longest / T + 1) * N : 0, &is_missing);
    if (!is_missing) {
        const Family *family = task.is_lanes ? by_lanes + task.K - 1 : by_states + (N <= 4 ? N - 1 : 4);
        memset(run.f, 0, N * sizeof(vec)); /* what is multiplied by 0 must be finite */
        for (idx g = 0; g < asked->groups; g++, task = next_group(task)) {
            for (idx i = 0; i < links; i++) run.links[i] = where(((const vec *)task.moves)[i] > 0.0, splat(1.0));
            group(&run, family);
        }
    }
    vec *all[] = {run.f,     run.w,           run.g,       run.l,       run.scale,   run.reach,  run.beta,
                  run.links, run.checkpoints, run.room[0], run.room[1], run.room[2], run.room[3]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return is_missing;
}

/* Messages in logarithms, where those above lose a state, and for whoever wants to see them. Rows have K columns. */

/* log sum_i exp(x_i + m_i) */
static double log_sum(idx K, const double *x, const double *m) {
    double largest = -INFINITY, sum = 0.0;
    for (idx i = 0; i < K; i++) largest = x[i] + m[i] > largest ? x[i] + m[i] : largest;
    if (largest == -INFINITY) return largest;
    for (idx i = 0; i < K; i++) sum += exp(x[i] + m[i] - largest);
    return log(sum) + largest;
}

/* alpha (R, n, K): log p(Z_t | y before t); norms (R, n): log p(y_t | y before t); beta (R, n, K), or NULL: the
 * logarithm of p(y after t | Z_t) over p(y after t | y until t). Of what is impossible a norm is -inf, and divides nothing.
 * moves and back are log P and its transpose, densities (R, n, K). */
int log_messages(idx R, idx K, idx S, const idx *begin, const double *start, const double *moves, const double *back,
                 const double *densities, double *alpha, double *norms, double *beta) {
    double *x = malloc(2 * K * sizeof(double)), *zeros = x + K;
    if (!x) return 1;
    for (idx k = 0; k < K; k++) zeros[k] = 0.0;
    for (idx r = 0, n = begin[S]; r < R; r++, alpha += n * K, norms += n, densities += n * K) {
        for (idx s = 0; s < S; s++)
            for (idx t = begin[s]; t < begin[s + 1]; t++) {
                const double *l = densities + t * K;
                double *a = alpha + t * K;
                for (idx j = 0; j < K; j++)
                    a[j] = t == begin[s] ? start[r * K + j] : log_sum(K, x, back + (r * K + j) * K);
                norms[t] = log_sum(K, a, l);
                for (idx i = 0; i < K; i++) x[i] = norms[t] == -INFINITY ? -INFINITY : a[i] + l[i] - norms[t];
            }
        if (!beta) continue;
        for (idx s = 0; s < S; s++)
            for (idx t = begin[s + 1] - 1; t >= begin[s]; t--) {
                const double *l = densities + t * K;
                double *b = beta + (r * n + t) * K;
                for (idx i = 0; i < K; i++) b[i] = t == begin[s + 1] - 1 ? 0.0 : log_sum(K, x, moves + (r * K + i) * K);
                for (idx j = 0; j < K; j++) x[j] = l[j] + b[j] - (norms[t] == -INFINITY ? 0.0 : norms[t]);
            }
    }
    free(x);
    return 0;
}

/* Likeliest states (R, n), by the lowest number where two are as likely, and their log-probabilities (R, S); states of
 * what is impossible are -1. from (n, K) is room for predecessors. */
int viterbi(idx R, idx K, idx S, const idx *begin, const double *start, const double *back, const double *densities,
            uint16_t *from, int32_t *states, double *log_probabilities) {
    double *best = malloc(2 * K * sizeof(double)), *next = best + K;
    if (!best) return 1;
    for (idx r = 0, n = begin[S]; r < R; r++, densities += n * K, states += n)
        for (idx s = 0; s < S; s++) {
            for (idx t = begin[s]; t < begin[s + 1]; t++) {
                for (idx j = 0; j < K; j++) {
                    double largest = t == begin[s] ? start[r * K + j] : -INFINITY;
                    idx at = 0;
                    if (t > begin[s])
                        for (idx i = 0; i < K; i++) {
                            double through = best[i] + back[(r * K + j) * K + i];
                            if (through > largest) largest = through, at = i;
                        }
                    next[j] = largest + densities[t * K + j];
                    from[t * K + j] = (uint16_t)at;
                }
                memcpy(best, next, K * sizeof(double));
            }
            idx state = 0;
            for (idx j = 1; j < K; j++)
                if (best[j] > best[state]) state = j;
            log_probabilities[r * S + s] = best[state];
            int is_possible = best[state] > -INFINITY;
            for (idx t = begin[s + 1] - 1; t >= begin[s]; t--) {
                states[t] = is_possible ? (int32_t)state : -1;
                state = from[t * K + state];
            }
        }
    free(best);
    return 0;
}
