// Long chains (offsets 0, 1): one system cut into segments that run side by side, a lane each: the twins of
// gvae/kernels/cpu/chain.py, whose docstring has the recurrence y_j = beta_j + mu_j y_next and its three kinds.
//
// `ends` runs each segment from 0; `connect` finds what comes into each segment; `fill` runs each segment again from there.
// Segments are short here (WIDTH columns), so `connect` is a scan too: in pieces of one block, always combined in the same
// order, so that the bits depend on N alone. What is combined carries its `growth`, the largest product of mu after a point,
// and where that is large, as on the CPU, `serial` does the whole system: the choice is made on the device, and nobody waits.

enum Kind { FORWARD = 0, BACKWARD = 1, INVERSE = 2 };
enum Verdict { SEGMENTS = 0, SERIAL = 1, FAILED = 2 };

constexpr int WIDTH = 32;    // columns of a segment
constexpr int PIECES = 256;  // of the scan in `connect`: threads of its block

// y after = offset + gain * y before.
template <typename T> struct Affine {
  T offset, gain, growth;
};

template <typename T> __device__ __forceinline__ T larger(T x, T y) { return x > y || x != x ? x : y; }  // NaN if one is

// First `p`, then `q`.
template <typename T> __device__ __forceinline__ Affine<T> then(const Affine<T>& p, const Affine<T>& q) {
  return {q.offset + q.gain * p.offset, q.gain * p.gain, larger(p.growth * fabs(q.gain), q.growth)};
}

// The tiles of 32 neighbouring segments, (LANES, WIDTH) with an odd pitch: beta and q. Columns beyond N are not touched.
template <typename T>
__device__ void coefficients(const T* chol, const T* b, int kind, int N, int first, T* beta, T* q) {
  constexpr int PITCH = WIDTH + 1;
  for (int l = 0; l < LANES; ++l) {  // columns next to each other are numbers next to each other
    int j = first + l * WIDTH + int(threadIdx.x);
    if (j >= N) break;
    T a = chol[j], r = T(1) / a, c = T(0);
    if (kind == FORWARD && j > 0) c = chol[int64(N) + j - 1];
    if (kind != FORWARD && j + 1 < N) c = chol[int64(N) + j];
    beta[l * PITCH + threadIdx.x] = kind == INVERSE ? r * r : b[j] / a;
    q[l * PITCH + threadIdx.x] = c * r;
  }
}

// Segment s of the t-th system: `summary` (R, S, 3) is its Affine, bad (R, S) its first pivot that fails, or 0.
template <typename T>
__global__ void __launch_bounds__(LANES)
ends(const T* chol, const T* b, const int64* owner, const int64* b_row, int kind, T* summary, int* bad, int N, int S,
     int64 lo, int64 hi) {
  __shared__ T beta[LANES * (WIDTH + 1)], q[LANES * (WIDTH + 1)];
  int warps = (S + LANES - 1) / LANES, s = int(blockIdx.x % warps) * LANES + int(threadIdx.x);
  int64 t = lo + blockIdx.x / warps;
  const T* c = chol + owner[t] * 2 * N;
  coefficients(c, b + b_row[t] * N, kind, N, (s - int(threadIdx.x)) * WIDTH, beta, q);
  __syncwarp();
  if (s >= S) return;
  int n = N - s * WIDTH < WIDTH ? N - s * WIDTH : WIDTH, found = 0;
  T y = T(0), product = T(1), growth = T(0);
  for (int e = 0; e < n; ++e) {
    int j = threadIdx.x * (WIDTH + 1) + (kind == FORWARD ? e : n - 1 - e);
    T factor = kind == INVERSE ? q[j] * q[j] : -q[j];
    y = beta[j] + factor * y;
    product = factor * product;
    growth = larger(growth, T(1)) * fabs(factor);
  }
  for (int e = n - 1; e >= 0; --e)
    if (!(c[s * WIDTH + e] > T(0))) found = s * WIDTH + e + 1;
  T* mine = summary + (t * S + s) * 3;
  mine[0] = y;
  mine[1] = product;
  mine[2] = growth;
  bad[t * S + s] = found;
}

