/*
 * progress.c - see progress.h. The lock of stderr guards the state, since warnings come from other threads.
 */
#include "cli/progress.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const double redraw_seconds = 0.1, json_seconds = 0.5;
static const double plain_seconds = 10, plain_share = 0.1;

void cli_progress_start(struct cli_progress *p, const char *how)
{
    memset(p, 0, sizeof *p);
    if (how && strcmp(how, "json") == 0)
        p->mode = CLI_PROGRESS_JSON;
    else if (how && strcmp(how, "none") == 0)
        p->mode = CLI_PROGRESS_NONE;
    else
        p->mode = isatty(STDERR_FILENO) ? CLI_PROGRESS_LINE : CLI_PROGRESS_PLAIN;
}

/* "1:02:03" or "2:03"; "" if unknown. */
static void time_text(double seconds, char *text, size_t size)
{
    unsigned long s = seconds > 0 && seconds < 1e9 ? (unsigned long)(seconds + 0.5) : 0;
    *text = 0;
    if (seconds < 0)
        return;
    if (s >= 3600)
        snprintf(text, size, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, size, "%lu:%02lu", s / 60, s % 60);
}

static void print_line(struct cli_progress *p, const qnt_progress *r)
{
    struct winsize window = {0};
    char left[32], line[256];
    int width = 79;
    time_text(r->seconds_left, left, sizeof left);
    if (p->mode == CLI_PROGRESS_LINE && ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
        width = window.ws_col - 1;
    snprintf(line, sizeof line, "%-9s %3d %%%s%s%s%s%s", r->phase, (int)(100 * r->share), *left ? "  " : "", left,
             *left ? " left" : "", *r->item ? "  " : "", r->item);
    if (p->mode == CLI_PROGRESS_LINE)
        fprintf(stderr, "\r%.*s\033[K", width, line);
    else
        fprintf(stderr, "quant: %s\n", line);
    p->drawn = p->mode == CLI_PROGRESS_LINE;
}

static void print_json(const qnt_progress *r)
{
    json_t *left = r->seconds_left < 0 ? json_null() : json_real(r->seconds_left);
    json_t *line = json_pack("{s:s,s:s,s:f,s:f,s:o}", "phase", r->phase, "item", r->item, "share", r->share, "seconds",
                             r->seconds, "seconds_left", left);
    if (line) {
        json_dumpf(line, stderr, JSON_COMPACT);
        fputc('\n', stderr);
    }
    json_decref(line);
}

/* Whether the report is worth showing: another phase, the end, or far enough from the last one. */
static bool is_due(const struct cli_progress *p, const qnt_progress *r)
{
    double waited = r->seconds - p->seconds;
    if (strncmp(p->phase, r->phase, sizeof p->phase - 1) != 0)
        return true;
    switch (p->mode) {
    case CLI_PROGRESS_LINE:
        return waited >= redraw_seconds;
    case CLI_PROGRESS_PLAIN:
        return r->share >= p->share + plain_share || waited >= plain_seconds;
    case CLI_PROGRESS_JSON:
        return waited >= json_seconds || (r->share >= 1 && p->share < 1);
    case CLI_PROGRESS_NONE:
        break;
    }
    return false;
}

/* A part's report as one of the whole; the time left is then not known, parts only count alike. */
static qnt_progress whole(const struct cli_progress *p, const qnt_progress *r)
{
    qnt_progress all = *r;
    if (p->parts > 1) {
        all.share = ((double)p->part + r->share) / (double)p->parts;
        all.seconds_left = -1;
    }
    return all;
}

void cli_progress_report(void *user, const qnt_progress *report)
{
    struct cli_progress *p = user;
    qnt_progress r = whole(p, report);
    if (p->mode == CLI_PROGRESS_NONE)
        return;
    flockfile(stderr);
    if (is_due(p, &r)) {
        snprintf(p->phase, sizeof p->phase, "%s", r.phase);
        p->share = r.share;
        p->seconds = r.seconds;
        if (p->mode == CLI_PROGRESS_JSON)
            print_json(&r);
        else
            print_line(p, &r);
    }
    funlockfile(stderr);
}

void cli_progress_end(struct cli_progress *p)
{
    flockfile(stderr);
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = false;
    funlockfile(stderr);
}
