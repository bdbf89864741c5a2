// The product of two matrices, for the layers of small networks: in one launch, in one order of summation, which depends on
// the shapes alone, and without a library, so that a stream may capture it.

constexpr int TILE = 32;    // rows and columns of the result that a block computes
constexpr int DEPTH = 16;   // of the inner axis at a time
constexpr int PITCH = TILE + 1;  // of a tile in shared memory, so that a column of it lies in several banks
constexpr int ROWS = 8, COLUMNS = 4;  // of the tile, by one lane: 4 x 8 lanes

// out[i, j] = sum_k x[i, k] y[k, j] for rows lo <= i < hi; out (m, n). x is (m, K), or (K, m) if it is turned; y likewise.
// A block's warps take the pieces of the inner axis in turn, each into a sum of its own; these are added in the warps' order.
template <typename T>
__global__ void __launch_bounds__(256)
product(const T* x, const T* y, T* out, int turn_x, int turn_y, int m, int n, int K, int64 lo, int64 hi) {
  DYN_SMEM(T, space);
  const int warps = blockDim.x / LANES, warp = threadIdx.x / LANES, lane = threadIdx.x & (LANES - 1);
  const int across = (n - 1) / TILE + 1;
  const int64 i0 = lo + int64(blockIdx.x / across) * TILE;
  const int j0 = int(blockIdx.x % across) * TILE;
  const int rows = int(hi - i0 < TILE ? hi - i0 : TILE), columns = n - j0 < TILE ? n - j0 : TILE;
  T *left = space + warp * 2 * DEPTH * PITCH, *right = left + DEPTH * PITCH;
  const int r = lane / 8, c = lane % 8;  // this lane: rows r, r + 4, ..., columns c, c + 8, ...
  T sums[ROWS][COLUMNS];
#pragma unroll
  for (int p = 0; p < ROWS; ++p)
#pragma unroll
    for (int q = 0; q < COLUMNS; ++q) sums[p][q] = T(0);

  for (int k0 = warp * DEPTH; k0 < K; k0 += warps * DEPTH) {
    // neighbouring lanes read neighbours in memory: along the inner axis or across it
    for (int e = lane; e < TILE * DEPTH; e += LANES) {
      int i = turn_x ? e % TILE : e / DEPTH, d = turn_x ? e / TILE : e % DEPTH;
      bool inside = i < rows && k0 + d < K;
      left[d * PITCH + i] = inside ? x[turn_x ? int64(k0 + d) * m + i0 + i : (i0 + i) * K + k0 + d] : T(0);
    }
    for (int e = lane; e < TILE * DEPTH; e += LANES) {
      int j = turn_y ? e / DEPTH : e % TILE, d = turn_y ? e % DEPTH : e / TILE;
      bool inside = j < columns && k0 + d < K;
      right[d * PITCH + j] = inside ? y[turn_y ? int64(j0 + j) * K + k0 + d : int64(k0 + d) * n + j0 + j] : T(0);
    }
    __syncwarp();
    for (int d = 0; d < DEPTH; ++d) {
      T a[ROWS], b[COLUMNS];
#pragma unroll
      for (int p = 0; p < ROWS; ++p) a[p] = left[d * PITCH + r + 4 * p];
#pragma unroll
      for (int q = 0; q < COLUMNS; ++q) b[q] = right[d * PITCH + c + 8 * q];
#pragma unroll
      for (int p = 0; p < ROWS; ++p)
#pragma unroll
        for (int q = 0; q < COLUMNS; ++q) sums[p][q] += a[p] * b[q];
    }
    __syncwarp();
  }

  __syncthreads();  // the tiles' memory is used again
#pragma unroll
  for (int p = 0; p < ROWS; ++p)
#pragma unroll
    for (int q = 0; q < COLUMNS; ++q) space[(warp * TILE + r + 4 * p) * TILE + c + 8 * q] = sums[p][q];
  __syncthreads();
  for (int e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
    int i = e / TILE, j = e % TILE;
    if (i >= rows || j >= columns) continue;
    T total = space[e];
    for (int w = 1; w < warps; ++w) total += space[w * TILE * TILE + e];
    out[(i0 + i) * n + j0 + j] = total;
  }
}
