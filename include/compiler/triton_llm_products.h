/* Products of a row of weights with a row of activations that are the same to the bit however many rows
 * are computed at once: what a request says must not depend on who is computed beside it.
 *
 * Included by stdatomic.h, once, into llama.cpp's ggml-cpu.c, in front of its table of products. llama.cpp
 * computes a few rows one way and many another, and the ways add in different orders:
 *
 * - Weights of 256 to a block, from 8 rows on, are multiplied in tiles: whole numbers within a block, then
 *   one float for each block. Row by row it keeps eight floats instead. Here the row by row products of
 *   these types are done anew, block by block as the tiles are. Tiles and rows of quantised activations
 *   stay llama.cpp's.
 * - Weights of plain floats, from 2 rows on, are multiplied by llamafile's code. Here a single row goes
 *   there, too, as two rows that are one.
 * - Elsewhere, where there is no AVX2 and on ARM, rows of weights that are not repacked are multiplied one
 *   by one.
 *
 * What is repacked when it is loaded is chosen in assert.h. A llama.cpp that calls any of this otherwise
 * compiles as it is; tests/llama_model/rows.rs notices.
 */

/* The tests of llamafile's code would not have two rows in one place. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(NDEBUG)
#undef GGML_USE_LLAMAFILE
#endif

#if GGML_USE_LLAMAFILE
#define llamafile_sgemm(params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type)           \
    ((a_type) != GGML_TYPE_IQ4_NL &&                                                               \
     llamafile_sgemm(params, m, (n) == 1 && triton_llm_is_float(a_type) ? 2 : (n), k, a, lda, b,   \
                     (n) == 1 ? 0 : (ldb), c, (n) == 1 ? 0 : (ldc), a_type, b_type, c_type))

static inline bool triton_llm_is_float(enum ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}
#endif

#if defined(__AVX__) && !(defined(__AVX2__) && defined(__FMA__))
#define ggml_compute_forward_mul_mat_tiled(params, node) false
#define ggml_compute_forward_mul_mat_id_tiled(params, node, expert, n_rows, rows, scratch) false
#endif

/* The table takes products of two rows with two where there are instructions for them, and no others. */
#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8)
int ggml_cpu_has_matmul_int8(void) {
    return 1;
}
int triton_llm_has_no_pairs(void);
#define ggml_cpu_has_matmul_int8 triton_llm_has_no_pairs
#undef __ARM_FEATURE_MATMUL_INT8
#endif

#if defined(__AVX2__) && defined(__FMA__)

#define GGML_COMMON_IMPL_C
#include "ggml-common.h"

#include <immintrin.h>

#include "triton_llm_scales.h"

/* Eight scales of 32 weights each, in both halves. */
static inline __m256i triton_llm_scales_of_32(uint64_t scales) {
    return _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_cvtsi64_si128((long long)scales)));
}

/* Sixteen scales of 16 weights each: those of the first 16 of each 32 in the lower half. */
static inline __m256i triton_llm_scales_of_16(__m128i scales) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, order));
}

static inline __m256i triton_llm_load(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

static inline __m256i triton_llm_activations(const block_q8_K *y, int group) {
    return triton_llm_load(y->qs + 32 * group);
}

/* Adds what the pairs of 32 products come to, times their scales. */
static inline __m256i triton_llm_add(__m256i sum, __m256i scales, int group, __m256i pairs) {
    const __m256i place = _mm256_set1_epi16((short)(0x0100 + 0x0202 * group));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_shuffle_epi8(scales, place), pairs));
}

/* Adds the products of 32 weights that are not negative. */
static inline __m256i triton_llm_add_unsigned(__m256i sum, __m256i scales, int group, __m256i weights,
                                              const block_q8_K *y) {
    return triton_llm_add(sum, scales, group, _mm256_maddubs_epi16(weights, triton_llm_activations(y, group)));
}

