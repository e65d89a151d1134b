// The keys that act, as buttons: they light up with what is done, whoever does it, and work by touch.
import { el, put } from "../dom.js";
import { cap, spoken } from "./hands.js";

const CROSS = { ArrowUp: "up", ArrowLeft: "left", ArrowDown: "down", ArrowRight: "right" };

export class Keys {
  constructor(play) {
    Object.assign(this, { play, buttons: new Map(), hands: null });
    this.title = el("h2", {}, "Keys");
    this.note = el("p", { class: "muted" });
    this.cross = el("div", { class: "cross" });
    this.others = el("div", { class: "others" });
    this.pad = el("div", { class: "pad" }, this.cross, this.others);
    this.node = el("section", { "aria-label": "Keys" }, el("div", { class: "row between" }, this.title, this.note), this.pad);
  }

  show(ready, hands) {
    this.hands = hands;
    this.buttons.clear();
    put(this.cross);
    put(this.others);
    for (const b of hands.buttons) {
      const key = el("kbd", {}, b.code.startsWith("none:") ? "•" : cap(b.code));
      const node = el("button", { type: "button", class: "key", "aria-pressed": "false", "aria-label": b.keys.length ? `${b.name}, ${spoken(b.code)}` : b.name }, key, el("span", {}, b.name));
      this.touch(node, b.code);
      this.buttons.set(b.code, node);
      if (CROSS[b.code]) {
        node.classList.add(CROSS[b.code]);
        this.cross.append(node);
      } else this.others.append(node);
    }
    this.cross.classList.toggle("flat", !hands.codes.has("ArrowUp") && !hands.codes.has("ArrowDown"));
    this.cross.hidden = !this.cross.childElementCount;
    this.others.hidden = !this.others.childElementCount;
    this.others.classList.toggle("many", this.others.childElementCount > 3);
    const chords = (ready.keys.actions || []).some((a) => a.keys.length > 1);
    this.note.textContent = chords || ready.keys.kind === "axes" ? "several at once" : "";
  }

  /** A finger or the mouse holds the key as long as it is down; from a keyboard or a screen reader it is a short press. */
  touch(node, code) {
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      this.hands.press(code);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) node.addEventListener(name, () => this.hands.release(code));
    node.addEventListener("contextmenu", (event) => event.preventDefault());
    node.addEventListener("click", (event) => {
      if (event.detail) return; // a pointer's, already seen
      this.hands.press(code);
      setTimeout(() => this.hands.release(code), 30);
    });
  }

  pressed() {
    if (this.play.transport.who !== "you") return;
    for (const [code, node] of this.buttons) {
      const down = this.hands.down.has(code);
      node.setAttribute("aria-pressed", down);
      if (!down && !this.hands.current) node.style.setProperty("--level", 0);
    }
  }

  acted(head) {
    if (!this.hands) return;
    const levels = this.hands.levels(head.act);
    for (const [code, node] of this.buttons) {
      const down = head.who === "agent" ? (levels.get(code) || 0) > 0.05 : this.hands.down.has(code);
      node.style.setProperty("--level", down || this.hands.current ? levels.get(code) || 0 : 0);
      if (node.getAttribute("aria-pressed") !== String(down)) node.setAttribute("aria-pressed", down);
    }
  }
}
