/*
 * damage_support.h - good checkpoints of a few thousand weights, kept in memory file by file, and ways to damage one.
 *
 * Each kind of checkpoint lies in a folder of its name below the working one; a damage rewrites a file of it, repair()
 * puts it back. JSON of safetensors headers is edited as text: what the library's writer has put there is compact.
 */
#ifndef DAMAGE_SUPPORT_H
#define DAMAGE_SUPPORT_H

#include "export_support.h"

#include <dirent.h>
#include <ftw.h>
#include <quant/model.h>

enum { MOST_FILES = 5, PATH_BYTES = 128 };

struct file_image {
    char path[PATH_BYTES];
    unsigned char *bytes;
    size_t n;
};

/* A checkpoint. */
struct subject {
    const char *name, *path;         /* of its folder; what is opened: the folder, or a GGUF in it */
    const char *names[MOST_FILES];   /* files that can be damaged */
    const char *format;              /* that it is brought to */
    bool quantized;                  /* then by method none */
    struct file_image files[MOST_FILES];
};

/* --- files in memory --- */

static inline struct file_image read_image(const char *folder, const char *name)
{
    struct file_image image = {.n = 0};
    struct stat info;
    FILE *file;
    snprintf(image.path, sizeof image.path, "%s/%s", folder, name);
    file = fopen(image.path, "rb");
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    image.n = (size_t)info.st_size;
    image.bytes = malloc(image.n + 1);
    assert_non_null(image.bytes);
    assert_int_equal(fread(image.bytes, 1, image.n, file), image.n);
    assert_int_equal(fclose(file), 0);
    return image;
}

static inline void load_subject(struct subject *s)
{
    for (size_t i = 0; i < MOST_FILES && s->names[i]; i++)
        s->files[i] = read_image(s->name, s->names[i]);
}

static inline const struct file_image *image_of(const struct subject *s, const char *name)
{
    for (size_t i = 0; i < MOST_FILES && s->names[i]; i++)
        if (strcmp(s->names[i], name) == 0)
            return &s->files[i];
    fail_msg("%s has no %s", s->name, name);
    return NULL;
}

/* The file is there again as it was, whatever stands in its place. */
static inline void repair(const struct file_image *image)
{
    remove(image->path);
    put_file(image->path, image->bytes, image->n);
}

static inline int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

