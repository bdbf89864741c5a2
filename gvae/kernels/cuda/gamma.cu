// Gamma variables: the logarithm of the quantile, and its derivative in the shape. gvae/kernels/cpu/gamma.py has the method.
//
// Everything is computed in float64, for arrays of float32 too. Each thread has a draw of its own.

constexpr double UNIFORM = 8.0;    // the least shape of the uniform expansion
constexpr int TERMS = 24;          // of it
constexpr double SMALL = 1e-13;    // a series ends where its terms are below this, relatively
constexpr double ENOUGH = 1e-13;   // so small is the next term of the Taylor polynomial
constexpr int ROUNDS = 30;
constexpr double HALF_LOG_2PI = 0.9189385332046727, EULER = 0.5772156649015329, TINY = 1e-300;
constexpr double STIRLING_FROM = 20.0;  // the series of log(k!) is exact from here on
constexpr double NO_MORE = 1e-17;       // a probability that does not change the sum of others

// log Gamma(a + 1), by Stirling's series at a + 9 or, for a >= 8, at a + 1.
__device__ __forceinline__ double log_gamma1(double a) {
  double t = a + 1.0, p = 1.0;
  if (a < 8.0) {
    p = t * (a + 2.0) * (a + 3.0) * (a + 4.0) * ((a + 5.0) * (a + 6.0) * (a + 7.0) * (a + 8.0));
    t = a + 9.0;
  }
  double i = 1.0 / t;
  double sum = horner(i * i, 1.0 / 12, -1.0 / 360, 1.0 / 1260, -1.0 / 1680, 1.0 / 1188, -691.0 / 360360, 1.0 / 156);
  double value = (t - 0.5) * math::log(t) - t + HALF_LOG_2PI + i * sum;
  return a < 8.0 ? value - math::log(p) : value;
}

// psi(a + 1), likewise.
__device__ __forceinline__ double digamma1(double a) {
  double t = a + 1.0, p = 1.0, slope = 0.0;
  if (a < 8.0)
    for (int k = 0; k < 8; ++k) {
      slope = slope * t + p;
      p *= t;
      t += 1.0;
    }
  double i = 1.0 / t;
  double sum = horner(i * i, 1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12);
  return math::log(t) - i * (0.5 + i * sum) - slope / p;
}

// P / D, a sum of positive terms z^n / (a (a + 1) .. (a + n)), four of them with one division.
__device__ __forceinline__ double series(double a, double z) {
  double t = 1.0, total = 1.0, k = a, z2 = z * z;
  while (t > SMALL * total) {
    double p = (k + 1.0) * (k + 2.0), q = (k + 3.0) * (k + 4.0);
    t /= p * q;
    total += t * z * ((k + 2.0 + z) * q + z2 * (k + 4.0 + z));
    t *= z2 * z2;
    k += 4.0;
  }
  return total / a;
}

// a P / D, and the derivative of log(P / D) + log(a) in a times it.
__device__ __forceinline__ double series_slope(double a, double z, double& slope) {
  double t = 1.0, total = 1.0, s = 0.0, k = a;
  slope = 0.0;
  while (t > SMALL * total || -s > SMALL * -slope) {
    k += 1.0;
    double i = 1.0 / k;
    s = (s - t * i) * (z * i);
    t *= z * i;
    total += t;
    slope += s;
  }
  return total;
}

// Q / D, by its continued fraction, evaluated forward.
__device__ __forceinline__ double fraction(double a, double z) {
  double b = z + 1.0 - a, p0 = 0.0, p = 1.0, q0 = 1.0, q = b, n = 0.0;
  while (n < 500.0) {
    n += 1.0;
    b += 2.0;
    double c = n * (a - n), p1 = b * p + c * p0, q1 = b * q + c * q0;
    p0 = p;
    p = p1;
    q0 = q;
    q = q1;
    double across = p * q0;
    if (!(fabs(across - p0 * q) > SMALL * fabs(across))) break;
    if (q > 1e100) {
      p0 *= 1e-100;
      p *= 1e-100;
      q0 *= 1e-100;
      q *= 1e-100;
    }
  }
  return p / q;
}

