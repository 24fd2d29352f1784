/*
 * plot.c - points as a self-contained SVG, readable on light and dark ground.
 *
 * x is linear, y logarithmic with a line at each power of ten. Labels stand
 * beside their points, moved down until they cover none that was placed before.
 */
#include "cli/plot.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"

enum { WIDTH = 720, HEIGHT = 440, LEFT = 70, RIGHT = 20, TOP = 40, BOTTOM = 50, LINE = 15 };

static const double character_width = 6.6;

struct plot {
    FILE *out;
    const struct cli_point *points;
    size_t count;
    double x_least, x_greatest, x_step;
    int y_least, y_greatest;          /* powers of ten */
};

struct label {
    double x, y, width;
};

static bool drawn(const struct cli_point *p)
{
    return isfinite(p->x) && isfinite(p->y) && p->y > 0;
}

static double x_place(const struct plot *p, double x)
{
    return LEFT + (x - p->x_least) / (p->x_greatest - p->x_least) * (WIDTH - LEFT - RIGHT);
}

static double y_place(const struct plot *p, double y)
{
    return TOP + (p->y_greatest - log10(y)) / (p->y_greatest - p->y_least) * (HEIGHT - TOP - BOTTOM);
}

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '&' || c == '<' || c == '>' || c == '"')
            fprintf(out, "&#%d;", c);
        else
            fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
    }
}

/* Ranges that hold every point, with some room, on round numbers. */
static void find_ranges(struct plot *p)
{
    double least = INFINITY, greatest = -INFINITY, low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < p->count; i++) {
        if (!drawn(&p->points[i]))
            continue;
        least = fmin(least, p->points[i].x);
        greatest = fmax(greatest, p->points[i].x);
        low = fmin(low, p->points[i].y);
        high = fmax(high, p->points[i].y);
    }
    if (least > greatest) { /* none */
        least = greatest = 4;
        low = high = 0.1;
    }
    p->x_step = greatest - least > 6 ? 2 : greatest - least > 2 ? 1 : greatest - least > 0.5 ? 0.5 : 0.1;
    p->x_least = (floor(least / p->x_step) - 1) * p->x_step;
    p->x_greatest = (ceil(greatest / p->x_step) + 1) * p->x_step;
    p->y_least = (int)floor(log10(low));
    p->y_greatest = (int)ceil(log10(high));
    p->y_greatest += p->y_greatest == p->y_least;
}

static void put_head(const struct plot *p, const char *title, const char *x_title, const char *y_title)
{
    fprintf(p->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<style>\n"
            "  svg { --ground: #ffffff; --ink: #1f2328; --line: #d0d7de; --point: #0969da; }\n"
            "  @media (prefers-color-scheme: dark) {\n"
            "    svg { --ground: #0d1117; --ink: #e6edf3; --line: #30363d; --point: #58a6ff; }\n"
            "  }\n"
            "  .ground { fill: var(--ground); } text { fill: var(--ink); } .line { stroke: var(--line); }\n"
            "  circle { fill: var(--point); }\n"
            "</style>\n"
            "<rect class=\"ground\" width=\"%d\" height=\"%d\"/>\n<title>",
            WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
    put_text(p->out, title);
    fprintf(p->out, "</title>\n<text x=\"%d\" y=\"24\" font-size=\"14\" font-weight=\"bold\">", LEFT);
    put_text(p->out, title);
    fprintf(p->out, "</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 12);
    put_text(p->out, x_title);
    fprintf(p->out, "</text>\n<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">",
            (TOP + HEIGHT - BOTTOM) / 2);
    put_text(p->out, y_title);
    fputs("</text>\n", p->out);
}

static void put_grid(const struct plot *p)
{
    int bottom = HEIGHT - BOTTOM, right = WIDTH - RIGHT;
    for (int k = 0; p->x_least + k * p->x_step <= p->x_greatest + 1e-9; k++) {
        double x = p->x_least + k * p->x_step, at = x_place(p, x);
        fprintf(p->out, "<line class=\"line\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n", at, TOP, at, bottom);
        fprintf(p->out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>\n", at, bottom + 18, x);
    }
    for (int k = p->y_least; k <= p->y_greatest; k++) {
        double at = y_place(p, pow(10, k));
        fprintf(p->out, "<line class=\"line\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>\n", LEFT, at, right, at);
        fprintf(p->out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", LEFT - 6, at + 4, pow(10, k));
    }
}

static bool covers(const struct label *a, const struct label *b)
{
    return fabs(a->y - b->y) < LINE && a->x < b->x + b->width && b->x < a->x + a->width;
}

/* Right of the point, left of it where the picture ends. */
static struct label place_label(const struct plot *p, const struct cli_point *point, const struct label *placed,
                                size_t count)
{
    struct label l = {.width = character_width * (double)strlen(point->label)};
    l.x = x_place(p, point->x) + 8;
    l.y = y_place(p, point->y) + 4;
    if (l.x + l.width > WIDTH)
        l.x -= l.width + 16;
    for (size_t i = 0; i < count; i++)
        if (covers(&l, &placed[i])) {
            l.y = placed[i].y + LINE;
            i = (size_t)-1; /* it may cover an earlier one now */
        }
    return l;
}

static void put_points(const struct plot *p)
{
    struct label *placed = cli_new(p->count, sizeof *placed);
    size_t count = 0;
    for (size_t i = 0; i < p->count; i++) {
        const struct cli_point *point = &p->points[i];
        if (!drawn(point))
            continue;
        placed[count] = place_label(p, point, placed, count);
        fprintf(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>\n", x_place(p, point->x), y_place(p, point->y));
        fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\">", placed[count].x, placed[count].y);
        put_text(p->out, point->label);
        fputs("</text>\n", p->out);
        count++;
    }
    free(placed);
}

char *cli_plot(const char *title, const char *x_title, const char *y_title, const struct cli_point *points,
               size_t count)
{
    char *text = NULL;
    size_t bytes;
    struct plot p = {.out = open_memstream(&text, &bytes), .points = points, .count = count};
    if (!p.out)
        cli_no_memory();
    find_ranges(&p);
    put_head(&p, title, x_title, y_title);
    put_grid(&p);
    put_points(&p);
    fputs("</svg>\n", p.out);
    if (fclose(p.out) != 0)
        cli_no_memory();
    return text;
}