static inline void remove_tree(const char *path)
{
    assert_int_equal(nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static inline void unload_subject(struct subject *s)
{
    for (size_t i = 0; i < MOST_FILES && s->names[i]; i++)
        free(s->files[i].bytes);
    remove_tree(s->name);
}

/* --- ways to damage a file --- */

enum act {
    CUT,       /* to its first `at` bytes */
    SET,       /* `width` bytes, `at` behind `find` (NULL: the file's beginning), become `value` */
    TEXT,      /* the first `find` becomes `with`; a safetensors header keeps its length right */
    ENTRY,     /* in the header's entry of tensor `find`, key `key` gets the value `with` */
    DATA,      /* number `at` of tensor `find`, of `width` bytes, becomes `value` */
    GONE,      /* the file is not there */
    FOLDER     /* a folder has its name */
};

struct damage {
    const char *file;
    enum act act;
    const char *find, *key, *with;
    size_t at, width;
    uint64_t value;
    const char *says;          /* in the message; NULL: the file's name or that of the tensor `find` */
};

struct edit {
    unsigned char *bytes;
    size_t n;
};

static inline bool is_safetensors(const struct file_image *image)
{
    return strstr(image->path, ".safetensors") && !strstr(image->path, ".json");
}

static inline uint64_t little(const unsigned char *bytes, size_t width)
{
    uint64_t value = 0;
    while (width-- > 0)
        value = value << 8 | bytes[width];
    return value;
}

static inline void put_little(unsigned char *bytes, size_t width, uint64_t value)
{
    for (size_t i = 0; i < width; i++)
        bytes[i] = (unsigned char)(value >> 8 * i);
}

static inline size_t place_of(const struct file_image *image, const char *find)
{
    const unsigned char *at = memmem(image->bytes, image->n, find, strlen(find));
    if (!at)
        fail_msg("%s has no %s", image->path, find);
    return (size_t)(at - image->bytes);
}

/* The image with `old` bytes at `at` replaced by a text. */
static inline struct edit replaced(const struct file_image *image, size_t at, size_t old, const char *with)
{
    size_t n = strlen(with);
    struct edit edit = {malloc(image->n - old + n + 1), image->n - old + n};
    assert_non_null(edit.bytes);
    memcpy(edit.bytes, image->bytes, at);
    memcpy(edit.bytes + at, with, n);
    memcpy(edit.bytes + at + n, image->bytes + at + old, image->n - at - old);
    if (is_safetensors(image))
        put_little(edit.bytes, 8, little(image->bytes, 8) - old + n);
    return edit;
}

/* Where the value of a key of a tensor's entry begins, and its length. */
static inline size_t entry_value(const struct file_image *image, const char *tensor, const char *key, size_t *n)
{
    char quoted[PATH_BYTES];
    const char *text = (const char *)image->bytes, *at, *end;
    snprintf(quoted, sizeof quoted, "\"%s\":{", tensor);
    at = text + place_of(image, quoted);
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = strstr(at, quoted) + strlen(quoted);
    end = *at == '[' ? strchr(at, ']') + 1 : at + strcspn(at, ",}");
    *n = (size_t)(end - at);
    return (size_t)(at - text);
}

static inline size_t data_place(const struct file_image *image, const char *tensor)
{
    size_t n, at = entry_value(image, tensor, "data_offsets", &n);
    return 8 + (size_t)little(image->bytes, 8) + strtoul((const char *)image->bytes + at + 1, NULL, 10);
}

static inline struct edit edited(const struct file_image *image, const struct damage *d)
{
    struct edit edit = {NULL, 0};
    size_t n, at = d->at;
    switch (d->act) {
    case TEXT:
        return replaced(image, place_of(image, d->find), strlen(d->find), d->with);
    case ENTRY:
        at = entry_value(image, d->find, d->key, &n);
        return replaced(image, at, n, d->with);
    case DATA:
        at = data_place(image, d->find) + d->at * d->width;
        break;
    case SET:
        at += d->find ? place_of(image, d->find) + strlen(d->find) : 0;
        break;
    default:
        break;
    }
    edit = replaced(image, 0, 0, "");
    edit.n = d->act == CUT ? d->at : image->n;
    if (d->act != CUT) {
        assert_true(at + d->width <= image->n);
        put_little(edit.bytes + at, d->width, d->value);
    }
    return edit;
}

static inline void apply(const struct file_image *image, const struct damage *d)
{
    struct edit edit;
    assert_int_equal(unlink(image->path), 0);
    if (d->act == FOLDER)
        assert_int_equal(mkdir(image->path, 0777), 0);
    if (d->act == FOLDER || d->act == GONE)
        return;
    edit = edited(image, d);
    put_file(image->path, edit.bytes, edit.n);
    free(edit.bytes);
}

/* --- good checkpoints --- */

/* Ids for a vocabulary of 40, as .npy. */
static inline void put_ids(const char *path, size_t count)
{
    unsigned char bytes[128 + 4 * 512] = {0};
    char *header = (char *)bytes;
    assert_true(count <= 512);
    memset(header, ' ', 128);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    header[10 + snprintf(header + 10, 100, "{'descr': '<i4', 'fortran_order': False, 'shape': (%zu,), }", count)] = ' ';
    header[127] = '\n';
    for (size_t i = 0; i < count; i++)
        put_little(bytes + 128 + 4 * i, 4, (i * 7 + i / 5) % 40);
    put_file(path, bytes, 128 + 4 * count);
}

/* One run of `options`; its output must come. */
static inline void must_quantize(const char *path, const qnt_quantize_options *options)
{
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = NULL;
    qnt_plan *plan = NULL;
    if (qnt_model_open(ctx, path, &model) != QNT_OK || qnt_plan_create(model, options, &plan) != QNT_OK ||
        qnt_plan_run(plan) != QNT_OK)
        fail_msg("%s: %s", path, qnt_context_message(ctx));
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    qnt_context_destroy(ctx);
}

/* --- the kinds --- */

#define CONFIG "config.json"
#define MODEL "model.safetensors"
#define TOKENIZER "tokenizer.json"
#define INDEX "model.safetensors.index.json"
#define SHARD "model-00002-of-00002.safetensors"
#define GGUF "model.gguf"

static const struct shape tiny = {"LlamaForCausalLM", "F32", 64, 96, 1, 4, 2, 40, .bias = true};

static char deep[5000];            /* "[[[[..." */

enum { FOLDER_KIND, BF16_KIND, SHARDS_KIND, GGUF_KIND, BLOCKS_KIND, GPTQ_KIND, AWQ_KIND, NATIVE_KIND,
       BNB_KIND, INT8_KIND, KINDS };

static struct subject subjects[KINDS] = {
    [FOLDER_KIND] = {"folder", "folder", {CONFIG, MODEL, TOKENIZER}, .format = "gguf:q4_0"},
    [BF16_KIND] = {"bf16", "bf16", {MODEL}, .format = "gguf:q4_0"},
    [SHARDS_KIND] = {"shards", "shards", {INDEX, SHARD}, .format = "gguf:q4_0"},
    [GGUF_KIND] = {"gguf", "gguf/" GGUF, {GGUF}, .format = "gguf:q4_0"},
    [BLOCKS_KIND] = {"blocks", "blocks/" GGUF, {GGUF}, .format = "gguf:f32", .quantized = true},
    [GPTQ_KIND] = {"gptq", "gptq", {MODEL, CONFIG}, .format = "native", .quantized = true},
    [AWQ_KIND] = {"awq", "awq", {MODEL, CONFIG}, .format = "native", .quantized = true},
    [NATIVE_KIND] = {"native", "native", {MODEL, CONFIG}, .format = "native", .quantized = true},
    [BNB_KIND] = {"bnb", "bnb", {MODEL, CONFIG}, .format = "native", .quantized = true},
    [INT8_KIND] = {"int8", "int8", {MODEL, CONFIG}, .format = "native", .quantized = true},
};

/* --- the good ones --- */

/* The folder's tensors in two files and an index, `first` of them in the first. */
static inline void write_shards(size_t first)
{
    static char text[8192] = "{\"weight_map\":{";
    qnt_context *ctx = context_with(NULL);
    struct qnti_tensor_source *sources;
    struct qnti_safetensors *file;
    const struct file_image config = read_image("folder", CONFIG);
    assert_int_equal(mkdir("shards", 0777), 0);
    assert_int_equal(qnti_safetensors_open(ctx, "folder/" MODEL, &file), QNT_OK);
    sources = calloc(file->count, sizeof *sources);
    assert_non_null(sources);
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        sources[i] = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
        memcpy(sources[i].shape, t->shape, sizeof t->shape);
        sprintf(text + strlen(text), "\"%s\":\"%s\",", t->name, i < first ? "model-00001-of-00002.safetensors" : SHARD);
    }
    strcpy(text + strlen(text) - 1, "}}");
    put_file("shards/" INDEX, text, strlen(text));
    put_file("shards/" CONFIG, config.bytes, config.n);
    assert_int_equal(qnti_safetensors_write(ctx, "shards/model-00001-of-00002.safetensors", sources, first, NULL, 0),
                     QNT_OK);
    assert_int_equal(qnti_safetensors_write(ctx, "shards/" SHARD, sources + first, file->count - first, NULL, 0),
                     QNT_OK);
    free(config.bytes);
    free(sources);
    qnti_safetensors_close(file);
    qnt_context_destroy(ctx);
}

static inline void make_folder(const char *name, const char *dtype)
{
    static const char tokenizer[] =
        "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{"
        "\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
        "\"merges\":[\"a b\"]}}";
    struct shape shape = tiny;
    shape.dtype = dtype;
    make_model(&shape);
    put_file("model/" TOKENIZER, tokenizer, sizeof tokenizer - 1);
    assert_int_equal(rename("model", name), 0);
}

static inline int set_up(void **state)
{
    static const char *const setting[] = {"group_size=32"}, *const nested[] = {"double_quant=true"};
    const qnt_quantize_options made[] = {
        {.method = "none", .format = "gguf:f32", .output = "gguf/" GGUF},
        {.method = "rtn", .format = "gguf:q8_0", .output = "blocks/" GGUF},
        {.method = "rtn", .format = "gptq", .output = "gptq", .settings = setting, .setting_count = 1},
        {.method = "rtn", .format = "awq", .output = "awq", .settings = setting, .setting_count = 1},
        {.method = "rtn", .output = "native", .settings = setting, .setting_count = 1},
        {.method = "bnb4", .format = "bnb", .output = "bnb", .settings = nested, .setting_count = 1},
        {.method = "llm_int8", .format = "bnb", .output = "int8"},
    };
    if (enter_folder(state) != 0)
        return -1;
    memset(deep, '[', sizeof deep - 1);
    put_ids("ids.npy", 64);
    make_folder("folder", "F32");
    make_folder("bf16", "BF16");
    write_shards(4);
    assert_int_equal(mkdir("gguf", 0777) | mkdir("blocks", 0777) | mkdir("out", 0777), 0);
    for (size_t i = 0; i < COUNT(made); i++)
        must_quantize("folder", &made[i]);
    for (size_t i = 0; i < KINDS; i++)
        load_subject(&subjects[i]);
    return 0;
}

static inline int tear_down(void **state)
{
    for (size_t i = 0; i < KINDS; i++)
        unload_subject(&subjects[i]);
    remove_tree("out");
    unlink("ids.npy");
    return leave_folder(state);
}

/* --- one damage --- */

static size_t damaged, tried;        /* checkpoints; what was done with them */

static inline qnt_status quantize(qnt_context *ctx, const struct subject *s)
{
    bool calibrated = !s->quantized && damaged % 3 == 0;
    qnt_quantize_options options = {.method = s->quantized ? "none" : calibrated ? "gptq" : "rtn",
                                    .calibration = calibrated ? "ids.npy" : NULL, .samples = 2, .seqlen = 16,
                                    .format = s->format, .output = "out/o"};
    qnt_model *model = NULL;
    qnt_plan *plan = NULL;
    qnt_status status;
    QNT_CHECK(qnt_model_open(ctx, s->path, &model));
    QNT_CHECK(qnt_plan_create(model, &options, &plan));
    status = qnt_plan_run(plan);
cleanup:
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    return status;
}

static inline qnt_status evaluate(qnt_context *ctx, const struct subject *s)
{
    qnt_eval_options options = {.text = "ids.npy", .ctx = 16};
    qnt_eval_result result;
    qnt_model *model;
    qnt_status status;
    QNT_TRY(qnt_model_open(ctx, s->path, &model));
    status = qnt_evaluate(model, &options, &result);
    qnt_model_close(model);
    return status;
}

static inline bool empty(const char *path)
{
    DIR *folder = opendir(path);
    size_t entries = 0;
    assert_non_null(folder);
    while (readdir(folder))
        entries++;
    closedir(folder);
    return entries == 2;
}

static inline void describe(const struct subject *s, const struct damage *d, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s, %s: act %d, %.60s, %s, %.60s, at %zu, value %llx", s->name, d->file, d->act,
             d->find ? d->find : "", d->key ? d->key : "", d->with ? d->with : "", d->at, (unsigned long long)d->value);
}