/* Adds the products of 32 weights of either sign. */
static inline __m256i triton_llm_add_signed(__m256i sum, __m256i scales, int group, __m256i weights,
                                            const block_q8_K *y) {
    const __m256i activations = _mm256_sign_epi8(triton_llm_activations(y, group), weights);
    return triton_llm_add(sum, scales, group, _mm256_maddubs_epi16(_mm256_abs_epi8(weights), activations));
}

/* Adds the products of 32 weights of which a bit each says whether they are negative. */
static inline __m256i triton_llm_add_magnitudes(__m256i sum, __m256i scales, int group, __m256i weights,
                                                uint32_t signs, const block_q8_K *y) {
    const __m256i bytes = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bits = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i of_bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)signs), bytes);
    const __m256i is_negative = _mm256_cmpeq_epi8(_mm256_and_si256(of_bytes, bits), bits);
    const __m256i activations = _mm256_xor_si256(triton_llm_activations(y, group), is_negative);
    return triton_llm_add(sum, scales, group,
                          _mm256_maddubs_epi16(weights, _mm256_sub_epi8(activations, is_negative)));
}

/* The bits of each byte from `shift` on that `mask` leaves. */
static inline __m256i triton_llm_bits(__m256i bytes, int shift, int mask) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, shift), _mm256_set1_epi8((char)mask));
}

/* What each scale of 16 weights comes to with the sum of their activations. */
static inline __m256i triton_llm_sums_of_16(__m128i scales, const block_q8_K *y) {
    return _mm256_madd_epi16(_mm256_cvtepi8_epi16(scales), triton_llm_load(y->bsums));
}

