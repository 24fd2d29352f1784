/*
 * sentencepiece.c - a SentencePiece tokenizer.model (BPE): a protobuf message ModelProto.
 *
 * A field is varint(number << 3 | type), then a varint (type 0), 8 bytes (1), a length and bytes (2) or 4 bytes (5).
 * Unigram models and precompiled normalization maps are refused.
 */
#include <string.h>
#include "base/number.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

struct wire {
    const unsigned char *at, *end;
};

static size_t wire_bytes(struct wire w)
{
    return (size_t)(w.end - w.at);
}

struct field {
    uint32_t number;
    unsigned type;
    uint64_t value;    /* types 0, 1, 5 */
    struct wire bytes; /* type 2 */
};

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_SUFFIX = 24,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_UNK = 40,
    TRAINER_BOS = 41,
    TRAINER_EOS = 42,
    TRAINER_PAD = 43,
    TRAINER_UNK_SURFACE = 44
};
enum { NORMALIZER_MAP = 2, NORMALIZER_DUMMY_PREFIX = 3, NORMALIZER_REMOVE_SPACES = 4, NORMALIZER_ESCAPE = 5 };
enum { UNIGRAM = 1, BPE = 2 };

static const unsigned char unk_surface[] = " \xE2\x81\x87 "; /* the default: U+2047 */

struct options {
    bool trainer, normalizer; /* found */
    uint64_t model_type, suffix, byte_fallback, ids[4];
    uint64_t dummy_prefix, remove_spaces, escape;
    struct wire map, unk_surface;
};

static bool read_varint(struct wire *w, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        unsigned char byte = *w->at++;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool read_fixed(struct wire *w, size_t bytes, uint64_t *value)
{
    if (wire_bytes(*w) < bytes)
        return false;
    *value = 0;
    for (size_t i = 0; i < bytes; i++)
        *value |= (uint64_t)w->at[i] << (8 * i);
    w->at += bytes;
    return true;
}

/* The next field of a message that is not at its end. */
static bool read_field(struct wire *w, struct field *f)
{
    uint64_t key;
    if (!read_varint(w, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return false;
    f->number = (uint32_t)(key >> 3);
    f->type = (unsigned)(key & 7);
    switch (f->type) {
    case VARINT:
        return read_varint(w, &f->value);
    case FIXED64:
        return read_fixed(w, 8, &f->value);
    case FIXED32:
        return read_fixed(w, 4, &f->value);
    case BYTES:
        if (!read_varint(w, &f->value) || f->value > wire_bytes(*w))
            return false;
        f->bytes.at = w->at;
        f->bytes.end = w->at += f->value;
        return true;
    default:
        return false;
    }
}

static qnt_status damaged(const qnti_tokenizer *t, const char *what, size_t index)
{
    return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %s %zu is damaged or of another type than expected", t->name, what,
                     index);
}

static qnt_status read_piece(qnti_tokenizer *t, size_t id, struct wire w)
{
    const unsigned char *text = NULL;
    uint64_t kind = QNTI_TOKEN_NORMAL;
    float score = 0;
    size_t bytes = 0;
    struct field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return damaged(t, "piece", id);
        if (f.number == PIECE_TEXT && f.type == BYTES) {
            text = f.bytes.at;
            bytes = wire_bytes(f.bytes);
        } else if (f.number == PIECE_SCORE && f.type == FIXED32) {
            score = qnti_float((uint32_t)f.value);
        } else if (f.number == PIECE_TYPE && f.type == VARINT) {
            kind = f.value;
        } else if (f.number <= PIECE_TYPE) {
            return damaged(t, "piece", id);
        }
    }
    if (bytes == 0 || kind < QNTI_TOKEN_NORMAL || kind > QNTI_TOKEN_BYTE)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: piece %zu has %zu bytes and type %llu", t->name, id, bytes,
                         (unsigned long long)kind);
    return qnti_tokenizer_set(t, id, (const char *)text, bytes, (int32_t)kind, score);
}

/* A field of a message that is wanted, and where its varint or its bytes go. */
struct wanted {
    uint32_t number;
    uint64_t *value;
    struct wire *bytes;
};

