// A live trace: the newest values of a stream, drawn from left to right on a small canvas.
import { figure } from "./dom.js";
import { el } from "./dom.js";

/** Trace(name, {length, colour, zero, low, high}).node is put in the page; push(value) adds one, clear() empties it. */
export class Trace {
  constructor(name, { length = 240, colour = "--first", zero = false, low = null, high = null, format = figure } = {}) {
    Object.assign(this, { length, colour, zero, low, high, format, values: [] });
    this.canvas = el("canvas", { role: "img", "aria-label": `${name}, live` });
    this.now = el("output", {}, "–");
    this.node = el("figure", { class: "trace" }, el("figcaption", {}, el("b", {}, name), this.now), this.canvas);
  }

  push(value) {
    this.values.push(value);
    if (this.values.length > this.length) this.values.shift();
    this.now.textContent = this.format(value);
    if (!this.waiting) this.waiting = requestAnimationFrame(() => this.draw());
  }

  clear() {
    this.values = [];
    this.now.textContent = "–";
    this.draw();
  }

  draw() {
    this.waiting = 0;
    const { canvas, values } = this;
    const ratio = devicePixelRatio || 1;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    if (!w) return;
    if (canvas.width !== Math.round(w * ratio)) [canvas.width, canvas.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    const style = getComputedStyle(canvas);
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    const known = values.filter(Number.isFinite);
    let low = this.low ?? Math.min(...known, this.zero ? 0 : Infinity);
    let high = this.high ?? Math.max(...known, this.zero ? 0 : -Infinity);
    if (!(high > low)) [low, high] = [(Number.isFinite(low) ? low : 0) - 1, (Number.isFinite(high) ? high : 0) + 1];
    const x = (i) => 1 + (i / (this.length - 1)) * (w - 2);
    const y = (v) => h - 3 - ((v - low) / (high - low)) * (h - 6);
    if (low <= 0 && high >= 0) {
      c.strokeStyle = style.getPropertyValue("--line");
      c.beginPath();
      c.moveTo(0, y(0));
      c.lineTo(w, y(0));
      c.stroke();
    }
    c.strokeStyle = style.getPropertyValue(this.colour);
    c.lineWidth = 1.5;
    c.lineJoin = "round";
    c.beginPath();
    let pen = false;
    values.forEach((v, i) => {
      if (!Number.isFinite(v)) return void (pen = false);
      pen ? c.lineTo(x(i), y(v)) : c.moveTo(x(i), y(v));
      pen = true;
    });
    c.stroke();
  }
}
