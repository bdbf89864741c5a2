// Runs the grid of a CUDA kernel on one OS thread: one fiber per CUDA thread, in an order drawn from a seed.
//
// A run is a pure function of the module, the arguments and the schedule. Memory is checked at every access (cuda_on_cpu.h
// says how that is arranged), so what is reported does not depend on what an illegal access happens to hit.
#include "runtime.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
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
  bool unfenced = false;        // has written to global memory since its last __threadfence
};

struct Block {
  int number;                   // in the grid; -1: this slot is empty
  Index3 index;
  std::vector<Thread> threads;
  std::vector<int> ready;       // used from its end
  std::vector<char> shared;     // static shared memory while another block runs
  std::vector<char> dynamic;
  int live, waiting, exited, line;
  Count count;
  uint32_t epoch;               // barriers passed, from 1
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

// -- waking ---------------------------------------------------------------------------------------------------------

void make_ready(Thread& t) {
  t.state = State::ready;
  t.block->ready.push_back(t.number);
}

template <class F>
void for_threads_in_waking_order(Block& b, int from, int to, F f) {  // `ready` is used from its end
  if (launch->order == 1)
    for (int i = to; i-- > from;) f(b.threads[i]);
  else
    for (int i = from; i < to; ++i) f(b.threads[i]);
}

void pass_barrier(Block& b) {
  int holds = 0;
  for (Thread& t : b.threads) holds += t.state == State::at_barrier && t.predicate;
  uint64_t result = b.count == Count::count ? holds : b.count == Count::any ? holds > 0 : b.count == Count::all ? holds == b.waiting : 0;
  b.waiting = 0;
  b.epoch++;
  for_threads_in_waking_order(b, 0, (int)b.threads.size(), [&](Thread& t) {
    if (t.state == State::at_barrier) {
      t.result = result;
      make_ready(t);
    }
  });
}

int barrier(Count count, int predicate, int line) {
  Block& b = *current->block;
  idle = 0;
  if (b.waiting == 0) {
    b.line = line;
    b.count = count;
  } else if (b.line != line) {
    fail("__syncthreads in line %d while %d threads of the block wait at the one in line %d", line, b.waiting, b.line);
  }
  if (b.exited) fail("__syncthreads in line %d, which %d threads of the block that have returned never reach", line, b.exited);
  current->predicate = predicate != 0;
  current->line = line;
  current->state = State::at_barrier;
  if (++b.waiting == b.live) pass_barrier(b);
  to_scheduler();
  return (int)current->result;
}

// Completes the operation that `t` waits at if all lanes of its mask wait at it. Lanes that the block does not have are not
// waited for; a lane that has returned is an error, although a device may let it pass.
void try_warp(Thread& t) {
  Block& b = *t.block;
  int first = t.number & ~(WARP - 1), n = std::min<int>(WARP, (int)b.threads.size() - first);
  unsigned here = 0, votes = 0;
  for (int l = 0; l < n; ++l) {
    if (!(t.mask >> l & 1)) continue;
    Thread& other = b.threads[first + l];
    if (other.state == State::done) fail("%s in line %d names lane %d in its mask 0x%08x, which has returned", t.name, t.line, l, t.mask);
    if (other.state != State::at_warp) return;
    if (other.line != t.line || strcmp(other.name, t.name))
      fail("%s in line %d, while lane %d of its mask 0x%08x is at %s in line %d", t.name, t.line, l, t.mask, other.name, other.line);
    if (other.mask != t.mask)
      fail("%s in line %d with mask 0x%08x, while lane %d gives the mask 0x%08x", t.name, t.line, t.mask, l, other.mask);
    here |= 1u << l;
    if (other.value) votes |= 1u << l;
  }
  for (int l = 0; l < n; ++l) {
    if (!(here >> l & 1)) continue;
    Thread& other = b.threads[first + l];
    int s = other.source & (WARP - 1);
    switch (other.vote) {
      case Vote::none: break;
      case Vote::shuffle: other.result = here >> s & 1 ? b.threads[first + s].value : ~0ull; break;  // else undefined: poison
      case Vote::ballot: other.result = votes; break;
      case Vote::any: other.result = votes != 0; break;
      case Vote::all: other.result = votes == here; break;
    }
  }
  for_threads_in_waking_order(b, first, first + n, [&](Thread& other) {
    if (here >> (other.number - first) & 1) make_ready(other);
  });
}

uint64_t warp(Vote vote, unsigned mask, uint64_t value, int source, int line, const char* name) {
  idle = 0;
  if (!(mask >> runtime.lane & 1)) fail("%s in line %d: lane %d is not in its own mask 0x%08x", name, line, runtime.lane, mask);
  current->vote = vote;
  current->mask = mask;
  current->value = value;
  current->source = source;
  current->line = line;
  current->name = name;
  current->state = State::at_warp;
  try_warp(*current);
  to_scheduler();
  return current->result;
}

void yield() {  // behind everybody else
  Block& b = *current->block;
  current->state = State::ready;
  b.ready.insert(b.ready.begin(), current->number);
  burst = 0;
  to_scheduler();
}

void sleep() {
  if (++idle > 200000) fail("livelock: 200000 calls of __nanosleep in which nothing else happened");
  yield();
}

void preempt() {
  until_preemption = launch->preempt > 0 ? 1 + (int)draw_below(2 * (size_t)launch->preempt) : 1 << 30;
  make_ready(*current);
  to_scheduler();
}

// -- memory ---------------------------------------------------------------------------------------------------------

[[noreturn]] void bad_access(const char* p, size_t size, bool write, const void* where) {
  char text[400];
  const Region* near = nullptr;
  size_t distance = 0;
  bool after = false;
  for (const Region& r : regions) {
    size_t d = p < r.base ? (size_t)(r.base - p) : p >= r.base + r.bytes ? (size_t)(p - (r.base + r.bytes)) : 0;
    if (!near || d < distance) near = &r, distance = d, after = p >= r.base + r.bytes;
  }
  const char* verb = write ? "writes" : "reads";
  if (near && distance < 1u << 20) {
    if (p >= near->base && p < near->base + near->bytes)
      snprintf(text, sizeof text, "%s %zu bytes across the end of argument %d (%zu bytes)", verb, size, near->argument, near->bytes);
    else
      snprintf(text, sizeof text, "%s %zu bytes %s argument %d (element %lld of %zu)", verb, size, after ? "after" : "before", near->argument,
               (long long)((p - near->base) - (p < near->base ? near->item - 1 : 0)) / near->item, near->bytes / near->item);
  } else {
    snprintf(text, sizeof text, "%s %zu bytes at %p, which belongs to no argument and to no shared memory", verb, size, (const void*)p);
  }
  stop(text, where);
}

void access(const void* address, size_t size, int is_write, const void* where) {
  const char* p = static_cast<const char*>(address);
  if ((size_t)(p - current->stack) < STACK) return;
  ++launch->accesses;
  if (launch->accesses > launch->budget) stop("livelock: the launch's budget of memory accesses is spent", where);
  if (!(last_region && p >= last_region->base && p + size <= last_region->base + last_region->bytes)) {
    last_region = nullptr;
    for (Region& r : regions)
      if (p >= r.base && p + size <= r.base + r.bytes) last_region = &r;
  }
  if (last_region) {
    if (is_write && !last_region->writable) {
      char text[200];
      snprintf(text, sizeof text, "writes to argument %d, which the kernel takes as pointer to const", last_region->argument);
      stop(text, where);
    }
  } else if ((size_t)(p - shared_base) < shared_bytes) {
    if (p + size > shared_base + shared_bytes) stop("access across the end of static shared memory", where);
  } else if (const char* d = static_cast<const char*>(runtime.dynamic_shared); p >= d && p < d + launch->shared_bytes + CANARY) {
    if (p + size > d + launch->shared_bytes) {
      char text[200];
      snprintf(text, sizeof text, "%s dynamic shared memory at byte %zu of %zu", is_write ? "writes" : "reads", (size_t)(p - d), launch->shared_bytes);
      stop(text, where);
    }
  } else if (p >= module_low && p < module_high) {
    if (is_write) stop("writes to a variable of the module: __device__ and __constant__ data are read-only in the emulator", where);
    return;
  } else {
    bad_access(p, size, is_write, where);
  }
  if (--until_preemption <= 0) preempt();
}

void atomic(const void* address, size_t size, int line) {
  idle = 0;
  (void)line;
  if ((size_t)address % size) fail("line %d: an atomic on a misaligned address", line);
  access(address, size, 1, __builtin_return_address(0));
  if (launch->order == 0) preempt();
}

void fence(int whole_grid) {
  if (whole_grid && launch->order == 0) preempt();
}

bool in_canary(const Region& r, size_t* at) {
  for (size_t i = 0; i < CANARY; ++i) {
    if ((unsigned char)(r.base - CANARY)[i] != POISON) return *at = i - CANARY, true;
    if ((unsigned char)(r.base + r.bytes)[i] != POISON) return *at = r.bytes + i, true;
  }
  return false;
}

void copy_in() {
  regions.clear();
  last_region = nullptr;
  for (int k = 0; k < launch->n_arguments; ++k) {
    const Argument& a = launch->arguments[k];
    if ((a.kind == 1 || a.kind == 2) && a.bytes)
      regions.push_back({static_cast<char*>(a.host), a.bytes, k, a.item, a.kind == 1, nullptr, nullptr});
  }
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.host < b.host; });
  std::vector<Region> joined;   // arrays that share memory share it in the copy too
  for (const Region& r : regions) {
    if (!joined.empty() && r.host < joined.back().host + joined.back().bytes) {
      Region& j = joined.back();
      j.bytes = std::max(j.host + j.bytes, r.host + r.bytes) - j.host;
      j.writable |= r.writable;
      j.argument = std::min(j.argument, r.argument);
    } else {
      joined.push_back(r);
    }
  }
  regions.swap(joined);
  for (Region& r : regions) {
    r.raw = static_cast<char*>(aligned_alloc(512, (r.bytes + 2 * CANARY + 1024) / 512 * 512));
    r.base = r.raw + CANARY + (size_t)r.host % 512;   // as well aligned as the array is
    memset(r.base - CANARY, POISON, CANARY);
    memset(r.base + r.bytes, POISON, CANARY);
    memcpy(r.base, r.host, r.bytes);
  }
}

