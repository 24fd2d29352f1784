/*
 * test_model_tokenizer.c - tokenizers give the ids and texts of the libraries that own their formats.
 *
 * The cases in golden/tokenizers were computed by the tokenizers and sentencepiece libraries. What needs published
 * models and texts runs where QUANT_SHARED names their folder.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "container/json.h"
#include "file/output.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

#define GOLDEN SOURCE_DIR "/tests/golden/tokenizers/"

struct fixture {
    qnt_context *ctx;
    json_t *cases;
    size_t bytes;                      /* that the context holds for itself */
};

static int set_up(void **state)
{
    static struct fixture f;
    assert_int_equal(qnt_context_create(NULL, &f.ctx), QNT_OK);
    f.bytes = qnt_context_bytes(f.ctx, NULL);
    assert_int_equal(qnti_json_load(f.ctx, GOLDEN "tokenizer_cases.json", &f.cases), QNT_OK);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    json_decref(f->cases);
    assert_int_equal(qnt_context_bytes(f->ctx, NULL), f->bytes);
    qnt_context_destroy(f->ctx);
    return 0;
}

static void must(qnt_context *ctx, qnt_status status)
{
    if (status != QNT_OK)
        fail_msg("%s: %s", qnt_status_text(status), qnt_context_message(ctx));
}

static qnti_tokenizer *open_golden(struct fixture *f, const char *file)
{
    char path[512];
    qnti_tokenizer *t;
    snprintf(path, sizeof path, GOLDEN "%s", file);
    must(f->ctx, qnti_tokenizer_open_file(f->ctx, path, &t));
    return t;
}

static void check_ids(const int32_t *ids, size_t count, const json_t *wanted, const char *text)
{
    bool equal = count == json_array_size(wanted);
    for (size_t i = 0; equal && i < count; i++)
        equal = ids[i] == json_integer_value(json_array_get(wanted, i));
    if (equal)
        return;
    for (size_t i = 0; i < count; i++)
        print_message("%d ", (int)ids[i]);
    fail_msg("other ids than the library for \"%s\"", text);
}

static void check_encode(struct fixture *f, const qnti_tokenizer *t, const json_t *text, bool special,
                         bool parse_special, const json_t *wanted)
{
    int32_t *ids;
    size_t count;
    must(f->ctx, qnti_tokenizer_encode(t, json_string_value(text), json_string_length(text), special, parse_special,
                                       &ids, &count));
    check_ids(ids, count, wanted, json_string_value(text));
    qnti_free(f->ctx, ids);
}

static void check_decode(struct fixture *f, const qnti_tokenizer *t, const json_t *ids, bool skip, const json_t *wanted)
{
    int32_t list[1024];
    size_t count = json_array_size(ids), bytes;
    char *text;
    assert_true(count <= 1024);
    for (size_t i = 0; i < count; i++)
        list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    must(f->ctx, qnti_tokenizer_decode(t, list, count, skip, &text, &bytes));
    if (bytes != json_string_length(wanted) || memcmp(text, json_string_value(wanted), bytes) != 0)
        fail_msg("decoded \"%s\", not \"%s\"", text, json_string_value(wanted));
    qnti_free(f->ctx, text);
}

static void check_tokens(const qnti_tokenizer *t, const json_t *ids, const json_t *tokens)
{
    const struct qnti_vocabulary *v = qnti_tokenizer_vocabulary(t);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        size_t id = (size_t)json_integer_value(json_array_get(ids, i));
        assert_string_equal(v->pieces[id], json_string_value(json_array_get(tokens, i)));
    }
}

static void check_case(struct fixture *f, const qnti_tokenizer *t, const json_t *c)
{
    const json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, "ids");
    const json_t *with = json_object_get(c, "ids_with_special");
    /* the sentencepiece library never takes text for special tokens */
    check_encode(f, t, text, false, with != NULL, ids);
    check_decode(f, t, ids, false, json_object_get(c, "decoded"));
    check_tokens(t, ids, json_object_get(c, "tokens"));
    if (with) {
        check_encode(f, t, text, true, true, with);
        check_decode(f, t, with, true, json_object_get(c, "decoded_skip_special"));
    }
}

