// SPDX-License-Identifier: Apache-2.0
// A library to load before all others (LD_PRELOAD): it counts the calls that change files below one folder, and at the
// k-th of them kills the process, lets the call fail or lets it wait. Armed by environment variables, or by a program
// through fault_arm (dlsym), which so tries all k without starting anew.
//
//   FAULT_FOLDER  only files whose path holds this text        FAULT_RANK  only this rank (OMPI_COMM_WORLD_RANK)
//   FAULT_AT      k, from 1; 0: count only                     FAULT_KIND  kill, short, slow (waits FAULT_SECONDS),
//                                                                          abort (as within malloc: whoever asks for
//                                                                          memory from then on waits for ever), or a
//                                                                          name as ENOSPC, EIO, EDQUOT
//   FAULT_MARK    a file to make when a slow call begins
//   FAULT_ONCE    a file: it is made when the call is due, and where it is there already nothing happens
//   FAULT_MEMORY  whoever asks the system for just so many bytes of memory gets none
//   FAULT_UNREADABLE  reading files whose path holds this text is an EIO
//   FAULT_FREE    so many bytes are free wherever somebody asks
//   FAULT_TIMES   so many calls fail, from the k-th on: 1 unless said
//   FAULT_CLOCK   the clock of the day jumps by so many seconds and back, at each 50th time that somebody looks at it
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace {

enum Kind { kill_process, abort_in_malloc, short_write, slow, error_number };

char folder[4096];
std::atomic<long> calls{0};
long act_at = 0;
Kind kind = kill_process;
int number = 0;
std::size_t refused_bytes = 0;
const char* once = nullptr;
unsigned slow_seconds = 2;
char slow_mark[4096];
char unreadable[4096];
long free_bytes = -1;
long fault_times = 1;
long clock_jump = 0;
std::atomic<long> clock_readings{0};
std::atomic<bool> heap_is_held{false};

// The system's own function behind ours.
template <class Function> Function* real(Function*, const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}
#define REAL(NAME) (*real(static_cast<decltype(NAME)*>(nullptr), #NAME))

bool is_ours(const char* path) { return folder[0] != '\0' && path != nullptr && std::strstr(path, folder) != nullptr; }

// Of the file behind a descriptor.
bool path_of(int descriptor, char (&path)[4096]) {
    char link[64] = "/proc/self/fd/";
    char digits[16];
    int length = 0;
    for (int rest = descriptor; rest > 0 || length == 0; rest /= 10)
        digits[length++] = static_cast<char>('0' + rest % 10);
    for (char* end = link + std::strlen(link); length > 0;)
        *end++ = digits[--length];
    const ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return false;
    path[size] = '\0';
    return true;
}

bool path_holds(int descriptor, const char* text) {
    char path[4096];
    return text[0] != '\0' && path_of(descriptor, path) && std::strstr(path, text) != nullptr;
}

bool is_ours(int descriptor) { return path_holds(descriptor, folder); }

// What was done when to which file of ours, a line each: "NANOSECONDS CALL PATH".
char record[1 << 18];
std::size_t recorded = 0;
std::mutex recording;

void note(const char* call, const char* path) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const std::lock_guard lock(recording);
    const std::size_t room = sizeof record - recorded;
    const int length = std::snprintf(record + recorded, room, "%lld %s %s\n",
                                     static_cast<long long>(now.tv_sec) * 1'000'000'000 + now.tv_nsec, call, path);
    if (length > 0 && static_cast<std::size_t>(length) < room) recorded += static_cast<std::size_t>(length);
}

void note(const char* call, int descriptor) {
    char path[4096];
    if (path_of(descriptor, path)) note(call, path);
}

// Counts the call; whether it is the one.
bool due() {
    const long call = ++calls;
    if (act_at == 0 || call < act_at || call >= act_at + fault_times) return false;
    if (once != nullptr && syscall(SYS_openat, AT_FDCWD, once, O_WRONLY | O_CREAT | O_EXCL, 0666) < 0) return false;
    if (kind == kill_process) raise(SIGKILL);
    if (kind == abort_in_malloc) {
        heap_is_held = true;
        raise(SIGABRT);
    }
    if (kind == slow) {
        if (slow_mark[0] != '\0') close(creat(slow_mark, 0600));
        for (unsigned left = slow_seconds; left > 0;) // a signal interrupts it
            left = sleep(left);
    }
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
    kind = std::strcmp(text, "short") == 0   ? short_write
           : std::strcmp(text, "slow") == 0  ? slow
           : std::strcmp(text, "abort") == 0 ? abort_in_malloc
                                             : kill_process;
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
        if (const char* text = getenv("FAULT_UNREADABLE")) std::strncpy(unreadable, text, sizeof unreadable - 1);
        if (const char* bytes = getenv("FAULT_FREE")) free_bytes = atol(bytes);
        if (const char* times = getenv("FAULT_TIMES")) fault_times = atol(times);
        if (const char* seconds = getenv("FAULT_CLOCK")) clock_jump = atol(seconds);
        if (const char* at = getenv("FAULT_AT")) act_at = atol(at);
        if (const char* what = getenv("FAULT_KIND")) choose(what);
        if (const char* file = getenv("FAULT_ONCE")) once = file;
        if (const char* mark = getenv("FAULT_MARK")) std::strncpy(slow_mark, mark, sizeof slow_mark - 1);
        if (const char* seconds = getenv("FAULT_SECONDS")) slow_seconds = static_cast<unsigned>(atol(seconds));
        if (const char* bytes = getenv("FAULT_MEMORY")) refused_bytes = static_cast<std::size_t>(atoll(bytes));
    }
} armed;

