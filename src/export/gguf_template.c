/*
 * gguf_template.c - the chat templates of a model, carried into a GGUF file byte for byte.
 *
 * A folder has its template in chat_template.jinja, else in the member
 * chat_template of tokenizer_config.json, else of chat_template.json; the
 * member is a string or a list of templates with names, of which "default" is
 * the one without a name in GGUF. Of a GGUF source the keys are copied. Files
 * of a folder additional_chat_templates are not looked for.
 */
#include "export/gguf.h"

#include <stdio.h>
#include <string.h>
#include "container/json.h"
#include "file/output.h"

static const char template_key[] = "tokenizer.chat_template";
static const char jinja_name[] = "chat_template.jinja";
static const char *const json_names[] = {"tokenizer_config.json", "chat_template.json"};
enum { MAX_TEMPLATE_BYTES = 1 << 24 };

/* NULL where the folder has no such file. */
static qnt_status find_file(const struct qnti_gguf_file *file, const char *name, char **path)
{
    QNT_TRY(qnti_path_join(file->e->ctx, file->e->source->path, name, path));
    if (qnti_path_exists(*path))
        return QNT_OK;
    qnti_free(file->e->ctx, *path);
    *path = NULL;
    return QNT_OK;
}

/* The member chat_template of a JSON file of the folder; NULL if there is none. *json is to be released. */
static qnt_status load_member(const struct qnti_gguf_file *file, const char *name, json_t **json,
                              const json_t **member)
{
    char *path;
    qnt_status status;
    *json = NULL;
    *member = NULL;
    QNT_TRY(find_file(file, name, &path));
    if (!path)
        return QNT_OK;
    status = qnti_json_load(file->e->ctx, path, json);
    qnti_free(file->e->ctx, path);
    *member = json_object_get(*json, "chat_template");
    return status;
}

static qnt_status warn_if_differs(const struct qnti_gguf_file *file, const char *text, size_t bytes)
{
    const json_t *member;
    json_t *json;
    QNT_TRY(load_member(file, json_names[0], &json, &member));
    if (json_is_string(member) && !file->counting &&
        (json_string_length(member) != bytes || memcmp(json_string_value(member), text, bytes) != 0))
        qnti_log(file->e->ctx, QNT_LOG_WARNING, "%s: the chat template of %s differs from %s, which is taken",
                 file->e->source->path, json_names[0], jinja_name);
    json_decref(json);
    return QNT_OK;
}

static qnt_status put_jinja(struct qnti_gguf_file *file, bool *found)
{
    char *path, *text = NULL;
    size_t bytes;
    qnt_status status;
    QNT_TRY(find_file(file, jinja_name, &path));
    *found = path != NULL;
    if (!path)
        return QNT_OK;
    QNT_CHECK(qnti_read_file(file->e->ctx, path, MAX_TEMPLATE_BYTES, &text, &bytes));
    QNT_CHECK(warn_if_differs(file, text, bytes));
    status = qnti_gguf_put_string(&file->writer, template_key, text, bytes);
cleanup:
    qnti_free(file->e->ctx, text);
    qnti_free(file->e->ctx, path);
    return status;
}

static qnt_status put_named(struct qnti_gguf_file *file, const char *where, const json_t *entry)
{
    const json_t *text = json_object_get(entry, "template");
    const char *name = json_string_value(json_object_get(entry, "name"));
    char key[128];
    if (!name || !*name || strlen(name) > sizeof key / 2 || !json_is_string(text))
        return qnti_fail(file->e->ctx, QNT_BAD_DATA, "%s: chat_template: expected members name and template", where);
    snprintf(key, sizeof key, "%s%s%s", template_key, strcmp(name, "default") ? "." : "",
             strcmp(name, "default") ? name : "");
    return qnti_gguf_put_string(&file->writer, key, json_string_value(text), json_string_length(text));
}

static qnt_status put_member(struct qnti_gguf_file *file, const char *where, const json_t *member)
{
    if (json_is_string(member))
        return qnti_gguf_put_string(&file->writer, template_key, json_string_value(member),
                                    json_string_length(member));
    for (size_t i = 0; i < json_array_size(member); i++)
        QNT_TRY(put_named(file, where, json_array_get(member, i)));
    return QNT_OK;
}

static qnt_status put_json(struct qnti_gguf_file *file, const char *name, bool *found)
{
    const json_t *member;
    json_t *json;
    qnt_status status;
    QNT_TRY(load_member(file, name, &json, &member));
    *found = json_is_string(member) || json_is_array(member);
    status = *found ? put_member(file, name, member) : QNT_OK;
    json_decref(json);
    return status;
}

static qnt_status put_folder(struct qnti_gguf_file *file)
{
    bool found;
    QNT_TRY(put_jinja(file, &found));
    for (size_t i = 0; i < sizeof json_names / sizeof *json_names && !found; i++)
        QNT_TRY(put_json(file, json_names[i], &found));
    return QNT_OK;
}

static qnt_status copy_keys(struct qnti_gguf_file *file, const struct qnti_gguf *source)
{
    for (size_t i = 0; i < source->value_count; i++) {
        const struct qnti_gguf_value *value = &source->values[i];
        const char *text = NULL;
        size_t bytes = 0;
        if (strncmp(value->key, template_key, strlen(template_key)) || value->array ||
            value->type != QNTI_GGUF_STRING)
            continue;
        QNT_TRY(qnti_gguf_string(source, value->key, &text, &bytes));
        QNT_TRY(qnti_gguf_put_string(&file->writer, value->key, text, bytes));
    }
    return QNT_OK;
}

qnt_status qnti_gguf_put_templates(struct qnti_gguf_file *file)
{
    struct qnti_gguf *source;
    qnt_status status;
    if (qnti_is_folder(file->e->source->path))
        return put_folder(file);
    QNT_TRY(qnti_gguf_open(file->e->ctx, file->e->source->path, qnti_ggml_type_size, &source));
    status = copy_keys(file, source);
    qnti_gguf_close(source);
    return status;
}
