/* Records what a process does to the files below RECORD_ROOT, in order, into the file RECORD_LOG: the crash suite
 * compiles it, preloads it, and replays the log to the states that a power cut could have left (storage.md 3.3).
 *
 * Each call and its record are made under one lock, so that the order in the log is an order in which it happened.
 * A record: op 1 | inode 8 | offset or flag 8 | lengths 4 + 4 | bytes, then bytes (paths, or what was written).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static const char *root;
static size_t root_len;

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("RECORD_LOG");
    root = getenv("RECORD_ROOT");
    if (!log || !root) { root = NULL; return; }
    root_len = strlen(root);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) _exit(111);
}

static int path_of(int fd, char *into) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, into, PATH_MAX - 1);
    if (len < 0) return 0;
    into[len] = 0;
    return 1;
}

/* The absolute path of what is named; 0 if it is not below the root. */
static int named(int dir, const char *path, char *into) {
    if (!root) return 0;
    if (path[0] == '/') {
        snprintf(into, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else if (!path_of(dir, base)) return 0;
        if (strlen(base) + strlen(path) + 2 > PATH_MAX) return 0;
        strcpy(into, base);
        strcat(into, "/");
        strcat(into, path);
    }
    return strncmp(into, root, root_len) == 0 && into[root_len] == '/';
}

static uint64_t inode_of(int fd) {
    struct stat found;
    if (!root || fstat(fd, &found) != 0) return 0;
    char path[PATH_MAX];
    if (!path_of(fd, path) || strncmp(path, root, root_len) != 0 || path[root_len] != '/') return 0;
    return found.st_ino;
}

static void put(char op, uint64_t inode, uint64_t at, const void *a, size_t a_len, const void *b, size_t b_len) {
    unsigned char head[25];
    uint32_t lens[2] = {(uint32_t)a_len, (uint32_t)b_len};
    head[0] = (unsigned char)op;
    memcpy(head + 1, &inode, 8);
    memcpy(head + 9, &at, 8);
    memcpy(head + 17, lens, 8);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)a, a_len}, {(void *)b, b_len}};
    size_t whole = sizeof head + a_len + b_len;
    if (syscall(SYS_writev, log_fd, parts, 3) != (ssize_t)whole) _exit(112);
}

static const char *below(const char *path) { return path + root_len + 1; }

static int opened(int dir, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    int is_ours = named(dir, path, whole);
    if (!is_ours) return (int)syscall(SYS_openat, dir, path, flags, mode);
    pthread_mutex_lock(&order);
    int existed = syscall(SYS_faccessat, AT_FDCWD, whole, F_OK) == 0;
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    int kept = errno;
    struct stat found;
    if (fd >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) {
        const char *name = below(whole);
        put(existed ? 'O' : 'C', found.st_ino, 0, name, strlen(name), NULL, 0);
        if (existed && (flags & O_TRUNC)) put('T', found.st_ino, 0, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&order);
    errno = kept;
    return fd;
}

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }

static ssize_t written(int fd, const void *bytes, size_t len, off_t at, int is_placed) {
    uint64_t inode = inode_of(fd);
    if (inode) pthread_mutex_lock(&order);
    off_t place = is_placed ? at : lseek(fd, 0, SEEK_CUR);
    ssize_t done = is_placed ? syscall(SYS_pwrite64, fd, bytes, len, at) : syscall(SYS_write, fd, bytes, len);
    int kept = errno;
    if (inode) {
        if (done > 0) put('W', inode, (uint64_t)place, bytes, (size_t)done, NULL, 0);
        pthread_mutex_unlock(&order);
    }
    errno = kept;
    return done;
}
ssize_t write(int fd, const void *bytes, size_t len) { return written(fd, bytes, len, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at, 1); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!inode_of(fd)) return syscall(SYS_writev, fd, parts, count);
    /* One after the other: what is not recorded would be missing in the replay. */
    ssize_t sum = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = written(fd, parts[i].iov_base, parts[i].iov_len, 0, 0);
        if (done < 0) return sum ? sum : done;
        sum += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return sum;
}

static int noted(char op, int fd, uint64_t at, long done) {
    int kept = errno;
    uint64_t inode = inode_of(fd);
    if (inode && done == 0) put(op, inode, at, NULL, 0, NULL, 0);
    errno = kept;
    return (int)done;
}
#define ORDERED(call) pthread_mutex_lock(&order); int done = call; pthread_mutex_unlock(&order); return done;
int ftruncate(int fd, off_t len) { ORDERED(noted('T', fd, (uint64_t)len, syscall(SYS_ftruncate, fd, len))) }
int ftruncate64(int fd, off_t len) { ORDERED(noted('T', fd, (uint64_t)len, syscall(SYS_ftruncate, fd, len))) }
int fsync(int fd) { ORDERED(noted('F', fd, 0, syscall(SYS_fsync, fd))) }
int fdatasync(int fd) { ORDERED(noted('D', fd, 0, syscall(SYS_fdatasync, fd))) }

static int renamed(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char a[PATH_MAX], b[PATH_MAX];
    int is_ours = named(from_dir, from, a) && named(to_dir, to, b);
    pthread_mutex_lock(&order);
    long done = syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    int kept = errno;
    if (is_ours && done == 0) put('R', 0, 0, below(a), strlen(below(a)), below(b), strlen(below(b)));
    pthread_mutex_unlock(&order);
    errno = kept;
    return (int)done;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renamed(a, from, b, to, flags); }

static int removed(int dir, const char *path, int flags) {
    char whole[PATH_MAX];
    int is_ours = named(dir, path, whole);
    pthread_mutex_lock(&order);
    long done = syscall(SYS_unlinkat, dir, path, flags);
    int kept = errno;
    if (is_ours && done == 0) put('U', 0, 0, below(whole), strlen(below(whole)), NULL, 0);
    pthread_mutex_unlock(&order);
    errno = kept;
    return (int)done;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return removed(dir, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }

static int made(int dir, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    int is_ours = named(dir, path, whole);
    pthread_mutex_lock(&order);
    long done = syscall(SYS_mkdirat, dir, path, mode);
    int kept = errno;
    if (is_ours && done == 0) put('M', 0, 0, below(whole), strlen(below(whole)), NULL, 0);
    pthread_mutex_unlock(&order);
    errno = kept;
    return (int)done;
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return made(dir, path, mode); }
