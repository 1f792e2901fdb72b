/* The standard header, and the weights that llama.cpp repacks.
 *
 * The compiler finds this file before its own: .cargo/config.toml puts the folder in front of its path. Only
 * llama.cpp's repack.cpp sees more than the standard header.
 *
 * There llama.cpp lays weights out when it loads them so that four rows of activations are multiplied with
 * them at once; rows left over are multiplied one by one. Of some types what comes of a row is then not the
 * same, to the bit, and what a request says would depend on who is computed beside it. Of Q4_K, on x86-64, one
 * row is multiplied another way. The others stay as they are in the file: the question which types a processor
 * has code for is put where `cur` is the tensor. triton_llm_products.h has what is not repacked.
 */
#include_next <assert.h>

/* Once what is asked is declared. */
#if defined(GGML_COMMON_IMPL_CPP) && defined(GGML_COMMON_DECL_CPP) && defined(GGML_CPU_FP16_TO_FP32) && \
    !defined(TRITON_LLM_REPACKED)
#if defined(__x86_64__) && defined(ggml_gemv_q4_0_4x4_q8_0_generic)
#define TRITON_LLM_REPACKED

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "triton_llm_repacked.h"
#define ggml_gemv_q4_K_8x8_q8_K triton_llm_product_of_eight_q4_K
#else
#define ggml_cpu_has_avx2() (ggml_cpu_has_avx2() && cur->type != GGML_TYPE_Q4_K)
#endif
#define ggml_cpu_has_avx512() (ggml_cpu_has_avx512() && cur->type != GGML_TYPE_Q2_K)

#elif defined(__aarch64__) && defined(ggml_gemm_q2_K_8x8_q8_K_generic)
#define TRITON_LLM_REPACKED

static inline bool triton_llm_repacks(enum ggml_type type) {
#ifdef __ARM_FEATURE_MATMUL_INT8
    return type != GGML_TYPE_Q4_K && type != GGML_TYPE_Q5_K;
#else
    return type != GGML_TYPE_Q6_K && type != GGML_TYPE_Q8_0;
#endif
}
#define ggml_cpu_has_neon() (ggml_cpu_has_neon() && triton_llm_repacks(cur->type))
#endif
#endif
