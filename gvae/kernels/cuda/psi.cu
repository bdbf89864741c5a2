// The RBF kernel and its first two moments under Gaussian inputs: the formulas are in gvae/kernels/cpu/psi.py.
//
// Rows x_n ~ N(mean_n, diag variance_n), mean, variance, u, w (N, Q), k (N,), z (M, Q). Part p of P has the rows from p rows on,
// rows = ceil(N / P). Exponentials are computed again where they are needed; derivatives take EACH of the Q axes at a time.

constexpr int EACH = 4;    // axes
constexpr int PIECE = 64;  // rows whose terms are added up in the working type

// u = a c, w = a S u / 2 and k = prod_q sqrt(c), with c = 1 / (f a S + 1), for rows lo <= n < hi.
template <typename T>
__global__ void row_terms(const T* mean, const T* variance, const T* precision, int f, T* u, T* w, T* k, int Q, int64 lo, int64 hi) {
  int64 n = lo + thread_position();
  if (n >= hi) return;
  T product = T(1);
  for (int q = 0; q < Q; ++q) {
    T s = precision[q] * variance[n * Q + q];
    T c = T(1) / (T(f) * s + T(1));
    u[n * Q + q] = precision[q] * c;
    w[n * Q + q] = T(0.5) * s * (precision[q] * c);
    product *= sqrt(c);
  }
  k[n] = product;
}

// h_m of a row
template <typename T>
__device__ __forceinline__ T exponent(const T* mean, const T* u, const T* z, int Q) {
  T e = T(0);
  for (int q = 0; q < Q; ++q) {
    T gap = mean[q] - z[q];
    e += T(0.5) * u[q] * (gap * gap);
  }
  return e;
}

// h_m + h_j + sum_q w_q (z_mq - z_jq)^2 of a row
template <typename T>
__device__ __forceinline__ T pair_exponent(const T* mean, const T* u, const T* w, const T* z, const T* other, int Q) {
  T e = T(0);
  for (int q = 0; q < Q; ++q) {
    T gap = mean[q] - z[q], other_gap = mean[q] - other[q], between = z[q] - other[q];
    e += T(0.5) * u[q] * (gap * gap + other_gap * other_gap) + w[q] * (between * between);
  }
  return e;
}

// y[n, m] = E k(x_n, z_m), for rows lo <= n < hi; scale (1,): v.
template <typename T>
__global__ void psi1(const T* mean, const T* variance, const T* z, const T* precision, const T* scale, T* y, int M, int Q, int64 lo, int64 hi) {
  int64 e = lo * M + thread_position();
  if (e >= hi * M) return;
  int m;
  int64 n = row_and_column(e, M, m);
  T sum = T(0), product = T(1);
  for (int q = 0; q < Q; ++q) {
    T c = T(1) / (precision[q] * variance[n * Q + q] + T(1));
    T gap = mean[n * Q + q] - z[m * Q + q];
    sum += T(0.5) * (precision[q] * c) * (gap * gap);
    product *= sqrt(c);
  }
  y[e] = scale[0] * product * math::exp(-sum);
}

// r[n, m] = y_bar[n, m] psi1[n, m] / v, for rows lo <= n < hi.
template <typename T>
__global__ void psi1_weights(const T* mean, const T* u, const T* k, const T* z, const T* y_bar, T* r, int M, int Q, int64 lo, int64 hi) {
  int64 e = lo * M + thread_position();
  if (e >= hi * M) return;
  int m;
  int64 n = row_and_column(e, M, m);
  r[e] = y_bar[e] * k[n] * math::exp(-exponent(mean + n * Q, u + n * Q, z + m * Q, Q));
}

// r[n, m] = sum_j y_bar[m, j] psi2_n[m, j] / v^2, for rows lo <= n < hi.
template <typename T>
__global__ void psi2_weights(const T* mean, const T* u, const T* w, const T* k, const T* z, const T* y_bar, T* r, int M, int Q, int64 lo, int64 hi) {
  int64 e = lo * M + thread_position();
  if (e >= hi * M) return;
  int m;
  int64 n = row_and_column(e, M, m), at = n * Q;
  T sum = T(0);
  for (int j = 0; j < M; ++j)
    sum += y_bar[int64(m) * M + j] * math::exp(-pair_exponent(mean + at, u + at, w + at, z + m * Q, z + j * Q, Q));
  r[e] = k[n] * sum;
}

// y[p, m, j] = sum_n psi2_n[m, j] / v^2 over the rows of part p, for parts lo <= p < hi. A thread has a pair j <= m.
template <typename T>
__global__ void psi2_sums(const T* mean, const T* u, const T* w, const T* k, const T* z, double* y, int N, int M, int Q, int P, int64 lo, int64 hi) {
  int64 e = lo * M * M + thread_position();
  if (e >= hi * M * M) return;
  int j, m;
  int64 p = row_and_column(row_and_column(e, M, j), M, m);
  if (j > m) return;
  int64 rows = (N + P - 1) / P, end = (p + 1) * rows < N ? (p + 1) * rows : N;
  double sum = 0;
  for (int64 top = p * rows; top < end; top += PIECE) {
    T part = T(0);
    for (int64 n = top; n < top + PIECE && n < end; ++n)
      part += k[n] * math::exp(-pair_exponent(mean + n * Q, u + n * Q, w + n * Q, z + m * Q, z + j * Q, Q));
    sum += double(part);
  }
  y[e] = y[(p * M + j) * M + m] = sum;
}

