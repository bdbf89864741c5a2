// ---- recurrences with several independent entries per column: a group of lanes takes a system ----

// Which system and which part of a column's entries a lane has. A group without a system has the entries from IDLE on, which
// no column has: its lanes keep the warp in step and touch nothing.
struct Group {
  int lane, size, system, systems;  // in its group; lanes per group; group in the warp; groups of the warp with a system
  bool busy;
  int64 f;  // the factor
};

constexpr int IDLE = 1 << 30;

__device__ __forceinline__ Group group_of(int size, int64 lo, int64 hi) {
  int per_warp = LANES / size, system = int(threadIdx.x) / size, lane = int(threadIdx.x) % size;
  int64 first = lo + int64(blockIdx.x) * per_warp, f = first + system;
  int systems = hi - first < per_warp ? int(hi - first) : per_warp;
  bool busy = f < hi;
  return {busy ? lane : IDLE, size, system, systems, busy, busy ? f : lo};
}
