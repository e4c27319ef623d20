/* A step of R GPTs of one shape in one call: the next tokens of N rows in, logits out, keys and values into the cache.
 *
 * Equal to shoal.decoding.fast_gpt.FastGPT on PyTorch's operations but for rounding; see there for the equations. Arrays
 * are row-major float32, indices int64; a vector or a matrix that each member has of its own has the members as its first
 * axis. What comes in as NaN comes out as NaN.
 *
 * Every number of a row is made by the same operations in the same order, however many rows, members and threads there are:
 * a row's logits are the same bits in every batch. Work is shared between the threads of torch by members and rows, so no
 * thread waits for another within a step.
 */
#include "../fast/vectors.h"
#include <math.h>

/* ---- products of few rows. The matrix is read once for a block of rows whose sums stay in registers; a library that packs
 * the matrix first, as is best for many rows, reads and writes it all for 16. */

#if defined(__AVX512F__) || defined(__aarch64__)
#define TALL 8 /* rows of a block: 16 sums in 32 registers */
#else
#define TALL 4 /* 8 sums in 16 registers */
#endif

#if defined(__FMA__) || defined(__aarch64__)
#define FUSED_ONE(x, y, z) __builtin_fmaf(x, y, z) /* as FUSED, of single numbers */
#else
#define FUSED_ONE(x, y, z) ((x) * (y) + (z))
#endif
#define SPREAD(x) ((x) - (Vector){0}) /* a number in every place */

/* y (M, N) = x (M, K) w (K, N) + bias (N), if there is one, and with add also + y; ld are the lengths of rows. */
typedef struct {
    idx M, K, N;
    const float *x;
    idx x_ld;
    const float *w;
    idx w_ld;
    const float *bias;
    float *y;
    idx y_ld, add;
} Product;

/* Rows m to m + MR of NV vectors of columns from n on; the first skip columns of a single vector are not written. */
#define TILE(MR, NV)                                                                             \
    static void tile_##MR##_##NV(const Product *p, idx m, idx n, idx skip) {                     \
        const idx K = p->K, x_ld = p->x_ld, w_ld = p->w_ld;                                      \
        const float *x = p->x + m * x_ld, *w = p->w + n;                                         \
        Vector sum[MR][NV];                                                                      \
        UNROLLED for (int v = 0; v < NV; v++) {                                                  \
            Vector first = {0};                                                                  \
            if (p->bias) first = *(const Unaligned *)(p->bias + n + v * W);                      \
            UNROLLED for (int i = 0; i < MR; i++) sum[i][v] = first;                             \
        }                                                                                        \
        for (idx k = 0; k < K; k++, w += w_ld) {                                                 \
            Vector column[NV];                                                                   \
            UNROLLED for (int v = 0; v < NV; v++) column[v] = *(const Unaligned *)(w + v * W);   \
            UNROLLED for (int i = 0; i < MR; i++) {                                              \
                const Vector factor = SPREAD(x[i * x_ld + k]);                                   \
                UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = FUSED(factor, column[v], sum[i][v]); \
            }                                                                                    \
        }                                                                                        \
        UNROLLED for (int i = 0; i < MR; i++) UNROLLED for (int v = 0; v < NV; v++) {            \
            float *y = p->y + (m + i) * p->y_ld + n + v * W;                                     \
            Vector found = sum[i][v];                                                            \
            if (p->add) found += *(Unaligned *)y;                                                \
            if (NV == 1 && skip) /* columns that the vector before has written */                \
                memcpy(y + skip, (const float *)&found + skip, (W - skip) * sizeof(float));      \
            else                                                                                 \
                *(Unaligned *)y = found;                                                         \
        }                                                                                        \
    }
#define ROWS(MR, NV) \
    for (; p->M - m >= MR; m += MR) tile_##MR##_##NV(p, m, n, skip);

TILE(1, 8)
TILE(1, 4) TILE(2, 4) TILE(1, 2) TILE(2, 2) TILE(4, 2) TILE(1, 1) TILE(2, 1) TILE(4, 1)
#if TALL == 8
TILE(4, 4) TILE(8, 2) TILE(8, 1)
#endif

