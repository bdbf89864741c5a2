// The threads of the launch in progress, and how one fiber leaves the processor to another. Part of runtime.cpp.
#pragma once
#include "runtime.h"

#include <sys/mman.h>
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace emulator {
namespace {

constexpr size_t STACK = 256 * 1024;   // reserved, not touched: a thread costs the pages that it uses
constexpr size_t CANARY = 4096;        // bytes on both sides of every array
constexpr unsigned char POISON = 0xff; // NaN as a float, -1 as an integer
constexpr int WARP = 32;

enum class State : uint8_t { fresh, ready, at_barrier, at_warp, done };

struct Block;

struct Thread {
  Block* block;
  int number;                   // in its block
  Index3 index;
  State state = State::fresh;
  char* stack = nullptr;
#ifdef EMULATOR_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  int predicate = 0, line = 0;  // of the barrier or warp operation where it waits
  Vote vote = Vote::none;
  unsigned mask = 0;
  int source = 0;
  uint64_t value = 0, result = 0;
  const char* name = "";
  uint32_t fence_epoch = 0;     // when it last called __threadfence; 0: not yet
  uint32_t step = 1;            // 1 + atomic and volatile writes so far
  uint32_t unfenced_epoch = 0;  // when it first wrote to an array since then; 0: it has not
  uint32_t unfenced_step = 0;
};

struct Stamp {                // an access
  uint32_t who;               // 1 + 1024 * block + thread; 0: none
  uint32_t epoch, clock;      // barriers of its block, and synchronisations of its warp, until then
  uint32_t step;              // atomic writes of its thread until then
  uint32_t place;             // where in the code: bit 31 atomic or volatile, bit 30 a line, else an offset into the module
};
constexpr uint32_t ATOMIC = 1u << 31, LINE = 1u << 30, PLACE = LINE - 1;

struct Cell {                 // what is known of a few neighbouring bytes
  Stamp write, read[2];
};

// What a thread of a block has made visible: everything of the block up to an epoch, and of its own up to a step.
struct Seen {
  int block;
  uint32_t epoch, thread, step;
};
typedef std::vector<Seen> View;

struct Block {
  int number;                   // in the grid; -1: this slot is empty
  size_t position;              // in the order in which blocks start
  Index3 index;
  std::vector<Thread> threads;
  std::vector<int> ready;       // used from its end
  std::vector<char> shared;     // static shared memory while another block runs
  std::vector<char> dynamic;
  int live, waiting, at_warp, exited, line;  // threads: not returned, at the barrier in `line`, at a warp operation, returned
  Count count;
  uint32_t epoch;               // barriers passed, from 1
  std::vector<Cell> cells;      // of its shared memory, static first: see races.h
  std::vector<uint32_t> warp_clocks;  // per thread: how much it knows of each lane of its warp; empty before the first __syncwarp
  View view;                    // what it knows of other blocks

  uint32_t* clocks_of(int thread) { return &warp_clocks[(size_t)thread * WARP]; }
};

// -- switching ------------------------------------------------------------------------------------------------------

#ifdef EMULATOR_UCONTEXT
ucontext_t scheduler_context;
#else
extern "C" void emulator_switch(void** save, void* to);
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:              # save what a callee must keep, exchange stacks, restore
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulator_switch,.-emulator_switch
)");
void* scheduler_stack_pointer;
#endif

// -- the state of the launch in progress ----------------------------------------------------------------------------

struct Region {                 // an array, or overlapping arrays, of the launch
  char* host;
  size_t bytes;
  int argument, item;
  bool writable;
  char* raw;                    // the emulator's copy between two canaries
  char* base;
  Cell* cells;                  // one per `grain` bytes; null if nothing may write to it
  size_t grain;
};

Runtime runtime;
Launch* launch;
Thread* current;
Block* loaded;                  // whose static shared memory is in place
std::vector<Block> blocks;
std::vector<char*> stacks;      // unused ones
std::vector<Region> regions;
Region* last_region;
char *shared_base, *module_low, *module_high;
size_t shared_bytes;
uint64_t random_state;
bool failed;
int burst, until_preemption;
long long idle;                 // sleeps since anything else happened

uint64_t draw() {               // xorshift64*
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545f4914f6cdd1dull;
}
unsigned draw_below(size_t n) { return (unsigned)((draw() >> 32) * n >> 32); }

void to_scheduler() {
#ifdef EMULATOR_UCONTEXT
  swapcontext(&current->context, &scheduler_context);
#else
  emulator_switch(&current->stack_pointer, scheduler_stack_pointer);
#endif
}

std::string name_of(const Thread& t) {
  char text[160];
  const Index3 &b = t.block->index, &i = t.index;
  snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", b.x, b.y, b.z, i.x, i.y, i.z);
  return text;
}

void report(const char* text, const void* where) {  // the first one counts
  if (failed) return;
  failed = true;
  snprintf(launch->message, sizeof launch->message, "%s%s%s", current ? name_of(*current).c_str() : "", current ? ": " : "", text);
  launch->where = where;
}

[[noreturn]] void stop(const char* text, const void* where) {
  report(text, where);
  to_scheduler();               // which ends the launch: nothing on a fiber's stack needs to be cleaned up
  abort();
}

[[noreturn]] void fail(const char* format, ...) {
  char text[600];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  stop(text, nullptr);
}

void preempt();                 // of the scheduler: lets others run

}  // namespace
}  // namespace emulator
