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

// z[row[t]] = mean + L^-T eps and, if `wanted`, log_q[row[t]], its log-density.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
sample(const T* chol, const int64* offsets, const int64* owner, const int64* row, const int64* mean_row,
       const int64* eps_row, const T* mean, const T* eps, T* z, T* log_q, int* info, int wanted, int M, int N, int H,
       int width, int64 lo, int64 hi) {
  if (width)
    solve<T, true, true>(chol, offsets, owner, row, eps_row, mean_row, mean, eps, z, log_q, 1, info, wanted, M, N, H, width, lo,
                         hi);
  else
    solve<T, true, false>(chol, offsets, owner, row, eps_row, mean_row, mean, eps, z, log_q, 1, info, wanted, M, N, H, LANES,
                          lo, hi);
}

// The last lines of the reverse of `sample`: eps_bar[r] -= log_q_bar[r] eps and chol_bar[f, 0] += sum over k of
// log_q_bar / L_jj, with r = rows[f, k]. One thread per factor and column.
template <typename T>
__global__ void sample_vjp_density(const T* chol, const int64* rows, const int64* eps_rows, const T* eps, const T* log_q_bar,
                                   T* eps_bar, T* chol_bar, int M, int N, int K, int wanted, int64 lo, int64 hi) {
  int64 e = lo * N + thread_position();
  if (e >= hi * N) return;
  int j;
  int64 f = row_and_column(e, N, j);
  T total = T(0);
  for (int k = 0; k < K; ++k) {
    int64 r = rows[f * K + k];
    total += log_q_bar[r];
    if (wanted) eps_bar[r * N + j] -= log_q_bar[r] * eps[eps_rows[f * K + k] * N + j];
  }
  chol_bar[f * M * N + j] += total / chol[f * M * N + j];
}

// ---- products ----

// (L x)_i, or (L^T x)_i. x need not lie in memory: it is what x(j) gives.
template <typename T, typename X>
__device__ __forceinline__ T multiply_triangular_one(const T* chol, const int64* offsets, X x, int trans, int M, int N,
                                                     int i) {
  T y = chol[i] * x(i);
  for (int k = 1; k < M; ++k) {
    int64 o = offsets[k];
    if (trans ? i + o >= N : i - o < 0) break;
    y += trans ? chol[int64(k) * N + i] * x(i + int(o)) : chol[int64(k) * N + i - o] * x(i - int(o));
  }
  return y;
}

template <typename T> struct Entries {
  const T* x;
  __device__ __forceinline__ T operator()(int j) const { return x[j]; }
};

template <typename T> struct Differences {
  const T *x, *mean;
  __device__ __forceinline__ T operator()(int j) const { return x[j] - mean[j]; }
};

// y[row[t]] = L x[row[t]] (or L^T) with the factor owner[t]. One thread per entry.
template <typename T>
__global__ void multiply_triangular(const T* chol, const int64* offsets, const int64* owner, const int64* row, const T* x,
                                    T* y, int trans, int M, int N, int64 lo, int64 hi) {
  int64 e = lo * N + thread_position();
  if (e >= hi * N) return;
  int i;
  int64 t = row_and_column(e, N, i), r = row[t];
  y[r * N + i] = multiply_triangular_one(chol + owner[t] * M * N, offsets, Entries<T>{x + r * N}, trans, M, N, i);
}

// y[lo:hi] of y = L x (or L^T x) for one long system.
template <typename T>
__global__ void multiply_columns(const T* chol, const int64* offsets, const T* x, T* y, int trans, int M, int N, int64 lo,
                                 int64 hi) {
  int64 i = lo + thread_position();
  if (i < hi) y[i] = multiply_triangular_one(chol, offsets, Entries<T>{x}, trans, M, N, int(i));
}

// band[f, k, j] = sign * sum over r in rows[f] of u[r, j + offsets[k]] v[r, j]. One thread per entry.
template <typename T>
__global__ void outer(const T* u, const T* v, const int64* rows, const int64* offsets, T sign, T* band, int M, int N, int K,
                      int64 lo, int64 hi) {
  int64 e = lo * M * N + thread_position();
  if (e >= hi * M * N) return;
  int j, k;
  int64 f = row_and_column(row_and_column(e, N, j), M, k);
  T total = T(0);
  if (j + offsets[k] < N)
    for (int s = 0; s < K; ++s) {
      int64 r = rows[f * K + s];
      total += sign * u[r * N + j + offsets[k]] * v[r * N + j];
    }
  band[e] = total;
}

