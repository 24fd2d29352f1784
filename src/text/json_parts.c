/*
 * json_parts.c - normalizer, pre_tokenizer, post_processor and decoder of a tokenizer.json as steps.
 *
 * One table a section: type and reader. A Sequence is its members one after another. Types that are not in a table are
 * refused by name.
 */
#include <string.h>
#include "container/json.h"
#include "text/tokenizer_private.h"

enum { MAX_NESTING = 8 };

struct part {
    const char *type;
    qnt_status (*read)(qnti_tokenizer *t, const json_t *json);
};

struct section {
    const char *key, *members; /* of the root; of a Sequence */
    const struct part *parts;  /* up to one without a type */
};

/* A string that must be there. */
static qnt_status text_of(qnti_tokenizer *t, const json_t *json, const char *key, const char **text, size_t *bytes)
{
    const json_t *value = json_object_get(json, key);
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!json_is_string(value))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %s has no string \"%s\"", t->name, type ? type : "pattern", key);
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return QNT_OK;
}

/* Adds a step with the pattern that {"String": ...} or {"Regex": ...} says. */
static qnt_status add_with_pattern(qnti_tokenizer *t, struct qnti_steps *steps, struct qnti_step *step,
                                   const json_t *json, const char *content, size_t content_bytes)
{
    const json_t *pattern = json_object_get(json, "pattern");
    const char *text = NULL;
    size_t bytes = 0;
    step->pattern.literal = json_object_get(pattern, "String") != NULL;
    QNT_TRY(text_of(t, pattern, step->pattern.literal ? "String" : "Regex", &text, &bytes));
    return qnti_steps_add(t->ctx, t->name, steps, step, text, bytes, content, content_bytes);
}

static qnt_status add_step(qnti_tokenizer *t, struct qnti_steps *steps, const struct qnti_step *step,
                           const char *pattern, const char *content, size_t content_bytes)
{
    return qnti_steps_add(t->ctx, t->name, steps, step, pattern, pattern ? strlen(pattern) : 0, content, content_bytes);
}

static qnt_status read_prepend(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_PREFIX};
    const char *text = NULL;
    size_t bytes = 0;
    QNT_TRY(text_of(t, json, "prepend", &text, &bytes));
    t->vocabulary.add_space_prefix = true;
    return add_step(t, &t->normalizer, &step, NULL, text, bytes);
}

static qnt_status read_replace(qnti_tokenizer *t, const json_t *json, struct qnti_steps *steps)
{
    struct qnti_step step = {.kind = QNTI_STEP_REPLACE};
    const char *text = NULL;
    size_t bytes = 0;
    QNT_TRY(text_of(t, json, "content", &text, &bytes));
    return add_with_pattern(t, steps, &step, json, text, bytes);
}

static qnt_status read_normalizer_replace(qnti_tokenizer *t, const json_t *json)
{
    return read_replace(t, json, &t->normalizer);
}

static qnt_status read_nfc(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_COMPOSE};
    (void)json;
    return add_step(t, &t->normalizer, &step, NULL, NULL, 0);
}

static qnt_status read_nfkc(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_COMPOSE, .compatible = true};
    (void)json;
    return add_step(t, &t->normalizer, &step, NULL, NULL, 0);
}

/* White space at the ends; the look-behind keeps long runs in the middle from being searched again and again. */
static qnt_status read_strip(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_REPLACE};
    bool left = true, right = true;
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "strip_left", &left));
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "strip_right", &right));
    if (left)
        QNT_TRY(add_step(t, &t->normalizer, &step, "\\A\\s+", "", 0));
    return right ? add_step(t, &t->normalizer, &step, "(?<!\\s)\\s+\\z", "", 0) : QNT_OK;
}

static qnt_status read_split(qnti_tokenizer *t, const json_t *json)
{
    static const char *const behaviors[] = {
        [QNTI_CUT_ISOLATED] = "Isolated",           [QNTI_CUT_REMOVED] = "Removed",
        [QNTI_CUT_PREVIOUS] = "MergedWithPrevious", [QNTI_CUT_NEXT] = "MergedWithNext",
        [QNTI_CUT_CONTIGUOUS] = "Contiguous",
    };
    struct qnti_step step = {.kind = QNTI_STEP_SPLIT};
    const char *behavior = NULL;
    size_t bytes = 0;
    QNT_TRY(text_of(t, json, "behavior", &behavior, &bytes));
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "invert", &step.invert));
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++) {
        step.cut = (enum qnti_cut)i;
        if (strcmp(behavior, behaviors[i]) == 0)
            return add_with_pattern(t, &t->pretokenizer, &step, json, NULL, 0);
    }
    return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: Split with behavior \"%s\" is not supported", t->name, behavior);
}

