// What the model expects from a row on: what would follow each action, and the dream beside what really came.
import { Refused, link } from "../api.js";
import { LineChart } from "../chart.js";
import { el, figure, put } from "../dom.js";
import { paint, unpack } from "../pixels.js";
import { COLUMNS, action, number } from "../reel.js";
import { mixture } from "./drawing.js";

async function message(path, params, signal) {
  const reply = await fetch(link(path, params), { signal });
  if (!reply.ok) throw new Refused((await reply.json().catch(() => ({}))).error ?? `The studio answered ${reply.status}.`);
  return unpack(await reply.arrayBuffer());
}

/** What would follow each action: pictures side by side, and the mixture of the chosen one. */
export async function follows({ run, where, space, order, signal }) {
  const { head, planes } = await message(`forecast/${run}`, where, signal);
  if (!("0" in planes)) return table(head.actions, space);
  const detail = el("div");
  const cards = head.actions.map((one, n) => {
    const canvas = planes[n] ? el("canvas", { class: "pixels" }) : null;
    if (canvas) paint(canvas, planes[n].bytes, planes[n].height, planes[n].width);
    const words = [one.rew !== undefined && `reward ${number(one.rew)}`, one.con !== undefined && `goes on ${Math.round(one.con * 100)} %`].filter(Boolean).join(" · ");
    return el("button", { type: "button", class: "in-follow", onclick: () => choose(n) }, canvas, el("b", {}, action(one.act, space), one.taken && el("em", {}, " (done)")), el("small", {}, words));
  });
  let drawing = null;
  function choose(n) {
    cards.forEach((card, i) => card.setAttribute("aria-pressed", String(i === n)));
    const mixed = head.actions[n].mixture;
    if (!mixed) return;
    if (drawing) return drawing.update(mixed);
    drawing = mixture("Mixture of Gaussians for each number of z", mixed, order, null);
    put(detail, drawing.node);
  }
  choose(Math.max(0, head.actions.findIndex((a) => a.taken)));
  return el("div", { class: "stack" }, el("div", { class: "in-follows" }, cards), drawing && detail);
}

/** Without pictures: the numbers that would be seen, a column for each action. */
function table(actions, space) {
  const row = (name, of) => el("tr", {}, el("td", {}, name), actions.map((one) => el("td", {}, of(one))));
  const vector = actions[0]?.vector ?? [];
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { class: "in-table" },
      el("thead", {}, el("tr", {}, el("th", {}, ""), actions.map((one) => el("th", {}, action(one.act, space), one.taken && " (done)")))),
      el("tbody", {}, actions[0]?.rew !== undefined && row("reward", (one) => number(one.rew)), actions[0]?.con !== undefined && row("goes on", (one) => `${Math.round(one.con * 100)} %`), vector.map((_, d) => row(space.vector?.[d] ?? `number ${d + 1}`, (one) => number(one.vector[d])))),
    ),
  );
}

/** The open-loop film from a row: real, dream and difference under one slider. */
export async function film({ run, where, temperature, signal, vectors, drawn }) {
  const { head, planes } = await message(`film/${run}`, { ...where, temperature }, signal);
  const pictures = "real" in planes;
  const screens = pictures || drawn ? ["real", "dream", "difference"].slice(0, pictures ? 3 : 2).map((kind) => ({ kind, canvas: el("canvas", { class: "pixels", role: "img", "aria-label": kind }) })) : [];
  const [h, w] = head.size ?? [0, 0];
  const across = Math.min(COLUMNS, head.frames);
  const cut = (plane, i) => {
    const bytes = new Uint8Array(h * w * 3);
    const [top, left] = [Math.floor(i / across) * h, (i % across) * w];
    for (let y = 0; y < h; y++) bytes.set(plane.bytes.subarray(((top + y) * plane.width + left) * 3, ((top + y) * plane.width + left + w) * 3), y * w * 3);
    return bytes;
  };
  const slider = el("input", { type: "range", min: 0, max: head.frames - 1, value: 0, "aria-label": "Step of the dream", oninput: () => (stop(), show(Number(slider.value))) });
  const toggle = el("button", { type: "button", onclick: () => (timer ? stop() : start()) }, "Pause");
  const said = el("span", { class: "muted num" });
  const charts = el("div", { class: "in-charts" });
  let timer = 0;
  let at = 0;
  function show(i) {
    at = i;
    slider.value = i;
    for (const { kind, canvas } of screens) pictures ? paint(canvas, cut(planes[kind], i), h, w) : drawn.paint(canvas, head.vector[kind][i]);
    said.textContent = i ? `step ${i} of ${head.frames - 1}: reward ${figure(head.real_rew[i])}, dreamt ${number(head.rew[i])}` : "the frame it starts from";
    for (const chart of plots) chart.update({ markers: [{ x: i }] });
  }
  function start() {
    toggle.textContent = "Pause";
    timer = setInterval(() => (signal.aborted || !toggle.isConnected ? stop() : show((at + 1) % head.frames)), 160);
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    toggle.textContent = "Play";
  }
  const steps = head.error.map((_, i) => i);
  const plots = [];
  const add = (title, series) => {
    const node = el("div");
    const box = el("section", {}, el("h3", {}, title), node);
    plots.push(new LineChart(node, { series, height: 110, xLabel: "step", onPick: (x) => (stop(), show(Math.round(x))), legend: true }));
    charts.append(box);
  };
  add(pictures ? "Squared error of the picture" : "Squared error", [{ name: "error", colour: "--fifth", x: steps, y: head.error }]);
  add("Reward", [{ name: "came", colour: "--first", x: steps, y: head.real_rew }, { name: "dreamt", colour: "--second", x: steps, y: head.rew.map((v, i) => (i ? v : null)) }]);
  for (const [d, name] of pictures ? [] : vectors.entries())
    add(name, [{ name: "came", colour: "--first", x: steps, y: head.vector.real.map((r) => r[d]) }, { name: "dreamt", colour: "--second", x: steps, y: head.vector.dream.map((r) => r[d]) }]);
  show(0);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) start();
  else stop();
  const names = { real: "What came", dream: "Dreamt", difference: "Difference" };
  return el(
    "div",
    { class: "stack" },
    screens.length > 0 && el("div", { class: "in-film", style: { "grid-template-columns": `repeat(${screens.length}, minmax(0, 1fr))` } }, screens.map(({ kind, canvas }) => el("figure", {}, el("figcaption", {}, names[kind]), canvas))),
    slider,
    el("div", { class: "row" }, toggle, said, head.over && el("span", { class: "muted" }, "The dream says that the episode ends here.")),
    charts,
  );
}
