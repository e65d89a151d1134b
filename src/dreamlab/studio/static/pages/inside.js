// Inside: what a model has in mind at one frame of an episode, and what becomes of the picture when that is changed.
import { hash } from "../app.js";
import { get } from "../api.js";
import { LineChart } from "../chart.js";
import { el, figure, put } from "../dom.js";
import { attention } from "../inside/attention.js";
import { Changed, classes, normals, sliders, tokens } from "../inside/codes.js";
import { film, follows } from "../inside/dreams.js";
import { mixture } from "../inside/drawing.js";
import { Reel, action, drawnReel, number } from "../reel.js";

const NEAR = 5;
const CHUNK = 128;

export async function mount(root, { run, params, signal }) {
  const about = el("p", { class: "muted", role: "status" }, "Opening the run");
  const body = el("div", { class: "in" }, el("div", { class: "card in-wait" }));
  put(root, el("header", { class: "ep-head" }, el("h1", {}, "Inside"), about), body);
  const checkpoint = params.get("checkpoint");
  const asked = { episode: params.get("episode"), row: params.get("row"), at: params.get("at"), checkpoint };
  if (!asked.episode && !asked.row) {
    const list = await get(`episodes/${run}`, { checkpoint, count: 20 }, signal);
    const first = list.episodes.find((e) => e.whole) ?? list.episodes[0];
    if (!first) return nothing(body, list.model ? list.why ?? "There are no rows yet that could be looked at. They appear with the first checkpoint." : list.unmodelled);
    asked.episode = first.episode;
    asked.at = Math.floor(first.length / 3);
  }
  const episode = await get(`episode/${run}`, asked, signal);
  if (signal.aborted) return;
  if (!episode.model) return nothing(body, episode.unmodelled, hash("episodes", run, { episode: episode.episode, at: episode.at }));
  about.textContent = `${episode.agent} · ${episode.env} · checkpoint ${episode.checkpoint.toLocaleString("en")}`;
  const drawn = drawnReel(episode, (kind, at) => episode.vector[at]);
  const page = new Page(run, checkpoint, episode, drawn, body, signal);
  await page.go(episode.at);
}

function nothing(body, text, episodes = null) {
  put(body, el("section", { class: "card in-none" }, el("h2", {}, "Nothing to look into"), el("p", { class: "muted" }, text), el("a", { class: "button", href: episodes ?? "#/" }, episodes ? "Its episodes" : "All runs")));
}

function card(title, sentence, ...children) {
  return el("section", { class: "card in-card" }, el("header", {}, el("h2", {}, title), el("p", { class: "muted" }, sentence)), children);
}

class Page {
  constructor(run, checkpoint, episode, drawn, body, signal) {
    Object.assign(this, { run, checkpoint, info: episode, body, signal, at: episode.at, asking: 0, series: {} });
    const { pictures, length } = episode;
    this.reel = drawn ?? (pictures && new Reel({ run, episode: episode.episode, checkpoint, length, size: pictures, version: episode.checkpoint }));
    this.walk = el("div", { class: "in-walk", role: "group", "aria-label": "Frames of the episode" });
    this.slider = el("input", { type: "range", min: 0, max: length - 1, value: this.at, "aria-label": "Step of the episode", oninput: () => this.later(Number(this.slider.value)) });
    this.place = el("span", { class: "num" });
    this.links = el("span", { class: "row in-links" });
    this.real = el("canvas", { class: "pixels", role: "img", "aria-label": "The frame" });
    this.seen = el("canvas", { class: "pixels", role: "img", "aria-label": "The model's picture" });
    if (this.reel) for (const canvas of [this.real, this.seen]) [canvas.width, canvas.height] = [this.reel.size[1], this.reel.size[0]];
    this.caption = el("figcaption", {}, "The model's picture");
    this.cover = el("div", { class: "ep-well" }, this.seen);
    this.facts = el("dl", { class: "facts in-facts" });
    this.numbers = el("div", { class: "scroll" });
    this.policy = el("div", { class: "in-policy" });
    this.said = el("p", { class: "muted in-said", role: "status" }, "\u00a0");
    const step = (by, name, text) => el("button", { type: "button", "aria-label": name, title: name, onclick: () => this.go(this.at + by) }, text);
    const figures = this.reel && el("div", { class: "in-pictures" }, el("figure", {}, el("figcaption", {}, "What was seen"), this.real), el("figure", {}, this.caption, this.cover));
    const see = figures && el("section", { class: "card in-see", "aria-label": "The frame" }, figures, this.said);
    this.left = el("div", { class: "in-left" }, see, el("section", { class: "card stack in-told", "aria-label": "What is said of the frame" }, !figures && this.said, this.facts, this.numbers, this.policy));
    this.views = el("div", { class: "stack in-views" });
    this.along = el("div", { class: "stack" });
    put(
      body,
      el("section", { class: "card in-top", "aria-label": "The episode" }, this.reel && this.walk, this.slider, el("div", { class: "row between" }, el("span", { class: "row" }, step(-1, "One back", "‹"), step(1, "One on", "›"), this.place), this.links)),
      el("div", { class: "in-columns" }, this.left, this.views),
      this.along,
    );
    addEventListener("keydown", (event) => this.press(event), { signal });
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea, .chart-plot, .in-pick")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    this.later(this.at + by);
    event.preventDefault();
  }

