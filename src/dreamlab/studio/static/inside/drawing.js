// Small drawings of the page Inside: each a canvas that redraws itself when it is sized or the theme changes.
import { el } from "../dom.js";

const LIGHT = matchMedia("(prefers-color-scheme: light)");

/** A canvas `height` pixels high, or as high as height(width) says; draw(c, w, h, ink) in CSS pixels. */
export class Drawing {
  constructor(label, height, draw) {
    Object.assign(this, { height, draw });
    this.canvas = el("canvas", { role: "img", "aria-label": label, class: "in-drawing" });
    this.node = el("div", { class: "in-draw" }, this.canvas);
    this.sizes = new ResizeObserver(() => this.later());
    this.sizes.observe(this.node);
    const gone = new AbortController();
    const again = () => (this.drawn && !this.node.isConnected ? gone.abort() : this.later());
    addEventListener("theme", again, { signal: gone.signal });
    LIGHT.addEventListener("change", again, { signal: gone.signal });
  }

  later() {
    this.waiting ||= requestAnimationFrame(() => this.now());
  }

  now() {
    this.waiting = 0;
    const w = this.node.clientWidth;
    if (!w) return;
    const h = typeof this.height === "function" ? this.height(w) : this.height;
    const ratio = devicePixelRatio || 1;
    this.canvas.style.setProperty("height", `${h}px`);
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) [this.canvas.width, this.canvas.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    const style = getComputedStyle(this.node);
    const c = this.canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    c.font = `11px ${style.fontFamily}`;
    this.drawn = true;
    this.draw(c, w, h, (name) => style.getPropertyValue(name).trim());
  }
}

/** A colour ramp from the ground to the accent, and on to the warm end: for 0 to 1. */
export function heat(ink) {
  const [low, middle, high] = [parse(ink("--raised")), parse(ink("--first")), parse(ink("--second"))];
  return (v) => {
    const x = Math.max(0, Math.min(1, v));
    return x < 0.6 ? mix(low, middle, x / 0.6) : mix(middle, high, (x - 0.6) / 0.4);
  };
}

function parse(text) {
  const hex = text.replace("#", "");
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

const mix = (a, b, x) => `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * x)).join(" ")})`;

/** The ramp with its ends in words. */
export function legend(low = "0", high = "1", label = "probability") {
  const bar = new Drawing(`${label}, ${low} to ${high}`, 8, (c, w, h, ink) => {
    const ramp = heat(ink);
    for (let x = 0; x < w; x++) {
      c.fillStyle = ramp(x / w);
      c.fillRect(x, 0, 1, h);
    }
  });
  return el("div", { class: "in-legend" }, el("span", {}, low), bar.node, el("span", {}, high), el("span", {}, label));
}

/** A heat map of rows of numbers in [0, 1]; `chosen[row]` is outlined, pick(row, column) hears of clicks. */
export function grid(label, rows, { chosen = null, before = null, pick = null } = {}) {
  const state = { rows, chosen };
  const columns = rows[0]?.length ?? 1;
  const cell = (w) => Math.min(26, w / columns);
  const high = (w) => Math.max(8, Math.min(20, cell(w)));
  const drawing = new Drawing(label, (w) => Math.ceil(state.rows.length * high(w)), (c, w, h, ink) => {
    const [cw, ch] = [w / columns, high(w)];
    const ramp = heat(ink);
    state.rows.forEach((row, y) =>
      row.forEach((v, x) => {
        c.fillStyle = ramp(v ?? 0);
        c.fillRect(x * cw + 0.5, y * ch + 0.5, cw - 1, ch - 1);
      }),
    );
    const outline = (marks, colour, dash) => {
      c.strokeStyle = colour;
      c.lineWidth = 1.5;
      c.setLineDash(dash);
      marks?.forEach((x, y) => x >= 0 && c.strokeRect(x * cw + 1.25, y * ch + 1.25, cw - 2.5, ch - 2.5));
      c.setLineDash([]);
    };
    outline(before, ink("--muted"), [2, 2]);
    outline(state.chosen, ink("--ink"), []);
  });
  drawing.update = (next) => {
    Object.assign(state, next);
    drawing.later();
  };
  if (pick) {
    const { canvas } = drawing;
    canvas.classList.add("in-pick");
    canvas.setAttribute("tabindex", "0");
    let at = [0, 0];
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      at = [Math.floor(((event.clientY - box.top) / box.height) * state.rows.length), Math.floor(((event.clientX - box.left) / box.width) * columns)];
      pick(...at);
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move) return;
      const row = Math.max(0, Math.min(state.rows.length - 1, at[0] + move[0]));
      const from = state.chosen?.[row] ?? 0;
      at = [row, Math.max(0, Math.min(columns - 1, from + move[1]))];
      pick(...at);
      event.preventDefault();
      event.stopPropagation();
    });
  }
  return drawing;
}