static qnt_status read_byte_level(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step prefix = {.kind = QNTI_STEP_PREFIX, .unless_there = true};
    struct qnti_step split = {.kind = QNTI_STEP_SPLIT}, bytes = {.kind = QNTI_STEP_BYTES};
    bool add_space = true, use_regex = true;
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "add_prefix_space", &add_space));
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "use_regex", &use_regex));
    t->vocabulary.byte_level = true;
    t->vocabulary.add_space_prefix = add_space;
    if (add_space)
        QNT_TRY(add_step(t, &t->pretokenizer, &prefix, NULL, " ", 1));
    if (use_regex)
        QNT_TRY(add_step(t, &t->pretokenizer, &split, qnti_gpt2_expression, NULL, 0));
    return add_step(t, &t->pretokenizer, &bytes, NULL, NULL, 0);
}

/* The mark, and when it is put in front: `prepend_scheme`, or in old files `add_prefix_space`. */
static qnt_status metaspace(qnti_tokenizer *t, const json_t *json, const char **mark, size_t *bytes,
                            const char **scheme)
{
    bool add_space = true;
    QNT_TRY(text_of(t, json, "replacement", mark, bytes));
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "add_prefix_space", &add_space));
    *scheme = add_space ? "always" : "never";
    QNT_TRY(qnti_json_string(t->ctx, t->name, json, "prepend_scheme", scheme));
    if (strcmp(*scheme, "always") != 0 && strcmp(*scheme, "first") != 0 && strcmp(*scheme, "never") != 0)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: Metaspace with prepend_scheme \"%s\" is not supported", t->name,
                         *scheme);
    return QNT_OK;
}

static qnt_status read_metaspace(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step replace = {.kind = QNTI_STEP_REPLACE, .pattern.literal = true};
    struct qnti_step prefix = {.kind = QNTI_STEP_PREFIX, .unless_there = true};
    struct qnti_step split = {.kind = QNTI_STEP_SPLIT, .cut = QNTI_CUT_NEXT, .pattern.literal = true};
    struct qnti_steps *steps = &t->pretokenizer;
    const char *mark = NULL, *scheme = NULL;
    bool cut = true;
    size_t bytes = 0;
    QNT_TRY(metaspace(t, json, &mark, &bytes, &scheme));
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "split", &cut));
    prefix.first_only = strcmp(scheme, "first") == 0;
    QNT_TRY(add_step(t, steps, &replace, " ", mark, bytes));
    if (strcmp(scheme, "never") != 0) {
        t->vocabulary.add_space_prefix = true;
        QNT_TRY(add_step(t, steps, &prefix, NULL, mark, bytes));
    }
    return cut ? qnti_steps_add(t->ctx, t->name, steps, &split, mark, bytes, NULL, 0) : QNT_OK;
}

static qnt_status read_digits(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_SPLIT};
    bool individual = false;
    QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "individual_digits", &individual));
    step.cut = individual ? QNTI_CUT_ISOLATED : QNTI_CUT_CONTIGUOUS;
    return add_step(t, &t->pretokenizer, &step, "\\p{N}", NULL, 0);
}

static qnt_status read_nothing(qnti_tokenizer *t, const json_t *json)
{
    (void)json;
    t->post_processor = true;
    return QNT_OK;
}

static qnt_status add_special_ids(qnti_tokenizer *t, const json_t *template, const json_t *special,
                                  struct qnti_buffer *around)
{
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(template, "special_tokens"), name ? name : ""), "ids");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        int32_t token = (int32_t)id;
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= QNTI_MAX_TOKENS)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: TemplateProcessing: id %lld of %s is not a token", t->name,
                             (long long)id, name);
        QNT_TRY(qnti_buffer_add(t->ctx, around, &token, sizeof token));
    }
    if (json_array_size(ids) == 0)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: TemplateProcessing: special token %s has no ids", t->name,
                         name ? name : "without id");
    return QNT_OK;
}

static qnt_status read_template(qnti_tokenizer *t, const json_t *json)
{
    const json_t *single = json_object_get(json, "single");
    size_t sequences = 0;
    if (t->prefix.bytes || t->suffix.bytes)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: more than one TemplateProcessing", t->name);
    t->post_processor = true;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *special = json_object_get(item, "SpecialToken");
        const char *sequence = json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
        if (special)
            QNT_TRY(add_special_ids(t, json, special, sequences ? &t->suffix : &t->prefix));
        else if (sequence && strcmp(sequence, "A") == 0)
            sequences++;
        else
            sequences = SIZE_MAX / 2;
    }
    if (sequences != 1)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: TemplateProcessing: \"single\" should hold Sequence A once",
                         t->name);
    return QNT_OK;
}

