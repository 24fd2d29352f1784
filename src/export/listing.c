/*
 * listing.c - the public list of formats.
 */
#include "export/export.h"

#include <string.h>
#include <quant/model.h>
#include <quant/pack.h>

bool qnt_format_get(size_t index, qnt_format_info *info)
{
    const struct qnti_format *f = &qnti_formats[index];
    qnt_layout_info layout;
    if (index >= qnti_format_count)
        return false;
    *info = (qnt_format_info){.name = f->name, .title = f->title, .folder = f->folder, .recipe = "gptq",
                              .preferred = ""};
    for (size_t i = 0; qnt_layout_get(i, &layout); i++)
        if (strcmp(layout.name, f->layout) == 0) {
            info->bits_per_weight = layout.bits_per_weight;
            if (qnti_layout_at(i)->recipe)
                info->recipe = qnti_layout_at(i)->recipe;
            if (qnti_layout_at(i)->preferred)
                info->preferred = qnti_layout_at(i)->preferred;
        }
    return true;
}