  /** Walk at once, look when the walk rests. */
  later(at) {
    this.at = Math.max(0, Math.min(this.info.length - 1, at));
    this.stroll();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => !this.signal.aborted && this.go(this.at), 160);
  }

  stroll() {
    const { at, info } = this;
    this.slider.value = at;
    this.place.textContent = `Step ${at.toLocaleString("en")} of ${(info.length - 1).toLocaleString("en")}`;
    if (!this.reel) return;
    const first = Math.max(0, Math.min(at - NEAR, info.length - 1 - 2 * NEAR));
    const shown = [...Array(Math.min(info.length, 2 * NEAR + 1)).keys()].map((i) => first + i);
    if (this.thumbs?.length !== shown.length) {
      this.thumbs = shown.map(() => {
        const canvas = el("canvas", { class: "pixels" });
        const button = el("button", { type: "button", onclick: () => this.go(Number(button.dataset.at)) }, canvas);
        return { button, canvas };
      });
      put(this.walk, this.thumbs.map((t) => t.button));
    }
    this.thumbs.forEach(({ button, canvas }, i) => {
      this.reel.draw(canvas, "real", shown[i]);
      const near = Math.max(first, Math.min(at - 3, first + shown.length - 7)); // seven fit on a phone
      button.classList.toggle("far", shown[i] < near || shown[i] > near + 6);
      button.dataset.at = shown[i];
      button.setAttribute("aria-label", `Step ${shown[i]}`);
      button.setAttribute("aria-current", String(shown[i] === at));
    });
    this.reel.draw(this.real, "real", at);
  }

  async go(at) {
    this.at = Math.max(0, Math.min(this.info.length - 1, at));
    this.stroll();
    const { run, checkpoint, info } = this;
    const mine = ++this.asking;
    const where = { episode: info.episode, at: this.at, checkpoint };
    const stored = /^\d+$/.test(info.episode);
    history.replaceState(history.state, "", hash("inside", run, where));
    const row = info.first === null ? null : info.first + this.at * (info.stride ?? 1);
    put(this.links, el("a", { class: "button", href: hash("episodes", run, where) }, "Whole episode"), stored && info.model && el("a", { class: "button", href: hash("play", run, { row, checkpoint }) }, "Play from here"));
    if (!this.views.firstChild) {
      put(this.views, card("Looking", "The model reads the episode up to this frame.", el("div", { class: "in-wait" })));
      this.tell({ said: {}, policy: null });
    }
    let found;
    try {
      found = await get(`inside/${run}`, where, this.signal);
    } catch (error) {
      if (!this.signal.aborted && mine === this.asking) put(this.views, card("This cannot be looked into", error.message));
      return;
    }
    if (mine !== this.asking || this.signal.aborted) return;
    if (found.why) {
      return nothing(this.body, found.why, hash("episodes", run, where));
    }
    this.looking?.abort();
    this.looking = new AbortController();
    this.signal.addEventListener("abort", () => this.looking.abort(), { once: true });
    await this.show(found, where, this.looking.signal);
  }

  async show(found, where, signal) {
    const { info } = this;
    const code = found.views[0];
    const original = JSON.stringify(code.value);
    const heads = ["classes", "normals"].includes(code.kind); // elsewhere the code does not decide these
    const changed = new Changed(this.run, where, this.seen, {
      signal,
      told: (head) => {
        const words = [head.rew !== undefined && `reward ${number(head.rew)}`, head.con !== undefined && `chance to go on ${Math.round(head.con * 100)} %`].filter(Boolean);
        this.said.textContent = head.error ?? (heads && this.caption.classList.contains("moved") ? `With this code: ${words.join(", ")}` : "\u00a0");
      },
      vector: (values) => this.vector(values),
    });
    const change = (value) => {
      const same = JSON.stringify(value) === original;
      this.caption.textContent = same ? "The model's picture" : "The changed code's";
      this.caption.classList.toggle("moved", !same);
      changed.ask(value);
    };
    this.caption.textContent = "The model's picture";
    this.caption.classList.remove("moved");
    changed.ask(code.value);
    this.tell(found);
    if (this.ranges === undefined && code.kind !== "classes") this.ranges = await get(`ranges/${this.run}`, { checkpoint: this.checkpoint }, this.signal).catch(() => null);
    if (signal.aborted) return;
    const order = this.ranges?.order ?? (Array.isArray(code.value) ? code.value.map((_, i) => i) : []);
    const open = (name) => this.opened?.[name];
    const boxes = [];
    let overlay = null;
    for (const view of found.views) {
      if (view.kind === "code") boxes.push(card("z, the code of the frame", `${code.value.length} numbers that V draws the picture from, those that vary most first. Move one and see what it stands for.`, sliders(view, this.ranges, change)));
      if (view.kind === "mixture") {
        const drawing = mixture("What M expected of this frame", view, order, code.value);
        boxes.push(card("What M expected", found.first ? "This is an episode's first frame: M has not said anything yet." : "M's mixture of Gaussians for each number of this z, before the frame was seen: darker bars weigh more. The line is what came.", !found.first && drawing.node));
      }
      if (view.kind === "classes") boxes.push(card("z, prior against posterior", "Each row is a variable with its classes. The prior is what the model expected, the posterior what it saw; outlined is what was drawn. Click a class to put it in the code.", classes(view, change)));
      if (view.kind === "normals") {
        const by = view.kl ? [...view.kl.keys()].sort((a, b) => view.kl[b] - view.kl[a]) : order;
        boxes.push(card("z, prior against posterior", "Each row is a number of z, in deviations of what the model expected: the band is the prior, the bar what it saw, two deviations to each side; the dot was drawn. At the right the prior itself. Those that told most come first.", normals(view, by)));
        boxes.push(card("Change the code", "Move a number of z and see what it stands for; those that vary most come first.", sliders(view, this.ranges, change)));
      }
      if (view.kind === "tokens") {
        const made = tokens(view, { run: this.run, checkpoint: this.checkpoint, canvas: this.seen, counts: this.ranges?.counts, change });
        overlay = made.overlay;
        boxes.push(card("Tokens and their codebook", "The frame is a grid of tokens, each a code out of the codebook. Choose a place on the picture, then another code for it.", made.node));
      }
    }
    for (const old of this.cover.querySelectorAll(".in-tokens")) old.remove();
    if (overlay) this.cover.append(overlay);
    if (found.attention && this.reel) boxes.push(this.lazy("Where the transformer looks", "From the newest frame back over its context: the brighter a place, the more it counts for what comes next.", () => attention({ run: this.run, where, reel: this.reel, grid: code.grid, signal })));
    boxes.push(this.lazy("What would follow each action", "One step on from here, as the model imagines it" + (found.views.some((v) => v.kind === "mixture") ? ": the mean of M's forecast, and its mixture below." : ": one draw for each action."), () => follows({ run: this.run, where, space: info.space, order, signal })));
    if (this.at < info.length - 1) {
      const vectors = info.pictures ? [] : (info.space.vector ?? []);
      boxes.push(this.lazy("Dream on from here", "The model goes on without seeing anything more, under the actions that were really chosen.", () => film({ run: this.run, where, temperature: 1, signal, vectors, drawn: this.reel?.paint && this.reel })));
    }
    put(this.views, boxes);
    if (!this.plots) this.draw();
    this.cursor();
  }

  /** A card whose content is fetched when it comes into view. */
  lazy(title, sentence, make) {
    const inner = el("div", { class: "in-lazy" }, el("p", { class: "muted" }, "Thinking"));
    const before = this.heights?.[title];
    if (before) inner.style.setProperty("min-height", `${before}px`);
    const box = card(title, sentence, inner);
    const watch = new IntersectionObserver(async ([entry]) => {
      if (!entry.isIntersecting) return;
      watch.disconnect();
      try {
        const node = await make();
        put(inner, node);
        inner.style.removeProperty("min-height");
        requestAnimationFrame(() => ((this.heights ??= {})[title] = inner.offsetHeight));
      } catch (error) {
        if (error.name !== "AbortError") put(inner, el("p", { class: "muted" }, error.message));
      }
    }, { rootMargin: "200px" });
    watch.observe(box);
    return box;
  }

  tell(found) {
    const { info, at } = this;
    const { said } = found;
    const rows = [
      ["Then done", at === info.length - 1 && info.is_last ? "the episode ends" : action(info.act[at], info.space)],
      ["Reward", figure(info.rew[at])],
      "rew" in said && ["Reward predicted", at ? number(said.rew) : "–"],
      "con" in said && ["Chance to go on", at ? `${(100 * said.con).toFixed(1)} %` : "–"],
      "value" in said && ["Value", number(said.value)],
      "kl" in said && ["Surprise", `${number(said.kl)} nats`],
    ].filter(Boolean);
    put(this.facts, rows.map(([name, text], i) => el("div", { class: !i && info.space.kind === "box" ? "wide" : null }, el("dt", {}, name), el("dd", {}, text))));
    put(this.policy, found.policy && this.would(found.policy));
  }

  /** The policy: how likely each action is, or what would be done. */
  would(policy) {
    const { space } = this.info;
    const bar = (name, from, to, text) => el("div", { class: "in-bar" }, el("span", { title: name }, name), el("i", {}, el("i", { style: { left: `${100 * from}%`, width: `${100 * Math.max(0, to - from)}%` } })), el("output", {}, text));
    const rows =
      policy.kind === "choices"
        ? policy.probs.flatMap((probs, g) => probs.map((p, i) => ({ p, name: policy.probs.length > 1 ? `${g + 1}: ${i}` : action(i, space) }))).sort((a, b) => b.p - a.p).slice(0, 6).map(({ p, name }) => bar(name, 0, p, `${(100 * p).toFixed(p < 0.1 && p > 0 ? 1 : 0)} %`))
        : policy.mean.map((m, i) => {
            const [low, high] = [space.low?.[i] ?? -1, space.high?.[i] ?? 1];
            const name = space.axes?.[i]?.[m >= 0 ? 1 : 0] || `number ${i + 1}`;
            const share = (v) => Math.max(0, Math.min(1, (v - low) / (high - low || 1)));
            return bar(name, share(Math.min(0, m)), share(Math.max(0, m)), `${m.toFixed(2)}${policy.std ? ` ± ${policy.std[i].toFixed(2)}` : ""}`);
          });
    return el("div", {}, el("h3", {}, "What the agent would do"), rows);
  }

  /** Vectors: what was seen and what the model makes of it, in a table. */
  vector(values) {
    const seen = this.info.vector?.[this.at];
    if (!seen) return;
    this.reel?.paint?.(this.seen, values);
    const names = this.info.space.vector ?? [];
    const rows = seen.map((v, d) => el("tr", {}, el("td", {}, names[d] ?? `number ${d + 1}`), el("td", {}, number(v)), el("td", {}, number(values[d]))));
    put(this.numbers, el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Observation"), el("th", {}, "seen"), el("th", {}, "the model's"))), el("tbody", {}, rows)));
  }

  // ---- along the episode

  draw() {
    const { info } = this;
    this.plots = [];
    const wanted = [["value", "Value", "--third"], ["entropy", "Entropy of the policy, nats", "--sixth"], ["kl", "Surprise, nats", "--fourth"]];
    const charts = wanted.map(([key, name, colour]) => {
      const node = el("div");
      const chart = new LineChart(node, { series: [], height: 120, xLabel: "step", empty: "Reading", onPick: (x) => this.go(Math.round(x)) });
      const box = el("section", {}, el("h3", {}, name), node);
      this.plots.push({ key, name, colour, chart, box });
      return box;
    });
    this.box = card("Along the episode", "What the model and its critic say of every frame. Click to go there.", el("div", { class: "in-charts" }, charts));
    put(this.along, this.box);
    this.read(info);
  }

  async read(info) {
    try {
      for (let start = 0; start < info.length; start += CHUNK) {
        const got = await get(`read/${this.run}`, { episode: info.episode, start, count: CHUNK, checkpoint: this.checkpoint }, this.signal);
        for (const [key, values] of Object.entries(got.series)) this.series[key] = [...(this.series[key] ?? []), ...values];
        for (const { key, name, colour, chart, box } of this.plots) {
          const y = this.series[key] ?? [];
          box.hidden = !y.length;
          chart.update({ series: [{ name, colour, x: y.map((_, i) => i), y }] });
        }
        this.box.hidden = this.plots.every(({ box }) => box.hidden);
        this.cursor();
      }
    } catch (error) {
      if (!this.signal.aborted) this.box.hidden = true;
    }
  }

  cursor() {
    for (const { chart } of this.plots ?? []) chart.update({ markers: [{ x: this.at }] });
  }
}
