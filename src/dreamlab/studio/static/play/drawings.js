// Pictures of environments that give numbers alone, drawn from the numbers; the dream's and reality's alike.
// Each drawing knows its width and height in units of the environment, with y upwards.

const TAU = 2 * Math.PI;
const INK = "#d9e0f0";
const FAINT = "#4a5268";
const BODY = "#8db8ff";
const WARM = "#f0b878";

const DRAWINGS = [
  [/^CartPole-/, 4, { x: [-2.6, 2.6], y: [-0.7, 2.2] }, (p, [x, , angle]) => {
    p.line(FAINT, 0.03, [-2.4, 0], [2.4, 0]);
    for (const end of [-2.4, 2.4]) p.line(FAINT, 0.03, [end, -0.12], [end, 0.12]);
    p.shape(BODY, box(x, 0, 0.35, 0.18));
    p.line(WARM, 0.11, [x, 0.1], [x + 1.5 * Math.sin(angle), 0.1 + 1.5 * Math.cos(angle)]);
    p.disc(INK, x, 0.1, 0.07);
  }],
  [/^LunarLander/, 8, { x: [-1.2, 1.2], y: [-0.2, 1.5] }, (p, [x, y, , , angle, , left, right]) => {
    p.shape("#2a3040", [[-1.4, -0.3], [1.4, -0.3], [1.4, -0.06], [-1.4, -0.06]]);
    p.line(INK, 0.015, [-0.2, -0.06], [0.2, -0.06]);
    for (const at of [-0.2, 0.2]) {
      p.line(INK, 0.012, [at, -0.06], [at, 0.1]);
      p.shape(WARM, [[at, 0.1], [at + 0.07, 0.075], [at, 0.05]]);
    }
    const turn = ([a, b]) => [x + a * Math.cos(angle) - b * Math.sin(angle), y + a * Math.sin(angle) + b * Math.cos(angle)];
    for (const [side, down] of [[-1, left], [1, right]]) p.line(down > 0.5 ? WARM : INK, 0.02, turn([0.05 * side, 0]), turn([0.11 * side, -0.09]));
    p.shape(BODY, [[-0.085, 0.1], [0.085, 0.1], [0.09, 0.02], [0.06, -0.03], [-0.06, -0.03], [-0.09, 0.02]].map(turn));
  }],
  [/^Pendulum-/, 3, { x: [-1.6, 1.6], y: [-1.3, 1.3] }, (p, [cos, sin]) => {
    p.line(BODY, 0.16, [0, 0], [-sin, cos]);
    p.disc(INK, 0, 0, 0.06);
  }],
  [/^MountainCar/, 2, { x: [-1.25, 0.65], y: [-0.05, 1.2] }, (p, [x]) => {
    const hill = (at) => 0.45 * Math.sin(3 * at) + 0.55;
    p.line(FAINT, 0.012, ...Array.from({ length: 80 }, (_, i) => [-1.2 + (1.8 * i) / 79, hill(-1.2 + (1.8 * i) / 79)]));
    p.line(INK, 0.008, [0.5, hill(0.5)], [0.5, hill(0.5) + 0.16]);
    p.shape(WARM, [[0.5, hill(0.5) + 0.16], [0.57, hill(0.5) + 0.13], [0.5, hill(0.5) + 0.1]]);
    p.disc(BODY, x, hill(x) + 0.04, 0.04);
  }],
  [/^Acrobot-/, 6, { x: [-3.2, 3.2], y: [-2.3, 2.3] }, (p, [c1, s1, c2, s2]) => {
    const elbow = [s1, -c1];
    const hand = [elbow[0] + s1 * c2 + c1 * s2, elbow[1] - (c1 * c2 - s1 * s2)];
    p.line(FAINT, 0.03, [-3, 1], [3, 1]);
    p.line(BODY, 0.16, [0, 0], elbow);
    p.line(WARM, 0.13, elbow, hand);
    for (const at of [[0, 0], elbow]) p.disc(INK, ...at, 0.09);
  }],
];

const box = (x, y, w, h) => [[x - w, y - h], [x + w, y - h], [x + w, y + h], [x - w, y + h]];

/** draw(canvas, vector) for an environment, and its shape [height, width]; null where there is none. */
export function drawing(env, names) {
  const found = DRAWINGS.find(([pattern, count]) => pattern.test(env) && names.length === count);
  if (!found) return null;
  const [, , view, work] = found;
  const scale = 640 / (view.x[1] - view.x[0]);
  const [w, h] = [640, Math.round(scale * (view.y[1] - view.y[0]))];
  const draw = (canvas, vector) => {
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const c = canvas.getContext("2d");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = "#10131a";
    c.fillRect(0, 0, w, h);
    c.setTransform(scale, 0, 0, -scale, -scale * view.x[0], scale * view.y[1]);
    c.lineCap = c.lineJoin = "round";
    work(new Pen(c), vector);
  };
  return Object.assign(draw, { size: [h, w] });
}

class Pen {
  constructor(context) {
    this.c = context;
  }

  line(colour, width, ...points) {
    this.path(points);
    Object.assign(this.c, { strokeStyle: colour, lineWidth: width });
    this.c.stroke();
  }

  shape(colour, points) {
    this.path(points);
    this.c.fillStyle = colour;
    this.c.fill();
  }

  disc(colour, x, y, radius) {
    this.c.beginPath();
    this.c.arc(x, y, radius, 0, TAU);
    this.c.fillStyle = colour;
    this.c.fill();
  }

  path(points) {
    this.c.beginPath();
    points.forEach(([x, y], i) => (i ? this.c.lineTo(x, y) : this.c.moveTo(x, y)));
  }
}