// Q / D and its derivative in a.
__device__ __forceinline__ double fraction_slope(double a, double z, double& slope) {
  double b = z + 1.0 - a, p0 = 0.0, p = 1.0, q0 = 1.0, q = b, n = 0.0;
  double r0 = 0.0, r = 0.0, s0 = 0.0, s = -1.0;  // the derivatives of p and q
  double ratio = p / q;
  slope = -ratio * s / q;
  while (n < 500.0) {
    n += 1.0;
    b += 2.0;
    double c = n * (a - n), r1 = b * r + c * r0 - p + n * p0, s1 = b * s + c * s0 - q + n * q0;
    double p1 = b * p + c * p0, q1 = b * q + c * q0;
    r0 = r;
    r = r1;
    s0 = s;
    s = s1;
    p0 = p;
    p = p1;
    q0 = q;
    q = q1;
    double i = 1.0 / q, before = ratio, slope_before = slope;
    ratio = p * i;
    slope = (r - ratio * s) * i;
    if (!(fabs(ratio - before) > SMALL * fabs(ratio) || fabs(slope - slope_before) > SMALL * fabs(slope))) break;
    if (q > 1e100) {
      p0 *= 1e-100;
      p *= 1e-100;
      q0 *= 1e-100;
      q *= 1e-100;
      r0 *= 1e-100;
      r *= 1e-100;
      s0 *= 1e-100;
      s *= 1e-100;
    }
  }
  return ratio;
}

__constant__ double SLOPES[TERMS + 1] = {  // f_n, as `slopes_of_log`
  1.0, -0.3333333333333333, 0.08333333333333333, -0.014814814814814815, 0.0011574074074074073,
  0.0003527336860670194, -0.0001787551440329218, 3.919263178522438e-05, -2.185448510679992e-06,
  -1.85406221071516e-06, 8.296711340953087e-07, -1.7665952736826078e-07, 6.707853543401498e-09,
  1.0261809784240309e-08, -4.382036018453353e-09, 9.14769958223679e-10, -2.5514193994946248e-11,
  -5.830772132550426e-11, 2.4361948020667415e-11, -5.0276692801141755e-12, 1.1004392031956135e-13,
  3.371763262400985e-13, -1.392388722418162e-13, 2.8534893807047445e-14, -5.139111834242572e-16};

// sum_n beta_n eta^n and Gamma*(a) = 1 + beta_1 / a, i = 1/a, with beta_{n-1} = f_n + (n + 1) beta_{n+1} / a.
__device__ __forceinline__ double uniform_terms(double i, double eta, double& star) {
  double odd = 0.0, even = 0.0, odd_sum = 0.0, even_sum = 0.0, square = eta * eta;
#pragma unroll
  for (int n = TERMS; n > 0; n -= 2) {  // beta_{n-1}, odd, then beta_{n-2}, even
    odd = SLOPES[n] + (n + 1) * i * odd;
    even = SLOPES[n - 1] + n * i * even;
    odd_sum = odd_sum * square + odd;
    even_sum = even_sum * square + even;
  }
  star = 1.0 + odd * i;
  return even_sum + eta * odd_sum;
}

// As uniform_terms, and the derivatives of both in i.
__device__ __forceinline__ double uniform_slopes(double i, double eta, double& total_i, double& star, double& star_i) {
  double odd = 0.0, even = 0.0, total = 0.0, odd_i = 0.0, even_i = 0.0;
  total_i = 0.0;
#pragma unroll
  for (int n = TERMS; n > 0; n -= 2) {
    odd_i = (n + 1) * (odd + i * odd_i);
    even_i = n * (even + i * even_i);
    odd = SLOPES[n] + (n + 1) * i * odd;
    even = SLOPES[n - 1] + n * i * even;
    total = (total * eta + odd) * eta + even;
    total_i = (total_i * eta + odd_i) * eta + even_i;
  }
  star = 1.0 + odd * i;
  star_i = odd + i * odd_i;
  return total;
}

// (1 - Phi(x)) / phi(x) for x >= 0.
__device__ __forceinline__ double mills(double x) {
  double i = 1.0 / (x + 3.75), t = (x - 3.75) * i;
  double even = horner(t * t, 1.8807083358297374, 0.8846890259988553, 0.09397180308898462, -0.0104347632347922,
                       0.0011776735477745564, -0.0001756535593251247, 3.33610544477534e-05, -6.93464064407169e-06,
                       1.3463425977561867e-06, -2.0429431994045063e-07, 1.7333247337903852e-08);
  double odd = horner(t * t, -1.4743697189591356, -0.37979645894410574, 0.00292862367874268, 0.0015288239632812236,
                      -0.00029382513947313557, 4.285715673131671e-05, -4.2905928744246865e-06, -1.8577094811018202e-07,
                      2.002482939673202e-07, -3.310708541684129e-08);
  return i * (even + t * odd);
}

