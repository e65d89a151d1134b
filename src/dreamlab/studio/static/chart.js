// A line chart: several curves, their envelopes, values under the pointer or the arrow keys. Ours, on one canvas.
//
//   const chart = new LineChart(node, { series: [{ name, colour, x, y, low, high }], xLabel, yLabel });
//   chart.update({ smooth: 0.3 });          // whatever is not named stays
//
// x rises; y may hold null, where the curve has a gap; low and high are the least and the greatest value behind a
// point. colour is a token of base.css ("--first") or any CSS colour. smooth is the width of a running mean, 0 to 1.
import { el, figure, put, span } from "./dom.js";

const ROOM = { top: 10, right: 12, bottom: 24, left: 46 };
const COLOURS = ["--first", "--second", "--third", "--fourth", "--fifth", "--sixth"];
const DASHES = [[], [7, 4], [2, 3]];
const REPAINT = matchMedia("(prefers-color-scheme: light)");

/** The look of the n-th of several curves: colours first, then dashes as well. */
export const look = (n) => ({ colour: COLOURS[n % COLOURS.length], dash: DASHES[Math.floor(n / COLOURS.length) % DASHES.length] });

export class LineChart {
  constructor(node, options = {}) {
    this.options = { series: [], xLabel: "", yLabel: "", xTime: false, logY: false, smooth: 0, markers: [], height: 220, legend: null, empty: "No values yet", onPick: null };
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.tip = el("div", { class: "chart-tip", hidden: true });
    this.key = el("ul", { class: "chart-key", hidden: true });
    this.plot = el("div", { class: "chart-plot", tabindex: "0", role: "group", "aria-roledescription": "chart" }, this.canvas, this.tip);
    this.node = el("div", { class: "chart" }, this.key, this.plot);
    put(node, this.node);
    this.at = null; // x under the crosshair
    this.left = ROOM.left; // grows with the labels and never shrinks: nothing moves when data arrives
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.cross(null));
    this.plot.addEventListener("blur", () => this.cross(null));
    this.plot.addEventListener("click", () => this.at !== null && this.options.onPick?.(this.at));
    this.plot.addEventListener("keydown", (event) => this.press(event));
    this.sizes = new ResizeObserver(() => this.later());
    this.sizes.observe(this.plot);
    const gone = new AbortController(); // the window must not hold charts that left the page
    const repaint = () => (this.drawn && !this.node.isConnected ? gone.abort() : this.later());
    addEventListener("theme", repaint, { signal: gone.signal });
    REPAINT.addEventListener("change", repaint, { signal: gone.signal });
    this.update(options);
  }

  update(options) {
    Object.assign(this.options, options);
    const { series, smooth, yLabel, xLabel, height, legend } = this.options;
    if (options.series || options.smooth !== undefined) {
      const [start, end] = range(series, (s) => [s.x]);
      this.curves = series.map((s, n) => ({ ...look(n), ...s, faint: smooth > 0 ? s.y : null, y: smooth > 0 ? smoothed(s.x, s.y, smooth * smooth * 0.12 * (end - start)) : s.y }));
      const names = (legend ?? series.length > 1) ? this.curves : [];
      this.key.hidden = !names.length;
      put(this.key, names.map((c) => el("li", { title: c.name }, swatch(c), c.name)));
    }
    this.plot.style.setProperty("height", `${height}px`);
    this.plot.setAttribute("aria-label", `${yLabel || series.map((s) => s.name).join(", ") || "Chart"}${xLabel ? ` over ${xLabel}` : ""}. Arrow keys read values.`);
    this.later();
  }

  later() {
    this.waiting ||= requestAnimationFrame(() => this.draw());
  }

  // -- drawing --------------------------------------------------------------------------------------------------

  draw() {
    this.waiting = 0;
    const [w, h] = [this.plot.clientWidth, this.plot.clientHeight];
    if (!w || !h) return;
    this.drawn = true;
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) [canvas.width, canvas.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    const c = canvas.getContext("2d");
    const style = getComputedStyle(this.node);
    this.ink = (name) => (name?.startsWith("--") ? style.getPropertyValue(name).trim() : name);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    c.font = `11.5px ${style.fontFamily}`;
    this.scale(c, w, h);
    this.axes(c, w, h);
    if (!this.span) return this.tell();
    c.save();
    c.beginPath();
    c.rect(this.left - 3, 0, w - this.left + 3, h - ROOM.bottom + 2);
    c.clip();
    for (const curve of this.curves) this.band(c, curve);
    for (const curve of this.curves) if (curve.faint) this.line(c, curve, curve.faint, 0.28);
    for (const curve of this.curves) this.line(c, curve, curve.y, 1);
    this.marks(c, h);
    c.restore();
    this.tell(c, w, h);
  }

  /** Where values lie on the canvas: this.sx(x), this.sy(y), and this.span, which is null while there is nothing. */
  scale(c, w, h) {
    const { logY } = this.options;
    const seen = (values) => (logY ? values?.map((v) => (v > 0 ? v : null)) : values);
    const [x0, x1] = range(this.curves, (s) => [s.x]);
    let [y0, y1] = range(this.curves, (s) => [seen(s.y), seen(s.low), seen(s.high), seen(s.faint)]);
    this.span = Number.isFinite(x0) && Number.isFinite(y0) ? (x1 > x0 ? [x0, x1] : [x0 - 1, x0 + 1]) : null;
    if (!this.span) [y0, y1] = logY ? [1, 10] : [0, 1];
    if (y0 === y1) [y0, y1] = logY ? [y0 / 2, y1 * 2] : [y0 - (Math.abs(y0) * 0.05 || 1), y1 + (Math.abs(y1) * 0.05 || 1)];
    const [to, from] = logY ? [Math.log10, (v) => 10 ** v] : [(v) => v, (v) => v];
    const air = (to(y1) - to(y0)) * 0.05;
    const [low, high] = [to(y0) - air, to(y1) + air];
    this.ticks = logY ? decades(from(low), from(high)) : nice(low, high, Math.max(3, Math.floor(h / 46)));
    this.left = Math.max(this.left, ...this.ticks.map((t) => Math.ceil(c.measureText(short(t)).width) + 14));
    const [start, end] = this.span || [0, 1];
    this.sx = (x) => this.left + ((x - start) / (end - start)) * (w - this.left - ROOM.right);
    this.back = (px) => start + ((px - this.left) / (w - this.left - ROOM.right)) * (end - start);
    this.sy = (y) => ROOM.top + (1 - (to(y) - low) / (high - low)) * (h - ROOM.top - ROOM.bottom);
  }

  axes(c, w, h) {
    const { xLabel, xTime, empty, logY } = this.options;
    c.fillStyle = this.ink("--muted");
    c.strokeStyle = this.ink("--line");
    c.lineWidth = 1;
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const tick of this.span ? this.ticks : []) {
      const y = Math.round(this.sy(tick)) + 0.5;
      line(c, this.left, y, w - ROOM.right, y);
      c.fillText(short(tick), this.left - 8, y);
    }
    const base = Math.round(h - ROOM.bottom) + 0.5;
    line(c, this.left, base, w - ROOM.right, base);
    c.textBaseline = "alphabetic";
    if (!this.span) {
      c.textAlign = "center";
      const some = this.curves?.some((s) => s.y.some((v) => v !== null));
      c.fillText(some && logY ? "No value above zero: a log axis shows none" : empty, (this.left + w) / 2, h / 2);
      return;
    }
    const label = w < 420 ? "" : xLabel; // a narrow chart needs its width for numbers
    const room = label ? c.measureText(label).width + 16 : -20;
    const [start, end] = range(this.curves, (s) => [s.x]);
    const steps = start === end ? [start] : xTime ? times(...this.span, w / 90) : nice(...this.span, Math.max(3, Math.floor(w / 90)));
    for (const tick of steps) {
      const x = this.sx(tick);
      const text = xTime ? clock(tick) : short(tick);
      if (x > w - ROOM.right - room - c.measureText(text).width / 2) continue;
      c.textAlign = x < this.left + 12 ? "left" : x > w - ROOM.right - 12 ? "right" : "center";
      c.fillText(text, x, h - 7);
    }
    c.textAlign = "right";
    c.fillText(label, w - ROOM.right, h - 7);
  }

  band(c, { x, low, high, colour }) {
    if (!low || !high || !x.length) return;
    const kept = x.map((_, i) => i).filter((i) => Number.isFinite(low[i]) && Number.isFinite(high[i]) && (!this.options.logY || high[i] > 0));
    const foot = this.plot.clientHeight;
    const sy = (v) => (this.options.logY && v <= 0 ? foot : this.sy(v));
    c.globalAlpha = 0.16;
    c.fillStyle = this.ink(colour);
    c.beginPath();
    for (const i of kept) c.lineTo(this.sx(x[i]), sy(high[i]));
    for (const i of kept.reverse()) c.lineTo(this.sx(x[i]), sy(low[i]));
    c.fill();
    c.globalAlpha = 1;
  }

  line(c, { x, colour, dash }, y, alpha) {
    c.globalAlpha = alpha;
    c.strokeStyle = c.fillStyle = this.ink(colour);
    c.lineWidth = 1.7;
    c.lineJoin = c.lineCap = "round";
    c.setLineDash(alpha === 1 ? dash : []);
    c.beginPath();
    let pen = 0;
    for (let i = 0; i <= x.length; i++) {
      if (i < x.length && Number.isFinite(y[i]) && (!this.options.logY || y[i] > 0)) {
        pen++ ? c.lineTo(this.sx(x[i]), this.sy(y[i])) : c.moveTo(this.sx(x[i]), this.sy(y[i]));
      } else {
        if (pen === 1) dot(c, this.sx(x[i - 1]), this.sy(y[i - 1])); // a value alone has no line
        pen = 0;
      }
    }
    c.stroke();
    c.setLineDash([]);
    c.globalAlpha = 1;
  }

  marks(c, h) {
    c.strokeStyle = c.fillStyle = this.ink("--muted");
    c.textAlign = "left";
    for (const { x, text } of this.options.markers || []) {
      const at = Math.round(this.sx(x)) + 0.5;
      c.setLineDash([3, 4]);
      line(c, at, ROOM.top, at, h - ROOM.bottom);
      c.setLineDash([]);
      if (text) c.fillText(text, at + 5, ROOM.top + 9);
    }
  }

  // -- values under the crosshair -------------------------------------------------------------------------------

  point(event) {
    const px = event.clientX - this.plot.getBoundingClientRect().left;
    this.tip.removeAttribute("aria-live");
    this.cross(this.span ? Math.min(this.span[1], Math.max(this.span[0], this.back(px))) : null);
  }

  press(event) {
    if (!this.span) return;
    const longest = this.curves.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    const last = longest.x.length - 1;
    const now = this.at === null ? last : nearest(longest.x, this.at);
    const by = event.shiftKey ? Math.max(1, Math.round(last / 20)) : 1;
    const to = { ArrowLeft: now - (this.at === null ? 0 : by), ArrowRight: this.at === null ? 0 : now + by, Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.cross(null);
    else if (event.key === "Enter" && this.at !== null) this.options.onPick?.(this.at);
    else if (to !== undefined) this.cross(longest.x[Math.min(last, Math.max(0, to))]);
    else return;
    this.tip.setAttribute("aria-live", "polite");
    event.preventDefault();
  }

  cross(at) {
    if (at === this.at) return;
    this.at = at;
    this.later();
  }

  /** The crosshair and the values beside it. */
  tell(c, w, h) {
    this.tip.hidden = this.at === null || !this.span;
    if (this.tip.hidden) return;
    const { xLabel, xTime } = this.options;
    const near = (this.span[1] - this.span[0]) / 50; // where a curve has ended, or not begun, it has no value
    const covers = ({ x }) => this.at >= x[0] - near && this.at <= x.at(-1) + near;
    const found = this.curves.filter(covers).map((curve) => ({ curve, i: nearest(curve.x, this.at) })).filter(({ curve, i }) => i >= 0 && Number.isFinite(curve.y[i]));
    const here = found.length ? found.reduce((a, b) => (Math.abs(b.curve.x[b.i] - this.at) < Math.abs(a.curve.x[a.i] - this.at) ? b : a)) : null;
    const x = here ? here.curve.x[here.i] : this.at;
    const px = Math.round(this.sx(x)) + 0.5;
    c.strokeStyle = this.ink("--muted");
    c.lineWidth = 1;
    line(c, px, ROOM.top, px, h - ROOM.bottom);
    for (const { curve, i } of found) {
      if (this.options.logY && curve.y[i] <= 0) continue;
      c.fillStyle = this.ink(curve.colour);
      dot(c, this.sx(curve.x[i]), this.sy(curve.y[i]));
    }
    put(
      this.tip,
      el("b", {}, xTime ? span(x) : Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : figure(x), " ", el("i", {}, xTime ? "" : xLabel)),
      found.map(({ curve, i }) => {
        const wide = curve.low && curve.high[i] > curve.low[i];
        return el("span", {}, swatch(curve), el("em", {}, curve.name), el("output", {}, figure(curve.y[i])), wide && el("small", {}, `${figure(curve.low[i])} to ${figure(curve.high[i])}`));
      }),
    );
    this.tip.classList.toggle("above", w < 480);
    const room = this.tip.offsetWidth;
    this.tip.style.setProperty("left", `${Math.max(0, px + 14 + room > w ? px - 14 - room : px + 14)}px`);
  }
}

