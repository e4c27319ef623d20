/* The parts of a training step on windows of tokens that are not matrix products, each in one pass over its data.
 *
 * Every function works on R members. Arrays are row-major float32 with a stride, in elements, from one member to the
 * next; indices and keys are int64. What comes in as NaN comes out as NaN.
 *
 * Work is shared between the threads of torch in pieces that the shapes alone decide: members, blocks of rows, heads of an
 * example. Sums over rows are made block by block and added in the order of the blocks. So a member's numbers are the same
 * bits in every stack and for any number of threads.
 */
#include "vectors.h"
#include <math.h>

#if defined(__AVX512F__) || defined(__aarch64__)
#define TALL 8 /* rows of a tile: 16 sums in 32 registers */
#else
#define TALL 4 /* 8 sums in 16 registers */
#endif
#define INLINE static inline __attribute__((always_inline))

typedef int32_t Ints __attribute__((vector_size(BYTES)));
typedef uint32_t Bits __attribute__((vector_size(BYTES)));

#define WORTH 8192 /* numbers for which it is worth telling the threads */
#define BLOCK 64   /* rows of a block */

INLINE Vector load(const float *x) { return *(const Unaligned *)x; }
INLINE void store(float *x, Vector v) { *(Unaligned *)x = v; }
INLINE Vector splat(float x) { return (Vector){0} + x; }
INLINE Vector choose(Ints mask, Vector a, Vector b) { return (Vector)((mask & (Ints)a) | (~mask & (Ints)b)); }

/* Lists of f(k, d) for every lane k. */
#if W == 16
#define LANES(f, d) f(0, d), f(1, d), f(2, d), f(3, d), f(4, d), f(5, d), f(6, d), f(7, d), \
                    f(8, d), f(9, d), f(10, d), f(11, d), f(12, d), f(13, d), f(14, d), f(15, d)
#elif W == 8
#define LANES(f, d) f(0, d), f(1, d), f(2, d), f(3, d), f(4, d), f(5, d), f(6, d), f(7, d)
#else
#define LANES(f, d) f(0, d), f(1, d), f(2, d), f(3, d)
#endif
#ifdef __clang__
#define SHUFFLE(a, b, f, d) __builtin_shufflevector(a, b, LANES(f, d))
#else
#define SHUFFLE(a, b, f, d) __builtin_shuffle(a, b, (Ints){LANES(f, d)})
#endif
#define SELF(k, d) k
#define ACROSS(k, d) ((k) ^ (d))
static const Ints lanes = {LANES(SELF, 0)};

INLINE float highest(Vector v) { /* but for NaN */
#if W > 8
    v = choose(SHUFFLE(v, v, ACROSS, 8) > v, SHUFFLE(v, v, ACROSS, 8), v);
#endif
#if W > 4
    v = choose(SHUFFLE(v, v, ACROSS, 4) > v, SHUFFLE(v, v, ACROSS, 4), v);
#endif
    v = choose(SHUFFLE(v, v, ACROSS, 2) > v, SHUFFLE(v, v, ACROSS, 2), v);
    v = choose(SHUFFLE(v, v, ACROSS, 1) > v, SHUFFLE(v, v, ACROSS, 1), v);
    return v[0];
}

INLINE float sum_of(Vector v) {
#if W > 8
    v += SHUFFLE(v, v, ACROSS, 8);
#endif
#if W > 4
    v += SHUFFLE(v, v, ACROSS, 4);
#endif
    v += SHUFFLE(v, v, ACROSS, 2);
    v += SHUFFLE(v, v, ACROSS, 1);
    return v[0];
}

static inline idx blocks_of(idx n) { return (n + BLOCK - 1) / BLOCK; }
static inline idx whole(idx n, idx of) { return (n + of - 1) / of * of; }

/* Room for some numbers, in whole cache lines. */
static float *taken(float **free, idx numbers) {
    float *here = *free;
    *free += whole(numbers, 16);
    return here;
}

static float *memory_for(idx numbers) {
    float *memory = aligned_alloc(64, whole(numbers, 16) * sizeof(float));
    if (!memory) abort(); /* memory is at its end */
    return memory;
}

/* ---- functions of one number. As in kernels.c, whose checksum is on record and which is therefore a file of its own. */

/* exp(x), about 1 ulp, vectorisable: 2^n by the exponent bits, the rest by a polynomial; 0 below -87. */
INLINE float exp_(float x) {
    float b = x > 88.0f ? 88.0f : x; /* not fminf: a NaN must stay one */
    b = b < -87.0f ? -87.0f : b;
    float n = b * 1.44269504f;
    n = (n + 12582912.0f) - 12582912.0f; /* round to the nearest integer */
    float r = (b - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    union { uint32_t i; float f; } two_n = {((uint32_t)(int32_t)n + 127u) << 23};
    return x < -87.0f ? 0.0f : p * two_n.f;
}

/* exp(x) of numbers up to 88; 0 below -87. */
INLINE Vector exps(Vector x) {
    const Vector shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* n in the lowest bits */
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    const Vector two_n = (Vector)(((Bits)shifted << 23) + (127u << 23));
    return (Vector)(~(x < -87.0f) & (Ints)(p * two_n));
}

INLINE float sigmoid_(float x) { return 1.0f / (1.0f + exp_(-x)); }

/* tanh(x): by exp, and by its series where that would cancel. */
INLINE float tanh_(float x) {
    const float x2 = x * x;
    const float series = x * (1.0f + x2 * (-0.333333333f + x2 * (0.133333333f + x2 * -0.0539682540f)));
    const float general = 1.0f - 2.0f / (1.0f + exp_(2.0f * x));
    return x2 < 0.01f ? series : general;
}

/* The normal distribution function: Abramowitz & Stegun 7.1.26, absolute error 1.5e-7; e is exp(-x^2 / 2). */
INLINE float normal_(float x, float e) {
    const float u = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * u);
    const float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
                       + t * 1.061405429f)))) * e * 0.5f;
    return x < 0.0f ? tail : 1.0f - tail;
}

/* ---- dropout by a key, as shoal.keyed computes it: the hash of a place below 2^32 */

typedef struct {
    const idx *keys;   /* (R), or NULL where nothing is dropped */
    int32_t threshold; /* kept is what has at least this in the upper 24 bits of its hash */
    float scale;
} Drop;

INLINE uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x = (x ^ (x >> 15)) * 0x735A2D97u;
    return x ^ (x >> 15);
}

static inline uint32_t seed_of(const Drop *drop, idx r) {
    return drop->keys ? mix((uint32_t)drop->keys[r] ^ 0x9E3779B9u) : 0;
}

/* Factor of the number at a place: 0 or scale. */
INLINE float factor(uint32_t seed, uint32_t place, int32_t threshold, float scale) {
    return (int32_t)(mix(mix(seed ^ place)) >> 8) >= threshold ? scale : 0.0f;
}

INLINE Bits mixed(Bits x) {
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x = (x ^ (x >> 15)) * 0x735A2D97u;
    return x ^ (x >> 15);
}

/* Factors of the numbers at a place and those behind it. */
INLINE Vector factors_at(uint32_t seed, uint32_t place, int32_t threshold, float scale) {
    const Bits hash = mixed(mixed(((Bits)lanes + place) ^ seed));
    return (Vector)(((Ints)(hash >> 8) >= threshold) & (Ints)splat(scale));
}

/* Numbers x times their factors, to y, which may be x: R members of B S rows of D numbers, whose places are counted example
 * by example; with by_position the rows lie position by position. */
void drop_rows(idx R, idx B, idx S, idx D, idx by_position, const float *x, idx x_stride, float *y, idx y_stride,
               const idx *keys, idx threshold, float scale) {
    const Drop drop = {keys, (int32_t)threshold, scale};
    const idx n = B * S, blocks = blocks_of(n);
#pragma omp parallel for schedule(static) if (R * n * D >= WORTH)
    for (idx task = 0; task < R * blocks; task++) {
        const idx r = task / blocks, from = task % blocks * BLOCK, to = least(from + BLOCK, n);
        const uint32_t seed = seed_of(&drop, r);
        if (by_position) {
            for (idx i = from; i < to; i++) {
                const float *xi = x + r * x_stride + i * D;
                float *yi = y + r * y_stride + i * D;
                const uint32_t place = (uint32_t)((i % B * S + i / B) * D);
#pragma omp simd
                for (idx k = 0; k < D; k++) yi[k] = xi[k] * factor(seed, place + (uint32_t)k, drop.threshold, scale);
            }
        } else {
            const float *xi = x + r * x_stride + from * D;
            float *yi = y + r * y_stride + from * D;
            const uint32_t place = (uint32_t)(from * D);
#pragma omp simd
            for (idx k = 0; k < (to - from) * D; k++)
                yi[k] = xi[k] * factor(seed, place + (uint32_t)k, drop.threshold, scale);
        }
    }
}

/* ---- embeddings */

/* y (n, D): rows of a table (V, D) by their tokens (n), times scale, plus the row of the place i mod S, if there are any. */
void embed_forward(idx R, idx n, idx D, idx S, const float *table, idx table_stride, const idx *tokens, float scale,
                   const float *positions, idx positions_stride, float *y) {
#pragma omp parallel for schedule(static) if (R * n * D >= WORTH)
    for (idx place = 0; place < R * n; place++) {
        const idx r = place / n, i = place % n;
        const float *row = table + r * table_stride + tokens[place] * D;
        float *yi = y + place * D;
        if (positions) {
            const float *position = positions + r * positions_stride + i % S * D;
#pragma omp simd
            for (idx k = 0; k < D; k++) yi[k] = row[k] * scale + position[k];
        } else {
#pragma omp simd
            for (idx k = 0; k < D; k++) yi[k] = row[k] * scale;
        }
    }
}

