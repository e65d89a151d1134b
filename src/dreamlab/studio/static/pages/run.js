// One run, live: how far it is, what it scores, its curves, what it sees, and how it was set.
import { hash } from "../app.js";
import { every, get, link } from "../api.js";
import { LineChart } from "../chart.js";
import { controls, drawing, groups, options, telling } from "../curves.js";
import { about, ago, el, figure, put, sentence, span } from "../dom.js";

const OPEN = /^(train|train\/loss|controller|vision|memory|eval)$/;
const POINTS = 400;
const FRAMES = 6;

export async function mount(root, { run, signal }) {
  const page = new Page(root, run, signal);
  every(2, async () => page.show(await get(`run/${run}`, {}, signal)), signal, (error) => page.gone(error));
}

/** A place on the page that is drawn anew only where what it says has changed. */
class Part {
  constructor(node) {
    Object.assign(this, { node, said: null });
  }
  show(facts, make) {
    const said = JSON.stringify(facts);
    if (said === this.said) return;
    this.said = said;
    const made = [make()].flat().filter(Boolean);
    this.node.hidden = !made.length;
    put(this.node, made);
  }
}

class Page {
  constructor(root, run, signal) {
    Object.assign(this, { root, run, signal });
    const part = (name, props = {}) => new Part(el(name, { hidden: true, ...props }));
    Object.assign(this, {
      head: part("header", { class: "run-head" }), word: part("div", { class: "run-word", role: "status" }), facts: part("dl", { class: "facts" }), meter: part("div", { class: "run-meter" }),
      scores: part("section"), films: part("section"), pictures: part("section"), settings: part("section"),
    });
    this.frames = new Frames(run, signal);
    this.curves = new Curves(run, signal);
    this.stack = el("div", { class: "stack run-page" },
      this.head.node, this.word.node, el("div", { class: "card run-facts" }, this.meter.node, this.facts.node),
      this.curves.hero, this.frames.node, this.pictures.node, this.films.node, this.curves.node, this.scores.node, this.settings.node);
  }

  show(run) {
    if (this.signal.aborted) return;
    const running = run.state === "running";
    if (!this.seen) put(this.root, this.stack);
    this.seen = true;
    this.head.show([run.state, run.agent, run.env, run.playable, run.why], () => [
      el("div", {}, el("h1", {}, this.run), el("p", { class: "row" }, el("span", { class: `chip ${run.state || ""}` }, run.state || "unknown"), el("span", { class: "muted" }, [run.agent, run.env].filter(Boolean).join(" · ")))),
      el("div", { class: "row" },
        run.playable && el("a", { class: "button main", href: hash("play", this.run) }, "Play in its dream"),
        run.playable && el("a", { class: "button", href: hash("inside", this.run) }, "Look inside"),
        run.checkpoints.length > 0 && el("a", { class: "button", href: hash("episodes", this.run) }, "Episodes"),
        run.mean !== null && el("a", { class: "button quiet", href: hash("compare", "", { run: this.run }) }, "Report")),
    ]);
    const words = [run.problem, ...run.broken.filter((text) => !(run.problem || "").includes(text.split("\n")[0].slice(0, 40)))].filter(Boolean);
    this.word.show([words, run.why], () => [
      ...words.map((text) => el("p", { class: "bad" }, text)),
      !run.playable && !words.includes(run.why) && el("p", { class: "muted" }, `Nobody can play here: ${run.why}.`),
    ]);
    this.progress(run, running);
    this.scored(run);
    this.media(run);
    this.settings.show(run.settings, () => settings(run.settings));
    this.curves.follow(run.phases);
    this.frames.follow(run);
  }