// z_bar[p, m, q] = sum_n f u r (mean - z_m) - 4 w sum_j y_bar[m, j] psi2_n[m, j] / v^2 (z_m - z_j) over the rows of part p, for
// parts lo <= p < hi. r (N, M); y_bar (V, V): V = M for psi2, f = 2, and V = 0 for psi1, f = 1. A thread has EACH axes.
template <typename T>
__global__ void z_vjp(const T* mean, const T* u, const T* w, const T* k, const T* z, const T* r, const T* y_bar, double* z_bar, int N, int M, int Q, int P, int V, int64 lo, int64 hi) {
  int chunks = (Q + EACH - 1) / EACH, chunk, m;
  int64 e = lo * M * chunks + thread_position();
  if (e >= hi * M * chunks) return;
  int64 p = row_and_column(row_and_column(e, chunks, chunk), M, m);
  int first = chunk * EACH;
  int64 rows = (N + P - 1) / P, end = (p + 1) * rows < N ? (p + 1) * rows : N;
  const T* own = z + m * Q;
  double sums[EACH] = {};
  for (int64 n = p * rows; n < end; ++n) {
    T pairs[EACH] = {};
    for (int j = 0; j < V; ++j) {
      const T* other = z + j * Q;
      T term = y_bar[int64(m) * M + j] * math::exp(-pair_exponent(mean + n * Q, u + n * Q, w + n * Q, own, other, Q));
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (first + i < Q) pairs[i] += term * (own[first + i] - other[first + i]);
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (first + i < Q) {
        int64 at = n * Q + first + i;
        T slope = (V ? T(2) : T(1)) * u[at] * r[n * M + m] * (mean[at] - own[first + i]);
        if (V) slope -= T(4) * w[at] * k[n] * pairs[i];  // psi1 has no pairs, and w may be infinite
        sums[i] += double(slope);
      }
  }
#pragma unroll
  for (int i = 0; i < EACH; ++i)
    if (first + i < Q) z_bar[(p * M + m) * Q + first + i] = sums[i];
}

// The cotangents of mean and variance in the rows of part p, and sums[p]: those of the precisions, and the sum of r, for parts
// lo <= p < hi. r, y_bar, V and f as for `z_vjp`. A warp has EACH axes, a lane every 32nd m.
template <typename T>
__global__ void row_vjp(const T* mean, const T* variance, const T* precision, const T* u, const T* w, const T* k, const T* z, const T* r, const T* y_bar, T* mean_bar, T* variance_bar, double* sums, int N, int M, int Q, int P, int V, int64 lo, int64 hi) {
  int chunks = Q > 0 ? (Q + EACH - 1) / EACH : 1, chunk, lane = threadIdx.x & (LANES - 1);
  int64 e = lo * chunks + thread_position() / LANES;
  if (e >= hi * chunks) return;
  int64 p = row_and_column(e, chunks, chunk);
  int first = chunk * EACH;
  int64 rows = (N + P - 1) / P, end = (p + 1) * rows < N ? (p + 1) * rows : N;
  double of_precision[EACH] = {}, of_all = 0;
  T f = V ? T(2) : T(1);
  for (int64 n = p * rows; n < end; ++n) {
    T total = T(0), linear[EACH] = {}, square[EACH] = {}, between[EACH] = {};
    for (int m = lane; m < M; m += LANES) {
      const T* own = z + m * Q;
      T weight = r[n * M + m];
      total += weight;
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (first + i < Q) {
          T gap = mean[n * Q + first + i] - own[first + i];
          linear[i] += weight * gap;
          square[i] += weight * gap * gap;
        }
      for (int j = 0; j < V; ++j) {
        const T* other = z + j * Q;
        T term = k[n] * y_bar[int64(m) * M + j] * math::exp(-pair_exponent(mean + n * Q, u + n * Q, w + n * Q, own, other, Q));
#pragma unroll
        for (int i = 0; i < EACH; ++i)
          if (first + i < Q) between[i] += term * (own[first + i] - other[first + i]) * (own[first + i] - other[first + i]);
      }
    }
    total = warp_sum(total);
    of_all += double(total);
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (first + i < Q) {
        int64 at = n * Q + first + i;
        T one = warp_sum(linear[i]), two = warp_sum(square[i]), d = warp_sum(between[i]);
        T s = variance[at], c = T(1) / (f * precision[first + i] * s + T(1));
        if (lane == 0) {
          mean_bar[at] = -f * u[at] * one;
          variance_bar[at] = T(0.5) * f * u[at] * (f * u[at] * (two - T(0.25) * d) - total);
        }
        of_precision[i] -= double(T(0.5) * f * c * (c * two + total * s) + T(0.5) * d * u[at] * s * (T(1) + c));
      }
  }
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (first + i < Q) sums[p * (Q + 1) + first + i] = of_precision[i];
    if (chunk == 0) sums[p * (Q + 1) + Q] = of_all;
  }
}
