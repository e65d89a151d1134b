// Runs side by side: the page of `dreamlab compare`, made by the studio and shown in a frame that runs no script.
import { Refused } from "../api.js";
import { el, put, sentence } from "../dom.js";

export async function mount(root, { params, signal, go }) {
  const names = params.getAll("run");
  const title = el("div", {}, el("h1", {}, names.length === 1 ? "Report of one run" : "Compare"), el("p", { class: "muted compare-names" }, names.join(" · ")));
  const stage = el("div", { class: "compare-stage" });
  put(root, el("header", { class: "run-head" }, title, el("a", { class: "button", href: "#/" }, "Choose runs")), stage);
  if (!names.length) return void put(stage, el("div", { class: "empty" }, el("h2", {}, "Nothing to compare yet"), el("p", {}, "Tick runs on the first page, then press Compare.")));
  put(stage, el("p", { class: "muted compare-wait", role: "status" }, names.length === 1 ? "Putting its scores beside what papers have …" : `Putting ${names.length} runs side by side. The first time takes some seconds …`));
  let told;
  try {
    told = await post({ runs: names }, signal);
  } catch (error) {
    if (signal.aborted) return;
    const [first, ...more] = error.message.split("\n");
    return void put(stage, el("div", { class: "empty" }, el("h2", {}, sentence(first).replace(/:$/, "")), more.map((text) => el("p", {}, text.trim()))));
  }
  const frame = el("iframe", { class: "compare-page", sandbox: "allow-same-origin", src: told.page, title: "Comparison" });
  frame.addEventListener("load", () => fit(frame, signal));
  put(stage, told.said.length > 0 && el("div", { class: "card compare-said" }, el("h3", {}, "Left out"), told.said.map((text) => el("p", {}, text))), frame);
}

/** The frame takes the height of its page, so that there is one scroll bar; its folds open and close. */
function fit(frame, signal) {
  const inside = frame.contentDocument?.documentElement;
  if (!inside) return;
  const body = frame.contentDocument.body;
  const measure = () => frame.style.setProperty("height", `${Math.ceil(body.getBoundingClientRect().height + 80)}px`);
  const watch = new ResizeObserver(measure);
  watch.observe(body);
  signal.addEventListener("abort", () => watch.disconnect());
  // its style asks the system for dark or light: the theme that was chosen here answers
  const rules = [...frame.contentDocument.styleSheets].flatMap((sheet) => [...sheet.cssRules]).filter((rule) => rule.media?.mediaText.includes("prefers-color-scheme"));
  const dark = rules.map((rule) => rule.media.mediaText.includes("dark"));
  const theme = () => {
    const chosen = getComputedStyle(document.documentElement).colorScheme;
    inside.style.setProperty("color-scheme", chosen);
    rules.forEach((rule, i) => (rule.media.mediaText = dark[i] === (chosen === "dark") ? "all" : "not all"));
  };
  addEventListener("theme", theme, { signal });
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", theme, { signal });
  theme();
  measure();
}

async function post(body, signal) {
  let reply;
  try {
    reply = await fetch("/api/compare", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The studio does not answer. Is it still running?");
  }
  const told = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refused(told.error || `The studio answered ${reply.status}.`);
  return told;
}
