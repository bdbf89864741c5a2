// Importance weights along one axis of an array seen as (outer, K, inner).

// result[o, i] = log 1/K sum_k e^(log_weights[o, k, i]); weights[o, k, i] = the normalised weights, which sum to 1.
// V = 0: weights are not wanted. A column of -inf gives -inf and weights 0; NaN gives NaN; +inf gives +inf, and the weight
// is shared among the infinite ones. One thread per column.
template <typename T>
__global__ void log_mean_exp(const T* __restrict__ log_weights, T* __restrict__ result, T* __restrict__ weights, int K, int I, int V, int64 lo, int64 hi) {
  int64 e = lo * I + thread_position();
  if (e >= hi * I) return;
  int i;
  int64 o = row_and_column(e, I, i);
  const T* w = log_weights + o * K * I + i;
  T top = w[0], total = T(0);
#pragma unroll 8  // so many loads on their way
  for (int k = 1; k < K; ++k) {
    T next = w[int64(k) * I];
    top = next > top || next != next ? next : top;  // a NaN stays: nothing is greater
  }
  bool infinite = top - top != T(0);  // NaN as well
#pragma unroll 8
  for (int k = 0; k < K; ++k) {
    T next = w[int64(k) * I];
    total += infinite ? (next == top ? T(1) : T(0)) : math::exp(next - top);
  }
  result[e] = infinite ? top : top + math::log(total / T(K));
  if (V == 0) return;
  for (int k = 0; k < K; ++k) {
    T next = w[int64(k) * I], *weight = weights + (o * K + k) * I + i;
    if (top != top)
      *weight = top;
    else if (infinite)
      *weight = top > T(0) && next == top ? T(1) / total : T(0);
    else
      *weight = math::exp(next - top) / total;
  }
}
