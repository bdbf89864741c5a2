// The memory that threads see: the arrays of a launch between canaries, static and dynamic shared memory; and the check of
// every access. Part of runtime.cpp.
#pragma once
#include "races.h"

#include <link.h>

#include <algorithm>
#include <cstring>

namespace emulator {
namespace {

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

// Everything that is known of an access: what lies there, whether it is allowed, whether it is ordered.
void check(const char* p, size_t size, bool write, bool atomic, const void* where, uint32_t place) {
  if (++launch->accesses > launch->budget) stop("livelock: the launch's budget of memory accesses is spent", where);
  Block& b = *current->block;
  if (!(last_region && p >= last_region->base && p + size <= last_region->base + last_region->bytes)) {
    last_region = nullptr;
    for (Region& r : regions)
      if (p >= r.base && p + size <= r.base + r.bytes) last_region = &r;
  }
  uint32_t clock = b.warp_clocks.empty() ? 1 : b.clocks_of(current->number)[current->number % WARP];
  Stamp now{1024u * b.number + current->number + 1, b.epoch, clock, current->step, place | (atomic ? ATOMIC : 0)};
  char what[100];
  if (Region* r = last_region) {
    if (write && !r->writable) {
      snprintf(what, sizeof what, "writes to argument %d, which the kernel takes as pointer to const", r->argument);
      stop(what, where);
    }
    if (write && !atomic && !current->unfenced_epoch) {
      current->unfenced_epoch = b.epoch;
      current->unfenced_step = current->step;
    }
    if (r->cells) {
      if (atomic) acquire(p);
      size_t first = (size_t)(p - r->base) / r->grain, last = (size_t)(p + size - 1 - r->base) / r->grain;
      Target target{r, nullptr, (size_t)(p - r->base) / r->item};
      for (size_t i = first; i <= last; ++i) track(r->cells[i], p, size, write, now, target, where);
      if (atomic && write) publish(p);
    }
    return;
  }
  const char* d = static_cast<const char*>(runtime.dynamic_shared);
  size_t offset = 0, cell = 0, limit = 0;  // of shared memory
  const char* kind = nullptr;
  if ((size_t)(p - shared_base) < shared_bytes) {
    kind = "static", offset = p - shared_base, limit = shared_bytes, cell = 0;
  } else if ((size_t)(p - d) < launch->shared_bytes + CANARY) {
    kind = "dynamic", offset = p - d, limit = launch->shared_bytes, cell = shared_bytes / 4 + 1;
  }
  if (kind) {
    if (offset + size > limit) {
      snprintf(what, sizeof what, "%s %s shared memory at byte %zu of %zu", write ? "writes" : "reads", kind, offset, limit);
      stop(what, where);
    }
    if (launch->races && size % 4 == 0 && offset % 4 == 0) {
      Target target{nullptr, kind, offset};
      for (size_t i = 0; i < size / 4; ++i) {
        Cell& c = b.cells[cell + offset / 4 + i];
        if ((c.write.who - 1) / 1024 != (uint32_t)b.number) {  // nobody's, or of a block that was here before
          c.write = Stamp{};
          for (Stamp& r : c.read)
            if ((r.who - 1) / 1024 != (uint32_t)b.number) r = Stamp{};
          if (launch->uninitialised && (!write || atomic))
            stop(("reads " + target.text() + ", to which its block has not written").c_str(), where);
        }
        track(c, p, size, write, now, target, where);
      }
    }
    return;
  }
  if (p >= module_low && p < module_high) {
    if (write) stop("writes to a variable of the module: __device__ and __constant__ data are read-only in the emulator", where);
    return;
  }
  bad_access(p, size, write, where);
}

uint32_t place_of(const void* where) { return (uint32_t)(static_cast<const char*>(where) - module_low) & PLACE; }

void access(const void* address, size_t size, int flags, const void* where) {
  const char* p = static_cast<const char*>(address);
  if ((size_t)(p - current->stack) < STACK) return;
  settle_overwrite();
  if (--until_preemption <= 0) preempt();  // before the check, so that nobody runs between that and the access itself
  check(p, size, flags & 1, flags & 2, where, place_of(where));
}

void atomic(const void* address, size_t size, int line) {
  idle = 0;
  settle_overwrite();
  if ((size_t)address % size) fail("line %d: an atomic on a misaligned address", line);
  if (launch->order == 0) preempt();
  snprintf(launch->line, sizeof launch->line, "line %d", line);
  check(static_cast<const char*>(address), size, true, true, nullptr, LINE | (uint32_t)line);
  launch->line[0] = 0;
}

void fence(int whole_grid) {
  settle_overwrite();
  if (!whole_grid) return;
  fence_memory();
  if (launch->order == 0) preempt();
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
      regions.push_back({static_cast<char*>(a.host), a.bytes, k, a.item, a.kind == 1, nullptr, nullptr, nullptr, 0});
  }
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.host < b.host; });
  std::vector<Region> joined;   // arrays that share memory share it in the copy too
  for (const Region& r : regions) {
    if (!joined.empty() && r.host < joined.back().host + joined.back().bytes) {
      Region& j = joined.back();
      j.bytes = std::max(j.host + j.bytes, r.host + r.bytes) - j.host;
      j.writable |= r.writable;
      j.argument = std::min(j.argument, r.argument);
      j.item = std::min(j.item, r.item);
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
    r.grain = std::min(r.item, 8);
    r.cells = launch->races && r.writable ? static_cast<Cell*>(calloc(r.bytes / r.grain + 1, sizeof(Cell))) : nullptr;
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
    free(r.cells);
  }
}

}  // namespace
}  // namespace emulator
