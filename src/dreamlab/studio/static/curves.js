// What the pages with curves share: how they are drawn, said once and remembered, and which metric is a run's return.
import { el } from "./dom.js";

const AXES = [["env_steps", "Env steps", "environment steps"], ["wall", "Wall time", "wall time"], ["step", "Run's step", "run's step"]];
const RETURNS = ["mean_return", "return", "ret"];
const kept = JSON.parse(localStorage.getItem("curves") || "{}");

/** How curves are drawn: {x, smooth, logY}. */
export const drawing = { x: AXES.some(([key]) => key === kept.x) ? kept.x : "env_steps", smooth: Number(kept.smooth) || 0, logY: kept.logY === true };

/** The axis that was asked for, while another is drawn. */
let instead = null;

/** The same as options of a LineChart. */
export const options = () => ({ smooth: drawing.smooth, logY: drawing.logY, xTime: drawing.x === "wall", xLabel: AXES.find(([key]) => key === drawing.x)[2] });

/** Buttons for axis, smoothing and log axis; changed(what) is called with "x", "smooth" or "logY". */
export function controls(changed) {
  if (instead) [drawing.x, instead] = [instead, null];
  let asked = false;
  const set = (key, value) => {
    drawing[key] = value;
    if (key === "x") [asked, instead] = [true, null];
    localStorage.setItem("curves", JSON.stringify({ ...drawing, x: instead || drawing.x }));
    changed(key);
  };
  const press = (key) => axes.forEach((b, i) => b.setAttribute("aria-pressed", String(AXES[i][0] === key)));
  const axes = AXES.map(([key, text]) => el("button", { type: "button", "aria-pressed": String(drawing.x === key), onclick: () => (press(key), set("x", key)) }, text));
  const log = el("button", { type: "button", "aria-pressed": String(drawing.logY), onclick: () => (set("logY", !drawing.logY), log.setAttribute("aria-pressed", String(drawing.logY))) }, "Log");
  const smooth = el("input", { type: "range", min: "0", max: "1", step: "0.02", value: drawing.smooth, "aria-label": "Smoothing", oninput: () => set("smooth", Number(smooth.value)) });
  const node = el("div", { class: "curve-controls" },
    el("div", { class: "segments", role: "group", "aria-label": "Horizontal axis" }, axes),
    el("label", { class: "smoothing" }, el("span", {}, "Smoothing"), smooth),
    log,
  );
  /** Where all values of a curve fall on one place, as of learning that takes no environment steps: the run's own step. */
  node.unfold = ({ x, low, high }) => {
    if (asked || drawing.x !== "env_steps" || x[0] !== x.at(-1) || (x.length < 2 && low?.[0] === high?.[0])) return false;
    [instead, drawing.x] = [drawing.x, "step"];
    press("step");
    changed("x");
    return true;
  };
  return node;
}

/** The metric that stands for a run's score, of all that it has logged; of several phases, the latest one's. */
export function telling(keys) {
  for (const last of RETURNS) {
    const found = keys.findLast((key) => key.endsWith(`/${last}`));
    if (found) return found;
  }
  return keys.includes("eval/mean") ? "eval/mean" : keys[0] || null;
}

/** Keys by what stands before the last slash, in the order of the file; a run's own counters last. */
export function groups(keys) {
  const found = new Map();
  const name = (key) => key.split("/").slice(0, -1).join("/") || key;
  for (const key of keys) if (key !== "step") found.set(name(key), [...(found.get(name(key)) || []), key]);
  const place = (key) => (key === "run" ? Infinity : keys.findIndex((other) => other.split("/")[0] === key.split("/")[0]));
  return [...found].sort(([a], [b]) => place(a) - place(b));
}
