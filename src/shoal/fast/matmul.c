/* Products of matrices of many members in one call: float32, for each member r and each group g
 *
 *     C[r, g] = alpha * sum_s A[r, g, s] B[r, g, s] (+ bias[r]) (+ C[r, g])
 *
 * A is (M, K), B is (K, N), C is (M, N) with adjacent columns; A and B may lie in memory in either order.
 *
 * Every number of C is made by the same operations in the same order, whatever M, N, the members, the places in memory and
 * the number of threads are: the products a_k b_k are added one after the other in blocks of k, whose bounds depend on K
 * alone, and the blocks' sums in their order. So a row of C depends on its row of A and on B alone, to the bit.
 *
 * Nothing is read beyond A, B and bias, nothing is written beyond C, and C is read only if it is added to. What comes in as
 * NaN or infinite comes out as IEEE 754 says: there are no zeros in place of what is missing.
 *
 * The design is that of Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication": a tile of C in
 * registers, a panel of B in the first cache, a block of B in the second. Rows of A are read where they lie, because most
 * products have few columns, for which copies of A would not pay.
 */
#include "products.h"

#define NEAR 8192 /* numbers in memory that are read where they lie: they stay in the first cache */
#define SPREAD(x) ((x) - (Vector){0}) /* a number in every place */

/* ---- a tile of C */

/* What a tile is made of: n of the k, from A either rows (k adjacent) or columns (rows adjacent), a_ld apart. */
typedef struct {
    idx n;
    const float *a;
    idx a_ld;
    const float *b;
    idx b_ld;
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
    const float *b = t->b, *a[(TALL + 2) / 3];
    const idx a_ld = t->a_ld, b_ld = t->b_ld;
    UNROLLED for (int i = 0; i < (MR + 2) / 3; i++) {
        a[i] = t->a + (in_rows ? 3 * i * a_ld : 0);
        __asm__("" : "+r"(a[i])); /* else the compiler makes a pointer of every row */
    }
    for (idx k = t->n; k > 0; k--) {
        Vector column[2];
        UNROLLED for (int v = 0; v < NV; v++) {
            column[v] = *(const Unaligned *)(b + v * W);
            LOADED(column[v]);
        }
        UNROLLED for (int i = 0; i < MR; i++) {
            const Vector factor = SPREAD(in_rows ? a[i / 3][i % 3 * a_ld] : a[0][i]);
            UNROLLED for (int v = 0; v < NV; v++) sum[i][v] = FUSED(factor, column[v], sum[i][v]);
        }
        b += b_ld;
        UNROLLED for (int i = 0; i < (MR + 2) / 3; i++) a[i] += in_rows ? 1 : a_ld;
    }
    const Vector alpha = SPREAD(t->alpha);
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
    float whole[TALL * WIDE], *c = t.c;
    const idx c_ld = t.c_ld;
    t.c = whole, t.c_ld = WIDE;
    for (idx i = 0; t.add && i < MR; i++) move(whole + i * WIDE, c + i * c_ld, columns);
    TILE_OF[MR - 1][in_rows][columns > W](&t);
    for (idx i = 0; i < MR; i++) move(c + i * c_ld, whole + i * WIDE, columns);
}

/* ---- copies of A and B */

/* Vectors x and y in turns, within each four numbers: single ones or pairs, of their first or their second halves. */
#define FOURS_1(a, b, c, d) a, b, c, d
#define FOURS_2(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4
#define FOURS_4(a, b, c, d) FOURS_2(a, b, c, d), FOURS_2(a + 8, b + 8, c + 8, d + 8)
#if BYTES == 64
#define FOURS FOURS_4
#define JOINED(p, ld)                                                                                       \
    (Vector) _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(               \
        _mm_loadu_ps(p)), _mm_loadu_ps((p) + 4 * (ld)), 1), _mm_loadu_ps((p) + 8 * (ld)), 2),               \
        _mm_loadu_ps((p) + 12 * (ld)), 3)
#elif BYTES == 32
#define FOURS FOURS_2
#define JOINED(p, ld) \
    (Vector) _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + 4 * (ld)), 1)
#else
#define FOURS FOURS_1
#define JOINED(p, ld) (*(const Unaligned *)(p))
#endif
#ifdef __clang__
#define TURNS(x, y, a, b, c, d) __builtin_shufflevector(x, y, FOURS(a, b, c, d))
#else
typedef int32_t Places __attribute__((vector_size(BYTES)));
#define TURNS(x, y, a, b, c, d) __builtin_shuffle(x, y, (Places){FOURS(a, b, c, d)})
#endif

