// Episodes: a list of those that are stored and those that were evaluated, and one of them frame by frame.
import { hash } from "../app.js";
import { get } from "../api.js";
import { LineChart } from "../chart.js";
import { el, figure, put } from "../dom.js";
import { List, WIDE } from "../episodes/list.js";
import { Reel, action, drawnReel, number } from "../reel.js";

const CHUNK = 128;

export async function mount(root, { run, params, signal }) {
  const title = el("h1", {}, "Episodes");
  const about = el("p", { class: "muted", role: "status" }, "Opening the run");
  const list = new List(run, signal, (what, at) => open(what, at));
  const viewer = new Viewer(run, signal);
  put(root, el("header", { class: "ep-head" }, title, about), el("div", { class: "ep" }, list.node, viewer.node));
  const checkpoint = params.get("checkpoint");

  async function open(what, at = 0) {
    list.mark(what.episode ?? String(what.row));
    if (!WIDE.matches) list.node.open = false;
    await viewer.open({ ...what, checkpoint: what.checkpoint ?? checkpoint }, at);
    if (viewer.info) list.mark(viewer.info.episode);
  }

  const found = await list.load(checkpoint, 0);
  if (signal.aborted) return;
  about.textContent = `${found.agent} · ${found.env} · checkpoint ${found.checkpoint.toLocaleString("en")}`;
  const at = Number(params.get("at") ?? 0);
  const asked = params.get("episode");
  if (params.get("row")) await open({ row: params.get("row") }, null);
  else if (asked && /^\d+$/.test(asked)) await open({ episode: asked }, at);
  else if (asked?.includes(":")) await list.again(asked.slice(0, asked.lastIndexOf(":")), Number(asked.slice(asked.lastIndexOf(":") + 1)), at);
  else {
    const first = found.episodes.find((e) => e.whole) ?? found.episodes[0];
    if (first) await open({ episode: first.episode });
    else viewer.nothing(found.why ?? "There are no rows yet. They appear with the first checkpoint.");
  }
}

// -- one episode --------------------------------------------------------------------------------------------------

class Viewer {
  constructor(run, signal) {
    Object.assign(this, { run, signal, at: 0, info: null, playing: false, opening: 0 });
    this.real = el("canvas", { class: "pixels", role: "img", "aria-label": "The frame" });
    this.seen = el("canvas", { class: "pixels", role: "img", "aria-label": "What the model makes of it" });
    this.note = el("p", { class: "muted ep-reading" }, "Reading");
    this.second = el("figure", {}, el("figcaption", {}, "The model's picture"), el("div", { class: "ep-well" }, this.seen, this.note));
    this.screens = el("div", { class: "ep-screens" }, el("figure", {}, el("figcaption", {}, "What was seen"), el("div", { class: "ep-well" }, this.real)), this.second);
    this.slider = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Row of the episode", oninput: () => this.go(Number(this.slider.value)) });
    const step = (by, name, text) => el("button", { type: "button", "aria-label": name, title: name, onclick: () => this.go(by === null ? 0 : this.at + by) }, text);
    this.toggle = el("button", { type: "button", class: "ep-play", onclick: () => this.play(!this.playing) }, "Play");
    this.fps = el("select", { "aria-label": "Frames a second" }, [4, 12, 25, 60].map((n) => el("option", { value: n, selected: n === 12 }, `${n} a second`)));
    this.place = el("span", { class: "muted num ep-place" });
    this.toPlay = el("a", { class: "button main" }, "Play from here");
    this.toInside = el("a", { class: "button" }, "Look inside");
    const controls = el("div", { class: "row ep-controls" }, step(-1, "One back", "‹"), this.toggle, step(1, "One on", "›"), this.fps, this.place, el("span", { class: "ep-links row" }, this.toInside, this.toPlay));
    this.facts = el("dl", { class: "facts ep-facts" });
    this.charts = el("div", { class: "ep-charts" });
    this.words = el("p", { class: "muted ep-words", hidden: true });
    this.empty = el("section", { class: "card ep-empty", hidden: true });
    this.card = el("section", { class: "card stack", "aria-label": "The episode" }, this.screens, this.slider, controls, this.words, this.facts);
    this.node = el("div", { class: "stack ep-view" }, this.empty, this.card, this.charts);
    this.nothing("");
    addEventListener("keydown", (event) => this.press(event), { signal });
    signal.addEventListener("abort", () => this.play(false));
    this.plots = [];
  }