void copy_out() {
  for (Region& r : regions) {
    size_t at;
    if (in_canary(r, &at)) {
      current = nullptr;
      char text[200];
      snprintf(text, sizeof text, "memory outside of argument %d was written, at byte %lld", r.argument, (long long)at);
      report(text, nullptr);
    }
    if (r.writable) memcpy(r.host, r.base, r.bytes);
    free(r.raw);
  }
}

// -- the scheduler --------------------------------------------------------------------------------------------------

std::vector<void*> parameters;

void run_thread() {
  launch->run(parameters.data());
  Thread& t = *current;
  Block& b = *t.block;
  t.state = State::done;
  idle = 0;
  b.live--;
  b.exited++;
  if (b.waiting) fail("returns, while %d threads of the block wait at __syncthreads in line %d", b.waiting, b.line);
  int first = t.number & ~(WARP - 1);
  for (int l = first; l < std::min<int>(first + WARP, (int)b.threads.size()); ++l)
    if (b.threads[l].state == State::at_warp && b.threads[l].mask >> (t.number - first) & 1) try_warp(b.threads[l]);
  to_scheduler();
  abort();
}

void give_stack(Thread& t) {
  if (stacks.empty()) {
    void* m = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) abort();
    mprotect(m, 4096, PROT_NONE);
    stacks.push_back(static_cast<char*>(m));
  }
  t.stack = stacks.back();
  stacks.pop_back();
