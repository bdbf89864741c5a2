// Binary variables one after the other: autoregressive logits, and NADE, whose logits share hidden units.
//
// Rows may share parameters: b_rows[r] is the bias that belongs to row r, w_rows[r] the weights.

constexpr int ROW = 128;  // threads that share a row

template <typename T> __device__ __forceinline__ T probability(T a) {
  T e = math::exp(-fabs(a));
  return (a >= T(0) ? T(1) : e) / (T(1) + e);
}

// 1 if u < p, else 0; NaN if one of them is.
template <typename T> __device__ __forceinline__ T drawn(T u, T p) { return u < p ? T(1) : u >= p ? T(0) : u + p; }

// The sum over the threads of a block, for all of them, in one fixed order.
template <typename T> __device__ __forceinline__ T block_sum(T v, T* parts) {
  v = warp_sum(v);
  if ((threadIdx.x & (LANES - 1)) == 0) parts[threadIdx.x / LANES] = v;
  __syncthreads();
  T total = T(0);
  for (int w = 0; w < ROW / LANES; ++w) total += parts[w];
  __syncthreads();
  return total;
}

// h_j = 1 where u_j < sigmoid(a_j), else 0, with a_j = b_j + sum_{i<j} h_i U_ij.
// uniform, draw, logits (R, N); bias (Q, N); weight (F, N, N): U, of which the entries above the diagonal are read.
template <typename T>
__global__ void __launch_bounds__(ROW)
autoregressive_draw(const T* uniform, const T* bias, const int64* b_rows, const T* weight, const int64* w_rows, T* draw, T* logits, int N, int64 lo, int64 hi) {
  int64 r = lo + blockIdx.x;
  const T *u = uniform + r * N, *b = bias + b_rows[r] * N;
  const T* all = weight + w_rows[r] * N * N;
  T* a = logits + r * N;
  for (int j = threadIdx.x; j < N; j += ROW) a[j] = b[j];
  __syncthreads();
  for (int j = 0; j < N; ++j) {
    T h = drawn(u[j], probability(a[j]));
    if (threadIdx.x == 0) draw[r * N + j] = h;
    if (h != T(0)) {
      const T* w = all + int64(j) * N;
      for (int k = j + 1 + threadIdx.x; k < N; k += ROW) a[k] += h * w[k];
      __syncthreads();
    }
  }
}

// a_bar_j = (h_bar_j + sum_{k>j} U_jk a_bar_k) slope_j, from the last unit to the first.
// draw_bar, slope, logits_bar (R, N); slope: what stands for dh/da.
template <typename T>
__global__ void __launch_bounds__(ROW)
autoregressive_draw_vjp(const T* draw_bar, const T* slope, const T* weight, const int64* w_rows, T* logits_bar, int N, int64 lo, int64 hi) {
  __shared__ T parts[ROW / LANES];
  int64 r = lo + blockIdx.x;
  const T* all = weight + w_rows[r] * N * N;
  T* a_bar = logits_bar + r * N;
  for (int j = N - 1; j >= 0; --j) {
    const T* w = all + int64(j) * N;
    T total = T(0);
    for (int k = j + 1 + threadIdx.x; k < N; k += ROW) total += w[k] * a_bar[k];
    total = block_sum(total, parts);
    if (threadIdx.x == 0) a_bar[j] = (draw_bar[r * N + j] + total) * slope[r * N + j];
    __syncthreads();
  }
}

// a = c, s = sigmoid(a); each thread has units of its own.
template <typename T> __device__ __forceinline__ void begin_units(const T* c, T* a, T* s, int H) {
  for (int k = threadIdx.x; k < H; k += ROW) {
    a[k] = c[k];
    s[k] = probability(a[k]);
  }
}

template <typename T> __device__ __forceinline__ T logit(const T* v, const T* s, int H, T* parts) {
  T t = T(0);
  for (int k = threadIdx.x; k < H; k += ROW) t += v[k] * s[k];
  return block_sum(t, parts);
}

// log_prob[r] = sum_j x_j t_j - softplus(t_j), t_j = b_j + V_j . sigmoid(a_j), a_j = c + sum_{i<j} x_i W_i.
// x (P, N); bias (Q, N) and hidden (Q, H): b and c; weight, out_weight (F, N, H): W and V; residual (S, N): x_j - sigmoid(t_j),
// S = 0 if it is not wanted. Hidden units change only where x_j is not 0.
template <typename T>
__global__ void __launch_bounds__(ROW)
nade(const T* x, const int64* x_rows, const T* bias, const int64* b_rows, const T* hidden, const T* weight, const T* out_weight, const int64* w_rows, T* log_prob, T* residual, int N, int H, int S, int64 lo, int64 hi) {
  __shared__ T parts[ROW / LANES];
  DYN_SMEM(T, units);
  int64 r = lo + blockIdx.x;
  const T *data = x + x_rows[r] * N, *b = bias + b_rows[r] * N;
  const T *W = weight + w_rows[r] * N * H, *V = out_weight + w_rows[r] * N * H;
  T *a = units, *s = units + H, total = T(0);
  begin_units(hidden + b_rows[r] * H, a, s, H);
  for (int j = 0; j < N; ++j) {
    T t = logit(V + int64(j) * H, s, H, parts) + b[j];
    total += data[j] * t - (t < T(0) ? T(0) : t) - math::log1p(math::exp(-fabs(t)));
    if (S && threadIdx.x == 0) residual[r * N + j] = data[j] - probability(t);
    if (data[j] != T(0)) {
      const T* w = W + int64(j) * H;
      for (int k = threadIdx.x; k < H; k += ROW) {
        a[k] += data[j] * w[k];
        s[k] = probability(a[k]);
      }
    }
  }
  if (threadIdx.x == 0) log_prob[r] = total;
}

