"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const FONT = getComputedStyle(document.body).fontFamily;
const CONFIG = { displayModeBar: false, responsive: true };
const ARTICLES = [...document.querySelectorAll("article")];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function layout(extra) {
  const axis = {
    gridcolor: colour("rule"), zeroline: false, automargin: true, fixedrange: true,
    title: { standoff: 8 },
  };
  return {
    margin: { l: 44, r: 12, t: 10, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: FONT, size: 12, color: colour("soft") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("rule"), align: "left", font: { family: FONT, color: colour("ink") } },
    showlegend: false, dragmode: false,
    ...extra,
    xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
  };
}

function line(x, y, tone, width, more = {}) {
  const { dash, shape, ...rest } = more;
  return { x, y, mode: "lines", line: { color: colour(tone), width, dash, shape }, ...rest };
}

// ROC and precision-recall, each with the line of chance.

function drawRates(id, [x, y], chance, xTitle, yTitle) {
  if (!document.getElementById(id)) return;
  const hovertemplate = `${xTitle} %{x:.3f}<br>${yTitle} %{y:.3f}<extra></extra>`;
  const traces = [line(x, y, "curve", 2.5, { hovertemplate })];
  if (chance) traces.push(line([0, 1], chance, "raw", 1.2, { dash: "dot", hovertemplate: "chance<extra></extra>" }));
  Plotly.react(id, traces, layout({
    xaxis: { range: [-0.01, 1.01], title: { text: xTitle, standoff: 8 } },
    yaxis: { range: [-0.01, 1.03], title: { text: yTitle, standoff: 8 } },
  }), CONFIG);
}

function sideOf(layer, last) {
  if (layer < last / 6) return "left";
  return layer > 5 * last / 6 ? "right" : "center";
}

function drawSaliency() {
  if (!document.getElementById("saliency")) return;
  const metrics = [
    ["kl_divergence_z", "KL divergence", "kl", "dot"], ["ldr_z", "LDR", "ldr", "dash"],
    ["entropy_z", "entropy", "entropy", "dashdot"], ["saliency", "saliency", "curve", "solid"],
  ].filter(([key]) => DATA.layers[key]);
  const traces = metrics.map(([key, name, tone, dash]) => ({
    ...line(DATA.layers[key].map((_, layer) => layer), DATA.layers[key], tone, dash === "solid" ? 3 : 1.6, { dash }),
    // Markers too: a layer whose neighbours are not stored has no line.
    mode: "lines+markers", marker: { size: dash === "solid" ? 6 : 4 },
    name, hovertemplate: `${name} %{y:.3f}<extra></extra>`,
  }));
  const last = Math.max(...metrics.map(([key]) => DATA.layers[key].length)) - 1;
  const middle = (DATA.chosenLayers[0] + DATA.chosenLayers.at(-1)) / 2;
  const note = { showarrow: false, yref: "paper", y: 1, yanchor: "bottom" };
  Plotly.react("saliency", traces, layout({
    margin: { l: 44, r: 12, t: 26, b: 40 }, showlegend: true, hovermode: "x unified",
    legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0 },
    xaxis: { range: [-0.6, last + 0.6], dtick: Math.ceil(last / 12) || 1, title: { text: "layer", standoff: 8 } },
    yaxis: { title: { text: "z-score", standoff: 8 }, zeroline: true, zerolinecolor: colour("rule") },
    shapes: [
      { type: "rect", yref: "paper", x0: -0.5, x1: 0.5, y0: 0, y1: 1, fillcolor: colour("raw"), opacity: 0.18, line: { width: 0 }, layer: "below" },
      ...DATA.chosenLayers.map((layer) => ({ type: "line", yref: "paper", x0: layer, x1: layer, y0: 0, y1: 1, line: { color: colour("truth"), width: 1.5, dash: "dash" } })),
    ],
    annotations: [
      { ...note, x: 0, y: 0.5, yanchor: "middle", textangle: -90, text: innerWidth > 640 ? "never chosen" : "" },
      { ...note, x: middle, xanchor: sideOf(middle, last), text: `chosen: ${DATA.chosenText}`, font: { color: colour("truth") } },
    ],
  }), CONFIG);
}

// One video: steps over frames. A gap between segments breaks the line.