// ---- log-densities: nothing is recursive, a warp takes one right-hand side and its lanes the columns ----

// 0, or the 1-based column of the first pivot that is not positive; sum log L_jj in `logs`. For all lanes alike.
template <typename T> __device__ int pivots(const T* chol, int N, double& logs) {
  int first = 0x7fffffff;
  logs = 0;
  for (int j0 = 0; j0 < N; j0 += LANES * LANES) {  // 32 factors per lane and logarithm, as in `density`
    T product = T(1), exponent = T(0);
    for (int j = j0 + int(threadIdx.x & (LANES - 1)); j < N && j < j0 + LANES * LANES; j += LANES) {
      T a = chol[j], n;
      if (!(a > T(0)) && j < first) first = j;
      product *= math::scaled(a, n);
      exponent += n;
    }
    logs += double(math::log(product)) + 0.693147180559945309 * double(exponent);
  }
  logs = warp_sum(logs);
  first = warp_min(first);
  return first == 0x7fffffff ? 0 : first + 1;
}

// value[rows[f, k]] = log N(L^-T eps; 0, (L L^T)^-1), eps[eps_rows[f, k]]. A warp per (f, k), or per f where K = 0.
template <typename T>
__global__ void log_prob_of_draw(const T* chol, const int64* rows, const int64* eps_rows, const T* eps, T* value, int* info,
                                 int M, int N, int K, int64 lo, int64 hi) {
  int width = K ? K : 1, lane = threadIdx.x & (LANES - 1);
  int64 p = lo * width + thread_position() / LANES, f = p / width;
  if (f >= hi) return;  // whole warps
  double logs, squares = 0;
  int bad = pivots(chol + f * M * N, N, logs);
  if (lane == 0) atomicExch(info + f, bad);
  if (K == 0) return;
  for (int j = lane; j < N; j += LANES) {
    T z = eps[eps_rows[p] * N + j];
    squares += double(z * z);
  }
  squares = warp_sum(squares);
  if (lane == 0) value[rows[p]] = bad ? Float<T>::nan() : T(logs - double(N) * HALF_LOG_2PI - 0.5 * squares);
}

// value[rows[f, k]] = log N(x; mean, (L L^T)^-1) with x[x_rows[f, k]], mean[mean_rows[f, k]]. NaN where a pivot fails.
template <typename T>
__global__ void log_prob(const T* chol, const int64* offsets, const int64* rows, const int64* x_rows, const int64* mean_rows,
                         const T* x, const T* mean, T* value, int* info, int M, int N, int K, int64 lo, int64 hi) {
  int width = K ? K : 1, lane = threadIdx.x & (LANES - 1);
  int64 p = lo * width + thread_position() / LANES, f = p / width;
  if (f >= hi) return;
  double logs, quadratic = 0;
  int bad = pivots(chol + f * M * N, N, logs);
  if (lane == 0) atomicExch(info + f, bad);
  if (K == 0) return;
  Differences<T> d = {x + x_rows[p] * N, mean + mean_rows[p] * N};
  for (int j = lane; j < N; j += LANES) {
    T w = multiply_triangular_one(chol + f * M * N, offsets, d, 1, M, N, j);
    quadratic += double(w * w);
  }
  quadratic = warp_sum(quadratic);
  if (lane == 0) value[rows[p]] = bad ? Float<T>::nan() : T(logs - double(N) * HALF_LOG_2PI - 0.5 * quadratic);
}

// Reverse of `log_prob`, with w = L^T d and s = -bar w, in three passes: s[rows[f, k]] here,
template <typename T>
__global__ void log_prob_vjp_weights(const T* chol, const int64* offsets, const int64* rows, const int64* x_rows,
                                     const int64* mean_rows, const T* x, const T* mean, const T* bar, T* s, int M, int N,
                                     int K, int64 lo, int64 hi) {
  int64 e = lo * K * N + thread_position();
  if (e >= hi * K * N) return;
  int j;
  int64 p = row_and_column(e, N, j), r = rows[p];
  Differences<T> d = {x + x_rows[p] * N, mean + mean_rows[p] * N};
  s[r * N + j] = multiply_triangular_one(chol + p / K * M * N, offsets, d, 1, M, N, j) * -bar[r];
}

