// Solves with dense lower-triangular matrices: a right-hand side for each lane of a warp.

// x[r] = L^-1 x[r], or L^-T x[r], in place, with L = l[l_of[r]]: l (F, N, N), x (R, N, K). The systems lo <= s < hi are panels
// of LANES columns, ceil(K / LANES) for each r.
template <typename T>
__global__ void solve(const T* l, const int64* l_of, int trans, T* x, int N, int K, int64 lo, int64 hi) {
  int64 s = lo + thread_position() / LANES;
  if (s >= hi) return;
  int panel;
  int64 r = row_and_column(s, (K + LANES - 1) / LANES, panel), size = N;
  int k = panel * LANES + (threadIdx.x & (LANES - 1));
  if (k >= K) return;
  const T* factor = l + l_of[r] * size * N;
  T* system = x + r * size * K + k;
  for (int step = 0; step < N; ++step) {
    int i = trans ? N - 1 - step : step;
    T sum = system[int64(i) * K];
    for (int j = trans ? i + 1 : 0; j < (trans ? N : i); ++j)
      sum -= factor[trans ? j * size + i : i * size + j] * system[int64(j) * K];
    system[int64(i) * K] = sum / factor[i * size + i];
  }
}