/* Every text by every file. */
static void test_cases(void **state)
{
    struct fixture *f = *state;
    json_t *tokenizers = json_object_get(f->cases, "tokenizers"), *of;
    const char *name;
    size_t run = 0;
    json_object_foreach(tokenizers, name, of) {
        qnti_tokenizer *t = open_golden(f, json_string_value(json_object_get(of, "file")));
        const json_t *cases = json_object_get(of, "cases"), *size = json_object_get(of, "vocab_size_with_added");
        if (size)
            assert_int_equal(qnti_tokenizer_vocabulary(t)->count, json_integer_value(size));
        for (size_t i = 0; i < json_array_size(cases); i++, run++)
            check_case(f, t, json_array_get(cases, i));
        qnti_tokenizer_close(t);
    }
    assert_int_equal(run, 4 * 32);
}

/* Lists of ids with incomplete and invalid UTF-8 among them. */
static void test_decode(void **state)
{
    static const char *const files[] = {"spm_bpe", "spm_bpe_metaspace", "spm_bpe.model"};
    struct fixture *f = *state;
    const json_t *decode = json_object_get(f->cases, "decode"), *lists = json_object_get(decode, "sentencepiece");
    qnti_tokenizer *t;
    for (size_t k = 0; k < 3; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", files[k], k < 2 ? ".json" : "");
        t = open_golden(f, name);
        for (size_t i = 0; i < json_array_size(lists); i++) {
            const json_t *list = json_array_get(lists, i), *ids = json_object_get(list, "ids");
            check_decode(f, t, ids, false, json_object_get(list, files[k]));
            snprintf(name, sizeof name, "%s_skip_special", files[k]);
            if (json_object_get(list, name))
                check_decode(f, t, ids, true, json_object_get(list, name));
        }
        qnti_tokenizer_close(t);
    }
    t = open_golden(f, "bytelevel_bpe.json");
    lists = json_object_get(decode, "bytelevel_bpe");
    for (size_t i = 0; i < json_array_size(lists); i++) {
        const json_t *list = json_array_get(lists, i);
        check_decode(f, t, json_object_get(list, "ids"), false, json_object_get(list, "decoded"));
        check_decode(f, t, json_object_get(list, "ids"), true, json_object_get(list, "decoded_skip_special"));
    }
    qnti_tokenizer_close(t);
}

static void test_pretokenize(void **state)
{
    struct fixture *f = *state;
    const json_t *cases = json_object_get(f->cases, "pretokenize"), *patterns = json_object_get(f->cases, "patterns");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text");
        const json_t *wanted = json_object_get(c, "pieces");
        const char *source = json_string_value(
            json_object_get(patterns, json_string_value(json_object_get(c, "pattern"))));
        struct qnti_steps steps = {.count = 0};
        struct qnti_step split = {.kind = QNTI_STEP_SPLIT};
        struct qnti_pieces pieces = {.at_start = true};
        must(f->ctx, qnti_steps_add(f->ctx, "case", &steps, &split, source, strlen(source), NULL, 0));
        must(f->ctx, qnti_pieces_add(f->ctx, &pieces, json_string_value(text), json_string_length(text)));
        must(f->ctx, qnti_steps_run(f->ctx, &steps, &pieces));
        assert_int_equal(qnti_pieces_count(&pieces), json_array_size(wanted));
        for (size_t k = 0; k < qnti_pieces_count(&pieces); k++) {
            size_t bytes;
            const char *piece = qnti_piece(&pieces, k, &bytes);
            assert_int_equal(bytes, json_string_length(json_array_get(wanted, k)));
            assert_memory_equal(piece, json_string_value(json_array_get(wanted, k)), bytes);
        }
        qnti_pieces_free(f->ctx, &pieces);
        qnti_steps_free(f->ctx, &steps);
    }
}

