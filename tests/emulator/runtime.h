// What the shim (cuda_on_cpu.h, compiled with every module) and the scheduler (runtime.cpp, compiled once) know of each other.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index3 { unsigned x, y, z; };

enum class Vote : int { none, shuffle, ballot, any, all };
enum class Count : int { none, count, any, all };

// One of these per process and runtime. The fields describe the CUDA thread that is running now.
struct Runtime {
  Index3 thread_index, block_index, block_size, grid_size;
  int lane;                 // of the running thread in its warp
  void* dynamic_shared;     // of the running thread's block

  int (*barrier)(Count kind, int predicate, int line);
  // One operation of the lanes in `mask`; the value of lane `source`, or a vote on value != 0.
  uint64_t (*warp)(Vote kind, unsigned mask, uint64_t value, int source, int line, const char* name);
  void (*access)(const void* address, size_t size, int flags, const void* return_address);  // 1 write, 2 volatile
  void (*atomic)(const void* address, size_t size, int line);       // before the update: checks, ordering, a scheduling point
  void (*fence)(int whole_grid);
  void (*sleep)();
  void (*fail)(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));
};

struct Argument {             // of one launch, as Python hands it over
  void* host;                 // an array's memory, or where a scalar's bytes lie
  size_t bytes;               // of an array; 0 for a scalar
  int item;                   // bytes of one element
  int kind;                   // 0 scalar, 1 array that may be written, 2 array behind a pointer to const, 3 null pointer
};

struct Launch {
  void (*run)(void** parameters);
  void (*touch_shared)();     // makes sure that the module's static shared memory exists on this OS thread
  const void* inside;         // any address inside the module
  Argument* arguments;
  int n_arguments;
  unsigned grid[3], block[3];
  size_t shared_bytes;
  uint64_t seed;
  int order;                  // 0 random, 1 forward, 2 reverse
  int resident;               // blocks alive at once
  int preempt;                // in random order a thread is interrupted about every `preempt` memory accesses; 0: never
  int races;                  // whether unordered accesses are errors
  int uninitialised;          // whether reading shared memory that nobody has written to is one
  long long budget;           // switches and memory accesses after which the launch counts as never ending
  // results
  char message[1024];
  char line[40];              // the line that failed, or
  const void *where, *other;  // the instruction, and that of an earlier access, {other} in the message; Python asks addr2line
  long long switches, accesses;
};

}  // namespace emulator
