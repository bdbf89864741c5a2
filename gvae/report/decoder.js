// The decoder alive: sliders move a code along axes, and the mean of p(x | z) follows.
// A network is computed here, in float64 as JavaScript has it; a grid was computed when the page was written.
"use strict";

const activations = {
  identity: (a) => a,
  elu: (a) => (a > 0 ? a : Math.expm1(a)),
  tanh: Math.tanh,
  relu: (a) => Math.max(a, 0),
  leaky_relu: (a) => (a > 0 ? a : 0.01 * a),
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  exp: Math.exp,
};

function array({ shape, values }) { // base64 of float32 in an object with its shape
  const bytes = Uint8Array.from(atob(values), (c) => c.charCodeAt(0));
  return { shape, values: new Float32Array(bytes.buffer) };
}

function affine(x, weight, bias) { // x W + b
  const [n, m] = weight.shape, out = Float64Array.from(bias.values);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) out[j] += x[i] * weight.values[i * m + j];
  return out;
}

class Decoder {
  constructor(given) {
    Object.assign(this, given, { codes: array(given.codes), axes: {} });
    for (const [name, a] of Object.entries(given.axes)) this.axes[name] = array(a);
    for (const name of ["means", "location", "scale"]) if (given[name]) this[name] = array(given[name]);
    if (given.layers)
      this.layers = given.layers.map(({ weight, bias }) => ({ weight: array(weight), bias: array(bias) }));
  }

  code(row, name, t) { // the code of a row, moved by t along the axes of this name
    const n = this.codes.shape[1], { shape, values } = this.axes[name];
    const z = Array.from(this.codes.values.subarray(row * n, (row + 1) * n));
    t.forEach((step, k) => {
      const start = (row * shape[1] + k) * n;
      for (let j = 0; j < n; j++) z[j] += step * values[start + j];
    });
    return z;
  }

  decode(z) { // the mean of the view at a code
    let x = z;
    this.layers.forEach(({ weight, bias }, i) => {
      const last = i === this.layers.length - 1;
      x = affine(x, weight, bias).map(activations[last ? this.link : this.activation]);
    });
    return x.map((mean, j) => this.location.values[j] + this.scale.values[j] * mean);
  }

  mean(row, name, t) {
    if (this.kind === "network") return this.decode(this.code(row, name, t));
    const half = (this.steps - 1) / 2, place = t.map((step) => Math.round((step / this.reach + 1) * half));
    const k = place.reduce((sum, i) => sum * this.steps + i, 0), D = this.means.shape[1];
    return this.means.values.subarray(k * D, (k + 1) * D);
  }
}