  progress(run, running) {
    const { latest } = run;
    const last = run.phases.at(-1);
    const whole = last && run.step !== null ? Math.min(1, run.step / last.end) : null;
    this.meter.show([run.phases, run.step, run.phase], () => run.phases.length > 0 && [
      el("div", { class: "phases", role: "img", "aria-label": `${run.phase || ""} ${run.done === null ? "" : `${Math.floor(100 * run.done)} percent`}` },
        run.phases.map((phase) => {
          const done = Math.max(0, Math.min(1, ((run.step ?? 0) - phase.begin) / Math.max(1, phase.end - phase.begin)));
          return el("div", { class: "phase", style: { "flex-grow": String(0.15 + Math.sqrt((phase.end - phase.begin) / Math.max(1, last.end))) } }, el("span", { class: "meter" }, el("i", { style: { width: `${100 * done}%` } })), el("span", { class: `label ${phase.name === run.phase ? "here" : ""}`, title: phase.name }, phase.name));
        })),
    ]);
    const rows = [
      ["Phase", run.phase && `${run.phase}${run.done !== null && run.state !== "finished" ? ` ${Math.floor(100 * run.done)}%` : ""}`],
      [run.eta_of === "run" ? "Ends in" : "Next phase in", running && run.eta !== null ? about(run.eta) : null],
      ["Whole run", running && whole !== null && run.phases.length > 1 ? `${Math.floor(100 * whole)}%` : null],
      ["Score", run.mean !== null ? `${figure(run.mean)} ± ${figure(run.std)}` : null],
      ["Last return", run.last_return !== null ? figure(run.last_return) : null],
      ["Environment steps", "run/env_steps" in latest ? figure(latest["run/env_steps"]) : run.step !== null ? figure(run.step) : null],
      ["Updates", "run/updates" in latest ? figure(latest["run/updates"]) : null],
      ["Wall time", run.seconds ? span(run.seconds) : null],
      ["Speed", running && latest["run/steps_per_second"] ? `${figure(latest["run/steps_per_second"])} steps/s` : running && latest["run/updates_per_second"] ? `${figure(latest["run/updates_per_second"])} updates/s` : null],
      ["Memory", latest["run/memory_mib"] ? `${figure(Math.round(latest["run/memory_mib"]))} MiB` : null],
      ["Checkpoints", run.checkpoints.length ? run.checkpoints.map((step) => figure(step)).join(", ") : "none yet"],
      ["Written", running ? null : ago(run.written)],
    ].filter(([, value]) => value);
    this.facts.show(rows, () => rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  scored(run) {
    this.scores.show(run.evaluations, () => run.evaluations.length > 0 && [
      el("h2", {}, "Evaluations"),
      el("div", { class: "card scroll" }, el("table", {},
        el("thead", {}, el("tr", {}, ["Evaluation", "Mean ± std", "Std. error", "Best", "Episodes", "Mean length", "Checkpoint", "Actions"].map((text) => el("th", { scope: "col" }, text)))),
        el("tbody", {}, run.evaluations.map((e) => el("tr", {}, el("th", { scope: "row" }, e.name), [`${figure(e.mean)} ± ${figure(e.std)}`, figure(e.error), figure(e.best), figure(e.episodes), figure(e.length), figure(e.checkpoint), e.policy || "–"].map((text) => el("td", {}, text))))))),
      ...run.evaluations.map((e) => el("details", {}, el("summary", {}, `Protocol of ${e.name}`), el("div", { class: "card" }, pairs(e.protocol)))),
    ]);
  }

  media(run) {
    const source = (file) => link(`media/${this.run}/${file.path}`, { at: file.written });
    const words = (name) => name.replaceAll(/[-_]/g, " ");
    this.pictures.show(run.pictures, () => run.pictures.length > 0 && [
      el("h2", {}, "What the model sees"),
      el("div", { class: "media" }, run.pictures.map((file) => el("figure", { class: "card" }, el("img", { src: source(file), alt: words(file.name), loading: "lazy", onload: (event) => crisp(event.target) }), el("figcaption", {}, el("b", {}, words(file.name)), el("span", {}, ago(file.written)))))),
    ]);
    this.films.show(run.films, () => run.films.length > 0 && [
      el("h2", {}, "Films"),
      el("div", { class: "media" }, run.films.map((file) => el("figure", { class: "card" }, el("video", { src: source(file), controls: true, loop: true, muted: true, playsinline: true, preload: "metadata", "aria-label": words(file.name) }), el("figcaption", {}, el("b", {}, words(file.name)), el("span", {}, file.kind === "dream" ? "dream" : "reality", " · ", ago(file.written)))))),
    ]);
  }

  /** The run cannot be read, now or any more: what was seen of it stays. */
  gone(error) {
    if (!this.seen) return void put(this.root, el("div", { class: "empty" }, el("h1", {}, this.run), el("p", {}, `${sentence(error.message)}.`), el("a", { class: "button", href: "#/" }, "All runs")));
    this.word.show(error.message, () => el("p", { class: "bad" }, `${sentence(error.message)}. What is shown is what was seen last. `, el("a", { href: "#/" }, "All runs")));
  }
}

/** Pictures of few pixels are enlarged without smoothing. */
function crisp(image) {
  if (image.naturalWidth < 700) image.classList.add("pixels");
}

const pairs = (data) => el("dl", { class: "pairs" }, Object.entries(data).map(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]));

function settings(all) {
  const found = Object.entries(all);
  if (!found.length) return null;
  return [el("h2", {}, "Settings"), el("details", {}, el("summary", {}, "All of config.yaml"), el("div", { class: "settings" }, found.map(([name, group]) => el("div", { class: "card" }, el("h3", {}, name), pairs(group)))))];
}

// -- frames: what there was to see, and what the model makes of it ------------------------------------------------------

class Frames {
  constructor(run, signal) {
    Object.assign(this, { run, signal, checkpoint: null });
    this.body = el("div", { class: "frames" });
    this.note = el("span", { class: "muted small" });
    this.node = el("section", { hidden: true }, el("div", { class: "row between" }, el("h2", {}, "Newest frames, and what the model reconstructs"), this.note), this.body);
  }

