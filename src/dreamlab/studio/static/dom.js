// Elements from data. Text is always text: nothing that comes from a run's folder is ever read as HTML.

/** el("p", {class: "note", onclick: f}, "text", child, [more]): an element. Properties that are null are left out. */
export function el(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "dataset") Object.assign(node.dataset, value);
    else if (key === "style" && typeof value === "object") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? "" : value);
  }
  fill(node, children);
  return node;
}

function fill(node, children) {
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
}

/** Put children in place of whatever a node holds. */
export function put(node, ...children) {
  node.replaceChildren();
  fill(node, children);
  return node;
}

/** A word to the user at the foot of the page; it goes by itself. kind: "info" or "error". */
export function notice(text, kind = "info") {
  const note = el("div", { class: `notice ${kind}` }, text);
  document.getElementById("notices").append(note);
  setTimeout(() => note.remove(), kind === "error" ? 9000 : 4500);
}

/** A number as it is told: 1,234 · 56.7 · 0.0123 · 1.62M. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e5) return `${Math.round(value / 1e3)}k`;
  if (Number.isInteger(value) || size >= 1000) return Math.round(value).toLocaleString("en");
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.01 || value === 0 ? value.toPrecision(3).replace(/\.?0+$/, "") : value.toExponential(1);
}

/** A time: 48 s · 24 min · 3.5 h · 2.1 d. */
export function span(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
    if (seconds >= 1.5 * size) return `${Number((seconds / size).toPrecision(3))} ${unit}`;
  return `${Math.round(seconds)} s`;
}

/** A time that is estimated, and told no finer than it is known: 85 s · 4 min · 2.4 h. */
export function about(seconds) {
  const grain = seconds < 90 ? 5 : seconds < 5400 ? 60 : 360;
  return span(Math.max(grain, Math.round(seconds / grain) * grain));
}

/** How long ago a time in seconds was: now · 4 min ago · 2 d ago. */
export function ago(time) {
  const seconds = Math.max(0, Date.now() / 1000 - time);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return "just now";
}

/** A sentence that the studio told, as a page begins one. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
