// Copyright (C) 2026 anomalib-fbclip contributors
// SPDX-License-Identifier: Apache-2.0

// Decides on a report's photographs at the thresholds of its sliders, and draws their heatmaps.

"use strict";

const settings = JSON.parse(document.getElementById("settings").textContent);
const controls = document.getElementById("controls");
const sliders = {
  image: document.getElementById("image-threshold"),
  pixel: document.getElementById("pixel-threshold"),
  heat: document.getElementById("heat"),
};

/** Ratio of a photograph's longer side to the width of an outline. */
const LINES_PER_SIDE = 240;

// The sliders' steps are coarser than the initial thresholds, so these are kept here.
const thresholds = { ...settings.thresholds };

/** Decide at the image threshold. At the initial one, the table's verdict holds, from before rounding. */
function decide(score, firstState) {
  const isDecided = firstState === "anomalous" || firstState === "normal";
  if (thresholds.image === settings.thresholds.image || !isDecided) return firstState;
  return score > thresholds.image ? "anomalous" : "normal";
}

/** A photograph of the page. Its canvas has pixels only while it is in sight or on paper. */
class Photograph {
  constructor(card) {
    this.card = card;
    this.score = Number(card.dataset.score);
    this.firstState = card.dataset.state;
    this.canvas = card.querySelector("canvas");
    this.values = null;
    if (!this.canvas) return;
    this.map = new Image(); // loaded at once, because paper can't wait
    this.map.src = this.canvas.dataset.map;
  }

  get state() {
    return this.card.dataset.state;
  }

  /** Decide at the image threshold. */
  decide() {
    const state = decide(this.score, this.firstState);
    if (state === this.state) return;
    this.card.dataset.state = state;
    this.card.querySelector(".state").textContent = state;
  }

  /** Note whether it is in sight, and draw it if it is. */
  async see(isInSight) {
    this.isInSight = isInSight;
    await this.map.decode();
    if (this.isInSight) this.load();
    else this.unload();
  }

  /** Read the anomaly map, at the size of the photograph, and draw it. */
  load() {
    const photograph = this.card.querySelector("img");
    const [width, height] = [photograph.getAttribute("width"), photograph.getAttribute("height")];
    this.values = readValues(this.map, Number(width), Number(height));
    this.draw();
  }

  /** Free the canvas. */
  unload() {
    this.values = null;
    this.canvas.width = this.canvas.height = 0;
  }

  /** Show it as large as the window, or as the others again. */
  enlarge() {
    const isLarge = this.card.classList.toggle("large");
    this.card.querySelector(".enlarge").setAttribute("aria-pressed", isLarge);
    this.card.scrollIntoView({ block: "nearest" });
  }

