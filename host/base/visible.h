/* Text that others wrote, a model or a file, for the eyes of a person. */
#ifndef POPALM_VISIBLE_H
#define POPALM_VISIBLE_H

#include <stdio.h>

/* Writes UTF-8 text of `length` bytes with every control character (below 0x20, 0x7F to 0x9F) as \xNN, so
 * that it stays on one line and cannot steer a terminal. */
void print_visible(FILE *out, const char *text, size_t length);

#endif