/* Its backward: d_y (n, D) -> added to d_table (V, D) and to d_positions (S or more, D), either only where it learns and is
 * not NULL, each row in the order of the places. Tokens of one class mod the number of classes are a thread's. */
void embed_backward(idx R, idx n, idx D, idx S, const idx *tokens, float scale, const float *d_y, float *d_table,
                    idx table_stride, float *d_positions, idx positions_stride) {
    const idx threads = R * n * D < WORTH ? 1 : omp_get_max_threads(), classes = R >= threads ? 1 : threads;
#pragma omp parallel for schedule(static) if (threads > 1)
    for (idx task = 0; task < (d_table ? R * classes : 0); task++) {
        const idx r = task / classes, class = task % classes;
        for (idx i = 0; i < n; i++) {
            const idx token = tokens[r * n + i];
            if (classes > 1 && token % classes != class) continue;
            const float *d = d_y + (r * n + i) * D;
            float *row = d_table + r * table_stride + token * D;
#pragma omp simd
            for (idx k = 0; k < D; k++) row[k] += d[k] * scale;
        }
    }
    if (!d_positions) return;
#pragma omp parallel for schedule(static) if (threads > 1)
    for (idx task = 0; task < R * S; task++) {
        const idx r = task / S, s = task % S;
        float *row = d_positions + r * positions_stride + s * D;
        for (idx i = s; i < n; i += S) {
            const float *d = d_y + (r * n + i) * D;
#pragma omp simd
            for (idx k = 0; k < D; k++) row[k] += d[k];
        }
    }
}

/* ---- rotary positions */

/* Turn the pairs of the first width of the E numbers of rows x (n, E), heads of a size each, by their position's angles, to y,
 * which may be x; the rest is copied. Turns (S, size / 2, 2) are cosines and sines; back is 1, or -1 for the backward. */
void turn_rows(idx R, idx n, idx E, idx S, idx size, idx width, const float *turns, float back, const float *x,
               idx x_stride, float *y, idx y_stride) {
#pragma omp parallel for schedule(static) if (R * n * width >= WORTH)
    for (idx place = 0; place < R * n; place++) {
        const idx r = place / n, i = place % n;
        const float *xi = x + r * x_stride + i * E, *turn = turns + i % S * size;
        float *yi = y + r * y_stride + i * E;
        for (idx head = 0; head < width; head += size) {
            const float *from = xi + head;
            float *to = yi + head;
#pragma omp simd
            for (idx k = 0; k < size / 2; k++) {
                const float even = from[2 * k], odd = from[2 * k + 1], cosine = turn[2 * k], sine = back * turn[2 * k + 1];
                to[2 * k] = even * cosine - odd * sine;
                to[2 * k + 1] = even * sine + odd * cosine;
            }
        }
        if (yi != xi) memcpy(yi + width, xi + width, (E - width) * sizeof(float));
    }
}

/* ---- activations */

enum { GELU, RELU, SWIGLU, TANH, GELU_NEW };

/* tanh(sqrt(2 / pi) (x + 0.044715 x^3)), of GELU as GPT-2 approximates it. */
INLINE float tanh_of_cubic(float x) { return tanh_(0.79788456f * x * (1.0f + 0.044715f * x * x)); }

/* y (n, E) of x, (n, E), or (n, 2 E) of SWIGLU: gates, then values. Slopes, if they are wanted, are of the layout of x and may
 * be x: what the gradient is to be multiplied by. */
void activate_forward(idx kind, idx R, idx n, idx E, const float *x, idx x_stride, float *slopes, idx slopes_stride,
                      float *y) {
    const idx blocks = blocks_of(n);
#pragma omp parallel for schedule(static) if (R * n * E >= WORTH)
    for (idx task = 0; task < R * blocks; task++) {
        const idx r = task / blocks, from = task % blocks * BLOCK, to = least(from + BLOCK, n), numbers = (to - from) * E;
        float *yi = y + (r * n + from) * E;
        if (kind == SWIGLU) {
            for (idx i = from; i < to; i++, yi += E) {
                const float *gate = x + r * x_stride + i * 2 * E, *up = gate + E;
                if (slopes) {
                    float *d_gate = slopes + r * slopes_stride + i * 2 * E, *d_up = d_gate + E;
#pragma omp simd
                    for (idx k = 0; k < E; k++) {
                        const float g = gate[k], u = up[k], s = 1.0f / (1.0f + exp_(-g)), silu = g * s;
                        yi[k] = silu * u;
                        d_gate[k] = u * (s + silu * (1.0f - s));
                        d_up[k] = silu;
                    }
                } else
#pragma omp simd
                    for (idx k = 0; k < E; k++) yi[k] = gate[k] / (1.0f + exp_(-gate[k])) * up[k];
            }
            continue;
        }
        const float *xi = x + r * x_stride + from * E;
        float *d = slopes ? slopes + r * slopes_stride + from * E : NULL;
        if (kind == RELU && slopes)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) {
                const float value = xi[k];
                yi[k] = value <= 0.0f ? 0.0f : value;
                d[k] = value <= 0.0f ? 0.0f : 1.0f;
            }
        else if (kind == RELU)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) yi[k] = xi[k] <= 0.0f ? 0.0f : xi[k];
        else if (kind == TANH && slopes)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) {
                const float value = tanh_(xi[k]);
                yi[k] = value;
                d[k] = 1.0f - value * value;
            }
        else if (kind == GELU_NEW && slopes)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) {
                const float value = xi[k], t = tanh_of_cubic(value), half = 0.5f * (1.0f + t);
                yi[k] = value * half;
                d[k] = half + 0.5f * value * (1.0f - t * t) * 0.79788456f * (1.0f + 0.134145f * value * value);
            }
        else if (kind == GELU_NEW)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) yi[k] = xi[k] * (0.5f * (1.0f + tanh_of_cubic(xi[k])));
        else if (kind == TANH)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) yi[k] = tanh_(xi[k]);
        else if (slopes)
#pragma omp simd
            for (idx k = 0; k < numbers; k++) {
                const float value = xi[k], e = exp_(-0.5f * value * value), p = normal_(value, e);
                yi[k] = value * p;
                d[k] = p + value * e * 0.39894228f;
            }
        else
#pragma omp simd
            for (idx k = 0; k < numbers; k++) yi[k] = xi[k] * normal_(xi[k], exp_(-0.5f * xi[k] * xi[k]));
    }
}

/* Its backward: d_y (n, E) -> d_x, of the layout of x and slopes, written or, with add, added. */
void activate_backward(idx kind, idx R, idx n, idx E, const float *slopes, idx slopes_stride, const float *d_y, float *d_x,
                       idx d_x_stride, idx add) {
    const idx halves = kind == SWIGLU ? 2 : 1;
#pragma omp parallel for schedule(static) if (R * n * E >= WORTH)
    for (idx place = 0; place < R * n; place++) {
        const idx r = place / n, i = place % n;
        const float *dy = d_y + place * E;
        for (idx half = 0; half < halves; half++) {
            const float *slope = slopes + r * slopes_stride + (i * halves + half) * E;
            float *dx = d_x + r * d_x_stride + (i * halves + half) * E;
            if (add)
#pragma omp simd
                for (idx k = 0; k < E; k++) dx[k] += dy[k] * slope[k];
            else
#pragma omp simd
                for (idx k = 0; k < E; k++) dx[k] = dy[k] * slope[k];
        }
    }
}

/* ---- residual connections and norms */

enum { NO_NORM, LAYER_NORM, RMS_NORM };

/* z = x + dropout(a + bias), rows (n, D), and y = norm(z); without a z is x itself, and without a norm there is no y. z may be
 * a. bias, weight and shift (D), or NULL; for the backward the mean and the inverse deviation (n) of each row. */
void residual_forward(idx R, idx n, idx D, const float *x, idx x_stride, const float *a, idx a_stride, const float *bias,
                      idx bias_stride, const idx *keys, idx threshold, float scale, float *z, idx z_stride, idx kind,
                      const float *weight, idx weight_stride, const float *shift, idx shift_stride, float eps,
                      float *means, float *inverses, float *y) {
    const Drop drop = {keys, (int32_t)threshold, scale};
#pragma omp parallel for schedule(static) if (R * n * D >= WORTH)
    for (idx place = 0; place < R * n; place++) {
        const idx r = place / n, i = place % n;
        const float *row = x + r * x_stride + i * D;
        if (a) {
            const float *ai = a + r * a_stride + i * D, *b = bias ? bias + r * bias_stride : NULL;
            float *zi = z + r * z_stride + i * D;
            const uint32_t seed = seed_of(&drop, r), first = (uint32_t)(i * D);
            if (keys && b)
#pragma omp simd
                for (idx k = 0; k < D; k++)
                    zi[k] = row[k] + (ai[k] + b[k]) * factor(seed, first + (uint32_t)k, drop.threshold, scale);
            else if (keys)
#pragma omp simd
                for (idx k = 0; k < D; k++)
                    zi[k] = row[k] + ai[k] * factor(seed, first + (uint32_t)k, drop.threshold, scale);
            else if (b)
#pragma omp simd
                for (idx k = 0; k < D; k++) zi[k] = row[k] + (ai[k] + b[k]);
            else
#pragma omp simd
                for (idx k = 0; k < D; k++) zi[k] = row[k] + ai[k];
            row = zi;
        }
        if (kind == NO_NORM) continue;
        float mean = 0.0f, square = 0.0f;
        if (kind == LAYER_NORM) {
#pragma omp simd reduction(+ : mean)
            for (idx k = 0; k < D; k++) mean += row[k];
            mean /= (float)D;
        }
#pragma omp simd reduction(+ : square)
        for (idx k = 0; k < D; k++) {
            const float centred = row[k] - mean;
            square += centred * centred;
        }
        const float inverse = 1.0f / sqrtf(square / (float)D + eps), *w = weight + r * weight_stride;
        float *yi = y + place * D;
        means[place] = mean, inverses[place] = inverse;
        if (shift) {
            const float *s = shift + r * shift_stride;
#pragma omp simd
            for (idx k = 0; k < D; k++) yi[k] = (row[k] - mean) * inverse * w[k] + s[k];
        } else {
#pragma omp simd
            for (idx k = 0; k < D; k++) yi[k] = (row[k] - mean) * inverse * w[k];
        }
    }
}

