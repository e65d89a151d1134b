// The pictures: the dream large, reality and the difference beside it, and a word over the dream where one is due.
import { el, figure, put } from "../dom.js";
import { paint } from "../pixels.js";
import { drawing } from "./drawings.js";

export class Stage {
  constructor(play) {
    Object.assign(this, { play, covered: true, isOver: false, difference: localStorage.getItem("play.difference") === "on", ready: null, draw: null });
    this.screens = {};
    for (const [name, title] of [["dream", "The dream"], ["real", "Reality"], ["difference", "Difference"]]) {
      const canvas = el("canvas", { class: "pixels", width: 64, height: 64, role: "img", "aria-label": title });
      const note = el("span", { class: "muted" });
      const node = el("figure", { class: `screen ${name}` }, el("div", { class: "glass" }, canvas), el("figcaption", {}, el("b", {}, title), note));
      this.screens[name] = { node, canvas, note };
    }
    this.cover = el("div", { class: "cover", role: "status", "aria-live": "polite" });
    this.screens.dream.node.firstChild.append(this.cover);
    this.title = el("p", { class: "play-title muted" }, " ");
    this.who = el("p", { class: "play-who" }, " ");
    this.light = el("canvas", { class: "light", width: 8, height: 6, "aria-hidden": "true" });
    this.screenRow = el("div", { class: "screens" }, this.light, Object.values(this.screens).map((s) => s.node));
    this.note = el("p", { class: "muted small", role: "status" });
    this.node = el("section", { class: "stage", tabindex: "0", "aria-label": "The dream. Keys act here." }, el("div", { class: "row between" }, this.title, this.who), this.screenRow, this.note);
    this.arrange();
    this.say("Opening the dream", "", true);
  }

  focus() {
    this.node.focus({ preventScroll: true });
  }

  show(ready, reality) {
    this.ready = ready;
    this.isOver = false;
    this.draw = ready.can.picture ? null : drawing(ready.env, ready.vector);
    this.title.textContent = `${ready.agent} · ${ready.env} · checkpoint ${ready.checkpoint.toLocaleString("en")}`;
    this.reality("away", reality ? ready.can.why.reality : "");
    const [h, w] = ready.size || this.draw?.size || [2, 3];
    this.node.style.setProperty("--shape", `${w} / ${h}`);
    this.node.style.setProperty("--ratio", w / h);
    this.node.classList.toggle("no-picture", !ready.can.picture && !this.draw);
    this.node.classList.toggle("drawn", Boolean(this.draw));
    this.uncover();
    this.clear();
  }

  /** state: coming, here, away */
  reality(state, why = "") {
    this.state = state;
    put(this.note, state === "away" && why ? [why, this.play.start.kind === "row" && this.ready.can.reality ? el("button", { type: "button", class: "link", onclick: () => this.play.starts.reset() }, "Begin there") : null] : "");
    this.screens.real.note.textContent = state === "coming" ? "on its way" : "";
    this.arrange();
    if (state !== "here") this.blank("real");
  }

  arrange() {
    const beside = this.state === "here" || this.state === "coming";
    this.screens.real.node.hidden = !beside;
    this.screens.difference.node.hidden = !(beside && this.difference) || Boolean(this.draw);
    const count = 1 + Number(beside) + Number(!this.screens.difference.node.hidden);
    this.screenRow.dataset.count = count;
    this.screenRow.style.setProperty("--count", count);
  }

  showDifference(on) {
    this.difference = on;
    localStorage.setItem("play.difference", on ? "on" : "off");
    this.arrange();
  }

  clear() {
    for (const name of ["real", "difference"]) this.blank(name);
  }

  blank(name) {
    const { canvas } = this.screens[name];
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  }

  paint(head, planes) {
    if (!head.ended && this.isOver) this.uncover();
    if (this.draw) {
      this.draw(this.screens.dream.canvas, head.vector.dream);
      if (head.vector.real) this.draw(this.screens.real.canvas, head.vector.real);
    } else {
      const { dream, real } = planes;
      if (dream) paint(this.screens.dream.canvas, dream.bytes, dream.height, dream.width);
      if (real) paint(this.screens.real.canvas, real.bytes, real.height, real.width);
      if (real && dream && this.difference && real.bytes.length === dream.bytes.length)
        paint(this.screens.difference.canvas, dream.bytes.map((b, i) => Math.min(255, 2 * Math.abs(b - real.bytes[i]))), dream.height, dream.width);
    }
    const light = this.light.getContext("2d");
    light.imageSmoothingQuality = "high";
    light.drawImage(this.screens.dream.canvas, 0, 0, 8, 6);
    if (head.real) this.screens.real.note.textContent = head.real.ended ? `ended, return ${figure(head.real.ret)}` : `return ${figure(head.real.ret)}`;
    this.screens.dream.note.textContent = this.ready.can.rew ? `return ${figure(head.ret)}` : "";
  }

  /** A word over the dream, with buttons below it. */
  say(title, text = "", busy = false, buttons = []) {
    this.covered = true;
    this.cover.classList.remove("end");
    put(this.cover, busy ? el("i", { class: "breath", "aria-hidden": "true" }) : null, el("b", {}, title), text ? el("p", {}, text) : null, buttons.length ? el("div", { class: "row" }, buttons) : null);
    this.cover.hidden = false;
  }

  uncover() {
    this.covered = this.isOver = false;
    this.cover.hidden = true;
  }

  over(head) {
    if (this.isOver) return;
    this.say("The dream ends here", `${head.tick} ${head.tick === 1 ? "step" : "steps"}${this.ready.can.rew ? `, return ${figure(head.ret)}` : ""}`, false, [
      el("button", { type: "button", class: "main", onclick: () => this.play.begin(), "aria-keyshortcuts": "Enter" }, "Play again"),
      el("button", { type: "button", onclick: () => this.play.starts.surprise() }, "Somewhere else"),
    ]);
    this.cover.classList.add("end");
    this.isOver = true;
    this.ended = performance.now();
  }
}