// The normal quantile to 5e-4, from the logarithm of the probability on its side.
__device__ __forceinline__ double normal_quantile(bool upper, double log_tail) {
  double t = sqrt(-2.0 * log_tail);
  double s = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
  return upper ? s : -s;
}

// z / w - 1 for w = (u Gamma(a + 1))^(1/a), x = w / (a + 1): five terms.
__device__ __forceinline__ double reversed_series(double a, double x) {
  double r = 1.0 / ((a + 2.0) * (a + 2.0) * (a + 3.0) * (a + 4.0));
  double c3 = 12.0 * (3.0 * a + 5.0) * (a + 2.0) * (a + 3.0) * (a + 4.0);
  double c4 = 8.0 * ((8.0 * a + 33.0) * a + 31.0) * (a + 2.0) * (a + 4.0);
  double c5 = (((125.0 * a + 1179.0) * a + 3971.0) * a + 5661.0) * a + 2888.0;
  return x * (1.0 + x * r * (1.0 / 24.0) * (c3 + x * (c4 + x * c5)));
}

// z with Q Gamma(a) = b, roughly, for a < 0.4: by e^-z z^(a - 1) or, where that is large, by -log(z) - EULER.
__device__ __forceinline__ double guess_of_tail(double a, double b) {
  double w = -math::log(b);
  if (w > 0.9) {
    double z = w - (1.0 - a) * math::log(w + 0.5);
    return w - (1.0 - a) * math::log(z) - math::log1p((1.0 - a) / (1.0 + z));
  }
  double t = math::exp(-EULER - b);
  return t * math::exp(t * math::exp(t));
}

// What y gains if log P or log Q gains e, to the fifth power, and the last two terms; wide = a - z.
__device__ __forceinline__ double taylor(double g, double z, double wide, double e, double& fourth, double& fifth) {
  double h0 = g * g, z1 = z * g;
  double g1 = g - wide * h0;
  double h1 = 2.0 * g * g1, z2 = 0.5 * (z * g1 + z1 * g);
  double g2 = 0.5 * (g1 - wide * h1 + z1 * h0);
  double h2 = 2.0 * g * g2 + g1 * g1, z3 = (z * g2 + z1 * g1 + z2 * g) * (1.0 / 3.0);
  double g3 = (g2 - wide * h2 + z1 * h1 + z2 * h0) * (1.0 / 3.0);
  double h3 = 2.0 * (g * g3 + g1 * g2);
  double g4 = 0.25 * (g3 - wide * h3 + z1 * h2 + z2 * h1 + z3 * h0);
  fourth = 0.25 * g3 * (e * e) * (e * e);
  fifth = 0.2 * g4 * e * (e * e) * (e * e);
  return e * (g + e * (0.5 * g1 + e * (g2 * (1.0 / 3.0)))) + (fourth + fifth);
}

