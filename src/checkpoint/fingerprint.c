/*
 * fingerprint.c - XXH3 (64 bits) of what a model is, but for its weights (finite.c hashes these while it reads them).
 *
 * Covers config.json or the keys of a GGUF, and every tensor's name, type and
 * shape. Neither names nor times of files: a copy is the same model. The
 * pieces are chained: the hash of all before is the seed of the next.
 */
#include "checkpoint/source.h"

#include <string.h>
#include <xxhash.h>
#include "file/output.h"

enum { MAX_CONFIG_BYTES = 1 << 26 };

struct hash {
    uint64_t value;
};

static void add(struct hash *h, const void *bytes, size_t n)
{
    h->value = XXH3_64bits_withSeed(bytes, n, h->value);
}

static void add_number(struct hash *h, uint64_t number)
{
    add(h, &number, sizeof number);
}

static void add_string(struct hash *h, const char *string)
{
    add(h, string, strlen(string) + 1);
}

static void add_tensors(struct hash *h, const struct qnti_source *source)
{
    for (size_t i = 0; i < source->count; i++) {
        const struct qnti_stored *stored = &source->tensors[i];
        add_string(h, stored->name);
        add_string(h, stored->type);
        add_number(h, stored->rank);
        for (size_t k = 0; k < stored->rank; k++)
            add_number(h, stored->shape[k]);
    }
}

static qnt_status add_gguf(struct hash *h, const struct qnti_gguf *file)
{
    for (size_t i = 0; i < file->value_count; i++) {
        add_string(h, file->values[i].key);
        add_number(h, file->values[i].type);
        add(h, file->values[i].data, file->values[i].bytes);
    }
    return QNT_OK;
}

static qnt_status add_folder(struct hash *h, const struct qnti_checkpoint *c)
{
    char *path, *text = NULL;
    size_t bytes;
    qnt_status status;
    QNT_TRY(qnti_path_join(c->ctx, c->path, "config.json", &path));
    status = qnti_read_file(c->ctx, path, MAX_CONFIG_BYTES, &text, &bytes);
    if (status == QNT_OK)
        add(h, text, bytes);
    qnti_free(c->ctx, text);
    qnti_free(c->ctx, path);
    return status;
}

qnt_status qnti_checkpoint_fingerprint(const struct qnti_checkpoint *c, uint64_t *fingerprint)
{
    struct hash h = {0};
    QNT_TRY(c->source->gguf ? add_gguf(&h, c->source->gguf) : add_folder(&h, c));
    add_tensors(&h, c->source);
    *fingerprint = h.value;
    return QNT_OK;
}
