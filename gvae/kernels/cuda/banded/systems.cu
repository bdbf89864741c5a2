// Recurrences on a sparse lower-triangular factor in diagonal storage: the twins of gvae/kernels/cpu/banded.py, whose
// docstring has storage and letters (i row, j column, k diagonal, d distance, f factor, r right-hand side).
//
// A recurrence is serial in its columns. A warp takes several systems: one per lane where a column is one number (solve), or
// one per group of `group` lanes where the entries of a column are independent of each other (inverse, factorisation).
// Arrays are batch-first, so that a lane's neighbour in memory is its own next column. With width > 0 the warp therefore
// brings `width` columns of all its systems to shared memory, whole lines of 128 bytes at a time, works there, and takes the
// results back: what `pack` and `unpack` are on the CPU. A window also holds the columns before or after the tile that the
// recurrence still reads. width = 0 is the same recurrence on the arrays themselves, where a window would not fit.

constexpr int DEEP = 8;  // loads that each lane has on their way before it waits for the first

// Columns of one system, (rows, columns from `origin` on): in shared memory or in the array itself.
template <typename T> struct View {
  T* base;
  int pitch, origin;
  __device__ __forceinline__ T& operator()(int k, int j) const { return base[k * pitch + (j - origin)]; }
};

// Which systems and which column of a tile a lane brings to shared memory and back: neighbours in memory are neighbours in a
// row. width is a power of two, at most LANES.
struct Mover {
  int column, system, step;
  __device__ __forceinline__ explicit Mover(int width)
      : column(threadIdx.x & (width - 1)), system(threadIdx.x / width), step(LANES / width) {}
};

// tile[l * pitch + c] = flat[start[l] + first + c] for systems l < n and columns c < width; what lies outside [0, N) stays.
template <typename T>
__device__ __forceinline__ void fetch(const T* __restrict__ flat, const int64* start, int n, int first, int width, int N,
                                      T* __restrict__ tile, int pitch) {
  const Mover mover(width);
  const int j = first + mover.column;
  if (j < 0 || j >= N) return;
  for (int l0 = mover.system; l0 < n; l0 += mover.step * DEEP) {
    T value[DEEP];
#pragma unroll
    for (int u = 0; u < DEEP; ++u) {
      int l = l0 + mover.step * u;
      value[u] = l < n ? flat[start[l] + j] : T(0);
    }
#pragma unroll
    for (int u = 0; u < DEEP; ++u) {
      int l = l0 + mover.step * u;
      if (l < n) tile[l * pitch + mover.column] = value[u];
    }
  }
}

// flat[start[l] + first + c] = tile[l * pitch + c], the way back of `fetch`.
template <typename T>
__device__ __forceinline__ void deliver(const T* __restrict__ tile, int pitch, const int64* start, int n, int first, int width,
                                        int N, T* __restrict__ flat) {
  const Mover mover(width);
  const int j = first + mover.column;
  if (j >= N) return;
#pragma unroll 4
  for (int l = mover.system; l < n; l += mover.step) flat[start[l] + j] = tile[l * pitch + mover.column];
}

// 0, or the 1-based column of the first pivot in [first, last) that is not positive.
template <typename T> __device__ __forceinline__ int first_bad_pivot(const View<const T>& chol, int first, int last) {
  for (int j = first; j < last; ++j)
    if (!(chol(0, j) > T(0))) return j + 1;
  return 0;
}
