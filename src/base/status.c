/*
 * status.c - words for status values, and the version.
 */
#include <quant/context.h>

const char *qnt_status_text(qnt_status status)
{
    switch (status) {
#define TEXT(name, value, text) \
    case name:                  \
        return text;
        QNT_STATUS_MAP(TEXT)
#undef TEXT
    }
    return "unknown status";
}

const char *qnt_version(void)
{
    return QUANT_VERSION;
}