INLINE void add_row(float *restrict to, const float *restrict from, idx D) {
#pragma omp simd
    for (idx k = 0; k < D; k++) to[k] += from[k];
}

/* A row of the gradient of z from that of its norm; gradients of weight and shift are added. */
INLINE void back_through(int is_centred, int is_shifted, idx D, const float *restrict z, float mean, float inverse,
                         const float *restrict w, const float *restrict dy, float *restrict d, float *restrict dw,
                         float *restrict ds) {
    float average = 0.0f, slope = 0.0f;
#pragma omp simd reduction(+ : average, slope)
    for (idx k = 0; k < D; k++) {
        const float normal = is_centred ? (z[k] - mean) * inverse : z[k] * inverse, dn = dy[k] * w[k];
        if (is_centred) average += dn;
        slope += dn * normal;
        dw[k] += dy[k] * normal;
        if (is_shifted) ds[k] += dy[k];
    }
    average /= (float)D, slope *= inverse / (float)D;
#pragma omp simd
    for (idx k = 0; k < D; k++)
        d[k] = is_centred ? inverse * (dy[k] * w[k] - average - (z[k] - mean) * slope)
                          : inverse * (dy[k] * w[k] - z[k] * slope);
}

static void back_through_norm(idx kind, idx D, const float *z, float mean, float inverse, const float *w, const float *dy,
                              float *d, float *dw, float *ds) {
    if (kind == RMS_NORM)
        back_through(0, 0, D, z, mean, inverse, w, dy, d, dw, NULL);
    else if (ds)
        back_through(1, 1, D, z, mean, inverse, w, dy, d, dw, ds);
    else
        back_through(1, 0, D, z, mean, inverse, w, dy, d, dw, NULL);
}

/* Its backward: d_y (n, D) -> d_x, d_a (n, D), each written or added, where there is one; added to d_bias, d_weight, d_shift
 * (D), where there is one. d_a may be d_y. There is room for sums (R, blocks of n, 3, D). */
void residual_backward(idx R, idx n, idx D, const float *z, idx z_stride, const float *means, const float *inverses,
                       idx kind, const float *weight, idx weight_stride, const float *d_y, const idx *keys, idx threshold,
                       float scale, float *d_x, idx d_x_stride, idx add_x, float *d_a, idx d_a_stride, idx add_a,
                       float *d_bias, idx d_bias_stride, float *d_weight, idx d_weight_stride, float *d_shift,
                       idx d_shift_stride, float *sums) {
    const Drop drop = {keys, (int32_t)threshold, scale};
    const idx blocks = blocks_of(n);
#pragma omp parallel for schedule(static) if (R * n * D >= WORTH)
    for (idx task = 0; task < R * blocks; task++) {
        const idx r = task / blocks, from = task % blocks * BLOCK, to = least(from + BLOCK, n);
        const uint32_t seed = seed_of(&drop, r);
        float *dw = sums + task * 3 * D, *ds = d_shift ? dw + D : NULL, *db = dw + 2 * D, *row = memory_for(D);
        memset(dw, 0, 3 * D * sizeof(float));
        for (idx i = from; i < to; i++) {
            const idx place = r * n + i;
            const float *d = d_y + place * D;
            float *dx = d_x ? d_x + r * d_x_stride + i * D : NULL;
            if (kind != NO_NORM) {
                float *to_ = dx && !add_x ? dx : row;
                back_through_norm(kind, D, z + r * z_stride + i * D, means[place], inverses[place],
                                  weight + r * weight_stride, d, to_, dw, ds);
                d = to_;
            }
            if (dx && add_x)
                add_row(dx, d, D);
            else if (dx && dx != d)
                memcpy(dx, d, D * sizeof(float));
            if (!d_a) continue;
            float *da = d_a + r * d_a_stride + i * D;
            if (keys) {
                const uint32_t first = (uint32_t)(i * D);
                float *to_ = add_a ? row : da;
#pragma omp simd
                for (idx k = 0; k < D; k++) to_[k] = d[k] * factor(seed, first + (uint32_t)k, drop.threshold, scale);
                d = to_;
            }
            if (d_bias) add_row(db, d, D);
            if (add_a)
                add_row(da, d, D);
            else if (da != d)
                memcpy(da, d, D * sizeof(float));
        }
        free(row);
    }
    float *vectors[3] = {d_weight, d_shift, d_bias};
    const idx strides[3] = {d_weight_stride, d_shift_stride, d_bias_stride};
    for (idx r = 0; r < R; r++)
        for (int v = 0; v < 3; v++)
            for (idx block = 0; vectors[v] && block < blocks; block++)
                add_row(vectors[v] + r * strides[v], sums + ((r * blocks + block) * 3 + v) * D, D);
}

/* ---- attention, a head of an example at a time. Its keys are packed, and weights are made for a tile of queries at a time
 * and never kept: the backward makes them again from two numbers of each row. */

/* c (TALL, NV W) = sum over k of a(m, k) b(k, n), with add also + c, where a(m, k) is at m a_row + k a_step. */
#define TILE(NV)                                                                                                        \
    INLINE void tile_##NV(idx K, const float *a, idx a_row, idx a_step, const float *b, idx b_ld, float *c, idx c_ld,   \
                          int add) {                                                                                    \
        Vector sum[TALL][NV];                                                                                           \
        UNROLLED for (int m = 0; m < TALL; m++) UNROLLED for (int v = 0; v < NV; v++)                                   \
            sum[m][v] = add ? (Vector)(*(const Unaligned *)(c + m * c_ld + v * W)) : (Vector){0};                       \
        for (idx k = 0; k < K; k++) {                                                                                   \
            Vector row[NV];                                                                                             \
            UNROLLED for (int v = 0; v < NV; v++) row[v] = *(const Unaligned *)(b + k * b_ld + v * W);                  \
            UNROLLED for (int m = 0; m < TALL; m++) {                                                                   \
                const float number = a[m * a_row + k * a_step];                                                         \
                UNROLLED for (int v = 0; v < NV; v++) sum[m][v] += number * row[v];                                     \
            }                                                                                                           \
        }                                                                                                               \
        UNROLLED for (int m = 0; m < TALL; m++) UNROLLED for (int v = 0; v < NV; v++)                                   \
            *(Unaligned *)(c + m * c_ld + v * W) = sum[m][v];                                                           \
    }
TILE(1)
TILE(2)

/* c (TALL, N) = a (TALL, K) b (K, N), N a multiple of W. */
static void multiply(idx K, idx N, const float *a, idx a_ld, const float *b, idx b_ld, float *c, idx c_ld) {
    idx n = 0;
    for (; N - n >= 2 * W; n += 2 * W) tile_2(K, a, a_ld, 1, b + n, b_ld, c + n, c_ld, 0);
    if (n < N) tile_1(K, a, a_ld, 1, b + n, b_ld, c + n, c_ld, 0);
}

/* c (TALL, N) += a (K, TALL)^T b (K, N). */
static void add_transposed(idx K, idx N, const float *a, idx a_ld, const float *b, idx b_ld, float *c, idx c_ld) {
    idx n = 0;
    for (; N - n >= 2 * W; n += 2 * W) tile_2(K, a, 1, a_ld, b + n, b_ld, c + n, c_ld, 1);
    if (n < N) tile_1(K, a, 1, a_ld, b + n, b_ld, c + n, c_ld, 1);
}

/* Rows x (n, size) times scale to y (n, y_ld), y_ld being size in whole vectors: zeros behind them. */
static void pack(idx n, idx size, const float *x, idx x_ld, float scale, float *y, idx y_ld) {
    for (idx i = 0; i < n; i++, x += x_ld, y += y_ld) {
        idx k = 0;
        for (; size - k >= W; k += W) *(Unaligned *)(y + k) = *(const Unaligned *)(x + k) * scale;
        for (; k < y_ld; k++) y[k] = k < size ? x[k] * scale : 0.0f;
    }
}

