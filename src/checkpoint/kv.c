/*
 * kv.c - how an engine keeps a model's keys and values: "SCHEME:key=value,...", the parameters of method kv_cache.
 */
#include <string.h>
#include "base/buffer.h"
#include "checkpoint/source.h"
#include "container/json.h"
#include "method/recipe.h"

qnt_status qnti_kv_parse(qnt_context *ctx, const char *text, size_t head_dim, struct qnti_kv *kv)
{
    struct qnti_buffer recipe_text = {0};
    qnt_recipe *recipe = NULL;
    const char *settings = strchr(text, ':');
    size_t scheme = settings ? (size_t)(settings - text) : strlen(text);
    qnt_status status;
    QNT_CHECK(qnti_buffer_print(ctx, &recipe_text, "kv_cache:scheme=%.*s", (int)qnti_min(scheme, 100), text));
    if (settings && settings[1])
        QNT_CHECK(qnti_buffer_print(ctx, &recipe_text, ",%s", settings + 1));
    QNT_CHECK(qnt_recipe_parse(ctx, recipe_text.data, &recipe));
    status = qnti_recipe_kv(recipe, head_dim, kv);
cleanup:
    qnt_recipe_destroy(recipe);
    qnti_buffer_free(ctx, &recipe_text);
    return status;
}

qnt_status qnti_kv_read(struct qnti_checkpoint *c, const char *where, const json_t *json)
{
    const json_t *config = json_object_get(json, "quantization_config"), *kv = json_object_get(config, "kv_cache");
    const char *method = json_string_value(json_object_get(config, "quant_method"));
    if (!kv || json_is_null(kv) || !method || strcmp(method, "libquant"))
        return QNT_OK;
    if (!json_is_string(kv))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: kv_cache of quantization_config is no string", where);
    QNT_TRY(QNTI_NEW(c->ctx, 1, &c->kv));
    QNT_TRY(qnti_copy_string(c->ctx, json_string_value(kv), &c->kv_text));
    if (qnti_kv_parse(c->ctx, json_string_value(kv), c->config.head_dim, c->kv) == QNT_OK)
        return QNT_OK;
    return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: kv_cache \"%.200s\" means nothing", where, json_string_value(kv));
}
