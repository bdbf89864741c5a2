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