/* W rows of 4 numbers, from_ld apart, to 4 rows of W, to_ld apart. A vector holds 4 numbers of every fourth row. */
static inline void transpose(const float *from, idx from_ld, float *to, idx to_ld) {
    Vector x[4], y[4];
    UNROLLED for (int i = 0; i < 4; i++) x[i] = JOINED(from + i * from_ld, from_ld);
    UNROLLED for (int i = 0; i < 4; i += 2) {
        y[i] = TURNS(x[i], x[i + 1], 0, W, 1, W + 1);
        y[i + 1] = TURNS(x[i], x[i + 1], 2, W + 2, 3, W + 3);
    }
    UNROLLED for (int i = 0; i < 2; i++) {
        *(Unaligned *)(to + 2 * i * to_ld) = TURNS(y[i], y[i + 2], 0, 1, W, W + 1);
        *(Unaligned *)(to + (2 * i + 1) * to_ld) = TURNS(y[i], y[i + 2], 2, 3, W + 2, W + 3);
    }
}

/* K rows of B, of which some panels of columns go to panels; some at once, so that memory is read in its order. */
static void copy_panels(const float *from, idx row, idx K, idx panels, float *to) {
    for (; panels > 0; panels -= 4, from += 4 * WIDE, to += 4 * WIDE * K) {
        const idx some = least(panels, 4);
        for (idx k = 0; k < K; k++)
            for (idx panel = 0; panel < some; panel++)
                UNROLLED for (int v = 0; v < WIDE; v += W)
                    *(Vector *)(to + (panel * K + k) * WIDE + v) = *(const Unaligned *)(from + k * row + panel * WIDE + v);
    }
}

/* n lines of K numbers from (line, number) by steps to (number, line): rows of size numbers, of which the last are 0. */
static void copy(const float *from, idx line, idx number, idx n, idx K, float *to, idx size) {
    idx i = 0;
    if (number == 1)
        for (; n - i >= W; i += W) {
            idx k = 0;
            for (; K - k >= 4; k += 4) transpose(from + i * line + k, line, to + k * size + i, size);
            for (; k < K; k++)
                for (idx j = i; j < i + W; j++) to[k * size + j] = from[j * line + k];
        }
    for (idx k = 0; k < K; k++) {
        for (idx j = i; j < n; j++) to[k * size + j] = from[j * line + k * number];
        for (idx j = n; j < size; j++) to[k * size + j] = 0.0f;
    }
}

/* ---- the product of two matrices */

/* One of the products, of which rows m to M and columns n to N are wanted. */
typedef struct {
    const Product *p;
    const float *a, *b, *bias;
    float *c;
    idx m, M, n, N;
} Part;

/* Blocks of k, of equal size up to one. */
static inline idx blocks_of(idx K) { return ceiling(K, DEEP); }
static inline idx deepest(idx K) { return ceiling(K, blocks_of(K)); }

/* What is copied of B at once, in whole panels and blocks of k. */
static inline idx columns_at_once(const Product *p) {
    return least(ceiling(p->N, WIDE) * WIDE, BLOCK / deepest(p->K) / WIDE * WIDE);
}
static inline idx blocks_at_once(const Product *p) {
    const idx blocks = BLOCK / (columns_at_once(p) * deepest(p->K));
    return blocks < 1 ? 1 : least(least(blocks, MOST), blocks_of(p->K));
}

/* B is read where it lies if it lies well and is small, or is read only once or twice. */
static inline idx reads_b(const Product *p) {
    return p->b.column == 1 && (p->M <= 2 * TALL || p->b.row == WIDE || p->K * p->b.row <= NEAR);
}

/* So is A, whose rows would fall into the same few places of the first cache where they are a power of 2 apart. */
static inline idx reads_a(const Product *p) {
    if (p->N <= WIDE) return p->a.column == 1 || p->a.row == 1;
    return p->a.column == 1 ? p->a.row % 1024 : p->a.row == 1 && p->K * p->a.column <= NEAR;
}

/* Room for copies: panels of B, rows of A for some tiles, and the bias of a panel that is no whole one. */
typedef struct {
    float *b, *a, *bias;
} Scratch;
#define A_TILE (TALL * DEEP + W)      /* numbers of a tile's rows of A, and what is written beyond them */
#define A_READ (ceiling(TALL, W) * W) /* numbers that are read for a tile's */

/* A block of k: K from k on, of columns n to N, and where its panels of B are. */
typedef struct {
    idx k, K, n, N;
    float *b;
} Block;