// log z with P(a, z) = u, for a > 0 and 0 < u < 1.
__device__ double quantile_at(double a, double u) {
  double v = 1.0 - u;
  bool upper = u > 0.5;
  double log_tail = math::log(upper ? v : u), root = 1.0 / sqrt(a), i = root * root, h = root * (1.0 / 3.0);
  double c = h * (normal_quantile(upper, log_tail) - h);  // Wilson and Hilferty: z = a (1 + c)^3
  double log_a = math::log(a), log_gamma = 0.0, y, z, m, excess;
  bool known = false;  // log_gamma
  if (c > -0.3 && a >= 1.0) {
    excess = c * (3.0 + c * (3.0 + c));
    m = 3.0 * math::log1p(c);
    z = a + a * excess;
    y = log_a + m;
  } else {
    log_gamma = log_gamma1(a);
    known = true;
    y = ((upper ? math::log(u) : log_tail) + log_gamma) / a;
    z = math::exp(y);
    double x = z / (a + 1.0);
    if (x < 0.35 || a >= 1.0) {
      double d = reversed_series(a, x);
      y += math::log1p(d);
      if (x < 1e-3) return y;
      z += z * d;
    } else {
      z = a > 0.4 ? a * ((1.0 + c) * (1.0 + c) * (1.0 + c)) : guess_of_tail(a, v * math::exp(log_gamma) / a);
      y = math::log(z);
    }
    excess = z * i - 1.0;
    m = y - log_a;
  }
  for (int round = 0; round < ROUNDS; ++round) {
    double half = excess - m, wide, g, e;  // half = eta^2 / 2
    if (a >= UNIFORM && half < 0.5) {
      // P / phi(x) = (1 - Phi(-x)) / phi - S / sqrt(a), Q / phi(x) = (1 - Phi(x)) / phi + S / sqrt(a), x = eta sqrt(a)
      double eta = sqrt(2.0 * (half > 0.0 ? half : 0.0)), star;
      upper = m > 0.0;
      double total = uniform_terms(i, upper ? eta : -eta, star) * (root / star);
      double tail = mills(eta * a * root) + (upper ? total : -total);
      wide = -a * excess;
      g = star * root * tail;  // D = sqrt(a) phi / Gamma*
      g = upper ? -g : g;
      e = math::log((upper ? v : u) / tail) + a * half + HALF_LOG_2PI;
    } else {
      if (!known) log_gamma = log_gamma1(a);
      known = true;
      wide = a - z;
      double log_d = a * y - z - log_gamma + log_a;
      if (z > 2.5 + 1.5 * a) {
        g = fraction(a, z);
        e = math::log(v / g) - log_d;
        g = -g;
      } else {
        g = series(a, z);
        if (u < 0.8) {
          e = math::log(u / g) - log_d;
        } else {  // Q is the smaller one
          double d = math::exp(log_d), q = 1.0 - d * g;
          q = q < TINY ? TINY : q;
          e = math::log(v / q);
          g = -q / d;
        }
      }
    }
    double fourth, fifth, step = taylor(g, z, wide, e, fourth, fifth);
    if (fabs(fifth) < ENOUGH || fifth * fifth < ENOUGH * fabs(fourth)) return y + step;
    // Newton's step where the series is of no use: it cannot fail, for log P and log Q are concave in y
    y += fabs(fifth) < 0.05 * fabs(step) ? step : g * e;
    z = math::exp(y);
    m = y - log_a;
    excess = math::expm1(m);
  }
  return y;
}

// dy/da at fixed u, -(dP/da) / D, from y = log z.
__device__ double slope_at(double a, double y) {
  double m = y - math::log(a), half = math::expm1(m) - m;
  if (a >= UNIFORM && half < 0.5) {
    double i = 1.0 / a, eta = sqrt(2.0 * (half > 0.0 ? half : 0.0)), total_i, star, star_i;
    eta = m < 0.0 ? -eta : eta;
    double total = uniform_slopes(i, eta, total_i, star, star_i);
    // S = total / star; a dy/da = 1 - star (eta / 2 + S (eta^2 + 1/a) / 2 - dS/da), d/da = -i^2 d/di
    double ds = -i * i * (total_i - total * star_i / star);
    return i * (1.0 - 0.5 * star * eta - 0.5 * total * (eta * eta + i) + ds);
  }
  double z = math::exp(y), slope;
  if (z > 2.5 + 1.5 * a) {
    double ratio = fraction_slope(a, z, slope);
    return ratio * (y - digamma1(a) + 1.0 / a) + slope;
  }
  double total = series_slope(a, z, slope);
  return (total * (digamma1(a) - y) - slope) / a;
}

// log_z = y with P(shape, e^y) = u, u = uniform or, where that is 0, least.
// uniform, log_z (R, N); shape (Q, N), whose row shape_rows[r] belongs to row r. One thread per draw.
template <typename T>
__global__ void quantile(const T* shape, const int64* shape_rows, const T* uniform, T least, T* log_z, int N, int64 lo, int64 hi) {
  int64 e = lo * N + thread_position();
  if (e >= hi * N) return;
  int j;
  int64 r = row_and_column(e, N, j);
  double a = double(shape[shape_rows[r] * N + j]), u = double(uniform[e]);
  u = u == 0.0 ? double(least) : u;
  bool finite = a > 0.0 && a < Float<double>::infinity();
  if (finite && u > 0.0 && u < 1.0)
    log_z[e] = T(quantile_at(a, u));
  else
    log_z[e] = T(finite && u == 1.0 ? Float<double>::infinity() : Float<double>::nan());
}

