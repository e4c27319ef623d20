/* Products of matrices of many members in one call, of float32 that is rounded to bfloat16: for each member r and group g
 *
 *     C[r, g] = alpha * sum_s round(A[r, g, s]) round(B[r, g, s]) (+ bias[r]) (+ C[r, g])
 *
 * A and B are rounded (to nearest, ties to even) as they are copied; products of two rounded numbers are exact in float32,
 * in which they are added up. C, bias and alpha are float32. Arguments, order of memory and promises are those of matmul.c:
 * a number of C depends on its row of A, its column of B and K alone, to the bit, whatever M, N, the members, the places in
 * memory and the number of threads are; nothing is read beyond A, B and bias; NaN and infinity come out as IEEE 754 says.
 *
 * Copies of A and B are made of units of 32 bits. On a processor that multiplies bfloat16 (AVX512_BF16) a unit is a pair of
 * them, next to each other in k, and one instruction adds two products to each of 16 sums; it takes denormal numbers for 0.
 * Elsewhere a unit is one rounded number in float32.
 */
#include "products.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define PAIR 2 /* numbers of a unit */
#else
#define PAIR 1
#endif

typedef int32_t Unit;
typedef Unit Units __attribute__((vector_size(BYTES), may_alias));
typedef Unit UnalignedUnits __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* ---- rounding */

/* n numbers, and 0 in the places of the others. */
static inline Vector loaded(const float *from, idx n) {
    if (n >= W) return (Vector) * (const Unaligned *)from;
#ifdef __AVX512F__
    return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1u << (n < 0 ? 0 : n)) - 1), from);
#else
    Vector out = {0};
    if (n > 0) memcpy(&out, from, n * sizeof(float));
    return out;
#endif
}

static inline uint32_t rounded_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
}

#if PAIR == 2
static inline Unit unit_of(float first, float second) {
    return (Unit)(rounded_bits(first) >> 16 | (rounded_bits(second) & 0xffff0000));
}
#define SECOND(x) (x)

