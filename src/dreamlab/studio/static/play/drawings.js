// Pictures of environments that give numbers alone, drawn from the numbers; the dream's and reality's alike.
export function drawing(env, names) {
  return null;
}
