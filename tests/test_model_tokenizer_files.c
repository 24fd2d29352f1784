/*
 * test_model_tokenizer_files.c - parts of tokenizer files one by one, damaged files, any bytes as text, no memory.
 */
#include "tokenizer_support.h"

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

#define SPLIT(behavior, more)                                                                                          \
    {                                                                                                                  \
        .pretokenizer =                                                                                                \
            "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"" behavior "\"" more "}"          \
    }
#define ONE_PART(member, json)                                                                                         \
    {                                                                                                                  \
        .member = json                                                                                                 \
    }

static void test_parts(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct parts parts;
        const char *text, *ids;
    } cases[] = {
        {{0}, "abab", "22"},
        {{0}, "a  <x>  b", "051"}, /* white space around <x> is swallowed */
        {{0}, "a<x>yb", "051"},    /* tokens of the raw text come before those of normalized text */
        {{0}, "a w b", "03731"},
        {{0}, "awb", "2"}, /* not alone; w vanishes, and what is left merges */
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
        {ONE_PART(normalizer,
                  "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"a\"}]}"),
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
        {ONE_PART(pretokenizer,
                  "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"\\\\h\"}}"),
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

/* Replacements that feed each other do not fill the memory. */
static void test_growth(void **state)
{
    struct fixture *f = *state;
    struct qnti_steps steps = {.count = 0};
    struct qnti_step replace = {.kind = QNTI_STEP_REPLACE, .pattern.literal = true};
    struct qnti_pieces pieces = {.at_start = true};
    char many[512];
    memset(many, 'a', sizeof many);
    for (size_t i = 0; i < QNTI_MAX_STEPS; i++)
        must(f->ctx, qnti_steps_add(f->ctx, "many", &steps, &replace, "a", 1, many, sizeof many));
    assert_int_equal(qnti_steps_add(f->ctx, "many", &steps, &replace, "a", 1, many, sizeof many), QNT_UNSUPPORTED);
    must(f->ctx, qnti_pieces_add(f->ctx, &pieces, "a", 1));
    assert_int_equal(qnti_steps_run(f->ctx, &steps, &pieces), QNT_BAD_DATA);
    qnti_pieces_free(f->ctx, &pieces);
    qnti_steps_free(f->ctx, &steps);
}

static void test_invalid_utf8(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *bytes, *once, *each;
    } cases[] = {
        {"a\xFF"
         "b",
         "a\uFFFD"
         "b",
         "a\uFFFD"
         "b"},
        {"\xE2\x82", "\uFFFD", "\uFFFD\uFFFD"},
        {"\xE2\x28\xA1", "\uFFFD(\uFFFD", "\uFFFD(\uFFFD"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD", "\uFFFD\uFFFD\uFFFD"},
        {"\xF0\x9F\x98"
         "x",
         "\uFFFDx", "\uFFFD\uFFFD\uFFFDx"},
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
    static const char *const files[] = {"bytelevel_bpe.json", "spm_bpe.json", "spm_bpe_metaspace.json",
                                        "spm_bpe.model"};
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
        unsigned char *exact = exact_copy(data, n);
        qnti_tokenizer *t;
        opened += qnti_tokenizer_parse_model(f->ctx, "cut", (char *)exact, n, 0, &t) == QNT_OK;
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
            size_t at = next_random(&seed) % bytes;
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

/* Allocations fail in turn; thousands of them are for one merge each, so behind the first only some are tried. */
static void test_no_memory(void **state)
{
    static const char *const paths[] = {GOLDEN "bytelevel_bpe.json", GOLDEN "spm_bpe.model"};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct failing failing = {-1};
        qnt_context *ctx = context_with(&failing);
        size_t held = qnt_context_bytes(ctx, NULL), failed = 0;
        qnt_status status = QNT_NO_MEMORY;
        for (long n = 0; status != QNT_OK; n += n < 300 ? 1 : 97) {
            failing.left = n;
            status = whole_use(ctx, paths[k]);
            if (status != QNT_OK)
                assert_int_equal(status, QNT_NO_MEMORY);
            failed += status != QNT_OK;
            assert_int_equal(qnt_context_bytes(ctx, NULL), held);
        }
        assert_true(failed > 100);
        qnt_context_destroy(ctx);
    }
}

static void put_text(const char *path, const char *text)
{
    put_file(path, text, strlen(text));
}

/* A tokenizer.model of 700 pieces in a folder that says more: tokens added later, padding, special tokens. */
static void test_folder(void **state)
{
    static const char *const names[] = {"tokenizer.model", "config.json", "tokenizer_config.json", "added_tokens.json"};
    struct fixture *f = *state;
    const struct qnti_vocabulary *v;
    void *folder;
    qnti_tokenizer *t;
    int32_t *ids;
    size_t bytes, count;
    char *data = read_golden(f, GOLDEN "spm_bpe.model", &bytes);
    assert_int_equal(enter_folder(&folder), 0);
    assert_int_equal(qnti_tokenizer_open(f->ctx, ".", &t), QNT_NOT_FOUND);
    put_file(names[0], data, bytes);
    put_text(names[1], "{\"vocab_size\": 703, \"pad_token_id\": [702, 5]}");
    put_text(names[2], "{\"model_max_length\": 1000000000000000019884624838656, \"add_bos_token\": false,"
                       "\"add_eos_token\": true, \"eos_token\": {\"content\": \"<|end|>\"},"
                       "\"added_tokens_decoder\": {\"700\": {\"content\": \"<|end|>\", \"special\": true}}}");
    put_text(names[3], "{\"<more>\": 701, \"<beyond>\": 703}");
    must(f->ctx, qnti_tokenizer_open(f->ctx, ".", &t));
    v = qnti_tokenizer_vocabulary(t);
    assert_int_equal(v->count, 703);
    assert_string_equal(v->pieces[701], "<more>");
    assert_null(v->pieces[702]);
    assert_int_equal(v->kinds[700], QNTI_TOKEN_CONTROL);
    assert_int_equal(v->kinds[701], QNTI_TOKEN_USER);
    assert_int_equal(v->kinds[702], QNTI_TOKEN_UNUSED);
    assert_true(v->scores[701] == -1000 && v->scores[702] == -10000);
    assert_int_equal(v->eos, 700);
    assert_int_equal(v->pad, 702);
    assert_true(!v->add_bos && v->add_eos);
    must(f->ctx, qnti_tokenizer_encode(t, "<more><|end|>", 13, true, true, &ids, &count));
    assert_int_equal(count, 3);
    assert_true(ids[0] == 701 && ids[1] == 700 && ids[2] == 700);
    qnti_free(f->ctx, ids);
    qnti_tokenizer_close(t);
    qnti_free(f->ctx, data);
    for (size_t i = 0; i < COUNT(names); i++)
        assert_int_equal(remove(names[i]), 0);
    assert_int_equal(leave_folder(&folder), 0);
}

static void put_json(const char *path, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    assert_non_null(text);
    put_text(path, text);
    free(text);
}

/* "left right" a line, with the line ends of another system. */
static void put_merges(const char *path, const json_t *merges)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("#version: 0.2\r\n", file);
    for (size_t i = 0; i < json_array_size(merges); i++)
        fprintf(file, "%s\r\n", json_string_value(json_array_get(merges, i)));
    assert_int_equal(fclose(file), 0);
}

/* The example's tokenizer.json taken apart into what GPT-2 and OPT have: the same ids. */
static void test_vocab_and_merges(void **state)
{
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    static const char text[] = "And God said, 1611:\n  Let <|eos|> there be \xC3\xA9 light's.  ";
    struct fixture *f = *state;
    void *folder;
    json_t *json;
    const json_t *model;
    qnti_tokenizer *whole, *pair;
    int32_t *ids[2];
    size_t count[2];
    must(f->ctx, qnti_json_load(f->ctx, SOURCE_DIR "/examples/data/model/tokenizer.json", &json));
    must(f->ctx, qnti_tokenizer_open(f->ctx, SOURCE_DIR "/examples/data/model", &whole));
    model = json_object_get(json, "model");
    assert_int_equal(enter_folder(&folder), 0);
    put_json(names[0], json_object_get(model, "vocab"));
    assert_int_equal(qnti_tokenizer_open(f->ctx, ".", &pair), QNT_NOT_FOUND);
    put_merges(names[1], json_object_get(model, "merges"));
    put_text(names[2], "{\"add_bos_token\": true, \"bos_token\": \"<|bos|>\", \"eos_token\": {\"content\": "
                       "\"<|eos|>\"}}");
    must(f->ctx, qnti_tokenizer_open(f->ctx, ".", &pair));
    must(f->ctx, qnti_tokenizer_encode(whole, text, sizeof text - 1, true, true, &ids[0], &count[0]));
    must(f->ctx, qnti_tokenizer_encode(pair, text, sizeof text - 1, true, true, &ids[1], &count[1]));
    assert_int_equal(count[0], count[1]);
    assert_memory_equal(ids[0], ids[1], count[0] * sizeof *ids[0]);
    assert_int_equal(qnti_tokenizer_vocabulary(pair)->bos, 0);
    assert_string_equal(qnti_tokenizer_vocabulary(pair)->pre, qnti_tokenizer_vocabulary(whole)->pre);
    put_text(names[1], "#version: 0.2\nno such pair\n");
    qnti_tokenizer_close(pair);
    assert_int_equal(qnti_tokenizer_open(f->ctx, ".", &pair), QNT_BAD_DATA);
    for (size_t i = 0; i < 2; i++)
        qnti_free(f->ctx, ids[i]);
    qnti_tokenizer_close(whole);
    json_decref(json);
    for (size_t i = 0; i < COUNT(names); i++)
        assert_int_equal(remove(names[i]), 0);
    assert_int_equal(leave_folder(&folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_match_limit),   cmocka_unit_test(test_growth),
        cmocka_unit_test(test_invalid_utf8),  cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_damaged_files), cmocka_unit_test(test_truncated_model),
        cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_folder),
        cmocka_unit_test(test_vocab_and_merges),
    };
    return cmocka_run_group_tests(tests, set_up_fixture, tear_down_fixture);
}
