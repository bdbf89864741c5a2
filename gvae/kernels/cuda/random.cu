// Philox4x32-10: random bits, uniforms and normals as pure functions of a key and a position. gvae/kernels/cpu/random.py has
// the mapping and its source. Thread b computes block b: 16 bytes of the result. Bits and uniforms are those of the CPU.

struct Words {
  unsigned w[4];
};

__device__ __forceinline__ Words rounds(unsigned k0, unsigned k1, unsigned c0, unsigned c1, unsigned c2, unsigned c3) {
  for (int i = 0; i < 10; ++i) {
    uint64 p0 = uint64(0xD2511F53u) * c0, p1 = uint64(0xCD9E8D57u) * c2;
    c0 = unsigned(p1 >> 32) ^ c1 ^ k0;
    c1 = unsigned(p1);
    c2 = unsigned(p0 >> 32) ^ c3 ^ k1;
    c3 = unsigned(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The four words of block b of the key.
__device__ __forceinline__ Words block(const uint4& key, uint64 b) {
  return rounds(key.x, key.y, unsigned(b), unsigned(b >> 32), key.z, key.w);
}

// A key's words: given, or in memory, where a graph that was captured finds others in each launch.
__device__ __forceinline__ uint4 key(unsigned k0, unsigned k1, unsigned s2, unsigned s3, const unsigned* at) {
  return at ? uint4{at[0], at[1], at[2], at[3]} : uint4{k0, k1, s2, s3};
}

__device__ __forceinline__ float uniform_float(unsigned w) { return float(int(w >> 8)) * 0x1p-24f; }

__device__ __forceinline__ double uniform_double(unsigned high, unsigned low) {
  return double(((uint64(high) << 32) | low) >> 11) * 0x1p-53;
}

// Box-Muller: two normals from u1 in (0, 1] and u2 in [0, 1).
template <typename T> __device__ __forceinline__ void normal_pair(T u1, T u2, T& z1, T& z2) {
  T l = math::log(u1), r = sqrt(-(l + l)), s, c;
  math::sincospi(u2 + u2, s, c);
  z1 = r * c;
  z2 = r * s;
}

// The values of a block, as many as the return value says.
__device__ __forceinline__ int uniforms(const Words& b, float* v) {
  for (int i = 0; i < 4; ++i) v[i] = uniform_float(b.w[i]);
  return 4;
}

__device__ __forceinline__ int uniforms(const Words& b, double* v) {
  for (int i = 0; i < 2; ++i) v[i] = uniform_double(b.w[2 * i], b.w[2 * i + 1]);
  return 2;
}

__device__ __forceinline__ int normals(const Words& b, float* v) {
  // (w + 1/2) / 2^32 lies in (0, 1], for float32 rounds the largest to 1
  for (int i = 0; i < 4; i += 2)
    normal_pair((float(b.w[i]) + 0.5f) * 0x1p-32f, uniform_float(b.w[i + 1]), v[i], v[i + 1]);
  return 4;
}

__device__ __forceinline__ int normals(const Words& b, double* v) {
  double u1 = (double(((uint64(b.w[0]) << 32) | b.w[1]) >> 11) + 0.5) * 0x1p-53;
  normal_pair(u1, uniform_double(b.w[2], b.w[3]), v[0], v[1]);
  return 2;
}

// out_words[b] = the words of block first_block + b; out_words (B, 4).
__global__ void philox(unsigned k0, unsigned k1, unsigned s2, unsigned s3, const unsigned* key_at, uint64 first_block,
                       unsigned* out_words, int64 lo, int64 hi) {
  int64 b = lo + thread_position();
  if (b >= hi) return;
  Words w = block(key(k0, k1, s2, s3, key_at), first_block + uint64(b));
  for (int i = 0; i < 4; ++i) out_words[4 * b + i] = w.w[i];
}

// Uniforms in [0, 1), out (n,). float32: element 4b + i is (w_i >> 8) 2^-24; float64: top 53 bits of (w0, w1), (w2, w3).
template <typename T>
__global__ void uniform(unsigned k0, unsigned k1, unsigned s2, unsigned s3, const unsigned* key_at, T* out, int64 n, int64 lo,
                        int64 hi) {
  int64 b = lo + thread_position();
  if (b >= hi) return;
  T v[4];
  int width = uniforms(block(key(k0, k1, s2, s3, key_at), b), v);
  for (int i = 0; i < width && b * width + i < n; ++i) out[b * width + i] = v[i];
}

// Standard normals, out (n,). float32: a pair from (w0, w1), a pair from (w2, w3); float64: one pair from all four words.
template <typename T>
__global__ void normal(unsigned k0, unsigned k1, unsigned s2, unsigned s3, const unsigned* key_at, T* out, int64 n, int64 lo,
                        int64 hi) {
  int64 b = lo + thread_position();
  if (b >= hi) return;
  T v[4];
  int width = normals(block(key(k0, k1, s2, s3, key_at), b), v);
  for (int i = 0; i < width && b * width + i < n; ++i) out[b * width + i] = v[i];
}

// out = 1 where the uniform of p's dtype is below p, else 0; p, out (n,).
template <typename T>
__global__ void bernoulli(unsigned k0, unsigned k1, unsigned s2, unsigned s3, const unsigned* key_at, const T* p, T* out,
                          int64 n, int64 lo, int64 hi) {
  int64 b = lo + thread_position();
  if (b >= hi) return;
  T v[4];
  int width = uniforms(block(key(k0, k1, s2, s3, key_at), b), v);
  for (int i = 0; i < width && b * width + i < n; ++i) out[b * width + i] = v[i] < p[b * width + i] ? T(1) : T(0);
}