static inline __m128i triton_llm_halves(__m256i sums) {
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

/* What each minimum of 32 weights comes to with the sum of their activations. */
static inline __m128i triton_llm_minima_of_32(uint64_t minima, const block_q8_K *y) {
    const __m256i sums = triton_llm_load(y->bsums);
    const __m128i pairs = _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_madd_epi16(_mm_cvtepi8_epi16(_mm_cvtsi64_si128((long long)minima)), pairs);
}

/* For each type: the sum over a block of weight times scale times activation, in parts; and where the
 * type has minima, that of minimum times activation. */

static inline __m256i triton_llm_sums_q2_K(const block_q2_K *x, const block_q8_K *y, __m128i *minima) {
    const __m128i both = _mm_loadu_si128((const __m128i *)x->scales);
    const __m128i nibble = _mm_set1_epi8(15);
    const __m256i scales = triton_llm_scales_of_16(_mm_and_si128(both, nibble));
    __m256i sum = _mm256_setzero_si256();
    for (int half = 0; half < 2; half++) {
        const __m256i quants = triton_llm_load(x->qs + 32 * half);
        for (int part = 0; part < 4; part++) {
            sum = triton_llm_add_unsigned(sum, scales, 4 * half + part, triton_llm_bits(quants, 2 * part, 3), y);
        }
    }
    const __m128i high = _mm_and_si128(_mm_srli_epi16(both, 4), nibble);
    *minima = triton_llm_halves(triton_llm_sums_of_16(high, y));
    return sum;
}

static inline __m256i triton_llm_sums_q3_K(const block_q3_K *x, const block_q8_K *y) {
    const uint32_t a = triton_llm_u32(x->scales), b = triton_llm_u32(x->scales + 4);
    const uint32_t c = triton_llm_u32(x->scales + 8), low = 0x0f0f0f0f, two = 0x03030303;
    const __m128i packed = _mm_setr_epi32((int)((a & low) | (c & two) << 4), (int)((b & low) | (c >> 2 & two) << 4),
                                          (int)((a >> 4 & low) | (c >> 4 & two) << 4),
                                          (int)((b >> 4 & low) | (c >> 6 & two) << 4));
    const __m128i scales = _mm_sub_epi8(packed, _mm_set1_epi8(32));
    const __m256i in_order = triton_llm_scales_of_16(scales), high = triton_llm_load(x->hmask);
    /* The weights are counted from -4. */
    __m256i sum = _mm256_slli_epi32(triton_llm_sums_of_16(scales, y), 2);
    sum = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
    for (int half = 0; half < 2; half++) {
        const __m256i quants = triton_llm_load(x->qs + 32 * half);
        for (int part = 0; part < 4; part++) {
            const int group = 4 * half + part;
            const __m256i third = _mm256_slli_epi16(triton_llm_bits(high, group, 1), 2);
            const __m256i weights = _mm256_or_si256(triton_llm_bits(quants, 2 * part, 3), third);
            sum = triton_llm_add_unsigned(sum, in_order, group, weights, y);
        }
    }
    return sum;
}

static inline __m256i triton_llm_sums_q4_K(const block_q4_K *x, const block_q8_K *y, __m128i *minima) {
    uint64_t packed_scales, packed_minima;
    triton_llm_unpack(x->scales, &packed_scales, &packed_minima);
    const __m256i scales = triton_llm_scales_of_32(packed_scales);
    __m256i sum = _mm256_setzero_si256();
    for (int part = 0; part < 4; part++) {
        const __m256i quants = triton_llm_load(x->qs + 32 * part);
        sum = triton_llm_add_unsigned(sum, scales, 2 * part, triton_llm_bits(quants, 0, 15), y);
        sum = triton_llm_add_unsigned(sum, scales, 2 * part + 1, triton_llm_bits(quants, 4, 15), y);
    }
    *minima = triton_llm_minima_of_32(packed_minima, y);
    return sum;
}

static inline __m256i triton_llm_sums_q5_K(const block_q5_K *x, const block_q8_K *y, __m128i *minima) {
    uint64_t packed_scales, packed_minima;
    triton_llm_unpack(x->scales, &packed_scales, &packed_minima);
    const __m256i scales = triton_llm_scales_of_32(packed_scales), high = triton_llm_load(x->qh);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const __m256i quants = triton_llm_load(x->qs + group / 2 * 32);
        const __m256i fifth = _mm256_slli_epi16(triton_llm_bits(high, group, 1), 4);
        const __m256i weights = _mm256_or_si256(triton_llm_bits(quants, group % 2 * 4, 15), fifth);
        sum = triton_llm_add_unsigned(sum, scales, group, weights, y);
    }
    *minima = triton_llm_minima_of_32(packed_minima, y);
    return sum;
}

static inline __m256i triton_llm_sums_q6_K(const block_q6_K *x, const block_q8_K *y) {
    const __m128i packed = _mm_loadu_si128((const __m128i *)x->scales);
    const __m256i scales = triton_llm_scales_of_16(packed);
    /* The weights are counted from -32. */
    __m256i sum = _mm256_slli_epi32(triton_llm_sums_of_16(packed, y), 5);
    sum = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
    for (int half = 0; half < 2; half++) {
        const __m256i high = triton_llm_load(x->qh + 32 * half);
        for (int part = 0; part < 4; part++) {
            const __m256i quants = triton_llm_load(x->ql + 64 * half + part % 2 * 32);
            const __m256i top = _mm256_slli_epi16(triton_llm_bits(high, 2 * part, 3), 4);
            const __m256i weights = _mm256_or_si256(triton_llm_bits(quants, part / 2 * 4, 15), top);
            sum = triton_llm_add_unsigned(sum, scales, 4 * half + part, weights, y);
        }
    }
    return sum;
}

