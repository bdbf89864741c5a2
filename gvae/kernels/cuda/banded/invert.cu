// Columns [first, last) of the selected inverse, last to first; every lane of the warp calls it with the same columns.
template <typename T>
__device__ void inverse_one(const View<const T>& chol, const int64* offsets, const View<T>& s, int M, int N, int W, int first,
                            int last, const Group& g) {
  for (int j = last - 1; j >= first; --j) {
    T a = chol(0, j);
    for (int d = 1 + g.lane; d < W; d += g.size) {
      int i = j + d;
      T t = T(0);
      if (i < N) {
        for (int k = 1; k < M; ++k) {
          int64 m = j + offsets[k];
          if (m >= N) break;
          t += chol(k, j) * (m < i ? s(i - int(m), int(m)) : s(int(m) - i, i));
        }
        t = -t / a;
      }
      s(d, j) = t;
    }
    __syncwarp();
    if (g.lane == 0) {  // the diagonal uses the column's own entries
      T t = T(0);
      for (int k = 1; k < M; ++k) {
        int64 o = offsets[k];
        if (j + o >= N) break;
        t += chol(k, j) * s(int(o), j);
      }
      t = -t / a;
      s(0, j) = t + T(1) / (a * a);
    }
    __syncwarp();
  }
}

// The same where the number of diagonals is known and each lane of a group has one distance at most: what it reads of the
// column's system stays at the same places relative to the column.
template <int COUNT, typename T>
__device__ __forceinline__ void inverse_few(const View<const T>& chol, const int64* __restrict__ offsets, const View<T>& s, int N,
                                            int W, int first, int last, const Group& g) {
  const int d = g.lane < W - 1 ? 1 + g.lane : W;  // W: none
  int o[COUNT], at[COUNT];
#pragma unroll
  for (int k = 1; k < COUNT; ++k) {
    o[k] = int(offsets[k]);
    at[k] = o[k] < d ? (d - o[k]) * s.pitch + o[k] : (o[k] - d) * s.pitch + d;
  }
  for (int j = last - 1; j >= first; --j) {
    T *column = &s(0, j), c[COUNT];
    T a = chol(0, j), t = T(0);
#pragma unroll
    for (int k = 1; k < COUNT; ++k) c[k] = chol(k, j);
    if (d < W) {
      if (d < N - j) {
#pragma unroll
        for (int k = 1; k < COUNT; ++k)
          if (o[k] < N - j) t += c[k] * column[at[k]];
        t = -t / a;
      }
      column[d * s.pitch] = t;
    }
    __syncwarp();
    if (g.lane == 0) {  // the diagonal uses the column's own entries
      t = T(0);
#pragma unroll
      for (int k = 1; k < COUNT; ++k)
        if (o[k] < N - j) t += c[k] * column[o[k] * s.pitch];
      t = -t / a;
      column[0] = t + T(1) / (a * a);
    }
    __syncwarp();
  }
}

// s[f] = the selected inverse of factor f; s (F, W, N). Tiled: as in `solve`; else width is N.
template <typename T, bool TILED>
__device__ __forceinline__ void selected_inverse(const T* chol, const int64* offsets, T* s, int* info, int M, int N, int W,
                                                 int group, int width, int64 lo, int64 hi) {
  DYN_SMEM(int64, shared);
  Group g = group_of(group, lo, hi);
  int H = TILED ? W - 1 : 0, row = (width + H + 1) / 4 * 4 + 2;  // even, so that lanes on a column and on a diagonal differ
  int pitch = (M * width + W * row) | 1, per_warp = LANES / group;
  int64 *chol_start = shared, *s_start = shared + per_warp;
  T* tile = reinterpret_cast<T*>(shared + 2 * per_warp);
  T* window = tile + M * width;
  if (TILED && g.lane == 0) {
    chol_start[g.system] = g.f * M * N;
    s_start[g.system] = g.f * W * N;
  }
  int bad = 0, tiles = width ? (N + width - 1) / width : 0;
  for (int part = tiles - 1; part >= 0; --part) {
    int first = part * width, last = first + width < N ? first + width : N;
    View<const T> c;
    View<T> y;
    if (TILED) {
      __syncwarp();
      for (int k = 0; k < M && offsets[k] < N; ++k)
        fetch(chol + int64(k) * N, chol_start, g.systems, first, width, N, tile + k * width, pitch);
      __syncwarp();
      c = {tile + g.system * pitch, width, first};
      y = {window + g.system * pitch, row, first};
    } else {
      c = {chol + g.f * M * N, N, 0};
      y = {s + g.f * W * N, N, 0};
    }
    if (g.busy) {
      int found = first_bad_pivot(c, first, last);
      bad = found ? found : bad;
    }
    switch (TILED && W - 1 <= g.size ? M : 0) {
      case 2: inverse_few<2>(c, offsets, y, N, W, first, last, g); break;
      case 3: inverse_few<3>(c, offsets, y, N, W, first, last, g); break;
      case 4: inverse_few<4>(c, offsets, y, N, W, first, last, g); break;
      case 5: inverse_few<5>(c, offsets, y, N, W, first, last, g); break;
      default: inverse_one(c, offsets, y, M, N, W, first, last, g);
    }
    if (TILED) {
      for (int d = 0; d < W; ++d)
        deliver(window + d * row, pitch, s_start, g.systems, first, width, N, s + int64(d) * N);
      __syncwarp();
      for (int d = g.lane; d < W; d += g.size)
        for (int e = H - 1; e >= 0; --e) y.base[d * row + e + width] = y.base[d * row + e];
    }
  }
  __syncwarp();
  if (g.lane == 0) info[g.f] = bad;
  if (bad)
    for (int64 e = g.lane; e < int64(W) * N; e += g.size) s[g.f * W * N + e] = Float<T>::nan();
}

