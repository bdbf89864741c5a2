// Batch normalisation: each column of a matrix in units of its own deviation, then an activation; and its derivatives.
//
// a is (R, O): R rows, of all samples and data, and O columns. A block works on LANES columns; sums over rows are in float64.

constexpr double EPSILON = 1e-5;  // added to variances
constexpr int ROW = 256;  // threads of a block that add up LANES columns

// The sums over a column's threads of a block, of which thread i of a column has one; every thread gets its column's.
__device__ __forceinline__ double column_sum(double mine, double* parts) {
  __syncthreads();
  parts[threadIdx.x] = mine;
  __syncthreads();
  double sum = 0;
  for (int i = threadIdx.x & (LANES - 1); i < ROW; i += LANES) sum += parts[i];
  return sum;
}

// mean[j] and variance[j] of the rows of a, (1/R) sum_r (a[r, j] - mean[j])^2, for columns lo <= j < hi.
template <typename T>
__global__ void __launch_bounds__(ROW)
moments(const T* a, T* mean, T* variance, int R, int O, int64 lo, int64 hi) {
  __shared__ double parts[ROW];
  int64 j = lo + int64(blockIdx.x) * LANES + (threadIdx.x & (LANES - 1));
  bool mine = j < hi;
  int first = threadIdx.x / LANES;
  double sum = 0, squares = 0;
  for (int r = first; mine && r < R; r += ROW / LANES) sum += double(a[int64(r) * O + j]);
  double center = column_sum(sum, parts) / R;
  for (int r = first; mine && r < R; r += ROW / LANES) {
    double difference = double(a[int64(r) * O + j]) - center;
    squares += difference * difference;
  }
  squares = column_sum(squares, parts);
  if (mine && first == 0) {
    mean[j] = T(center);
    variance[j] = T(squares / R);
  }
}

// y[r, j] = f(scale[j] (a[r, j] - mean[j]) / sqrt(variance[j] + EPSILON) + shift[j]) for rows lo <= r < hi.
template <typename T>
__global__ void normalize(const T* a, const T* mean, const T* variance, const T* scale, const T* shift, int activation, T* y, int O, int64 lo, int64 hi) {
  int64 e = lo * O + thread_position();
  if (e >= hi * O) return;
  int j;
  row_and_column(e, O, j);
  T factor = T(double(scale[j]) / sqrt(double(variance[j]) + EPSILON));
  y[e] = activated((a[e] - mean[j]) * factor + shift[j], activation);
}

// shift_bar[j] = sum_r b[r, j] and scale_bar[j] = sum_r b[r, j] (a[r, j] - mean[j]) / sqrt(variance[j] + EPSILON), for columns
// lo <= j < hi.
template <typename T>
__global__ void __launch_bounds__(ROW)
sums(const T* a, const T* mean, const T* variance, const T* b, T* scale_bar, T* shift_bar, int R, int O, int64 lo, int64 hi) {
  __shared__ double parts[ROW];
  int64 j = lo + int64(blockIdx.x) * LANES + (threadIdx.x & (LANES - 1));
  bool mine = j < hi;
  int first = threadIdx.x / LANES;
  double of_all = 0, products = 0;
  for (int r = first; mine && r < R; r += ROW / LANES) {
    int64 e = int64(r) * O + j;
    of_all += double(b[e]);
    products += double(b[e]) * double(a[e] - mean[j]);
  }
  of_all = column_sum(of_all, parts);
  products = column_sum(products, parts);
  if (mine && first == 0) {
    shift_bar[j] = T(of_all);
    scale_bar[j] = T(products / sqrt(double(variance[j]) + EPSILON));
  }
}

// a_bar[r, j] = scale[j] (b[r, j] - shift_bar[j] / R - h scale_bar[j] / R) / sqrt(variance[j] + EPSILON), where
// h = (a[r, j] - mean[j]) / sqrt(variance[j] + EPSILON), for rows lo <= r < hi.
template <typename T>
__global__ void input_vjp(const T* a, const T* mean, const T* variance, const T* scale, const T* b, const T* scale_bar, const T* shift_bar, T* a_bar, int R, int O, int64 lo, int64 hi) {
  int64 e = lo * O + thread_position();
  if (e >= hi * O) return;
  int j;
  row_and_column(e, O, j);
  double inverse = 1 / sqrt(double(variance[j]) + EPSILON);
  T factor = T(double(scale[j]) * inverse), of_all = T(double(shift_bar[j]) / R);
  T slope = T(double(scale_bar[j]) * inverse / R);
  a_bar[e] = factor * (b[e] - of_all - slope * (a[e] - mean[j]));
}
