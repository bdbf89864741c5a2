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

// As `adam`, with weight decay where `is_weight` is 1, and none where it is 0.
template <typename T>
__global__ void adamw(const T* gradient, const T* is_weight, T* parameters, T* m, T* v, T rate, const T* rate_at, T beta1,
                      T beta2, T eps, const T* eps_at, T decay, const T* decay_at, int64 lo, int64 hi) {
  int64 i = lo + thread_position();
  if (i >= hi) return;
  if (rate_at) rate = *rate_at;
  if (eps_at) eps = *eps_at;
  if (decay_at) decay = *decay_at;
  T g = gradient[i], p = parameters[i];
  m[i] = beta1 * m[i] + (T(1) - beta1) * g;
  v[i] = beta2 * v[i] + (T(1) - beta2) * g * g;
  parameters[i] = p - (rate * m[i] / (sqrt(v[i]) + eps) + decay * is_weight[i] * p);
}

// One step down the gradient on elements lo <= i < hi.
template <typename T>
__global__ void sgd(const T* gradient, T* parameters, T rate, const T* rate_at, int64 lo, int64 hi) {
  int64 i = lo + thread_position();
  if (i >= hi) return;
  if (rate_at) rate = *rate_at;
  parameters[i] -= rate * gradient[i];
}

// One step with momentum on elements lo <= i < hi.
template <typename T>
__global__ void momentum(const T* gradient, T* parameters, T* m, T rate, const T* rate_at, T beta, int64 lo, int64 hi) {
  int64 i = lo + thread_position();
  if (i >= hi) return;
  if (rate_at) rate = *rate_at;
  m[i] = beta * m[i] + gradient[i];
  parameters[i] -= rate * m[i];
}