/* Rows x (n, .) times a factor each, or all times scale, to y (n, size): written or added. */
INLINE void unpack(idx n, idx size, const float *x, idx x_ld, const float *factors, float scale, float *y, idx y_ld,
                   idx add) {
    for (idx i = 0; i < n; i++, x += x_ld, y += y_ld) {
        const float by = factors ? factors[i] : scale;
        idx k = 0;
        for (; size - k >= W; k += W) {
            Vector row = *(const Unaligned *)(x + k) * by;
            if (add) row += *(const Unaligned *)(y + k);
            *(Unaligned *)(y + k) = row;
        }
        for (; k < size; k++) y[k] = add ? y[k] + x[k] * by : x[k] * by;
    }
}

#define UPPER(k, d) ((k) & (d) ? W + (k) - (d) : (k))
#define LOWER(k, d) ((k) & (d) ? W + (k) : (k) + (d))
#define EXCHANGED(d)                                                      \
    if (d < W) UNROLLED for (int i = 0; i < W; i++) if (!(i & (d))) {     \
        const Vector upper = SHUFFLE(row[i], row[(i + d) % W], UPPER, d); \
        row[(i + d) % W] = SHUFFLE(row[i], row[(i + d) % W], LOWER, d);   \
        row[i] = upper;                                                   \
    }

/* Rows x (n, size) to columns of y (size, y_ld); zeros behind them up to whole vectors. A block of W rows and
 * columns at a time, whose squares are exchanged across the diagonal. */
static void pack_transposed(idx n, idx size, const float *x, idx x_ld, float *y, idx y_ld) {
    for (idx i = 0; i < n; i += W)
        for (idx k = 0; k < size; k += W) {
            const idx rows = least(W, n - i), columns = least(W, size - k);
            Vector row[W];
            if (rows == W && columns == W)
                UNROLLED for (int m = 0; m < W; m++) row[m] = *(const Unaligned *)(x + (i + m) * x_ld + k);
            else {
                memset(row, 0, sizeof(row));
                for (idx m = 0; m < rows; m++) memcpy(row + m, x + (i + m) * x_ld + k, columns * sizeof(float));
            }
            EXCHANGED(1)
            EXCHANGED(2)
#if W > 4
            EXCHANGED(4)
#endif
#if W > 8
            EXCHANGED(8)
#endif
            if (columns == W)
                UNROLLED for (int m = 0; m < W; m++) *(Unaligned *)(y + (k + m) * y_ld + i) = row[m];
            else
                for (idx m = 0; m < columns; m++) memcpy(y + (k + m) * y_ld + i, row + m, BYTES);
        }
}

/* B examples of Q queries and K keys, H heads of a size; with causal query i sees keys 0 to i; seen (R, B, K) or NULL are the
 * keys that count; lengths of rows and strides. */
typedef struct {
    idx R, B, Q, K, H, size, causal, q_ld, q_stride, kv_ld, kv_stride;
    const float *q, *k, *v;
    const uint8_t *seen;
    Drop drop;
    idx places, width; /* K in whole vectors and tiles, whichever are larger; size in whole vectors */
    float factor;      /* of the scores */
} Attention;

/* Head h of example b of member r. */
typedef struct {
    idx r, b, h;
    const float *q, *k, *v;
    uint32_t seed, place; /* of the dropout of the first weight */
    int32_t *hidden;      /* (places): -1 where a key is hidden, where seen is given */
} Head;

static Head head_of(const Attention *at, idx unit, int32_t *hidden) {
    const idx h = unit % at->H, b = unit / at->H % at->B, r = unit / at->H / at->B;
    const idx key = r * at->kv_stride + b * at->K * at->kv_ld + h * at->size;
    Head head = {r, b, h, at->q + r * at->q_stride + b * at->Q * at->q_ld + h * at->size, at->k + key, at->v + key,
                 seed_of(&at->drop, r), (uint32_t)((b * at->H + h) * at->Q * at->K), hidden};
    if (at->seen)
        for (idx j = 0; j < at->places; j++) hidden[j] = j < at->K && at->seen[(r * at->B + b) * at->K + j] ? 0 : -1;
    return head;
}

/* Ask for rows (n, numbers) of the next example, while this one is computed: its memory is no cache's yet. */
static void fetch(idx n, idx numbers, const float *x, idx x_ld) {
    for (idx i = 0; i < n; i++)
        for (idx k = 0; k < numbers; k += 16) __builtin_prefetch(x + i * x_ld + k);
}

/* Keys that the queries of a tile from i on may see. */
static inline idx keys_of(const Attention *at, idx i) { return at->causal ? least(i + TALL, at->K) : at->K; }

/* Which of the keys from j on are hidden from a query that sees those below limit. */
INLINE Ints hidden_at(int32_t j, int32_t limit, const int32_t *hidden, int is_masked) {
    const Ints behind = lanes + j >= limit;
    return is_masked ? behind | *(const Ints *)(hidden + j) : behind;
}

/* Scores of a row -> weights before they are divided by their sum, with dropout. N is a multiple of W. Of the row is kept the
 * highest score and the inverse of the sum, 0 where no key is seen. */
INLINE void soften(float *s, int32_t N, int32_t limit, const int32_t *hidden, int is_masked, int drops, uint32_t seed,
                   uint32_t place, int32_t threshold, float scale, float *kept) {
    Vector highs = splat(-INFINITY), total = {0};
    for (int32_t j = 0; j < N; j += W) {
        Vector x = load(s + j);
        if (is_masked || j + W > limit) store(s + j, x = choose(hidden_at(j, limit, hidden, is_masked), splat(-INFINITY), x));
        highs = choose(x > highs, x, highs);
    }
    const float high = highest(highs), top = high == -INFINITY ? 0.0f : high; /* no key is seen, or all are NaN */
    for (int32_t j = 0; j < N; j += W) {
        const Vector w = exps(load(s + j) - top);
        total += w;
        store(s + j, drops ? w * factors_at(seed, place + (uint32_t)j, threshold, scale) : w);
    }
    const float sum = sum_of(total);
    kept[0] = top, kept[1] = sum == 0.0f ? 0.0f : 1.0f / sum;
}

static void soften_row(const Attention *at, const Head *head, float *s, idx N, idx i, float *kept) {
    const int32_t limit = at->causal ? i + 1 : at->K;
    const uint32_t place = head->place + (uint32_t)(i * at->K);
    const Drop d = at->drop;
    if (at->seen && d.keys)
        soften(s, N, limit, head->hidden, 1, 1, head->seed, place, d.threshold, d.scale, kept);
    else if (at->seen)
        soften(s, N, limit, head->hidden, 1, 0, 0, 0, 0, 0.0f, kept);
    else if (d.keys)
        soften(s, N, limit, NULL, 0, 1, head->seed, place, d.threshold, d.scale, kept);
    else
        soften(s, N, limit, NULL, 0, 0, 0, 0, 0, 0.0f, kept);
}

static void attend(const Attention *at, idx from, idx to, float *rows, float *context) {
    const idx size = at->size, places = at->places, width = at->width, numbers = size * places + at->K * width;
    float *memory = memory_for(numbers + TALL * (2 * width + places) + places + 6 * 16), *end = memory;
    float *keys = taken(&end, size * places), *values = taken(&end, at->K * width), *q = taken(&end, TALL * width);
    float *s = taken(&end, TALL * places), *sums = taken(&end, TALL * width);
    int32_t *hidden = (int32_t *)taken(&end, places);
    const float scale = at->factor;
    memset(q, 0, TALL * width * sizeof(float)); /* rows of the last tile that are no queries hold those of another */
    for (idx unit = from; unit < to; unit++) {
        const Head head = head_of(at, unit, hidden);
        if (head.b + 1 < at->B) {
            fetch(at->Q, size, head.q + at->Q * at->q_ld, at->q_ld);
            fetch(at->K, size, head.k + at->K * at->kv_ld, at->kv_ld);
            fetch(at->K, size, head.v + at->K * at->kv_ld, at->kv_ld);
        }
        pack_transposed(at->K, size, head.k, at->kv_ld, keys, places);
        pack(at->K, size, head.v, at->kv_ld, 1.0f, values, width);
        for (idx i = 0; i < at->Q; i += TALL) {
            const idx some = least(TALL, at->Q - i), n = keys_of(at, i), N = whole(n, W);
            pack(some, size, head.q + i * at->q_ld, at->q_ld, scale, q, width);
            multiply(size, N, q, width, keys, places, s, places);
            float shares[TALL];
            for (idx m = 0; m < some; m++) {
                float kept[2];
                soften_row(at, &head, s + m * places, N, i + m, kept);
                shares[m] = kept[1];
                if (rows) memcpy(rows + 2 * (unit * at->Q + i + m), kept, sizeof(kept));
            }
            multiply(n, width, s, places, values, width, sums, width);
            float *out = context + ((head.r * at->B + head.b) * at->Q + i) * at->H * size + head.h * size;
            unpack(some, size, sums, width, shares, 0.0f, out, at->H * size, 0);
        }
    }
    free(memory);
}

static Attention attention_of(idx R, idx B, idx Q, idx K, idx H, idx size, idx causal, const float *q, idx q_ld,
                              idx q_stride, const float *kv, idx kv_ld, idx kv_stride, float factor,
                              const uint8_t *seen, const idx *keys, idx threshold, float scale) {
    return (Attention){R, B, Q, K, H, size, causal, q_ld, q_stride, kv_ld, kv_stride, q, kv,
                       kv + H * size, seen, {keys, (int32_t)threshold, scale},
                       whole(K, W > TALL ? W : TALL), whole(size, W), factor > 0.0f ? factor : 1.0f / sqrtf((float)size)};
}