  nothing(text) {
    this.card.hidden = this.charts.hidden = true;
    this.empty.hidden = false;
    put(this.empty, el("p", { class: "muted" }, text));
  }

  async open(what, at) {
    this.play(false);
    const mine = ++this.opening;
    this.reads?.abort();
    this.reads = new AbortController();
    const { signal } = this.reads;
    this.signal.addEventListener("abort", () => this.reads.abort(), { once: true });
    let info;
    try {
      info = await get(`episode/${this.run}`, { episode: what.episode, row: what.row, checkpoint: what.checkpoint }, this.signal);
    } catch (error) {
      if (!this.signal.aborted && mine === this.opening) this.nothing(error.message);
      return;
    }
    this.seenVector = [];
    const seen = this.seenVector;
    const drawn = drawnReel(info, (kind, at) => (kind === "real" ? info.vector : seen)[at]);
    if (mine !== this.opening) return;
    this.info = info;
    this.checkpoint = what.checkpoint ?? null;
    this.words.hidden = !what.words;
    put(this.words, what.words?.join(" "));
    this.card.hidden = this.charts.hidden = false;
    this.empty.hidden = true;
    const { pictures, model, length } = info;
    this.reel = drawn ?? (pictures && new Reel({ run: this.run, episode: info.episode, checkpoint: this.checkpoint, length, size: pictures, version: info.checkpoint }));
    if (this.reel) this.reel.onready = () => mine === this.opening && this.show();
    this.screens.hidden = !this.reel;
    if (this.reel) for (const canvas of [this.real, this.seen]) [canvas.width, canvas.height] = [this.reel.size[1], this.reel.size[0]];
    this.second.hidden = !model;
    this.screens.classList.toggle("alone", !model);
    this.slider.max = length - 1;
    let sum = 0;
    this.sums = info.rew.map((r) => (sum += r ?? 0));
    this.series = {};
    this.draw();
    this.go(Math.min(at ?? info.at, length - 1));
    if (model || info.judges) this.read(signal);
  }

  /** What the model says of every row, a stretch at a time; the charts grow. */
  async read(signal) {
    const { info } = this;
    try {
      for (let start = 0; start < info.length; start += CHUNK) {
        const got = await get(`read/${this.run}`, { episode: info.episode, start, count: CHUNK, checkpoint: this.checkpoint }, signal);
        if (signal.aborted) return;
        for (const [key, values] of Object.entries(got.series)) this.series[key] = [...(this.series[key] ?? []), ...values];
        if (got.vector) this.seenVector.push(...got.vector);
        this.fill();
        this.show();
      }
    } catch (error) {
      if (!signal.aborted) this.note.textContent = error.message;
    }
  }

  // ---- charts

  draw() {
    const { info } = this;
    this.plots = [];
    const plot = (title, words, make, height = 150) => {
      const node = el("div");
      const box = el("section", { class: "card" }, el("header", { class: "ep-chart" }, el("h2", {}, title), el("p", { class: "muted" }, words)), node);
      const chart = new LineChart(node, { series: make(), xLabel: "step", height, empty: "Reading", legend: true, onPick: (x) => this.go(Math.round(x)) });
      this.plots.push({ chart, make });
      return box;
    };
    const line = (name, y, colour) => ({ name, colour, x: y.map((_, i) => i), y });
    const at = (key) => this.series[key] ?? [];
    const boxes = [];
    const foretold = info.foretold.includes("rew");
    boxes.push(
      plot("Reward", foretold ? "what came with each row, and what the model says of it" : "what came with each row", () => [line("came", info.rew, "--first"), ...(foretold ? [line("predicted", at("rew").map((v, i) => (i ? v : null)), "--second")] : [])]),
    );
    if (info.vector) {
      const width = info.vector[0]?.length ?? 0;
      const names = info.space.vector ?? [];
      for (let d = 0; d < width; d++) {
        const of = () => [line("seen", info.vector.map((row) => row[d]), "--first"), ...(info.model ? [line("the model's", this.seenVector.map((row) => row[d]), "--second")] : [])];
        boxes.push(plot(names[d] ?? `Number ${d + 1}`, "", of, 120));
      }
    }
    this.said = [
      ["value", plot("Value", "what the critic expects still to come", () => [line("value", at("value"), "--third")])],
      ["kl", plot("Surprise", "what seeing told the model beyond what it expected", () => [line("KL, nats", at("kl"), "--fourth")])],
    ];
    for (const [, box] of this.said) box.hidden = true; // until it is known that this agent says it
    boxes.push(this.said.map(([, box]) => box));
    put(this.charts, boxes);
  }

