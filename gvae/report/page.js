// The page: charts are embedded, follow the colour scheme, and decoders answer to their sliders.
"use strict";

const content = (id) => JSON.parse(document.getElementById(id).textContent);
const decoders = {};

function paint(dark) { // Bokeh draws on canvases, which know no style sheet
  const ink = dark ? "#d5d9de" : "#2b3036", faint = dark ? "#3a4047" : "#e2e5e9";
  const given = { axis_label_text_color: ink, major_label_text_color: ink, label_text_color: ink, title_text_color: ink,
                  axis_line_color: ink, major_tick_line_color: ink, minor_tick_line_color: null, grid_line_color: faint };
  for (const { model } of Object.values(Bokeh.index.roots ?? Bokeh.index))
    for (const part of model.references())
      for (const [name, value] of Object.entries(given))
        if (name in part.properties && part[name] !== null) part[name] = value;
}

function follow(element) { // one decoder's controls and its picture
  const decoder = (decoders[element.dataset.decoder] = new Decoder(content(element.dataset.decoder)));
  const [row, axes] = element.querySelectorAll("select"), sliders = [...element.querySelectorAll("input[type=range]")];
  const canvas = element.querySelector("canvas"), bars = element.querySelectorAll("tbody tr"), { view } = decoder;

  function draw() {
    const name = axes.value, count = decoder.axes[name].shape[1];
    sliders.forEach((slider, k) => {
      slider.disabled = k >= count;
      slider.parentElement.querySelector("output").value = Number(slider.value).toFixed(1);
    });
    const moves = sliders.slice(0, count).map((slider) => Number(slider.value));
    const mean = decoder.mean(row ? Number(row.value) : 0, name, moves);
    if (canvas) {
      const [height, width] = view.shape, context = canvas.getContext("2d"), image = context.createImageData(width, height);
      for (let i = 0; i < height * width; i++) {
        const grey = (255 * (mean[i] - view.low)) / (view.high - view.low);
        image.data.set([grey, grey, grey, 255], 4 * i);
      }
      context.putImageData(image, 0, 0);
    }
    bars.forEach((bar, j) => {
      bar.querySelector("meter").value = mean[j];
      bar.querySelector("output").value = mean[j].toPrecision(4);
    });
  }

  element.addEventListener("input", draw);
  element.querySelector("button").addEventListener("click", () => {
    for (const slider of sliders) slider.value = 0;
    draw();
  });
  draw();
}

document.addEventListener("DOMContentLoaded", async () => {
  document.querySelectorAll("[data-decoder]").forEach(follow);
  const charts = [...document.querySelectorAll("[data-chart]")];
  await Promise.all(charts.map((place) => Bokeh.embed.embed_item(content(place.dataset.chart), place.id)));
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  paint(scheme.matches);
  scheme.addEventListener("change", ({ matches }) => paint(matches));
  document.body.dataset.ready = "true";
});
