/* Makes the Nth call that changes something in a folder fail, or kills the process there.

   SHIM_FOLDER: the folder. SHIM_NTH: from 1. SHIM_DOES: an errno, "kill" (before the call) or "tear" (after half of a
   write). SHIM_MARK: a file that is made when it has happened. Only the process that is started with SHIM_PID unset
   counts; it sets it, so that its children do not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *folder, *does, *mark;
static long left;

__attribute__((constructor)) static void prepare(void) {
    if (getenv("SHIM_PID") || !getenv("SHIM_FOLDER")) return;
    folder = strdup(getenv("SHIM_FOLDER"));
    does = strdup(getenv("SHIM_DOES"));
    mark = strdup(getenv("SHIM_MARK"));
    left = atol(getenv("SHIM_NTH"));
    setenv("SHIM_PID", "set", 1);
}

static int inside(const char *path) {
    return folder && path && !strncmp(path, folder, strlen(folder));
}

static int open_inside(int fd) {
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (!folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static void leave_mark(void) {
    close(open(mark, O_CREAT | O_WRONLY, 0644));
}

/* Whether this call is the one; torn: a write that may be cut in half first. */
static int is_it(int counts) {
    if (!counts || !folder || __sync_sub_and_fetch(&left, 1)) return 0;
    leave_mark();
    if (!strcmp(does, "kill")) kill(getpid(), SIGKILL);
    return 1;
}

static int refuse(void) {
    errno = atoi(does);
    return -1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (!is_it(open_inside(fd))) return real(fd, data, size);
    if (!strcmp(does, "tear")) real(fd, data, size / 2), kill(getpid(), SIGKILL);
    return refuse();
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    if (!is_it(open_inside(fd))) return real(fd, data, size, place);
    if (!strcmp(does, "tear")) real(fd, data, size / 2, place), kill(getpid(), SIGKILL);
    return refuse();
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    return pwrite64(fd, data, size, place);
}

#define PLAIN(name, counts, parameters, arguments)                                                                    \
    int name parameters {                                                                                             \
        REAL(name);                                                                                                   \
        if (!is_it(counts)) return real arguments;                                                                    \
        if (!strcmp(does, "tear")) real arguments, kill(getpid(), SIGKILL);                                           \
        return refuse();                                                                                              \
    }

PLAIN(fsync, open_inside(fd), (int fd), (fd))
PLAIN(fdatasync, open_inside(fd), (int fd), (fd))
PLAIN(ftruncate64, open_inside(fd), (int fd, off64_t size), (fd, size))
PLAIN(ftruncate, open_inside(fd), (int fd, off_t size), (fd, size))
PLAIN(rename, inside(from), (const char *from, const char *to), (from, to))
PLAIN(unlink, inside(path), (const char *path), (path))