/* Attention of queries q (B Q, H size) to kv (B K, 2 H size), keys, then values  ->  context (B Q, H size) and, unless it is
 * NULL, of each row of weights the highest score and the inverse sum, rows (B, H, Q, 2). Scores are multiplied by a factor, or,
 * where that is 0, divided by the root of the size. */
void window_attention(idx R, idx B, idx Q, idx K, idx H, idx size, idx causal, const float *q, idx q_ld, idx q_stride,
                      const float *kv, idx kv_ld, idx kv_stride, float factor, const uint8_t *seen,
                      const idx *keys, idx threshold, float scale, float *rows, float *context) {
    const Attention at = attention_of(R, B, Q, K, H, size, causal, q, q_ld, q_stride, kv, kv_ld, kv_stride, factor,
                                      seen, keys, threshold, scale);
    const idx units = R * B * H, threads = units * Q * K < WORTH ? 1 : omp_get_max_threads(), parts = least(threads, units);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++) attend(&at, units * part / parts, units * (part + 1) / parts, rows, context);
}

/* Scores p and gradients of weights g of a row -> weights as they were multiplied, with dropout, and gradients of scores. */
INLINE void harden(float *p, float *g, float *factors, int32_t N, int32_t limit, const int32_t *hidden, int is_masked,
                   int drops, uint32_t seed, uint32_t place, int32_t threshold, float scale, const float *kept) {
    Vector means = {0}; /* of the gradients, by the weights, which softmax takes off */
    for (int32_t j = 0; j < N; j += W) {
        Vector w = exps(load(p + j) - kept[0]) * kept[1], d = load(g + j);
        if (is_masked || j + W > limit) w = (Vector)(~hidden_at(j, limit, hidden, is_masked) & (Ints)w);
        if (drops) {
            const Vector by = factors_at(seed, place + (uint32_t)j, threshold, scale);
            store(factors + j, by), store(g + j, d *= by);
        }
        means += w * d;
        store(p + j, w);
    }
    const float mean = sum_of(means);
    for (int32_t j = 0; j < N; j += W) {
        const Vector w = load(p + j);
        store(g + j, w * (load(g + j) - mean));
        if (drops) store(p + j, w * load(factors + j));
    }
}

static void harden_row(const Attention *at, const Head *head, float *p, float *g, float *factors, idx N, idx i,
                       const float *kept) {
    const int32_t limit = at->causal ? i + 1 : at->K;
    const uint32_t place = head->place + (uint32_t)(i * at->K);
    const Drop d = at->drop;
    if (at->seen && d.keys)
        harden(p, g, factors, N, limit, head->hidden, 1, 1, head->seed, place, d.threshold, d.scale, kept);
    else if (at->seen)
        harden(p, g, NULL, N, limit, head->hidden, 1, 0, 0, 0, 0, 0.0f, kept);
    else if (d.keys)
        harden(p, g, factors, N, limit, NULL, 0, 1, head->seed, place, d.threshold, d.scale, kept);
    else
        harden(p, g, NULL, N, limit, NULL, 0, 0, 0, 0, 0, 0.0f, kept);
}

/* Where gradients go. */
typedef struct {
    float *q;
    idx q_ld, q_stride, add_q;
    float *kv;
    idx kv_ld, kv_stride, add_kv;
} Gradients;

static void attend_back(const Attention *at, idx from, idx to, const float *rows, const float *d_context,
                        const Gradients *to_) {
    const idx size = at->size, places = at->places, width = at->width, most = whole(least(at->Q, BLOCK), TALL);
    const idx numbers = 2 * size * places + 3 * places * width + most * 2 * (width + places) + TALL * width + 2 * places;
    float *memory = memory_for(numbers + 12 * 16), *end = memory;
    float *columns = taken(&end, size * places), *values = taken(&end, size * places), *k = taken(&end, places * width);
    float *d_k = taken(&end, places * width), *d_v = taken(&end, places * width), *q = taken(&end, most * width);
    float *d_out = taken(&end, most * width), *p = taken(&end, most * places), *g = taken(&end, most * places);
    float *d_q = taken(&end, TALL * width), *factors = taken(&end, places);
    int32_t *hidden = (int32_t *)taken(&end, places);
    const float scale = at->factor;
    memset(q, 0, most * width * sizeof(float)), memset(d_out, 0, most * width * sizeof(float)); /* as in attend */
    for (idx unit = from; unit < to; unit++) {
        const Head head = head_of(at, unit, hidden);
        if (head.b + 1 < at->B) {
            const idx D = at->H * size;
            fetch(at->Q, size, head.q + at->Q * at->q_ld, at->q_ld);
            fetch(at->K, size, head.k + at->K * at->kv_ld, at->kv_ld);
            fetch(at->K, size, head.v + at->K * at->kv_ld, at->kv_ld);
            fetch(at->Q, size, d_context + ((head.r * at->B + head.b + 1) * at->Q) * D + head.h * size, D);
        }
        pack_transposed(at->K, size, head.k, at->kv_ld, columns, places);
        pack_transposed(at->K, size, head.v, at->kv_ld, values, places);
        pack(at->K, size, head.k, at->kv_ld, 1.0f, k, width);
        memset(d_k, 0, places * width * sizeof(float)), memset(d_v, 0, places * width * sizeof(float));
        for (idx first = 0; first < at->Q; first += BLOCK) {
            const idx length = least(BLOCK, at->Q - first), D = at->H * size;
            const float *d_rows = d_context + ((head.r * at->B + head.b) * at->Q + first) * D + head.h * size;
            pack(length, size, head.q + first * at->q_ld, at->q_ld, scale, q, width);
            pack(length, size, d_rows, D, 1.0f, d_out, width);
            for (idx m = 0; m < length; m += TALL) {
                const idx n = keys_of(at, first + m), N = whole(n, W), some = least(TALL, length - m);
                multiply(size, N, q + m * width, width, columns, places, p + m * places, places);
                multiply(size, N, d_out + m * width, width, values, places, g + m * places, places);
                for (idx i = m; i < m + some; i++)
                    harden_row(at, &head, p + i * places, g + i * places, factors, N, first + i,
                               rows + 2 * (unit * at->Q + first + i));
                multiply(n, width, g + m * places, places, k, width, d_q, width);
                unpack(some, size, d_q, width, NULL, scale,
                       to_->q + head.r * to_->q_stride + (head.b * at->Q + first + m) * to_->q_ld + head.h * size, to_->q_ld,
                       to_->add_q);
            }
            const idx seen = keys_of(at, first + length - 1);
            for (idx j = 0; j < seen; j += TALL) {
                const idx i = at->causal && j > first ? j - first : 0; /* queries before see none of these keys */
                add_transposed(length - i, width, p + i * places + j, places, d_out + i * width, width, d_v + j * width, width);
                add_transposed(length - i, width, g + i * places + j, places, q + i * width, width, d_k + j * width, width);
            }
        }
        float *d_kv = to_->kv + head.r * to_->kv_stride + head.b * at->K * to_->kv_ld + head.h * size;
        unpack(at->K, size, d_k, width, NULL, 1.0f, d_kv, to_->kv_ld, to_->add_kv);
        unpack(at->K, size, d_v, width, NULL, 1.0f, d_kv + at->H * size, to_->kv_ld, to_->add_kv);
    }
    free(memory);
}

/* Its backward: d_context (B Q, H size) -> d_q and d_kv, laid out as q and kv, each written or added. */
void window_attention_backward(idx R, idx B, idx Q, idx K, idx H, idx size, idx causal, const float *q, idx q_ld,
                               idx q_stride, const float *kv, idx kv_ld, idx kv_stride, float factor,
                               const uint8_t *seen, const idx *keys, idx threshold, float scale, const float *rows,
                               const float *d_context, float *d_q, idx d_q_ld, idx d_q_stride, idx add_q, float *d_kv,
                               idx d_kv_ld, idx d_kv_stride, idx add_kv) {
    const Attention at = attention_of(R, B, Q, K, H, size, causal, q, q_ld, q_stride, kv, kv_ld, kv_stride, factor,
                                      seen, keys, threshold, scale);
    const Gradients gradients = {d_q, d_q_ld, d_q_stride, add_q, d_kv, d_kv_ld, d_kv_stride, add_kv};
    const idx units = R * B * H, threads = units * Q * K < WORTH ? 1 : omp_get_max_threads(), parts = least(threads, units);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++)
        attend_back(&at, units * part / parts, units * (part + 1) / parts, rows, d_context, &gradients);
}

/* ---- recurrence */

/* A time step of an LSTM, of B examples. In place: gates (B, 4 D), in the order forget, input, output, candidate, come in before
 * their non-linearities and go out behind them.
 *   h, c (B, D) of the step before, or NULL for zeros  ->  h, c (B, D)
 * Where an example's token is not seen, its state does not change; seen, unless NULL, has the example b at b seen_step.
 * Strides of gates, of both states before and of those after. */
