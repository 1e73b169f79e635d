/* Preloaded: the wall clock of one process, off the machine's by what a mapped file says, as is whether it is synchronised and
   which start of the kernel this is; every other clock is real. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static volatile struct { long long offset_s, is_synchronised; } *clock_at;

__attribute__((constructor)) static void map_clock(void) {
    const char *path = getenv("WALL_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *clock_at, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) clock_at = mapped;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, id, at);
    if (result == 0 && clock_at && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += clock_at->offset_s;
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int adjtimex(struct timex *asked) {
    memset(asked, 0, sizeof *asked);
    asked->status = clock_at && clock_at->is_synchronised ? STA_PLL : STA_UNSYNC;
    return asked->status == STA_UNSYNC ? TIME_ERROR : TIME_OK;
}

int open64(const char *path, int flags, ...) {
    const char *kernel_start = getenv("KERNEL_START");
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if (kernel_start && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) path = kernel_start;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
