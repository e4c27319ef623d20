/* Matrices of many members, for the sources of their products: matmul.c says what a product is. */
#include "vectors.h"

#if defined(__AVX512F__) || defined(__aarch64__)
#define TALL 14 /* rows of a tile: 28 sums, 2 vectors of B and a number of A in 32 registers */
#else
#define TALL 6 /* 12 sums, 2 vectors and 2 numbers in 16 */
#endif
#define WIDE (2 * W)   /* columns of a tile */
#define DEEP 256       /* of a block of k: a panel of B, 32 KiB with the widest vectors, stays in the first cache */
#define BLOCK 131072   /* numbers of B that are copied at once: 512 KiB, of the second cache */
#define MOST 16        /* blocks of which B is copied at once */
#define TOGETHER 8     /* tiles whose rows of A are copied together: as many lines of memory are read at a time */
#define WORTH 500000   /* products of two numbers for which it is worth telling the threads */

/* Where a matrix lies: its first number, and the steps to the next row, column, member, group and summand. */
typedef struct {
    const float *data;
    idx row, column, member, group, summand;
} Matrix;

/* Product of matmul.py has the same fields. C has columns of step 1, and no summands of its own. */
typedef struct {
    idx M, N, K, R, G, S;
    Matrix a, b;
    float *c;
    idx c_row, c_member, c_group;
    const float *bias; /* (N), or NULL */
    idx bias_member;
    float alpha;
    idx add;
    int32_t *packed; /* of bfloat16.c: copies of B, packed_size of each member, of one group and summand; or NULL */
    idx packed_member;
} Product;

static inline idx ceiling(idx a, idx b) { return (a + b - 1) / b; }

/* n numbers, fewer than two vectors. */
static inline void move(float *to, const float *from, idx n) {
    if (n >= W) {
        *(Unaligned *)to = *(const Unaligned *)from;
        to += W, from += W, n -= W;
    }
#ifdef __AVX512F__
    const __mmask16 mask = (__mmask16)((1u << n) - 1);
    _mm512_mask_storeu_ps(to, mask, _mm512_maskz_loadu_ps(mask, from));
#else
    memcpy(to, from, n * sizeof(float));
#endif
}

/* Pieces into which each product is cut, by rows or by columns, whichever are more tiles, so that all threads have as much
 * to do. */
static inline idx divisor_of(idx a, idx b) { return b ? divisor_of(b, a % b) : a; } /* greatest common */

static idx cuts_of(const Product *p, idx threads) {
    const idx each = p->R * p->G, rows = ceiling(p->M, TALL), columns = ceiling(p->N, WIDE);
    if (each >= 8 * threads) return 1;
    return least(threads / divisor_of(threads, each), rows > columns ? rows : columns);
}