/* Each panel of B that is not read where it lies, and the last, if it is no whole one. */
static void copy_b(const Part *part, const Block *at) {
    const Matrix *b = &part->p->b;
    const float *from = part->b + at->k * b->row;
    const idx is_adjacent = b->column == 1, whole = (at->N - at->n) / WIDE;
    if (is_adjacent && !reads_b(part->p)) copy_panels(from + at->n, b->row, at->K, whole, at->b);
    for (idx panel = is_adjacent ? whole : 0, j = at->n + panel * WIDE; j < at->N; panel++, j += WIDE)
        copy(from + j * b->column, b->column, b->row, least(at->N - j, WIDE), at->K, at->b + panel * WIDE * at->K, WIDE);
}

/* A's rows for some tiles, of which one starts at each of starts. Copies are in whole vectors where A has as many rows; the
 * next overwrite what is too much. Where rows are adjacent, all tiles' for one k after the other, as they lie in memory. */
static void copy_a(const Part *part, const Block *at, const idx *starts, idx tiles, float *to) {
    const Matrix *a = &part->p->a;
    const float *from = part->a + at->k * a->column;
    idx whole = 0;
    while ((a->row == 1 || a->column == 1) && whole < tiles && starts[whole] + A_READ <= part->p->M) whole++;
    for (idx t = whole; t < tiles; t++) {
        const idx MR = starts[t + 1] - starts[t];
        copy(from + starts[t] * a->row, a->row, a->column, MR, at->K, to + t * A_TILE, MR);
    }
    for (idx t = 0; t < whole && a->row != 1; t++) {
        const idx MR = starts[t + 1] - starts[t], fours = at->K / 4 * 4;
        const float *here = from + starts[t] * a->row;
        for (idx k = 0; k < fours; k += 4) /* what is too much is where the first of the next are: these come last */
            for (idx i = (MR - 1) / W * W; i >= 0; i -= W) transpose(here + i * a->row + k, a->row, to + k * MR + i, MR);
        copy(here + fours, a->row, 1, MR, at->K - fours, to + fours * MR, MR);
        to += A_TILE;
    }
    for (idx k = 0; k < at->K && whole && a->row == 1; k++, from += a->column)
        for (idx t = 0; t < whole; t++) {
            float *here = to + t * A_TILE + k * (starts[t + 1] - starts[t]);
            for (idx i = 0; i < A_READ; i += W) *(Unaligned *)(here + i) = *(const Unaligned *)(from + starts[t] + i);
        }
}

/* What comes next of A: lines of so many numbers, a step apart. They are asked for while tiles are computed, some with each,
 * because copying would wait for them; and the processor sees no order in rows that are read side by side. */
typedef struct {
    const float *from;
    idx lines, step, numbers, some;
} Ahead;

/* Rows m to M of a block, in so many times. */
static Ahead ahead_of(const Part *part, const Block *at, idx m, idx M, idx times) {
    const Matrix *a = &part->p->a;
    const float *from = part->a + m * a->row + at->k * a->column;
    const idx lines = a->row == 1 ? at->K : M - m;
    return (Ahead){from, lines, a->row == 1 ? a->column : a->row, a->row == 1 ? M - m : at->K, ceiling(lines, times)};
}

static inline void fetch(Ahead *ahead) {
    for (idx n = least(ahead->some, ahead->lines); n > 0; n--, ahead->lines--, ahead->from += ahead->step)
        for (idx i = 0; i < ahead->numbers; i += 16) __builtin_prefetch(ahead->from + i);
}

/* Rows of a block: MR of them from m on, which begin at a in A or a copy. */
typedef struct {
    idx m, MR, in_rows, add;
    const float *a, *bias;
    idx a_ld;
} Rows;

static void multiply_rows(const Part *part, const Block *at, const Rows *rows, const float *last_bias, Ahead *ahead) {
    const Product *p = part->p;
    const idx b_is_read = reads_b(p), panels = ceiling(at->N - at->n, WIDE);
    Tile t = {.n = at->K, .a = rows->a, .a_ld = rows->a_ld, .c = part->c + rows->m * p->c_row + at->n, .c_ld = p->c_row,
              .alpha = p->alpha, .add = rows->add};
    for (idx panel = 0, j = at->n; panel < panels; panel++, j += WIDE, t.c += WIDE) {
        const idx columns = at->N - j, is_whole = columns >= WIDE;
        t.b = b_is_read && is_whole ? part->b + at->k * p->b.row + j : at->b + panel * WIDE * at->K;
        t.b_ld = b_is_read && is_whole ? p->b.row : WIDE;
        t.bias = rows->bias && is_whole ? rows->bias + j : rows->bias ? last_bias : NULL;
        fetch(ahead);
        if (is_whole)
            TILE_OF[rows->MR - 1][rows->in_rows][1](&t);
        else
            narrow_tile(rows->MR, columns, t, rows->in_rows);
    }
}