static inline __m256i triton_llm_sums_iq4_xs(const block_iq4_xs *x, const block_q8_K *y) {
    const __m128i values = _mm_loadu_si128((const __m128i *)kvalues_iq4nl), nibble = _mm_set1_epi8(15);
    uint64_t packed = 0;
    for (int group = 0; group < 8; group++) {
        const int low = x->scales_l[group / 2] >> group % 2 * 4 & 15, high = x->scales_h >> 2 * group & 3;
        packed |= (uint64_t)(uint8_t)((low | high << 4) - 32) << 8 * group;
    }
    const __m256i scales = triton_llm_scales_of_32(packed);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const __m128i quants = _mm_loadu_si128((const __m128i *)(x->qs + 16 * group));
        const __m128i first = _mm_shuffle_epi8(values, _mm_and_si128(quants, nibble));
        const __m128i second = _mm_shuffle_epi8(values, _mm_and_si128(_mm_srli_epi16(quants, 4), nibble));
        sum = triton_llm_add_signed(sum, scales, group, _mm256_set_m128i(second, first), y);
    }
    return sum;
}

/* Scales of 16 weights each that are 2 n + 1, of which a byte holds two n. */
static inline __m256i triton_llm_odd_scales(const uint8_t *nibbles) {
    uint64_t packed;
    memcpy(&packed, nibbles, sizeof(packed));
    const __m128i low = _mm_cvtsi64_si128((long long)(packed & 0x0f0f0f0f0f0f0f0f));
    const __m128i high = _mm_cvtsi64_si128((long long)(packed >> 4 & 0x0f0f0f0f0f0f0f0f));
    const __m128i scales = _mm_unpacklo_epi8(low, high);
    return triton_llm_scales_of_16(_mm_add_epi8(_mm_add_epi8(scales, scales), _mm_set1_epi8(1)));
}

static inline uint32_t triton_llm_seven_bit_signs(uint32_t packed) {
    uint32_t signs = 0;
    for (int part = 0; part < 4; part++) {
        signs |= (uint32_t)ksigns_iq2xs[packed >> 7 * part & 127] << 8 * part;
    }
    return signs;
}

static inline __m256i triton_llm_grid(const uint64_t *grid, int first, int second, int third, int fourth) {
    return _mm256_setr_epi64x((long long)grid[first], (long long)grid[second], (long long)grid[third],
                              (long long)grid[fourth]);
}

static inline __m256i triton_llm_sums_iq2_xxs(const block_iq2_xxs *x, const block_q8_K *y) {
    uint64_t packed = 0;
    for (int group = 0; group < 8; group++) {
        packed |= (uint64_t)(2 * (triton_llm_u32(x->qs + 4 * group + 2) >> 28) + 1) << 8 * group;
    }
    const __m256i scales = triton_llm_scales_of_32(packed);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint8_t *at = (const uint8_t *)(x->qs + 4 * group);
        const __m256i weights = triton_llm_grid(iq2xxs_grid, at[0], at[1], at[2], at[3]);
        const uint32_t signs = triton_llm_seven_bit_signs(triton_llm_u32(at + 4));
        sum = triton_llm_add_magnitudes(sum, scales, group, weights, signs, y);
    }
    return sum;
}

static inline __m256i triton_llm_sums_iq2_xs(const block_iq2_xs *x, const block_q8_K *y) {
    const __m256i scales = triton_llm_odd_scales(x->scales);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint16_t *at = x->qs + 4 * group;
        const __m256i weights = triton_llm_grid(iq2xs_grid, at[0] & 511, at[1] & 511, at[2] & 511, at[3] & 511);
        const uint32_t signs = (uint32_t)ksigns_iq2xs[at[0] >> 9] | (uint32_t)ksigns_iq2xs[at[1] >> 9] << 8 |
                               (uint32_t)ksigns_iq2xs[at[2] >> 9] << 16 | (uint32_t)ksigns_iq2xs[at[3] >> 9] << 24;
        sum = triton_llm_add_magnitudes(sum, scales, group, weights, signs, y);
    }
    return sum;
}

