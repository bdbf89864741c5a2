// CUDA C++ as the host's compiler understands it: included before an unchanged kernel source, and before nothing else.
//
// Two of the compiler's sanitizers do the looking, with handlers of ours instead of their runtime libraries:
// -fsanitize=thread calls __tsan_read4(address) and the like before every access to memory that others might see, and
// -fsanitize=bounds,alignment,... calls __ubsan_handle_...(place, ...) where an index leaves an array.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static thread_local  // one OS thread runs everything; the runtime exchanges this segment between blocks
#define DYN_SMEM(T, name) T* name = static_cast<T*>(emulator::dynamic_shared())
#define __CUDACC_EMULATED__ 1

#define EMULATOR_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))

namespace emulator {
static Runtime* runtime = nullptr;
static thread_local volatile char shared_anchor[16];  // so that there always is a segment of thread-local memory
}  // namespace emulator

typedef emulator::Index3 uint3;
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
namespace emulator {  // "const": each is one value as long as a thread lives, whoever runs in between
#define EMULATOR_VALUE(T, name, value) __attribute__((const, noinline)) EMULATOR_UNCHECKED inline T name() { return value; }
EMULATOR_VALUE(uint3, thread_index, runtime->thread_index)
EMULATOR_VALUE(uint3, block_index, runtime->block_index)
EMULATOR_VALUE(uint3, block_size, runtime->block_size)
EMULATOR_VALUE(uint3, grid_size, runtime->grid_size)
EMULATOR_VALUE(int, lane, runtime->lane)
EMULATOR_VALUE(void*, dynamic_shared, runtime->dynamic_shared)
#undef EMULATOR_VALUE
}  // namespace emulator
#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())
constexpr int warpSize = 32;

#define EMULATOR_VECTOR(name, T, n, ...)                                                                                 \
  struct __attribute__((aligned(sizeof(T) * n))) name { T __VA_ARGS__; };
EMULATOR_VECTOR(float2, float, 2, x, y)
EMULATOR_VECTOR(float4, float, 4, x, y, z, w)
EMULATOR_VECTOR(double2, double, 2, x, y)
EMULATOR_VECTOR(int2, int, 2, x, y)
EMULATOR_VECTOR(int4, int, 4, x, y, z, w)
EMULATOR_VECTOR(uint2, unsigned, 2, x, y)
EMULATOR_VECTOR(uint4, unsigned, 4, x, y, z, w)
EMULATOR_VECTOR(uchar4, unsigned char, 4, x, y, z, w)
#undef EMULATOR_VECTOR
struct float3 { float x, y, z; };
struct double4 { double x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
static inline double4 make_double4(double x, double y, double z, double w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }

// -- synchronisation ------------------------------------------------------------------------------------------------

namespace cuda_on_cpu {  // with the source: its names hide those of the host's C library

#define EMULATOR_LINE int line = __builtin_LINE()
EMULATOR_UNCHECKED static inline void __syncthreads(EMULATOR_LINE) { emulator::runtime->barrier(emulator::Count::none, 0, line); }
EMULATOR_UNCHECKED static inline int __syncthreads_count(int p, EMULATOR_LINE) { return emulator::runtime->barrier(emulator::Count::count, p, line); }
EMULATOR_UNCHECKED static inline int __syncthreads_or(int p, EMULATOR_LINE) { return emulator::runtime->barrier(emulator::Count::any, p, line); }
EMULATOR_UNCHECKED static inline int __syncthreads_and(int p, EMULATOR_LINE) { return emulator::runtime->barrier(emulator::Count::all, p, line); }
EMULATOR_UNCHECKED static inline void __threadfence_block() { emulator::runtime->fence(0); }
EMULATOR_UNCHECKED static inline void __threadfence() { emulator::runtime->fence(1); }
EMULATOR_UNCHECKED static inline void __threadfence_system() { emulator::runtime->fence(1); }
EMULATOR_UNCHECKED static inline void __nanosleep(unsigned) { emulator::runtime->sleep(); }

EMULATOR_UNCHECKED static inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_LINE) {
  emulator::runtime->warp(emulator::Vote::none, mask, 0, 0, line, "__syncwarp");
}
EMULATOR_UNCHECKED static inline unsigned __ballot_sync(unsigned mask, int p, EMULATOR_LINE) {
  return (unsigned)emulator::runtime->warp(emulator::Vote::ballot, mask, p != 0, 0, line, "__ballot_sync");
}
EMULATOR_UNCHECKED static inline int __any_sync(unsigned mask, int p, EMULATOR_LINE) {
  return (int)emulator::runtime->warp(emulator::Vote::any, mask, p != 0, 0, line, "__any_sync");
}
EMULATOR_UNCHECKED static inline int __all_sync(unsigned mask, int p, EMULATOR_LINE) {
  return (int)emulator::runtime->warp(emulator::Vote::all, mask, p != 0, 0, line, "__all_sync");
}

}  // namespace cuda_on_cpu

