// Poisson counts in CSR under rates z_b . w_d: of a row's D columns only those with a count are visited.
//
// K samples of B rows: z (P, B, H), of which sample k uses z[z_of[k]], and w (F, D, H), of which it uses w[w_of[k]]. A warp works
// on a system, and its lanes on the H units. Long sums are in float64 in both precisions.

constexpr int PIECE = 64;  // counts whose terms are added up in the working type
constexpr int ROW = 256;   // threads that add up LANES columns

// total[k, j] = sum_i scale[k, i] a[a_of[k], i, j], of the entries lo <= k H + j < hi.
// scale (V, M), V = 0 for ones; a (P, M, H); total (K, H).
template <typename T>
__global__ void __launch_bounds__(ROW)
sums(const T* scale, const T* a, const int64* a_of, T* total, int V, int M, int H, int64 lo, int64 hi) {
  __shared__ double parts[ROW];
  int64 e = lo + int64(blockIdx.x) * LANES + (threadIdx.x & (LANES - 1));
  double sum = 0;
  if (e < hi) {
    int j;
    int64 k = row_and_column(e, H, j);
    const T* column = a + a_of[k] * M * H + j;
    for (int i = threadIdx.x / LANES; i < M; i += ROW / LANES)
      sum += (V ? double(scale[k * M + i]) : 1.0) * double(column[int64(i) * H]);
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < LANES && e < hi) {
    for (int i = 1; i < ROW / LANES; ++i) sum += parts[i * LANES + threadIdx.x];
    total[e] = T(sum);
  }
}

// log_prob[k, b] = sum_t x_t log(z_b . w_d(t)) - z_b . (sum_d w_d) - constants_b over the counts t of row b.
// values, columns (E,), pointers (B + 1,): CSR with sorted columns; constants (B,): sum_t log x_t!; total (F, H): sum_d w_d;
// ratio (V, E), V = 0 if it is not wanted: x_t / (z_b . w_d(t)). A count of 0 has the term 0 whatever its rate.
template <typename T>
__global__ void poisson(const T* values, const int64* columns, const int64* pointers, const T* constants, const T* z, const int64* z_of, const T* w, const int64* w_of, const T* total, T* log_prob, T* ratio, int B, int D, int H, int V, int E, int64 lo, int64 hi) {
  int64 r = lo + thread_position() / LANES;
  if (r >= hi) return;
  int b, lane = threadIdx.x & (LANES - 1);
  int64 k = row_and_column(r, B, b);
  const T *row = z + (z_of[k] * B + b) * H, *weights = w + w_of[k] * D * H, *of_all = total + w_of[k] * H;
  double value = 0;
  for (int j = lane; j < H; j += LANES) value -= double(row[j]) * double(of_all[j]);
  int64 last = pointers[b + 1];
  for (int64 top = pointers[b]; top < last; top += LANES) {  // each lane takes the logarithm of one rate
    T mine = T(1);
    int some = last - top < LANES ? int(last - top) : LANES;
    for (int i = 0; i < some; ++i) {
      const T* column = weights + columns[top + i] * H;
      T rate = T(0);
      for (int j = lane; j < H; j += LANES) rate += row[j] * column[j];
      rate = warp_sum(rate);
      if (i == lane) mine = rate;
    }
    if (lane < some) {
      T x = values[top + lane];
      if (x != T(0)) value += double(x) * math::log(double(mine));
      if (V) ratio[k * E + top + lane] = x != T(0) ? x / mine : T(0);
    }
  }
  value = warp_sum(value);
  if (lane == 0) log_prob[r] = T(value - double(constants[b]));
}

// z_bar[p, b] = sum_k s_kb (sum_t ratio_kt w_d(t) - sum_d w_d) over k = samples[p, 0], ...: those that use z[p].
// log_prob_bar (K, B): s; samples (P, S); z_bar (P, B, H); the rest as for `poisson`. The systems are p B + b.
template <typename T>
__global__ void poisson_vjp(const T* log_prob_bar, const int64* columns, const int64* pointers, const T* ratio, const T* w, const int64* w_of, const T* total, const int64* samples, T* z_bar, int B, int D, int H, int S, int E, int64 lo, int64 hi) {
  int64 r = lo + thread_position() / LANES;
  if (r >= hi) return;
  int b;
  int64 p = row_and_column(r, B, b);
  for (int j = threadIdx.x & (LANES - 1); j < H; j += LANES) {
    double sum = 0;
    for (int i = 0; i < S; ++i) {
      int64 k = samples[p * S + i];
      const T *weights = w + w_of[k] * D * H + j, *x = ratio + k * E;
      T s = log_prob_bar[k * B + b];
      sum -= double(s) * double(total[w_of[k] * H + j]);
      for (int64 top = pointers[b]; top < pointers[b + 1]; top += PIECE) {
        int64 end = pointers[b + 1] - top < PIECE ? pointers[b + 1] : top + PIECE;
        T part = T(0);
        for (int64 t = top; t < end; ++t) part += s * x[t] * weights[columns[t] * H];
        sum += double(part);
      }
    }
    z_bar[r * H + j] = T(sum);
  }
}

// w_bar[f, d] = sum_k sum_t s_kb(t) ratio_kt z_b(t) - total[f] over the counts t of column d, k = samples[f, 0], ...
// rows, places (E,), pointers (D + 1,): the counts column by column, each with its row and its place in `ratio`;
// total (F, H): sum_k sum_b s_kb z_b; samples (F, S): those that use w[f]; w_bar (F, D, H). The systems are f D + d.
template <typename T>
__global__ void poisson_weight_vjp(const T* log_prob_bar, const int64* rows, const int64* pointers, const int64* places, const T* ratio, const T* z, const int64* z_of, const T* total, const int64* samples, T* w_bar, int B, int D, int H, int S, int E, int64 lo, int64 hi) {
  int64 r = lo + thread_position() / LANES;
  if (r >= hi) return;
  int d;
  int64 f = row_and_column(r, D, d);
  for (int j = threadIdx.x & (LANES - 1); j < H; j += LANES) {
    double sum = 0;
    for (int i = 0; i < S; ++i) {
      int64 k = samples[f * S + i];
      const T *units = z + z_of[k] * B * H + j, *x = ratio + k * E, *s = log_prob_bar + k * B;
      for (int64 top = pointers[d]; top < pointers[d + 1]; top += PIECE) {
        int64 end = pointers[d + 1] - top < PIECE ? pointers[d + 1] : top + PIECE;
        T part = T(0);
        for (int64 t = top; t < end; ++t) part += s[rows[t]] * x[places[t]] * units[rows[t] * H];
        sum += double(part);
      }
    }
    w_bar[r * H + j] = T(sum - double(total[f * H + j]));
  }
}