void lstm_step(idx R, idx B, idx D, float *gates, idx gates_stride, const uint8_t *seen, idx seen_step, const float *h_before,
               idx h_before_stride, const float *c_before, idx c_before_stride, float *h, float *c, idx stride) {
#pragma omp parallel for schedule(static) if (R * B * D >= WORTH)
    for (idx place = 0; place < R * B; place++) {
        const idx r = place / B, b = place % B;
        float *restrict g = gates + r * gates_stride + b * 4 * D;
        float *restrict hb = h + r * stride + b * D, *restrict cb = c + r * stride + b * D;
        const float *restrict before = c_before ? c_before + r * c_before_stride + b * D : NULL;
        if (seen && !seen[place * seen_step]) {
            if (before) {
                memcpy(hb, h_before + r * h_before_stride + b * D, D * sizeof(float));
                memcpy(cb, before, D * sizeof(float));
            } else
                memset(hb, 0, D * sizeof(float)), memset(cb, 0, D * sizeof(float));
            continue;
        }
#pragma omp simd
        for (idx k = 0; k < 3 * D; k++) g[k] = sigmoid_(g[k]);
#pragma omp simd
        for (idx k = 3 * D; k < 4 * D; k++) g[k] = tanh_(g[k]);
        if (before)
#pragma omp simd
            for (idx k = 0; k < D; k++) {
                const float cell = g[k] * before[k] + g[D + k] * g[3 * D + k];
                cb[k] = cell, hb[k] = g[2 * D + k] * tanh_(cell);
            }
        else
#pragma omp simd
            for (idx k = 0; k < D; k++) {
                const float cell = g[D + k] * g[3 * D + k];
                cb[k] = cell, hb[k] = g[2 * D + k] * tanh_(cell);
            }
    }
}

/* Its backward, in place: gates become the gradient before the non-linearities, and d_c (B, D), that of c, becomes that of the c
 * before, or nothing where there is none. d_h (B, D) is read; where a token is not seen, it is added to d_h_before. */
void lstm_step_backward(idx R, idx B, idx D, float *gates, idx gates_stride, const uint8_t *seen, idx seen_step,
                        const float *c_before, idx before_stride, const float *c, const float *d_h, idx stride,
                        float *d_h_before, idx d_before_stride, float *d_c) {
#pragma omp parallel for schedule(static) if (R * B * D >= WORTH)
    for (idx place = 0; place < R * B; place++) {
        const idx r = place / B, b = place % B;
        float *restrict g = gates + r * gates_stride + b * 4 * D, *restrict dc = d_c + place * D;
        const float *restrict cb = c + r * stride + b * D, *restrict dh = d_h + r * stride + b * D;
        if (seen && !seen[place * seen_step]) {
            memset(g, 0, 4 * D * sizeof(float));
            if (d_h_before) add_row(d_h_before + r * d_before_stride + b * D, dh, D);
            continue;
        }
        if (c_before) {
            const float *restrict before = c_before + r * before_stride + b * D;
#pragma omp simd
            for (idx k = 0; k < D; k++) {
                const float f = g[k], in = g[D + k], o = g[2 * D + k], new = g[3 * D + k], t = tanh_(cb[k]);
                const float cell = dc[k] + dh[k] * o * (1.0f - t * t);
                g[k] = cell * before[k] * f * (1.0f - f);
                g[D + k] = cell * new * in * (1.0f - in);
                g[2 * D + k] = dh[k] * t * o * (1.0f - o);
                g[3 * D + k] = cell * in * (1.0f - new * new);
                dc[k] = cell * f;
            }
        } else {
#pragma omp simd
            for (idx k = 0; k < D; k++) {
                const float in = g[D + k], o = g[2 * D + k], new = g[3 * D + k], t = tanh_(cb[k]);
                const float cell = dc[k] + dh[k] * o * (1.0f - t * t);
                g[k] = 0.0f;
                g[D + k] = cell * new * in * (1.0f - in);
                g[2 * D + k] = dh[k] * t * o * (1.0f - o);
                g[3 * D + k] = cell * in * (1.0f - new * new);
            }
        }
    }
}

/* All time steps of a layer, with the products between them, a call each; where products is given, S or S - 1 of a size.
 *   gates (S B, 4 D), first h, c (B, D) or NULL  ->  h, c (S B, D); see lstm_step */
typedef void Multiply(const void *);

void lstm_steps(Multiply *multiply, const char *products, idx size, idx R, idx S, idx B, idx D, idx is_backward, float *gates,
                const uint8_t *seen, const float *first_h, idx first_h_stride, const float *first_c, idx first_c_stride,
                float *h, float *c) {
    const idx stride = S * B * D, step = is_backward ? -B * D : B * D;
    for (idx k = 0; k < S; k++) {
        const idx t = is_backward ? S - 1 - k : k, at = t * B * D;
        if (k || first_h) multiply(products), products += size;
        lstm_step(R, B, D, gates + 4 * at, 4 * stride, seen ? seen + t : NULL, S, k ? h + at - step : first_h,
                  k ? stride : first_h_stride, k ? c + at - step : first_c, k ? stride : first_c_stride, h + at, c + at, stride);
    }
}

/* Their backward, from the last step to the first; see lstm_step_backward. */
void lstm_steps_backward(Multiply *multiply, const char *products, idx size, idx R, idx S, idx B, idx D, idx is_backward,
                         float *gates, const uint8_t *seen, const float *first_c, idx first_stride, const float *c, float *d_h,
                         float *d_first_h, idx d_first_stride, float *d_c) {
    const idx stride = S * B * D, step = is_backward ? -B * D : B * D;
    for (idx k = S - 1; k >= 0; k--) {
        const idx t = is_backward ? S - 1 - k : k, at = t * B * D;
        lstm_step_backward(R, B, D, gates + 4 * at, 4 * stride, seen ? seen + t : NULL, S, k ? c + at - step : first_c,
                           k ? stride : first_stride, c + at, d_h + at, stride, k ? d_h + at - step : d_first_h,
                           k ? stride : d_first_stride, d_c);
        if (k || d_first_h) multiply(products), products += size;
    }
}

/* ---- recurrence of widths that are a multiple of 32, all time steps or some in one call
 *
 * Examples do not depend on each other, so a thread takes some of them through all steps. Products of a time step have few
 * rows: their matrix is packed once for a pass, and their sums go from registers to the cells by way of the first cache.
 * Each number is made by the same operations in the same order in every tile, so it does not depend on the number of
 * examples, members or threads. */

#if defined(__AVX512F__) || defined(__aarch64__)
#define HIGH 6 /* rows of a tile: 24 sums, 4 vectors of the matrix and a number in 32 registers */
#else
#define HIGH 2
#endif
#define PRODUCTS_WORTH 500000 /* products of two numbers for which it is worth telling the threads */

/* sums (MR, NV W) of rows a (MR, K) and a panel b (K, NV W), with add added to what they are. Rows have pointers in threes,
 * which leaves enough registers. */
INLINE void multiply_panel(const int MR, const int NV, idx K, const float *a, idx a_ld, const float *b, idx add,
                           float *sums) {
    Vector sum[HIGH][4];
    const float *row[(HIGH + 2) / 3];
    UNROLLED for (int i = 0; i < MR; i++) UNROLLED for (int v = 0; v < NV; v++)
        sum[i][v] = add ? load(sums + (i * NV + v) * W) : (Vector){0};
    UNROLLED for (int i = 0; i < (MR + 2) / 3; i++) {
        row[i] = a + 3 * i * a_ld;
        __asm__("" : "+r"(row[i])); /* else the compiler makes a pointer of every row */
    }
    for (idx k = K; k > 0; k--, b += NV * W) {
        Vector column[4];
        UNROLLED for (int v = 0; v < NV; v++) {
            column[v] = load(b + v * W);
            LOADED(column[v]);
        }
        UNROLLED for (int i = 0; i < MR; i++) {
            const Vector factor = row[i / 3][i % 3 * a_ld] - (Vector){0}; /* a number in every place */
            UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = FUSED(factor, column[v], sum[i][v]);
        }
        UNROLLED for (int i = 0; i < (MR + 2) / 3; i++) row[i]++;
    }
    UNROLLED for (int i = 0; i < MR; i++) UNROLLED for (int v = 0; v < NV; v++) store(sums + (i * NV + v) * W, sum[i][v]);
}

typedef void PanelOf(idx K, const float *a, idx a_ld, const float *b, idx add, float *sums);
#define PANEL(MR, NV)                                                                                           \
    static void panel_##MR##_##NV(idx K, const float *a, idx a_ld, const float *b, idx add, float *sums) {     \
        multiply_panel(MR, NV, K, a, a_ld, b, add, sums);                                                       \
    }
PANEL(1, 2) PANEL(1, 4) PANEL(2, 2) PANEL(2, 4)
#if HIGH == 6
PANEL(3, 2) PANEL(3, 4) PANEL(4, 2) PANEL(4, 4) PANEL(5, 2) PANEL(5, 4) PANEL(6, 2) PANEL(6, 4)
#endif
static PanelOf *const PANEL_OF[HIGH][2] = { /* by rows; 2 or 4 vectors */
    {panel_1_2, panel_1_4}, {panel_2_2, panel_2_4},
#if HIGH == 6
    {panel_3_2, panel_3_4}, {panel_4_2, panel_4_4}, {panel_5_2, panel_5_4}, {panel_6_2, panel_6_4},
#endif
};

/* Panels of a weight (4 D, K), rows ld apart, for products with its columns: (D / W, K, 4, W), of the same units of all gates. */
void pack_gates(idx R, idx D, idx K, const float *weight, idx ld, idx stride, float *panels) {
#pragma omp parallel for schedule(static) if (R * D * K >= WORTH)
    for (idx place = 0; place < R * D / W * 4; place++) {
        const idx r = place / (D / W * 4), u = place / 4 * W % D, gate = place % 4;
        pack_transposed(W, K, weight + r * stride + (gate * D + u) * ld, ld, panels + (r * D + u) * 4 * K + gate * W, 4 * W);
    }
}

