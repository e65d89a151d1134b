// Where the dream begins: stored frames as small pictures, or a fresh reset.
import { get, link } from "../api.js";
import { el, figure, put } from "../dom.js";

export class Starts {
  constructor(play) {
    Object.assign(this, { play, starts: [], nodes: new Map() });
    this.strip = el("div", { class: "strip", role: "group", "aria-label": "Stored frames to start from" });
    this.seed = el("input", { type: "number", min: 0, max: 2147483647, step: 1, value: 0, "aria-label": "Seed of the fresh reset" });
    const reset = el("button", { type: "button", onclick: () => this.reset() }, "Fresh reset");
    this.where = el("p", { class: "muted small" });
    this.steps = el("select", { "aria-label": "Checkpoint", onchange: () => play.change(this.steps.value ? Number(this.steps.value) : null) });
    this.choice = el("label", { class: "row small muted", hidden: true }, "Checkpoint", this.steps);
    this.node = el("section", { "aria-label": "Where the dream begins" },
      el("div", { class: "row between" }, el("h2", {}, "Start from"), el("div", { class: "row" }, this.choice, el("label", { class: "row small muted" }, "Seed", this.seed), reset)),
      this.strip, this.where);
  }

  /** The checkpoints that are kept; where there is but one, nothing is to be chosen. */
  async offer(signal) {
    const { checkpoints } = await get(`run/${this.play.run}`, {}, signal).catch(() => ({ checkpoints: [] }));
    const now = this.play.checkpoint;
    const option = (value, text) => el("option", { value: value ?? "", selected: value === now }, text);
    put(this.steps, option(null, "the newest"), checkpoints.toReversed().map((step) => option(step, step.toLocaleString("en"))));
    this.choice.hidden = checkpoints.length < 2;
  }

  async load(signal) {
    put(this.strip, Array.from({ length: 8 }, () => el("span", { class: "thumb ghost", "aria-hidden": "true" })));
    try {
      const { starts, pictures, checkpoint } = await get(`starts/${this.play.run}`, { checkpoint: this.play.checkpoint }, signal);
      this.starts = starts;
      this.nodes.clear();
      put(this.strip, starts.map((s) => {
        const text = s.step ? `step ${figure(s.step)} of ${figure(s.of)}` : "first frame";
        const picture = pictures ? el("img", { src: link(`frame/${this.play.run}`, { row: s.row, checkpoint }), alt: "", loading: "lazy", class: "pixels" }) : null;
        const node = el("button", { type: "button", class: "thumb", "aria-pressed": "false", "aria-label": `Episode ${s.episode}, ${text}`, onclick: () => this.play.begin({ kind: "row", row: s.row }) },
          picture, el("b", {}, `Episode ${figure(s.episode)}`), el("span", { class: "muted" }, text));
        this.nodes.set(s.row, node);
        return node;
      }));
      if (!starts.length) put(this.strip, el("p", { class: "muted" }, "This run holds no rows; start from a fresh reset."));
      this.mark(this.play.start);
    } catch (error) {
      if (signal.aborted) return;
      put(this.strip, el("p", { class: "muted" }, error.message));
    }
  }

  reset() {
    this.play.begin({ kind: "reset", seed: Math.max(0, Math.floor(Number(this.seed.value) || 0)) });
    this.seed.value = Number(this.seed.value) + 1;
  }

  /** Any other stored frame, or a reset where there is none. */
  surprise() {
    const others = this.starts.filter((s) => s.row !== this.play.start.row);
    if (others.length) this.play.begin({ kind: "row", row: others[Math.floor(Math.random() * others.length)].row });
    else this.reset();
  }

  mark(start) {
    for (const [row, node] of this.nodes) node.setAttribute("aria-pressed", start.kind === "row" && start.row === row);
    const known = this.starts.find((s) => s.row === start.row);
    this.where.textContent = start.kind === "reset" ? `From a fresh reset with seed ${start.seed}.` : start.kind === "row" && !known ? `From row ${figure(start.row)} of the replay.` : "";
  }
}
