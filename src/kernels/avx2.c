/*
 * avx2.c - the kernels with AVX2 and F16C: vectors of 8 floats.
 *
 * This file says what the two templates need; see there for the loops. FMA is
 * not among the target's instructions, so that no compiler can contract.
 */
#include "kernels/scalar.h"

#ifdef __x86_64__
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,f16c")))
#define V(op) _mm256_##op
enum { WIDTH = 8, LANES = 2 };
typedef __m256 vf;
typedef __m256i vi;

#define as_int(v) _mm256_castps_si256(v)
#define as_float(v) _mm256_castsi256_ps(v)
#define and_bits(a, b) _mm256_and_si256(a, b)
#define or_bits(a, b) _mm256_or_si256(a, b)
#define rint_even(v) _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define spread(lane) _mm256_broadcastsi128_si256(lane)
#define pick_words(v, index) _mm256_permutevar8x32_epi32(v, index)

TARGET static inline vf where_nonzero(vf test, vf v)
{
    return _mm256_and_ps(v, _mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}

TARGET static inline vi where_nan(vf test, vi yes, vi no)
{
    return _mm256_blendv_epi8(no, yes, as_int(_mm256_cmp_ps(test, test, _CMP_UNORD_Q)));
}

TARGET static inline vi load_u16(const uint16_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
}

TARGET static inline void store_u16(uint16_t *p, vi v)
{
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storeu_si128((__m128i *)p, packed);
}

TARGET static inline vf load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

TARGET static inline void store_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

TARGET static inline float least_of(vf v)
{
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
}

TARGET static inline float greatest_of(vf v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

TARGET static inline vi load_codes(const void *p)
{
    return _mm256_loadu_si256(p);
}

TARGET static inline void store_codes(void *p, vi v)
{
    _mm256_storeu_si256(p, v);
}

TARGET static inline vi load_lanes(const uint8_t *p, unsigned stride)
{
    __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
    return _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)(p + stride)), 1);
}

/* In this order: what a lane writes behind its bytes is overwritten by the next. */
TARGET static inline void store_lanes(uint8_t *p, unsigned stride, vi v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(v));
    _mm_storeu_si128((__m128i *)(p + stride), _mm256_extracti128_si256(v, 1));
}

#include "kernels/vector_numbers.h"
#include "kernels/vector_pack.h"

const struct qnti_kernels qnti_kernels_avx2 = {
    .name = "avx2",
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
const struct qnti_kernels qnti_kernels_avx2 = {0};
#endif
