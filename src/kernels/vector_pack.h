/*
 * vector_pack.h - codes to bytes and back over vectors of any width; included like vector_numbers.h.
 *
 * Eight codes of b bits fill exactly b bytes, so each 128-bit lane of a vector
 * (8 codes of 16 bits) packs to b bytes of its own, for every b. Needs also
 * LANES, load_codes, store_codes (a vector), load_lanes, store_lanes (lane k
 * from or to bytes + k * b, always 16 bytes), spread (one lane to all) and
 * pick_words (32-bit words by index).
 * Near the end of the bytes the lanes go through a block on the stack: nothing
 * beyond them is touched.
 */
#include <string.h>

enum {
    BLOCK = 8 * LANES, /* codes in a vector */
    ROOM = 16 * LANES, /* bytes that load_lanes and store_lanes reach at most */
};

/* Bytes that a lane access reaches. */
static size_t reach(unsigned bits)
{
    return (LANES - 1) * (size_t)bits + 16;
}

static size_t packed_bytes(size_t n, unsigned bits)
{
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

struct packing {
    vi mask, lift16, lift32, lift64, low, high;
    __m128i drop32, drop64;
};

/*
 * Neighbours are joined three times. The lower of two is first shifted up to
 * the upper one, then both down together: 16 to 32 bits (lift16 a product,
 * drop32), 32 to 64 (lift32, drop64); then the halves of a lane are laid side by
 * side by bytes, the upper one half a byte up if b is odd (lift64).
 */
TARGET static inline struct packing plan_packing(unsigned bits)
{
    const __m128i byte = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int half = (int)bits / 2, odd = (int)bits % 2;
    struct packing p;
    p.mask = V(set1_epi16)((short)((1 << bits) - 1));
    p.lift16 = V(set1_epi32)((1 << 16) | (1 << (16 - bits)));
    p.drop32 = _mm_cvtsi32_si128(16 - (int)bits);
    p.lift32 = spread(_mm_set1_epi64x(32 - 2 * (int)bits));
    p.drop64 = _mm_cvtsi32_si128(32 - 2 * (int)bits);
    p.lift64 = spread(_mm_set_epi64x(4 * odd, 0));
    /* An index with its top bit set gives 0: bytes 0 .. half+odd-1 take from the lower half, half .. b-1 the upper. */
    p.low = spread(_mm_or_si128(byte, _mm_cmpgt_epi8(byte, _mm_set1_epi8((char)(half + odd - 1)))));
    p.high = spread(_mm_or_si128(_mm_add_epi8(byte, _mm_set1_epi8((char)(8 - half))),
                                 _mm_cmpgt_epi8(_mm_set1_epi8((char)half), byte)));
    return p;
}

TARGET static inline vi pack_block(const struct packing *p, vi v)
{
    v = V(mullo_epi16)(and_bits(v, p->mask), p->lift16);
    v = V(sllv_epi32)(V(srl_epi32)(v, p->drop32), p->lift32);
    v = V(sllv_epi64)(V(srl_epi64)(v, p->drop64), p->lift64);
    return or_bits(V(shuffle_epi8)(v, p->low), V(shuffle_epi8)(v, p->high));
}

TARGET static void pack_lanes(size_t n, unsigned bits, const uint16_t *code, uint8_t *bytes)
{
    const struct packing p = plan_packing(bits);
    size_t left = packed_bytes(n, bits);
    for (; n >= BLOCK && left >= reach(bits); n -= BLOCK, code += BLOCK, bytes += LANES * bits, left -= LANES * bits)
        store_lanes(bytes, bits, pack_block(&p, load_codes(code)));
    while (n > 0) {
        uint16_t codes[BLOCK] = {0};
        uint8_t block[ROOM];
        size_t count = n < BLOCK ? n : BLOCK, size = left < LANES * bits ? left : LANES * bits;
        memcpy(codes, code, count * sizeof *code);
        store_lanes(block, bits, pack_block(&p, load_codes(codes)));
        memcpy(bytes, block, size);
        n -= count;
        code += count;
        bytes += size;
        left -= size;
    }
}

/* The bytes of two vectors of codes, the lanes of both interleaved. */
TARGET static inline vi bytes_of(const uint16_t *code, vi mask)
{
    return V(packus_epi16)(and_bits(load_codes(code), mask), and_bits(load_codes(code + BLOCK), mask));
}

/*
 * 8 and 4 bits by whole vectors of bytes; says how many codes it has packed.
 * Packing leaves in lane l, for each of 16 / bits vectors k in turn, `width`
 * 32-bit words of that vector's lane l: `order` puts vector before lane.
 */
TARGET static size_t pack_bytes(size_t n, unsigned bits, const uint16_t *code, uint8_t *bytes)
{
    const unsigned vectors = 16 / bits, width = 4 / vectors;
    const vi mask = V(set1_epi16)((short)((1 << bits) - 1)), join = V(set1_epi16)(0x1001);
    uint32_t order[4 * LANES];
    size_t i = 0;
    for (unsigned to = 0; to < 4 * LANES; to++) {
        unsigned k = to / width / LANES, l = to / width % LANES;
        order[to] = 4 * l + k * width + to % width;
    }
    for (; i + vectors * BLOCK <= n; i += vectors * BLOCK) {
        vi v = bytes_of(code + i, mask);
        if (bits == 4) { /* two codes to a byte: low + 16 * high */
            vi w = bytes_of(code + i + 2 * BLOCK, mask);
            v = V(packus_epi16)(V(maddubs_epi16)(v, join), V(maddubs_epi16)(w, join));
        }
        store_codes(bytes + i * bits / 8, pick_words(v, load_codes(order)));
    }
    return i;
}

TARGET static void pack(size_t n, unsigned bits, const uint16_t *code, uint8_t *bytes)
{
    size_t done = bits == 4 || bits == 8 ? pack_bytes(n, bits, code, bytes) : 0;
    pack_lanes(n - done, bits, code + done, bytes + done * bits / 8);
}

struct unpacking {
    int narrow;
    vi mask, place[2], shift[2];
    __m128i drop16;
};

/*
 * Up to 8 bits, a code lies within two bytes: these are placed in its 16 bits,
 * shifted up until the code is at the top (shift[0] a product), then all down.
 * Above, it lies within four: placed in 32 bits, shifted down each by its own
 * count, cut; codes 0 .. 3 and 4 .. 7 of a lane apart, then both put together.
 */
TARGET static inline struct unpacking plan_unpacking(unsigned bits)
{
    uint16_t place16[8], shift16[8];
    uint32_t place32[8], shift32[8];
    struct unpacking p = {.narrow = bits <= 8, .mask = V(set1_epi32)((1 << bits) - 1)};
    for (unsigned k = 0; k < 8; k++) {
        unsigned byte = k * bits / 8, bit = k * bits % 8;
        place16[k] = (uint16_t)(byte * 0x0101u + 0x0100u);
        shift16[k] = (uint16_t)(0x10000u >> bits >> bit);
        place32[k] = byte * 0x01010101u + 0x03020100u;
        shift32[k] = bit;
    }
    p.drop16 = _mm_cvtsi32_si128(16 - (int)bits);
    for (int h = 0; h < 2; h++) {
        const void *place = p.narrow ? (const void *)place16 : place32 + 4 * h;
        const void *shift = p.narrow ? (const void *)shift16 : shift32 + 4 * h;
        p.place[h] = spread(_mm_loadu_si128(place));
        p.shift[h] = spread(_mm_loadu_si128(shift));
    }
    return p;
}

TARGET static inline vi unpack_block(const struct unpacking *p, vi v)
{
    vi low = V(shuffle_epi8)(v, p->place[0]);
    if (p->narrow)
        return V(srl_epi16)(V(mullo_epi16)(low, p->shift[0]), p->drop16);
    vi high = V(shuffle_epi8)(v, p->place[1]);
    low = and_bits(V(srlv_epi32)(low, p->shift[0]), p->mask);
    high = and_bits(V(srlv_epi32)(high, p->shift[1]), p->mask);
    return V(packus_epi32)(low, high);
}

TARGET static void unpack(size_t n, unsigned bits, const uint8_t *bytes, uint16_t *code)
{
    const struct unpacking p = plan_unpacking(bits);
    size_t left = packed_bytes(n, bits);
    for (; n >= BLOCK && left >= reach(bits); n -= BLOCK, code += BLOCK, bytes += LANES * bits, left -= LANES * bits)
        store_codes(code, unpack_block(&p, load_lanes(bytes, bits)));
    while (n > 0) {
        uint16_t codes[BLOCK];
        uint8_t block[ROOM] = {0};
        size_t count = n < BLOCK ? n : BLOCK, size = left < LANES * bits ? left : LANES * bits;
        memcpy(block, bytes, size);
        store_codes(codes, unpack_block(&p, load_lanes(block, bits)));
        memcpy(code, codes, count * sizeof *code);
        n -= count;
        code += count;
        bytes += size;
        left -= size;
    }
}
