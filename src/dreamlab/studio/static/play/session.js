// The line to the studio: opens it, opens it again when it was cut, and says what came.
import { socket } from "../api.js";
import { unpack } from "../pixels.js";

const AGAIN = 1500; // milliseconds between two tries

export class Session {
  /** `on` has: opened(), said(message), shown(head, planes), lost(), each called when it happens. */
  constructor(on, signal) {
    Object.assign(this, { on, signal, ws: null, tries: 0 });
    signal.addEventListener("abort", () => this.ws?.close());
    this.open();
  }

  open() {
    const ws = (this.ws = socket("play"));
    ws.onopen = () => {
      this.tries = 0;
      this.on.opened();
    };
    ws.onmessage = ({ data }) => {
      if (this.signal.aborted) return;
      if (typeof data === "string") return this.on.said(JSON.parse(data));
      const { head, planes } = unpack(data);
      this.send({ do: "seen", sent: head.sent });
      this.on.shown(head, planes);
    };
    ws.onclose = () => {
      if (this.signal.aborted || this.ws !== ws) return;
      this.on.lost(++this.tries);
      setTimeout(() => this.signal.aborted || this.open(), AGAIN);
    };
  }

  send(message) {
    if (this.ws?.readyState === WebSocket.OPEN) this.ws.send(JSON.stringify(message));
  }
}
