/*
 * plan.c - parameters that layers of a block get together: from their shapes and what the user gave.
 */
#include "method/recipe.h"

#include <string.h>

enum { MOST_LAYERS = 16, MOST_NUMBER = 32 };

/* The layers of one method. */
struct planned {
    qnt_recipe *recipe[MOST_LAYERS];
    struct qnti_shape shape[MOST_LAYERS];
    void *params[MOST_LAYERS];
    size_t count;
};

/* What differs from the recipe's own parameters becomes part of it. */
static qnt_status take_changes(qnt_recipe *recipe, const struct qnti_method *m, const void *params)
{
    for (size_t i = 0; i < m->table.count; i++) {
        const struct qnti_param *row = &m->table.rows[i];
        char key[64], value[MOST_NUMBER];
        if (qnti_param_number(row, params) == qnti_param_number(row, qnti_recipe_weights(recipe)->params))
            continue;
        qnti_param_print(row, params, value, sizeof value);
        if ((size_t)(strlen(m->name) + strlen(row->name) + 2) > sizeof key)
            return qnti_fail(recipe->ctx, QNT_UNSUPPORTED, "%s.%s: too long a name", m->name, row->name);
        strcat(strcat(strcpy(key, m->name), "."), row->name);
        QNT_TRY(qnt_recipe_set(recipe, key, value));
    }
    return QNT_OK;
}

static qnt_status plan_method(qnt_context *ctx, const struct qnti_method *m, struct planned *p)
{
    qnt_status status;
    for (size_t i = 0; i < p->count; i++) {
        QNT_CHECK(qnti_alloc(ctx, 1, m->table.bytes, &p->params[i]));
        memcpy(p->params[i], qnti_recipe_weights(p->recipe[i])->params, m->table.bytes);
    }
    QNT_CHECK(m->plan(ctx, p->shape, p->params, p->count));
    for (size_t i = 0; i < p->count; i++)
        QNT_CHECK(take_changes(p->recipe[i], m, p->params[i]));
cleanup:
    for (size_t i = 0; i < p->count; i++)
        qnti_free(ctx, p->params[i]);
    return status;
}

qnt_status qnti_recipes_plan(qnt_context *ctx, qnt_recipe *const *recipes, const struct qnti_shape *shapes,
                             size_t count)
{
    for (size_t m = 0; qnti_methods[m]; m++) {
        struct planned p = {.count = 0};
        for (size_t i = 0; qnti_methods[m]->plan && i < count; i++)
            if (qnti_recipe_weights(recipes[i])->method == qnti_methods[m]) {
                if (p.count == MOST_LAYERS)
                    return qnti_fail(ctx, QNT_UNSUPPORTED, "more than %d layers to plan together", MOST_LAYERS);
                p.recipe[p.count] = recipes[i];
                p.shape[p.count++] = shapes[i];
            }
        if (p.count)
            QNT_TRY(plan_method(ctx, qnti_methods[m], &p));
    }
    return QNT_OK;
}
