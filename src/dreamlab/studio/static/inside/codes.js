// The code of a latent, and what becomes of the picture when it is changed: sliders, classes, tokens.
import { Refused, link } from "../api.js";
import { el, figure, put } from "../dom.js";
import { paint, unpack } from "../pixels.js";
import { bars, bells, grid, legend } from "./drawing.js";

/** Asks for the picture of a code as it changes: one question at a time, and always the newest next. */
export class Changed {
  constructor(run, where, canvas, { signal, told, vector }) {
    Object.assign(this, { run, where, canvas, signal, told, vector, next: null, busy: false });
  }

  async ask(code) {
    this.next = code;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.next && !this.signal.aborted) {
        const code = this.next;
        this.next = null;
        const reply = await fetch(link(`inside/${this.run}`), { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...this.where, code }), signal: this.signal });
        if (!reply.ok) throw new Refused((await reply.json().catch(() => ({}))).error ?? `The studio answered ${reply.status}.`);
        const { head, planes } = unpack(await reply.arrayBuffer());
        if (planes.picture) paint(this.canvas, planes.picture.bytes, planes.picture.height, planes.picture.width);
        if (head.vector) this.vector?.(head.vector);
        this.told?.(head);
      }
    } catch (error) {
      if (!this.signal.aborted) this.told?.({ error: error.message });
    } finally {
      this.busy = false;
    }
  }
}

const two = (value) => value.toFixed(2).replace(/^-(0\.00)$/, "$1");
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

/** Sliders over all numbers of a code, those that vary most first. */
export function sliders(view, ranges, change) {
  const start = [...view.value];
  const now = [...start];
  const order = ranges?.order ?? start.map((_, i) => i);
  const [low, high] = [0, 1].map((end) => start.map((v, d) => {
    const given = ranges?.[end ? "high" : "low"]?.[d] ?? (end ? 3 : -3);
    const air = 0.15 * Math.max(0.1, (ranges?.high?.[d] ?? 3) - (ranges?.low?.[d] ?? -3));
    return end ? Math.max(given + air, v) : Math.min(given - air, v);
  }));
  const parts = order.map((d) => {
    const out = el("output", {}, two(start[d]));
    const input = el("input", {
      type: "range", min: low[d], max: high[d], step: "any", value: start[d], "aria-label": `Number ${d + 1} of the code`,
      oninput: () => {
        now[d] = Number(input.value);
        out.textContent = two(now[d]);
        node.classList.toggle("moved", Math.abs(now[d] - start[d]) > 1e-6);
        change([...now]);
      },
      ondblclick: () => set(d, start[d], true),
    });
    const node = el("label", { class: "in-slide" }, el("span", {}, `z ${d + 1}`), input, out);
    return { d, node, input, out };
  });
  function set(d, value, tell) {
    now[d] = Math.max(low[d], Math.min(high[d], value));
    const part = parts.find((p) => p.d === d);
    part.input.value = now[d];
    part.out.textContent = two(now[d]);
    part.node.classList.toggle("moved", Math.abs(now[d] - start[d]) > 1e-6);
    if (tell) change([...now]);
  }
  const all = (values) => {
    values.forEach((v, d) => set(d, v, false));
    change([...now]);
  };
  const random = () => all(start.map((_, d) => (ranges?.mean?.[d] ?? 0) + (ranges?.std?.[d] ?? 1) * normal()));
  return el(
    "div",
    { class: "stack" },
    el("div", { class: "row" }, el("button", { type: "button", onclick: () => all(start) }, "Reset"), el("button", { type: "button", onclick: random }, "Draw one at random")),
    el("div", { class: "in-slides" }, parts.map((p) => p.node)),
  );
}

/** Prior against posterior of categorical variables; a click on a class puts it in the code. */
export function classes(view, change) {
  const now = [...view.value];
  const shown = { chosen: now };
  const pick = (row, column) => {
    now[row] = column;
    for (const map of maps) map.update(shown);
    change([...now]);
  };
  const prior = grid("Prior: probabilities of classes, a row for each variable", view.prior, { chosen: now, before: view.value, pick });
  const post = view.post && grid("Posterior: probabilities of classes, a row for each variable", view.post, { chosen: now, before: view.value, pick });
  const maps = [prior, post].filter(Boolean);
  const reset = () => {
    now.splice(0, now.length, ...view.value);
    for (const map of maps) map.update(shown);
    change([...now]);
  };
  const random = () => {
    (view.post ?? view.prior).forEach((row, s) => (now[s] = Math.floor(Math.random() * row.length)));
    for (const map of maps) map.update(shown);
    change([...now]);
  };
  const kl = view.kl && bars("KL of each variable", view.kl, { high: () => 16 });
  const total = view.kl?.reduce((a, b) => a + b, 0);
  const column = (name, words, drawing) => el("div", { class: "in-map" }, el("h3", {}, name), el("p", { class: "muted" }, words), drawing.node);
  const node = el(
    "div",
    { class: "stack" },
    el("div", { class: "in-maps" }, column("Prior", "before it was seen", prior), post && column("Posterior", "once it was seen", post), kl && column("KL", `${figure(Number(total.toPrecision(3)))} nats`, kl)),
    el("div", { class: "row between" }, legend(), el("span", { class: "row" }, el("button", { type: "button", onclick: reset }, "Reset"), el("button", { type: "button", onclick: random }, "Classes at random"))),
  );
  if (kl) kl.height = () => prior.canvas.clientHeight || view.kl.length * 16;
  return node;
}

