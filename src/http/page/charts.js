// Charts by uPlot: made when they come into view, drawn in the next animation frame, let go when they leave.
/* global uPlot */

import { clock } from "./format.js";

let ink = null;

/** The theme's colours, read once a theme. */
function colours() {
  if (!ink) {
    const style = getComputedStyle(document.documentElement);
    ink = Object.fromEntries(["text", "muted", "line-soft", "loss", "accuracy", "accent", "warn", "bad"]
      .map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }
  return ink;
}

const charts = new Map();
const dirty = new Set();
let frame = 0;

function draw() {
  frame = 0;
  for (const chart of dirty) chart.paint();
  dirty.clear();
}

function later(chart) {
  if (!chart.visible) return;
  dirty.add(chart);
  frame ||= requestAnimationFrame(draw);
}

const views = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target);
    if (!chart) continue;
    chart.visible = entry.isIntersecting;
    if (chart.visible) later(chart); else chart.release();
  }
}, { rootMargin: "120px" });

const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target);
    if (chart?.plot) chart.resize();
  }
});

/** All charts take on the theme's colours. */
export function repaintAll() {
  ink = null;
  for (const chart of charts.values()) { chart.release(); later(chart); }
}

/**
 * A chart in `element`. `kind`: "time" (axes, x = milliseconds) or "spark" (no axes). `series`: [{ column, colour, dash }],
 * columns of the points. `range(min, max)` is the y range. `hover(index or null)` hears of the cursor.
 */
export class Chart {
  plot = null;
  visible = false;
  #points = [];

  constructor(element, { kind, series, range, hover, unit }) {
    Object.assign(this, { element, kind, series, range, hover, unit });
    charts.set(element, this);
    views.observe(element);
    sizes.observe(element);
  }

  set(points) {
    this.#points = points;
    later(this);
  }

  paint() {
    if (!this.visible || this.#points.length < 1) return;
    const columns = [this.#points.map((point) => point[0])];
    for (const { column } of this.series) columns.push(this.#points.map((point) => point[column]));
    if (this.plot) this.plot.setData(columns);
    else this.#make(columns);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width > 0 && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  release() {
    this.plot?.destroy();
    this.plot = null;
  }

  /** For good. */
  remove() {
    this.release();
    views.unobserve(this.element);
    sizes.unobserve(this.element);
    charts.delete(this.element);
    dirty.delete(this);
  }

  #make(columns) {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width < 10) return;
    const ink = colours();
    const plain = this.kind === "spark";
    const font = "11px system-ui, sans-serif";
    const axis = { stroke: ink.muted, font, grid: { stroke: ink["line-soft"], width: 1 }, ticks: { show: false } };
    const own = (index) => (plain && this.series.length > 1 ? `y${index}` : "y");
    const scales = { x: { time: false } };
    const series = this.series.map(({ colour, dash }, index) => {
      scales[own(index)] = { range: (_, min, max) => this.range?.(min, max) ?? spread(min, max) };
      return { scale: own(index), stroke: ink[colour], width: plain ? 1.5 : 2, dash, spanGaps: true, points: { show: (plot) => plot.data[0].length < 2, size: 5 } };
    });
    const few = (_, splits) => splits.map((ms) => clock(ms));
    this.plot = new uPlot({
      width, height, scales, pxAlign: 1,
      padding: plain ? [2, 2, 2, 2] : [8, 24, 0, 0],
      legend: { show: false },
      cursor: plain ? { show: false } : { drag: { setScale: false, x: false, y: false }, points: { size: 6 } },
      series: [{}, ...series],
      axes: plain ? [{ show: false }, { show: false }] : [
        { ...axis, size: 24, space: 76, values: few },
        { ...axis, size: 44, space: 28, values: (_, splits) => splits.map((split) => label(split, this.unit)) },
      ],
      hooks: { setCursor: [(plot) => this.hover?.(plot.cursor.idx ?? null)] },
    }, columns, this.element);
    for (const canvas of this.element.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
  }
}

function label(split, unit) {
  const text = Math.abs(split) >= 1000 ? split.toExponential(0) : String(Number(split.toFixed(3)));
  return unit ? `${text}${unit}` : text;
}

/** A little room above and below, also for a flat line. */
function spread(min, max) {
  if (min === null || max === null) return [0, 1];
  const room = (max - min) * 0.08 || Math.abs(max) * 0.1 || 0.1;
  return [min >= 0 ? Math.max(0, min - room) : min - room, max + room];
}

/** From zero up. */
export const fromZero = (min, max) => [0, (max ?? 1) * 1.08 || 1];

/** A ratio, unless it is something else (RMSE of a regression). */
export const ratio = (min, max) => (max !== null && max <= 1 ? [Math.max(0, Math.floor((min ?? 0) * 10 - 0.5) / 10), 1] : null);
