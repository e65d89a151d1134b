// All runs, live: how far each is and what it scores; those that are ticked lay their curves over one another.
import { hash } from "../app.js";
import { every, get } from "../api.js";
import { LineChart, look } from "../chart.js";
import { controls, groups, options, telling, drawing } from "../curves.js";
import { about, ago, el, figure, notice, put } from "../dom.js";
import { spark } from "../spark.js";

const SORTS = {
  newest: ["Newest first", (a, b) => (b.state === "running") - (a.state === "running") || b.written - a.written],
  name: ["Name", (a, b) => a.run.localeCompare(b.run, "en", { numeric: true })],
  score: ["Best score", (a, b) => rank(b.mean ?? b.last_return) - rank(a.mean ?? a.last_return)],
  steps: ["Most steps", (a, b) => rank(b.step) - rank(a.step)],
  env: ["Environment", (a, b) => (a.env || "").localeCompare(b.env || "") || (a.agent || "").localeCompare(b.agent || "")],
};
const STATES = ["running", "finished", "stopped", "failed", "published"];
const OWN = "";
const rank = (value) => (value === null || value === undefined ? -Infinity : value);
// What was chosen stays while one looks at a run and comes back.
const chosen = { text: "", agent: "", env: "", state: "", sort: "newest", ticked: new Set(), key: OWN, folded: innerWidth < 760 };

export async function mount(root, { signal, go }) {
  const page = new Page(root, go, signal);
  let told = false;
  every(2, async () => {
    for (let again = true; again && !signal.aborted; ) {
      const { root: folder, runs } = await get("runs", {}, signal);
      if (signal.aborted) return;
      page.show(folder, runs);
      told = false;
      again = runs.some((run) => run.pending); // of very many runs, some are read for the next answer
    }
  }, signal, (error) => !told && (told = true) && notice(error.message, "error"));
}

class Page {
  constructor(root, go, signal) {
    Object.assign(this, { root, go, signal, rows: new Map(), runs: null, order: [] });
    this.count = el("p", { class: "muted", role: "status" }, " ");
    this.body = el("tbody");
    this.nothing = el("div", { class: "empty", hidden: true });
    const head = ["", "Run", "State", "Progress", "Score", "Returns", "Written", ""];
    this.table = el("table", { class: "runs" }, el("thead", {}, el("tr", {}, head.map((text, i) => el("th", { scope: "col" }, text || el("span", { class: "hidden" }, i ? "Open" : "Tick"))))), this.body);
    this.search = el("input", { type: "search", placeholder: "Find a run", "aria-label": "Find a run by its name, agent or environment", value: chosen.text, oninput: () => ((chosen.text = this.search.value), this.arrange()) });
    this.picks = Object.fromEntries(["agent", "env", "state"].map((key) => [key, el("select", { "aria-label": { agent: "Agent", env: "Environment", state: "State" }[key], onchange: (event) => ((chosen[key] = event.target.value), this.arrange()) })]));
    const sort = el("select", { "aria-label": "Order", onchange: () => ((chosen.sort = sort.value), this.arrange()) }, Object.entries(SORTS).map(([key, [text]]) => el("option", { value: key, selected: key === chosen.sort }, text)));
    this.overlay = new Overlay(this);
    put(root,
      el("header", { class: "runs-head" }, el("div", {}, el("h1", {}, "Runs"), this.count), el("div", { class: "filters" }, this.search, ...Object.values(this.picks), sort)),
      this.table, this.nothing, this.overlay.node,
    );
  }

