// Whether two accesses to one place are ordered. Part of runtime.cpp.
//
// What orders an access before a later one by another thread: a barrier of the block between them; a __syncwarp that both
// lanes pass between them (shuffles and votes order nothing); and between blocks, a __threadfence after the access, then an
// atomic (or volatile) write, which an atomic (or volatile) access of the other block reads: the pattern of "the last block
// adds up". Two writes of the same value need no order. Of the readers of a place since its last write two are remembered,
// so a few races pass unseen, depending on the schedule; no ordered accesses are reported.
#pragma once
#include "state.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace emulator {
namespace {

std::unordered_map<const void*, View> published;  // by address of an atomic

void merge(View& into, const Seen& s) {
  for (Seen& known : into)
    if (known.block == s.block && known.thread == s.thread) {
      known.epoch = std::max(known.epoch, s.epoch);
      known.step = std::max(known.step, s.step);
      return;
    }
  into.push_back(s);
}

bool ordered(const Stamp& before) {
  Block& b = *current->block;
  int block = (int)((before.who - 1) / 1024), thread = (int)((before.who - 1) % 1024);
  if (block == b.number) {
    if (before.epoch < b.epoch) return true;
    if (thread / WARP != current->number / WARP || b.warp_clocks.empty()) return false;
    return b.clocks_of(current->number)[thread % WARP] >= before.clock;
  }
  for (const Seen& s : b.view)
    if (s.block == block && (before.epoch <= s.epoch || ((uint32_t)thread == s.thread && before.step <= s.step))) return true;
  return false;
}

void publish(const void* address) {  // an atomic write
  Block& b = *current->block;
  // A thread's writes are out once it has fenced them itself, or a barrier lies between them and this thread's fence.
  uint32_t full = b.epoch - 1;
  for (const Thread& t : b.threads)
    if (t.unfenced_epoch && t.unfenced_epoch >= current->fence_epoch) full = std::min(full, t.unfenced_epoch - 1);
  uint32_t own = current->unfenced_epoch ? current->unfenced_step - 1 : current->step;
  View& view = published[address];
  for (const Seen& s : b.view) merge(view, s);
  merge(view, {b.number, full, (uint32_t)current->number, own});
  current->step++;
}

void acquire(const void* address) {
  auto found = published.find(address);
  if (found == published.end()) return;
  for (const Seen& s : found->second)
    if (s.block != current->block->number) merge(current->block->view, s);
}

void fence_memory() {
  current->unfenced_epoch = 0;
  current->fence_epoch = current->block->epoch;
}

// Lanes that pass a __syncwarp together know from then on what each of them has done.
void synchronise_clocks(Block& b, int first, unsigned lanes) {
  if (b.warp_clocks.empty()) {
    size_t warps = (b.threads.size() + WARP - 1) / WARP;
    b.warp_clocks.assign(warps * WARP * WARP, 0);
    for (size_t i = 0; i < warps * WARP; ++i) b.warp_clocks[i * WARP + i % WARP] = 1;
  }
  uint32_t joint[WARP] = {};
  for (int l = 0; l < WARP; ++l)
    if (lanes >> l & 1)
      for (int k = 0; k < WARP; ++k) joint[k] = std::max(joint[k], b.clocks_of(first + l)[k]);
  for (int l = 0; l < WARP; ++l)
    if (lanes >> l & 1) {
      memcpy(b.clocks_of(first + l), joint, sizeof joint);
      b.clocks_of(first + l)[l]++;
    }
}

std::string describe(const Stamp& s) {
  size_t number = (s.who - 1) / 1024, thread = (s.who - 1) % 1024;
  const unsigned *g = launch->grid, *n = launch->block;
  char text[160];
  snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", (unsigned)(number % g[0]), (unsigned)(number / g[0] % g[1]),
           (unsigned)(number / g[0] / g[1]), (unsigned)(thread % n[0]), (unsigned)(thread / n[0] % n[1]), (unsigned)(thread / n[0] / n[1]));
  return text;
}

struct Target {               // what an access goes to, in words only if they are needed
  const Region* region;       // null: shared memory
  const char* kind;
  size_t at;                  // element of the argument, byte of the shared memory

  std::string text() const {
    char t[100];
    if (region) snprintf(t, sizeof t, "element %zu of argument %d", at, region->argument);
    else snprintf(t, sizeof t, "byte %zu of %s shared memory", at, kind);
    return t;
  }
};

std::string race_text(const Stamp& before, bool wrote, bool writes, const Target& target) {
  char text[500], line[40] = " in {other}";
  if (before.place & LINE) snprintf(line, sizeof line, " in line %u", before.place & PLACE);
  snprintf(text, sizeof text, "race: %s %s, which %s %s%s; nothing orders the two", writes ? "writes" : "reads", target.text().c_str(),
           describe(before).c_str(), wrote ? "wrote" : "read", line);
  return text;
}

[[noreturn]] void race(const Stamp& before, const std::string& text, const void* where) {
  launch->other = before.place & LINE ? nullptr : module_low + (before.place & PLACE);
  stop(text.c_str(), where);
}

// A write over another thread's: a race unless it writes the value that is there, which shows at the thread's next step.
struct Overwrite {
  const char* address = nullptr;
  size_t size;
  char value[16];
  Stamp before;
  std::string text;
  const void* where;
} overwrite;

void settle_overwrite() {
  if (!overwrite.address) return;
  const char* p = overwrite.address;
  overwrite.address = nullptr;
  if (memcmp(p, overwrite.value, overwrite.size)) race(overwrite.before, overwrite.text, overwrite.where);
}

// One access to one cell, which it then remembers. p: the memory of the whole access.
void track(Cell& cell, const char* p, size_t size, bool write, const Stamp& now, const Target& target, const void* where) {
  bool atomic = now.place & ATOMIC;
  auto conflicts = [&](const Stamp& s) { return s.who && s.who != now.who && !(atomic && s.place & ATOMIC) && !ordered(s); };
  if (write)
    for (const Stamp& r : cell.read)
      if (conflicts(r)) race(r, race_text(r, false, true, target), where);
  if (conflicts(cell.write)) {
    if (!write || atomic || size > sizeof overwrite.value) race(cell.write, race_text(cell.write, true, write, target), where);
    overwrite.address = p;
    overwrite.size = size;
    memcpy(overwrite.value, p, size);
    overwrite.before = cell.write;
    overwrite.text = race_text(cell.write, true, true, target);
    overwrite.where = where;
  }
  if (write) {
    cell.write = now;
    cell.read[0] = cell.read[1] = Stamp{};
  } else {
    if (cell.read[0].who != now.who) cell.read[1] = cell.read[0];
    cell.read[0] = now;
  }
}

}  // namespace
}  // namespace emulator
