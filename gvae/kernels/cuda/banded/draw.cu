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