/* Panels for products with its rows: of 4 vectors (4 D, 4 W), the last of 2 where that is all there is of K. */
void pack_columns(idx R, idx D, idx K, const float *weight, idx ld, idx stride, float *panels) {
#pragma omp parallel for schedule(static) if (R * D * K >= WORTH)
    for (idx r = 0; r < R; r++)
        for (idx u = 0; u < K; u += 4 * W) {
            const idx width = least(4 * W, K - u);
            for (idx k = 0; k < 4 * D; k++)
                memcpy(panels + (r * K + u) * 4 * D + k * width, weight + r * stride + k * ld + u, width * sizeof(float));
        }
}

INLINE Vector sigmoids(Vector x) {
    const Vector y = choose(-x > 88.0f, splat(88.0f), -x); /* a NaN stays one */
    return 1.0f / (1.0f + exps(y));
}

INLINE Vector tanhs(Vector x) {
    const Vector x2 = x * x, y = choose(2.0f * x > 88.0f, splat(88.0f), 2.0f * x);
    const Vector series = x * (1.0f + x2 * (-0.333333333f + x2 * (0.133333333f + x2 * -0.0539682540f)));
    const Vector general = 1.0f - 2.0f / (1.0f + exps(y));
    return choose(x2 < 0.01f, series, general);
}

/* Some examples of a member: places of the first and behind the last, and their number of tiles. */
typedef struct {
    idx r, from, to, tiles;
} Examples;

/* Work of a thread: tiles of examples of one member after the other. */
static inline idx tiles_of(idx B) { return (B + HIGH - 1) / HIGH; }
static Examples examples_of(idx B, idx unit, idx end) {
    const idx tiles = tiles_of(B), r = unit / tiles, tile = unit % tiles, last = least(tile + end - unit, tiles);
    return (Examples){r, B * tile / tiles, B * last / tiles, last - tile};
}

static idx parts_of_steps(idx units, double products) { /* of two numbers */
    return 4.0 * products < PRODUCTS_WORTH ? 1 : least(omp_get_max_threads(), units);
}

/* W units of n examples: from what enters the gates' non-linearities, sums (n, 4, W) and rows of 4 D numbers that are added,
 * each or NULL, to gates, h and c. In one function, so that every row is rounded alike. */
static __attribute__((noinline)) void cells(idx n, idx D, const float *sums, const float *const *added, float *gates,
                                            const float *h_before, const float *c_before, float *h, float *c,
                                            const uint8_t *seen, idx seen_step) {
    for (idx i = 0; i < n; i++) {
        float *g = gates + i * 4 * D;
        if (seen && !seen[i * seen_step]) continue;
        UNROLLED for (int gate = 0; gate < 4; gate++) {
            Vector in = {0};
            if (sums) in += load(sums + (4 * i + gate) * W);
            if (added) in += load(added[i] + gate * D);
            store(g + gate * D, gate < 3 ? sigmoids(in) : tanhs(in));
        }
    }
    for (idx i = 0; i < n; i++, gates += 4 * D, h += D, c += D) { /* apart: what is above does not wait for what is here */
        if (seen && !seen[i * seen_step]) {
            store(h, c_before ? load(h_before + i * D) : splat(0.0f));
            store(c, c_before ? load(c_before + i * D) : splat(0.0f));
            continue;
        }
        Vector cell = load(gates + D) * load(gates + 3 * D);
        if (c_before) cell += load(gates) * load(c_before + i * D);
        store(c, cell), store(h, load(gates + 2 * D) * tanhs(cell));
    }
}

/* All steps of a layer, from the first position on or, with step -1, from the last: gates (S B, 4 D) behind their non-
 * linearities, h, c (S B, D). What enters the gates besides the states: the product with the inputs x (S B, E), or NULL, and
 * a row of the table (., 4 D), that of each place's token, or the first where there are no tokens; no row where there is no
 * table. Panels of the weights of inputs and states (4 D, E + D). States before the first step, or NULL for zeros, have
 * strides of their own. */
void lstm_forwards(idx R, idx B, idx D, idx S, idx step, const float *panels, const float *x, idx E, idx x_stride,
                   const float *table, idx table_stride, const idx *tokens, const uint8_t *seen, const float *h_before,
                   idx h_before_stride, const float *c_before, idx c_before_stride, float *gates, float *h, float *c) {
    const idx units = R * tiles_of(B), parts = parts_of_steps(units, (double)R * B * S * D * (E + D)), K = x ? E + D : D;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++)
        for (idx unit = units * part / parts, end = units * (part + 1) / parts; unit < end;) {
            const Examples of = examples_of(B, unit, end);
            unit += of.tiles;
            for (idx k = 0; k < S; k++) {
                const idx t = step < 0 ? S - 1 - k : k, rows = (of.r * S + t) * B, before = rows - step * B;
                const float *hb = k ? h + before * D : h_before ? h_before + of.r * h_before_stride : NULL;
                const float *cb = k ? c + before * D : c_before ? c_before + of.r * c_before_stride : NULL;
                for (idx u = 0; u < D; u += W)
                    for (idx tile = 0; tile < of.tiles; tile++) {
                        const idx b = of.from + (of.to - of.from) * tile / of.tiles;
                        const idx MR = of.from + (of.to - of.from) * (tile + 1) / of.tiles - b;
                        const float *panel = panels + (of.r * D + u) * 4 * K, *added[HIGH];
                        float sums[HIGH * 4 * W] __attribute__((aligned(64)));
                        if (x) PANEL_OF[MR - 1][1](E, x + of.r * x_stride + (t * B + b) * E, E, panel, 0, sums);
                        if (hb) PANEL_OF[MR - 1][1](D, hb + b * D, D, panel + (K - D) * 4 * W, x != NULL, sums);
                        for (idx i = 0; i < MR && table; i++)
                            added[i] = table + of.r * table_stride + (tokens ? tokens[rows + b + i] * 4 * D : 0) + u;
                        cells(MR, D, x || hb ? sums : NULL, table ? added : NULL, gates + (rows + b) * 4 * D + u,
                              hb ? hb + b * D + u : NULL, cb ? cb + b * D + u : NULL, h + (rows + b) * D + u,
                              c + (rows + b) * D + u, seen ? seen + (of.r * B + b) * S + t : NULL, S);
                    }
            }
        }
}

/* NV vectors of units of n examples, backwards: d_h is added to what the step after gives, sums (n, NV W), or NULL. In place
 * as in lstm_step_backward. */
static __attribute__((noinline)) void cells_back(idx n, idx NV, idx D, const float *sums, float *gates, const float *c_before,
                                                 const float *c, const float *d_h, float *d_h_before, float *d_c,
                                                 const uint8_t *seen, idx seen_step) {
    for (idx i = 0; i < n; i++)
        for (idx v = 0; v < NV; v++) {
            const idx at = i * D + v * W;
            float *g = gates + 4 * i * D + v * W;
            Vector dh = load(d_h + at);
            if (sums) dh += load(sums + (i * NV + v) * W);
            if (seen && !seen[i * seen_step]) {
                UNROLLED for (int gate = 0; gate < 4; gate++) store(g + gate * D, splat(0.0f));
                if (d_h_before) store(d_h_before + at, load(d_h_before + at) + dh);
                continue;
            }
            const Vector f = load(g), in = load(g + D), o = load(g + 2 * D), new = load(g + 3 * D), t = tanhs(load(c + at));
            const Vector cell = load(d_c + at) + dh * o * (1.0f - t * t);
            store(g, c_before ? cell * load(c_before + at) * f * (1.0f - f) : splat(0.0f));
            store(g + D, cell * new * in * (1.0f - in));
            store(g + 2 * D, dh * t * o * (1.0f - o));
            store(g + 3 * D, cell * in * (1.0f - new * new));
            store(d_c + at, c_before ? cell * f : splat(0.0f));
        }
}

/* Asks for what the next tile changes, while this one is multiplied: units of n examples from a row on. */
static inline void fetch_back(idx n, idx D, idx units, idx row, idx u, const float *gates, const float *d_h) {
    for (idx i = row; i < row + n; i++)
        for (idx k = u; k < u + units; k += 16) {
            for (idx gate = 0; gate < 4; gate++) __builtin_prefetch(gates + (i * 4 + gate) * D + k, 1);
            __builtin_prefetch(d_h + i * D + k, 1);
        }
}

/* Their backward, in the order of the steps given, which is the opposite of that of the forward pass: gates become the gradient
 * before the non-linearities, from d_h (S B, D). d_after (B, 4 D) is that of the step after the first one here, or NULL;
 * c_last and d_h_last, or NULL, what belongs to the step before the last one; d_c (B, D) as in lstm_step_backward. */