function steps(video, values) {
  const x = [], y = [];
  values.forEach((value, i) => {
    if (i && video.starts[i] !== video.stops[i - 1]) { x.push(null); y.push(null); }
    x.push(video.starts[i], video.stops[i]);
    y.push(value, value);
  });
  return [x, y];
}

// Invisible points amid the segments, all at one height, so that the nearest one to the pointer
// is that of the segment under it.
function hoverPoints(video) {
  const time = (frame) => (video.fps ? (frame / video.fps).toFixed(1) : "?");
  return {
    x: video.starts.map((start, i) => (start + video.stops[i]) / 2),
    y: video.starts.map(() => 0.5),
    mode: "markers", marker: { opacity: 0, color: colour("curve") },
    text: video.starts.map((start, i) =>
      `frames [${start}, ${video.stops[i]})<br>${time(start)}–${time(video.stops[i])} s<br>` +
      (video.windows[i] ? `the model saw frames [${video.windows[i][0]}, ${video.windows[i][1]})<br>` : "") +
      `smoothed ${video.smoothed[i]}<br>raw ${video.scores[i]}`),
    hovertemplate: "%{text}<extra></extra>",
  };
}

function band([x0, x1], tone, opacity, y0, y1) {
  return { type: "rect", yref: "paper", x0, x1, y0, y1, fillcolor: colour(tone), opacity, line: { width: 0 }, layer: "below" };
}

function drawVideo(article) {
  const video = DATA.videos[Number(article.dataset.index)];
  const skip = { hoverinfo: "skip" };
  const all = [0, 1, DATA.threshold, ...video.scores].filter((value) => value !== null);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const threshold = { type: "line", xref: "paper", x0: 0, x1: 1, y0: DATA.threshold, y1: DATA.threshold, line: { color: colour("soft"), width: 1, dash: "dash" } };
  Plotly.react(article.querySelector(".curve-plot"), [
    line(...steps(video, video.scores), "raw", 1.2, skip),
    line(...steps(video, video.smoothed), "curve", 2, skip),
    hoverPoints(video),
  ], layout({
    margin: { l: 34, r: 10, t: 14, b: 36 }, hovermode: "closest", hoverdistance: -1,
    shapes: [
      ...video.intervals.map((range) => band(range, "found", 0.3, 0, 1)),
      ...video.annotations.map((range) => band(range, "truth", 1, 1.02, 1.08)),
      threshold,
    ],
    xaxis: { range: [0, video.numFrames], title: { text: "frame", standoff: 4 }, showgrid: false, showspikes: false },
    yaxis: {
      range: [low - 0.03 * (high - low), high + 0.03 * (high - low)],
      ...(low === 0 && high === 1 ? { tickvals: [0, 0.5, 1] } : { nticks: 4 }),
    },
  }), CONFIG);
  showThumbnails(article);
  article.dataset.drawn = "1";
}

// What the model saw at the peaks; pictures of videos out of sight do not exist.

function showThumbnails(article) {
  const strip = article.querySelector(".thumbs");
  const video = DATA.videos[Number(article.dataset.index)];
  if (!strip || strip.childElementCount) return;
  for (const { frame, score, jpeg } of video.thumbnails) {
    const figure = document.createElement("figure");
    const image = document.createElement("img");
    image.src = `data:image/jpeg;base64,${jpeg}`;
    image.alt = `frame ${frame}`;
    const caption = document.createElement("figcaption");
    const time = video.fps ? ` · ${(frame / video.fps).toFixed(1)} s` : "";
    caption.textContent = `frame ${frame}${time} · ${score.toFixed(3)}`;
    figure.append(image, caption);
    strip.append(figure);
  }
}

// Layer analysis, where `hiprobe layers` has made one.