  /** Once for each checkpoint: what the replay holds by then. */
  follow(run) {
    const newest = run.checkpoints.at(-1);
    if (newest === undefined || newest === this.checkpoint || !run.playable) return;
    const first = this.checkpoint === null;
    this.checkpoint = newest;
    if (first && (run.pictures.length || run.films.length)) this.reserve();
    this.load(newest).catch(() => first && (this.node.hidden = true));
  }

  /** Room for what will come, so that nothing below it jumps. */
  reserve() {
    const wells = Array.from({ length: FRAMES }, () => el("i", { class: "well" }));
    put(this.body, el("span", { class: "side" }, "Seen"), wells, el("span", { class: "side" }, "Model"), wells.map((well) => well.cloneNode()));
    this.node.hidden = false;
  }

  async load(newest) {
    const found = await get(`episodes/${this.run}`, { count: 1 }, this.signal);
    const one = found.episodes?.[0];
    if (this.signal.aborted) return;
    if (!one || !found.pictures) return void (this.node.hidden = true);
    const stride = Math.max(1, Math.floor(one.length / 40));
    const at = Array.from({ length: FRAMES }, (_, i) => one.length - (FRAMES - 1 - i) * stride).filter((i) => i >= 0);
    const picture = (i, kind) => {
      const image = el("img", { class: "pixels", width: found.pictures[1], height: found.pictures[0], alt: `${kind === "real" ? "Frame" : "Reconstruction of frame"} ${i}`, src: link(`frame/${this.run}`, { episode: one.episode, at: i, kind, v: newest }) });
      image.addEventListener("error", () => image.classList.add("missing")); // its place stays
      return image;
    };
    put(this.body, el("span", { class: "side" }, "Seen"), at.map((i) => picture(i, "real")), el("span", { class: "side" }, "Model"), at.map((i) => picture(i, "reconstruction")));
    this.body.style.setProperty("--frames", String(at.length));
    this.note.textContent = `newest episode, at checkpoint ${figure(found.checkpoint)}`;
    this.node.hidden = false;
  }
}

// -- curves ---------------------------------------------------------------------------------------------------------------

class Curves {
  constructor(run, signal) {
    Object.assign(this, { run, signal, shown: new Map(), keys: "", best: null });
    this.body = el("div", { class: "stack" });
    this.note = el("span", { class: "muted small", role: "status" });
    this.first = new Drawn(el("figure", { class: "card" }), 220);
    this.first.chart = new LineChart(this.first.plot, { height: 220 }); // its room is there before its values
    this.first.name.textContent = "\u00a0";
    this.controls = controls((what) => (what === "x" ? this.load() : this.redraw()));
    this.hero = el("section", {}, el("div", { class: "row between run-curves" }, el("div", { class: "row" }, el("h2", {}, "Curves"), this.note), this.controls), this.first.node);
    this.node = el("section", { hidden: true }, el("h2", {}, "All that it measures"), this.body);
    every(3, () => this.load(), signal, (error) => (this.note.textContent = sentence(error.message)));
  }

