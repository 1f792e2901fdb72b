/* How llama.cpp packs scales: for triton_llm_products.h and triton_llm_repacked.h. */
static inline uint32_t triton_llm_u32(const void *from) {
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

/* The scales and minima of 32 weights each that Q4_K and Q5_K pack in twelve bytes. */
static inline void triton_llm_unpack(const uint8_t *packed, uint64_t *scales, uint64_t *minima) {
    const uint32_t a = triton_llm_u32(packed), b = triton_llm_u32(packed + 4), c = triton_llm_u32(packed + 8);
    const uint32_t six = 0x3f3f3f3f, low = 0x0f0f0f0f, two = 0x03030303;
    *scales = (uint64_t)((c & low) | (a >> 6 & two) << 4) << 32 | (a & six);
    *minima = (uint64_t)((c >> 4 & low) | (b >> 6 & two) << 4) << 32 | (b & six);
}
