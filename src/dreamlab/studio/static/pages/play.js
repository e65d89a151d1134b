// Play inside the dream: by keys or buttons, by hand or by the agent, with reality beside it.
import { hash } from "../app.js";
import { el, notice, put } from "../dom.js";
import { Hands } from "../play/hands.js";
import { gamepads } from "../play/gamepads.js";
import { Keys } from "../play/keys.js";
import { Numbers } from "../play/numbers.js";
import { Session } from "../play/session.js";
import { Stage } from "../play/stage.js";
import { Starts } from "../play/starts.js";
import { Transport } from "../play/transport.js";

export async function mount(root, { run, params, signal }) {
  new Play(root, run, params, signal);
}

class Play {
  constructor(root, run, params, signal) {
    Object.assign(this, { run, signal, ready: null, hands: null, head: null, cut: false });
    const row = params.get("row");
    const checkpoint = params.get("checkpoint");
    this.checkpoint = checkpoint === null ? null : Number(checkpoint);
    this.start = row === null ? { kind: "any" } : { kind: "row", row: Number(row) };
    this.reality = localStorage.getItem("play.reality") !== "off";
    this.stage = new Stage(this);
    this.keys = new Keys(this);
    this.numbers = new Numbers();
    this.transport = new Transport(this);
    this.starts = new Starts(this);
    put(root,
      el("h1", { class: "unseen" }, `Play in the dream of ${run}`),
      this.node = el("div", { class: "play" },
        el("div", { class: "play-stage" }, this.stage.node, this.transport.node),
        el("div", { class: "play-keys card" }, this.keys.node),
        el("div", { class: "play-numbers card" }, this.numbers.node),
        el("div", { class: "play-starts card" }, this.starts.node)));
    this.session = new Session(this, signal);
    this.listen();
    this.starts.load(signal);
    this.starts.offer(signal);
  }

  send(message) {
    this.session.send(message);
  }

  // ---- what the player wants

  open() {
    const { run, checkpoint, start, reality } = this;
    const fps = this.ready ? this.transport.fps : null;
    this.send({ do: "open", run, checkpoint, start, reality, fps, temperature: this.transport.temperature });
  }

  /** Begin somewhere else, or again at the same place. */
  begin(start = null) {
    if (start) this.start = start;
    this.hands?.releaseAll();
    this.transport.go();
    if (this.ready) this.send({ do: "restart", start: this.start });
    else this.open();
    this.stage.focus();
  }

  /** Play what was learned by another checkpoint, the newest where it is null, from the same start. */
  change(checkpoint) {
    this.checkpoint = checkpoint;
    const row = this.start.kind === "row" ? this.start.row : null;
    history.replaceState(history.state, "", hash("play", this.run, { row, checkpoint }));
    this.hands?.releaseAll();
    this.open();
    this.starts.load(this.signal);
  }

  set(change) {
    this.send({ do: "set", ...change });
  }

  wantReality(on) {
    this.reality = on;
    localStorage.setItem("play.reality", on ? "on" : "off");
    this.set({ reality: on });
    this.stage.reality(on ? "coming" : "away");
  }

  // ---- what the studio says

  opened() {
    if (this.cut) notice("The studio is back.");
    this.cut = false;
    if (this.ready) this.set({ paused: this.transport.paused, turns: this.transport.turns, who: this.transport.who });
    this.open();
  }

  said(message) {
    const { is } = message;
    if (is === "waiting") this.stage.say("All seats are taken", `You are number ${message.place} in the line, and come in when somebody leaves.`);
    else if (is === "opening") this.opening = setTimeout(() => this.stage.say("Opening the dream", "", true), this.ready ? 300 : 0);
    else if (is === "ready") this.begun(message);
    else if (is === "reality") this.realityIs(message);
    else if (is === "saved") this.transport.saved(message);
    else if (is === "away") this.gone(message.text);
    else if (is === "told") notice(message.text);
    else if (is === "error") this.failed(message);
  }

  begun(ready) {
    clearTimeout(this.opening);
    const fresh = !this.ready || this.ready.run !== ready.run || this.ready.checkpoint !== ready.checkpoint;
    this.node.classList.remove("alone");
    this.ready = ready;
    this.start = ready.start.kind === "row" ? { kind: "row", row: ready.start.row } : { kind: "reset", seed: ready.start.seed };
    if (fresh || !this.hands) {
      this.hands?.end();
      this.hands = new Hands(ready.keys, (act, n) => this.send({ do: "act", act, n }), () => this.keys.pressed());
      this.hands.n = this.n || 0;
      this.keys.show(ready, this.hands);
      this.transport.show(ready);
      if (ready.keys.turns) this.transport.turn(true);
    } else this.hands.n += 1;
    this.transport.node.inert = false;
    this.transport.begun(ready);
    this.stage.show(ready, this.reality);
    this.numbers.show(ready, this.reality && ready.can.reality);
    this.starts.mark(this.start);
    if (fresh) this.stage.focus();
  }

  realityIs({ state, why }) {
    this.stage.reality(state, why);
  }

  failed({ text, over }) {
    clearTimeout(this.opening);
    this.transport.film.replaceChildren();
    if (this.ready && !over) return notice(text, "error");
    const again = this.ready ? el("button", { type: "button", class: "main", onclick: () => this.starts.surprise() }, "Begin elsewhere") : null;
    if (!this.ready) this.node.classList.add("alone");
    this.ready = this.head = null;
    this.stage.say("This cannot be played", text, false, [again, el("a", { class: "button", href: hash("runs") }, "All runs")]);
  }

  /** The seat was given to somebody else. */
  gone(text) {
    this.ready = this.head = null;
    this.stage.say("Your seat was given away", text, false, [el("button", { type: "button", class: "main", onclick: () => this.begin() }, "Play on")]);
  }

  shown(head, planes) {
    this.head = head;
    this.n = this.hands?.n;
    this.stage.paint(head, planes);
    this.keys.acted(head);
    this.numbers.push(head, this.ready, !this.transport.turns && !this.transport.paused);
    this.transport.follow(head);
    this.hands?.tick();
    if (head.ended) this.stage.over(head);
  }

  lost() {
    this.cut = true;
    this.transport.node.inert = true;
    this.head = null;
    this.stage.say("The studio does not answer", "It is asked again every moment. Is it still running?", true);
  }

  // ---- keys

  listen() {
    const on = (name, work, target = document) => target.addEventListener(name, work, { signal: this.signal });
    on("keydown", (event) => this.keydown(event));
    on("keyup", (event) => this.hands?.release(event.code));
    on("blur", () => this.hands?.releaseAll(), window);
    on("visibilitychange", () => {
      this.hands?.releaseAll();
      this.transport.hidden(document.hidden);
    });
    this.signal.addEventListener("abort", () => this.hands?.end());
    gamepads((code, down) => (down ? this.hands?.press(code) : this.hands?.release(code)), this.signal);
  }

  keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.hands || this.cut) return;
    const at = event.target.closest?.("input, select, textarea, button, a, summary");
    const writing = at?.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (writing || (at && ["Space", "Enter"].includes(event.code)) || (at?.matches("input") && event.code.startsWith("Arrow"))) return;
    if (this.stage.isOver && ["Space", "Enter"].includes(event.code) && !event.repeat && performance.now() - this.stage.ended > 400) {
      event.preventDefault();
      this.begin();
    } else if (this.hands.codes.has(event.code)) {
      event.preventDefault();
      if (!event.repeat) this.hands.press(event.code);
    } else if (!event.repeat && this.transport.shortcut(event.code)) event.preventDefault();
  }
}
