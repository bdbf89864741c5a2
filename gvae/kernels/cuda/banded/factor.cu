// Columns [first, last) of A = L L^T, all diagonals 0..M-1, first to last. A pivot that fails is 0 or NaN in chol.
template <typename T>
__device__ void cholesky_one(const View<const T>& ab, const View<T>& chol, int M, int N, int first, int last, const Group& g) {
  for (int j = first; j < last; ++j) {
    if (g.lane == 0) {
      T s = ab(0, j);
      for (int d = 1; d < M && d <= j; ++d) s -= chol(d, j - d) * chol(d, j - d);
      chol(0, j) = sqrt(s);
    }
    __syncwarp();
    for (int o = 1 + g.lane; o < M; o += g.size) {
      T s = T(0);
      if (o < N - j) {
        s = ab(o, j);
        for (int d = 1; d < M - o && d <= j; ++d) s -= chol(o + d, j - d) * chol(d, j - d);
        s = s / chol(0, j);
      }
      chol(o, j) = s;
    }
    __syncwarp();
  }
}

// chol[f] = the factor of ab[f]; chol may be ab.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
cholesky(const T* ab, T* chol, int* info, int M, int N, int group, int width, int64 lo, int64 hi) {
  DYN_SMEM(int64, shared);
  Group g = group_of(group, lo, hi);
  int H = width ? M - 1 : 0, row = (width + H + 1) / 4 * 4 + 2;
  int pitch = (M * width + M * row) | 1;
  int64* start = shared;
  T* tile = reinterpret_cast<T*>(shared + LANES / group);
  T* window = tile + M * width;
  if (width && g.lane == 0) start[g.system] = g.f * M * N;
  int bad = 0, step = width ? width : N, tiles = step ? (N + step - 1) / step : 0;
  for (int part = 0; part < tiles; ++part) {
    int first = part * step, last = first + step < N ? first + step : N;
    View<const T> a = {ab + g.f * M * N, N, 0};
    View<T> l = {chol + g.f * M * N, N, 0};
    if (width) {
      __syncwarp();
      for (int k = 0; k < M; ++k) fetch(ab + int64(k) * N, start, g.systems, first, width, N, tile + k * width, pitch);
      __syncwarp();
      a = {tile + g.system * pitch, width, first};
      l = {window + g.system * pitch, row, first - H};
    }
    cholesky_one(a, l, M, N, first, last, g);
    if (g.busy && !bad) bad = first_bad_pivot(View<const T>{l.base, l.pitch, l.origin}, first, last);
    if (width) {
      for (int k = 0; k < M; ++k) deliver(window + k * row + H, pitch, start, g.systems, first, width, N, chol + int64(k) * N);
      __syncwarp();
      for (int k = g.lane; k < M; k += g.size)
        for (int e = 0; e < H; ++e) l.base[k * row + e] = l.base[k * row + e + width];
    }
  }
  __syncwarp();
  if (g.lane == 0) info[g.f] = bad;
  if (bad)
    for (int64 e = g.lane; e < int64(M) * N; e += g.size) chol[g.f * M * N + e] = Float<T>::nan();
}

// ab_bar[f] from chol_bar[f], which is overwritten: last column to first. A lane has a distance d, and with it all that goes
// to column j - d.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
cholesky_vjp(const T* chol, T* chol_bar, T* ab_bar, int M, int N, int group, int64 lo, int64 hi) {
  Group g = group_of(group, lo, hi);
  View<const T> c = {chol + g.f * M * N, N, 0};
  View<T> c_bar = {chol_bar + g.f * M * N, N, 0}, a_bar = {ab_bar + g.f * M * N, N, 0};
  for (int j = N - 1; j >= 0; --j) {
    int last = M < N - j ? M : N - j;  // diagonals that column j has
    for (int o = 1 + g.lane; o < M; o += g.size) a_bar(o, j) = o < last ? c_bar(o, j) / c(0, j) : T(0);
    __syncwarp();
    if (g.lane == 0) {
      T t = c_bar(0, j);
      for (int o = last - 1; o > 0; --o) t -= a_bar(o, j) * c(o, j);
      a_bar(0, j) = t / (T(2) * c(0, j));
    }
    __syncwarp();
    for (int d = 1 + g.lane; d < M && d <= j; d += g.size) {
      for (int o = last - 1; o > 0; --o)
        if (o + d < M) {
          c_bar(o + d, j - d) -= a_bar(o, j) * c(d, j - d);
          c_bar(d, j - d) -= a_bar(o, j) * c(o + d, j - d);
        }
      c_bar(d, j - d) -= T(2) * a_bar(0, j) * c(d, j - d);
    }
    __syncwarp();
  }
}