// h_j = 1 where u_j < sigmoid(t_j), else 0, with t_j of `nade` at the units drawn before.
template <typename T>
__global__ void __launch_bounds__(ROW)
nade_draw(const T* uniform, const T* bias, const int64* b_rows, const T* hidden, const T* weight, const T* out_weight, const int64* w_rows, T* draw, int N, int H, int64 lo, int64 hi) {
  __shared__ T parts[ROW / LANES];
  DYN_SMEM(T, units);
  int64 r = lo + blockIdx.x;
  const T *b = bias + b_rows[r] * N, *W = weight + w_rows[r] * N * H, *V = out_weight + w_rows[r] * N * H;
  T *a = units, *s = units + H;
  begin_units(hidden + b_rows[r] * H, a, s, H);
  for (int j = 0; j < N; ++j) {
    T t = logit(V + int64(j) * H, s, H, parts) + b[j];
    T h = drawn(uniform[r * N + j], probability(t));
    if (threadIdx.x == 0) draw[r * N + j] = h;
    if (h != T(0)) {
      const T* w = W + int64(j) * H;
      for (int k = threadIdx.x; k < H; k += ROW) {
        a[k] += h * w[k];
        s[k] = probability(a[k]);
      }
    }
  }
}

// Cotangents of c, W and V for hidden units lo <= k < hi, from those of the logits, logit_bar (R, N).
// hidden_bar (R, H), weight_bar, out_weight_bar (F, N, H). The recurrence runs down again. One thread per unit.
template <typename T>
__global__ void nade_vjp(const T* x, const int64* x_rows, const T* hidden, const int64* b_rows, const T* weight, const T* out_weight, const int64* w_rows, const T* logit_bar, T* hidden_bar, T* weight_bar, T* out_weight_bar, int F, int R, int N, int H, int64 lo, int64 hi) {
  int64 k = lo + thread_position();
  if (k >= hi) return;
  for (int64 j = 0; j < int64(F) * N; ++j) weight_bar[j * H + k] = out_weight_bar[j * H + k] = T(0);
  for (int r = 0; r < R; ++r) {
    const T* data = x + x_rows[r] * N;
    int64 first = w_rows[r] * N;
    T a = hidden[b_rows[r] * H + k], g = T(0), a_bar = T(0);
    for (int j = 0; j < N; ++j)
      if (data[j] != T(0)) a += data[j] * weight[(first + j) * H + k];
    T s = probability(a);
    for (int j = N - 1; j >= 0; --j) {
      int64 e = (first + j) * H + k;
      if (data[j] != T(0)) {
        a_bar += g * s * (T(1) - s);
        g = T(0);
        weight_bar[e] += data[j] * a_bar;
        a -= data[j] * weight[e];
        s = probability(a);
      }
      T t_bar = logit_bar[int64(r) * N + j];
      out_weight_bar[e] += t_bar * s;
      g += t_bar * out_weight[e];
    }
    hidden_bar[int64(r) * H + k] = a_bar + g * s * (T(1) - s);
  }
}

// x_bar[r, j] = scale_r t_j + W_j . a_bar_j, the cotangents of x; scale (R,): those of log_prob.
template <typename T>
__global__ void __launch_bounds__(ROW)
nade_input_vjp(const T* x, const int64* x_rows, const T* bias, const int64* b_rows, const T* hidden, const T* weight, const T* out_weight, const int64* w_rows, const T* logit_bar, const T* scale, T* x_bar, int N, int H, int64 lo, int64 hi) {
  __shared__ T parts[ROW / LANES];
  DYN_SMEM(T, units);
  int64 r = lo + blockIdx.x;
  const T *data = x + x_rows[r] * N, *b = bias + b_rows[r] * N, *c = hidden + b_rows[r] * H;
  const T *W = weight + w_rows[r] * N * H, *V = out_weight + w_rows[r] * N * H;
  T *a = units, *s = units + H, *g = units + 2 * H, *a_bar = units + 3 * H;  // no loop is unrolled: registers are few
#pragma unroll 1
  for (int k = threadIdx.x; k < H; k += ROW) {
    T end = c[k];
#pragma unroll 1
    for (int j = 0; j < N; ++j)
      if (data[j] != T(0)) end += data[j] * W[int64(j) * H + k];
    a[k] = end;
    s[k] = probability(end);
    g[k] = a_bar[k] = T(0);
  }
#pragma unroll 1
  for (int j = N - 1; j >= 0; --j) {
    const T *w = W + int64(j) * H, *v = V + int64(j) * H;
    T total = T(0), t = T(0), t_bar = logit_bar[r * N + j];
#pragma unroll 1
    for (int k = threadIdx.x; k < H; k += ROW) {
      T along = a_bar[k] + g[k] * s[k] * (T(1) - s[k]);
      total += w[k] * along;
      if (data[j] != T(0)) {
        a_bar[k] = along;
        g[k] = T(0);
        a[k] -= data[j] * w[k];
        s[k] = probability(a[k]);
      }
      t += v[k] * s[k];
      g[k] += t_bar * v[k];
    }
    total = block_sum(total, parts);
    t = block_sum(t, parts) + b[j];
    if (threadIdx.x == 0) x_bar[r * N + j] = scale[r] * t + total;
  }
}
