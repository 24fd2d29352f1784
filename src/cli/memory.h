/*
 * memory.h - options of `quant inspect --memory`, and what it prints.
 */
#ifndef CLI_MEMORY_H
#define CLI_MEMORY_H

#include <quant/model.h>
#include "cli/cli.h"

struct cli_memory {
    bool wanted, training;
    struct cli_int context, batch, tokens, device, lora_rank;
    const char *method, *kv;
};

enum { CLI_MEMORY_ROWS = 9 };
extern const struct cli_option cli_memory_rows[];
int cli_memory_show(struct cli *cli, const struct cli_memory *values, const char *path);

#endif
