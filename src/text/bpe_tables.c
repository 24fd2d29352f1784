/*
 * bpe_tables.c - the tables of byte pair encoding: text to id, pair of ids to rank and id. Open addressing, at most
 * half full.
 */
#include "text/bpe.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

struct qnti_piece_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
};

/* The slot that holds the text, or the free one where it would stand. */
static struct qnti_piece_slot *piece_slot(const struct qnti_piece_map *map, const char *text, size_t bytes,
                                          uint32_t *hash)
{
    uint64_t h = XXH3_64bits(text, bytes);
    *hash = (uint32_t)(h >> 32);
    for (size_t at = (size_t)h & map->mask;; at = (at + 1) & map->mask) {
        struct qnti_piece_slot *slot = &map->slots[at];
        if (slot->id < 0)
            return slot;
        if (slot->hash == *hash && map->piece_bytes[slot->id] == bytes &&
            memcmp(map->pieces[slot->id], text, bytes) == 0)
            return slot;
    }
}

static size_t power_of_two_above(size_t n)
{
    size_t power = 16;
    while (power <= n)
        power *= 2;
    return power;
}

static void find_byte_pieces(struct qnti_bpe *bpe)
{
    char text[8];
    for (unsigned b = 0; b < 256; b++) {
        int n = snprintf(text, sizeof text, "<0x%02X>", b);
        bpe->bytes[b] = qnti_bpe_find(bpe, text, (size_t)n);
    }
}

qnt_status qnti_bpe_set_pieces(qnt_context *ctx, struct qnti_bpe *bpe, const char *const *pieces,
                               const size_t *piece_bytes, const bool *wanted, size_t count)
{
    size_t capacity = power_of_two_above(2 * count);
    struct qnti_piece_map *map = &bpe->pieces;
    uint32_t hash;
    QNT_TRY(QNTI_NEW_RAW(ctx, capacity, &map->slots));
    memset(map->slots, -1, capacity * sizeof *map->slots);
    map->mask = capacity - 1;
    map->pieces = pieces;
    map->piece_bytes = piece_bytes;
    for (size_t id = 0; id < count; id++) {
        struct qnti_piece_slot *slot;
        if (!wanted[id] || piece_bytes[id] == 0)
            continue;
        slot = piece_slot(map, pieces[id], piece_bytes[id], &hash);
        if (slot->id >= 0)
            continue;
        slot->hash = hash;
        slot->id = (int32_t)id;
    }
    find_byte_pieces(bpe);
    return QNT_OK;
}

int32_t qnti_bpe_find(const struct qnti_bpe *bpe, const char *text, size_t bytes)
{
    uint32_t hash;
    return piece_slot(&bpe->pieces, text, bytes, &hash)->id;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* A free slot has key UINT64_MAX, which no pair of ids has. */
static struct qnti_pair *pair_slot(struct qnti_pair *slots, size_t capacity, uint64_t key)
{
    uint64_t hash = key * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: spreads neighbouring ids */
    size_t at = (size_t)(hash ^ hash >> 32) & (capacity - 1);
    while (slots[at].key != key && slots[at].key != UINT64_MAX)
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static qnt_status grow_pairs(qnt_context *ctx, struct qnti_pair_map *map)
{
    size_t capacity = map->capacity ? 2 * map->capacity : 16;
    struct qnti_pair *slots;
    QNT_TRY(QNTI_NEW_RAW(ctx, capacity, &slots));
    memset(slots, -1, capacity * sizeof *slots);
    for (size_t i = 0; i < map->capacity; i++)
        if (map->slots[i].key != UINT64_MAX)
            *pair_slot(slots, capacity, map->slots[i].key) = map->slots[i];
    qnti_free(ctx, map->slots);
    map->slots = slots;
    map->capacity = capacity;
    return QNT_OK;
}

qnt_status qnti_bpe_add_pair(qnt_context *ctx, struct qnti_bpe *bpe, int32_t left, int32_t right, uint32_t rank,
                             int32_t id)
{
    struct qnti_pair_map *map = &bpe->pairs;
    struct qnti_pair *slot;
    if (2 * map->count >= map->capacity)
        QNT_TRY(grow_pairs(ctx, map));
    slot = pair_slot(map->slots, map->capacity, pair_key(left, right));
    map->count += slot->key == UINT64_MAX;
    slot->key = pair_key(left, right);
    slot->rank = rank;
    slot->id = id;
    return QNT_OK;
}

const struct qnti_pair *qnti_bpe_find_pair(const struct qnti_bpe *bpe, int32_t left, int32_t right)
{
    const struct qnti_pair *slot;
    if (bpe->pairs.capacity == 0)
        return NULL;
    slot = pair_slot(bpe->pairs.slots, bpe->pairs.capacity, pair_key(left, right));
    return slot->key == UINT64_MAX ? NULL : slot;
}

void qnti_bpe_free(qnt_context *ctx, struct qnti_bpe *bpe)
{
    qnti_free(ctx, bpe->pieces.slots);
    qnti_free(ctx, bpe->pairs.slots);
}