  show(folder, runs) {
    const first = this.runs === null;
    this.folder = folder;
    this.runs = new Map(runs.map((run) => [run.run, run]));
    for (const name of chosen.ticked) if (!this.runs.has(name)) chosen.ticked.delete(name);
    this.fillPicks(runs);
    const came = this.waits || runs.some((run) => !this.rows.has(run.run));
    this.waits = runs.some((run) => run.pending);
    for (const [name, row] of this.rows) if (!this.runs.has(name)) (row.node.remove(), this.rows.delete(name));
    for (const run of runs) {
      if (!this.rows.has(run.run)) this.rows.set(run.run, new Row(run.run, this));
      this.rows.get(run.run).update(run);
    }
    if (first || came) this.arrange();
    else this.tell();
    if (first && chosen.ticked.size) this.overlay.changed();
  }

  /** Filter and sort anew: when the user asks, and when a run came; rows do not move while one reads. */
  arrange() {
    if (!this.runs) return;
    const words = chosen.text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (run) =>
      ["agent", "env", "state"].every((key) => !chosen[key] || run[key] === chosen[key]) &&
      words.every((word) => `${run.run} ${run.agent} ${run.env} ${run.state}`.toLowerCase().includes(word));
    this.order = [...this.runs.values()].filter(fits).sort(SORTS[chosen.sort][1]).map((run) => run.run);
    this.body.replaceChildren(...this.order.map((name) => this.rows.get(name).node));
    this.tell();
  }

  tell() {
    const all = [...this.runs.values()];
    const running = all.filter((run) => run.state === "running").length;
    const seen = this.order.filter((name) => this.runs.has(name)).length;
    this.count.textContent = all.length ? `${seen === all.length ? figure(all.length) : `${figure(seen)} of ${figure(all.length)}`} in ${this.folder}${running ? ` · ${running} training now` : ""}` : " ";
    this.table.hidden = !seen;
    this.nothing.hidden = seen > 0;
    if (seen) return;
    if (all.length) put(this.nothing, el("h2", {}, "No run is like that"), el("button", { type: "button", onclick: () => this.clear() }, "Show all runs"));
    else put(this.nothing, el("h2", {}, `No runs in ${this.folder}`), el("p", {}, "A training shows up here by itself. To start one, type:"), el("code", {}, "dreamlab demo"));
  }

  clear() {
    Object.assign(chosen, { text: "", agent: "", env: "", state: "" });
    this.search.value = "";
    for (const pick of Object.values(this.picks)) pick.value = "";
    this.arrange();
  }

  fillPicks(runs) {
    for (const [key, select] of Object.entries(this.picks)) {
      const values = [...new Set(runs.map((run) => run[key]).filter(Boolean))];
      key === "state" ? values.sort((a, b) => STATES.indexOf(a) - STATES.indexOf(b)) : values.sort();
      const text = ["", ...values].join("\n");
      if (select.dataset.values === text) continue;
      select.dataset.values = text;
      if (!values.includes(chosen[key])) chosen[key] = "";
      put(select, el("option", { value: "" }, { agent: "All agents", env: "All environments", state: "All states" }[key]), values.map((value) => el("option", { value, selected: value === chosen[key] }, value)));
    }
  }

  tick(name, on) {
    on ? chosen.ticked.add(name) : chosen.ticked.delete(name);
    this.overlay.changed();
  }
}

/** One run in the table. Cells are made once, and changed only where what they say has changed. */
class Row {
  constructor(name, page) {
    this.said = {};
    this.tick = el("input", { type: "checkbox", "aria-label": `Show the curves of ${name}`, onchange: () => page.tick(name, this.tick.checked) });
    this.cells = Object.fromEntries(["name", "state", "progress", "score", "spark", "written", "open"].map((key) => [key, el("td", { class: `c-${key}` })]));
    this.node = el("tr", {}, el("td", { class: "c-tick" }, el("label", {}, this.tick)), Object.values(this.cells));
  }