/* What a GGUF holds is enough to encode like the folder. */
static void test_from_vocabulary(void **state)
{
    static const char *const names[] = {"bytelevel_bpe", "spm_bpe"};
    struct fixture *f = *state;
    for (size_t k = 0; k < 2; k++) {
        const json_t *of = json_object_get(json_object_get(f->cases, "tokenizers"), names[k]);
        const json_t *cases = json_object_get(of, "cases");
        qnti_tokenizer *t = open_golden(f, json_string_value(json_object_get(of, "file"))), *again;
        must(f->ctx, qnti_tokenizer_from_vocabulary(f->ctx, qnti_tokenizer_vocabulary(t), &again));
        qnti_tokenizer_close(t); /* everything was copied */
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_case(f, again, json_array_get(cases, i));
        assert_string_equal(qnti_tokenizer_vocabulary(again)->pre, k ? "default" : "llama-bpe");
        qnti_tokenizer_close(again);
    }
}

/* The vocabulary as gguf.md section 6 wants it. */
static void test_vocabulary(void **state)
{
    struct fixture *f = *state;
    qnti_tokenizer *json = open_golden(f, "spm_bpe.json"), *model = open_golden(f, "spm_bpe.model");
    const struct qnti_vocabulary *a = qnti_tokenizer_vocabulary(json), *b = qnti_tokenizer_vocabulary(model);
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_string_equal(a->pieces[i], b->pieces[i]);
        assert_int_equal(a->kinds[i], b->kinds[i]);
    }
    assert_true(a->add_space_prefix && b->add_space_prefix && a->add_bos && b->add_bos && !a->add_eos && !b->add_eos);
    assert_int_equal(a->bos, 1);
    assert_int_equal(b->bos, 1);
    assert_int_equal(b->eos, 2);
    assert_int_equal(a->unk, 0);
    assert_int_equal(b->unk, 0);
    assert_false(a->byte_level);
    assert_null(a->merges);
    qnti_tokenizer_close(json);
    qnti_tokenizer_close(model);
    json = open_golden(f, "bytelevel_bpe.json");
    a = qnti_tokenizer_vocabulary(json);
    assert_true(a->byte_level && a->add_bos && !a->scores && !a->add_space_prefix);
    assert_int_equal(a->bos, 903);
    assert_int_equal(a->kinds[903], QNTI_TOKEN_CONTROL);
    assert_int_equal(a->kinds[906], QNTI_TOKEN_USER);
    assert_string_equal(a->merges[0], "h e");
    assert_int_equal(a->merge_bytes[0], 3);
    qnti_tokenizer_close(json);
}

static const char *const small_json =
    "{\"added_tokens\": [{\"id\": 5, \"content\": \"<x>\", \"lstrip\": true, \"rstrip\": true, \"special\": true},"
    "{\"id\": 6, \"content\": \"<x>y\", \"normalized\": true}, {\"id\": 7, \"content\": \"w\", \"single_word\": true}],"
    "\"normalizer\": %s, \"pre_tokenizer\": %s, \"post_processor\": %s, \"decoder\": %s,"
    "\"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \" \": 3, \"?\": 4}, \"merges\": [\"a b\"]%s}}";

struct parts {
    const char *normalizer, *pretokenizer, *processor, *decoder, *model;
};

static qnt_status parse_small(struct fixture *f, struct parts p, qnti_tokenizer **t)
{
    char text[4096];
    snprintf(text, sizeof text, small_json, p.normalizer ? p.normalizer : "null",
             p.pretokenizer ? p.pretokenizer : "null", p.processor ? p.processor : "null",
             p.decoder ? p.decoder : "{\"type\": \"Fuse\"}", p.model ? p.model : "");
    return qnti_tokenizer_parse_json(f->ctx, "small", text, strlen(text), 0, t);
}

/* Encodes with a small tokenizer and compares with ids given as digits. */
static void check_small(struct fixture *f, struct parts p, const char *text, const char *wanted)
{
    qnti_tokenizer *t;
    char found[64] = "";
    int32_t *ids;
    size_t count;
    must(f->ctx, parse_small(f, p, &t));
    must(f->ctx, qnti_tokenizer_encode(t, text, strlen(text), true, true, &ids, &count));
    for (size_t i = 0; i < count && i < sizeof found - 1; i++)
        found[i] = (char)('0' + ids[i]);
    assert_string_equal(found, wanted);
    qnti_free(f->ctx, ids);
    qnti_tokenizer_close(t);
}