/* The file's name, or what stands before the last dot of the tensor's. */
static inline bool names_culprit(const char *message, const struct damage *d)
{
    char name[PATH_BYTES] = "";
    if (d->says)
        return strstr(message, d->says) != NULL;
    if (d->find && strchr(d->find, '.'))
        snprintf(name, sizeof name, "%.*s", (int)(strrchr(d->find, '.') - d->find), d->find + (d->find[0] == '"'));
    return strstr(message, d->file) || (*name && strstr(message, name));
}

static inline void expect_error(const struct subject *s, const struct damage *d,
                         qnt_status (*work)(qnt_context *ctx, const struct subject *s), const char *name)
{
    qnt_context *ctx = context_with(NULL);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_status status = work(ctx, s);
    const char *message = qnt_context_message(ctx);
    char what[512];
    describe(s, d, what, sizeof what);
    if (status == QNT_OK || status == QNT_NO_MEMORY || status == QNT_CANCELLED)
        fail_msg("%s: %s gives status %d (%s)", what, name, status, message);
    if (!names_culprit(message, d))
        fail_msg("%s: %s says \"%s\"", what, name, message);
    if (!empty("out"))
        fail_msg("%s: %s left something", what, name);
    if (qnt_context_bytes(ctx, NULL) != held)
        fail_msg("%s: %s keeps %zu bytes", what, name, qnt_context_bytes(ctx, NULL) - held);
    qnt_context_destroy(ctx);
}

static inline void run_damage(const struct subject *s, const struct damage *d)
{
    const struct file_image *image = image_of(s, d->file);
    apply(image, d);
    expect_error(s, d, quantize, "quantize");
    expect_error(s, d, evaluate, "evaluate");
    repair(image);
    damaged++;
    tried += 2;
}

static inline void run_all(int kind, const struct damage *damages, size_t n)
{
    for (size_t i = 0; i < n; i++)
        run_damage(&subjects[kind], &damages[i]);
}

#endif
