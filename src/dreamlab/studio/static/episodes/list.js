// The list of episodes: those that are stored, and those that were evaluated, which are played once more.
import { get } from "../api.js";
import { el, figure, notice, put } from "../dom.js";

const PAGE = 40;
export const WIDE = matchMedia("(min-width: 1000px)");

/** List(run, signal, choose): choose({episode, checkpoint, words}, at) opens one. */
export class List {
  constructor(run, signal, choose) {
    Object.assign(this, { run, signal, choose, kind: "stored", page: 0, marked: null, busy: false });
    this.summary = el("summary", {}, "Choose an episode");
    this.tabs = el("div", { class: "ep-kinds", role: "group", "aria-label": "Which episodes" });
    this.body = el("div", { class: "ep-list" });
    this.pager = el("div", { class: "row between ep-pager" });
    this.node = el("details", { class: "card ep-pick" }, this.summary, this.tabs, this.body, this.pager);
    const wide = () => (this.node.open = WIDE.matches);
    wide();
    WIDE.addEventListener("change", wide, { signal });
  }

  async load(checkpoint, page) {
    this.checkpoint = checkpoint;
    this.found = await get(`episodes/${this.run}`, { checkpoint, page, count: PAGE }, this.signal);
    this.page = page;
    this.show();
    return this.found;
  }

  show() {
    const { found } = this;
    const scored = found.evaluated.reduce((sum, s) => sum + s.episodes, 0);
    const tab = (kind, text, n) =>
      el("button", { type: "button", "aria-pressed": String(this.kind === kind), onclick: () => ((this.kind = kind), this.show()) }, text, el("small", {}, n.toLocaleString("en")));
    put(this.tabs, tab("stored", "Stored", found.total), tab("evaluated", "Evaluated", scored));
    this.kind === "stored" ? this.stored() : this.evaluated();
    this.mark(this.marked);
  }

  stored() {
    const { episodes, total, why } = this.found;
    const returns = episodes.map((e) => e.return);
    const [low, high] = [Math.min(0, ...returns), Math.max(0, ...returns)];
    put(
      this.body,
      episodes.length ? null : el("p", { class: "muted" }, why ?? "No rows are stored yet."),
      episodes.map((e) => item(e.episode, `Episode ${(e.number + 1).toLocaleString("en")}`, e.return, e.whole ? `${e.length} steps` : `${e.length} steps, unfinished`, share(e.return, low, high), () => this.choose({ episode: e.episode }, 0))),
    );
    const pages = Math.max(1, Math.ceil(total / PAGE));
    const go = (page) => this.load(this.checkpoint, page).catch((error) => notice(error.message, "error"));
    put(
      this.pager,
      pages > 1 && [
        el("button", { type: "button", class: "quiet", disabled: this.page === 0, onclick: () => go(this.page - 1) }, "Newer"),
        el("span", { class: "muted num" }, `${this.page + 1} of ${pages}`),
        el("button", { type: "button", class: "quiet", disabled: this.page >= pages - 1, onclick: () => go(this.page + 1) }, "Older"),
      ],
    );
  }

  evaluated() {
    const { evaluated } = this.found;
    put(this.pager);
    put(
      this.body,
      evaluated.length ? el("p", { class: "muted ep-note" }, "These are played again from their seeds, by the checkpoint that was scored.") : el("p", { class: "muted" }, "This run has not been evaluated yet."),
      evaluated.map((score, n) => {
        const [low, high] = [Math.min(0, ...score.returns), Math.max(0, ...score.returns)];
        const head = el("summary", {}, el("b", {}, `Step ${(score.checkpoint ?? 0).toLocaleString("en")}`), el("span", { class: "muted num" }, `mean ${figure(score.mean)} of ${score.episodes}`));
        const rows = () =>
          score.why
            ? el("p", { class: "muted ep-note" }, `${score.why[0].toUpperCase()}${score.why.slice(1)}.`)
            : score.returns.map((ret, i) => item(`${score.file}:${i}`, `Seed ${i + 1}`, ret, `${score.lengths[i]} steps`, share(ret, low, high), () => this.again(score.file, i, 0)));
        return el("details", { class: "ep-score", open: n === 0 }, head, rows());
      }),
    );
  }

  mark(key) {
    this.marked = key;
    for (const node of this.body.querySelectorAll("button[data-key]")) {
      const here = node.dataset.key === key;
      node.setAttribute("aria-pressed", String(here));
      if (here) this.summary.textContent = `${node.querySelector("b").textContent}, return ${node.querySelector("output").textContent}: choose another`;
      const { body } = this;
      if (here && (node.offsetTop < body.scrollTop || node.offsetTop + node.offsetHeight > body.scrollTop + body.clientHeight)) body.scrollTop = node.offsetTop - body.clientHeight / 2;
    }
  }

  /** Have an evaluated episode played once more, then open it. */
  async again(file, index, at) {
    if (this.busy) return;
    this.busy = true;
    const node = [...this.body.querySelectorAll("button[data-key]")].find((b) => b.dataset.key === `${file}:${index}`);
    const told = node?.querySelector("small");
    try {
      for (;;) {
        const now = await get(`evaluated/${this.run}`, { file, index }, this.signal);
        if (now.done) {
          if (told) told.textContent = `${now.steps} steps`;
          const words = [`Played again: it returned ${figure(now.return)}, as when it was scored.`];
          if (now.told.length) words.splice(0, 1, ...now.told.map((word) => `Played again: ${word}.`));
          await this.choose({ episode: now.episode, checkpoint: now.checkpoint, words }, at);
          return;
        }
        if (told) told.textContent = `playing, ${now.steps} steps`;
      }
    } catch (error) {
      if (!this.signal.aborted) notice(error.message, "error");
    } finally {
      this.busy = false;
    }
  }
}

const share = (value, low, high) => (high > low ? [(Math.min(value, 0) - low) / (high - low), Math.abs(value) / (high - low)] : [0, 0]);

function item(key, name, ret, words, [from, size], choose) {
  const bar = el("i", { class: "ep-bar" }, el("i", { style: { left: `${from * 100}%`, width: `${Math.max(size * 100, 0.8)}%` } }));
  return el("button", { type: "button", class: "ep-item", dataset: { key }, onclick: choose }, el("b", {}, name), el("output", {}, figure(ret)), el("small", {}, words), bar);
}