#ifdef EMULATOR_UCONTEXT
  getcontext(&t.context);
  t.context.uc_stack.ss_sp = t.stack;
  t.context.uc_stack.ss_size = STACK;
  t.context.uc_link = nullptr;
  makecontext(&t.context, run_thread, 0);
#else
  void** top = reinterpret_cast<void**>(t.stack + STACK);
  top[-1] = nullptr;            // where run_thread would return to
  top[-2] = reinterpret_cast<void*>(&run_thread);
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  t.stack_pointer = top - 8;
#endif
}

void start_block(Block& b, size_t number) {
  const unsigned *g = launch->grid, *s = launch->block;
  size_t n = (size_t)s[0] * s[1] * s[2];
  b.number = (int)number;
  b.index = {(unsigned)(number % g[0]), (unsigned)(number / g[0] % g[1]), (unsigned)(number / g[0] / g[1])};
  b.live = (int)n;
  b.waiting = b.exited = b.line = 0;
  b.epoch = 1;
  b.shared.assign(shared_bytes, (char)POISON);
  b.dynamic.assign(launch->shared_bytes + CANARY + 16, (char)POISON);
  b.threads.assign(n, Thread{});
  b.ready.clear();
  for (size_t i = 0; i < n; ++i) {
    Thread& t = b.threads[i];
    t.block = &b;
    t.number = (int)i;
    t.index = {(unsigned)(i % s[0]), (unsigned)(i / s[0] % s[1]), (unsigned)(i / s[0] / s[1])};
    b.ready.push_back((int)(launch->order == 1 ? n - 1 - i : i));
  }
  if (loaded == &b) loaded = nullptr;
}

