// The product of two matrices, for the layers of small networks: in one launch, in one order of summation, which depends on
// the shapes alone, and without a library, so that a stream may capture it.
//
// A block has a tile of the result. Its warps take the pieces of the inner axis in turn, each into a sum of its own; these are
// added in the warps' order. Small products are waiting for memory, little else: a warp's numbers for its next piece are on
// their way while it multiplies, and small tiles keep more of the device busy. A launch of its own takes as long as a small
// product, so what a layer does before and after is done here: its bias and activation, and sums of cotangents.

constexpr int WIDE = 32, NARROW = 16;  // rows and columns of a tile
constexpr int EACH = 32;               // bytes of either matrix that a lane fetches at a time
constexpr int DOWN = 4, ACROSS = 8;    // a warp's lanes over a tile

template <typename T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Several {
  T v[N];
};

// A piece of x, DEPTH of the inner axis from k0 on by TILE rows (or of y, by TILE columns), in a warp's registers. Neighbouring
// lanes read neighbours in memory: along the inner axis, of length K, or across it, where a line has `across` numbers.
template <typename T, int TILE> struct Piece {
  static constexpr int COUNT = EACH / int(sizeof(T)), DEPTH = COUNT * LANES / TILE;
  static constexpr int PITCH = TILE + 16 / int(sizeof(T));  // lines of whole 16 bytes
  T value[COUNT];

  __device__ __forceinline__ void load(const T* a, bool along, int64 first, int count, int across, int k0, int K) {
    const int lane = threadIdx.x & (LANES - 1), step = along ? LANES / DEPTH : LANES / TILE;
    const int i = along ? lane / DEPTH : lane % TILE, k = k0 + (along ? lane % DEPTH : lane / TILE);
    const int inside = along ? (k < K ? count - i : 0) : (i < count ? K - k : 0);
    const T* from = a + (along ? (first + i) * K + k : int64(k) * across + first + i);
    const int64 stride = int64(step) * (along ? K : across);
#pragma unroll
    for (int u = 0; u < COUNT; ++u) value[u] = u * step < inside ? from[u * stride] : T(0);
  }

  __device__ __forceinline__ void store(T* tile, bool along) const {
    const int lane = threadIdx.x & (LANES - 1);
    T* to = tile + (along ? lane % DEPTH * PITCH + lane / DEPTH : lane / TILE * PITCH + lane % TILE);
    const int stride = along ? LANES / DEPTH : LANES / TILE * PITCH;
#pragma unroll
    for (int u = 0; u < COUNT; ++u) to[u * stride] = value[u];
  }
};

