/*
 * avx512.c - the kernels with AVX-512 (F, BW, DQ, VL): vectors of 16 floats.
 *
 * This file says what the two templates need; see there for the loops. AVX-512
 * brings FMA with it: that the compiler does not contract is a flag of the build.
 */
#include "kernels/scalar.h"

#ifdef __x86_64__
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define V(op) _mm512_##op
enum { WIDTH = 16, LANES = 4 };
typedef __m512 vf;
typedef __m512i vi;

#define as_int(v) _mm512_castps_si512(v)
#define as_float(v) _mm512_castsi512_ps(v)
#define and_bits(a, b) _mm512_and_si512(a, b)
#define or_bits(a, b) _mm512_or_si512(a, b)
#define rint_even(v) _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define spread(lane) _mm512_broadcast_i32x4(lane)
#define pick_words(v, index) _mm512_permutexvar_epi32(index, v)
#define least_of(v) _mm512_reduce_min_ps(v)
#define greatest_of(v) _mm512_reduce_max_ps(v)

TARGET static inline vf where_nonzero(vf test, vf v)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_NEQ_UQ), v);
}

TARGET static inline vi where_nan(vf test, vi yes, vi no)
{
    return _mm512_mask_mov_epi32(no, _mm512_cmp_ps_mask(test, test, _CMP_UNORD_Q), yes);
}

TARGET static inline vi load_u16(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}

TARGET static inline void store_u16(uint16_t *p, vi v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(v));
}

TARGET static inline vf load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

TARGET static inline void store_f16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

TARGET static inline vi load_codes(const void *p)
{
    return _mm512_loadu_si512(p);
}

TARGET static inline void store_codes(void *p, vi v)
{
    _mm512_storeu_si512(p, v);
}

TARGET static inline __m128i load_lane(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

TARGET static inline vi load_lanes(const uint8_t *p, unsigned stride)
{
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(p)), load_lane(p + stride), 1);
    __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(p + 2 * stride)), load_lane(p + 3 * stride), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* In this order: what a lane writes behind its bytes is overwritten by the next. */
TARGET static inline void store_lanes(uint8_t *p, unsigned stride, vi v)
{
    _mm_storeu_si128((__m128i *)p, _mm512_castsi512_si128(v));
    _mm_storeu_si128((__m128i *)(p + stride), _mm512_extracti32x4_epi32(v, 1));
    _mm_storeu_si128((__m128i *)(p + 2 * stride), _mm512_extracti32x4_epi32(v, 2));
    _mm_storeu_si128((__m128i *)(p + 3 * stride), _mm512_extracti32x4_epi32(v, 3));
}

#include "kernels/vector_numbers.h"
#include "kernels/vector_pack.h"

const struct qnti_kernels qnti_kernels_avx512 = {
    .name = "avx512",
    .f16_to_f32 = f16_to_f32,
    .f32_to_f16 = f32_to_f16,
    .bf16_to_f32 = bf16_to_f32,
    .f32_to_bf16 = f32_to_bf16,
    .range = range,
    .zero_round = zero_round,
    .zero_value = zero_value,
    .real_round = real_round,
    .min_round = min_round,
    .min_value = min_value,
    .axpy = axpy,
    .forms = forms,
    .pack = pack,
    .unpack = unpack,
};
#else
const struct qnti_kernels qnti_kernels_avx512 = {0};
#endif
