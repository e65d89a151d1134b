// A game controller's cross, left stick and lower button as the arrow keys and the space bar.
const BUTTONS = [[12, "ArrowUp"], [13, "ArrowDown"], [14, "ArrowLeft"], [15, "ArrowRight"], [0, "Space"], [7, "ArrowUp"], [6, "ArrowDown"]];
const STICK = 0.4; // how far it must lean

/** Calls `turn(code, down)` whenever one changes, as long as a controller is connected. */
export function gamepads(turn, signal) {
  const held = new Set();
  let looking = false;
  const look = () => {
    const pads = signal.aborted ? [] : [...navigator.getGamepads()].filter(Boolean);
    const now = new Set();
    for (const { axes, buttons } of pads) {
      for (const [i, code] of BUTTONS) if (buttons[i]?.pressed) now.add(code);
      if (axes[0] < -STICK) now.add("ArrowLeft");
      if (axes[0] > STICK) now.add("ArrowRight");
      if (axes[1] < -STICK) now.add("ArrowUp");
      if (axes[1] > STICK) now.add("ArrowDown");
    }
    for (const code of [...held]) if (!now.has(code) && held.delete(code)) turn(code, false);
    for (const code of now) if (!held.has(code) && held.add(code)) turn(code, true);
    looking = pads.length > 0;
    if (looking) requestAnimationFrame(look);
  };
  addEventListener("gamepadconnected", () => looking || look(), { signal });
  look();
}