/* Fewer columns than a vector has. */
static void narrow(const Product *p) {
    for (idx m = 0; m < p->M; m++) {
        const float *x = p->x + m * p->x_ld, *w = p->w;
        float sum[W], *y = p->y + m * p->y_ld;
        for (idx n = 0; n < p->N; n++) sum[n] = p->bias ? p->bias[n] : 0.0f;
        for (idx k = 0; k < p->K; k++, w += p->w_ld)
            for (idx n = 0; n < p->N; n++) sum[n] = FUSED_ONE(x[k], w[n], sum[n]);
        for (idx n = 0; n < p->N; n++) y[n] = p->add ? y[n] + sum[n] : sum[n];
    }
}

/* The rows of one vector of columns. */
static void column(const Product *p, idx n, idx skip) {
    idx m = 0;
#if TALL == 8
    ROWS(8, 1)
#endif
    ROWS(4, 1) ROWS(2, 1) ROWS(1, 1)
}

static void multiply(const Product *p) {
    const idx M = p->M, N = p->N, skip = 0;
    if (N < W) {
        narrow(p);
        return;
    }
    idx n = 0;
    for (; M == 1 && N - n >= 8 * W; n += 8 * W) tile_1_8(p, 0, n, 0);
    for (; M < TALL && N - n >= 4 * W; n += 4 * W) {
        idx m = 0;
#if TALL == 8
        ROWS(4, 4)
#endif
        ROWS(2, 4) ROWS(1, 4)
    }
    for (; N - n >= 2 * W; n += 2 * W) {
        idx m = 0;
#if TALL == 8
        ROWS(8, 2)
#endif
        ROWS(4, 2) ROWS(2, 2) ROWS(1, 2)
    }
    for (; N - n >= W; n += W) column(p, n, 0);
    if (n < N) column(p, N - W, n - (N - W));
}

/* ---- functions of one number. As in fast/kernels.c, whose checksum is on record and which is therefore a file of its own. */

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

/* GELU, x times the normal distribution function: Abramowitz & Stegun 7.1.26, absolute error of the latter 1.5e-7. */
static inline float gelu_(float x) {
    const float e = exp_(-0.5f * x * x), u = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * u);
    const float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
                       + t * 1.061405429f)))) * e * 0.5f;
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

/* ---- the model; shoal/decoding/compiled_gpt.py has the same structures */

typedef struct {
    const float *weight, *bias; /* (R, inputs, outputs), (R, outputs) or NULL */
    idx inputs, outputs;
} Linear;

enum { NO_NORM, LAYER_NORM, RMS_NORM };

typedef struct {
    const float *weight, *bias; /* (R, D) each; bias may be NULL */
    float eps;
    idx kind;
} Norm;

typedef struct {
    Linear qkv, out, up, down; /* queries come out divided by the root of their size */
    Norm attention_norm, ffn_norm;
} Block;

enum { PRE, POST, PRE_STREAM };
enum { RELU, GELU, SWIGLU };

typedef struct {
    idx R, L, V, D, H, n_positions;
    idx norm_position, activation;
    const float *tokens;    /* (R, V, D) */
    const float *positions; /* (R, n_positions, D), or of one for all, or NULL */
    idx own_positions;
    const Block *blocks; /* (L) */
    Norm norm;
    Linear classifier;
} Model;

/* A row's keys and values lie in pages of PAGE places, each in one piece. Page p of row i is that of the row pages (R, N, P),
 * or of row i itself. A page that is full is never written again, and any number of rows may read it; one that is not full is
 * of one row alone. So rows that continue the same text have it once, and a processor's cache is asked for it once. */
#define PAGE 16 /* places, a multiple of every W */

/* What the members are told, and what they know: N rows of n tokens, of which counts (N) are no padding, or all; places of
 * the cache that each row has in use, lengths (R, N), of T, in P pages. Turns (T, head_size / 2, 2) are cosines and sines of
 * rotary positions, or NULL. */
typedef struct {
    idx N, n, T, P, last;
    const idx *tokens, *counts, *lengths, *pages;
    float *keys;   /* (L, R, N, P, H, head_size, PAGE) */
    float *values; /* (L, R, N, P, H, PAGE, head_size) */
    const float *turns;
    float *logits; /* (R, N, n, V), or (R, N, 1, V) with last */
} Step;