#define SPLIT(behavior, more) \
    {.pretokenizer = "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"" behavior "\"" more "}"}
#define ONE_PART(member, json) {.member = json}

static void test_parts(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct parts parts;
        const char *text, *ids;
    } cases[] = {
        {{0}, "abab", "22"},
        {{0}, "a  <x>  b", "051"},                  /* white space around <x> is swallowed */
        {{0}, "a<x>yb", "051"},                     /* tokens of the raw text come before those of normalized text */
        {{0}, "a w b", "03731"},
        {{0}, "awb", "2"},                          /* not alone; w vanishes, and what is left merges */
        {ONE_PART(model, ", \"unk_token\": \"?\""), "acdb", "0441"},
        {ONE_PART(model, ", \"unk_token\": \"?\", \"fuse_unk\": true"), "acdb", "041"},
        {SPLIT("Isolated", ""), "abab", "0101"},
        {SPLIT("Removed", ""), "abab", "11"},
        {SPLIT("MergedWithPrevious", ""), "abab", "0101"},
        {SPLIT("MergedWithNext", ""), "abab", "22"},
        {SPLIT("Contiguous", ""), "abab", "0101"},
        {SPLIT("Removed", ", \"invert\": true"), "abab", "00"},
        {ONE_PART(normalizer, "{\"type\": \"Strip\"}"), " ab ", "2"},
        {ONE_PART(normalizer, "{\"type\": \"NFKC\"}"), "\xEF\xBD\x81", "0"}, /* fullwidth a */
        {ONE_PART(normalizer, "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"a\"}]}"),
         "b<x>b", "252"},
        {ONE_PART(pretokenizer, "{\"type\": \"Metaspace\", \"replacement\": \"a\", \"prepend_scheme\": \"first\","
                                " \"split\": false}"),
         "b<x>b", "251"},
        {ONE_PART(pretokenizer, "{\"type\": \"Metaspace\", \"replacement\": \"b\", \"add_prefix_space\": false}"),
         "a a", "010"},
        {ONE_PART(processor, "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"p\"}},"
                             "{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"q\"}}],"
                             "\"special_tokens\": {\"p\": {\"ids\": [5]}, \"q\": {\"ids\": [6, 7]}}}"),
         "ab", "5267"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_small(f, cases[i].parts, cases[i].text, cases[i].ids);
}

/* What is not supported is refused by name. */
static void test_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct parts parts;
        const char *name;
    } cases[] = {
        {ONE_PART(normalizer, "{\"type\": \"Lowercase\"}"), "Lowercase"},
        {ONE_PART(pretokenizer, "{\"type\": \"BertPreTokenizer\"}"), "BertPreTokenizer"},
        {ONE_PART(processor, "{\"type\": \"RobertaProcessing\"}"), "RobertaProcessing"},
        {ONE_PART(decoder, "{\"type\": \"WordPiece\"}"), "WordPiece"},
        {ONE_PART(decoder, "null"), "decoder"},
        {ONE_PART(model, ", \"type\": \"Unigram\""), "Unigram"},
        {ONE_PART(model, ", \"dropout\": 0.1"), "dropout"},
        {ONE_PART(model, ", \"end_of_word_suffix\": \"</w>\""), "end_of_word_suffix"},
        {ONE_PART(pretokenizer, "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"\\\\h\"}}"),
         "\\h"},
        {ONE_PART(pretokenizer, "{\"type\": \"Split\", \"behavior\": \"Sideways\", \"pattern\": {\"Regex\": \"a\"}}"),
         "Sideways"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qnti_tokenizer *t;
        assert_int_equal(parse_small(f, cases[i].parts, &t), QNT_UNSUPPORTED);
        assert_non_null(strstr(qnt_context_message(f->ctx), cases[i].name));
        assert_null(t);
    }
}