/* Units of numbers that follow one another: those of first and then those of second. */
static inline Units units_of_line(Vector first, Vector second) {
    return (Units)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

/* Units of numbers of a row and of the next. */
static inline Units units_of_rows(Vector first, Vector second) {
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Units)_mm512_permutexvar_epi16(turns, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

#define ADDED(sum, a, b) (Vector) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(a), (__m512bh)(b))
#else
static inline Unit unit_of(float first, float second) {
    (void)second;
    return (Unit)(rounded_bits(first) & 0xffff0000);
}
#define SECOND(x) ((Vector){0})

static inline Units units_of_rows(Vector first, Vector second) {
    (void)second;
    const Units bits = (Units)first, odd = (Units)(first != first);
    const Units rounded = bits + 0x7fff + (bits >> 16 & 1);
    return ((rounded & ~odd) | ((bits | 0x400000) & odd)) & (Unit)0xffff0000;
}
#define units_of_line units_of_rows

#define ADDED(sum, a, b) FUSED(a, b, sum)
#endif

#define SPREAD(x) ((x) - (Units){0}) /* a unit in every place */

/* ---- a tile of C */

/* What a tile is made of: n of the units of k, from copies of A either rows (k adjacent) or columns (rows adjacent), a_ld
 * apart, and of a panel of B. */
typedef struct {
    idx n;
    const Unit *a;
    idx a_ld;
    const Unit *b;
    float *c;
    idx c_ld;
    const float *bias;
    float alpha;
    idx add;
} Tile;

/* A tile of MR rows and NV vectors. Rows of A have pointers in threes, which leaves enough registers. */
static inline __attribute__((always_inline)) void tile(const int MR, const int NV, const int in_rows, const Tile *t) {
    Vector sum[TALL][2];
    UNROLLED for (int i = 0; i < MR; i++) UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = (Vector){0};
    const Unit *b = t->b, *a[(TALL + 2) / 3];
    const idx a_ld = t->a_ld;
    UNROLLED for (int i = 0; i < (MR + 2) / 3; i++) {
        a[i] = t->a + (in_rows ? 3 * i * a_ld : 0);
        __asm__("" : "+r"(a[i])); /* else the compiler makes a pointer of every row */
    }
    for (idx k = t->n; k > 0; k--) {
        Units column[2];
        UNROLLED for (int v = 0; v < NV; v++) {
            column[v] = *(const UnalignedUnits *)(b + v * W);
            LOADED(column[v]);
        }
        UNROLLED for (int i = 0; i < MR; i++) {
            Units factor = SPREAD(in_rows ? a[i / 3][i % 3 * a_ld] : a[0][i]);
            LOADED(factor);
            UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = ADDED(sum[i][v], factor, column[v]);
        }
        b += WIDE;
        UNROLLED for (int i = 0; i < (MR + 2) / 3; i++) a[i] += in_rows ? 1 : a_ld;
    }
    const Vector alpha = t->alpha - (Vector){0};
    float *c = t->c;
    UNROLLED for (int i = 0; i < MR; i++, c += t->c_ld) UNROLLED for (int v = 0; v < NV; v++) {
        Vector base = {0};
        if (t->bias) base += *(const Unaligned *)(t->bias + v * W);
        if (t->add) base += *(Unaligned *)(c + v * W);
        *(Unaligned *)(c + v * W) = FUSED(alpha, sum[i][v], base);
    }
}

#include "tiles.h"

/* A tile of MR rows of which only the first columns of its vectors are C's. */
static void narrow_tile(idx MR, idx columns, Tile t, idx in_rows) {
    float whole[TALL * WIDE], bias[WIDE], *c = t.c;
    const idx c_ld = t.c_ld;
    t.c = whole, t.c_ld = WIDE;
    if (t.bias) move(bias, t.bias, columns), t.bias = bias;
    for (idx i = 0; t.add && i < MR; i++) move(whole + i * WIDE, c + i * c_ld, columns);
    TILE_OF[MR - 1][in_rows][columns > W](&t);
    for (idx i = 0; i < MR; i++) move(c + i * c_ld, whole + i * WIDE, columns);
}

/* ---- copies of A and B in units */

/* Lines of K numbers that lie next to each other, to lines of units, to_ld apart, in whole vectors: the next line overwrites
 * what is too much of one. */
static void copy_lines(const float *from, idx line, idx n, idx K, Unit *to, idx to_ld) {
    const idx each = PAIR * W;
    for (; n > 0; n--, from += line, to += to_ld) {
        idx k = 0;
        for (; K - k >= each; k += each)
            *(UnalignedUnits *)(to + k / PAIR) =
                units_of_line(*(const Unaligned *)(from + k), SECOND(*(const Unaligned *)(from + k + W)));
        if (k < K)
            *(UnalignedUnits *)(to + k / PAIR) =
                units_of_line(loaded(from + k, K - k), SECOND(loaded(from + k + W, K - k - W)));
    }
}

/* K rows of n numbers that lie next to each other to rows of size units, a row for each unit of k, to_ld apart. */
static void copy_rows(const float *from, idx row, idx n, idx K, Unit *to, idx size, idx to_ld) {
    for (idx k = 0; k < K; k += PAIR, from += PAIR * row, to += to_ld) {
        const idx has_second = PAIR == 2 && k + 1 < K, whole = has_second || PAIR == 1 ? least(n, size) : 0;
        idx i = 0;
        for (; whole - i >= W; i += W)
            *(UnalignedUnits *)(to + i) =
                units_of_rows(*(const Unaligned *)(from + i), SECOND(*(const Unaligned *)(from + row + i)));
        for (; i < size; i += W) {
            const Vector second = has_second ? loaded(from + row + i, n - i) : (Vector){0};
            *(UnalignedUnits *)(to + i) = units_of_rows(loaded(from + i, n - i), second);
        }
    }
}

/* Numbers of any steps, of n lines, to rows of size units as copy_rows. */
static void copy_any(const float *from, idx line, idx number, idx n, idx K, Unit *to, idx size, idx to_ld) {
    for (idx k = 0; k < K; k += PAIR, to += to_ld)
        for (idx i = 0; i < size; i++) {
            const float *at = from + i * line + k * number;
            to[i] = i < n ? unit_of(at[0], PAIR == 2 && k + 1 < K ? at[number] : 0.0f) : 0;
        }
}

/* Vectors x and y in turns, within each four units: single ones or pairs, of their first or their second halves. */
#define FOURS_1(a, b, c, d) a, b, c, d
#define FOURS_2(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4
#define FOURS_4(a, b, c, d) FOURS_2(a, b, c, d), FOURS_2(a + 8, b + 8, c + 8, d + 8)
#if BYTES == 64
#define FOURS FOURS_4
#define AT(p) _mm_loadu_si128((const __m128i *)(p))
#define JOINED(p, ld)                                                                                                     \
    (Units) _mm512_inserti32x4(_mm512_inserti32x4(_mm512_inserti32x4(_mm512_castsi128_si512(AT(p)), AT((p) + 4 * (ld)),   \
        1), AT((p) + 8 * (ld)), 2), AT((p) + 12 * (ld)), 3)
#elif BYTES == 32
#define FOURS FOURS_2
#define AT(p) _mm_loadu_si128((const __m128i *)(p))
#define JOINED(p, ld) (Units) _mm256_insertf128_si256(_mm256_castsi128_si256(AT(p)), AT((p) + 4 * (ld)), 1)
#else
#define FOURS FOURS_1
#define JOINED(p, ld) (*(const UnalignedUnits *)(p))
#endif
#ifdef __clang__
#define TURNS(x, y, a, b, c, d) __builtin_shufflevector(x, y, FOURS(a, b, c, d))
#else
#define TURNS(x, y, a, b, c, d) __builtin_shuffle(x, y, (Units){FOURS(a, b, c, d)})
#endif

/* W lines of 4 units, from_ld apart, to 4 rows of W, to_ld apart. A vector holds 4 units of every fourth line. */
static inline void transpose(const Unit *from, idx from_ld, Unit *to, idx to_ld) {
    Units x[4], y[4];
    UNROLLED for (int i = 0; i < 4; i++) x[i] = JOINED(from + i * from_ld, from_ld);
    UNROLLED for (int i = 0; i < 4; i += 2) {
        y[i] = TURNS(x[i], x[i + 1], 0, W, 1, W + 1);
        y[i + 1] = TURNS(x[i], x[i + 1], 2, W + 2, 3, W + 3);
    }
    UNROLLED for (int i = 0; i < 2; i++) {
        *(UnalignedUnits *)(to + 2 * i * to_ld) = TURNS(y[i], y[i + 2], 0, 1, W, W + 1);
        *(UnalignedUnits *)(to + (2 * i + 1) * to_ld) = TURNS(y[i], y[i + 2], 2, 3, W + 2, W + 3);
    }
}

/* n <= WIDE lines of K numbers that lie next to each other to a panel, whose other columns are 0: nothing is computed of them,
 * but numbers that are left over may be denormal, and slow. */
static void copy_turned(const float *from, idx line, idx n, idx K, Unit *to, Unit *lines) {
    const idx U = ceiling(K, PAIR), ld = DEEP + W;
    for (idx i = 0; i < WIDE; i += W) {
        const idx some = n - i < 0 ? 0 : least(n - i, W);
        copy_lines(from + i * line, line, some, K, lines, ld);
        for (idx j = some; j < W; j++) memset(lines + j * ld, 0, U * sizeof(Unit));
        idx u = 0;
        for (; U - u >= 4; u += 4) transpose(lines + u, ld, to + u * WIDE + i, WIDE);
        for (; u < U; u++)
            for (idx j = 0; j < W; j++) to[u * WIDE + i + j] = lines[j * ld + u];
    }
}

/* ---- the product of two matrices */

/* One of the products, of which rows m to M and columns n to N are wanted. */
typedef struct {
    const Product *p;
    const float *a, *b, *bias;
    Unit *packed;
    float *c;
    idx m, M, n, N;
} Part;

/* Blocks of k, of equal size up to one unit. */
static inline idx units_of(idx K) { return ceiling(K, PAIR); }
static inline idx blocks_of(idx K) { return ceiling(units_of(K), DEEP); }
static inline idx deepest(idx K) { return ceiling(units_of(K), blocks_of(K)); }
static inline idx padded(idx N) { return ceiling(N, WIDE) * WIDE; }
static inline idx whole_vectors(idx n) { return ceiling(n, W) * W; }

/* What is copied of B at once, in whole panels and blocks of k. */
static inline idx columns_at_once(const Product *p) { return least(padded(p->N), BLOCK / deepest(p->K) / WIDE * WIDE); }
static inline idx blocks_at_once(const Product *p) {
    const idx blocks = BLOCK / (columns_at_once(p) * deepest(p->K));
    return blocks < 1 ? 1 : least(least(blocks, MOST), blocks_of(p->K));
}

/* Room for copies: panels of B, rows of A for some tiles, lines of a panel before they are turned. */
typedef struct {
    Unit *b, *a, *lines;
} Scratch;

/* A block of k: U units from unit u on, K numbers, of columns n to N, and where its panels of B are. */
typedef struct {
    idx u, U, K, n, N;
    Unit *b;
} Block;

static Block block_of(const Product *p, idx i, idx n, idx N, Unit *b) {
    const idx units = units_of(p->K), u = units * i / blocks_of(p->K), U = units * (i + 1) / blocks_of(p->K) - u;
    return (Block){u, U, least(PAIR * U, p->K - PAIR * u), n, N, b};
}

static void copy_b(const Part *part, const Block *at, const Scratch *scratch) {
    const Matrix *b = &part->p->b;
    const float *from = part->b + PAIR * at->u * b->row + at->n * b->column;
    const idx panels = ceiling(at->N - at->n, WIDE), size = at->U * WIDE;
    if (b->column == 1) { /* some panels at once, so that memory is read in its order */
        for (idx k = 0; k < at->K; k += PAIR)
            for (idx panel = 0; panel < panels; panel++)
                copy_rows(from + k * b->row + panel * WIDE, b->row, at->N - at->n - panel * WIDE, least(PAIR, at->K - k),
                          at->b + panel * size + k / PAIR * WIDE, WIDE, WIDE);
        return;
    }
    for (idx panel = 0; panel < panels; panel++, from += WIDE * b->column) {
        const idx n = least(at->N - at->n - panel * WIDE, WIDE);
        if (b->row == 1)
            copy_turned(from, b->column, n, at->K, at->b + panel * size, scratch->lines);
        else
            copy_any(from, b->column, b->row, n, at->K, at->b + panel * size, WIDE, WIDE);
    }
}

/* Rows m to M of A in a block: as lines of units where they lie so, or else all of one unit of k next to each other. */
static void copy_a(const Part *part, const Block *at, idx m, idx M, Unit *to) {
    const Matrix *a = &part->p->a;
    const float *from = part->a + PAIR * at->u * a->column + m * a->row;
    const idx size = whole_vectors(M - m);
    if (a->column == 1)
        copy_lines(from, a->row, M - m, at->K, to, at->U);
    else if (a->row == 1)
        copy_rows(from, a->column, M - m, at->K, to, size, size);
    else
        copy_any(from, a->row, a->column, M - m, at->K, to, size, size);
}

/* A block of k for some tiles, whose rows of A are copied; a panel of B stays in the first cache for all of them. */
static void multiply_block(const Part *part, const Block *at, const idx *starts, idx tiles, idx first, const Unit *a) {
    const Product *p = part->p;
    const idx in_rows = p->a.column == 1, a_ld = in_rows ? at->U : whole_vectors(starts[tiles] - starts[0]);
    Tile t = {.n = at->U, .a_ld = a_ld, .c_ld = p->c_row, .alpha = p->alpha, .add = p->add || !first};
    for (idx j = at->n, panel = 0; j < at->N; j += WIDE, panel++) {
        const idx columns = least(at->N - j, WIDE);
        t.b = at->b + panel * at->U * WIDE;
        t.bias = first && part->bias ? part->bias + j : NULL;
        for (idx i = 0; i < tiles; i++) {
            const idx MR = starts[i + 1] - starts[i];
            t.a = a + (starts[i] - starts[0]) * (in_rows ? at->U : 1), t.c = part->c + starts[i] * p->c_row + j;
            if (columns == WIDE)
                TILE_OF[MR - 1][in_rows][1](&t);
            else
                narrow_tile(MR, columns, t, in_rows);
        }
    }
}

static void multiply(const Part *whole, const Scratch *scratch) {
    const Product *p = whole->p;
    const idx K = p->K, blocks = blocks_of(K), columns = columns_at_once(p), at_once = blocks_at_once(p);
    const idx rows = whole->M - whole->m, tiles = ceiling(rows, TALL);
    for (idx n = whole->n; n < whole->N; n += columns)
        for (idx s = 0; s < p->S; s++) {
            Part part = *whole;
            part.a += s * p->a.summand, part.b += s * p->b.summand;
            for (idx from = 0; from < blocks; from += at_once) {
                const idx some = least(at_once, blocks - from);
                Block each[MOST];
                for (idx i = 0; i < some; i++) {
                    Unit *b = scratch->b + i * columns * deepest(K);
                    each[i] = block_of(p, from + i, n, least(n + columns, whole->N), b);
                    if (part.packed)
                        each[i].b = part.packed + each[i].u * padded(p->N) + n * each[i].U;
                    else
                        copy_b(&part, each + i, scratch);
                }
                for (idx tile = 0; tile < tiles; tile += TOGETHER) {
                    const idx count = least(TOGETHER, tiles - tile);
                    idx starts[TOGETHER + 1];
                    for (idx t = 0; t <= count; t++) starts[t] = whole->m + rows * (tile + t) / tiles;
                    for (idx i = 0; i < some; i++) {
                        copy_a(&part, each + i, starts[0], starts[count], scratch->a);
                        multiply_block(&part, each + i, starts, count, !s && !from && !i, scratch->a);
                    }
                }
            }
        }
}

/* ---- all of them */

static Part part_of(const Product *p, idx r, idx g) {
    return (Part){p, p->a.data + r * p->a.member + g * p->a.group, p->b.data + r * p->b.member + g * p->b.group,
                  p->bias ? p->bias + r * p->bias_member : NULL, p->packed ? p->packed + r * p->packed_member : NULL,
                  p->c + r * p->c_member + g * p->c_group, 0, p->M, 0, p->N};
}

/* Memory of a thread, in parts that begin where cache lines do. */
static Scratch scratch_of(const Product *p, void **memory) {
    const idx of_b = p->packed ? 0 : columns_at_once(p) * blocks_at_once(p) * deepest(p->K);
    const idx of_a = least(whole_vectors(p->M), TOGETHER * TALL + W) * deepest(p->K) + W;
    *memory = malloc((of_b + of_a + W * (DEEP + W)) * sizeof(Unit) + BYTES);
    if (!*memory) abort(); /* memory is at its end; a NULL would leave the product out */
    Unit *b = (Unit *)(((uintptr_t)*memory + BYTES - 1) / BYTES * BYTES);
    return (Scratch){b, b + of_b, b + of_b + of_a};
}

#include "pieces.h"

/* Units of the copies of one member's B: K units of all columns, in whole panels. */
idx packed_size(const Product *p) { return units_of(p->K) * padded(p->N); }

/* Copies of every member's B, which may then be the right matrix of many products with these K and N. */
void pack(const Product *p) {
    Product whole = *p;
    whole.packed = NULL;
    void *memory;
    const Scratch scratch = scratch_of(&whole, &memory);
    for (idx r = 0; r < p->R; r++) {
        const Part part = part_of(p, r, 0);
        for (idx i = 0; i < blocks_of(p->K); i++) {
            Block at = block_of(p, i, 0, p->N, NULL);
            at.b = part.packed + at.u * padded(p->N);
            copy_b(&part, &at, &scratch);
        }
    }
    free(memory);
}