static inline __m256i triton_llm_sums_iq2_s(const block_iq2_s *x, const block_q8_K *y) {
    const __m256i scales = triton_llm_odd_scales(x->scales);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint8_t *at = x->qs + 4 * group;
        const int high = x->qh[group];
        const __m256i weights =
            triton_llm_grid(iq2s_grid, at[0] | (high << 8 & 0x300), at[1] | (high << 6 & 0x300),
                            at[2] | (high << 4 & 0x300), at[3] | (high << 2 & 0x300));
        const uint32_t signs = triton_llm_u32(x->qs + QK_K / 8 + 4 * group);
        sum = triton_llm_add_magnitudes(sum, scales, group, weights, signs, y);
    }
    return sum;
}

static inline __m256i triton_llm_sums_iq3_xxs(const block_iq3_xxs *x, const block_q8_K *y) {
    const uint8_t *rest = x->qs + QK_K / 4;
    uint64_t packed = 0;
    for (int group = 0; group < 8; group++) {
        packed |= (uint64_t)(2 * (triton_llm_u32(rest + 4 * group) >> 28) + 1) << 8 * group;
    }
    const __m256i scales = triton_llm_scales_of_32(packed);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint8_t *at = x->qs + 8 * group;
        const __m256i weights = _mm256_setr_epi32(
            (int)iq3xxs_grid[at[0]], (int)iq3xxs_grid[at[1]], (int)iq3xxs_grid[at[2]], (int)iq3xxs_grid[at[3]],
            (int)iq3xxs_grid[at[4]], (int)iq3xxs_grid[at[5]], (int)iq3xxs_grid[at[6]], (int)iq3xxs_grid[at[7]]);
        const uint32_t signs = triton_llm_seven_bit_signs(triton_llm_u32(rest + 4 * group));
        sum = triton_llm_add_magnitudes(sum, scales, group, weights, signs, y);
    }
    return sum;
}

static inline __m256i triton_llm_sums_iq3_s(const block_iq3_s *x, const block_q8_K *y) {
    uint64_t packed = 0;
    for (int group = 0; group < 8; group++) {
        packed |= (uint64_t)(2 * (x->scales[group / 2] >> group % 2 * 4 & 15) + 1) << 8 * group;
    }
    const __m256i scales = triton_llm_scales_of_32(packed);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint8_t *at = x->qs + 8 * group;
        const int high = x->qh[group];
#define TRITON_LLM_AT(n) (int)iq3s_grid[at[n] | (high << (8 - n) & 256)]
        const __m256i weights =
            _mm256_setr_epi32(TRITON_LLM_AT(0), TRITON_LLM_AT(1), TRITON_LLM_AT(2), TRITON_LLM_AT(3),
                              TRITON_LLM_AT(4), TRITON_LLM_AT(5), TRITON_LLM_AT(6), TRITON_LLM_AT(7));
#undef TRITON_LLM_AT
        sum = triton_llm_add_magnitudes(sum, scales, group, weights, triton_llm_u32(x->signs + 4 * group), y);
    }
    return sum;
}

/* The weights of these are -1, 0 or 1, and an eighth more or less. */
static inline __m256i triton_llm_eighths(__m256i weights, __m256i eighth) {
    const __m256i twice = _mm256_add_epi8(weights, weights), four = _mm256_add_epi8(twice, twice);
    return _mm256_add_epi8(_mm256_add_epi8(four, four), eighth);
}

static inline __m256i triton_llm_sums_iq1_s(const block_iq1_s *x, const block_q8_K *y) {
    uint64_t packed = 0;
    for (int group = 0; group < 8; group++) {
        packed |= (uint64_t)(2 * (x->qh[group] >> 12 & 7) + 1) << 8 * group;
    }
    const __m256i scales = triton_llm_scales_of_32(packed);
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint8_t *at = x->qs + 4 * group;
        const int high = x->qh[group];
        const __m256i weights =
            triton_llm_grid(iq1s_grid, at[0] | (high << 8 & 0x700), at[1] | (high << 5 & 0x700),
                            at[2] | (high << 2 & 0x700), at[3] | (high >> 1 & 0x700));
        const __m256i eighth = _mm256_set1_epi8(high & 0x8000 ? -1 : 1);
        sum = triton_llm_add_signed(sum, scales, group, triton_llm_eighths(weights, eighth), y);
    }
    return sum;
}