static void apply(const Linear *linear, idx r, idx M, const float *x, idx x_ld, float *y, idx add) {
    const idx K = linear->inputs, N = linear->outputs;
    const float *bias = linear->bias ? linear->bias + r * N : NULL;
    const Product p = {M, K, N, x, x_ld, linear->weight + r * K * N, N, bias, y, N, add};
    multiply(&p);
}

/* Rows x (M, D) to y, which may be x. */
static void normalise(const Norm *norm, idx r, idx M, idx D, const float *x, float *y) {
    const float *weight = norm->weight + r * D, *bias = norm->bias ? norm->bias + r * D : NULL;
    for (idx m = 0; m < M; m++, x += D, y += D) {
        float mean = 0.0f, square = 0.0f;
        if (norm->kind == LAYER_NORM) {
#pragma omp simd reduction(+ : mean)
            for (idx k = 0; k < D; k++) mean += x[k];
            mean /= (float)D;
        }
#pragma omp simd reduction(+ : square)
        for (idx k = 0; k < D; k++) {
            const float centred = x[k] - mean;
            square += centred * centred;
        }
        const float inverse = 1.0f / sqrtf(square / (float)D + norm->eps);
        if (bias)
#pragma omp simd
            for (idx k = 0; k < D; k++) y[k] = (x[k] - mean) * inverse * weight[k] + bias[k];
        else
#pragma omp simd
            for (idx k = 0; k < D; k++) y[k] = (x[k] - mean) * inverse * weight[k];
    }
}

/* What stands between the products of a feed-forward layer: x (M, outputs), in place. */
static void activate(idx kind, idx M, idx outputs, float *x) {
    for (idx m = 0; m < M; m++, x += outputs) {
        if (kind == RELU)
#pragma omp simd
            for (idx k = 0; k < outputs; k++) x[k] = x[k] < 0.0f ? 0.0f : x[k];
        else if (kind == GELU)
#pragma omp simd
            for (idx k = 0; k < outputs; k++) x[k] = gelu_(x[k]);
        else
#pragma omp simd
            for (idx k = 0; k < outputs / 2; k++) x[k] = x[k] / (1.0f + exp_(-x[k])) * x[outputs / 2 + k];
    }
}

/* Turn the pairs of queries and keys, 2 D numbers, by their position's angles. */
static void turn(idx D, idx head_size, float *restrict x, const float *restrict turns) {
    for (idx head = 0; head < 2 * D; head += head_size)
        for (idx k = 0; k < head_size; k += 2) {
            float *restrict pair = x + head + k;
            const float even = pair[0], odd = pair[1];
            pair[0] = even * turns[k] - odd * turns[k + 1];
            pair[1] = even * turns[k + 1] + odd * turns[k];
        }
}


/* New keys and values into a place of a page. */
static void keep(idx H, idx K, idx place, const float *k, const float *v, float *keys, float *values) {
    for (idx m = 0; m < H * K; m++) keys[m * PAGE + place] = k[m];
    for (idx h = 0; h < H; h++) memcpy(values + (h * PAGE + place) * K, v + h * K, K * sizeof(float));
}

#define AT_ONCE 4 /* vectors of scores, and heads of averages: as many sums that do not wait for each other */

/* Scores of a query with a head's keys in the first seen places, and in some more; keys is where the first page would begin. */
static void dots(idx K, idx seen, const float *q, const float *keys, const idx *where, float *scores) {
    const idx vectors = (seen + W - 1) / W;
    for (idx v = 0; v < vectors; v += AT_ONCE) {
        const float *column[AT_ONCE];
        Vector sum[AT_ONCE];
        UNROLLED for (int u = 0; u < AT_ONCE; u++) {
            const idx place = least(v + u, vectors - 1) * W;
            column[u] = keys + where[place / PAGE] + place % PAGE;
            sum[u] = (Vector){0};
        }
        for (idx k = 0; k < K; k++) {
            const Vector factor = SPREAD(q[k]);
            UNROLLED for (int u = 0; u < AT_ONCE; u++)
                sum[u] = FUSED(factor, *(const Unaligned *)(column[u] + k * PAGE), sum[u]);
        }
        UNROLLED for (int u = 0; u < AT_ONCE; u++)
            if (v + u < vectors) *(Unaligned *)(scores + (v + u) * W) = sum[u];
    }
}

