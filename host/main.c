#include <stdio.h>

int main(void) {
  puts("popalm");
  return 0;
}