static qnt_status read_wanted(qnti_tokenizer *t, const char *message, struct wire w, const struct wanted *wanted,
                              size_t count)
{
    struct field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %s is damaged", t->name, message);
        for (size_t i = 0; i < count; i++) {
            if (f.number != wanted[i].number)
                continue;
            if (f.type != (wanted[i].value ? VARINT : BYTES))
                return damaged(t, message, f.number);
            if (wanted[i].value)
                *wanted[i].value = f.value;
            else
                *wanted[i].bytes = f.bytes;
        }
    }
    return QNT_OK;
}

static qnt_status read_trainer(qnti_tokenizer *t, struct wire w, struct options *o)
{
    const struct wanted wanted[] = {
        {TRAINER_MODEL_TYPE, &o->model_type, NULL},
        {TRAINER_SUFFIX, &o->suffix, NULL},
        {TRAINER_BYTE_FALLBACK, &o->byte_fallback, NULL},
        {TRAINER_UNK, &o->ids[0], NULL},
        {TRAINER_BOS, &o->ids[1], NULL},
        {TRAINER_EOS, &o->ids[2], NULL},
        {TRAINER_PAD, &o->ids[3], NULL},
        {TRAINER_UNK_SURFACE, NULL, &o->unk_surface},
    };
    o->trainer = true;
    return read_wanted(t, "trainer_spec, field", w, wanted, sizeof wanted / sizeof *wanted);
}

static qnt_status read_normalizer(qnti_tokenizer *t, struct wire w, struct options *o)
{
    const struct wanted wanted[] = {
        {NORMALIZER_MAP, NULL, &o->map},
        {NORMALIZER_DUMMY_PREFIX, &o->dummy_prefix, NULL},
        {NORMALIZER_REMOVE_SPACES, &o->remove_spaces, NULL},
        {NORMALIZER_ESCAPE, &o->escape, NULL},
    };
    o->normalizer = true;
    return read_wanted(t, "normalizer_spec, field", w, wanted, sizeof wanted / sizeof *wanted);
}

static qnt_status read_message(qnti_tokenizer *t, struct wire w, struct options *o)
{
    size_t pieces = 0, fields = 0;
    struct field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f) || (f.number <= MODEL_NORMALIZER && f.type != BYTES))
            return damaged(t, "field", fields);
        if (f.number == MODEL_PIECES)
            QNT_TRY(read_piece(t, pieces++, f.bytes));
        else if (f.number == MODEL_TRAINER)
            QNT_TRY(read_trainer(t, f.bytes, o));
        else if (f.number == MODEL_NORMALIZER)
            QNT_TRY(read_normalizer(t, f.bytes, o));
        fields++;
    }
    if (pieces == 0 || !o->trainer || !o->normalizer)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %zu pieces, %s trainer_spec, %s normalizer_spec: not a whole model",
                         t->name, pieces, o->trainer ? "a" : "no", o->normalizer ? "a" : "no");
    return QNT_OK;
}

static qnt_status check_options(const qnti_tokenizer *t, const struct options *o)
{
    if (o->model_type != BPE)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: model_type %llu is not supported (2, BPE, is)", t->name,
                         (unsigned long long)o->model_type);
    if (o->suffix)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: treat_whitespace_as_suffix is not supported", t->name);
    if (o->map.at < o->map.end)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: a precompiled_charsmap (%zu bytes) is not supported", t->name,
                         wire_bytes(o->map));
    if (!qnti_utf8_valid((const char *)o->unk_surface.at, wire_bytes(o->unk_surface)))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: unk_surface is not UTF-8", t->name);
    return QNT_OK;
}

static qnt_status replace_by(qnti_tokenizer *t, struct qnti_steps *steps, const char *pattern, bool literal,
                             const char *content)
{
    struct qnti_step step = {.kind = QNTI_STEP_REPLACE};
    step.pattern.literal = literal;
    return qnti_steps_add(t->ctx, t->name, steps, &step, pattern, strlen(pattern), content, strlen(content));
}

