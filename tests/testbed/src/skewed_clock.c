/* Adds the seconds that stand in the file of SKEW_FILE to the wall clock of the process that loads this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int gettime(clockid_t, struct timespec *);

static long skew_s(void) {
  const char *path = getenv("SKEW_FILE");
  char text[24] = {0};
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return 0;
  ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  return length > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  static gettime *real;
  if (!real) real = (gettime *)dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += skew_s();
  return result;
}
