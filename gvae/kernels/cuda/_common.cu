// What stands before every family's source (gvae/kernels/cuda/launch.py joins them): the compiler is given no headers.
//
// Letters, loops and names are those of gvae/kernels/cpu. Every kernel ends with `lo, hi`, the half-open range of systems.
// A number in the working type is written T(0.5); `double` stands only where a float32 kernel sums in float64 on purpose.

#ifndef DYN_SMEM
#define DYN_SMEM(T, name) extern __shared__ __align__(16) unsigned char dyn_smem_[]; T* name = reinterpret_cast<T*>(dyn_smem_)
#endif

typedef long long int64;
typedef unsigned long long uint64;

constexpr unsigned ALL = 0xffffffffu;  // every lane of a warp
constexpr int LANES = 32;              // gvae.kernels.LANES

// ---- elementary functions: gvae/kernels/cpu/_math.py, whose docstring has the errors ----

template <typename T> struct Float;

// The sum c0 + c1 x + c2 x^2 + ...
template <typename T> __device__ __forceinline__ T horner(T x, T c) { return c; }
template <typename T, typename... Rest> __device__ __forceinline__ T horner(T x, T c, Rest... rest) {
  return c + x * horner(x, rest...);
}

template <> struct Float<float> {
  typedef int Bits;
  typedef unsigned Word;
  static constexpr int MANTISSA = 23, BIAS = 127;
  static constexpr Bits SQRT_HALF_BITS = 0x3f3504f3, MAGIC_BITS = 0x4b400000;
  static constexpr float MAGIC = 12582912.0f, EXP_MIN = -104.0f, EXP_MAX = 89.0f, EXPM1_MIN = -25.0f;
  static constexpr float LN2_HI = 0x1.62e4p-1f, LN2_LO = 0x1.7f7d1cp-20f, LOG2E = 0x1.715476p+0f;
  static constexpr float MIN_NORMAL = 0x1p-126f, LIFT = 0x1p24f, LIFT_EXPONENT = 24.0f;
  static constexpr float PI_HI = 0x1.921fb6p+1f, PI_LO = -0x1.777a5cp-24f;

  static __device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
  static __device__ __forceinline__ float nan() { return __int_as_float(0x7fc00000); }
  static __device__ __forceinline__ Bits to_bits(float x) { return __float_as_int(x); }
  static __device__ __forceinline__ float from_bits(Bits j) { return __int_as_float(j); }
  static __device__ __forceinline__ float exp_series(float r) {
    return horner(r, 0.5f, float(1.0 / 6), float(1.0 / 24), float(1.0 / 120), float(1.0 / 720), float(1.0 / 5040));
  }
  static __device__ __forceinline__ float atanh_series(float z) {
    return horner(z, float(2.0 / 3), float(2.0 / 5), float(2.0 / 7), float(2.0 / 9));
  }
  static __device__ __forceinline__ float sin_series(float z) {
    return horner(z, PI_LO, -5.16771278004997f, 2.5501640398773455f, -0.5992645293207921f, 0.08214588661112823f);
  }
  static __device__ __forceinline__ float cos_series(float z) {
    return horner(z, -4.934802200544679f, 4.0587121264167685f, -1.3352627688545895f, 0.2353306303588932f,
                  -0.02580689139001406f);
  }
};