static inline __m256i triton_llm_sums_iq1_m(const block_iq1_m *x, const block_q8_K *y) {
    uint8_t unpacked[16];
    for (int n = 0; n < 16; n++) {
        const int of_four = x->scales[n / 4 * 2] | x->scales[n / 4 * 2 + 1] << 8;
        unpacked[n] = (uint8_t)(2 * (of_four >> n % 4 * 3 & 7) + 1);
    }
    const __m256i scales = triton_llm_scales_of_16(_mm_loadu_si128((const __m128i *)unpacked));
    __m256i sum = _mm256_setzero_si256();
    for (int group = 0; group < 8; group++) {
        const uint8_t *at = x->qs + 4 * group;
        const int first = x->qh[2 * group], second = x->qh[2 * group + 1];
        const __m256i weights =
            triton_llm_grid(iq1s_grid, at[0] | (first << 8 & 0x700), at[1] | (first << 4 & 0x700),
                            at[2] | (second << 8 & 0x700), at[3] | (second << 4 & 0x700));
        const long long more = 0x0101010101010101, less = -1;
        const __m256i eighth = _mm256_setr_epi64x(first & 8 ? less : more, first & 128 ? less : more,
                                                  second & 8 ? less : more, second & 128 ? less : more);
        sum = triton_llm_add_signed(sum, scales, group, triton_llm_eighths(weights, eighth), y);
    }
    return sum;
}

static inline float triton_llm_scale_of_iq1_m(const block_iq1_m *x) {
    iq1m_scale_t scale;
    scale.u16 = (uint16_t)(x->scales[1] >> 4 | (x->scales[3] & 0xf0) | (x->scales[5] & 0xf0) << 4 |
                           (x->scales[7] & 0xf0) << 8);
    return GGML_CPU_FP16_TO_FP32(scale.f16);
}

/* The tiles add with one rounding: told to where they are for AVX2, and those for AVX-512 as GCC makes one
 * instruction of both. */
#if defined(__clang__) && defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define TRITON_LLM_ADD_BLOCK(sum, block, scale)                                                                        \
    do {                                                                                                               \
        const float product = (block) * (scale);                                                                       \
        (sum) = (sum) + product;                                                                                       \
    } while (0)
#else
#define TRITON_LLM_ADD_BLOCK(sum, block, scale) (sum) = __builtin_fmaf(block, scale, sum)
#endif

static inline __m128i triton_llm_total(__m128i sums) {
    const __m128i pairs = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1));
}