// incoming[t, s], the y before segment s; verdict[t], and info of the factor. One block per system.
template <typename T>
__global__ void __launch_bounds__(PIECES)
connect(const int64* owner, int kind, const T* summary, const int* bad, T* incoming, int* verdict, int* info, T limit, int S,
        int64 lo, int64 hi) {
  __shared__ Affine<T> parts[PIECES];
  __shared__ T grown[PIECES];  // the largest growth within a segment of the piece
  __shared__ int failed[PIECES];
  int64 t = lo + blockIdx.x;
  int p = threadIdx.x, each = (S + PIECES - 1) / PIECES, from = p * each, to = from + each < S ? from + each : S;
  Affine<T> own = {T(0), T(1), T(0)};
  T most = T(0);
  int first = 0;
  for (int e = from; e < to; ++e) {
    int s = kind == FORWARD ? e : S - 1 - e;
    const T* segment = summary + (t * S + s) * 3;
    own = then(own, Affine<T>{segment[0], segment[1], segment[2]});
    most = larger(most, segment[2]);  // `then` forgets it if the next segment fades
    int found = bad[t * S + s];
    first = found && (!first || found < first) ? found : first;
  }
  parts[p] = own;
  grown[p] = most;
  failed[p] = first;
  __syncthreads();
  for (int reach = 1; reach < PIECES; reach *= 2) {  // each piece becomes what all up to it are together
    Affine<T> before = p >= reach ? parts[p - reach] : Affine<T>{T(0), T(1), T(0)};
    int other = p >= reach ? failed[p - reach] : 0;
    __syncthreads();
    if (p >= reach) {
      parts[p] = own = then(before, own);
      failed[p] = first = other && (!first || other < first) ? other : first;
    }
    __syncthreads();
  }
  T y = p ? parts[p - 1].offset : T(0);
  for (int e = from; e < to; ++e) {
    int s = kind == FORWARD ? e : S - 1 - e;
    const T* segment = summary + (t * S + s) * 3;
    incoming[t * S + s] = y;
    y = segment[0] + segment[1] * y;
  }
  if (p == 0) {
    T growth = T(0);
    for (int i = 0; i < PIECES; ++i) growth = larger(larger(parts[i].growth, grown[i]), growth);
    first = failed[PIECES - 1];
    verdict[t] = first ? FAILED : growth <= limit ? SEGMENTS : SERIAL;
    atomicExch(info + owner[t], first);  // all right-hand sides of a factor say the same
  }
}

// y[row[t], 0, j] and for INVERSE S_{j+1,j} in y[row[t], 1, j]; y (Q, V, N) with V = 1 or 2.
template <typename T>
__global__ void __launch_bounds__(LANES)
fill(const T* chol, const T* b, const int64* owner, const int64* row, const int64* b_row, int kind, const T* incoming,
     const int* verdict, T* y, int N, int S, int V, int64 lo, int64 hi) {
  __shared__ T beta[LANES * (WIDTH + 1)], q[LANES * (WIDTH + 1)];
  int warps = (S + LANES - 1) / LANES, s = int(blockIdx.x % warps) * LANES + int(threadIdx.x);
  int64 t = lo + blockIdx.x / warps;
  int how = verdict[t], first = (s - int(threadIdx.x)) * WIDTH;
  if (how == SERIAL) return;
  if (how == SEGMENTS) {
    coefficients(chol + owner[t] * 2 * N, b + b_row[t] * N, kind, N, first, beta, q);
    __syncwarp();
    int n = N - s * WIDTH < WIDTH ? N - s * WIDTH : WIDTH;
    T z = s < S ? incoming[t * S + s] : T(0);
    for (int e = 0; e < n; ++e) {
      int j = threadIdx.x * (WIDTH + 1) + (kind == FORWARD ? e : n - 1 - e);
      if (kind == INVERSE) {
        T below = -(q[j] * z);
        z = beta[j] - q[j] * below;
        q[j] = below;
      } else {
        z = beta[j] - q[j] * z;
      }
      beta[j] = z;
    }
    __syncwarp();
  }
  T* out = y + row[t] * V * N;
  for (int l = 0; l < LANES; ++l) {
    int j = first + l * WIDTH + int(threadIdx.x);
    if (j >= N) break;
    out[j] = how == FAILED ? Float<T>::nan() : beta[l * (WIDTH + 1) + threadIdx.x];
    if (V == 2) out[int64(N) + j] = how == FAILED ? Float<T>::nan() : j + 1 < N ? q[l * (WIDTH + 1) + threadIdx.x] : T(0);
  }
}

// The plain recurrence over a whole system, where the verdict asks for it. One thread per system.
template <typename T>
__global__ void serial(const T* chol, const T* b, const int64* owner, const int64* row, const int64* b_row, int kind,
                       const int* verdict, T* y, int N, int V, int64 lo, int64 hi) {
  int64 t = lo + thread_position();
  if (t >= hi || verdict[t] != SERIAL) return;
  const T *a = chol + owner[t] * 2 * N, *c = a + N, *right = b + b_row[t] * N;
  T *z = y + row[t] * V * N, *below = z + N;
  for (int e = 0; e < N; ++e) {
    int j = kind == FORWARD ? e : N - 1 - e;
    if (kind == FORWARD) {
      z[j] = (j > 0 ? right[j] - c[j - 1] * z[j - 1] : right[j]) / a[j];
    } else if (kind == BACKWARD) {
      z[j] = (j + 1 < N ? right[j] - c[j] * z[j + 1] : right[j]) / a[j];
    } else {
      below[j] = j + 1 < N ? -(c[j] * z[j + 1]) / a[j] : T(0);
      z[j] = j + 1 < N ? -(c[j] * below[j]) / a[j] + T(1) / (a[j] * a[j]) : T(1) / (a[j] * a[j]);
    }
  }
}
