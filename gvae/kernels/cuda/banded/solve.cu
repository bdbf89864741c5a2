// ---- triangular solves ----
//
// COUNT is the number of diagonals where the compiler knows it, and 0 where it does not: offsets stay in registers then, and
// what a column reads is on its way at once.

// Columns [first, last) of L x = b in place. `lag` is 1 if chol is addressed by column, 0 if row k of it by i. Returns `bad`,
// or the 1-based column of the first pivot that is not positive.
template <int COUNT, typename T>
__device__ __forceinline__ int solve_triangular_one(const View<const T>& chol, const int64* __restrict__ offsets,
                                                    const View<T>& x, int M, int first, int last, int lag, int bad) {
  const int count = COUNT ? COUNT : M;
  for (int i = first; i < last; ++i) {
    T s = x(0, i), a = chol(0, i);
#pragma unroll
    for (int k = 1; k < count; ++k) {
      const int o = int(offsets[k]);
      if (i >= o) s -= chol(k, i - lag * o) * x(0, i - o);
    }
    if (!(a > T(0)) && !bad) bad = i + 1;
    x(0, i) = s / a;
  }
  return bad;
}

// Columns [first, last) of L^T x = b in place.
template <int COUNT, typename T>
__device__ __forceinline__ int solve_triangular_transposed_one(const View<const T>& chol, const int64* __restrict__ offsets,
                                                               const View<T>& x, int M, int N, int first, int last, int bad) {
  const int count = COUNT ? COUNT : M;
  for (int j = last - 1; j >= first; --j) {
    T s = x(0, j), a = chol(0, j);
#pragma unroll
    for (int k = 1; k < count; ++k) {
      const int o = int(offsets[k]);
      if (o < N - j) s -= chol(k, j) * x(0, j + o);
    }
    if (!(a > T(0))) bad = j + 1;
    x(0, j) = s / a;
  }
  return bad;
}

template <int COUNT, typename T>
__device__ __forceinline__ int solve_columns(const View<const T>& chol, const int64* offsets, const View<T>& x, int trans,
                                             int M, int N, int first, int last, int lag, int bad) {
  if (trans) return solve_triangular_transposed_one<COUNT>(chol, offsets, x, M, N, first, last, bad);
  return solve_triangular_one<COUNT>(chol, offsets, x, M, first, last, lag, bad);
}

// The parts of a log-density of N(., (L L^T)^-1) that columns [first, last) bring: sum log L_jj, and -1/2 |eps|^2.
// At most 32 columns: their scaled pivots multiply to at most 2^16, and their sums are added up in float64.
template <typename T>
__device__ __forceinline__ double density(const View<const T>& chol, const View<T>& eps, int first, int last) {
  T product = T(1), exponent = T(0), squares = T(0);
  for (int j = first; j < last; ++j) {
    T n;
    product *= math::scaled(chol(0, j), n);
    exponent += n;
    squares += eps(0, j) * eps(0, j);
  }
  return double(math::log(product)) + 0.693147180559945309 * double(exponent) - 0.5 * double(squares);
}

constexpr double HALF_LOG_2PI = 0.918938533204672742;