/** Prior against posterior of Gaussian variables. */
export function normals(view, order) {
  const key = (colour, text) => el("span", { class: "in-key" }, el("i", { style: { background: `var(${colour})` } }), text);
  const drawing = bells("Prior and posterior of each number, two deviations wide", view, order);
  const kl = view.kl && bars("KL of each number", order.map((d) => view.kl[d]), { high: () => 20 });
  const total = view.kl?.reduce((a, b) => a + b, 0);
  return el(
    "div",
    { class: "stack" },
    el("div", { class: "in-maps wide" }, el("div", { class: "in-map" }, el("h3", {}, "In deviations of the prior"), el("p", { class: "in-keys muted" }, key("--second", "prior"), key("--first", "posterior"), key("--ink", "drawn")), drawing.node), kl && el("div", { class: "in-map" }, el("h3", {}, "KL"), el("p", { class: "muted" }, `${figure(Number(total.toPrecision(3)))} nats`), kl.node)),
  );
}

/** Tokens on the picture, the codebook beside it: choose a place, then another code for it. */
export function tokens(view, { run, checkpoint, canvas, counts, change }) {
  const now = [...view.value];
  const [rows, columns] = view.grid;
  let place = 0;
  const overlay = el("div", { class: `in-tokens${columns > 5 ? " dense" : ""}`, role: "group", "aria-label": "Tokens of the frame", style: { "grid-template-columns": `repeat(${columns}, minmax(0, 1fr))`, "grid-template-rows": `repeat(${rows}, minmax(0, 1fr))` } });
  const cells = now.map((token, k) => el("button", { type: "button", title: `Token ${k + 1}: code ${token}`, onclick: () => choose(k) }, String(token)));
  put(overlay, cells);
  const book = el("div", { class: "in-book", role: "group", "aria-label": "Codebook, most used first" });
  const order = counts ? counts.map((n, code) => [n, code]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).map(([, code]) => code) : [...Array(view.vocabulary).keys()];
  const most = Math.max(...(counts ?? [1]));
  const total = (counts ?? []).reduce((a, b) => a + b, 0) || 1;
  const sheet = link(`patches/${run}`, { checkpoint });
  const across = Math.min(16, view.vocabulary);
  const codes = new Map();
  const image = new Image();
  image.onload = () => {
    const size = image.width / across;
    const high = image.height / Math.ceil(view.vocabulary / across);
    for (const [code, { face }] of codes) {
      [face.width, face.height] = [size, high];
      face.getContext("2d").drawImage(image, (code % across) * size, Math.floor(code / across) * high, size, high, 0, 0, size, high);
    }
  };
  for (const code of order) {
    const n = counts?.[code] ?? 0;
    const face = el("canvas", { class: "pixels" });
    const node = el("button", { type: "button", class: n ? null : "unused", title: `Code ${code}: ${n ? `${((100 * n) / total).toFixed(1)} % of tokens` : "not used"}`, onclick: () => swap(code) }, face, el("small", {}, String(code)), el("i", { class: "in-use" }, el("i", { style: { width: `${(100 * n) / most}%` } })));
    codes.set(code, { node, face });
  }
  put(book, [...codes.values()].map((c) => c.node));
  image.src = sheet;
  const used = (counts ?? []).filter(Boolean).length;
  const perplexity = Math.exp(-(counts ?? []).reduce((sum, n) => sum + (n ? (n / total) * Math.log(n / total) : 0), 0));
  const said = el("p", { class: "muted" }, counts ? `Each code is shown as what stands in its places on average. ${used} of ${view.vocabulary} are in use; they are as varied as ${figure(Math.round(perplexity))} equally frequent ones.` : "");

  function mark() {
    cells.forEach((cell, k) => {
      cell.setAttribute("aria-pressed", String(k === place));
      cell.textContent = String(now[k]);
      cell.classList.toggle("moved", now[k] !== view.value[k]);
    });
    for (const [code, { node }] of codes) node.setAttribute("aria-pressed", String(code === now[place]));
    where.textContent = `Place ${place + 1} of ${now.length} holds code ${now[place]}.`;
  }
  function choose(k) {
    place = k;
    mark();
  }
  function swap(code) {
    now[place] = code;
    mark();
    change([...now]);
  }
  const where = el("span", {});
  const reset = el("button", { type: "button", onclick: () => (now.splice(0, now.length, ...view.value), mark(), change([...now])) }, "Reset");
  mark();
  return { overlay, node: el("div", { class: "stack" }, el("div", { class: "row between" }, where, reset), book, said) };
}
