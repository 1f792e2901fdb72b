/* The product of one row of activations with repacked weights of Q4_K, to the bit what the product of four
 * rows is.
 *
 * Included by assert.h, once, into llama.cpp's repack.cpp, and called there in place of llama.cpp's own, which
 * adds once for each block of 256 weights; its product of four rows adds after each 64, and so does this one.
 */
#include <immintrin.h>

#include "triton_llm_scales.h"

/* Eight rows of weights, block by block, as repack.h lays them out. */
struct triton_llm_eight_rows {
    uint16_t scale[8];
    uint16_t minimum[8];
    uint8_t packed[8][12];  /* for each 32 weights: a scale and a minimum of each row, in six bits */
    uint8_t quants[16][64]; /* of each row eight bytes in turn */
};

/* Four times each of the numbers from `first` on, in 16 bits. */
static inline __m256i triton_llm_four_times(uint64_t numbers, int first) {
    const __m128i quads = _mm_set_epi32(0x03030303, 0x02020202, 0x01010101, 0);
    const __m128i order = _mm_add_epi8(_mm_set1_epi8((char)first), quads);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_cvtsi64_si128((long long)numbers), order));
}

static inline __m256i triton_llm_add_pairs(__m256i sum, __m256i weights, __m256i activations) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, activations));
}

static inline __m256i triton_llm_eight_activations(const int8_t *from) {
    long long bytes;
    memcpy(&bytes, from, sizeof(bytes));
    return _mm256_set1_epi64x(bytes);
}

static inline __m256 triton_llm_eight_halfs(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

extern "C" __attribute__((visibility("hidden"))) void triton_llm_product_of_eight_q4_K(
    int n, float *out, size_t, const void *weights, const void *activations, int, int n_columns) {
    const triton_llm_eight_rows *x = (const triton_llm_eight_rows *)weights;
    const __m256i nibble = _mm256_set1_epi8(15), in_order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    for (int column = 0; column < n_columns; column += 8) {
        const block_q8_K *y = (const block_q8_K *)activations;
        __m256 sum = _mm256_setzero_ps(), minima = _mm256_setzero_ps();
        for (const triton_llm_eight_rows *end = x + n / QK_K; x < end; x++, y++) {
            const __m256 by = _mm256_set1_ps(y->d);
            /* Sums of rows come in another order. */
            const __m256 scales = _mm256_mul_ps(triton_llm_eight_halfs(x->scale), by);
            const __m256 scale = _mm256_permutevar8x32_ps(scales, in_order);
            const __m256 minimum = _mm256_mul_ps(triton_llm_eight_halfs(x->minimum), by);
            const __m256i sums = _mm256_loadu_si256((const __m256i *)y->bsums);
            int32_t sums_of_64[4];
            _mm_storeu_si128((__m128i *)sums_of_64,
                             _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
            for (int part = 0; part < 4; part++) {
                __m256i even[2] = {}, odd[2] = {};
                for (int step = 0; step < 4; step++) {
                    const int8_t *at = y->qs + 64 * part + 8 * step;
                    const __m256i first = triton_llm_eight_activations(at);
                    const __m256i second = triton_llm_eight_activations(at + 32);
                    for (int half = 0; half < 2; half++) {
                        const uint8_t *from = x->quants[4 * part + step] + 32 * half;
                        const __m256i quants = _mm256_loadu_si256((const __m256i *)from);
                        const __m256i low = _mm256_and_si256(quants, nibble);
                        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(quants, 4), nibble);
                        even[half] = triton_llm_add_pairs(even[half], low, first);
                        odd[half] = triton_llm_add_pairs(odd[half], high, second);
                    }
                }
                uint64_t even_scales, even_minima, odd_scales, odd_minima;
                triton_llm_unpack(x->packed[2 * part], &even_scales, &even_minima);
                triton_llm_unpack(x->packed[2 * part + 1], &odd_scales, &odd_minima);
                __m256i total[2];
                for (int half = 0; half < 2; half++) {
                    even[half] = _mm256_madd_epi16(even[half], triton_llm_four_times(even_scales, 4 * half));
                    odd[half] = _mm256_madd_epi16(odd[half], triton_llm_four_times(odd_scales, 4 * half));
                    total[half] = _mm256_add_epi32(even[half], odd[half]);
                }
                const __m256i rows = _mm256_hadd_epi32(total[0], total[1]);
                sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(rows), scale, sum);
                const __m128i both = _mm_unpacklo_epi8(_mm_cvtsi64_si128((long long)even_minima),
                                                       _mm_cvtsi64_si128((long long)odd_minima));
                const __m256i sums_of_both = _mm256_set1_epi32(sums_of_64[part]);
                const __m256i less = _mm256_madd_epi16(_mm256_cvtepi8_epi16(both), sums_of_both);
                minima = _mm256_fmadd_ps(_mm256_cvtepi32_ps(less), minimum, minima);
            }
        }
        _mm256_storeu_ps(out + column, _mm256_sub_ps(_mm256_permutevar8x32_ps(sum, in_order), minima));
    }
}
