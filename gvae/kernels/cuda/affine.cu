// Bias and activation in one pass over a matrix product, and the activation's derivative from its output.

// a[i] <- f(a[i] + bias) for rows lo <= i < hi; a is (rows, O), bias (O,).
template <typename T>
__global__ void bias_activation(T* a, const T* bias, int activation, int O, int64 lo, int64 hi) {
  int64 e = lo * O + thread_position();
  if (e >= hi * O) return;
  int j;
  row_and_column(e, O, j);
  a[e] = activated(a[e] + bias[j], activation);
}

// a_bar[i] <- a_bar[i] f'(a[i]) for elements lo <= i < hi, with f' written in y = f(a).
template <typename T>
__global__ void activation_vjp(const T* y, T* a_bar, int activation, int64 lo, int64 hi) {
  int64 i = lo + thread_position();
  if (i >= hi) return;
  T g = a_bar[i], z = y[i];
  switch (activation) {
    case IDENTITY: break;
    case RELU: a_bar[i] = z > T(0) ? g : T(0); break;
    case LEAKY_RELU: a_bar[i] = z > T(0) ? g : T(0.01) * g; break;
    case ELU: a_bar[i] = z > T(0) ? g : g * (z + T(1)); break;
    case TANH: a_bar[i] = g * (T(1) - z * z); break;
    case SIGMOID: a_bar[i] = g * z * (T(1) - z); break;
    default: a_bar[i] = g * -math::expm1(-z);  // 1 - e^-softplus(a) = sigmoid(a)
  }
}
