// Keys and buttons on the screen become acts. `controls` is what the studio says acts in this environment.
//
// A button stands for the same key code as the keyboard's; several may be down at once. Where actions are numbers,
// they move smoothly: a share of the way each tick.

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "Space", ShiftLeft: "Shift" };
const SPOKEN = { ArrowLeft: "left arrow", ArrowRight: "right arrow", ArrowUp: "up arrow", ArrowDown: "down arrow", Space: "space bar", ShiftLeft: "shift" };

/** What is printed on a key. */
export const cap = (code) => NAMES[code] || code.replace(/^(Key|Digit)/, "");
/** What a key is called. */
export const spoken = (code) => SPOKEN[code] || cap(code);

export class Hands {
  /** `send(act, n)` takes an act (null: nothing is pressed); `changed()` is called when other keys are down. */
  constructor(controls, send, changed) {
    Object.assign(this, { controls, send, changed, n: 0, down: new Map(), order: 0, current: null, last: null });
    this.buttons = controls.kind === "choice" ? singles(controls) : controls.buttons.map((b, i) => ({ ...b, code: b.keys[0] || `none:${i}` }));
    this.codes = new Set(this.buttons.map((b) => b.code));
    for (const action of controls.actions || []) for (const code of action.keys) this.codes.add(code);
    if (controls.kind === "axes") this.current = [...controls.rest];
    this.beat = setInterval(() => this.down.size && this.send(this.last, this.n), 500);
  }

  press(code) {
    if (!this.codes.has(code) || this.down.has(code)) return;
    this.down.set(code, ++this.order);
    this.act(true);
  }

  release(code) {
    if (this.down.delete(code)) this.act(true);
  }

  releaseAll() {
    if (!this.down.size) return;
    this.down.clear();
    this.act(true);
  }

  /** A picture has come: numbers move on towards where the keys want them. */
  tick() {
    if (this.controls.kind === "axes" && this.moving()) this.act(false);
  }

  end() {
    clearInterval(this.beat);
  }

  /** The keys of an act, whoever did it: code -> how far it is pressed, from 0 to 1. */
  levels(act) {
    const levels = new Map();
    if (act === null || act === undefined) return levels;
    if (this.controls.kind === "choice") {
      const action = this.controls.actions[act];
      const single = this.buttons.find((b) => b.act === act);
      for (const code of action?.keys.length ? action.keys : single ? [single.code] : []) levels.set(code, 1);
      return levels;
    }
    const { rest } = this.controls;
    for (const b of this.buttons) {
      const whole = b.value - rest[b.axis];
      const level = this.controls.whole ? Number(act[b.axis] === b.value) : whole ? (act[b.axis] - rest[b.axis]) / whole : 0;
      if (level > 0.02) levels.set(b.code, Math.min(1, level));
    }
    return levels;
  }

  act(pressed) {
    this.last = this.controls.kind === "choice" ? this.choice() : this.numbers();
    this.send(this.last, ++this.n);
    if (pressed) this.changed();
  }

  /** The action that needs most of the keys that are down; of equals the one whose key came last. */
  choice() {
    let best = null;
    let rank = [0, 0];
    const none = this.buttons.filter((b) => this.down.has(b.code) && b.code.startsWith("none:"));
    for (const a of [...this.controls.actions, ...none.map((b) => ({ act: b.act, keys: [b.code] }))]) {
      if (!a.keys.length || !a.keys.every((code) => this.down.has(code))) continue;
      const newest = Math.max(...a.keys.map((code) => this.down.get(code)));
      if (a.keys.length > rank[0] || (a.keys.length === rank[0] && newest > rank[1])) [best, rank] = [a.act, [a.keys.length, newest]];
    }
    return best;
  }

  goal() {
    const goal = [...this.controls.rest];
    const seen = new Map();
    for (const b of this.buttons) {
      if (!this.down.has(b.code)) continue;
      goal[b.axis] = seen.has(b.axis) && !this.controls.whole ? this.controls.rest[b.axis] : b.value; // both ends: neither
      seen.set(b.axis, true);
    }
    return goal;
  }

  moving() {
    return this.goal().some((value, i) => Math.abs(value - this.current[i]) > 1e-6);
  }

  numbers() {
    const { smooth, low, high } = this.controls;
    this.current = this.goal().map((value, i) => {
      const next = this.current[i] + smooth * (value - this.current[i]);
      return Math.abs(value - next) < 0.03 * (high[i] - low[i]) ? value : Math.round(next * 1e4) / 1e4;
    });
    return [...this.current];
  }
}

/** Actions that one key does, each as a button, and those that no key was left for. */
function singles(controls) {
  return controls.actions
    .filter((a) => a.keys.length === 1 || (!a.keys.length && a.act !== controls.rest))
    .map((a) => ({ name: a.name, act: a.act, keys: a.keys, code: a.keys[0] || `none:${a.act}` }));
}
