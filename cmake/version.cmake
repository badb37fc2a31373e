# Writes version.c; run at every build, but the file changes only with its content, so nothing is compiled twice.
# cmake -DSOURCE=... -DOUT=... -DVERSION=... -DBUILD=... -P version.cmake
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR commit STREQUAL "")
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT [=[
#include "version.h"

const char popalm_version[] = "@VERSION@";
const char popalm_commit[] = "@commit@";
const char popalm_build[] = "@BUILD@";
]=] @ONLY)