// x_bar = L s by `multiply_triangular`, and chol_bar[f] = sum over k of d s^T on the pattern, with bar / L_jj on the
// diagonal, here. One thread per entry of the factor.
template <typename T>
__global__ void log_prob_vjp_factor(const T* chol, const int64* offsets, const int64* rows, const int64* x_rows,
                                    const int64* mean_rows, const T* x, const T* mean, const T* bar, const T* s, T* chol_bar,
                                    int M, int N, int K, int64 lo, int64 hi) {
  int64 e = lo * M * N + thread_position();
  if (e >= hi * M * N) return;
  int j, k;
  int64 f = row_and_column(row_and_column(e, N, j), M, k), i = j + offsets[k];
  T total = T(0), bars = T(0);
  if (i < N)
    for (int l = 0; l < K; ++l) {
      int64 p = f * K + l, r = rows[p];
      total += (x[x_rows[p] * N + i] - mean[mean_rows[p] * N + i]) * s[r * N + j];
      bars += bar[r];
    }
  chol_bar[e] = k == 0 ? total + bars / chol[e] : total;
}

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

// Columns [first, last) of the selected inverse, last to first; every lane of the warp calls it with the same columns.
template <typename T>
__device__ void inverse_one(const View<const T>& chol, const int64* offsets, const View<T>& s, int M, int N, int W, int first,
                            int last, const Group& g) {
  for (int j = last - 1; j >= first; --j) {
    T a = chol(0, j);
    for (int d = 1 + g.lane; d < W; d += g.size) {
      int i = j + d;
      T t = T(0);
      if (i < N) {
        for (int k = 1; k < M; ++k) {
          int64 m = j + offsets[k];
          if (m >= N) break;
          t += chol(k, j) * (m < i ? s(i - int(m), int(m)) : s(int(m) - i, i));
        }
        t = -t / a;
      }
      s(d, j) = t;
    }
    __syncwarp();
    if (g.lane == 0) {  // the diagonal uses the column's own entries
      T t = T(0);
      for (int k = 1; k < M; ++k) {
        int64 o = offsets[k];
        if (j + o >= N) break;
        t += chol(k, j) * s(int(o), j);
      }
      t = -t / a;
      s(0, j) = t + T(1) / (a * a);
    }
    __syncwarp();
  }
}

// The same where the number of diagonals is known and each lane of a group has one distance at most: what it reads of the
// column's system stays at the same places relative to the column.
template <int COUNT, typename T>
__device__ __forceinline__ void inverse_few(const View<const T>& chol, const int64* __restrict__ offsets, const View<T>& s, int N,
                                            int W, int first, int last, const Group& g) {
  const int d = g.lane < W - 1 ? 1 + g.lane : W;  // W: none
  int o[COUNT], at[COUNT];
#pragma unroll
  for (int k = 1; k < COUNT; ++k) {
    o[k] = int(offsets[k]);
    at[k] = o[k] < d ? (d - o[k]) * s.pitch + o[k] : (o[k] - d) * s.pitch + d;
  }
  for (int j = last - 1; j >= first; --j) {
    T *column = &s(0, j), c[COUNT];
    T a = chol(0, j), t = T(0);
#pragma unroll
    for (int k = 1; k < COUNT; ++k) c[k] = chol(k, j);
    if (d < W) {
      if (d < N - j) {
#pragma unroll
        for (int k = 1; k < COUNT; ++k)
          if (o[k] < N - j) t += c[k] * column[at[k]];
        t = -t / a;
      }
      column[d * s.pitch] = t;
    }
    __syncwarp();
    if (g.lane == 0) {  // the diagonal uses the column's own entries
      t = T(0);
#pragma unroll
      for (int k = 1; k < COUNT; ++k)
        if (o[k] < N - j) t += c[k] * column[o[k] * s.pitch];
      t = -t / a;
      column[0] = t + T(1) / (a * a);
    }
    __syncwarp();
  }
}