void lstm_backwards(idx R, idx B, idx D, idx S, idx n, idx first, idx step, const float *panels, float *gates,
                    const uint8_t *seen, const float *d_after, const float *c, const float *c_last, idx c_last_stride,
                    float *d_h, float *d_h_last, idx d_h_last_stride, float *d_c) {
    const idx units = R * tiles_of(B), parts = parts_of_steps(units, (double)R * B * n * D * D);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (idx part = 0; part < parts; part++)
        for (idx unit = units * part / parts, end = units * (part + 1) / parts; unit < end;) {
            const Examples of = examples_of(B, unit, end);
            const float *own = panels + of.r * 4 * D * D;
            unit += of.tiles;
            for (idx k = 0; k < n; k++) {
                const idx t = first + k * step, rows = (of.r * S + t) * B, next = rows + step * B;
                const float *after = k ? gates + (rows - step * B) * 4 * D : d_after ? d_after + of.r * S * B * 4 * D : NULL;
                const float *cb = k < n - 1 ? c + next * D : c_last ? c_last + of.r * c_last_stride : NULL;
                float *dhb = k < n - 1 ? d_h + next * D : d_h_last ? d_h_last + of.r * d_h_last_stride : NULL;
                for (idx u = 0; u < D; u += 4 * W) {
                    const idx NV = D - u >= 4 * W ? 4 : 2, is_last = u + 4 * W >= D;
                    for (idx tile = 0; tile < of.tiles; tile++) {
                        const idx b = of.from + (of.to - of.from) * tile / of.tiles;
                        const idx MR = of.from + (of.to - of.from) * (tile + 1) / of.tiles - b, unit = (rows + b) * D + u;
                        float sums[HIGH * 4 * W] __attribute__((aligned(64)));
                        if (!is_last) fetch_back(MR, D, least(4 * W, D - u - 4 * W), rows + b, u + 4 * W, gates, d_h);
                        else if (k + 1 < n) fetch_back(MR, D, least(4 * W, D), next + b, 0, gates, d_h);
                        if (cb) fetch(MR, NV * W, cb + b * D + u, D);
                        if (after) PANEL_OF[MR - 1][NV == 4](4 * D, after + b * 4 * D, 4 * D, own + u * 4 * D, 0, sums);
                        cells_back(MR, NV, D, after ? sums : NULL, gates + (rows + b) * 4 * D + u, cb ? cb + b * D + u : NULL,
                                   c + unit, d_h + unit, dhb ? dhb + b * D + u : NULL, d_c + (of.r * B + b) * D + u,
                                   seen ? seen + (of.r * B + b) * S + t : NULL, S);
                    }
                }
            }
        }
}

/* c (MR, NV W) = a (K, MR)^T b (K, NV W), with add added to what it is. */
INLINE void multiply_rows(const int MR, const int NV, idx K, const float *a, idx a_ld, const float *b, idx b_ld, float *c,
                          idx c_ld, idx add) {
    Vector sum[HIGH][4];
    UNROLLED for (int i = 0; i < MR; i++) UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = (Vector){0};
    for (idx k = K; k > 0; k--, a += a_ld, b += b_ld) {
        Vector row[4];
        UNROLLED for (int v = 0; v < NV; v++) {
            row[v] = load(b + v * W);
            LOADED(row[v]);
        }
        UNROLLED for (int i = 0; i < MR; i++) {
            const Vector factor = a[i] - (Vector){0};
            UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = FUSED(factor, row[v], sum[i][v]);
        }
    }
    UNROLLED for (int i = 0; i < MR; i++) UNROLLED for (int v = 0; v < NV; v++) {
        float *to = c + i * c_ld + v * W;
        store(to, add ? load(to) + sum[i][v] : sum[i][v]);
    }
}

typedef void RowsOf(idx K, const float *a, idx a_ld, const float *b, idx b_ld, float *c, idx c_ld, idx add);
#define ROWS(MR, NV)                                                                                                     \
    static void rows_##MR##_##NV(idx K, const float *a, idx a_ld, const float *b, idx b_ld, float *c, idx c_ld, idx add) { \
        multiply_rows(MR, NV, K, a, a_ld, b, b_ld, c, c_ld, add);                                                        \
    }
ROWS(1, 2) ROWS(1, 4) ROWS(2, 2) ROWS(2, 4)
#if HIGH == 6
ROWS(3, 2) ROWS(3, 4) ROWS(4, 2) ROWS(4, 4) ROWS(5, 2) ROWS(5, 4) ROWS(6, 2) ROWS(6, 4)
#endif
static RowsOf *const ROWS_OF[HIGH][2] = { /* by rows; 2 or 4 vectors */
    {rows_1_2, rows_1_4}, {rows_2_2, rows_2_4},
#if HIGH == 6
    {rows_3_2, rows_3_4}, {rows_4_2, rows_4_4}, {rows_5_2, rows_5_4}, {rows_6_2, rows_6_4},
#endif
};

/* c (M, N) = a (K, M)^T b (K, N), or added to it; N a multiple of 32; lengths of rows and strides. For a chunk of rows in the
 * second cache, where they are read as they lie: to copy them first takes a seventh of the time. */
void weight_gradient(idx R, idx M, idx N, idx K, const float *a, idx a_ld, idx a_stride, const float *b, idx b_ld, idx b_stride,
                     float *c, idx c_ld, idx c_stride, idx add) {
    const idx tiles = tiles_of(M), units = R * tiles;
#pragma omp parallel for schedule(static) if ((double)R * M * N * K >= PRODUCTS_WORTH)
    for (idx unit = 0; unit < units; unit++) {
        const idx r = unit / tiles, tile = unit % tiles, m = M * tile / tiles, MR = M * (tile + 1) / tiles - m;
        for (idx n = 0; n < N; n += 4 * W)
            ROWS_OF[MR - 1][N - n >= 4 * W](K, a + r * a_stride + m, a_ld, b + r * b_stride + n, b_ld,
                                            c + r * c_stride + m * c_ld + n, c_ld, add);
    }
}

/* Rows x (n, E), each added to the row of its token, or all to the first, in their order: sums (., E), E a multiple of 32. */
void add_rows(idx R, idx n, idx E, const float *x, idx x_stride, const idx *tokens, idx tokens_stride, float *sums,
              idx sums_stride) {
    const idx threads = R * n * E < WORTH ? 1 : omp_get_max_threads(), cuts = R >= threads ? 1 : least(threads, E / (2 * W));
#pragma omp parallel for schedule(static) if (threads > 1)
    for (idx task = 0; task < R * cuts; task++) {
        const idx r = task / cuts, cut = task % cuts, pairs = E / (2 * W);
        const float *rows = x + r * x_stride;
        float *to = sums + r * sums_stride;
        const idx from = pairs * cut / cuts * 2 * W, end = pairs * (cut + 1) / cuts * 2 * W;
        if (tokens)
            for (idx i = 0; i < n; i++) {
                const float *row = rows + i * E;
                float *sum = to + tokens[r * tokens_stride + i] * E;
                for (idx k = from; k < end; k += W) store(sum + k, load(sum + k) + load(row + k));
            }
        else
            for (idx k = from; k < end; k += 2 * W) {
                Vector first = load(to + k), second = load(to + k + W);
                for (idx i = 0; i < n; i++) first += load(rows + i * E + k), second += load(rows + i * E + k + W);
                store(to + k, first), store(to + k + W, second);
            }
    }
}

/* ---- scores of tokens */

/* True where target is what argmax finds: the first of the highest, NaN above all. */
static int is_first(idx V, const float *z, idx target) {
    idx best = 0;
    for (idx k = 1; k < V && z[best] == z[best]; k++)
        if (z[k] > z[best] || z[k] != z[k]) best = k;
    return best == target;
}

/* Cross-entropy of rows z (n, V) with a distribution that has each on every token, besides that at_target on the target's and
 * at_first on token 0, constant added  ->  losses (n), right (n): 1 where the first of the highest logits is the target's, and,
 * with differentiate, the gradient of each loss in the place of its logits. */
void token_scores(idx R, idx n, idx V, float *z, const idx *targets, float each, float at_target, float at_first,
                  float constant, idx differentiate, float *losses, float *right) {
#pragma omp parallel for schedule(static) if (R * n * V >= WORTH)
    for (idx place = 0; place < R * n; place++) {
        float *restrict row = z + place * V;
        const idx target = targets[place];
        const float aim = row[target], first = row[0];
        float top = -INFINITY, sum = 0.0f, total = 0.0f;
#pragma omp simd reduction(max : top) reduction(+ : sum)
        for (idx k = 0; k < V; k++) {
            top = row[k] > top ? row[k] : top;
            sum += row[k];
        }
        int is_right = aim == top;
        if (is_right) {
            int before = 0;
#pragma omp simd reduction(+ : before)
            for (idx k = 0; k < target; k++) before += row[k] == top;
            is_right = before == 0;
        }
        if (!(sum - sum == 0.0f)) is_right = is_first(V, row, target); /* a NaN, or infinite */
        if (differentiate)
#pragma omp simd reduction(+ : total)
            for (idx k = 0; k < V; k++) {
                row[k] = exp_(row[k] - top);
                total += row[k];
            }
        else
#pragma omp simd reduction(+ : total)
            for (idx k = 0; k < V; k++) total += exp_(row[k] - top);
        float loss = logf(total) + at_target * (top - aim) + constant;
        if (each > 0.0f) loss += each * ((float)V * top - sum) + at_first * (top - first); /* which may be infinite */
        losses[place] = loss, right[place] = is_right ? 1.0f : 0.0f;
        if (!differentiate) continue;
        const float over = 1.0f / total;
#pragma omp simd
        for (idx k = 0; k < V; k++) row[k] = row[k] * over - each;
        row[target] -= at_target, row[0] -= at_first;
    }
}

/* Rows x (n, D) times a factor each. */
void scale_rows(idx R, idx n, idx D, float *x, const float *factors) {
#pragma omp parallel for schedule(static) if (R * n * D >= WORTH)
    for (idx place = 0; place < R * n; place++) {
        float *row = x + place * D;
        const float by = factors[place];
#pragma omp simd
        for (idx k = 0; k < D; k++) row[k] *= by;
    }
}
