// Where a transformer looks: the frames of its context with a veil that lifts where it looks.
import { get } from "../api.js";
import { el, put } from "../dom.js";
import { Drawing, heat, legend } from "./drawing.js";

const SHOWN = 8;

/** The panel of attention for a row; frames are drawn from the reel. */
export async function attention({ run, where, reel, grid, signal }) {
  const [rows, columns] = grid;
  const tokens = rows * columns;
  let found = await get(`attention/${run}`, where, signal);
  const layers = found.weight.length;
  const heads = found.weight[0].length;
  const option = (value, text, selected) => el("option", { value, selected }, text);
  const layer = el("select", { onchange: show }, option("all", "all layers", false), [...Array(layers).keys()].map((l) => option(l, `layer ${l + 1}`, l === layers - 1)));
  const head = el("select", { onchange: show }, option("all", "all heads", true), [...Array(heads).keys()].map((h) => option(h, `head ${h + 1}`, false)));
  const query = el("select", { onchange: ask }, option(tokens, "the action: it foretells reward and end", true), [...Array(tokens - 1).keys()].map((k) => option(k, `token ${k + 1}: it foretells token ${k + 2}`, false)));
  const strip = el("div", { class: "in-context" });
  const said = el("p", { class: "muted" });
  async function ask() {
    found = await get(`attention/${run}`, { ...where, query: query.value }, signal);
    show();
  }
  function show() {
    const of = (l) => (head.value === "all" ? mean(found.weight[l]) : found.weight[l][Number(head.value)]);
    const weight = layer.value === "all" ? mean(found.weight.map((_, l) => of(l))) : of(Number(layer.value));
    const top = Math.max(...weight.flat(), 1e-9);
    const share = weight.map((frame) => frame.reduce((a, b) => a + b, 0));
    put(
      strip,
      found.times.slice(-SHOWN).map((t, i) => {
        const n = Math.max(0, found.times.length - SHOWN) + i;
        const canvas = el("canvas", { class: "pixels" });
        reel?.draw(canvas, "real", t);
        const veil = new Drawing(`Attention to step ${t}`, (w) => (reel ? (w * reel.size[0]) / reel.size[1] : w), (c, w, h, ink) => {
          const ramp = heat(ink);
          for (let k = 0; k < tokens; k++) {
            const v = Math.sqrt(weight[n][k] / top);
            c.fillStyle = ink("--well");
            c.globalAlpha = 0.78 * (1 - v);
            const [y, x] = [Math.floor(k / columns), k % columns];
            c.fillRect((x * w) / columns, (y * h) / rows, w / columns, h / rows);
            c.globalAlpha = 1;
            c.strokeStyle = ramp(v);
            c.lineWidth = 2;
            if (v > 0.15 && tokens <= 36) c.strokeRect((x * w) / columns + 1.5, (y * h) / rows + 1.5, w / columns - 3, h / rows - 3);
          }
        });
        const bar = el("i", { class: "in-act", title: "attention to the action" }, el("i", { style: { width: `${100 * Math.sqrt(weight[n][tokens] / top)}%` } }));
        return el("figure", {}, el("div", { class: "in-veil" }, canvas, veil.node), bar, el("figcaption", {}, el("span", {}, `step ${t}`), el("output", {}, `${(100 * share[n]).toFixed(0)} %`)));
      }),
    );
    const now = share.at(-1);
    said.textContent = `${(100 * now).toFixed(0)} % of it rests on the newest frame and its action, ${(100 * (1 - now)).toFixed(0)} % on the ${found.times.length - 1} before. The bar under a frame is the action that was chosen there.`;
  }
  show();
  const field = (name, input) => el("label", { class: "field" }, name, input);
  return el("div", { class: "stack" }, el("div", { class: "row in-fields" }, field("Who looks", query), field("Layer", layer), field("Head", head)), strip, said, legend("least", "most", "attention, by its root"));
}

function mean(arrays) {
  const first = arrays[0];
  return first.map((row, i) => (Array.isArray(row) ? row.map((_, j) => arrays.reduce((sum, a) => sum + a[i][j], 0) / arrays.length) : arrays.reduce((sum, a) => sum + a[i], 0) / arrays.length));
}