namespace emulator {
template <class T>
EMULATOR_UNCHECKED inline T shuffle(unsigned mask, T value, int source, int line, const char* name) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
  static_assert(std::is_arithmetic_v<T>, "shuffles move numbers");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = runtime->warp(Vote::shuffle, mask, bits, source, line, name);
  memcpy(&value, &bits, sizeof value);
  return value;
}
EMULATOR_UNCHECKED inline void check_width(int width, int line) {
  if (width <= 0 || width > 32 || (width & (width - 1))) runtime->fail("line %d: a shuffle's width must be a power of two up to 32, got %d", line, width);
}
}  // namespace emulator

namespace cuda_on_cpu {

template <class T>
EMULATOR_UNCHECKED inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_LINE) {
  emulator::check_width(width, line);
  int lane = emulator::lane();
  return emulator::shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)), line, "__shfl_sync");
}
template <class T>
EMULATOR_UNCHECKED inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_LINE) {
  emulator::check_width(width, line);
  int lane = emulator::lane(), source = lane - (int)delta;
  return emulator::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, line, "__shfl_up_sync");
}
template <class T>
EMULATOR_UNCHECKED inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_LINE) {
  emulator::check_width(width, line);
  int lane = emulator::lane(), source = lane + (int)delta;
  return emulator::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, line, "__shfl_down_sync");
}
template <class T>
EMULATOR_UNCHECKED inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATOR_LINE) {
  emulator::check_width(width, line);
  int lane = emulator::lane(), source = lane ^ bits;
  return emulator::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, line, "__shfl_xor_sync");
}

// -- atomics --------------------------------------------------------------------------------------------------------
// One OS thread runs everything, so a plain update is atomic; the runtime is told first, and may run others before it.

}  // namespace cuda_on_cpu

namespace emulator {
template <class T> struct Same { typedef T type; };
template <class T> using As = typename Same<T>::type;  // keeps a parameter out of template deduction

template <class T, class F>
EMULATOR_UNCHECKED inline T update(T* address, int line, F f) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics work on 32 or 64 bits");
  runtime->atomic(address, sizeof(T), line);
  T old = *address;
  *address = f(old);
  return old;
}
}  // namespace emulator