/** Bars from zero, one a row, `unit` after the largest. */
export function bars(label, values, { high = () => 16, colour = "--fourth", most = null } = {}) {
  return new Drawing(label, (w) => Math.ceil(values.length * high(w)), (c, w, h, ink) => {
    const ch = h / values.length;
    const top = most ?? Math.max(...values.map((v) => v ?? 0), 1e-6);
    values.forEach((v, y) => {
      c.fillStyle = ink("--raised");
      c.fillRect(0, y * ch + 2, w, ch - 4);
      c.fillStyle = ink(colour);
      c.fillRect(0, y * ch + 2, Math.max(1, (w * (v ?? 0)) / top), ch - 4);
    });
  });
}

/** Gaussians, one a row, in deviations of the prior: its band, the posterior's mean and spread on it, and what was drawn. */
export function bells(label, { prior, post, value }, order) {
  const row = 20;
  const of = (d, v) => (v - prior[d][0]) / prior[d][1];
  const seen = order.flatMap((d) => [of(d, value[d]), ...(post ? [of(d, post[d][0] - 2 * post[d][1]), of(d, post[d][0] + 2 * post[d][1])] : [])]);
  const far = Math.max(3, Math.min(12, Math.max(...seen.map(Math.abs))));
  return new Drawing(label, order.length * row + 16, (c, w, h, ink) => {
    const [left, right] = [30, 64];
    const x = (v) => left + ((Math.max(-far, Math.min(far, v)) + far) / (2 * far)) * (w - left - right);
    c.textBaseline = "middle";
    c.fillStyle = ink("--second");
    c.globalAlpha = 0.16;
    c.fillRect(x(-2), 0, x(2) - x(-2), order.length * row);
    c.globalAlpha = 1;
    c.fillRect(x(0) - 0.5, 0, 1, order.length * row);
    order.forEach((d, i) => {
      const y = i * row + row / 2;
      c.fillStyle = ink("--muted");
      c.textAlign = "left";
      c.fillText(String(d + 1), 4, y);
      c.textAlign = "right";
      c.fillText(`${prior[d][0].toFixed(2)} ± ${prior[d][1].toFixed(2)}`, w, y);
      if (post) {
        const [m, s] = post[d];
        c.fillStyle = ink("--first");
        c.globalAlpha = 0.45;
        c.fillRect(x(of(d, m - 2 * s)), y - 4, Math.max(1, x(of(d, m + 2 * s)) - x(of(d, m - 2 * s))), 8);
        c.globalAlpha = 1;
        c.fillRect(x(of(d, m)) - 1, y - 6, 2, 12);
      }
      c.fillStyle = ink("--ink");
      c.beginPath();
      c.arc(x(of(d, value[d])), y, 2.4, 0, 7);
      c.fill();
    });
    c.fillStyle = ink("--muted");
    c.textAlign = "center";
    for (const v of [-2, 0, 2]) c.fillText(v ? `${v > 0 ? "+" : "−"}2` : "prior", x(v), h - 6);
    c.textAlign = "left";
  });
}

/** A mixture for each number of z: every Gaussian is a bar of two deviations, as dark as its weight; a line where z is. */
export function mixture(label, { weight, mean, std }, order, value) {
  const state = { weight, mean, std, value };
  const drawing = new Drawing(label, 190, (c, w, h, ink) => {
    const { weight, mean, std, value } = state;
    const seen = [];
    weight.forEach((row, k) => row.forEach((p, d) => p > 0.02 && seen.push(mean[k][d] - std[k][d], mean[k][d] + std[k][d])));
    const all = value ? seen.concat(value) : seen;
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const y = (v) => 8 + (1 - (v - low) / (high - low || 1)) * (h - 28);
    const cw = (w - 26) / order.length;
    c.fillStyle = ink("--muted");
    c.textBaseline = "middle";
    for (const v of ticks(low, high)) {
      c.fillStyle = ink("--line");
      c.fillRect(26, Math.round(y(v)), w - 26, 1);
      c.fillStyle = ink("--muted");
      c.fillText(String(v), 0, y(v));
    }
    order.forEach((d, i) => {
      const at = 26 + i * cw;
      c.fillStyle = ink("--second");
      weight.forEach((row, k) => {
        c.globalAlpha = Math.min(0.9, 0.08 + 0.6 * row[d]);
        if (row[d] < 0.02) return;
        c.fillRect(at + cw * 0.18, y(mean[k][d] + std[k][d]), cw * 0.64, Math.max(1, y(mean[k][d] - std[k][d]) - y(mean[k][d] + std[k][d])));
      });
      c.globalAlpha = 1;
      weight.forEach((row, k) => row[d] >= 0.02 && c.fillRect(at + cw * 0.18, y(mean[k][d]) - 0.75, cw * 0.64, 1.5));
      if (value) {
        c.fillStyle = ink("--ink");
        c.fillRect(at + 1, y(value[d]) - 1, cw - 2, 2);
      }
      if (cw > 13 || i % 4 === 0) {
        c.fillStyle = ink("--muted");
        c.textAlign = "center";
        c.fillText(String(d + 1), at + cw / 2, h - 7);
        c.textAlign = "left";
      }
    });
  });
  drawing.update = (next) => {
    Object.assign(state, next);
    drawing.later();
  };
  return drawing;
}

function ticks(low, high) {
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find((s) => (high - low) / s <= 5) ?? high - low;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(Number(v.toFixed(3)));
  return found;
}