  update(run) {
    this.node.classList.toggle("pending", run.pending);
    this.tick.checked = chosen.ticked.has(run.run);
    this.put("name", [run.agent, run.env, run.problem, run.pending], () => [
      el("a", { href: hash("run", run.run), class: "name" }, run.run),
      el("span", { class: "about" }, [run.agent, run.env].filter(Boolean).join(" · ") || (run.pending ? "\u00a0" : "settings not readable")),
      run.problem && el("span", { class: "problem", title: run.problem }, run.problem),
    ]);
    this.put("state", [run.state, run.pending], () => !run.pending && el("span", { class: `chip ${run.state || ""}` }, run.state || "unknown"));
    const percent = run.done === null ? null : Math.floor(100 * run.done);
    const live = run.state !== "finished" && run.phase;
    this.put("progress", [run.step, live, percent, run.eta === null ? null : about(run.eta), run.pending], () => !run.pending && [
      el("span", { class: "num" }, live ? `${run.phase}${percent === null ? "" : ` ${percent}%`}` : run.step === null ? "–" : `${figure(run.step)} steps`),
      live && percent !== null && el("span", { class: "meter" }, el("i", { style: { width: `${percent}%` } })),
      live && el("span", { class: "about num" }, run.eta !== null ? `${run.eta_of === "run" ? "ends" : "next phase"} in ${about(run.eta)}` : `${figure(run.step)} steps`),
    ]);
    this.put("score", [run.mean, run.std, run.episodes, run.last_return], () =>
      run.mean !== null
        ? [el("span", { class: "num" }, figure(run.mean), el("i", {}, ` ± ${figure(run.std)}`)), el("span", { class: "about num" }, `${figure(run.episodes)} episodes`)]
        : run.last_return !== null ? [el("span", { class: "num" }, figure(run.last_return)), el("span", { class: "about" }, "while training")] : el("span", { class: "about" }, "–"));
    if (run.spark !== null) this.put("spark", run.spark, () => spark(run.spark, `Returns so far, ${run.spark.length} points`));
    this.put("written", [run.state === "running" ? "now" : ago(run.written)], (age) => el("span", { class: "about num" }, age));
    this.put("open", [run.playable, run.why], () => (run.playable ? el("a", { class: "button quiet", href: hash("play", run.run) }, "Play") : el("span", { class: "hidden" }, run.why)));
  }

  put(key, facts, make) {
    const said = JSON.stringify(facts);
    if (this.said[key] === said) return;
    this.said[key] = said;
    put(this.cells[key], make(facts[0]));
  }
}

/** The curves of ticked runs, at the foot of the window. */
class Overlay {
  constructor(page) {
    Object.assign(this, { page, data: new Map(), asked: 0 });
    this.said = el("b", {});
    this.keys = el("select", { "aria-label": "What is drawn", onchange: () => ((chosen.key = this.keys.value), this.load()) });
    this.plot = el("div");
    this.note = el("p", { class: "muted small", role: "status" });
    this.fold = el("button", { class: "quiet", type: "button", "aria-expanded": "true", onclick: () => this.turn(!chosen.folded) });
    this.compare = el("button", { class: "main", type: "button", onclick: () => page.go(hash("compare", "", { run: [...chosen.ticked] })) }, "Compare");
    this.inner = el("div", { class: "overlay-inner" }, el("div", { class: "overlay-controls" }, this.keys, controls((what) => (what === "x" ? this.load() : this.draw()))), this.plot, this.note);
    this.node = el("section", { class: "overlay", hidden: true, "aria-label": "Curves of ticked runs" },
      el("div", { class: "overlay-bar" }, this.said, el("span", { class: "row" }, this.fold, el("button", { class: "quiet", type: "button", onclick: () => this.clear() }, "Clear"), this.compare)), this.inner);
    every(4, async () => void (this.page.runs && !chosen.folded && [...chosen.ticked].some((name) => this.page.runs.get(name)?.state === "running") && (await this.load())), page.signal);
  }