// s[f] = the selected inverse of factor f; s (F, W, N). Tiled: as in `solve`; else width is N.
template <typename T, bool TILED>
__device__ __forceinline__ void selected_inverse(const T* chol, const int64* offsets, T* s, int* info, int M, int N, int W,
                                                 int group, int width, int64 lo, int64 hi) {
  DYN_SMEM(int64, shared);
  Group g = group_of(group, lo, hi);
  int H = TILED ? W - 1 : 0, row = (width + H + 1) / 4 * 4 + 2;  // even, so that lanes on a column and on a diagonal differ
  int pitch = (M * width + W * row) | 1, per_warp = LANES / group;
  int64 *chol_start = shared, *s_start = shared + per_warp;
  T* tile = reinterpret_cast<T*>(shared + 2 * per_warp);
  T* window = tile + M * width;
  if (TILED && g.lane == 0) {
    chol_start[g.system] = g.f * M * N;
    s_start[g.system] = g.f * W * N;
  }
  int bad = 0, tiles = width ? (N + width - 1) / width : 0;
  for (int part = tiles - 1; part >= 0; --part) {
    int first = part * width, last = first + width < N ? first + width : N;
    View<const T> c;
    View<T> y;
    if (TILED) {
      __syncwarp();
      for (int k = 0; k < M && offsets[k] < N; ++k)
        fetch(chol + int64(k) * N, chol_start, g.systems, first, width, N, tile + k * width, pitch);
      __syncwarp();
      c = {tile + g.system * pitch, width, first};
      y = {window + g.system * pitch, row, first};
    } else {
      c = {chol + g.f * M * N, N, 0};
      y = {s + g.f * W * N, N, 0};
    }
    if (g.busy) {
      int found = first_bad_pivot(c, first, last);
      bad = found ? found : bad;
    }
    switch (TILED && W - 1 <= g.size ? M : 0) {
      case 2: inverse_few<2>(c, offsets, y, N, W, first, last, g); break;
      case 3: inverse_few<3>(c, offsets, y, N, W, first, last, g); break;
      case 4: inverse_few<4>(c, offsets, y, N, W, first, last, g); break;
      case 5: inverse_few<5>(c, offsets, y, N, W, first, last, g); break;
      default: inverse_one(c, offsets, y, M, N, W, first, last, g);
    }
    if (TILED) {
      for (int d = 0; d < W; ++d)
        deliver(window + d * row, pitch, s_start, g.systems, first, width, N, s + int64(d) * N);
      __syncwarp();
      for (int d = g.lane; d < W; d += g.size)
        for (int e = H - 1; e >= 0; --e) y.base[d * row + e + width] = y.base[d * row + e];
    }
  }
  __syncwarp();
  if (g.lane == 0) info[g.f] = bad;
  if (bad)
    for (int64 e = g.lane; e < int64(W) * N; e += g.size) s[g.f * W * N + e] = Float<T>::nan();
}

template <typename T>
__global__ void __launch_bounds__(LANES, 16)
inverse(const T* chol, const int64* offsets, T* s, int* info, int M, int N, int W, int group, int width, int64 lo, int64 hi) {
  if (width)
    selected_inverse<T, true>(chol, offsets, s, info, M, N, W, group, width, lo, hi);
  else
    selected_inverse<T, false>(chol, offsets, s, info, M, N, W, group, N, lo, hi);
}

