"use strict";
const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(`--${name}`).trim();
const CONFIG = { displayModeBar: false, responsive: true };

function layout(extra) {
  const axis = { gridcolor: colour("rule"), zerolinecolor: colour("rule"), automargin: true, fixedrange: true };
  return Object.assign({
    margin: { l: 44, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("soft") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("rule"), font: { color: colour("ink") } },
    legend: { orientation: "h", y: 1.12, x: 0 },
  }, extra, { xaxis: Object.assign({}, axis, extra.xaxis), yaxis: Object.assign({}, axis, extra.yaxis) });
}

function band(range, fill, opacity, y0, y1) {
  return { type: "rect", x0: range[0], x1: range[1], y0, y1, fillcolor: fill, opacity, line: { width: 0 }, layer: "below" };
}

function drawCurves() {
  Plotly.newPlot("curves", [
    { x: DATA.roc[0], y: DATA.roc[1], name: "ROC: true over false positive rate", line: { color: colour("curve"), width: 2 }, hovertemplate: "false %{x:.3f}, true %{y:.3f}<extra>ROC</extra>" },
    { x: DATA.pr[0], y: DATA.pr[1], name: "precision over recall", line: { color: colour("found"), width: 2 }, hovertemplate: "recall %{x:.3f}, precision %{y:.3f}<extra>PR</extra>" },
    { x: [0, 1], y: [0, 1], showlegend: false, hoverinfo: "skip", line: { color: colour("raw"), width: 1, dash: "dot" } },
  ], layout({ xaxis: { range: [0, 1] }, yaxis: { range: [0, 1.02] } }), CONFIG);
}

function drawSaliency() {
  const names = [["kl_divergence_z", "KL divergence", "raw"], ["ldr_z", "LDR", "found"], ["entropy_z", "entropy", "soft"], ["saliency", "saliency", "curve"]];
  const traces = names.filter(([key]) => DATA.layers[key]).map(([key, name, tone]) => ({
    x: DATA.layers[key].map((_, layer) => layer), y: DATA.layers[key], name, mode: "lines+markers",
    line: { color: colour(tone), width: key === "saliency" ? 3 : 1.5 }, marker: { size: key === "saliency" ? 7 : 4 },
    hovertemplate: `layer %{x}: %{y:.3f}<extra>${name}</extra>`,
  }));
  const chosen = { type: "line", x0: DATA.chosenLayer, x1: DATA.chosenLayer, yref: "paper", y0: 0, y1: 1, line: { color: colour("truth"), width: 1.5, dash: "dash" } };
  Plotly.newPlot("saliency", traces, layout({ xaxis: { title: { text: "layer" }, dtick: Math.ceil(DATA.layers.saliency.length / 12), range: [-0.4, DATA.layers.saliency.length - 0.6] }, yaxis: {}, shapes: [chosen] }), CONFIG);
}

function drawVideo(article) {
  const video = DATA.videos[Number(article.dataset.index)];
  const end = video.edges[video.edges.length - 1];
  const steps = (values) => [...values, values[values.length - 1]];
  const when = video.edges.map((frame, i) => {
    const stop = video.edges[Math.min(i + 1, video.edges.length - 1)];
    return `frames ${frame}–${stop} · ${(frame / video.fps).toFixed(1)} s`;
  });
  const trace = (values, name, tone, width) => ({
    x: video.edges, y: steps(values), name, showlegend: false, text: when, line: { shape: "hv", color: colour(tone), width },
    hovertemplate: `%{text}<br>${name} %{y:.3f}<extra></extra>`,
  });
  const shapes = video.intervals.map((range) => band(range, colour("found"), 0.28, 0, 1))
    .concat(video.annotations.map((range) => band(range, colour("truth"), 0.9, 1.02, 1.09)))
    .concat([{ type: "line", x0: 0, x1: end, y0: DATA.threshold, y1: DATA.threshold, line: { color: colour("soft"), width: 1, dash: "dash" } }]);
  Plotly.newPlot(article.querySelector(".curve-plot"), [
    trace(video.scores, "raw", "raw", 1.2), trace(video.smoothed, "smoothed", "curve", 2),
  ], layout({ shapes, hovermode: "closest", xaxis: { range: [0, end], title: { text: "frame" } }, yaxis: { range: [-0.03, 1.12], tickvals: [0, 0.5, 1] } }), CONFIG);
  article.dataset.drawn = "1";
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && !entry.target.dataset.drawn) drawVideo(entry.target);
  }
}, { rootMargin: "600px" });

drawCurves();
drawSaliency();
document.querySelectorAll("article").forEach((article) => watcher.observe(article));
document.getElementById("filter").addEventListener("change", (event) => {
  document.querySelectorAll("article").forEach((article) => {
    article.hidden = Boolean(event.target.value) && article.dataset.category !== event.target.value;
  });
});
