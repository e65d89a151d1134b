import { el, put } from "../dom.js";

export async function mount(root, { run, params, signal, go }) {
  put(root, el("h1", {}, run || "compare"));
}