// chol_bar of a factor from s_bar, which is overwritten: the recursion run backwards, first column to last. Lanes have the
// distances d of a column, then its diagonals k. Two terms at most go to one entry of s_bar, from the pairs (k, d) and
// (k', d') with offsets[k] = d' and offsets[k'] = d: k from last to first adds them in the serial order.
template <typename T>
__device__ __forceinline__ void inverse_vjp_one(const View<const T>& c, const int64* __restrict__ offsets, const View<const T>& y,
                                                const View<T>& y_bar, const View<T>& c_bar, int M, int N, int W,
                                                const Group& v) {
  for (int j = 0; j < N; ++j) {
    T a = c(0, j), g0 = v.busy ? y_bar(0, j) / a : T(0);
    __syncwarp();
    for (int k = 1 + v.lane; k < M; k += v.size)
      if (j + offsets[k] < N) y_bar(int(offsets[k]), j) -= g0 * c(k, j);
    __syncwarp();
    for (int d = v.lane; d < W && d < N - j; d += v.size) y_bar(d, j) /= a;  // g_d from here on
    __syncwarp();
    for (int k = v.lane; k < M; k += v.size) {
      int64 m = j + offsets[k];
      T t = k == 0 ? -(g0 / (a * a)) : T(0);
      if (m < N)
        for (int d = 0; d < W && d < N - j; ++d) {
          int i = j + d;
          t -= y_bar(d, j) * (k == 0 ? y(d, j) : m < i ? y(i - int(m), int(m)) : y(int(m) - i, i));
        }
      c_bar(k, j) = t;
    }
    for (int k = M - 1; k > 0; --k) {
      int64 m = j + offsets[k];
      for (int d = 1 + v.lane; d < W; d += v.size) {
        int i = j + d;
        if (m < N && i < N) (m < i ? y_bar(i - int(m), int(m)) : y_bar(int(m) - i, i)) -= y_bar(d, j) * c(k, j);
      }
      __syncwarp();
    }
  }
}

// chol_bar[f] for each factor f. width > 0: a small system is worked on in shared memory, as a whole.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
inverse_vjp(const T* chol, const int64* offsets, const T* s, T* s_bar, T* chol_bar, int M, int N, int W, int group, int width,
            int64 lo, int64 hi) {
  Group v = group_of(group, lo, hi);
  if (width == 0) {
    View<const T> c = {chol + v.f * M * N, N, 0}, y = {s + v.f * W * N, N, 0};
    View<T> y_bar = {s_bar + v.f * W * N, N, 0}, c_bar = {chol_bar + v.f * M * N, N, 0};
    inverse_vjp_one(c, offsets, y, y_bar, c_bar, M, N, W, v);
    return;
  }
  DYN_SMEM(int64, shared);
  const int per_warp = LANES / group, pitch = (2 * (M + W) * N) | 1;
  int64 *chol_start = shared, *s_start = shared + per_warp;
  T* tile = reinterpret_cast<T*>(shared + 2 * per_warp);
  T* own = tile + v.system * pitch;
  if (v.lane == 0) {
    chol_start[v.system] = v.f * M * N;
    s_start[v.system] = v.f * W * N;
  }
  __syncwarp();
  // per system: (M, N) of the factor and of its cotangent, (W, N) of the inverse and of its
  T *its_s = tile + 2 * M * N, *its_s_bar = its_s + W * N;
  for (int first = 0; first < N; first += width) {
    for (int k = 0; k < M; ++k)
      fetch(chol + int64(k) * N, chol_start, v.systems, first, width, N, tile + k * N + first, pitch);
    for (int d = 0; d < W; ++d) {
      fetch(s + int64(d) * N, s_start, v.systems, first, width, N, its_s + d * N + first, pitch);
      fetch(s_bar + int64(d) * N, s_start, v.systems, first, width, N, its_s_bar + d * N + first, pitch);
    }
  }
  __syncwarp();
  View<const T> c = {own, N, 0}, y = {own + 2 * M * N, N, 0};
  View<T> c_bar = {own + M * N, N, 0}, y_bar = {own + 2 * M * N + W * N, N, 0};
  inverse_vjp_one(c, offsets, y, y_bar, c_bar, M, N, W, v);
  __syncwarp();
  for (int first = 0; first < N; first += width)
    for (int k = 0; k < M; ++k)
      deliver(tile + (M + k) * N + first, pitch, chol_start, v.systems, first, width, N, chol_bar + int64(k) * N);
}

