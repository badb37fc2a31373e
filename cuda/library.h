/* Libraries that are opened at run time, since a program without a GPU need not have them: those that a run
 * or a benchmark can do without are looked for by all their names. They stay open until the program ends, or
 * until dlclose of library_open's handle. */
#ifndef POPALM_LIBRARY_H
#define POPALM_LIBRARY_H

#include <dlfcn.h>
#include <string.h>

#include <initializer_list>

struct LibraryFunction {
  const char *name;
  void *pointer; /* to the function pointer that is set */
};

/* The first of these libraries that there is, or NULL. */
inline void *library_open(std::initializer_list<const char *> names) {
  void *file = nullptr;
  for (const char *name : names)
    if (!file) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  return file;
}

/* Sets the pointers to the library's functions; false if it lacks one. */
inline bool library_find(void *file, std::initializer_list<LibraryFunction> functions) {
  for (const LibraryFunction &function : functions) {
    void *symbol = dlsym(file, function.name);
    if (!symbol) return false;
    memcpy(function.pointer, &symbol, sizeof symbol);
  }
  return true;
}

#endif
