// Pause, step, again, who plays, speed, temperature, reality, recording: what can be set while one plays.
import { link } from "../api.js";
import { el, notice } from "../dom.js";

const SPEEDS = [1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60];

export class Transport {
  constructor(play) {
    Object.assign(this, { play, paused: false, who: "you", turns: false, recording: false, fps: 15, temperature: 1, slow: 0, wasPaused: null });
    const button = (text, hint, work, props = {}) => el("button", { type: "button", onclick: work, "aria-keyshortcuts": hint, title: hint ? `${text} (${hint})` : text, ...props }, text);
    this.pauseButton = button("Pause", "P", () => this.pause(!this.paused), { "aria-pressed": "false", class: "steady" });
    this.stepButton = button("One step", "N", () => this.step());
    this.againButton = button("Again", "R", () => play.begin());
    this.you = button("You", "", () => this.hand("you"), { "aria-pressed": "true" });
    this.agent = button("Agent", "", () => this.hand("agent"), { "aria-pressed": "false" });
    this.recordButton = button("Record", "", () => this.record(!this.recording), { "aria-pressed": "false", class: "steady" });
    this.turnBox = el("input", { type: "checkbox", onchange: () => this.turn(this.turnBox.checked) });
    this.realBox = el("input", { type: "checkbox", onchange: () => play.wantReality(this.realBox.checked) });
    this.differenceBox = el("input", { type: "checkbox", onchange: () => play.stage.showDifference(this.differenceBox.checked) });
    this.speed = el("input", { type: "range", "aria-label": "Speed", min: 0, max: SPEEDS.length - 1, step: 1, value: 8, oninput: () => this.setSpeed(SPEEDS[this.speed.value]) });
    this.speedText = el("output", {});
    this.heat = el("input", { type: "range", "aria-label": "Temperature", min: 0.1, max: 2, step: 0.05, value: 1, oninput: () => this.setHeat(Number(this.heat.value)) });
    this.heatText = el("output", {}, "1.00");
    this.own = el("p", { class: "muted small own", role: "status" });
    this.film = el("p", { class: "film small", role: "status" });
    const group = (label, ...nodes) => el("div", { class: "group", role: "group", "aria-label": label }, nodes);
    this.node = el("section", { class: "transport card", "aria-label": "Settings of the dream" },
      el("div", { class: "row" }, group("Time", this.pauseButton, this.stepButton, this.againButton), group("Who plays", el("span", { class: "muted small" }, "Plays"), el("span", { class: "switch" }, this.you, this.agent)), this.recordButton, this.film),
      el("div", { class: "sliders" },
        el("label", { class: "field" }, el("span", { class: "row between" }, "Speed", this.speedText), this.speed),
        el("label", { class: "field" }, el("span", { class: "row between" }, "Temperature", this.heatText), this.heat)),
      el("div", { class: "row checks" },
        this.check(this.realBox, "Reality beside it"), this.check(this.differenceBox, "Difference"), this.check(this.turnBox, "Time waits for a key")),
      this.own);
    this.node.inert = true; // until there is a dream
  }

  check(box, text) {
    return el("label", { class: "check" }, box, el("span", {}, text));
  }

  show(ready) {
    this.node.inert = false;
    this.fps = ready.fps;
    this.speed.value = SPEEDS.reduce((best, s, i) => (Math.abs(s - ready.fps) < Math.abs(SPEEDS[best] - ready.fps) ? i : best), 0);
    this.tellSpeed();
    this.heat.value = this.temperature = ready.temperature;
    this.heatText.textContent = this.temperature.toFixed(2);
    this.agent.disabled = !ready.can.agent;
    this.agent.title = ready.can.why.agent || "Hand over to the agent (H)";
    this.differenceBox.checked = this.play.stage.difference;
    this.differenceBox.disabled = !ready.can.picture;
    this.recordButton.disabled = !ready.can.picture;
    this.recordButton.title = ready.can.why.picture || "Record a film";
    this.press("you", ready.who);
  }

  /** What a new dream changes: whether reality can be had from this start, and whether a film goes on. */
  begun(ready) {
    if (this.recording && !ready.recording) this.recorded(false);
    this.realBox.checked = this.play.reality && ready.can.reality;
    this.realBox.disabled = !ready.can.reality;
  }

  go() {
    if (this.paused) this.pause(false);
    this.film.replaceChildren();
  }

  pause(on) {
    this.paused = on;
    this.pauseButton.textContent = on ? "Go on" : "Pause";
    this.pauseButton.setAttribute("aria-pressed", on);
    this.play.set({ paused: on });
    this.tellWho();
  }

  /** A page that is not looked at does not dream. */
  hidden(on) {
    if (on && !this.paused) {
      this.wasPaused = true;
      this.pause(true);
    } else if (!on && this.wasPaused) {
      this.wasPaused = null;
      this.pause(false);
    }
  }

  step() {
    if (!this.paused) this.pause(true);
    this.play.send({ do: "step" });
  }

  hand(who) {
    if (this.agent.disabled && who === "agent") return;
    this.play.hands?.releaseAll();
    this.press("you", who);
    this.play.set({ who });
    this.play.stage.focus();
  }

  press(_, who) {
    this.who = who;
    this.you.setAttribute("aria-pressed", who === "you");
    this.agent.setAttribute("aria-pressed", who === "agent");
    this.tellWho();
  }

  tellWho() {
    const node = this.play.stage.who;
    node.textContent = this.paused ? "Paused" : this.who === "agent" ? "The agent plays" : "You play";
    node.dataset.who = this.paused ? "nobody" : this.who;
  }

  turn(on) {
    this.turns = this.turnBox.checked = on;
    this.play.set({ turns: on });
  }

  setSpeed(fps) {
    this.fps = fps;
    this.slow = 0;
    this.tellSpeed();
    this.play.set({ fps });
  }

  tellSpeed() {
    this.speedText.textContent = `${this.fps} fps`;
  }

  setHeat(value) {
    this.temperature = value;
    this.heatText.textContent = value.toFixed(2);
    this.play.set({ temperature: value });
  }

  record(on) {
    this.recorded(on);
    this.film.textContent = on ? "" : "The film is being written";
    this.play.send(on ? { do: "record", on: true } : { do: "save" });
  }

  recorded(on) {
    this.recording = on;
    this.recordButton.setAttribute("aria-pressed", on);
    this.recordButton.textContent = on ? "Stop and save" : "Record";
  }

  saved({ run, path }) {
    this.recorded(false);
    this.film.replaceChildren(el("a", { href: link(`media/${run}/${path}`), target: "_blank", rel: "noopener", title: path }, "The film"));
    notice(`Saved as ${path}`);
  }

  /** A model slower than what was asked for says its own speed. */
  follow(head) {
    const late = head.rate && head.rate < 0.85 * this.fps && !this.paused && !this.turns;
    this.slow = late ? this.slow + 1 : 0;
    const text = this.slow > 12 ? `This model comes to ${head.rate.toFixed(0)} frames a second here: ${head.ms.toFixed(0)} ms each.` : "";
    if (!text || this.slow % 10 === 3) if (this.own.textContent !== text) this.own.textContent = text;
  }

  /** Keys of the page itself, where the game has no such key. */
  shortcut(code) {
    const work = { KeyP: () => this.pause(!this.paused), KeyN: () => this.step(), KeyR: () => this.play.begin(), KeyH: () => this.hand(this.who === "you" ? "agent" : "you") }[code];
    work?.();
    return Boolean(work);
  }
}