/* Extra spaces go in front and in a row before they are escaped, at the end afterwards (a U+2581 of the text, too). */
static qnt_status build_normalizer(qnti_tokenizer *t, const struct options *o)
{
    struct qnti_step prefix = {.kind = QNTI_STEP_PREFIX};
    struct qnti_steps *steps = &t->normalizer;
    if (o->remove_spaces) {
        QNT_TRY(replace_by(t, steps, "\\A +", false, ""));
        QNT_TRY(replace_by(t, steps, " {2,}", false, " "));
    }
    if (o->escape)
        QNT_TRY(qnti_tokenizer_escape_spaces(t, o->dummy_prefix != 0));
    else if (o->dummy_prefix)
        QNT_TRY(qnti_steps_add(t->ctx, t->name, steps, &prefix, NULL, 0, " ", 1));
    if (!o->remove_spaces)
        return QNT_OK;
    return replace_by(t, steps, o->escape ? "(?<!" QNTI_SPACE_MARK ")" QNTI_SPACE_MARK "+\\z" : "(?<! ) +\\z", false,
                      "");
}

static qnt_status build_decoder(qnti_tokenizer *t, const struct options *o)
{
    struct qnti_step trim = {.kind = QNTI_STEP_TRIM, .start = 1, .first_only = true, .until_text = o->remove_spaces};
    struct qnti_step bytes = {.kind = QNTI_STEP_BYTE_PIECES, .each_byte = true}, fuse = {.kind = QNTI_STEP_FUSE};
    struct qnti_steps *steps = &t->decoder;
    if (o->dummy_prefix || o->remove_spaces)
        QNT_TRY(qnti_steps_add(t->ctx, t->name, steps, &trim, NULL, 0, QNTI_SPACE_MARK, QNTI_SPACE_MARK_BYTES));
    QNT_TRY(replace_by(t, steps, QNTI_SPACE_MARK, true, " "));
    QNT_TRY(qnti_steps_add(t->ctx, t->name, steps, &bytes, NULL, 0, NULL, 0));
    return qnti_steps_add(t->ctx, t->name, steps, &fuse, NULL, 0, NULL, 0);
}

/* Ids of special tokens; -1 is stored as an int32, sign-extended. */
static void set_ids(qnti_tokenizer *t, const struct options *o)
{
    int64_t *ids[] = {&t->vocabulary.unk, &t->vocabulary.bos, &t->vocabulary.eos, &t->vocabulary.pad};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        int32_t kind = i == 0 ? QNTI_TOKEN_UNKNOWN : QNTI_TOKEN_CONTROL;
        *ids[i] = o->ids[i] < t->vocabulary.count && t->kinds[o->ids[i]] == kind ? (int64_t)o->ids[i] : -1;
    }
    t->bpe.unknown = (int32_t)t->vocabulary.unk;
    t->bpe.fuse_unknown = true;
    t->vocabulary.add_bos = true; /* as Llama and its kin do; the model itself does not say */
}

qnt_status qnti_tokenizer_parse_model(qnt_context *ctx, const char *name, const char *data, size_t bytes,
                                      size_t vocab_size, qnti_tokenizer **tokenizer)
{
    struct options o = {.model_type = UNIGRAM,
                        .ids = {0, 1, 2, UINT64_MAX},
                        .dummy_prefix = 1,
                        .remove_spaces = 1,
                        .escape = 1,
                        .unk_surface = {unk_surface, unk_surface + sizeof unk_surface - 1}};
    struct wire w = {(const unsigned char *)data, (const unsigned char *)data + bytes};
    qnti_tokenizer *t = NULL;
    qnt_status status;
    *tokenizer = NULL;
    QNT_CHECK(qnti_tokenizer_new(ctx, name, vocab_size, &t));
    t->sentencepiece = true;
    QNT_CHECK(read_message(t, w, &o));
    QNT_CHECK(check_options(t, &o));
    QNT_CHECK(qnti_copy_bytes(ctx, o.unk_surface.at, wire_bytes(o.unk_surface), &t->unk_surface));
    QNT_CHECK(qnti_tokenizer_index(t));
    QNT_CHECK(qnti_tokenizer_merge_by_scores(t));
    QNT_CHECK(qnti_tokenizer_add_by_kind(t, true));
    QNT_CHECK(build_normalizer(t, &o));
    QNT_CHECK(build_decoder(t, &o));
    t->bpe.byte_fallback = o.byte_fallback != 0;
    t->vocabulary.add_space_prefix = o.dummy_prefix != 0;
    set_ids(t, &o);
    QNT_CHECK(qnti_tokenizer_surround(t));
    qnti_tokenizer_name_pre(t);
    qnti_tokenizer_finish(t);
    *tokenizer = t;
    t = NULL;
cleanup:
    qnti_tokenizer_close(t);
    return status;
}