static void softmax(idx seen, float *scores) {
    float top = scores[0], total = 0.0f;
#pragma omp simd reduction(max : top)
    for (idx t = 0; t < seen; t++) top = scores[t] > top ? scores[t] : top;
#pragma omp simd reduction(+ : total)
    for (idx t = 0; t < seen; t++) {
        scores[t] = exp_(scores[t] - top);
        total += scores[t];
    }
    const float share = 1.0f / total;
#pragma omp simd
    for (idx t = 0; t < seen; t++) scores[t] *= share;
}

/* Averages by shares (heads, room) of the values of HB heads, in NV vectors of columns. */
#define AVERAGE(HB, NV)                                                                                                    \
    static void average_##HB##_##NV(idx K, idx seen, const float *shares, idx room, const float *values, const idx *where, \
                                    float *context) {                                                                      \
        Vector sum[HB][NV];                                                                                                \
        UNROLLED for (int h = 0; h < HB; h++) UNROLLED for (int v = 0; v < NV; v++) sum[h][v] = (Vector){0};               \
        for (idx from = 0; from < seen; from += PAGE) {                                                                    \
            const float *page = values + where[from / PAGE];                                                               \
            const idx count = least(seen - from, PAGE);                                                                    \
            for (idx t = 0; t < count; t++) UNROLLED for (int h = 0; h < HB; h++) {                                        \
                const Vector factor = SPREAD(shares[h * room + from + t]);                                                 \
                UNROLLED for (int v = 0; v < NV; v++)                                                                      \
                    sum[h][v] = FUSED(factor, *(const Unaligned *)(page + (h * PAGE + t) * K + v * W), sum[h][v]);         \
            }                                                                                                              \
        }                                                                                                                  \
        UNROLLED for (int h = 0; h < HB; h++) UNROLLED for (int v = 0; v < NV; v++)                                        \
            *(Unaligned *)(context + h * K + v * W) = sum[h][v];                                                           \
    }
AVERAGE(4, 2) AVERAGE(1, 2) AVERAGE(4, 1) AVERAGE(1, 1)

static void averages(idx heads, idx K, idx seen, const float *shares, idx room, const float *values, const idx *where,
                     float *context) {
    const idx together = heads == AT_ONCE ? AT_ONCE : 1;
    for (idx h = 0; h < heads; h += together) {
        const float *own = shares + h * room, *first = values + h * PAGE * K;
        float *to = context + h * K;
        idx k = 0;
        for (; K - k >= 2 * W; k += 2 * W)
            (together > 1 ? average_4_2 : average_1_2)(K, seen, own, room, first + k, where, to + k);
        for (; K - k >= W; k += W)
            (together > 1 ? average_4_1 : average_1_1)(K, seen, own, room, first + k, where, to + k);
        for (idx one = 0; k < K && one < together; one++)
            for (idx from = 0; from < seen; from += PAGE) { /* fewer columns than a vector has */
                const idx count = least(seen - from, PAGE);
                float *rest = to + one * K + k;
                const float *page = first + where[from / PAGE] + one * PAGE * K + k;
                const Product p = {1, count, K - k, own + one * room + from, count, page, K, from ? rest : NULL, rest, K, 0};
                narrow(&p);
            }
    }
}

/* Tokens of row i that are no padding. */
static inline idx real_tokens(const Step *s, idx i) {
    const idx count = s->counts ? least(s->counts[i], s->n) : s->n;
    return count < 0 ? 0 : count;
}

/* The last of them, or the first where all are padding. */
static inline idx last_token(const Step *s, idx i) {
    const idx count = real_tokens(s, i);
    return count > 0 ? count - 1 : 0;
}