  changed() {
    const count = chosen.ticked.size;
    this.node.hidden = !count;
    document.body.classList.toggle("with-overlay", count > 0);
    this.page.signal.addEventListener("abort", () => document.body.classList.remove("with-overlay"));
    if (!count) return;
    this.said.textContent = count === 1 ? "1 run ticked" : `${count} runs ticked`;
    this.turn(chosen.folded);
  }

  turn(folded) {
    chosen.folded = folded;
    this.inner.hidden = folded;
    this.fold.textContent = folded ? "Show curves" : "Hide curves";
    this.fold.setAttribute("aria-expanded", String(!folded));
    document.body.classList.toggle("overlay-folded", folded);
    if (!folded) this.load();
  }

  clear() {
    chosen.ticked.clear();
    for (const row of this.page.rows.values()) row.tick.checked = false;
    this.changed();
  }

  /** Fetch the curves that are drawn; the newest question alone is answered. */
  async load() {
    const asked = ++this.asked;
    const { x } = drawing;
    const one = async (name) => {
      const kept = this.data.get(name);
      const keys = kept?.keys.length ? kept.keys : (await get(`curves/${name}`, {}, this.page.signal)).keys;
      const key = chosen.key === OWN ? telling(keys) : chosen.key;
      if (!key) return [name, { keys, key: null, curve: null }];
      const same = kept && kept.key === key && kept.x === x;
      const told = await get(`curves/${name}`, { key, x, points: 800, since: same ? kept.version : null }, this.page.signal);
      return [name, { keys: told.keys, key, x, version: told.version, sampled: told.sampled, curve: told.same ? kept.curve : told.curves[key] || null }];
    };
    const found = await Promise.allSettled([...chosen.ticked].map(one));
    if (asked !== this.asked || this.page.signal.aborted) return;
    this.data = new Map(found.filter((f) => f.status === "fulfilled").map((f) => f.value));
    const wrong = found.find((f) => f.status === "rejected");
    this.wrong = wrong ? wrong.reason.message : "";
    this.fillKeys();
    this.draw();
  }

  fillKeys() {
    const keys = [...new Set([...this.data.values()].flatMap((told) => told.keys))];
    if (this.keys.dataset.values === keys.join("\n")) return;
    this.keys.dataset.values = keys.join("\n");
    put(this.keys, el("option", { value: OWN }, "Return, each run's own"), groups(keys).map(([name, of]) => el("optgroup", { label: name }, of.map((key) => el("option", { value: key, selected: key === chosen.key }, key)))));
  }

  draw() {
    const drawn = [...this.data].filter(([, told]) => told.curve && told.curve.x.length);
    const mixed = new Set(drawn.map(([, told]) => told.key)).size > 1;
    // a run keeps its colour while it is ticked, whoever else comes and goes
    this.colours = new Map([...(this.colours || [])].filter(([name]) => chosen.ticked.has(name)));
    for (const name of chosen.ticked) if (!this.colours.has(name)) for (let n = 0; ; n++) if (![...this.colours.values()].includes(n)) { this.colours.set(name, n); break; }
    const series = drawn.map(([name, { key, curve }]) => ({ name: mixed ? `${name} · ${key}` : name, ...look(this.colours.get(name)), ...curve }));
    const told = { series, ...options(), yLabel: chosen.key || drawn[0]?.[1].key || "Return", legend: true, empty: "These runs have logged nothing by that name" };
    if (this.chart) this.chart.update(told);
    else this.chart = new LineChart(this.plot, { ...told, height: innerHeight < 900 ? 190 : 250 });
    const lacking = [...this.data].filter(([, t]) => !t.curve).map(([name]) => name);
    const sampled = drawn.filter(([, t]) => t.sampled).map(([name]) => name);
    this.note.textContent = [this.wrong, lacking.length && series.length ? `Without this: ${lacking.join(", ")}.` : "", sampled.length ? `From samples for now, all lines are being read: ${sampled.join(", ")}.` : ""].filter(Boolean).join(" ");
    this.note.hidden = !this.note.textContent;
  }
}
