#include "base/visible.h"

void print_visible(FILE *out, const char *text, size_t length) {
  const unsigned char *bytes = (const unsigned char *)text;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = bytes[i];
    if (c < 0x20 || c == 0x7F)
      fprintf(out, "\\x%02X", c);
    else if (c == 0xC2 && i + 1 < length && bytes[i + 1] < 0xA0) /* U+0080 to U+009F */
      fprintf(out, "\\x%02X", bytes[++i]);
    else
      putc(c, out);
  }
}
