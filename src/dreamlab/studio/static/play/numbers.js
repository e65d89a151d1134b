// What the dream says beside its picture: return, step, reward and continuation as traces, the error, the numbers seen.
import { el, figure, put } from "../dom.js";
import { Trace } from "../trace.js";

export class Numbers {
  constructor() {
    this.ret = el("dd", {}, "–");
    this.step = el("dd", {}, "–");
    this.rate = el("dd", {}, "–");
    this.rew = new Trace("Reward", { colour: "--first", zero: true });
    this.con = new Trace("Goes on", { colour: "--third", low: 0, high: 1, format: (v) => (v === null ? "–" : `${Math.round(100 * v)}%`) });
    this.error = new Trace("Apart from reality", { colour: "--second", zero: true, format: figure });
    this.vector = el("div", { class: "vector" });
    this.why = el("p", { class: "muted small" });
    this.node = el("section", { class: "stack", "aria-label": "Numbers" },
      el("dl", { class: "facts" }, [["Return", this.ret], ["Step", this.step], ["Frames a second", this.rate]].map(([name, dd]) => el("div", {}, el("dt", {}, name), dd))),
      this.rew.node, this.con.node, this.error.node, this.vector, this.why);
  }

  show(ready, reality) {
    for (const trace of [this.rew, this.con, this.error]) trace.clear();
    this.rew.node.hidden = !ready.can.rew;
    this.con.node.hidden = !ready.can.con;
    this.error.node.hidden = !reality;
    const missing = [ready.can.why.rew, ready.can.why.con].filter(Boolean);
    this.why.textContent = missing.join(" ");
    this.bars = ready.vector.map((name) => new Bar(name));
    put(this.vector, this.bars.length ? el("h3", {}, "What is seen: dream, and reality") : null, this.bars.map((bar) => bar.node));
    this.ret.textContent = this.step.textContent = this.rate.textContent = "–";
  }

  push(head, ready, steady) {
    this.ret.textContent = ready.can.rew ? figure(head.ret) : "–";
    this.step.textContent = figure(head.tick);
    this.rate.textContent = steady && head.rate ? figure(Math.round(head.rate * 10) / 10) : "–";
    if (head.tick) {
      if (head.rew !== null) this.rew.push(head.rew);
      if (head.con !== null) this.con.push(head.con);
    }
    if (head.error !== undefined && head.error !== null) {
      this.error.node.hidden = false;
      this.error.push(head.error);
    }
    if (head.vector) this.bars?.forEach((bar, i) => bar.set(head.vector.dream[i], head.vector.real ? head.vector.real[i] : null));
  }
}

/** One number, with a line from the middle for the dream and a mark for reality; as wide as the largest seen so far. */
class Bar {
  constructor(name) {
    this.most = 1e-6;
    this.dream = el("i", { class: "bar-dream" });
    this.real = el("i", { class: "bar-real" });
    this.value = el("output", {}, "–");
    this.node = el("div", { class: "bar-row" }, el("span", {}, name), el("div", { class: "bar-track" }, this.dream, this.real), this.value);
  }

  set(dream, real) {
    this.most = Math.max(this.most, Math.abs(dream ?? 0), Math.abs(real ?? 0));
    const share = (v) => (50 * (v ?? 0)) / this.most;
    const at = share(dream);
    this.dream.style.setProperty("left", `${50 + Math.min(0, at)}%`);
    this.dream.style.setProperty("width", `${Math.abs(at)}%`);
    this.real.hidden = real === null;
    this.real.style.setProperty("left", `${50 + share(real)}%`);
    this.value.textContent = dream === null ? "–" : dream.toFixed(2);
  }
}
