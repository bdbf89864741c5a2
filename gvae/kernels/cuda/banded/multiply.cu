// ---- products ----

// (L x)_i, or (L^T x)_i. x need not lie in memory: it is what x(j) gives.
template <typename T, typename X>
__device__ __forceinline__ T multiply_triangular_one(const T* chol, const int64* offsets, X x, int trans, int M, int N,
                                                     int i) {
  T y = chol[i] * x(i);
  for (int k = 1; k < M; ++k) {
    int64 o = offsets[k];
    if (trans ? i + o >= N : i - o < 0) break;
    y += trans ? chol[int64(k) * N + i] * x(i + int(o)) : chol[int64(k) * N + i - o] * x(i - int(o));
  }
  return y;
}

template <typename T> struct Entries {
  const T* x;
  __device__ __forceinline__ T operator()(int j) const { return x[j]; }
};

template <typename T> struct Differences {
  const T *x, *mean;
  __device__ __forceinline__ T operator()(int j) const { return x[j] - mean[j]; }
};

// y[row[t]] = L x[row[t]] (or L^T) with the factor owner[t]. One thread per entry.
template <typename T>
__global__ void multiply_triangular(const T* chol, const int64* offsets, const int64* owner, const int64* row, const T* x,
                                    T* y, int trans, int M, int N, int64 lo, int64 hi) {
  int64 e = lo * N + thread_position();
  if (e >= hi * N) return;
  int i;
  int64 t = row_and_column(e, N, i), r = row[t];
  y[r * N + i] = multiply_triangular_one(chol + owner[t] * M * N, offsets, Entries<T>{x + r * N}, trans, M, N, i);
}

// y[lo:hi] of y = L x (or L^T x) for one long system.
template <typename T>
__global__ void multiply_columns(const T* chol, const int64* offsets, const T* x, T* y, int trans, int M, int N, int64 lo,
                                 int64 hi) {
  int64 i = lo + thread_position();
  if (i < hi) y[i] = multiply_triangular_one(chol, offsets, Entries<T>{x}, trans, M, N, int(i));
}

// band[f, k, j] = sign * sum over r in rows[f] of u[r, j + offsets[k]] v[r, j]. One thread per entry.
template <typename T>
__global__ void outer(const T* u, const T* v, const int64* rows, const int64* offsets, T sign, T* band, int M, int N, int K,
                      int64 lo, int64 hi) {
  int64 e = lo * M * N + thread_position();
  if (e >= hi * M * N) return;
  int j, k;
  int64 f = row_and_column(row_and_column(e, N, j), M, k);
  T total = T(0);
  if (j + offsets[k] < N)
    for (int s = 0; s < K; ++s) {
      int64 r = rows[f * K + s];
      total += sign * u[r * N + j + offsets[k]] * v[r * N + j];
    }
  band[e] = total;
}