// shape_bar = log_z_bar dy/dshape at fixed u, from y = log_z; (R, N) each, but shape (Q, N). One thread per draw.
template <typename T>
__global__ void quantile_vjp(const T* log_z_bar, const T* shape, const int64* shape_rows, const T* log_z, T* shape_bar, int N, int64 lo, int64 hi) {
  int64 e = lo * N + thread_position();
  if (e >= hi * N) return;
  int j;
  int64 r = row_and_column(e, N, j);
  shape_bar[e] = T(double(log_z_bar[e]) * slope_at(double(shape[shape_rows[r] * N + j]), double(log_z[e])));
}

// y = s(x) = log Gamma(x) - (x log x - x) for order 0, its derivative psi(x) - log x for 1, and the next one for 2.
// x, y (E,): above 0. By Stirling's series at x or, below 8, at x + 8. One thread per entry.
template <typename T>
__global__ void stirling(const T* x, int order, T* y, int64 lo, int64 hi) {
  int64 e = lo + thread_position();
  if (e >= hi) return;
  double v = double(x[e]);
  bool small = v < 8.0;
  double t = small ? v + 8.0 : v, i = 1.0 / t, far, near;
  if (order == 0) {
    double sum = horner(i * i, 1.0 / 12, -1.0 / 360, 1.0 / 1260, -1.0 / 1680, 1.0 / 1188, -691.0 / 360360, 1.0 / 156);
    far = HALF_LOG_2PI - 0.5 * math::log(t) + i * sum;
    double p = v * (v + 1.0) * (v + 2.0) * (v + 3.0) * ((v + 4.0) * (v + 5.0) * (v + 6.0) * (v + 7.0));
    near = t * (math::log(t) - 1.0) - math::log(p) - v * (math::log(v) - 1.0) + far;
  } else if (order == 1) {
    double sum = horner(i * i, 1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12);
    far = -i * (0.5 + i * sum);
    double n = 1.0, p = v;  // n / p is the sum of 1 / (v + j)
    for (int j = 1; j < 8; ++j) {
      n = n * (v + j) + p;
      p *= v + j;
    }
    near = far + math::log(t) - math::log(v) - n / p;
  } else {
    double sum = horner(i * i, 1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6);
    far = i * i * (0.5 + i * sum);
    near = far + i - 1.0 / v;
    for (int j = 0; j < 8; ++j) near += 1.0 / ((v + j) * (v + j));
  }
  y[e] = T(small ? near : far);
}

// count = the least k with P(x <= k) > u, for x of the Poisson distribution of rate e^log_rate.
// uniform, count (R, N); log_rate (Q, N), whose row rate_rows[r] belongs to row r. One thread per draw.
template <typename T>
__global__ void poisson_quantile(const T* log_rate, const int64* rate_rows, const T* uniform, T* count, int N, int64 lo, int64 hi) {
  int64 e = lo * N + thread_position();
  if (e >= hi * N) return;
  int j;
  int64 r = row_and_column(e, N, j);
  double eta = double(log_rate[rate_rows[r] * N + j]), u = double(uniform[e]);
  double rate = math::exp(eta);
  if (!(rate < 1e15 && u < 1.0)) {
    count[e] = T(Float<double>::nan());
    return;
  }
  double spread = 12.0 * sqrt(rate) + 12.0;
  double k = floor(rate - spread), p = math::exp(-rate);
  if (k < STIRLING_FROM) {
    k = 0.0;
  } else {
    double x = (rate - k) / k, i = 1.0 / k;
    double sum = horner(i * i, 1.0 / 12, -1.0 / 360, 1.0 / 1260, -1.0 / 1680, 1.0 / 1188, -691.0 / 360360, 1.0 / 156);
    p = math::exp(k * (math::log1p(x) - x) - 0.5 * math::log(k) - HALF_LOG_2PI - i * sum);
  }
  double total = p;
  while (total <= u && (k < rate || p > NO_MORE)) {
    k += 1.0;
    p *= rate / k;
    total += p;
  }
  count[e] = T(k);
}
