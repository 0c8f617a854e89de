// SPDX-License-Identifier: Apache-2.0
// A library to load before all others (LD_PRELOAD): it counts the calls that change files below one folder, and at the
// k-th of them kills the process, lets the call fail or lets it wait. Armed by environment variables, or by a program
// through fault_arm (dlsym), which so tries all k without starting anew.
//
//   FAULT_FOLDER  only files whose path holds this text        FAULT_RANK  only this rank (OMPI_COMM_WORLD_RANK)
//   FAULT_AT      k, from 1; 0: count only                     FAULT_KIND  kill, short, slow (waits two seconds), or a
//                                                                          name as ENOSPC, EIO, EDQUOT
//   FAULT_MEMORY  whoever asks the system for just so many bytes of memory gets none
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

enum Kind { kill_process, short_write, slow, error_number };

char folder[4096];
std::atomic<long> calls{0};
long act_at = 0;
Kind kind = kill_process;
int number = 0;
std::size_t refused_bytes = 0;

// The system's own function behind ours.
template <class Function> Function* real(Function*, const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}
#define REAL(NAME) (*real(static_cast<decltype(NAME)*>(nullptr), #NAME))

bool is_ours(const char* path) { return folder[0] != '\0' && path != nullptr && std::strstr(path, folder) != nullptr; }

bool is_ours(int descriptor) {
    if (folder[0] == '\0') return false;
    char link[64] = "/proc/self/fd/", path[4096];
    char digits[16];
    int length = 0;
    for (int rest = descriptor; rest > 0 || length == 0; rest /= 10)
        digits[length++] = static_cast<char>('0' + rest % 10);
    for (char* end = link + std::strlen(link); length > 0;)
        *end++ = digits[--length];
    const ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return false;
    path[size] = '\0';
    return is_ours(path);
}

// Counts the call; whether it is the one.
bool due() {
    if (++calls != act_at) return false;
    if (kind == kill_process) raise(SIGKILL);
    if (kind == slow)
        for (unsigned left = 2; left > 0;) // a signal interrupts it
            left = sleep(left);
    return true;
}

// Whether the call must fail, with errno set.
bool fails() {
    if (!due() || kind != error_number) return false;
    errno = number;
    return true;
}

void choose(const char* text) {
    const struct {
        const char* name;
        int value;
    } errors[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EDQUOT", EDQUOT}, {"EACCES", EACCES}};
    kind = std::strcmp(text, "short") == 0 ? short_write : std::strcmp(text, "slow") == 0 ? slow : kill_process;
    for (const auto& error : errors)
        if (std::strcmp(text, error.name) == 0) {
            kind = error_number;
            number = error.value;
        }
}

struct ArmedByEnvironment {
    ArmedByEnvironment() {
        const char *where = getenv("FAULT_FOLDER"), *rank = getenv("FAULT_RANK"),
                   *mine = getenv("OMPI_COMM_WORLD_RANK");
        if (where == nullptr || (rank != nullptr && (mine == nullptr || std::strcmp(rank, mine) != 0))) return;
        std::strncpy(folder, where, sizeof folder - 1);
        if (const char* at = getenv("FAULT_AT")) act_at = atol(at);
        if (const char* what = getenv("FAULT_KIND")) choose(what);
        if (const char* bytes = getenv("FAULT_MEMORY")) refused_bytes = static_cast<std::size_t>(atoll(bytes));
    }
} armed;

mode_t mode_of(int flags, std::va_list arguments) {
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

} // namespace

extern "C" {

void fault_arm(const char* where, long at, const char* what) {
    std::strncpy(folder, where, sizeof folder - 1);
    calls = 0;
    act_at = at;
    choose(what);
}

long fault_calls() { return calls; }

int open(const char* path, int flags, ...) {
    std::va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    if (is_ours(path) && fails()) return -1;
    return REAL(open)(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
    std::va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    if (is_ours(path) && fails()) return -1;
    return REAL(open)(path, flags, mode);
}

int openat(int descriptor, const char* path, int flags, ...) {
    std::va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    if ((is_ours(path) || (descriptor >= 0 && is_ours(descriptor))) && fails()) return -1;
    return REAL(openat)(descriptor, path, flags, mode);
}

ssize_t write(int descriptor, const void* data, size_t bytes) {
    if (is_ours(descriptor) && due()) {
        if (kind == error_number) {
            errno = number;
            return -1;
        }
        if (bytes > 1) bytes /= 2;
    }
    return REAL(write)(descriptor, data, bytes);
}

ssize_t pwrite64(int descriptor, const void* data, size_t bytes, off64_t place) {
    if (is_ours(descriptor) && due()) {
        if (kind == error_number) {
            errno = number;
            return -1;
        }
        if (bytes > 1) bytes /= 2;
    }
    return REAL(pwrite64)(descriptor, data, bytes, place);
}

ssize_t pwrite(int descriptor, const void* data, size_t bytes, off_t place) {
    return pwrite64(descriptor, data, bytes, place);
}

int ftruncate(int descriptor, off_t bytes) {
    if (is_ours(descriptor) && fails()) return -1;
    return REAL(ftruncate)(descriptor, bytes);
}

int fsync(int descriptor) {
    if (is_ours(descriptor) && fails()) return -1;
    return REAL(fsync)(descriptor);
}

// A descriptor is closed even where close fails.
int close(int descriptor) {
    const bool act = is_ours(descriptor) && fails();
    const int reason = errno;
    const int result = REAL(close)(descriptor);
    if (!act) return result;
    errno = reason;
    return -1;
}

int rename(const char* from, const char* to) {
    if ((is_ours(from) || is_ours(to)) && fails()) return -1;
    return REAL(rename)(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
    if ((is_ours(from) || is_ours(to)) && fails()) return -1;
    return REAL(renameat2)(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) {
    if (is_ours(path) && fails()) return -1;
    return REAL(mkdir)(path, mode);
}

int unlink(const char* path) {
    if (is_ours(path) && fails()) return -1;
    return REAL(unlink)(path);
}

int unlinkat(int descriptor, const char* path, int flags) {
    if ((is_ours(path) || (descriptor >= 0 && is_ours(descriptor))) && fails()) return -1;
    return REAL(unlinkat)(descriptor, path, flags);
}

int rmdir(const char* path) {
    if (is_ours(path) && fails()) return -1;
    return REAL(rmdir)(path);
}

void* mmap(void* place, size_t bytes, int protection, int flags, int descriptor, off_t first) {
    if (bytes == refused_bytes && descriptor < 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return REAL(mmap)(place, bytes, protection, flags, descriptor, first);
}

int remove(const char* path) {
    if (is_ours(path) && fails()) return -1;
    return REAL(remove)(path);
}

} // extern "C"
