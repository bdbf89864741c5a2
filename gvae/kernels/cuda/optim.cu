// Optimisers on a flat buffer of parameters.

// One Adam step on elements lo <= i < hi, in one pass. `rate` and `eps` already hold the bias corrections; they change from
// step to step, and may lie in memory for that.
template <typename T>
__global__ void adam(const T* gradient, T* parameters, T* m, T* v, T rate, const T* rate_at, T beta1, T beta2, T eps,
                     const T* eps_at, int64 lo, int64 hi) {
  int64 i = lo + thread_position();
  if (i >= hi) return;
  if (rate_at) rate = *rate_at;
  if (eps_at) eps = *eps_at;
  T g = gradient[i];
  m[i] = beta1 * m[i] + (T(1) - beta1) * g;
  v[i] = beta2 * v[i] + (T(1) - beta2) * g * g;
  parameters[i] -= rate * m[i] / (sqrt(v[i]) + eps);
}
