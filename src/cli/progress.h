/*
 * progress.h - how far long work is: one line redrawn on a terminal, plain lines elsewhere, or JSON lines.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <quant/model.h>

struct cli_progress {
    enum { CLI_PROGRESS_NONE, CLI_PROGRESS_LINE, CLI_PROGRESS_PLAIN, CLI_PROGRESS_JSON } mode;
    bool drawn;              /* a line without an end stands on the terminal */
    size_t part, parts;      /* of the whole that is reported in parts of equal weight; 0 parts: one */
    char phase[32];          /* of the last report */
    double share, seconds;   /* of the last report that was shown */
};

/* `how`: "auto" or NULL, "json", "none". */
void cli_progress_start(struct cli_progress *progress, const char *how);
/* A qnt_progress_fn; `user` is the cli_progress. */
void cli_progress_report(void *user, const qnt_progress *report);
/* Takes the line off the terminal: before anything else is printed. */
void cli_progress_end(struct cli_progress *progress);

#endif