/* A product of rows, for llama.cpp's table. */
#define TRITON_LLM_PRODUCT(type, scale_of_block)                                                                       \
    static void triton_llm_product_##type(int n, float *out, size_t out_step, const void *weights,                     \
                                          size_t weights_step, const void *activations, size_t activations_step,       \
                                          int n_rows) {                                                                \
        const block_##type *x = (const block_##type *)weights;                                                         \
        const block_q8_K *y = (const block_q8_K *)activations;                                                         \
        float sum = 0;                                                                                                 \
        for (const block_##type *end = x + n / QK_K; x < end; x++, y++) {                                              \
            const __m128i total = triton_llm_total(triton_llm_halves(triton_llm_sums_##type(x, y)));                   \
            TRITON_LLM_ADD_BLOCK(sum, (scale_of_block) * (float)_mm_cvtsi128_si32(total), y->d);                       \
        }                                                                                                              \
        *out = sum;                                                                                                    \
        (void)out_step, (void)weights_step, (void)activations_step, (void)n_rows;                                      \
    }

#define TRITON_LLM_PRODUCT_WITH_MINIMA(type)                                                                           \
    static void triton_llm_product_##type(int n, float *out, size_t out_step, const void *weights,                     \
                                          size_t weights_step, const void *activations, size_t activations_step,       \
                                          int n_rows) {                                                                \
        const block_##type *x = (const block_##type *)weights;                                                         \
        const block_q8_K *y = (const block_q8_K *)activations;                                                         \
        float sum = 0;                                                                                                 \
        for (const block_##type *end = x + n / QK_K; x < end; x++, y++) {                                              \
            __m128i minima;                                                                                            \
            const __m128i sums = triton_llm_halves(triton_llm_sums_##type(x, y, &minima));                             \
            const __m128i pairs = _mm_hadd_epi32(sums, minima);                                                        \
            const __m128 both = _mm_cvtepi32_ps(_mm_hadd_epi32(pairs, pairs));                                         \
            const float block = GGML_CPU_FP16_TO_FP32(x->d) * _mm_cvtss_f32(both);                                     \
            const float minimum = _mm_cvtss_f32(_mm_movehdup_ps(both));                                                \
            TRITON_LLM_ADD_BLOCK(sum, __builtin_fmaf(-GGML_CPU_FP16_TO_FP32(x->dmin), minimum, block), y->d);          \
        }                                                                                                              \
        *out = sum;                                                                                                    \
        (void)out_step, (void)weights_step, (void)activations_step, (void)n_rows;                                      \
    }

TRITON_LLM_PRODUCT_WITH_MINIMA(q2_K)
TRITON_LLM_PRODUCT(q3_K, GGML_CPU_FP16_TO_FP32(x->d))
TRITON_LLM_PRODUCT_WITH_MINIMA(q4_K)
TRITON_LLM_PRODUCT_WITH_MINIMA(q5_K)
TRITON_LLM_PRODUCT(q6_K, GGML_CPU_FP16_TO_FP32(x->d))
TRITON_LLM_PRODUCT(iq4_xs, GGML_CPU_FP16_TO_FP32(x->d))
TRITON_LLM_PRODUCT(iq2_xxs, GGML_CPU_FP16_TO_FP32(x->d) * 0.125f)
TRITON_LLM_PRODUCT(iq2_xs, GGML_CPU_FP16_TO_FP32(x->d) * 0.125f)
TRITON_LLM_PRODUCT(iq2_s, GGML_CPU_FP16_TO_FP32(x->d) * 0.125f)
TRITON_LLM_PRODUCT(iq3_xxs, GGML_CPU_FP16_TO_FP32(x->d) * 0.25f)
TRITON_LLM_PRODUCT(iq3_s, GGML_CPU_FP16_TO_FP32(x->d))
TRITON_LLM_PRODUCT(iq1_s, GGML_CPU_FP16_TO_FP32(x->d) * 0.125f)
TRITON_LLM_PRODUCT(iq1_m, triton_llm_scale_of_iq1_m(x) * 0.125f)

#define ggml_vec_dot_q2_K_q8_K triton_llm_product_q2_K
#define ggml_vec_dot_q3_K_q8_K triton_llm_product_q3_K
#define ggml_vec_dot_q4_K_q8_K triton_llm_product_q4_K
#define ggml_vec_dot_q5_K_q8_K triton_llm_product_q5_K
#define ggml_vec_dot_q6_K_q8_K triton_llm_product_q6_K
#define ggml_vec_dot_iq4_xs_q8_K triton_llm_product_iq4_xs
#define ggml_vec_dot_iq2_xxs_q8_K triton_llm_product_iq2_xxs
#define ggml_vec_dot_iq2_xs_q8_K triton_llm_product_iq2_xs
#define ggml_vec_dot_iq2_s_q8_K triton_llm_product_iq2_s
#define ggml_vec_dot_iq3_xxs_q8_K triton_llm_product_iq3_xxs
#define ggml_vec_dot_iq3_s_q8_K triton_llm_product_iq3_s
#define ggml_vec_dot_iq1_s_q8_K triton_llm_product_iq1_s
#define ggml_vec_dot_iq1_m_q8_K triton_llm_product_iq1_m

#endif