  /** Draw the heatmap and the regions, if the map is loaded. */
  draw() {
    if (!this.values) return;
    const { data, width, height } = this.values;
    const image = new ImageData(width, height);
    const mask = matchVerdict(data, width, height, thresholds.pixel, this.state === "anomalous");
    paintHeat(image.data, data, sliders.heat.valueAsNumber);
    paintOutline(image.data, mask, width, height);
    this.canvas.width = width;
    this.canvas.height = height;
    this.canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

/** Read the values 0..255 of a gray image, resized. */
function readValues(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return { data: data.filter((_, index) => index % 4 === 0), width, height };
}

/** Find the regions of a map, as match_verdict of the package does: 1 inside, 0 outside. */
function matchVerdict(values, width, height, threshold, isAnomalous) {
  const mask = new Uint8Array(values.length);
  if (!isAnomalous) return mask;
  let strongest = 0;
  for (let index = 0; index < values.length; index++) {
    mask[index] = values[index] > 255 * threshold;
    if (values[index] > values[strongest]) strongest = index;
  }
  if (mask[strongest]) return mask;
  const radius = Math.floor(Math.floor(Math.min(height, width) / settings.strongestPlace) / 2);
  const [row, column] = [Math.floor(strongest / width), strongest % width];
  for (let y = Math.max(row - radius, 0); y <= Math.min(row + radius, height - 1); y++) {
    for (let x = Math.max(column - radius, 0); x <= Math.min(column + radius, width - 1); x++) {
      mask[y * width + x] = 1;
    }
  }
  return mask;
}

/** Paint the colors of a map, more opaque for higher values. */
function paintHeat(pixels, values, strength) {
  const { palette, opacity } = settings;
  for (let index = 0; index < values.length; index++) {
    const [value, place] = [values[index], 4 * index];
    const color = palette[value];
    pixels[place] = color[0];
    pixels[place + 1] = color[1];
    pixels[place + 2] = color[2];
    pixels[place + 3] = 255 * strength * opacity * Math.sqrt(value / 255);
  }
}

/** Paint lines around the regions: white at the edge and black outside, visible on any background. */
function paintOutline(pixels, mask, width, height) {
  if (!mask.includes(1)) return;
  const line = Math.ceil(Math.max(width, height) / LINES_PER_SIDE);
  for (let y = 0; y < height; y++) {
    const [up, down] = [Math.max(y - line, 0), Math.min(y + line, height - 1)];
    for (let x = 0; x < width; x++) {
      const [left, right] = [Math.max(x - line, 0), Math.min(x + line, width - 1)];
      const count = (row) => mask[row * width + left] + mask[row * width + x] + mask[row * width + right];
      const covered = count(up) + count(y) + count(down);
      if (covered === 0 || covered === 9) continue;
      const shade = mask[y * width + x] ? 255 : 0;
      pixels.set([shade, shade, shade, 255], 4 * (y * width + x));
    }
  }
}

/** Return the command with the thresholds. */
function fillCommand() {
  return settings.command
    .replaceAll("{threshold}", thresholds.image)
    .replaceAll("{pixel_threshold}", thresholds.pixel);
}

/** Decide on all photographs, and update the page. */
function update() {
  for (const photograph of photographs) photograph.decide();
  const filter = controls.elements.filter.value;
  const counts = { all: photographs.length + settings.others.length, anomalous: 0, normal: 0, unknown: 0, error: 0 };
  let shown = 0;
  for (const { card, state } of photographs) {
    counts[state]++;
    card.hidden = filter !== "all" && filter !== state;
    if (!card.hidden) shown++;
  }
  for (const [score, firstState] of settings.others) counts[decide(score, firstState)]++;
  for (const place of controls.querySelectorAll("[data-count]")) place.textContent = counts[place.dataset.count];
  document.getElementById("none").hidden = shown > 0;
  document.getElementById("summary").textContent =
    `${counts.anomalous} anomalous, ${counts.normal} normal, ` +
    (counts.unknown ? `${counts.unknown} unlike all products, ` : "") +
    `${counts.error} not read; ${shown} shown`;
  document.getElementById("image-value").textContent = thresholds.image.toFixed(3);
  document.getElementById("pixel-value").textContent = thresholds.pixel.toFixed(3);
  const line = document.getElementById("threshold-line");
  line.setAttribute("x1", 100 * thresholds.image);
  line.setAttribute("x2", 100 * thresholds.image);
  document.getElementById("command").textContent = fillCommand();
  for (const told of document.querySelectorAll(".copied")) told.textContent = "";
  document.getElementById("photographs").style.setProperty("--heat", sliders.heat.value);
  const choice = new URLSearchParams({ ...thresholds, filter });
  for (const link of document.querySelectorAll("nav a")) link.hash = choice;
  for (const photograph of photographs) photograph.draw();
}

/** Apply the choices made on another page, from the address. */
function takeChoice() {
  const choice = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(thresholds)) {
    const value = Number(choice.get(name) ?? NaN);
    if (!(value >= 0 && value <= 1)) continue;
    thresholds[name] = value;
    sliders[name].value = value;
  }
  const filter = [...controls.elements.filter].find(({ value }) => value === choice.get("filter"));
  if (filter) filter.checked = true;
}

/** Show the command that adds the photographs marked as good on this page. */
function collectFeedback() {
  const files = [...document.querySelectorAll(".feedback input:checked")].map(({ value }) => value);
  document.getElementById("feedback").hidden = files.length === 0;
  document.getElementById("feedback-command").textContent = settings.feedback.replaceAll("{photographs}", () => files.join(" "));
}

/** Copy the command next to a button or, if the page may not, select it. */
async function copyCommand({ currentTarget }) {
  const told = currentTarget.parentElement.querySelector(".copied");
  const command = currentTarget.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(command.textContent);
    told.textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(command);
    told.textContent = "Selected: copy it with Ctrl+C.";
  }
}

const photographs = [...document.querySelectorAll(".card")].map((card) => new Photograph(card));

const photographOf = new Map(photographs.map((photograph) => [photograph.card, photograph]));
const observer = new IntersectionObserver(
  (changes) => {
    for (const { target, isIntersecting } of changes) photographOf.get(target).see(isIntersecting);
  },
  { rootMargin: "50%" },
);
const mapped = photographs.filter((photograph) => photograph.canvas);
for (const { card } of mapped) observer.observe(card);

addEventListener("beforeprint", () => {
  for (const photograph of mapped) if (!photograph.values) photograph.load();
});
addEventListener("afterprint", () => {
  for (const photograph of mapped) if (!photograph.isInSight) photograph.unload();
});

document.getElementById("photographs").addEventListener("click", ({ target }) => {
  if (target.closest(".picture, .enlarge")) photographOf.get(target.closest(".card")).enlarge();
});

let frame = 0;
function updateSoon() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(update);
}

for (const name of ["image", "pixel"]) {
  sliders[name].addEventListener("input", () => (thresholds[name] = sliders[name].valueAsNumber));
}
controls.addEventListener("input", updateSoon);
document.getElementById("reset").addEventListener("click", () => {
  Object.assign(thresholds, settings.thresholds);
  sliders.image.value = thresholds.image;
  sliders.pixel.value = thresholds.pixel;
  updateSoon();
});
controls.addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", copyCommand);
for (const box of document.querySelectorAll(".feedback")) box.addEventListener("change", collectFeedback);
takeChoice();
update();