/* Arrays of a task of M tokens, one after the other in one piece of memory. */
typedef struct {
    float *x, *y, *qkv, *context, *hidden, *scores;
    idx *where; /* a row's pages begin */
} Scratch;

/* Room for some numbers, in whole cache lines. */
static float *taken(float **free, idx numbers) {
    float *here = *free;
    *free += (numbers + 15) / 16 * 16;
    return here;
}

static Scratch laid(const Model *model, const Step *s, idx M, float *memory, idx *numbers) {
    float *end = memory;
    const idx D = model->D;
    const Scratch scratch = {taken(&end, M * D), taken(&end, M * D), taken(&end, M * 3 * D), taken(&end, M * D),
                             taken(&end, M * model->blocks[0].up.outputs), taken(&end, AT_ONCE * s->P * PAGE),
                             (idx *)taken(&end, 2 * s->P)};
    *numbers = end - memory;
    return scratch;
}

/* The attention of a block: from queries, keys and values to contexts, with the new ones in the cache. Rows that share pages
 * are neighbours, so that these are near for all but the first. */
static void attend_rows(const Model *model, const Step *s, idx layer, idx r, idx from, idx to, const Scratch *at) {
    const idx D = model->D, H = model->H, K = D / H, n = s->n, T = s->T, P = s->P, size = D * PAGE, room = P * PAGE;
    for (idx i = from; i < to; i++) {
        const idx row = r * s->N + i, length = s->lengths[row], count = real_tokens(s, i);
        float *qkv = at->qkv + (i - from) * n * 3 * D, *context = at->context + (i - from) * n * D;
        for (idx page = 0; page < P; page++) {
            const idx lies = s->pages ? s->pages[row * P + page] : i;
            at->where[page] = (((layer * model->R + r) * s->N + lies) * P + page) * size;
        }
        for (idx j = 0; j < count; j++) {
            float *own = qkv + j * 3 * D;
            const idx place = length + j;
            if (s->turns) turn(D, K, own, s->turns + least(place, T - 1) * K);
            if (place >= T) continue; /* past the end */
            const idx start = at->where[place / PAGE];
            keep(H, K, place % PAGE, own + D, own + 2 * D, s->keys + start, s->values + start);
        }
        memset(context + count * D, 0, (n - count) * D * sizeof(float)); /* of padding */
        for (idx j = 0; j < count; j++, qkv += 3 * D, context += D) {
            const idx seen = least(length + j + 1, T);
            for (idx h = 0; h < H; h += AT_ONCE) {
                const idx heads = least(H - h, AT_ONCE), first = h * K * PAGE;
                for (idx g = 0; g < heads; g++) {
                    dots(K, seen, qkv + (h + g) * K, s->keys + first + g * K * PAGE, at->where, at->scores + g * room);
                    softmax(seen, at->scores + g * room);
                }
                averages(heads, K, seen, at->scores, room, s->values + first, at->where, context + h * K);
            }
        }
    }
}

static void through(const Model *model, const Step *s, idx layer, idx r, idx from, idx to, const Scratch *at) {
    const Block *block = model->blocks + layer;
    const idx M = (to - from) * s->n, D = model->D, hidden = block->up.outputs, is_post = model->norm_position == POST;
    float *x = at->x, *y = is_post || block->attention_norm.kind == NO_NORM ? x : at->y;
    if (y != x) normalise(&block->attention_norm, r, M, D, x, y);
    apply(&block->qkv, r, M, y, D, at->qkv, 0);
    attend_rows(model, s, layer, r, from, to, at);
    if (model->norm_position == PRE_STREAM && y != x) memcpy(x, y, M * D * sizeof(float));
    apply(&block->out, r, M, at->context, D, x, 1);
    if (is_post && block->attention_norm.kind != NO_NORM) normalise(&block->attention_norm, r, M, D, x, x);
    y = is_post || block->ffn_norm.kind == NO_NORM ? x : at->y;
    if (y != x) normalise(&block->ffn_norm, r, M, D, x, y);
    apply(&block->up, r, M, y, D, at->hidden, 0);
    activate(model->activation, M, hidden, at->hidden);
    apply(&block->down, r, M, at->hidden, hidden, x, 1);
    if (is_post && block->ffn_norm.kind != NO_NORM) normalise(&block->ffn_norm, r, M, D, x, x);
}