  fill() {
    for (const { chart, make } of this.plots) chart.update({ series: make() });
    for (const [key, box] of this.said) box.hidden = !(key in this.series);
  }

  // ---- moving

  go(at) {
    if (!this.info) return;
    this.at = Math.max(0, Math.min(this.info.length - 1, at));
    this.slider.value = this.at;
    this.show();
    clearTimeout(this.keep);
    this.keep = setTimeout(() => {
      if (this.signal.aborted) return;
      const to = hash("episodes", this.run, { episode: this.info.episode, at: this.at || null, checkpoint: /^\d+$/.test(this.info.episode) ? this.checkpoint : null });
      history.replaceState(history.state, "", to);
    }, 300);
  }

  show() {
    const { info, at, series } = this;
    if (this.reel) {
      this.reel.draw(this.real, "real", at);
      this.reel.ahead("real", at);
      if (info.model) {
        const read = (series.rew ?? series.value ?? series.con ?? []).length;
        const here = at < read && this.reel.draw(this.seen, "reconstruction", at);
        this.note.hidden = here;
        this.seen.classList.toggle("faint", !here);
      }
    }
    const last = at === info.length - 1;
    const row = info.first === null ? null : info.first + at * (info.stride ?? 1);
    const value = (key) => (key in series ? series[key][at] : undefined);
    const facts = [
      ["Action", last && info.is_last ? "the episode ends" : action(info.act[at], info.space)],
      ["Reward", figure(info.rew[at])],
      ["Return so far", figure(this.sums[at])],
      info.foretold.includes("rew") && ["Reward predicted", at ? number(value("rew")) : "–"],
      series.value && ["Value", number(value("value"))],
      series.con && ["Chance to go on", at ? percent(value("con")) : "–"],
      series.kl && ["Surprise", value("kl") === undefined ? "–" : `${number(value("kl"))} nats`],
    ].filter(Boolean);
    put(this.facts, facts.map(([name, text], i) => el("div", { class: !i && info.space.kind === "box" ? "wide" : null }, el("dt", {}, name), el("dd", {}, text))));
    this.place.textContent = `${at.toLocaleString("en")} of ${(info.length - 1).toLocaleString("en")}`;
    this.slider.setAttribute("aria-valuetext", `step ${at} of ${info.length - 1}`);
    for (const { chart } of this.plots) chart.update({ markers: [{ x: at }] });
    this.toInside.setAttribute("href", hash("inside", this.run, row === null ? { episode: info.episode, at, checkpoint: this.checkpoint } : { row, checkpoint: this.checkpoint }));
    this.toInside.hidden = !info.model;
    this.toPlay.hidden = row === null || !info.model || (last && info.is_last);
    if (row !== null) this.toPlay.setAttribute("href", hash("play", this.run, { row, checkpoint: this.checkpoint }));
  }

  play(on) {
    this.playing = on;
    this.toggle.textContent = on ? "Pause" : "Play";
    this.toggle.setAttribute("aria-pressed", String(on));
    if (!on) return;
    if (this.at >= this.info.length - 1) this.go(0);
    let due = performance.now();
    const tick = (now) => {
      if (!this.playing || this.signal.aborted) return;
      if (now >= due) {
        if (this.at >= this.info.length - 1) return this.play(false);
        due = Math.max(due + 1000 / Number(this.fps.value), now - 100);
        this.go(this.at + 1);
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  press(event) {
    if (!this.info || event.ctrlKey || event.metaKey || event.altKey) return;
    const on = event.target;
    if (on.closest?.("input, select, textarea, .chart-plot")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) this.go(this.at + by * (event.shiftKey ? 10 : 1));
    else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.info.length - 1);
    else if (event.key === " " && !on.closest?.("button, a, summary")) this.play(!this.playing);
    else return;
    event.preventDefault();
  }
}

const percent = (share) => (share === undefined || share === null ? "–" : share > 0.9995 ? "100 %" : `${(share * 100).toFixed(1)} %`);
