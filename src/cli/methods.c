/*
 * methods.c - `quant methods [NAME]` and `quant formats`: what the library's tables hold.
 */
#include <string.h>
#include <quant/model.h>
#include "cli/cli.h"
#include "cli/table.h"

static const struct cli_group general[] = {CLI_GENERAL, {0}};

static const char *stages_of(const qnt_method_info *m, char text[64])
{
    snprintf(text, 64, "%s%s%s%s", m->transform ? ",transform" : "", m->activations ? ",activations" : "",
             m->weights ? ",weights" : "", m->correct ? ",correct" : "");
    return *text ? text + 1 : text;
}

static json_t *parameters_json(size_t method)
{
    json_t *list = json_array();
    qnt_parameter_info p;
    for (size_t i = 0; qnt_method_parameter(method, i, &p); i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:s,s:s}", "name", p.name, "type", p.type, "default",
                                              p.default_value, "range", p.range, "help", p.help));
    return list;
}

static json_t *method_json(size_t index, const qnt_method_info *m)
{
    char stages[64];
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:o}", "name", m->name, "title", m->title, "reference", m->reference,
                     "scope", m->scope, "stages", stages_of(m, stages), "needs_calibration", m->needs_calibration,
                     "parameters", parameters_json(index));
}

static int list_methods(bool json)
{
    struct cli_table *table;
    qnt_method_info m;
    char stages[64];
    if (json) {
        json_t *list = json_array();
        for (size_t i = 0; qnt_method_get(i, &m); i++)
            json_array_append_new(list, method_json(i, &m));
        return cli_json_print(list);
    }
    table = cli_table_create("method|scope|stages|calibration|what it does");
    for (size_t i = 0; qnt_method_get(i, &m); i++) {
        cli_table_cell(table, "%s", m.name);
        cli_table_cell(table, "%s", m.scope);
        cli_table_cell(table, "%s", stages_of(&m, stages));
        cli_table_cell(table, "%s", m.needs_calibration ? "needed" : "-");
        cli_table_cell(table, "%s", m.title);
    }
    cli_table_print(table);
    return CLI_OK;
}

static int show_method(size_t index, const qnt_method_info *m, bool json)
{
    struct cli_table *table;
    qnt_parameter_info p;
    char stages[64];
    if (json)
        return cli_json_print(method_json(index, m));
    printf("%s: %s\n%s\nscope %s, stages %s, %s\n\n", m->name, m->title, m->reference, m->scope, stages_of(m, stages),
           m->needs_calibration ? "needs calibration" : "needs no calibration");
    table = cli_table_create("parameter|type|default|range|meaning");
    for (size_t i = 0; qnt_method_parameter(index, i, &p); i++) {
        cli_table_cell(table, "%s", p.name);
        cli_table_cell(table, "%s", p.type);
        cli_table_cell(table, "%s", p.default_value);
        cli_table_cell(table, "%s", p.range);
        cli_table_cell(table, "%s", p.help);
    }
    cli_table_print(table);
    return CLI_OK;
}

static int run_methods(struct cli *cli, void *values)
{
    const struct cli_common *common = values;
    const char *name = cli->arguments.count ? cli->arguments.items[0] : NULL;
    struct cli_nearest nearest = {.wanted = name, .length = name ? strlen(name) : 0};
    qnt_method_info m;
    if (!name)
        return list_methods(common->json);
    for (size_t i = 0; qnt_method_get(i, &m); i++) {
        if (strcmp(m.name, name) == 0)
            return show_method(i, &m, common->json);
        cli_nearest_offer(&nearest, m.name);
    }
    if (nearest.best)
        cli_error("unknown method \"%s\"; did you mean \"%s\"?", name, nearest.best);
    else
        cli_error("unknown method \"%s\"; quant methods lists them", name);
    return CLI_USAGE;
}

static json_t *format_json(const qnt_format_info *f)
{
    return json_pack("{s:s,s:s,s:b,s:o,s:s,s:s}", "name", f->name, "title", f->title, "folder", f->folder,
                     "bits_per_weight", f->bits_per_weight > 0 ? json_real(f->bits_per_weight) : json_null(),
                     "preferred", f->preferred, "recipe", f->recipe);
}

static int run_formats(struct cli *cli, void *values)
{
    const struct cli_common *common = values;
    struct cli_table *table;
    qnt_format_info f;
    (void)cli;
    if (common->json) {
        json_t *list = json_array();
        for (size_t i = 0; qnt_format_get(i, &f); i++)
            json_array_append_new(list, format_json(&f));
        return cli_json_print(list);
    }
    table = cli_table_create("format|writes|bits>|what it holds|recipe|parameters preferred");
    for (size_t i = 0; qnt_format_get(i, &f); i++) {
        cli_table_cell(table, "%s", f.name);
        cli_table_cell(table, "%s", f.folder ? "folder" : "file");
        if (f.bits_per_weight > 0)
            cli_table_cell(table, "%.4g", f.bits_per_weight);
        else
            cli_table_cell(table, "-");
        cli_table_cell(table, "%s", f.title);
        cli_table_cell(table, "%s", f.recipe);
        cli_table_cell(table, "%s", f.preferred);
    }
    cli_table_print(table);
    return CLI_OK;
}

const struct cli_command cli_command_methods = {
    .name = "methods",
    .arguments = "[NAME]",
    .title = "methods, or one method's parameters with defaults, ranges and reference",
    .most = 1,
    .bytes = sizeof(struct cli_common),
    .groups = general,
    .run = run_methods,
};

const struct cli_command cli_command_formats = {
    .name = "formats",
    .arguments = "",
    .title = "formats that models can be written in",
    .bytes = sizeof(struct cli_common),
    .groups = general,
    .run = run_formats,
};
