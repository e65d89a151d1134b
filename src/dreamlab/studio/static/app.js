// The page's frame: which page an address shows, the tabs of a run, and the theme.
//
//   #/                          all runs              pages/runs.js
//   #/run/NAME                  one run, live         pages/run.js
//   #/play/NAME?row=&checkpoint=                      pages/play.js
//   #/inside/NAME?row=                                pages/inside.js
//   #/episodes/NAME?episode=&at=                      pages/episodes.js
//   #/compare?run=A&run=B                             pages/compare.js
//
// A page is a module: mount(root, {run, params, signal, go}); the signal ends it.
import { Refused } from "./api.js";
import { el, notice, put } from "./dom.js";

const PAGES = ["runs", "run", "play", "inside", "episodes", "compare"];
const TABS = [["run", "Overview"], ["play", "Play"], ["inside", "Inside"], ["episodes", "Episodes"]];
const THEMES = ["auto", "dark", "light"];
let ending = new AbortController();

/** The address of a page: hash("play", "demo", {row: 12}). */
export function hash(page, run = "", params = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params))
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined) query.append(key, one);
  const text = query.toString();
  const name = run.split("/").map(encodeURIComponent).join("/");
  return `#/${page === "runs" ? "" : page}${name ? `/${name}` : ""}${text ? `?${text}` : ""}`;
}

function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...run] = path.split("/");
  return { page: PAGES.includes(page) ? page : "runs", run: run.map(decodeURIComponent).join("/"), params: new URLSearchParams(query) };
}

async function show() {
  ending.abort();
  ending = new AbortController();
  const { signal } = ending;
  const { page, run, params } = place();
  const root = document.getElementById("page");
  root.className = `page-${page}`;
  document.title = `${run || (page === "compare" ? "Compare" : "Runs")} · dreamlab studio`;
  tabs(page, run);
  try {
    const module = await import(`./pages/${page}.js`);
    if (signal.aborted) return;
    put(root);
    scrollTo(0, 0);
    await module.mount(root, { run, params, signal, go: (to) => (location.hash = to) });
  } catch (error) {
    if (signal.aborted) return;
    put(root, el("section", { class: "empty" }, el("h1", {}, "This cannot be shown"), el("p", {}, error.message), el("a", { class: "button", href: "#/" }, "All runs")));
    if (error.name !== "Error") console.warn(error);
  }
}

function tabs(page, run) {
  const links = TABS.map(([key, text]) => el("a", { href: hash(key, run), "aria-current": key === page ? "page" : null }, text));
  put(document.getElementById("tabs"), run ? [el("b", { class: "where", title: run }, run), el("span", { class: "tabs" }, links)] : null);
}

const button = document.getElementById("theme");
function theme(next) {
  document.documentElement.dataset.theme = next;
  localStorage.setItem("theme", next);
  button.textContent = { auto: "Theme: system", dark: "Theme: dark", light: "Theme: light" }[next];
  dispatchEvent(new Event("theme"));
}
button.addEventListener("click", () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]));
theme(document.documentElement.dataset.theme);
addEventListener("hashchange", show);
// What a page has asked for ends with the page, and that is no error; a refusal that nobody took up is told.
addEventListener("unhandledrejection", (event) => {
  const { reason } = event;
  if (reason instanceof Refused) notice(reason.message, "error");
  else if (reason?.name !== "AbortError") return;
  event.preventDefault();
});
show();
