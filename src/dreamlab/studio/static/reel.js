// The frames of one episode: fetched many at a time as sheets, drawn one at a time without asking again.
import { link } from "./api.js";
import { figure } from "./dom.js";
import { drawing } from "./play/drawings.js";

export const COLUMNS = 16;
export const FRAMES = 128;

/** Reel({run, episode, checkpoint, length, size: [h, w]}): draw(canvas, kind, at) paints a frame as soon as it is here. */
export class Reel {
  constructor(of) {
    Object.assign(this, of);
    this.sheets = {};
    this.wanted = new Map();
  }

  /** The sheet that holds a frame; `ready` hears of it. */
  sheet(kind, at) {
    const n = Math.floor(at / FRAMES);
    const key = `${kind} ${n}`;
    if (!this.sheets[key]) {
      const image = new Image();
      const found = (this.sheets[key] = { image, here: false, failed: false });
      image.onload = () => {
        found.here = true;
        for (const [canvas, want] of this.wanted) if (want.kind === kind && Math.floor(want.at / FRAMES) === n) this.draw(canvas, kind, want.at);
        this.onready?.(kind, n);
      };
      image.onerror = () => (found.failed = true);
      image.src = link(`strip/${this.run}`, { episode: this.episode, start: n * FRAMES, count: FRAMES, kind, checkpoint: this.checkpoint, v: this.version });
    }
    return this.sheets[key];
  }

  /** Whether it could be painted at once. */
  draw(canvas, kind, at) {
    const found = this.sheet(kind, at);
    this.wanted.set(canvas, { kind, at });
    if (!found.here) return false;
    const [h, w] = this.size;
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const i = at % FRAMES;
    const across = Math.min(COLUMNS, Math.min(FRAMES, this.length - Math.floor(at / FRAMES) * FRAMES));
    canvas.getContext("2d").drawImage(found.image, (i % across) * w, Math.floor(i / across) * h, w, h, 0, 0, w, h);
    return true;
  }

  /** Have the next sheet fetched before it is needed. */
  ahead(kind, at) {
    const next = (Math.floor(at / FRAMES) + 1) * FRAMES;
    if (next < this.length && at % FRAMES > FRAMES / 2) this.sheet(kind, next);
  }
}

/** The same for an environment that shows numbers alone, where there is a drawing of it; null where there is none.
 *  vector(kind, at): the numbers, undefined where they are not known yet. */
export function drawnReel(info, vector) {
  if (info.pictures || !info.vector) return null;
  const draw = drawing(info.env, info.space.vector ?? []);
  if (!draw) return null;
  const paint = (canvas, numbers) => {
    canvas.classList.add("drawn");
    draw(canvas, numbers);
  };
  return {
    size: draw.size,
    paint,
    draw(canvas, kind, at) {
      const numbers = vector(kind, at);
      if (numbers) paint(canvas, numbers);
      return Boolean(numbers);
    },
    ahead() {},
  };
}

/** An action in words: "left", or "steer left 0.31, gas 0.5". */
export function action(act, space) {
  if (act === null || act === undefined) return "–";
  if (!Array.isArray(act)) return space.names?.[act] ?? `action ${act}`;
  if (space.kind === "several") return act.map((a, i) => `${i + 1}: ${a}`).join(", ");
  const told = act.map((a, i) => {
    const name = space.axes?.[i]?.[a >= 0 ? 1 : 0];
    return Math.abs(a) < 0.005 ? null : name ? `${name} ${Math.abs(a).toFixed(2)}` : a.toFixed(2);
  });
  const some = told.filter(Boolean);
  return space.axes ? some.join(", ") || "nothing" : act.map((a) => a.toFixed(2)).join(", ");
}

/** A model's number: as figure tells it, but no more digits than mean something. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return Math.abs(value) < 1 ? String(Number(value.toFixed(3))).replace(/^-0$/, "0") : figure(Number(value.toPrecision(3)));
}