function drawAnalysis() {
  if (!DATA.analysis) return;
  const { table, tsne, summary } = DATA.analysis;
  const last = Math.max(...table.layer);
  const chosen = { type: "line", yref: "paper", x0: summary.dlsp_layer, x1: summary.dlsp_layer, y0: 0, y1: 1, line: { color: colour("truth"), width: 1.5, dash: "dash" } };
  const layers = { range: [0.4, last + 0.6], dtick: Math.ceil(last / 12) || 1, title: { text: "layer", standoff: 8 } };
  const label = { showarrow: false, yref: "paper", y: 1, yanchor: "bottom", x: summary.dlsp_layer, xanchor: sideOf(summary.dlsp_layer, last), text: `DLSP: ${summary.dlsp_layer}`, font: { color: colour("truth") } };
  const margin = { l: 48, r: 48, t: 26, b: 40 };
  Plotly.react("layer-auc", [{
    ...line(table.layer, table.cv_auc, "curve", 2.5, { mode: "lines+markers" }),
    error_y: { type: "data", array: table.cv_auc_std, color: colour("raw"), thickness: 1, width: 2 },
    hovertemplate: "layer %{x}<br>AUC %{y:.3f} ± %{error_y.array:.3f}<extra></extra>",
  }, ...(table.lens_auc ? [{ ...line(table.layer, table.lens_auc, "raw", 1.5, { mode: "lines" }), hovertemplate: "layer %{x}<br>AUC of p(yes) %{y:.3f}<extra></extra>" }] : [])], layout({ margin, xaxis: layers, yaxis: { title: { text: "AUC", standoff: 8 }, maxallowed: 1 }, shapes: [chosen], annotations: [label] }), CONFIG);
  Plotly.react("layer-silhouette", [
    { x: table.layer, y: table.chosen_share, type: "bar", yaxis: "y2", marker: { color: colour("found"), opacity: 0.45 }, hovertemplate: "layer %{x}<br>chosen in %{y:.0%} of draws<extra></extra>" },
    { ...line(table.layer, table.silhouette, "curve", 2.5, { mode: "lines+markers" }), hovertemplate: "layer %{x}<br>silhouette %{y:.3f}<extra></extra>" },
  ], layout({
    margin, xaxis: layers, yaxis: { title: { text: "silhouette", standoff: 8 } },
    yaxis2: { overlaying: "y", side: "right", range: [0, 1], tickformat: ".0%", tickvals: [0, 0.25, 0.5, 0.75, 1], showgrid: false, fixedrange: true },
    shapes: [chosen], annotations: [label],
  }), CONFIG);
  document.querySelectorAll(".tsne").forEach((plot, index) => {
    const { layer, normal, anomalous } = tsne[index];
    const cloud = ([x, y], tone, name) => ({ x, y, mode: "markers", name, marker: { color: colour(tone), size: 6, opacity: 0.8 }, hovertemplate: `${name}<extra></extra>` });
    const bare = { showticklabels: false, showgrid: false };
    Plotly.react(plot, [cloud(normal, "kl", "normal"), cloud(anomalous, "truth", "anomalous")], layout({
      margin: { l: 10, r: 10, t: 30, b: 10 }, hovermode: "closest", xaxis: bare, yaxis: { ...bare, scaleanchor: "x" },
      annotations: [{ showarrow: false, xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left", yanchor: "bottom", text: `layer ${layer}${layer === summary.dlsp_layer ? " (DLSP)" : ""}` }],
    }), CONFIG);
  });
}

// Only the curves near the viewport exist.

function watchVideos() {
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !target.dataset.drawn) drawVideo(target);
      if (!isIntersecting && target.dataset.drawn) {
        Plotly.purge(target.querySelector(".curve-plot"));
        target.querySelector(".thumbs")?.replaceChildren();
        delete target.dataset.drawn;
      }
    }
  }, { rootMargin: "800px" });
  ARTICLES.forEach((article) => watcher.observe(article));
}

function filterVideos() {
  const group = document.getElementById("group").value;
  const name = document.getElementById("name").value.trim().toLowerCase();
  let shown = 0;
  for (const article of ARTICLES) {
    article.hidden = Boolean(group && article.dataset.group !== group) ||
      !article.querySelector("h3").textContent.toLowerCase().includes(name);
    shown += !article.hidden;
  }
  document.getElementById("shown").textContent =
    shown === ARTICLES.length ? `${shown} videos` : `${shown} of ${ARTICLES.length} videos`;
}

function drawAll() {
  drawRates("roc", DATA.roc, [0, 1], "false positive rate", "true positive rate");
  const chance = DATA.prevalence === null ? null : [DATA.prevalence, DATA.prevalence];
  drawRates("pr", DATA.pr, chance, "recall", "precision");
  drawSaliency();
  drawAnalysis();
  ARTICLES.filter((article) => article.dataset.drawn).forEach(drawVideo);
}

drawAll();
watchVideos();
document.getElementById("group").addEventListener("change", filterVideos);
document.getElementById("name").addEventListener("input", filterVideos);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