mode_t mode_of(int flags, std::va_list arguments) {
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

} // namespace

extern "C" {

void* __libc_malloc(size_t bytes); // the C library's own

void* malloc(size_t bytes) {
    while (heap_is_held)
        pause();
    return __libc_malloc(bytes);
}

void fault_arm(const char* where, long at, const char* what) {
    std::strncpy(folder, where, sizeof folder - 1);
    calls = 0;
    recorded = 0;
    act_at = at;
    choose(what);
}

// Since fault_arm.
const char* fault_record() { return record; }

long fault_calls() { return calls; }

// The kernel itself is asked: a search for the system's own function may look at the clock.
int clock_gettime(clockid_t clock, timespec* time) {
    const long result = syscall(SYS_clock_gettime, clock, time);
    const bool of_day = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (result == 0 && clock_jump != 0 && of_day && ++clock_readings / 50 % 2 == 1) time->tv_sec += clock_jump;
    return static_cast<int>(result);
}

int gettimeofday(timeval* __restrict time, void* __restrict) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    *time = {now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t* place) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    if (place != nullptr) *place = now.tv_sec;
    return now.tv_sec;
}

void fault_unreadable(const char* text) { std::strncpy(unreadable, text, sizeof unreadable - 1); }

ssize_t pread64(int descriptor, void* data, size_t bytes, off64_t place) {
    if (path_holds(descriptor, unreadable)) {
        errno = EIO;
        return -1;
    }
    return REAL(pread64)(descriptor, data, bytes, place);
}

ssize_t pread(int descriptor, void* data, size_t bytes, off_t place) { return pread64(descriptor, data, bytes, place); }

int statvfs(const char* path, struct statvfs* space) {
    const int result = REAL(statvfs)(path, space);
    if (free_bytes >= 0 && result == 0) space->f_bavail = static_cast<fsblkcnt_t>(free_bytes) / space->f_frsize;
    return result;
}

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
    if (is_ours(descriptor)) note("write", descriptor);
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
    if (is_ours(descriptor)) note("write", descriptor);
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

int fallocate(int descriptor, int mode, off_t first, off_t bytes) {
    if (is_ours(descriptor) && fails()) return -1;
    return REAL(fallocate)(descriptor, mode, first, bytes);
}

int fallocate64(int descriptor, int mode, off64_t first, off64_t bytes) {
    return fallocate(descriptor, mode, first, bytes);
}

int fsync(int descriptor) {
    if (is_ours(descriptor) && fails()) return -1;
    const int result = REAL(fsync)(descriptor);
    if (is_ours(descriptor)) note("fsync", descriptor);
    return result;
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
    if (is_ours(to)) note("rename", to);
    return REAL(rename)(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
    if ((is_ours(from) || is_ours(to)) && fails()) return -1;
    if (is_ours(to)) note("rename", to);
    return REAL(renameat2)(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) {
    if (is_ours(path) && fails()) return -1;
    return REAL(mkdir)(path, mode);
}

int unlink(const char* path) {
    if (is_ours(path) && fails()) return -1;
    if (is_ours(path)) note("unlink", path);
    return REAL(unlink)(path);
}

int unlinkat(int descriptor, const char* path, int flags) {
    if ((is_ours(path) || (descriptor >= 0 && is_ours(descriptor))) && fails()) return -1;
    if (is_ours(path) || (descriptor >= 0 && is_ours(descriptor))) note("unlink", path);
    return REAL(unlinkat)(descriptor, path, flags);
}

int rmdir(const char* path) {
    if (is_ours(path) && fails()) return -1;
    if (is_ours(path)) note("unlink", path);
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
    if (is_ours(path)) note("unlink", path);
    return REAL(remove)(path);
}

} // extern "C"