// -- numbers ----------------------------------------------------------------------------------------------------

const line = (c, x0, y0, x1, y1) => (c.beginPath(), c.moveTo(x0, y0), c.lineTo(x1, y1), c.stroke());

function dot(c, x, y) {
  const path = new Path2D();
  path.arc(x, y, 3.2, 0, 7);
  c.fill(path);
}

function swatch({ colour, dash }) {
  const kind = dash?.length ? (dash[0] > 4 ? "dashed" : "dotted") : "solid";
  return el("i", { class: "swatch", style: { "border-top-style": kind, "border-top-color": colour?.startsWith("--") ? `var(${colour})` : colour } });
}

function range(series, columns) {
  let [low, high] = [Infinity, -Infinity];
  for (const s of series || []) for (const column of columns(s)) for (const v of column || []) if (v !== null && Number.isFinite(v)) (low = Math.min(low, v)), (high = Math.max(high, v));
  return [low, high];
}

/** The index of the x nearest to `at`, -1 where there is none. */
function nearest(x, at) {
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    x[middle] < at ? (low = middle + 1) : (high = middle);
  }
  return low > 0 && at - x[low - 1] < x[low] - at ? low - 1 : low < x.length ? low : -1;
}

/** A running mean with a bell of `width` in units of x, so that it does not lag and does not depend on the sampling. */
export function smoothed(x, y, width) {
  if (!(width > 0)) return y;
  let begin = 0;
  return y.map((value, i) => {
    if (!Number.isFinite(value)) return value;
    while (x[i] - x[begin] > 3 * width) begin++;
    let [sum, weight] = [0, 0];
    for (let k = begin; k < x.length && x[k] - x[i] <= 3 * width; k++) {
      if (!Number.isFinite(y[k])) continue;
      const g = Math.exp(-0.5 * ((x[k] - x[i]) / width) ** 2);
      sum += g * y[k];
      weight += g;
    }
    return sum / weight;
  });
}

/** About `count` round numbers between two values. */
export function nice(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((s) => s * size >= rough);
  return multiples(low, high, step);
}

function multiples(low, high, step) {
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function decades(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const each = last - first <= 2 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil((last - first) / 6));
  const found = [];
  for (let power = first; power <= last; power += stride) for (const m of each) if (m * 10 ** power >= low && m * 10 ** power <= high) found.push(m * 10 ** power);
  return found.length > 1 ? found : nice(low, high, 4).filter((v) => v > 0);
}

const LENGTHS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000];
const times = (low, high, count) => multiples(low, high, LENGTHS.find((s) => s * count >= high - low) ?? 864000 * Math.ceil((high - low) / count / 864000));
const clock = (s) => (s === 0 ? "0" : s % 86400 === 0 ? `${s / 86400} d` : s % 3600 === 0 ? `${s / 3600} h` : s % 60 === 0 ? `${s / 60} min` : s > 60 ? span(s) : `${s} s`);

/** A tick: 1.2M · 250k · 0.05 · 1e-5. */
function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e9 || size < 1e-4) return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  return String(Number(value.toPrecision(5)));
}