template <typename T>
__global__ void __launch_bounds__(LANES, 16)
inverse(const T* chol, const int64* offsets, T* s, int* info, int M, int N, int W, int group, int width, int64 lo, int64 hi) {
  if (width)
    selected_inverse<T, true>(chol, offsets, s, info, M, N, W, group, width, lo, hi);
  else
    selected_inverse<T, false>(chol, offsets, s, info, M, N, W, group, N, lo, hi);
}

// chol_bar of a factor from s_bar, which is overwritten: the recursion run backwards, first column to last. Lanes have the
// distances d of a column, then its diagonals k. Two terms at most go to one entry of s_bar, from the pairs (k, d) and
// (k', d') with offsets[k] = d' and offsets[k'] = d: k from last to first adds them in the serial order.
template <typename T>
__device__ __forceinline__ void inverse_vjp_one(const View<const T>& c, const int64* __restrict__ offsets, const View<const T>& y,
                                                const View<T>& y_bar, const View<T>& c_bar, int M, int N, int W,
                                                const Group& v) {
  for (int j = 0; j < N; ++j) {
    T a = c(0, j), g0 = v.busy ? y_bar(0, j) / a : T(0);
    __syncwarp();
    for (int k = 1 + v.lane; k < M; k += v.size)
      if (j + offsets[k] < N) y_bar(int(offsets[k]), j) -= g0 * c(k, j);
    __syncwarp();
    for (int d = v.lane; d < W && d < N - j; d += v.size) y_bar(d, j) /= a;  // g_d from here on
    __syncwarp();
    for (int k = v.lane; k < M; k += v.size) {
      int64 m = j + offsets[k];
      T t = k == 0 ? -(g0 / (a * a)) : T(0);
      if (m < N)
        for (int d = 0; d < W && d < N - j; ++d) {
          int i = j + d;
          t -= y_bar(d, j) * (k == 0 ? y(d, j) : m < i ? y(i - int(m), int(m)) : y(int(m) - i, i));
        }
      c_bar(k, j) = t;
    }
    for (int k = M - 1; k > 0; --k) {
      int64 m = j + offsets[k];
      for (int d = 1 + v.lane; d < W; d += v.size) {
        int i = j + d;
        if (m < N && i < N) (m < i ? y_bar(i - int(m), int(m)) : y_bar(int(m) - i, i)) -= y_bar(d, j) * c(k, j);
      }
      __syncwarp();
    }
  }
}

// chol_bar[f] for each factor f. width > 0: a small system is worked on in shared memory, as a whole.
template <typename T>
__global__ void __launch_bounds__(LANES, 16)
inverse_vjp(const T* chol, const int64* offsets, const T* s, T* s_bar, T* chol_bar, int M, int N, int W, int group, int width,
            int64 lo, int64 hi) {
  Group v = group_of(group, lo, hi);
  if (width == 0) {
    View<const T> c = {chol + v.f * M * N, N, 0}, y = {s + v.f * W * N, N, 0};
    View<T> y_bar = {s_bar + v.f * W * N, N, 0}, c_bar = {chol_bar + v.f * M * N, N, 0};
    inverse_vjp_one(c, offsets, y, y_bar, c_bar, M, N, W, v);
    return;
  }
  DYN_SMEM(int64, shared);
  const int per_warp = LANES / group, pitch = (2 * (M + W) * N) | 1;
  int64 *chol_start = shared, *s_start = shared + per_warp;
  T* tile = reinterpret_cast<T*>(shared + 2 * per_warp);
  T* own = tile + v.system * pitch;
  if (v.lane == 0) {
    chol_start[v.system] = v.f * M * N;
    s_start[v.system] = v.f * W * N;
  }
  __syncwarp();
  // per system: (M, N) of the factor and of its cotangent, (W, N) of the inverse and of its
  T *its_s = tile + 2 * M * N, *its_s_bar = its_s + W * N;
  for (int first = 0; first < N; first += width) {
    for (int k = 0; k < M; ++k)
      fetch(chol + int64(k) * N, chol_start, v.systems, first, width, N, tile + k * N + first, pitch);
    for (int d = 0; d < W; ++d) {
      fetch(s + int64(d) * N, s_start, v.systems, first, width, N, its_s + d * N + first, pitch);
      fetch(s_bar + int64(d) * N, s_start, v.systems, first, width, N, its_s_bar + d * N + first, pitch);
    }
  }
  __syncwarp();
  View<const T> c = {own, N, 0}, y = {own + 2 * M * N, N, 0};
  View<T> c_bar = {own + M * N, N, 0}, y_bar = {own + 2 * M * N + W * N, N, 0};
  inverse_vjp_one(c, offsets, y, y_bar, c_bar, M, N, W, v);
  __syncwarp();
  for (int first = 0; first < N; first += width)
    for (int k = 0; k < M; ++k)
      deliver(tile + (M + k) * N + first, pitch, chol_start, v.systems, first, width, N, chol_bar + int64(k) * N);
}