char* dynamic_of(Block& b) { return reinterpret_cast<char*>(((size_t)b.dynamic.data() + 15) & ~(size_t)15); }

void check_dynamic(Block& b) {
  const char* end = dynamic_of(b) + launch->shared_bytes;
  for (const char* p = end; p < end + CANARY; ++p)
    if ((unsigned char)*p != POISON) {
      report("dynamic shared memory was written past its end", nullptr);
      return;
    }
}

void run_some(Thread& t) {
  Block& b = *t.block;
  if (loaded != &b) {
    if (loaded && loaded->number >= 0) memcpy(loaded->shared.data(), shared_base, shared_bytes);
    memcpy(shared_base, b.shared.data(), shared_bytes);
    loaded = &b;
  }
  if (t.state == State::fresh) {
    give_stack(t);
    t.state = State::ready;
  }
  current = &t;
  runtime.thread_index = t.index;
  runtime.block_index = b.index;
  runtime.lane = t.number & (WARP - 1);
  runtime.dynamic_shared = dynamic_of(b);
#ifdef EMULATOR_UCONTEXT
  swapcontext(&scheduler_context, &t.context);
#else
  emulator_switch(&scheduler_stack_pointer, t.stack_pointer);
#endif
  if (t.state == State::done) {
    stacks.push_back(t.stack);
    t.stack = nullptr;
  }
}

void report_deadlock() {
  std::string text = "deadlock:";
  char part[200];
  int shown = 0;
  for (Block& b : blocks) {
    if (b.number < 0) continue;
    if (b.waiting && shown++ < 4) {
      snprintf(part, sizeof part, " in block (%u, %u, %u) %d of %d threads wait at __syncthreads in line %d;", b.index.x, b.index.y, b.index.z, b.waiting,
               b.live, b.line);
      text += part;
    }
    for (Thread& t : b.threads)
      if (t.state == State::at_warp && shown++ < 4) {
        snprintf(part, sizeof part, " thread %d waits at %s in line %d for all of the mask 0x%08x;", t.number, t.name, t.line, t.mask);
        text += part;
      }
  }
  text.pop_back();
  current = nullptr;
  report(text.c_str(), nullptr);
}

int find_segment(dl_phdr_info* info, size_t, void*) {
  char *low = nullptr, *high = nullptr;
  char* tls = nullptr;
  size_t tls_bytes = 0;
  for (int k = 0; k < info->dlpi_phnum; ++k) {
    const ElfW(Phdr)& h = info->dlpi_phdr[k];
    if (h.p_type == PT_LOAD) {
      char* from = reinterpret_cast<char*>(info->dlpi_addr + h.p_vaddr);
      if (!low || from < low) low = from;
      if (from + h.p_memsz > high) high = from + h.p_memsz;
    } else if (h.p_type == PT_TLS) {
      tls = static_cast<char*>(info->dlpi_tls_data);
      tls_bytes = h.p_memsz;
    }
  }
  const char* inside = static_cast<const char*>(launch->inside);
  if (inside < low || inside >= high) return 0;
  module_low = low;
  module_high = high;
  shared_base = tls;
  shared_bytes = tls_bytes;
  return 1;
}

