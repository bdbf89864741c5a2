// Runs the grid of a CUDA kernel on one OS thread: one fiber per CUDA thread, in an order drawn from a seed.
//
// A run is a pure function of the module, the arguments and the schedule. Memory is checked at every access (cuda_on_cpu.h
// says how that is arranged), so what is reported does not depend on what an illegal access happens to hit.
#include "memory.h"

namespace emulator {
namespace {

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
  settle_overwrite();
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
  if (t.vote == Vote::none) synchronise_clocks(b, first, here);
  for_threads_in_waking_order(b, first, first + n, [&](Thread& other) {
    if (here >> (other.number - first) & 1) {
      make_ready(other);
      b.at_warp--;
    }
  });
}

uint64_t warp(Vote vote, unsigned mask, uint64_t value, int source, int line, const char* name) {
  settle_overwrite();
  idle = 0;
  if (!(mask >> runtime.lane & 1)) fail("%s in line %d: lane %d is not in its own mask 0x%08x", name, line, runtime.lane, mask);
  current->vote = vote;
  current->mask = mask;
  current->value = value;
  current->source = source;
  current->line = line;
  current->name = name;
  current->state = State::at_warp;
  current->block->at_warp++;
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
  settle_overwrite();
  if (++idle > 200000) fail("livelock: 200000 calls of __nanosleep in which nothing else happened");
  yield();
}

void preempt() {
  until_preemption = launch->preempt > 0 ? 1 + (int)draw_below(2 * (size_t)launch->preempt) : 1 << 30;
  make_ready(*current);
  to_scheduler();
}

// -- the scheduler --------------------------------------------------------------------------------------------------

std::vector<void*> parameters;

void run_thread() {
  launch->run(parameters.data());
  settle_overwrite();
  Thread& t = *current;
  Block& b = *t.block;
  t.state = State::done;
  idle = 0;
  b.live--;
  b.exited++;
  if (b.waiting) fail("returns, while %d threads of the block wait at __syncthreads in line %d", b.waiting, b.line);
  int first = t.number & ~(WARP - 1);
  for (int l = first; b.at_warp && l < std::min<int>(first + WARP, (int)b.threads.size()); ++l)
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

void start_block(Block& b, size_t number, size_t position) {
  const unsigned *g = launch->grid, *s = launch->block;
  size_t n = (size_t)s[0] * s[1] * s[2];
  b.number = (int)number;
  b.position = position;
  b.index = {(unsigned)(number % g[0]), (unsigned)(number / g[0] % g[1]), (unsigned)(number / g[0] / g[1])};
  b.live = (int)n;
  b.waiting = b.at_warp = b.exited = b.line = 0;
  b.epoch = 1;
  b.warp_clocks.clear();
  b.view.clear();
  if (launch->races) b.cells.resize(shared_bytes / 4 + launch->shared_bytes / 4 + 2);
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

bool started_before(const Block& a, const Block& b) { return std::pair(a.number < 0, a.position) < std::pair(b.number < 0, b.position); }

// A block that can go on: a random one; else the next one after `last` in the order of starting, or the first.
Block* next_block(Block* last) {
  Block* found = nullptr;
  if (launch->order == 0) {
    size_t n = blocks.size(), from = draw_below(n);
    for (size_t i = 0; i < n && !found; ++i) {
      Block& b = blocks[(from + i) % n];
      if (b.number >= 0 && !b.ready.empty()) found = &b;
    }
  } else {
    auto rank = [&](Block& b) { return std::pair(b.position <= last->position, b.position); };
    for (Block& b : blocks)
      if (b.number >= 0 && !b.ready.empty() && (!found || rank(b) < rank(*found))) found = &b;
  }
  burst = launch->order == 0 ? 1 + (int)draw_below(64) : 1 << 30;
  return found;
}

void run_grid() {
  size_t n_blocks = (size_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
  std::vector<size_t> order(n_blocks);
  for (size_t i = 0; i < n_blocks; ++i) order[i] = launch->order == 2 ? n_blocks - 1 - i : i;
  if (launch->order == 0)
    for (size_t i = n_blocks; i > 1; --i) std::swap(order[i - 1], order[draw_below(i)]);
  size_t n_resident = std::min<size_t>(std::max(launch->resident, 1), n_blocks), next = 0, left = n_blocks;
  blocks.assign(n_resident, Block{});
  for (Block& b : blocks) start_block(b, order[next], next), ++next;
  Block* b = &blocks[0];
  burst = launch->order == 0 ? 0 : 1 << 30;
  while (left && !failed) {
    if (b->number < 0 || b->ready.empty() || burst <= 0) b = next_block(b);
    if (!b) {
      report_deadlock();
      break;
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
      if (next < n_blocks) start_block(*b, order[next], next), ++next;
      if (launch->order != 0) b = &*std::min_element(blocks.begin(), blocks.end(), started_before);
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
  l->message[0] = 0;
  l->line[0] = 0;
  l->where = l->other = nullptr;
  published.clear();
  overwrite.address = nullptr;
  l->switches = l->accesses = 0;
  random_state = (l->seed + 1) * 0x9e3779b97f4a7c15ull;
  for (int i = 0; i < 4; ++i) draw();
  until_preemption = l->order == 0 && l->preempt > 0 ? 1 + (int)draw_below(2 * (size_t)l->preempt) : 1 << 30;
  l->touch_shared();
  dl_iterate_phdr(find_segment, nullptr);
  runtime.grid_size = {l->grid[0], l->grid[1], l->grid[2]};
  runtime.block_size = {l->block[0], l->block[1], l->block[2]};
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