namespace cuda_on_cpu {

#define EMULATOR_ATOMIC(name, condition, expression)                                                        \
  template <class T>                                                                                       \
  EMULATOR_UNCHECKED inline T name(T* address, emulator::As<T> v, EMULATOR_LINE) {                         \
    static_assert(condition, #name " has no version for this type");                                       \
    return emulator::update(address, line, [v](T old) EMULATOR_UNCHECKED -> T { return expression; });      \
  }
#define EMULATOR_UNSIGNED_64 std::is_same_v<T, unsigned long long>
#define EMULATOR_INTEGER (std::is_same_v<T, int> || std::is_same_v<T, unsigned> || EMULATOR_UNSIGNED_64)
EMULATOR_ATOMIC(atomicAdd, EMULATOR_INTEGER || std::is_floating_point_v<T>, old + v)
EMULATOR_ATOMIC(atomicSub, (std::is_same_v<T, int> || std::is_same_v<T, unsigned>), old - v)
EMULATOR_ATOMIC(atomicExch, EMULATOR_INTEGER || (std::is_same_v<T, float>), (void(old), v))
EMULATOR_ATOMIC(atomicMin, EMULATOR_INTEGER || (std::is_same_v<T, long long>), v < old ? v : old)
EMULATOR_ATOMIC(atomicMax, EMULATOR_INTEGER || (std::is_same_v<T, long long>), old < v ? v : old)
EMULATOR_ATOMIC(atomicAnd, EMULATOR_INTEGER, old & v)
EMULATOR_ATOMIC(atomicOr, EMULATOR_INTEGER, old | v)
EMULATOR_ATOMIC(atomicXor, EMULATOR_INTEGER, old ^ v)
#undef EMULATOR_ATOMIC
template <class T>
EMULATOR_UNCHECKED inline T atomicCAS(T* address, emulator::As<T> compare, emulator::As<T> v, EMULATOR_LINE) {
  static_assert(EMULATOR_INTEGER, "atomicCAS has no version for this type");
  return emulator::update(address, line, [compare, v](T old) EMULATOR_UNCHECKED -> T { return old == compare ? v : old; });
}

// -- memory ---------------------------------------------------------------------------------------------------------

template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldca(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stwb(T* p, emulator::As<T> v) { *p = v; }
template <class T> inline void __stcg(T* p, emulator::As<T> v) { *p = v; }
template <class T> inline void __stcs(T* p, emulator::As<T> v) { *p = v; }

// -- arithmetic -----------------------------------------------------------------------------------------------------

using std::isfinite; using std::isinf; using std::isnan; using std::signbit;
using std::abs; using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan; using std::atan2;
using std::atanh; using std::cbrt; using std::ceil; using std::copysign; using std::cos; using std::cosh; using std::erf;
using std::erfc; using std::exp; using std::exp2; using std::expm1; using std::fabs; using std::fdim; using std::floor;
using std::fma; using std::fmax; using std::fmin; using std::fmod; using std::frexp; using std::hypot; using std::ldexp;
using std::lgamma; using std::log; using std::log10; using std::log1p; using std::log2; using std::nearbyint; using std::pow;
using std::remainder; using std::rint; using std::round; using std::scalbn; using std::sin; using std::sinh; using std::sqrt;
using std::tan; using std::tanh; using std::tgamma; using std::trunc;

static inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// sin(pi x), cos(pi x): the argument is reduced exactly, so that multiples of one half give exact zeros and ones.
template <class T>
inline void sincospi(T x, T* s, T* c) {
  T r = std::remainder(x, T(2)), q = std::rint(r * T(2));  // r in [-1, 1], q the nearest half of it
  T t = (r - q / T(2)) * T(3.14159265358979323846264338327950288L);
  T a = std::sin(t), b = std::cos(t);
  switch ((int)q & 3) {
    case 0: *s = a; *c = b; break;
    case 1: *s = b; *c = -a; break;
    case 2: *s = -a; *c = -b; break;
    default: *s = -b; *c = a;
  }
}
template <class T> inline T sinpi(T x) { T s, c; sincospi(x, &s, &c); return s; }
template <class T> inline T cospi(T x) { T s, c; sincospi(x, &s, &c); return c; }
static inline float sinpif(float x) { return sinpi(x); }
static inline float cospif(float x) { return cospi(x); }
static inline void sincospif(float x, float* s, float* c) { sincospi(x, s, c); }
static inline void sincos(float x, float* s, float* c) { *s = std::sin(x); *c = std::cos(x); }
static inline void sincos(double x, double* s, double* c) { *s = std::sin(x); *c = std::cos(x); }
static inline void sincosf(float x, float* s, float* c) { sincos(x, s, c); }

// CUDA's min and max convert as C does; as there, mixing signs goes to unsigned.
#define EMULATOR_MIN_MAX(T, U)                                                                   \
  static inline std::common_type_t<T, U> min(T a, U b) {                                         \
    std::common_type_t<T, U> x = a, y = b;                                                       \
    return y < x ? y : x;                                                                        \
  }                                                                                              \
  static inline std::common_type_t<T, U> max(T a, U b) {                                         \
    std::common_type_t<T, U> x = a, y = b;                                                       \
    return x < y ? y : x;                                                                        \
  }
EMULATOR_MIN_MAX(int, int)
EMULATOR_MIN_MAX(unsigned, unsigned)
EMULATOR_MIN_MAX(int, unsigned)
EMULATOR_MIN_MAX(unsigned, int)
EMULATOR_MIN_MAX(long, long)
EMULATOR_MIN_MAX(unsigned long, unsigned long)
EMULATOR_MIN_MAX(long long, long long)
EMULATOR_MIN_MAX(unsigned long long, unsigned long long)
EMULATOR_MIN_MAX(long long, unsigned long long)
EMULATOR_MIN_MAX(unsigned long long, long long)
#undef EMULATOR_MIN_MAX
static inline float min(float a, float b) { return std::fmin(a, b); }  // of floats: the other one, if one is NaN
static inline float max(float a, float b) { return std::fmax(a, b); }
static inline double min(double a, double b) { return std::fmin(a, b); }
static inline double max(double a, double b) { return std::fmax(a, b); }
static inline double min(float a, double b) { return std::fmin((double)a, b); }
static inline double max(float a, double b) { return std::fmax((double)a, b); }
static inline double min(double a, float b) { return std::fmin(a, (double)b); }
static inline double max(double a, float b) { return std::fmax(a, (double)b); }

static inline float __expf(float x) { return std::exp(x); }  // the device's are less exact than these
static inline float __logf(float x) { return std::log(x); }
static inline float __log2f(float x) { return std::log2(x); }
static inline float __log10f(float x) { return std::log10(x); }
static inline float __sinf(float x) { return std::sin(x); }
static inline float __cosf(float x) { return std::cos(x); }
static inline float __powf(float x, float y) { return std::pow(x, y); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return std::sqrt(x); }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / std::sqrt((double)x)); }
static inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __drcp_rn(double x) { return 1.0 / x; }
static inline double __dsqrt_rn(double x) { return std::sqrt(x); }
static inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }

static inline int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
static inline long long __mul64hi(long long a, long long b) { return (long long)(((__int128)a * b) >> 64); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}

}  // namespace cuda_on_cpu

namespace emulator {
template <class To, class From>
inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}
}  // namespace emulator

namespace cuda_on_cpu {
static inline int __float_as_int(float x) { return emulator::bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
static inline float __int_as_float(int x) { return emulator::bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulator::bits<double>(x); }
static inline int __double2hiint(double x) { return (int)(emulator::bits<unsigned long long>(x) >> 32); }
static inline int __double2loint(double x) { return (int)emulator::bits<unsigned long long>(x); }
static inline double __hiloint2double(int hi, int lo) {
  return emulator::bits<double>((unsigned long long)(unsigned)hi << 32 | (unsigned)lo);
}
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline double __int2double_rn(int x) { return (double)x; }
static inline double __uint2double_rn(unsigned x) { return (double)x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }
static inline int __float2int_rn(float x) { return (int)std::rint(x); }
static inline int __float2int_rd(float x) { return (int)std::floor(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __double2int_rn(double x) { return (int)std::rint(x); }
static inline int __double2int_rd(double x) { return (int)std::floor(x); }
static inline int __double2int_rz(double x) { return (int)x; }

}  // namespace cuda_on_cpu

namespace emulator {
[[noreturn]] EMULATOR_UNCHECKED inline void assertion(int line, const char* text) {
  runtime->fail("line %d: assert(%s) fails", line, text);
}
}  // namespace emulator

namespace cuda_on_cpu {
#define assert(condition) ((condition) ? (void)0 : emulator::assertion(__LINE__, #condition))

}  // namespace cuda_on_cpu

// -- how a kernel is called and what its parameters are -------------------------------------------------------------

namespace emulator {
template <class T>
constexpr const char* element() {
  using E = std::remove_cv_t<T>;
  if constexpr (std::is_void_v<E>) return "v1";
  else if constexpr (std::is_same_v<E, bool>) return "b1";
  else if constexpr (std::is_same_v<E, float2> || std::is_same_v<E, float3> || std::is_same_v<E, float4>) return "f4";
  else if constexpr (std::is_same_v<E, double2> || std::is_same_v<E, double4>) return "f8";
  else if constexpr (std::is_same_v<E, int2> || std::is_same_v<E, int4>) return "i4";
  else if constexpr (std::is_same_v<E, uint2> || std::is_same_v<E, uint4>) return "u4";
  else if constexpr (std::is_same_v<E, uchar4>) return "u1";
  else if constexpr (std::is_floating_point_v<E>) return sizeof(E) == 4 ? "f4" : "f8";
  else if constexpr (std::is_integral_v<E> && std::is_signed_v<E>)
    return sizeof(E) == 1 ? "i1" : sizeof(E) == 2 ? "i2" : sizeof(E) == 4 ? "i4" : "i8";
  else if constexpr (std::is_integral_v<E>)
    return sizeof(E) == 1 ? "u1" : sizeof(E) == 2 ? "u2" : sizeof(E) == 4 ? "u4" : "u8";
  else return "??";
}
template <class P>
EMULATOR_UNCHECKED void describe(char*& to) {  // three letters: s scalar, p pointer, c pointer to const; then the element
  const char* e;
  if constexpr (std::is_pointer_v<P>) {
    using E = std::remove_pointer_t<P>;
    *to++ = std::is_const_v<E> ? 'c' : 'p';
    e = element<E>();
  } else {
    *to++ = 's';
    e = element<P>();
  }
  *to++ = e[0];
  *to++ = e[1];
}
template <auto F> struct Kernel;
template <class... P, void (*F)(P...)>
struct Kernel<F> {
  template <size_t... I>
  EMULATOR_UNCHECKED static void call(void** p, std::index_sequence<I...>) {
    F(*static_cast<std::remove_reference_t<P>*>(p[I])...);
  }
  static void run(void** p) { call(p, std::index_sequence_for<P...>{}); }
  EMULATOR_UNCHECKED static void signature(char* to) {
    (describe<P>(to), ...);
    *to = 0;
  }
};
EMULATOR_UNCHECKED inline void touch_shared() { asm volatile("" ::"r"(&shared_anchor[0]) : "memory"); }
}  // namespace emulator

// -- what the sanitizers call ---------------------------------------------------------------------------------------

#define EMULATOR_HOOK extern "C" __attribute__((visibility("hidden"), used, noinline)) EMULATOR_UNCHECKED
#define EMULATOR_ACCESS(n)                                                                                          \
  EMULATOR_HOOK void __tsan_read##n(void* p) { emulator::runtime->access(p, n, 0, __builtin_return_address(0)); }   \
  EMULATOR_HOOK void __tsan_write##n(void* p) { emulator::runtime->access(p, n, 1, __builtin_return_address(0)); }
#define EMULATOR_UNALIGNED(n)                                                                                       \
  EMULATOR_HOOK void __tsan_unaligned_read##n(void* p) { emulator::runtime->access(p, n, 0, __builtin_return_address(0)); }  \
  EMULATOR_HOOK void __tsan_unaligned_write##n(void* p) { emulator::runtime->access(p, n, 1, __builtin_return_address(0)); }
#define EMULATOR_VOLATILE(n)                                                                                        \
  EMULATOR_HOOK void __tsan_volatile_read##n(void* p) { emulator::runtime->access(p, n, 2, __builtin_return_address(0)); }   \
  EMULATOR_HOOK void __tsan_volatile_write##n(void* p) { emulator::runtime->access(p, n, 3, __builtin_return_address(0)); }
EMULATOR_VOLATILE(1) EMULATOR_VOLATILE(2) EMULATOR_VOLATILE(4) EMULATOR_VOLATILE(8) EMULATOR_VOLATILE(16)
EMULATOR_ACCESS(1) EMULATOR_ACCESS(2) EMULATOR_ACCESS(4) EMULATOR_ACCESS(8) EMULATOR_ACCESS(16)
EMULATOR_UNALIGNED(2) EMULATOR_UNALIGNED(4) EMULATOR_UNALIGNED(8) EMULATOR_UNALIGNED(16)
EMULATOR_HOOK void __tsan_read_range(void* p, unsigned long n) { emulator::runtime->access(p, n, 0, __builtin_return_address(0)); }
EMULATOR_HOOK void __tsan_write_range(void* p, unsigned long n) { emulator::runtime->access(p, n, 1, __builtin_return_address(0)); }
EMULATOR_HOOK void __tsan_init() {}
EMULATOR_HOOK void __tsan_func_entry(void*) {}
EMULATOR_HOOK void __tsan_func_exit() {}

namespace emulator {
struct Place { const char* file; unsigned line, column; };  // how every record of the undefined-behaviour sanitizer begins
[[noreturn]] EMULATOR_UNCHECKED inline void undefined(const void* record, const char* what) {
  const Place* at = static_cast<const Place*>(record);
  runtime->fail("line %u, column %u: %s", at->line, at->column, what);
}
}  // namespace emulator
#define EMULATOR_UNDEFINED(name, what, ...) \
  EMULATOR_HOOK void __ubsan_handle_##name(void* record, ##__VA_ARGS__) { emulator::undefined(record, what); }
EMULATOR_HOOK void __ubsan_handle_out_of_bounds(void* record, void* index) {
  const emulator::Place* at = static_cast<const emulator::Place*>(record);
  emulator::runtime->fail("line %u, column %u: index %lld is outside of its array", at->line, at->column, (long long)index);
}
EMULATOR_UNDEFINED(type_mismatch_v1, "null or misaligned address", void*)
EMULATOR_UNDEFINED(shift_out_of_bounds, "shift by more bits than there are, or of a negative number", void*, void*)
EMULATOR_UNDEFINED(divrem_overflow, "integer division by zero", void*, void*)
EMULATOR_UNDEFINED(add_overflow, "signed integer overflow in a sum", void*, void*)
EMULATOR_UNDEFINED(sub_overflow, "signed integer overflow in a difference", void*, void*)
EMULATOR_UNDEFINED(mul_overflow, "signed integer overflow in a product", void*, void*)
EMULATOR_UNDEFINED(negate_overflow, "signed integer overflow in a negation", void*)
EMULATOR_UNDEFINED(vla_bound_not_positive, "array of no positive length", void*)
EMULATOR_HOOK void __ubsan_handle_builtin_unreachable(void* record) { emulator::undefined(record, "a place that must not be reached"); }
EMULATOR_HOOK void __ubsan_handle_missing_return(void* record) { emulator::undefined(record, "a function ends without its return value"); }
#undef EMULATOR_UNDEFINED
#undef EMULATOR_ACCESS
#undef EMULATOR_UNALIGNED
#undef EMULATOR_VOLATILE