template <> struct Float<double> {
  typedef int64 Bits;
  typedef uint64 Word;
  static constexpr int MANTISSA = 52, BIAS = 1023;
  static constexpr Bits SQRT_HALF_BITS = 0x3fe6a09e667f3bcdLL, MAGIC_BITS = 0x4338000000000000LL;
  static constexpr double MAGIC = 6755399441055744.0, EXP_MIN = -746.0, EXP_MAX = 710.0, EXPM1_MIN = -54.0;
  static constexpr double LN2_HI = 0x1.62e42fefa3000p-1, LN2_LO = 0x1.3de6af278ece6p-42, LOG2E = 0x1.71547652b82fep+0;
  static constexpr double MIN_NORMAL = 0x1p-1022, LIFT = 0x1p53, LIFT_EXPONENT = 53.0;
  static constexpr double PI_HI = 0x1.921fb54442d18p+1, PI_LO = 0x1.1a62633145c07p-53;

  static __device__ __forceinline__ double infinity() { return __longlong_as_double(0x7ff0000000000000LL); }
  static __device__ __forceinline__ double nan() { return __longlong_as_double(0x7ff8000000000000LL); }
  static __device__ __forceinline__ Bits to_bits(double x) { return __double_as_longlong(x); }
  static __device__ __forceinline__ double from_bits(Bits j) { return __longlong_as_double(j); }
  static __device__ __forceinline__ double exp_series(double r) {
    return horner(r, 0.5, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
                  1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0);
  }
  static __device__ __forceinline__ double atanh_series(double z) {
    return horner(z, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21);
  }
  static __device__ __forceinline__ double sin_series(double z) {
    return horner(z, PI_LO, -5.16771278004997, 2.5501640398773455, -0.5992645293207921, 0.08214588661112823,
                  -0.0073704309457143504, 0.00046630280576761255, -2.1915353447830217e-05, 7.952054001475513e-07);
  }
  static __device__ __forceinline__ double cos_series(double z) {
    return horner(z, -4.934802200544679, 4.0587121264167685, -1.3352627688545895, 0.2353306303588932,
                  -0.02580689139001406, 0.0019295743094039231, -0.0001046381049248457, 4.303069587032947e-06);
  }
};

