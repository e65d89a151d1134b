// A small curve without axes, for a row of a table.
const NS = "http://www.w3.org/2000/svg";
const [W, H] = [104, 28];

/** spark([1, 2, 3], "Returns so far"): an SVG; nothing to see where there are fewer than two values. */
export function spark(values, label) {
  const svg = document.createElementNS(NS, "svg");
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${W} ${H}`, width: W, height: H, class: "spark", role: "img", "aria-label": label })) svg.setAttribute(key, value);
  const known = (values || []).filter((v) => v !== null && Number.isFinite(v));
  if (known.length < 2) return svg;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const at = known.map((v, i) => [2 + (i / (known.length - 1)) * (W - 6), high > low ? H - 4 - ((v - low) / (high - low)) * (H - 8) : H / 2]);
  const line = document.createElementNS(NS, "polyline");
  line.setAttribute("points", at.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "));
  const dot = document.createElementNS(NS, "circle");
  for (const [key, value] of Object.entries({ cx: at.at(-1)[0].toFixed(1), cy: at.at(-1)[1].toFixed(1), r: 2.2 })) dot.setAttribute(key, value);
  svg.append(line, dot);
  return svg;
}