static void embed(const Model *model, const Step *s, idx r, idx from, idx to, float *x) {
    const idx D = model->D;
    for (idx i = from; i < to; i++)
        for (idx j = 0; j < s->n; j++, x += D) {
            const idx row = r * s->N + i, place = least(s->lengths[row] + j, model->n_positions - 1);
            const float *token = model->tokens + (r * model->V + s->tokens[row * s->n + j]) * D;
            memcpy(x, token, D * sizeof(float));
            if (!model->positions) continue;
            const float *position = model->positions + ((model->own_positions ? r * model->n_positions : 0) + place) * D;
#pragma omp simd
            for (idx k = 0; k < D; k++) x[k] += position[k];
        }
}

/* Logits of the rows; NaN for a token that has no place. */
static void predict(const Model *model, const Step *s, idx r, idx from, idx to, const Scratch *at) {
    const idx D = model->D, V = model->V, n = s->n, each = s->last ? 1 : n;
    float *x = at->x, *logits = s->logits + (r * s->N + from) * each * V;
    for (idx i = from; s->last && i < to; i++)
        memmove(x + (i - from) * D, x + ((i - from) * n + last_token(s, i)) * D, D * sizeof(float));
    if (model->norm.kind != NO_NORM) normalise(&model->norm, r, (to - from) * each, D, x, x);
    apply(&model->classifier, r, (to - from) * each, x, D, logits, 0);
    for (idx i = from; i < to; i++)
        for (idx j = 0; j < each; j++, logits += V) {
            if (s->lengths[r * s->N + i] + (s->last ? last_token(s, i) : j) < s->T) continue;
            for (idx k = 0; k < V; k++) logits[k] = NAN;
        }
}

#define TOKENS 64     /* of a task: its states stay in the second cache, and a matrix is read for many */
#define WORTH 1000000 /* products of two numbers for which it is worth telling the threads */

enum { DONE, NO_SUCH_TOKEN, NO_MEMORY };

/* The step; nothing is changed where a token is none of the vocabulary. */
int gpt_step(const Model *model, const Step *s) {
    const idx R = model->R, N = s->N, n = s->n, D = model->D, V = model->V;
    for (idx i = 0; i < R * N * n; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= V) return NO_SUCH_TOKEN;
    if (N == 0 || n == 0) return DONE;
    const Block *first = model->blocks;
    const idx work = R * N * n * (model->L * D * (4 * D + first->up.outputs + first->down.inputs) + D * V);
    const idx threads = work < WORTH ? 1 : omp_get_max_threads();
    idx parts = (N * n + TOKENS - 1) / TOKENS; /* of the rows of a member */
    if (parts < (threads + R - 1) / R) parts = (threads + R - 1) / R;
    idx rows = (N + parts - 1) / parts;
    if (n == 1) rows = (rows + TALL - 1) / TALL * TALL;
    parts = (N + rows - 1) / rows;
    int outcome = DONE;
#pragma omp parallel for schedule(static, 1) reduction(max : outcome) if (threads > 1)
    for (idx task = 0; task < R * parts; task++) {
        const idx r = task / parts, from = task % parts * rows, to = least(from + rows, N);
        idx numbers;
        laid(model, s, (to - from) * n, NULL, &numbers);
        float *memory = aligned_alloc(64, numbers * sizeof(float));
        if (!memory) {
            outcome = NO_MEMORY;
            continue;
        }
        const Scratch at = laid(model, s, (to - from) * n, memory, &numbers);
        embed(model, s, r, from, to, at.x);
        for (idx layer = 0; layer < model->L; layer++) through(model, s, layer, r, from, to, &at);
        predict(model, s, r, from, to, &at);
        free(memory);
    }
    return outcome;
}

/* ---- moves of rows: M rows of each member from its N, rows (R, M), and where their pages lie then, moved (R, M, P). There
 * are as many arrays as rows. */
typedef struct {
    idx N, M, T, P;
    const idx *rows, *lengths, *pages;
    idx *moved;
    const float *keys, *values;
    float *new_keys, *new_values; /* arrays of the M, which are those of the N in gpt_reorder */
} Move;