void run_grid() {
  size_t n_blocks = (size_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
  std::vector<size_t> order(n_blocks);
  for (size_t i = 0; i < n_blocks; ++i) order[i] = launch->order == 2 ? n_blocks - 1 - i : i;
  if (launch->order == 0)
    for (size_t i = n_blocks; i > 1; --i) std::swap(order[i - 1], order[draw_below(i)]);
  size_t n_resident = std::min<size_t>(std::max(launch->resident, 1), n_blocks), next = 0, left = n_blocks;
  blocks.assign(n_resident, Block{});
  for (Block& b : blocks) start_block(b, order[next++]);
  Block* b = &blocks[0];
  while (left && !failed) {
    bool leave = b->number < 0 || b->ready.empty() || burst <= 0;
    if (leave) {                // to another block that can go on: a random one, or the next
      size_t from = (size_t)(b - blocks.data()), step = launch->order == 0 ? draw_below(n_resident) : 1;
      Block* found = nullptr;
      for (size_t i = 0; i < n_resident && !found; ++i) {
        Block* candidate = &blocks[(from + step + i) % n_resident];
        if (candidate->number >= 0 && !candidate->ready.empty()) found = candidate;
      }
      if (!found) {
        report_deadlock();
        break;
      }
      b = found;
      burst = launch->order == 0 ? 1 + (int)draw_below(64) : 1 << 30;
    }
    --burst;
    if (launch->order == 0) std::swap(b->ready[draw_below(b->ready.size())], b->ready.back());
    Thread& t = b->threads[b->ready.back()];
    b->ready.pop_back();
    if (++launch->switches > launch->budget) {
      report("livelock: the launch's budget of switches is spent", nullptr);
      break;
    }
    run_some(t);
    if (!failed && b->live == 0) {
      current = &t;
      check_dynamic(*b);
      left--;
      if (loaded == b) loaded = nullptr;
      b->number = -1;
      if (next < n_blocks) start_block(*b, order[next++]);
    }
  }
  if (failed)
    for (Block& rest : blocks)
      for (Thread& t : rest.threads)
        if (t.stack) stacks.push_back(t.stack);
  blocks.clear();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Runtime* emulator_runtime() {
  runtime.barrier = barrier;
  runtime.warp = warp;
  runtime.access = access;
  runtime.atomic = atomic;
  runtime.fence = fence;
  runtime.sleep = sleep;
  runtime.fail = fail;
  return &runtime;
}

// 0, or 1 with launch->message set. One launch at a time: the caller holds a lock.
extern "C" __attribute__((visibility("default"))) int emulator_launch(Launch* l) {
  launch = l;
  failed = false;
  current = nullptr;
  loaded = nullptr;
  idle = 0;
  burst = 0;
  l->message[0] = 0;
  l->where = nullptr;
  l->switches = l->accesses = 0;
  random_state = (l->seed + 1) * 0x9e3779b97f4a7c15ull;
  for (int i = 0; i < 4; ++i) draw();
  until_preemption = l->order == 0 && l->preempt > 0 ? 1 + (int)draw_below(2 * (size_t)l->preempt) : 1 << 30;
  l->touch_shared();
  dl_iterate_phdr(find_segment, nullptr);
  runtime.grid_size = {l->grid[0], l->grid[1], l->grid[2]};
  runtime.block_size = {l->block[0], l->block[1], l->block[2]};
  runtime.dynamic_bytes = l->shared_bytes;
  copy_in();
  std::vector<void*> addresses(l->n_arguments);
  parameters.resize(l->n_arguments);
  for (int k = 0; k < l->n_arguments; ++k) {
    const Argument& a = l->arguments[k];
    if (a.kind == 0) {
      parameters[k] = a.host;
      continue;
    }
    addresses[k] = nullptr;
    for (Region& r : regions)
      if (a.kind != 3 && a.bytes && static_cast<char*>(a.host) >= r.host && static_cast<char*>(a.host) < r.host + r.bytes)
        addresses[k] = r.base + (static_cast<char*>(a.host) - r.host);
    parameters[k] = &addresses[k];
  }
  run_grid();
  copy_out();
  return failed;
}

}  // namespace emulator