/* Adds what some blocks give, for all rows of a part; next is the block after them, or NULL. */
static void multiply_blocks(const Part *part, const Scratch *scratch, const Block *each, idx blocks, const Block *next,
                            idx is_first) {
    const Product *p = part->p;
    const Matrix *a = &p->a;
    const idx rows = part->M - part->m, tiles = ceiling(rows, TALL), is_read = reads_a(p);
    const idx odd = (each->N - each->n) % WIDE, together = is_read ? 1 : TOGETHER;
    if (p->bias && odd) memcpy(scratch->bias, part->bias + each->N - odd, odd * sizeof(float));
    for (idx tile = 0; tile < tiles; tile += together) {
        const idx n = least(together, tiles - tile), times = n * ceiling(each->N - each->n, WIDE);
        idx starts[TOGETHER + 1];
        for (idx t = 0; t <= n; t++) starts[t] = part->m + rows * (tile + t) / tiles;
        for (idx b = 0; b < blocks; b++) {
            const Block *at = each + b;
            const idx is_small = p->M * p->K <= 4 * NEAR || (is_read && a->column != 1);
            Ahead ahead = {0};
            if (!is_small && b + 1 < blocks)
                ahead = ahead_of(part, at + 1, starts[0], starts[n], times);
            else if (!is_small && tile + n < tiles)
                ahead = ahead_of(part, each, starts[n], part->m + rows * least(tile + n + together, tiles) / tiles, times);
            else if (!is_small && next)
                ahead = ahead_of(part, next, part->m, part->m + rows * least(together, tiles) / tiles, times);
            if (!is_read) copy_a(part, at, starts, n, scratch->a);
            for (idx t = 0; t < n; t++) {
                const idx first = is_first && !b, MR = starts[t + 1] - starts[t], in_rows = is_read && a->column == 1;
                Rows of = {starts[t], MR, in_rows, p->add || !first, scratch->a + t * A_TILE, first ? part->bias : NULL, MR};
                if (is_read) {
                    of.a = part->a + of.m * a->row + at->k * a->column;
                    of.a_ld = in_rows ? a->row : a->column;
                }
                multiply_rows(part, at, &of, scratch->bias, &ahead);
            }
        }
    }
}

static Block block_of(const Part *part, idx i, idx n, float *b) {
    const idx K = part->p->K, k = K * i / blocks_of(K);
    return (Block){k, K * (i + 1) / blocks_of(K) - k, n, least(n + columns_at_once(part->p), part->N), b};
}

static void multiply(const Part *part, const Scratch *scratch) {
    const Product *p = part->p;
    const idx K = p->K, blocks = blocks_of(K), columns = columns_at_once(p), at_once = blocks_at_once(p);
    for (idx n = part->n; n < part->N; n += columns)
        for (idx s = 0; s < p->S; s++) {
            Part of = *part;
            of.a += s * p->a.summand, of.b += s * p->b.summand;
            for (idx first = 0; first < blocks; first += at_once) {
                const idx some = least(at_once, blocks - first), size = columns * deepest(K);
                Block each[MOST + 1];
                for (idx i = 0; i <= some; i++) {
                    each[i] = block_of(&of, first + i, n, scratch->b + i * size);
                    if (i < some) copy_b(&of, each + i);
                }
                multiply_blocks(&of, scratch, each, some, first + some < blocks ? each + some : NULL, !s && !first);
            }
        }
}

/* ---- all of them */

static Part part_of(const Product *p, idx r, idx g) {
    return (Part){p, p->a.data + r * p->a.member + g * p->a.group, p->b.data + r * p->b.member + g * p->b.group,
                  p->bias ? p->bias + r * p->bias_member : NULL, p->c + r * p->c_member + g * p->c_group, 0, p->M, 0, p->N};
}

/* Memory of a thread: B first, whose panels begin where cache lines do. */
static Scratch scratch_of(const Product *p, void **memory) {
    const idx sizes[] = {columns_at_once(p) * blocks_at_once(p) * deepest(p->K), TOGETHER * A_TILE, WIDE};
    *memory = malloc((sizes[0] + sizes[1] + sizes[2]) * sizeof(float) + BYTES);
    if (!*memory) abort(); /* memory is at its end; a NULL would leave the product out */
    float *b = (float *)(((uintptr_t)*memory + BYTES - 1) / BYTES * BYTES);
    return (Scratch){b, b + sizes[0], b + sizes[0] + sizes[1]};
}

#include "pieces.h"

/* Products one after the other. */
void products(idx count, const Product *const *each) {
    for (idx i = 0; i < count; i++) product(each[i]);
}