namespace math {

template <typename T> __device__ __forceinline__ T power_of_two(typename Float<T>::Bits n) {  // 2^(n - BIAS)
  typedef Float<T> F;
  return F::from_bits(typename F::Bits(typename F::Word(n) << F::MANTISSA));
}

template <typename T> __device__ __forceinline__ T exp(T x) {
  // x = k ln 2 + r, |r| <= ln 2 / 2, e^x = 2^k e^r; 2^k in two factors, for the last may leave the normal numbers
  typedef Float<T> F;
  x = x < F::EXP_MIN ? F::EXP_MIN : x;
  x = x > F::EXP_MAX ? F::EXP_MAX : x;
  T y = x * F::LOG2E + F::MAGIC;
  typename F::Bits k = typename F::Bits(typename F::Word(F::to_bits(y)) - typename F::Word(F::MAGIC_BITS));
  T n = y - F::MAGIC;
  T r = (x - n * F::LN2_HI) - n * F::LN2_LO;
  T p = T(1) + (r + r * r * F::exp_series(r));
  typename F::Bits h = k >> 1;
  return p * power_of_two<T>(F::BIAS + h) * power_of_two<T>(F::BIAS + k - h);
}

template <typename T> __device__ __forceinline__ T expm1(T x) {
  // as exp; c is what rounding r left behind, and 2^k r + (2^k - 1) comes first, for it rounds little or nothing
  typedef Float<T> F;
  x = x < F::EXPM1_MIN ? F::EXPM1_MIN : x;
  x = x > F::EXP_MAX ? F::EXP_MAX : x;
  T y = x * F::LOG2E + F::MAGIC;
  typename F::Bits k = typename F::Bits(typename F::Word(F::to_bits(y)) - typename F::Word(F::MAGIC_BITS));
  T n = y - F::MAGIC;
  T a = x - n * F::LN2_HI;
  T r = a - n * F::LN2_LO;
  T c = (a - r) - n * F::LN2_LO;
  T top = k > F::BIAS ? T(2) : T(1);
  typename F::Bits h = k > F::BIAS ? typename F::Bits(F::BIAS) : k;
  T s = power_of_two<T>(F::BIAS + h);
  return top * ((s * r + (s - T(1))) + s * (r * r * F::exp_series(r) + c));
}

// x = m 2^k, m in [sqrt(1/2), sqrt(2)); k as an integer and, in n, as a number
template <typename T> __device__ __forceinline__ T split(T x, typename Float<T>::Bits& k, T& n) {
  typedef Float<T> F;
  typedef typename F::Bits I;
  I j = I(typename F::Word(F::to_bits(x)) - typename F::Word(F::SQRT_HALF_BITS));
  k = j >> F::MANTISSA;
  n = F::from_bits(k + F::MAGIC_BITS) - F::MAGIC;
  return F::from_bits((j & ((I(1) << F::MANTISSA) - 1)) + F::SQRT_HALF_BITS);
}

template <typename T> __device__ __forceinline__ T log_split(T f, T n, T c) {
  // n ln 2 + log(1 + f) + c.  With s = f / (2 + f): log(1 + f) = f - f^2/2 + s (f^2/2 + R), R = 2 s^2/3 + 2 s^4/5 + ...
  typedef Float<T> F;
  T s = f / (T(2) + f);
  T z = s * s;
  T h = T(0.5) * f * f;
  return n * F::LN2_HI + (f - (h - (s * (h + z * F::atanh_series(z)) + (n * F::LN2_LO + c))));
}

// m, with n: x = m 2^n exactly, m in [sqrt(1/2), sqrt(2)); x > 0. x itself if it is inf or NaN.
template <typename T> __device__ __forceinline__ T scaled(T x, T& n) {
  typedef Float<T> F;
  typename F::Bits k;
  bool small = x < F::MIN_NORMAL;
  T m = split(small ? x * F::LIFT : x, k, n);
  n -= small ? F::LIFT_EXPONENT : T(0);
  return x < F::infinity() ? m : x;
}

template <typename T> __device__ __forceinline__ T log(T x) {
  typedef Float<T> F;
  typename F::Bits k;
  T n;
  bool small = x < F::MIN_NORMAL;
  T m = split(small ? x * F::LIFT : x, k, n);
  T y = log_split(m - T(1), n - (small ? F::LIFT_EXPONENT : T(0)), T(0));  // m - 1 is exact
  y = x == F::infinity() ? x : y;
  return x > T(0) ? y : (x == T(0) ? -F::infinity() : F::nan());
}

template <typename T> __device__ __forceinline__ T log1p(T x) {
  // u + e = 1 + x exactly; log(u + e) = log(u) + e/u, with 1/u = 2^-k / (1 + f) and 1 / (1 + f) = 1 - f + f^2
  typedef Float<T> F;
  typename F::Bits k;
  T n;
  T u = T(1) + x;
  T v = u - T(1);
  T e = (T(1) - (u - v)) + (x - v);
  T f = split(u, k, n) - T(1);
  T c = e * power_of_two<T>(k < F::BIAS ? F::BIAS - k : 0) * (T(1) - f * (T(1) - f));
  T y = log_split(f, n, c);
  y = x == F::infinity() ? x : y;
  return u > T(0) ? y : (u == T(0) ? -F::infinity() : F::nan());
}

template <typename T> __device__ __forceinline__ void sincospi(T x, T& sine, T& cosine) {
  // x = n/2 + r, exact, |r| <= 1/4: quarter turn n exchanges sine and cosine and turns their signs
  typedef Float<T> F;
  T y = T(2) * x + F::MAGIC;
  typename F::Bits n = F::to_bits(y);
  T r = x - T(0.5) * (y - F::MAGIC);
  T z = r * r;
  T s = F::PI_HI * r + r * F::sin_series(z);
  T c = T(1) + z * F::cos_series(z);
  bool odd = n & 1;
  sine = odd ? c : s;
  cosine = odd ? s : c;
  sine = n & 2 ? -sine : sine;
  cosine = (n + 1) & 2 ? -cosine : cosine;
}

}  // namespace math

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

// ---- who works on what ----

// The position of this thread in the grid.
__device__ __forceinline__ int64 thread_position() { return int64(blockIdx.x) * blockDim.x + threadIdx.x; }

// e = row * n + column. A 64-bit division takes several times as long as a 32-bit one.
__device__ __forceinline__ int64 row_and_column(int64 e, int n, int& column) {
  int64 row = (e >> 32) ? e / n : int64(unsigned(e) / unsigned(n));
  column = int(e - row * n);
  return row;
}

// The sum over the lanes of a warp, for all of them, in one fixed order.
template <typename T> __device__ __forceinline__ T warp_sum(T v) {
  for (int o = LANES / 2; o > 0; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
  return v;
}

__device__ __forceinline__ int warp_min(int v) {
  for (int o = LANES / 2; o > 0; o >>= 1) {
    int w = __shfl_xor_sync(ALL, v, o);
    v = w < v ? w : v;
  }
  return v;
}