// Columns [first, last) of A = L L^T, all diagonals 0..M-1, first to last. A pivot that fails is 0 or NaN in chol.
template <typename T>
__device__ void cholesky_one(const View<const T>& ab, const View<T>& chol, int M, int N, int first, int last, const Group& g) {
  for (int j = first; j < last; ++j) {
    if (g.lane == 0) {
      T s = ab(0, j);
      for (int d = 1; d < M && d <= j; ++d) s -= chol(d, j - d) * chol(d, j - d);
      chol(0, j) = sqrt(s);
    }
    __syncwarp();
    for (int o = 1 + g.lane; o < M; o += g.size) {
      T s = T(0);
      if (o < N - j) {
        s = ab(o, j);
        for (int d = 1; d < M - o && d <= j; ++d) s -= chol(o + d, j - d) * chol(d, j - d);
        s = s / chol(0, j);
      }
      chol(o, j) = s;
    }
    __syncwarp();
  }
}

// chol[f] = the factor of ab[f]; chol may be ab.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
cholesky(const T* ab, T* chol, int* info, int M, int N, int group, int width, int64 lo, int64 hi) {
  DYN_SMEM(int64, shared);
  Group g = group_of(group, lo, hi);
  int H = width ? M - 1 : 0, row = (width + H + 1) / 4 * 4 + 2;
  int pitch = (M * width + M * row) | 1;
  int64* start = shared;
  T* tile = reinterpret_cast<T*>(shared + LANES / group);
  T* window = tile + M * width;
  if (width && g.lane == 0) start[g.system] = g.f * M * N;
  int bad = 0, step = width ? width : N, tiles = step ? (N + step - 1) / step : 0;
  for (int part = 0; part < tiles; ++part) {
    int first = part * step, last = first + step < N ? first + step : N;
    View<const T> a = {ab + g.f * M * N, N, 0};
    View<T> l = {chol + g.f * M * N, N, 0};
    if (width) {
      __syncwarp();
      for (int k = 0; k < M; ++k) fetch(ab + int64(k) * N, start, g.systems, first, width, N, tile + k * width, pitch);
      __syncwarp();
      a = {tile + g.system * pitch, width, first};
      l = {window + g.system * pitch, row, first - H};
    }
    cholesky_one(a, l, M, N, first, last, g);
    if (g.busy && !bad) bad = first_bad_pivot(View<const T>{l.base, l.pitch, l.origin}, first, last);
    if (width) {
      for (int k = 0; k < M; ++k) deliver(window + k * row + H, pitch, start, g.systems, first, width, N, chol + int64(k) * N);
      __syncwarp();
      for (int k = g.lane; k < M; k += g.size)
        for (int e = 0; e < H; ++e) l.base[k * row + e] = l.base[k * row + e + width];
    }
  }
  __syncwarp();
  if (g.lane == 0) info[g.f] = bad;
  if (bad)
    for (int64 e = g.lane; e < int64(M) * N; e += g.size) chol[g.f * M * N + e] = Float<T>::nan();
}

// ab_bar[f] from chol_bar[f], which is overwritten: last column to first. A lane has a distance d, and with it all that goes
// to column j - d.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
cholesky_vjp(const T* chol, T* chol_bar, T* ab_bar, int M, int N, int group, int64 lo, int64 hi) {
  Group g = group_of(group, lo, hi);
  View<const T> c = {chol + g.f * M * N, N, 0};
  View<T> c_bar = {chol_bar + g.f * M * N, N, 0}, a_bar = {ab_bar + g.f * M * N, N, 0};
  for (int j = N - 1; j >= 0; --j) {
    int last = M < N - j ? M : N - j;  // diagonals that column j has
    for (int o = 1 + g.lane; o < M; o += g.size) a_bar(o, j) = o < last ? c_bar(o, j) / c(0, j) : T(0);
    __syncwarp();
    if (g.lane == 0) {
      T t = c_bar(0, j);
      for (int o = last - 1; o > 0; --o) t -= a_bar(o, j) * c(o, j);
      a_bar(0, j) = t / (T(2) * c(0, j));
    }
    __syncwarp();
    for (int d = 1 + g.lane; d < M && d <= j; d += g.size) {
      for (int o = last - 1; o > 0; --o)
        if (o + d < M) {
          c_bar(o + d, j - d) -= a_bar(o, j) * c(d, j - d);
          c_bar(d, j - d) -= a_bar(o, j) * c(o + d, j - d);
        }
      c_bar(d, j - d) -= T(2) * a_bar(0, j) * c(d, j - d);
    }
    __syncwarp();
  }
}