static inline idx in_page(const Move *move, idx length, idx page) { /* places in use */
    const idx used = least(length, move->T) - page * PAGE;
    return used < 0 ? 0 : least(used, PAGE);
}

static inline idx lies(const Move *move, idx r, idx i, idx page) {
    return move->pages ? move->pages[(r * move->N + i) * move->P + page] : i;
}

/* The first used places of a page of every layer, from the array of one row to that of another. */
static void copy_page(const Model *model, const Move *move, idx r, idx page, idx used, idx here, idx there) {
    const idx K = model->D / model->H, size = model->D * PAGE;
    for (idx layer = 0; layer < model->L; layer++) {
        const idx source = (((layer * model->R + r) * move->N + here) * move->P + page) * size;
        const idx target = (((layer * model->R + r) * move->M + there) * move->P + page) * size;
        memcpy(move->new_keys + target, move->keys + source, size * sizeof(float));
        for (idx head = 0; head < size; head += PAGE * K)
            memcpy(move->new_values + target + head, move->values + source + head, used * K * sizeof(float));
    }
}

/* Rows of each member in new arrays; a full page that several rows have is there once. */
int gpt_select(const Model *model, const Move *move) {
    idx *first = malloc((move->N + 1) * sizeof(idx)); /* row that has the page of each array */
    if (!first) return NO_MEMORY;
    for (idx r = 0; r < model->R; r++)
        for (idx page = 0; page < move->P; page++) {
            for (idx i = 0; i < move->N; i++) first[i] = -1;
            for (idx i = 0; i < move->M; i++) {
                const idx row = move->rows[r * move->M + i], used = in_page(move, move->lengths[r * move->N + row], page);
                const idx here = lies(move, r, row, page), is_there = used == PAGE && first[here] >= 0;
                move->moved[(r * move->M + i) * move->P + page] = is_there ? first[here] : i;
                if (is_there || !used) continue;
                copy_page(model, move, r, page, used, here, i);
                first[here] = i;
            }
        }
    free(first);
    return DONE;
}

/* The page of each member that some rows have in part: the first row that takes it has it where it lies, and each other one
 * has a copy in the array of a row that has gone. */
static void part(const Model *model, const Move *move, idx r, idx page, idx *is_taken) {
    const idx N = move->N, P = move->P;
    idx free = 0;
    memset(is_taken, 0, N * sizeof(idx));
    for (idx again = 0; again < 2; again++)
        for (idx i = 0; i < N; i++) {
            const idx row = move->rows[r * N + i], used = in_page(move, move->lengths[r * N + row], page);
            const idx here = lies(move, r, row, page);
            idx *there = move->moved + (r * N + i) * P + page;
            if (used == 0 || used == PAGE) {
                is_taken[*there] = 1;
            } else if (!again) {
                *there = is_taken[here] ? -1 : here;
                is_taken[here] = 1;
            } else if (*there < 0) {
                while (is_taken[free]) free++;
                copy_page(model, move, r, page, used, here, free);
                *there = free++;
            }
        }
}

/* Rows of each member in a new order, each as long as the one that it takes the place of, in the same arrays. */
int gpt_reorder(const Model *model, const Move *move) {
    const idx N = move->N, P = move->P;
    idx *is_taken = malloc((N + P) * sizeof(idx)), *is_part = is_taken + N;
    if (!is_taken) return NO_MEMORY;
    for (idx r = 0; r < model->R; r++) {
        memset(is_part, 0, P * sizeof(idx));
        for (idx i = 0; i < N; i++) {
            const idx row = move->rows[r * N + i], length = move->lengths[r * N + row];
            for (idx page = 0; page < P; page++) {
                const idx used = in_page(move, length, page);
                move->moved[(r * N + i) * P + page] = lies(move, r, used == PAGE ? row : i, page);
                if (used > 0 && used < PAGE) is_part[page] = 1;
            }
        }
        for (idx page = 0; page < P; page++)
            if (is_part[page]) part(model, move, r, page, is_taken);
    }
    free(is_taken);
    return DONE;
}
