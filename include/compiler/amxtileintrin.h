// Goes in front of the compiler's own header (see .cargo/config.toml), whose AMX intrinsics leave
// out what they read in some versions of GCC: `_tile_loadconfig` names 8 of the 64 bytes of the
// configuration, `_tile_loadd` none of the tile. The stores to the rest are then dropped, and the
// processor is given whatever was on the stack.
#include_next <amxtileintrin.h>

#if defined(__GNUC__) && !defined(__clang__)

#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))

// One more step, so that a macro given as `tile` is its number.
#define TRITON_LLM_TILE_LOAD(instruction, tile, base, stride)                                   \
    __asm__ volatile("{" instruction "\t(%0,%1,1), %%tmm" #tile "|" instruction "\t%%tmm" #tile \
                     ", [%0+%1*1]}" ::"r"((const void*)(base)),                                 \
                     "r"((long)(stride)) : "memory")

#undef _tile_loadd
#define _tile_loadd(tile, base, stride) TRITON_LLM_TILE_LOAD("tileloadd", tile, base, stride)

#undef _tile_stream_loadd
#define _tile_stream_loadd(tile, base, stride) \
    TRITON_LLM_TILE_LOAD("tileloaddt1", tile, base, stride)

#endif