static qnt_status read_unbytes(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_UNBYTES};
    (void)json;
    return add_step(t, &t->decoder, &step, NULL, NULL, 0);
}

static qnt_status read_decoder_replace(qnti_tokenizer *t, const json_t *json)
{
    return read_replace(t, json, &t->decoder);
}

static qnt_status read_byte_fallback(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_BYTE_PIECES};
    (void)json;
    return add_step(t, &t->decoder, &step, NULL, NULL, 0);
}

static qnt_status read_fuse(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_FUSE};
    (void)json;
    return add_step(t, &t->decoder, &step, NULL, NULL, 0);
}

static qnt_status read_trim(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_TRIM};
    const char *text = NULL;
    size_t bytes = 0;
    QNT_TRY(text_of(t, json, "content", &text, &bytes));
    QNT_TRY(qnti_json_size(t->ctx, t->name, json, "start", &step.start));
    QNT_TRY(qnti_json_size(t->ctx, t->name, json, "stop", &step.stop));
    return add_step(t, &t->decoder, &step, NULL, text, bytes);
}

/* All marks of the first piece vanish, unless none was put in front; the others become spaces. */
static qnt_status read_decoder_metaspace(qnti_tokenizer *t, const json_t *json)
{
    struct qnti_step step = {.kind = QNTI_STEP_REPLACE, .pattern.literal = true, .first_only = true};
    const char *mark = NULL, *scheme = NULL;
    size_t bytes = 0;
    QNT_TRY(metaspace(t, json, &mark, &bytes, &scheme));
    if (strcmp(scheme, "never") != 0)
        QNT_TRY(qnti_steps_add(t->ctx, t->name, &t->decoder, &step, mark, bytes, "", 0));
    step.first_only = false;
    return qnti_steps_add(t->ctx, t->name, &t->decoder, &step, mark, bytes, " ", 1);
}

static const struct part normalizers[] = {
    {"Prepend", read_prepend}, {"Replace", read_normalizer_replace},
    {"NFC", read_nfc},         {"NFKC", read_nfkc},
    {"Strip", read_strip},     {NULL, NULL},
};
static const struct part pretokenizers[] = {
    {"Split", read_split}, {"ByteLevel", read_byte_level}, {"Metaspace", read_metaspace}, {"Digits", read_digits},
    {NULL, NULL},
};
static const struct part processors[] = {
    {"TemplateProcessing", read_template},
    {"ByteLevel", read_nothing},
    {NULL, NULL},
};
static const struct part decoders[] = {
    {"ByteLevel", read_unbytes},
    {"Replace", read_decoder_replace},
    {"ByteFallback", read_byte_fallback},
    {"Fuse", read_fuse},
    {"Strip", read_trim},
    {"Metaspace", read_decoder_metaspace},
    {NULL, NULL},
};
static const struct section sections[] = {
    {"normalizer", "normalizers", normalizers},
    {"pre_tokenizer", "pretokenizers", pretokenizers},
    {"post_processor", "processors", processors},
    {"decoder", "decoders", decoders},
};

static qnt_status read_part(qnti_tokenizer *t, const struct section *section, const json_t *json, int nesting)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    const json_t *members = json_object_get(json, section->members);
    if (!type)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %s has no type", t->name, section->key);
    if (strcmp(type, "Sequence") == 0) {
        if (nesting == MAX_NESTING)
            return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: %s is nested deeper than %d", t->name, section->key,
                             (int)MAX_NESTING);
        for (size_t i = 0; i < json_array_size(members); i++)
            QNT_TRY(read_part(t, section, json_array_get(members, i), nesting + 1));
        return QNT_OK;
    }
    for (const struct part *part = section->parts; part->type; part++)
        if (strcmp(type, part->type) == 0)
            return part->read(t, json);
    return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: %s of type %s is not supported", t->name, section->key, type);
}

qnt_status qnti_tokenizer_read_parts(qnti_tokenizer *t, const json_t *root)
{
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        const json_t *json = json_object_get(root, sections[i].key);
        if (json && !json_is_null(json))
            QNT_TRY(read_part(t, &sections[i], json, 0));
    }
    if (t->decoder.count == 0)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: a file without decoder is not supported", t->name);
    return QNT_OK;
}
