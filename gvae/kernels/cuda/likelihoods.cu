// Fused log-densities of data.

constexpr int ROW = 128;  // threads that share a row

// log_prob[r] = sum_j x_j a_j - softplus(a_j), and residual[r, j] = x_j - sigmoid(a_j), its gradient in the logits.
// x (Q, N), x_rows (R,): the row of x that belongs to row r; logits (R, N); residual (S, N), S = 0 if it is not wanted.
template <typename T>
__global__ void __launch_bounds__(ROW)
bernoulli(const T* x, const int64* x_rows, const T* logits, T* log_prob, T* residual, int N, int S, int64 lo, int64 hi) {
  __shared__ T parts[ROW / LANES];
  int64 r = lo + blockIdx.x;
  const T *data = x + x_rows[r] * N, *a = logits + r * N;
  T total = T(0);
  for (int j = threadIdx.x; j < N; j += ROW) {
    T z = a[j], e = math::exp(-fabs(z));
    total += data[j] * z - (z < T(0) ? T(0) : z) - math::log1p(e);
    if (S) residual[r * N + j] = data[j] - (z >= T(0) ? T(1) : e) / (T(1) + e);
  }
  total = warp_sum(total);
  if ((threadIdx.x & (LANES - 1)) == 0) parts[threadIdx.x / LANES] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < ROW / LANES; ++w) total += parts[w];
    log_prob[r] = total;
  }
}