  follow(phases) {
    this.phases = phases;
  }

  async load() {
    if (!this.keys) this.sort((await get(`curves/${this.run}`, {}, this.signal)).keys);
    if (this.signal.aborted || !this.keys) return;
    await this.first.load(this, [this.best], (key, curve) => this.controls.unfold(curve) || this.first.show(key, key, curve, this));
    for (const group of this.shown.values()) if (group.node.open) await this.fill(group);
  }

  /** One fold for each group of keys. */
  sort(keys) {
    const text = keys.join("\n");
    if (text === this.keys) return;
    this.keys = text;
    this.best = telling(keys);
    this.node.hidden = !keys.length;
    for (const [name, of] of groups(keys)) {
      let group = this.shown.get(name);
      if (!group) {
        group = { name, grid: el("div", { class: "curve-grid" }), once: el("dl", { class: "facts" }), count: el("span", { class: "muted" }), charts: new Map(), source: new Drawn() };
        const open = innerWidth < 760 ? false : OPEN.test(name);
        group.node = el("details", { open, ontoggle: () => group.node.open && this.fill(group) }, el("summary", {}, el("b", {}, name.replaceAll("_", " ").replaceAll("/", " · ")), group.count), group.grid, group.once);
        this.shown.set(name, group);
        this.body.append(group.node);
      }
      group.of = of.filter((key) => key !== this.best); // which is drawn large, above
      group.count.textContent = String(of.length);
      group.source.version = null;
    }
  }

  async fill(group) {
    const single = [];
    const changed = await group.source.load(this, group.of, (key, curve) => {
      const name = key.slice(group.name.length + 1) || key;
      if (curve.x.length < 2 && !group.charts.has(key)) return single.push([name, curve.y[0]]);
      if (!group.charts.has(key)) {
        group.charts.set(key, new Drawn(el("figure", { class: "card" }), 120));
        group.grid.append(group.charts.get(key).node);
      }
      group.charts.get(key).show(key, name, curve, this);
    });
    if (changed) put(group.once, single.map(([name, value]) => el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, figure(value)))));
  }

  /** What was read, in words. */
  tell(told) {
    this.note.textContent = told.sampled ? `From ${figure(told.lines)} sampled lines for now; all are being read` : `${figure(told.lines)} lines`;
  }

  /** Where a phase begins, on the run's own axis. */
  marks() {
    return drawing.x === "step" ? (this.phases || []).slice(1).map((phase) => ({ x: phase.begin, text: "" })) : [];
  }

  redraw() {
    this.first.chart?.update(options());
    for (const { charts } of this.shown.values()) for (const { chart } of charts.values()) chart?.update(options());
  }
}

/** A card with one curve, or what asks for several at once: it remembers how much it has seen. */
class Drawn {
  constructor(node = null, height = 0) {
    Object.assign(this, { node, height, version: null, x: null });
    if (!node) return;
    [this.name, this.last, this.plot] = [el("b", {}), el("output", {}), el("div", { style: { "min-height": `${height}px` } })];
    node.append(el("figcaption", {}, this.name, this.last), this.plot);
  }

  /** Ask for curves; show(key, curve) for each if anything came. */
  async load(of, keys, show) {
    const { x } = drawing;
    const told = await get(`curves/${of.run}`, { key: keys, x, points: POINTS, since: this.x === x ? this.version : null }, of.signal);
    if (of.signal.aborted || x !== drawing.x) return false;
    of.tell(told);
    Object.assign(this, { version: told.version, x });
    if (told.same) return false;
    for (const key of keys) if (told.curves[key]?.x.length) show(key, told.curves[key]);
    of.sort(told.keys);
    return true;
  }

  show(key, name, curve, of) {
    this.name.textContent = this.name.title = name;
    this.last.textContent = figure(curve.y.at(-1));
    const told = { series: [{ name: key, ...curve }], yLabel: key, markers: of.marks(), ...options() };
    if (this.chart) this.chart.update(told);
    else this.chart = new LineChart(this.plot, { ...told, height: this.height });
  }
}
