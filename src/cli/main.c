/*
 * main.c - the table of commands, and what all of them have: options, context, signals, exit status.
 *
 * A new command is one file and one line here.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include "cli/cli.h"

#define COMMANDS(X) \
    X(quantize)     \
    X(plan)         \
    X(eval)         \
    X(compare)      \
    X(calib)        \
    X(merge)        \
    X(inspect)      \
    X(layer)        \
    X(methods)      \
    X(formats)

#define DECLARE(name) extern const struct cli_command cli_command_##name;
COMMANDS(DECLARE)
#undef DECLARE

const struct cli_command *const cli_commands[] = {
#define LIST(name) &cli_command_##name,
    COMMANDS(LIST)
#undef LIST
    NULL};

/* Set by the handler, read by the library's threads. */
static atomic_bool stop_asked;

static void ask_to_stop(int number)
{
    (void)number;
    stop_asked = true;
}

static bool must_stop(void *user)
{
    (void)user;
    return stop_asked;
}

/*
 * Matrices that a block of the model has needed go back to the system at once, so that the process holds what the plan
 * says: glibc would keep those of up to 32 MiB once the first one was freed. What a sequence needs is smaller and used
 * again: fresh pages for each would take a twentieth of a small model's time.
 */
static void give_memory_back(void)
{
#ifdef __GLIBC__
    enum { LEAST_OF_ITS_OWN = 4 << 20, MOST_KEPT = 16 << 20 };
    (void)mallopt(M_MMAP_THRESHOLD, LEAST_OF_ITS_OWN);
    (void)mallopt(M_TRIM_THRESHOLD, MOST_KEPT);
#endif
}

/* The first signal asks, a second one ends the process as it would have. */
static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static void show_warning(void *user, qnt_log_level level, const char *message)
{
    struct cli *cli = user;
    if (level < QNT_LOG_WARNING)
        return;
    cli_progress_end(&cli->progress);
    cli_warning("%s", message);
}

static const struct cli_command *find_command(const char *name)
{
    struct cli_nearest nearest = {.wanted = name, .length = strlen(name)};
    for (size_t i = 0; cli_commands[i]; i++) {
        if (strcmp(cli_commands[i]->name, name) == 0)
            return cli_commands[i];
        cli_nearest_offer(&nearest, cli_commands[i]->name);
    }
    if (nearest.best)
        cli_error("unknown command \"%s\"; did you mean \"%s\"?", name, nearest.best);
    else
        cli_error("unknown command \"%s\"; quant --help lists them", name);
    return NULL;
}

/* Whether arguments and required options are there. */
static bool complete(const struct cli_command *command, const struct cli *cli, const void *values)
{
    const struct cli_option *missing = cli_options_missing(command->groups, values);
    size_t n = cli->arguments.count;
    if (n < command->least)
        cli_error("an argument is missing; usage: quant %s %s", command->name, command->arguments);
    else if (n > command->most)
        cli_error("\"%s\" is one argument too many; usage: quant %s %s", cli->arguments.items[command->most],
                  command->name, command->arguments);
    else if (missing)
        cli_error("--%s %s is missing; usage: quant %s %s", missing->name, missing->metavar, command->name,
                  command->arguments);
    else
        return true;
    return false;
}

/* Runs the command between a context made and destroyed. */
static int run_in_context(const struct cli_command *command, struct cli *cli, void *values)
{
    qnt_context_options options = {.threads = (int)cli->common->threads.value,
                                   .log = show_warning,
                                   .log_user = cli,
                                   .cancel = must_stop,
                                   .blas_one_thread = true};
    qnt_status status;
    int code;
    give_memory_back();
    status = qnt_context_create(&options, &cli->ctx);
    if (status != QNT_OK) {
        cli_error("no context: %s", qnt_status_text(status));
        return CLI_FAILED;
    }
    catch_signals();
    cli_progress_start(&cli->progress, cli->common->progress);
    code = command->run(cli, values);
    cli_progress_end(&cli->progress);
    qnt_context_destroy(cli->ctx);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    cli_error("standard output: the result could not be written");
    return code ? code : CLI_FAILED;
}

static int run_command(const struct cli_command *command, int argc, char **argv)
{
    void *values = cli_new(1, command->bytes);
    struct cli cli = {.common = values};
    int code = CLI_OK;
    if (!cli_options_parse(command->groups, argc, argv, values, &cli.arguments))
        code = CLI_USAGE;
    else if (cli.common->help)
        cli_help_command(command, stdout);
    else if (!complete(command, &cli, values))
        code = CLI_USAGE;
    else
        code = run_in_context(command, &cli, values);
    cli_options_free(command->groups, values);
    cli_list_free(&cli.arguments);
    free(values);
    return code;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    const struct cli_command *command;
    if (!name) {
        cli_help_tool(stderr);
        return CLI_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        cli_help_tool(stdout);
        return CLI_OK;
    }
    if (strcmp(name, "--version") == 0) {
        printf("quant %s\n", qnt_version());
        return CLI_OK;
    }
    command = find_command(name);
    return command ? run_command(command, argc - 1, argv + 1) : CLI_USAGE;
}
