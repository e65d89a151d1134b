// What the page asks the studio. Every error is a sentence for the user.

export class Refused extends Error {}

/** JSON from /api; params whose value is null are left out, a list becomes a repeated parameter. */
export async function get(path, params = {}, signal = undefined) {
  let reply;
  try {
    reply = await fetch(link(path, params), { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The studio does not answer. Is it still running?");
  }
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refused(body.error || `The studio answered ${reply.status}.`);
  return body;
}

/** The address of something under /api, for images, films and frames as well. */
export function link(path, params = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params))
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined) query.append(key, one);
  const text = query.toString();
  return `/api/${path.split("/").map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** A WebSocket under /api. */
export function socket(path) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const ws = new WebSocket(`${scheme}://${location.host}/api/${path}`);
  ws.binaryType = "arraybuffer";
  return ws;
}

/** Call `work` now and every `seconds` while the page is seen, until the signal ends it; a failure is told once. */
export function every(seconds, work, signal, failed = () => {}) {
  let told = false;
  const tick = async () => {
    if (signal.aborted) return;
    if (!document.hidden) {
      try {
        await work();
        told = false;
      } catch (error) {
        if (signal.aborted) return;
        if (!told) failed(error);
        told = true;
      }
    }
    if (!signal.aborted) setTimeout(tick, seconds * 1000);
  };
  tick();
}