/* A hostile expression ends with an error, not after years. */
static void test_match_limit(void **state)
{
    struct fixture *f = *state;
    struct parts p = ONE_PART(pretokenizer, "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\":"
                                            " {\"Regex\": \"(a+a+)+[bc]\"}}");
    char text[64];
    qnti_tokenizer *t;
    int32_t *ids;
    size_t count;
    memset(text, 'a', sizeof text);
    must(f->ctx, parse_small(f, p, &t));
    assert_int_equal(qnti_tokenizer_encode(t, text, sizeof text, false, true, &ids, &count), QNT_BAD_DATA);
    assert_null(ids);
    qnti_tokenizer_close(t);
}

static void test_invalid_utf8(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *bytes, *once, *each;
    } cases[] = {
        {"a\xFF" "b", "a\uFFFD" "b", "a\uFFFD" "b"},
        {"\xE2\x82", "\uFFFD", "\uFFFD\uFFFD"},
        {"\xE2\x28\xA1", "\uFFFD(\uFFFD", "\uFFFD(\uFFFD"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD", "\uFFFD\uFFFD\uFFFD"},
        {"\xF0\x9F\x98" "x", "\uFFFDx", "\uFFFD\uFFFD\uFFFDx"},
        {"\xC0\x80\xF5", "\uFFFD\uFFFD\uFFFD", "\uFFFD\uFFFD\uFFFD"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int each = 0; each < 2; each++) {
            struct qnti_buffer out = {0};
            must(f->ctx, qnti_utf8_clean(f->ctx, cases[i].bytes, strlen(cases[i].bytes), each, &out));
            assert_string_equal(out.data, each ? cases[i].each : cases[i].once);
            qnti_buffer_free(f->ctx, &out);
        }
    }
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Any bytes can be encoded, and valid text comes back from a byte-level tokenizer. */
static void test_random_bytes(void **state)
{
    static const char *const files[] = {"bytelevel_bpe.json", "spm_bpe.json", "spm_bpe_metaspace.json", "spm_bpe.model"};
    struct fixture *f = *state;
    uint32_t seed = 1;
    for (size_t k = 0; k < 4; k++) {
        qnti_tokenizer *t = open_golden(f, files[k]);
        for (int round = 0; round < 200; round++) {
            char bytes[64], *back;
            size_t n = next_random(&seed) % sizeof bytes, count, back_bytes;
            struct qnti_buffer clean = {0};
            int32_t *ids;
            for (size_t i = 0; i < n; i++)
                bytes[i] = (char)(round % 2 ? next_random(&seed) % 128 : next_random(&seed));
            must(f->ctx, qnti_tokenizer_encode(t, bytes, n, true, round % 3 == 0, &ids, &count));
            must(f->ctx, qnti_tokenizer_decode(t, ids, count, true, &back, &back_bytes));
            must(f->ctx, qnti_utf8_clean(f->ctx, bytes, n, false, &clean));
            if (k == 0) {
                assert_int_equal(back_bytes, clean.bytes);
                assert_memory_equal(back, clean.data, back_bytes);
            }
            qnti_free(f->ctx, ids);
            qnti_free(f->ctx, back);
            qnti_buffer_free(f->ctx, &clean);
        }
        qnti_tokenizer_close(t);
    }
}

/* A tokenizer that opens must also work. */
static void use_and_close(struct fixture *f, qnti_tokenizer *t)
{
    int32_t *ids;
    size_t count, bytes;
    char *text;
    if (!t)
        return;
    if (qnti_tokenizer_encode(t, "ab \xC3\xA9 1", 7, true, true, &ids, &count) == QNT_OK) {
        must(f->ctx, qnti_tokenizer_decode(t, ids, count, false, &text, &bytes));
        qnti_free(f->ctx, text);
        qnti_free(f->ctx, ids);
    }
    qnti_tokenizer_close(t);
}

static char *read_golden(struct fixture *f, const char *path, size_t *bytes)
{
    char *data;
    must(f->ctx, qnti_read_file(f->ctx, path, 1 << 20, &data, bytes));
    return data;
}

/* Every beginning of a tokenizer.model; only those with all specifications may open. */
static void test_truncated_model(void **state)
{
    struct fixture *f = *state;
    size_t bytes, opened = 0;
    char *data = read_golden(f, GOLDEN "spm_bpe.model", &bytes);
    for (size_t n = 0; n < bytes; n++) {
        char *exact = malloc(n + !n); /* so that a sanitizer sees the end */
        qnti_tokenizer *t;
        memcpy(exact, data, n);
        opened += qnti_tokenizer_parse_model(f->ctx, "cut", exact, n, 0, &t) == QNT_OK;
        use_and_close(f, t);
        free(exact);
    }
    assert_int_equal(opened, 0);
    qnti_free(f->ctx, data);
}

static void test_damaged_files(void **state)
{
    struct fixture *f = *state;
    static const char *const paths[] = {GOLDEN "spm_bpe.model", GOLDEN "spm_bpe.json", GOLDEN "bytelevel_bpe.json"};
    uint32_t seed = 7;
    for (size_t k = 0; k < 3; k++) {
        size_t bytes;
        char *data = read_golden(f, paths[k], &bytes);
        for (int round = 0; round < 200; round++) {
            size_t at = k ? next_random(&seed) % bytes : next_random(&seed) % bytes;
            char before = data[at];
            qnti_tokenizer *t;
            data[at] = (char)(before ^ (1 << next_random(&seed) % 8));
            if (k == 0)
                qnti_tokenizer_parse_model(f->ctx, "flipped", data, bytes, 0, &t);
            else
                qnti_tokenizer_parse_json(f->ctx, "flipped", data, bytes, 0, &t);
            use_and_close(f, t);
            data[at] = before;
        }
        qnti_free(f->ctx, data);
    }
}

/* Each allocation in turn fails. */
struct scarce {
    size_t left;
};

static void *take(void *user, size_t bytes, size_t alignment)
{
    struct scarce *s = user;
    void *memory = NULL;
    if (s->left == 0)
        return NULL;
    s->left--;
    return posix_memalign(&memory, alignment, bytes) ? NULL : memory;
}

static void give(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static qnt_status whole_use(qnt_context *ctx, const char *path)
{
    qnti_tokenizer *t = NULL, *again = NULL;
    int32_t *ids = NULL;
    size_t count, bytes;
    char *text = NULL;
    qnt_status status;
    QNT_CHECK(qnti_tokenizer_open_file(ctx, path, &t));
    QNT_CHECK(qnti_tokenizer_from_vocabulary(ctx, qnti_tokenizer_vocabulary(t), &again));
    QNT_CHECK(qnti_tokenizer_encode(again, "Hello <tool> world", 18, true, true, &ids, &count));
    QNT_CHECK(qnti_tokenizer_decode(t, ids, count, false, &text, &bytes));
cleanup:
    qnti_free(ctx, ids);
    qnti_free(ctx, text);
    qnti_tokenizer_close(t);
    qnti_tokenizer_close(again);
    return status;
}

static void test_no_memory(void **state)
{
    static const char *const paths[] = {GOLDEN "bytelevel_bpe.json", GOLDEN "spm_bpe.model"};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct scarce s = {SIZE_MAX};
        qnt_context_options options = {.threads = 1, .allocator = {take, give, &s}};
        qnt_context *ctx;
        size_t needed, own;
        assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
        own = qnt_context_bytes(ctx, NULL);
        s.left = SIZE_MAX;
        must(ctx, whole_use(ctx, paths[k]));
        needed = SIZE_MAX - s.left;
        for (size_t n = 0; n < needed; n += n < 300 ? 1 : 97) {
            s.left = n;
            assert_int_equal(whole_use(ctx, paths[k]), QNT_NO_MEMORY);
            assert_int_equal(qnt_context_bytes(ctx, NULL), own);
        }
        qnt_context_destroy(ctx);
    }
}

static const char *shared(void)
{
    const char *folder = getenv("QUANT_SHARED");
    if (!folder) {
        print_message("QUANT_SHARED is not set: models and texts are not at hand, skipped\n");
        skip();
    }
    return folder;
}

static void encode_file(struct fixture *f, const qnti_tokenizer *t, const char *folder, const char *name, int32_t **ids,
                        size_t *count)
{
    char path[1024], *text;
    size_t bytes;
    snprintf(path, sizeof path, "%s/models/text/%s", folder, name);
    must(f->ctx, qnti_read_file(f->ctx, path, 1 << 24, &text, &bytes));
    must(f->ctx, qnti_tokenizer_encode(t, text, bytes, false, true, ids, count));
    qnti_free(f->ctx, text);
}

static void test_whole_files(void **state)
{
    struct fixture *f = *state;
    const char *folder = shared(), *name;
    json_t *files = json_object_get(f->cases, "whole_files"), *of;
    json_object_foreach(files, name, of) {
        char file[64];
        const char *space = strchr(name, ' ');
        qnti_tokenizer *t;
        int32_t *ids;
        size_t count;
        snprintf(file, sizeof file, "%.*s.json", (int)(space - name), name);
        t = open_golden(f, file);
        encode_file(f, t, folder, space + 1, &ids, &count);
        assert_int_equal(count, json_integer_value(json_object_get(of, "count")));
        check_ids(ids, 16, json_object_get(of, "first16"), name);
        check_ids(ids + count - 16, 16, json_object_get(of, "last16"), name);
        qnti_free(f->ctx, ids);
        qnti_tokenizer_close(t);
    }
}

static void check_equal_ids(struct fixture *f, const qnti_tokenizer *a, const qnti_tokenizer *b, const char *folder,
                            const char *text)
{
    int32_t *left, *right;
    size_t left_count, right_count;
    encode_file(f, a, folder, text, &left, &left_count);
    encode_file(f, b, folder, text, &right, &right_count);
    assert_int_equal(left_count, right_count);
    assert_memory_equal(left, right, left_count * sizeof *left);
    qnti_free(f->ctx, left);
    qnti_free(f->ctx, right);
}

/* tokenizer.json, tokenizer.model and the vocabulary of a folder encode alike. */
static void test_folders(void **state)
{
    static const char *const models[] = {"stories260K", "babyllama-105", "tinystories-k256"};
    struct fixture *f = *state;
    const char *folder = shared();
    for (size_t k = 0; k < 3; k++) {
        char path[1024], file[1100];
        qnti_tokenizer *all, *model, *gguf;
        snprintf(path, sizeof path, "%s/models/%s", folder, models[k]);
        snprintf(file, sizeof file, "%s/tokenizer.model", path);
        must(f->ctx, qnti_tokenizer_open(f->ctx, path, &all));
        must(f->ctx, qnti_tokenizer_open_file(f->ctx, file, &model));
        must(f->ctx, qnti_tokenizer_from_vocabulary(f->ctx, qnti_tokenizer_vocabulary(all), &gguf));
        assert_int_equal(qnti_tokenizer_vocabulary(all)->eos, 2);
        assert_true(qnti_tokenizer_vocabulary(all)->add_bos);
        for (size_t id = 3; id < qnti_tokenizer_vocabulary(all)->count; id++)
            assert_true(qnti_tokenizer_vocabulary(all)->scores[id] == qnti_tokenizer_vocabulary(model)->scores[id]);
        check_equal_ids(f, all, model, folder, "stories-calib.txt");
        check_equal_ids(f, all, gguf, folder, "code-eval.txt");
        qnti_tokenizer_close(all);
        qnti_tokenizer_close(model);
        qnti_tokenizer_close(gguf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),           cmocka_unit_test(test_decode),
        cmocka_unit_test(test_pretokenize),     cmocka_unit_test(test_from_vocabulary),
        cmocka_unit_test(test_vocabulary),      cmocka_unit_test(test_parts),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_match_limit),
        cmocka_unit_test(test_invalid_utf8),    cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_truncated_model), cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_no_memory),       cmocka_unit_test(test_whole_files),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