// out[i, j] = f(sum_k x[i, k] s[k] y[k, j] + bias[j]) for rows lo <= i < hi; out (m, n). x is (m, K), or (K, m) if it is
// turned; y likewise. B = 0: without bias and f; S = 0: without scale. V > 0: sums[j] = sum_k s[k] y[k, j] as well.
template <typename T, int TILE>
__device__ __forceinline__ void product_tile(const T* x, const T* scale, const T* y, const T* bias, int activation, T* out, T* sums,
                                             int turn_x, int turn_y, int m, int n, int B, int S, int V, int K, int64 lo,
                                             int64 hi) {
  constexpr int ROWS = TILE / DOWN, COLUMNS = TILE / ACROSS;  // of a lane
  constexpr int DEPTH = Piece<T, TILE>::DEPTH, PITCH = Piece<T, TILE>::PITCH;
  typedef Several<T, ROWS> Left;
  typedef Several<T, COLUMNS> Right;
  DYN_SMEM(T, space);
  const int warps = blockDim.x / LANES, warp = threadIdx.x / LANES, lane = threadIdx.x & (LANES - 1);
  const int tiles = (n - 1) / TILE + 1;
  const int64 i0 = lo + int64(blockIdx.x / tiles) * TILE;
  const int j0 = int(blockIdx.x % tiles) * TILE;
  const int rows = int(hi - i0 < TILE ? hi - i0 : TILE), columns = n - j0 < TILE ? n - j0 : TILE;
  T *left = space + warp * 2 * DEPTH * PITCH, *right = left + DEPTH * PITCH;
  const int r = lane / ACROSS * ROWS, c = lane % ACROSS * COLUMNS;  // this lane's first row and column
  const bool totals = V && blockIdx.x < tiles && r == 0;  // of columns: by the first tiles' first lanes
  T products[ROWS][COLUMNS], column[COLUMNS];
#pragma unroll
  for (int q = 0; q < COLUMNS; ++q) column[q] = T(0);
#pragma unroll
  for (int p = 0; p < ROWS; ++p)
#pragma unroll
    for (int q = 0; q < COLUMNS; ++q) products[p][q] = T(0);

  Piece<T, TILE> of_x, of_y;
  of_x.load(x, !turn_x, i0, rows, m, warp * DEPTH, K);
  of_y.load(y, turn_y, j0, columns, n, warp * DEPTH, K);
  for (int k0 = warp * DEPTH; k0 < K; k0 += warps * DEPTH) {
    of_x.store(left, !turn_x);
    of_y.store(right, turn_y);
    __syncwarp();
    of_x.load(x, !turn_x, i0, rows, m, k0 + warps * DEPTH, K);
    of_y.load(y, turn_y, j0, columns, n, k0 + warps * DEPTH, K);
#pragma unroll(8 / int(sizeof(T)))
    for (int d = 0; d < DEPTH; ++d) {
      Left a = *reinterpret_cast<const Left*>(left + d * PITCH + r);
      Right b = *reinterpret_cast<const Right*>(right + d * PITCH + c);
      if (S || totals) {
        T s = S ? (k0 + d < K ? scale[k0 + d] : T(0)) : T(1);
#pragma unroll
        for (int q = 0; q < COLUMNS; ++q) {
          b.v[q] *= s;
          column[q] += b.v[q];
        }
      }
#pragma unroll
      for (int p = 0; p < ROWS; ++p)
#pragma unroll
        for (int q = 0; q < COLUMNS; ++q) products[p][q] += a.v[p] * b.v[q];
    }
    __syncwarp();
  }

  __syncthreads();  // the pieces' memory is used again
#pragma unroll
  for (int p = 0; p < ROWS; ++p)
#pragma unroll
    for (int q = 0; q < COLUMNS; ++q) space[(warp * TILE + r + p) * TILE + c + q] = products[p][q];
  __syncthreads();
  for (int e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
    int i = e / TILE, j = e % TILE;
    if (i >= rows || j >= columns) continue;
    T total = space[e];
    for (int w = 1; w < warps; ++w) total += space[w * TILE * TILE + e];
    out[(i0 + i) * n + j0 + j] = B ? activated(total + bias[j0 + j], activation) : total;
  }
  if (V == 0 || blockIdx.x >= tiles) return;  // whole blocks
  __syncthreads();
  if (totals)
#pragma unroll
    for (int q = 0; q < COLUMNS; ++q) space[warp * TILE + c + q] = column[q];
  __syncthreads();
  for (int j = threadIdx.x; j < columns; j += blockDim.x) {
    T total = space[j];
    for (int w = 1; w < warps; ++w) total += space[w * TILE + j];
    sums[j0 + j] = total;
  }
}

template <typename T>
__global__ void __launch_bounds__(1024 / sizeof(T), 1 + sizeof(T) / 4)
product_wide(const T* x, const T* scale, const T* y, const T* bias, int activation, T* out, T* sums, int turn_x, int turn_y,
             int m, int n, int B, int S, int V, int K, int64 lo, int64 hi) {
  product_tile<T, WIDE>(x, scale, y, bias, activation, out, sums, turn_x, turn_y, m, n, B, S, V, K, lo, hi);
}

template <typename T>
__global__ void __launch_bounds__(2048 / sizeof(T))
product_narrow(const T* x, const T* scale, const T* y, const T* bias, int activation, T* out, T* sums, int turn_x, int turn_y,
               int m, int n, int B, int S, int V, int K, int64 lo, int64 hi) {
  product_tile<T, NARROW>(x, scale, y, bias, activation, out, sums, turn_x, turn_y, m, n, B, S, V, K, lo, hi);
}
