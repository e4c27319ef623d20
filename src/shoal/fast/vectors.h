/* Vectors as wide as the processor's registers, and the threads of torch, for the sources that include this. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_max_threads() 1 /* of torch, which has the same runtime */
#endif

typedef int64_t idx;

#if defined(__AVX512F__)
#define BYTES 64 /* of a vector */
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define W (BYTES / 4) /* numbers of a vector */
#define UNROLLED _Pragma("GCC unroll 32")

typedef float Vector __attribute__((vector_size(BYTES)));
typedef float Unaligned __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* x y + z, rounded once where the processor can. Compilers do that to an expression in one place and not in another, so that
 * a row in a block of four would have other bits than a row alone. */
#if defined(__AVX512F__)
#define FUSED(x, y, z) (Vector) _mm512_fmadd_ps((__m512)(x), (__m512)(y), (__m512)(z))
#elif defined(__FMA__) && defined(__AVX__)
#define FUSED(x, y, z) (Vector) _mm256_fmadd_ps((__m256)(x), (__m256)(y), (__m256)(z))
#elif defined(__aarch64__)
#define FUSED(x, y, z) (Vector) vfmaq_f32((float32x4_t)(z), (float32x4_t)(x), (float32x4_t)(y))
#else
#define FUSED(x, y, z) ((Vector)(x) * (Vector)(y) + (z)) /* never fused for a processor that cannot, as x86 before FMA */
#endif

#ifdef __AVX__
#define LOADED(x) __asm__("" : "+v"(x)) /* once: the compiler would load an operand for every sum */
#else
#define LOADED(x)
#endif

static inline idx least(idx a, idx b) { return a < b ? a : b; }