// x[row[t]] = L^-1 b[b_row[t]] (trans: L^-T), one system per lane. DRAW: mean[mean_row[t]] is added to what is stored, and
// log_q[row[t]], if wanted, receives the density of the draw. H = min(offsets[M-1], N - 1) columns are read back. Tiled: width
// columns at a time in shared memory; else width is LANES, and nothing is brought anywhere.
template <typename T, bool DRAW, bool TILED>
__device__ __forceinline__ void solve(const T* chol, const int64* offsets, const int64* owner, const int64* row,
                                      const int64* b_row, const int64* mean_row, const T* mean, const T* b, T* x, T* log_q,
                                      int trans, int* info, int wanted, int M, int N, int H, int width, int64 lo, int64 hi) {
  DYN_SMEM(int64, shared);
  int64 first_system = lo + int64(blockIdx.x) * LANES, t = first_system + threadIdx.x;
  int n = hi - first_system < LANES ? int(hi - first_system) : LANES;
  bool mine = t < hi;
  int64 f = mine ? owner[t] : 0, r = mine ? row[t] : 0, q = mine ? b_row[t] : 0, m = DRAW && mine ? mean_row[t] : 0;
  int bad = 0;
  double log_density = -double(N) * HALF_LOG_2PI;

  // per system: (M, width) of the factor, then the window of x
  int64 *chol_start = shared, *b_start = shared + LANES, *x_start = shared + 2 * LANES, *mean_start = shared + 3 * LANES;
  int pitch = (M * width + width + H) | 1;  // odd: the lanes of a warp meet in different banks
  T* tile = reinterpret_cast<T*>(shared + 4 * LANES);
  T* window = tile + M * width;
  const int fresh = trans ? 0 : H;  // where the tile's own columns begin in the window
  if (TILED) {
    chol_start[threadIdx.x] = f * M * N;
    b_start[threadIdx.x] = q * N;
    x_start[threadIdx.x] = r * N;
    mean_start[threadIdx.x] = m * N;
  } else if (!mine) {
    return;
  }
  int tiles = (N + width - 1) / width;
  for (int part = 0; part < tiles; ++part) {
    int first = (trans ? tiles - 1 - part : part) * width, last = first + width < N ? first + width : N;
    View<const T> c;
    View<T> y;
    if (TILED) {
      __syncwarp();
      for (int k = 0; k < M && offsets[k] < N; ++k)
        fetch(chol + int64(k) * N, chol_start, n, trans ? first : first - int(offsets[k]), width, N, tile + k * width,
              pitch);
      fetch(b, b_start, n, first, width, N, window + fresh, pitch);
      __syncwarp();
      c = {tile + threadIdx.x * pitch, width, first};
      y = {window + threadIdx.x * pitch, 0, first - fresh};
    } else {
      c = {chol + f * M * N, N, 0};
      y = {x + r * N, 0, 0};
      for (int j = first; j < last; ++j) y(0, j) = b[q * N + j];
    }
    if (mine) {
      if (DRAW && wanted) log_density += density(c, y, first, last);
      const int lag = TILED ? 0 : 1;
      switch (TILED ? M : 0) {
        case 2: bad = solve_columns<2>(c, offsets, y, trans, M, N, first, last, lag, bad); break;
        case 3: bad = solve_columns<3>(c, offsets, y, trans, M, N, first, last, lag, bad); break;
        case 4: bad = solve_columns<4>(c, offsets, y, trans, M, N, first, last, lag, bad); break;
        case 5: bad = solve_columns<5>(c, offsets, y, trans, M, N, first, last, lag, bad); break;
        default: bad = solve_columns<0>(c, offsets, y, trans, M, N, first, last, lag, bad);
      }
    }
    if (TILED) {
      __syncwarp();
      if (DRAW) {
        const Mover mover(width);
        const int j = first + mover.column;
        if (j < N)
          for (int l = mover.system; l < n; l += mover.step)
            x[x_start[l] + j] = mean[mean_start[l] + j] + window[l * pitch + fresh + mover.column];
      } else {
        deliver(window + fresh, pitch, x_start, n, first, width, N, x);
      }
      __syncwarp();
      T* own = window + threadIdx.x * pitch;
      if (trans)
        for (int e = H - 1; e >= 0; --e) own[e + width] = own[e];
      else
        for (int e = 0; e < H; ++e) own[e] = own[e + width];
    }
  }
  if (!mine) return;
  atomicExch(info + f, bad);  // all right-hand sides of a factor say the same
  if (DRAW && !TILED)
    for (int j = 0; j < N; ++j) x[r * N + j] += mean[m * N + j];
  if (bad)
    for (int j = 0; j < N; ++j) x[r * N + j] = Float<T>::nan();
  if (DRAW && wanted) log_q[r] = bad ? Float<T>::nan() : T(log_density);
}

// x[row[t]] = L^-1 b[b_row[t]] (or L^-T) with the factor owner[t], for lo <= t < hi. x may be b if the rows are the same.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
solve_triangular(const T* chol, const int64* offsets, const int64* owner, const int64* row, const int64* b_row, const T* b,
                 T* x, int trans, int* info, int M, int N, int H, int width, int64 lo, int64 hi) {
  if (width)
    solve<T, false, true>(chol, offsets, owner, row, b_row, b_row, b, b, x, x, trans, info, 0, M, N, H, width, lo, hi);
  else
    solve<T, false, false>(chol, offsets, owner, row, b_row, b_row, b, b, x, x, trans, info, 0, M, N, H, LANES, lo, hi);
}
