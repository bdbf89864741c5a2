// Bias and activation in one pass over a matrix product, and the activation's derivative from its output.

enum Activation { IDENTITY, RELU, LEAKY_RELU, ELU, TANH, SIGMOID, SOFTPLUS };  // gvae.ops.dense.ACTIVATIONS

template <typename T> __device__ __forceinline__ T activated(T t, int activation) {
  switch (activation) {
    case IDENTITY: return t;
    case RELU: return t <= T(0) ? T(0) : t;  // so that NaN passes
    case LEAKY_RELU: return t <= T(0) ? T(0.01) * t : t;
    case ELU: return t > T(0) ? t : math::expm1(t);
    case TANH: {
      T e = math::expm1(T(-2) * fabs(t));  // tanh |t| = -e / (2 + e), accurate near 0
      T y = -e / (T(2) + e);
      return t >= T(0) ? y : -y;
    }
    case SIGMOID: {
      T e = math::exp(-fabs(t));
      return (t >= T(0) ? T(1) : e) / (T(1) + e);
    }
    default: return (t > T(0) ? t : T(0)) + math::log1p(math::exp(-fabs(t)));
  }
}

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
