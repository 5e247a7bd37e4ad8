(() => {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("plot"), told = document.getElementById("told");
const ink = canvas.getContext("2d");
const isPlane = data.dimensions === 2;
const state = { of: "loss", scale: data.start, view: "surface", split: 0, turn: -0.7, tilt: 0.6, zoom: 1 };
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = x => x === null ? "not finite" : typeof x === "string" ? x : Number(x.toPrecision(5)).toString();
const finite = x => typeof x === "number" && (state.scale === "linear" || x > 0);
const scaled = x => state.scale === "log" ? Math.log10(x) : x;

function choices(id, names, chosen, choose) {
  const box = document.getElementById(id);
  if (names.length < 2) { box.hidden = true; return; }
  for (const [i, name] of names.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(name === chosen || i === chosen));
    button.addEventListener("click", () => {
      for (const other of box.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      choose(name, i);
      draw();
    });
    box.append(button);
  }
}

function limits() {
  const [low, high] = data.limits[state.of][state.scale];
  return [scaled(low), scaled(high)];
}

function viridis(t) {
  const stops = data.viridis, at = Math.max(0, Math.min(1, t)) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[i].map((c, k) => Math.round(c + (stops[i + 1][k] - c) * (at - i)));
  return `rgb(${mixed.join(",")})`;
}

// What lies under the pointer: every point that is drawn, the faces of a surface from the back to the front, and the
// point that was told last, whose words change with what is shown.
let targets = [], faces = [], last = null;

function frame() {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, box.width, box.height);
  ink.font = "12px system-ui, sans-serif";
  targets = [];
  faces = [];
  return [box.width, box.height];
}

function words(i, j) {
  const where = isPlane ? `a = ${number(data.a[i])}, b = ${number(data.b[j])}` : `a = ${number(data.a[i])}`;
  const read = data.splits.map((name, s) => `${name}: ${number(isPlane ? data.values[state.of][s][j][i] : data.mean[state.of][s][i])}`);
  return `${where}, ${state.of}: ${read.join(", ")}`;
}

function bar(width, height) {
  const [low, high] = limits(), x = width - 14, top = 24, tall = height - 60;
  for (let k = 0; k < tall; k++) {
    ink.fillStyle = viridis(1 - k / tall);
    ink.fillRect(x, top + k, 10, 1.5);
  }
  ink.fillStyle = colour("--ink");
  ink.textAlign = "right";
  for (let k = 0; k <= 4; k++) {
    const value = low + (high - low) * k / 4, shown = state.scale === "log" ? 10 ** value : value;
    ink.fillText(number(Number(shown.toPrecision(3))), x - 4, top + tall * (1 - k / 4) + 4);
  }
  ink.fillText(state.of, x + 10, 14);
}

function projection(width, height) {
  const [a0, a1] = [data.a[0], data.a.at(-1)], [b0, b1] = [data.b[0], data.b.at(-1)], [low, high] = limits();
  const size = Math.min((width - 84) / 2.08, height / 2) * state.zoom, cos = Math.cos(state.turn), sin = Math.sin(state.turn);
  return (a, b, v) => {
    const x = 2 * (a - a0) / (a1 - a0) - 1, y = 2 * (b - b0) / (b1 - b0) - 1;
    const z = v === null ? -0.62 : Math.max(-0.05, Math.min(1.05, (v - low) / (high - low || 1))) * 1.15 - 0.55;
    const across = x * cos - y * sin, deep = x * sin + y * cos;
    return [(width - 40) / 2 + across * size * 0.72, height / 2 - (z * Math.cos(state.tilt) * 0.72 + deep * Math.sin(state.tilt) * 0.62) * size, deep];
  };
}

function surface() {
  const [width, height] = frame(), put = projection(width, height), values = data.values[state.of][state.split];
  const [low, high] = limits(), quads = [];
  const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([i, j]) => put(i ? data.a.at(-1) : data.a[0], j ? data.b.at(-1) : data.b[0], null));
  ink.strokeStyle = colour("--rule");
  ink.beginPath();
  corners.forEach(([x, y], k) => k ? ink.lineTo(x, y) : ink.moveTo(x, y));
  ink.closePath();
  ink.stroke();
  for (let j = 0; j + 1 < data.b.length; j++) for (let i = 0; i + 1 < data.a.length; i++) {
    const around = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], read = around.map(([k, l]) => values[l][k]);
    if (!read.every(finite)) continue;
    const points = around.map(([k, l], n) => put(data.a[k], data.b[l], scaled(read[n])));
    const mean = read.map(scaled).reduce((s, v) => s + v, 0) / 4;
    quads.push({ points, around, deep: Math.max(...points.map(p => p[2])), shade: viridis((mean - low) / (high - low || 1)) });
  }
  quads.sort((p, q) => q.deep - p.deep);
  faces = quads;
  for (const { points, shade } of quads) {
    ink.fillStyle = ink.strokeStyle = shade;
    ink.beginPath();
    points.forEach(([x, y], k) => k ? ink.lineTo(x, y) : ink.moveTo(x, y));
    ink.closePath();
    ink.fill();
    ink.lineWidth = 0.6;
    ink.stroke();
    ink.strokeStyle = "rgba(255,255,255,.22)";
    ink.lineWidth = 0.4;
    ink.stroke();
  }
  for (let j = 0; j < data.b.length; j++) for (let i = 0; i < data.a.length; i++) {
    if (!finite(values[j][i])) continue;
    const [x, y] = put(data.a[i], data.b[j], scaled(values[j][i]));
    targets.push({ x, y, i, j });
  }
  ink.fillStyle = colour("--ink");
  ink.textAlign = "center";
  // Beside the edge that is in front.
  for (const [name, ...edges] of [["a", [0, 1], [3, 2]], ["b", [0, 3], [1, 2]]]) {
    const [x, y] = edges.map(ends => [0, 1].map(k => (corners[ends[0]][k] + corners[ends[1]][k]) / 2)).sort((p, q) => q[1] - p[1])[0];
    ink.fillText(name, x + (x < (width - 40) / 2 ? -10 : 10), y + 14);
  }
  const lifted = (a, b) => put(a, b, nearest(a, b));
  path(data.path.map(([a, b]) => lifted(a, b)));
  for (const { name, place } of data.marks) mark(...lifted(...place), name, width);
  bar(width, height);
}

function nearest(a, b) {
  const closest = (xs, x) => xs.reduce((best, v, k) => Math.abs(v - x) < Math.abs(xs[best] - x) ? k : best, 0);
  const value = data.values[state.of][state.split][closest(data.b, b)][closest(data.a, a)];
  return finite(value) ? scaled(value) : null;
}

function path(points) {
  if (!points.length) return;
  ink.strokeStyle = ink.fillStyle = "#D55E00";
  ink.lineWidth = 2;
  ink.beginPath();
  points.forEach(([x, y], k) => k ? ink.lineTo(x, y) : ink.moveTo(x, y));
  ink.stroke();
  for (const [x, y] of points) { ink.beginPath(); ink.arc(x, y, 3, 0, 7); ink.fill(); }
}

function mark(x, y, _deep, name, width) {
  ink.fillStyle = "#E69F00";
  ink.strokeStyle = "#000";
  ink.lineWidth = 1;
  ink.beginPath();
  ink.arc(x, y, 4.5, 0, 7);
  ink.fill();
  ink.stroke();
  ink.textAlign = x > width / 2 ? "right" : "left";
  ink.lineWidth = 3;
  ink.strokeStyle = colour("--paper");
  ink.strokeText(name, x + (x > width / 2 ? -8 : 8), y - 6);
  ink.fillStyle = colour("--ink");
  ink.fillText(name, x + (x > width / 2 ? -8 : 8), y - 6);
}

function axes(left, top, wide, tall, xs, ys, xname) {
  ink.strokeStyle = colour("--rule");
  ink.fillStyle = colour("--ink");
  ink.lineWidth = 1;
  ink.strokeRect(left, top, wide, tall);
  ink.textAlign = "center";
  for (const [x, shown] of xs) ink.fillText(shown, x, top + tall + 15);
  ink.fillText(xname, left + wide / 2, top + tall + 30);
  ink.textAlign = "right";
  for (const [y, shown] of ys) ink.fillText(shown, left - 5, y + 4);
}

const steps = (low, high) => [0, 1, 2, 3, 4].map(k => low + (high - low) * k / 4);

function map() {
  const [width, height] = frame(), values = data.values[state.of][state.split], [low, high] = limits();
  const left = 52, top = 12, wide = width - left - 76, tall = height - top - 42;
  const [a0, a1] = [data.a[0], data.a.at(-1)], [b0, b1] = [data.b[0], data.b.at(-1)];
  const put = (a, b) => [left + (a - a0) / (a1 - a0) * wide, top + (1 - (b - b0) / (b1 - b0)) * tall];
  const cell = [wide / (data.a.length - 1), tall / (data.b.length - 1)];
  ink.save();
  ink.beginPath();
  ink.rect(left, top, wide, tall);
  ink.clip();
  for (let j = 0; j < data.b.length; j++) for (let i = 0; i < data.a.length; i++) {
    const [x, y] = put(data.a[i], data.b[j]);
    targets.push({ x, y, i, j });
    if (!finite(values[j][i])) continue;
    ink.fillStyle = viridis((scaled(values[j][i]) - low) / (high - low || 1));
    ink.fillRect(x - cell[0] / 2, y - cell[1] / 2, cell[0] + 0.7, cell[1] + 0.7);
  }
  ink.restore();
  const ticks = [steps(a0, a1).map(a => [put(a, b0)[0], number(Number(a.toPrecision(2)))]), steps(b0, b1).map(b => [put(a0, b)[1], number(Number(b.toPrecision(2)))])];
  axes(left, top, wide, tall, ...ticks, "a");
  ink.fillText("b", left - 24, top + tall * 3 / 8 + 4);  // between two numbers
  path(data.path.map(place => put(...place)));
  for (const { name, place } of data.marks) mark(...put(...place), 0, name, width);
  bar(width, height);
}

function lines() {
  const [width, height] = frame(), left = 58, top = 12 + 16 * data.splits.length, wide = width - left - 16, tall = height - top - 42;
  const [a0, a1] = [data.a[0], data.a.at(-1)], [low, high] = limits();
  const put = (a, v) => [left + (a - a0) / (a1 - a0) * wide, top + (1 - (v - low) / (high - low || 1)) * tall];
  const ticks = steps(low, high).map(v => [put(a0, v)[1], number(Number((state.scale === "log" ? 10 ** v : v).toPrecision(3)))]);
  axes(left, top, wide, tall, steps(a0, a1).map(a => [put(a, low)[0], number(Number(a.toPrecision(2)))]), ticks, "a");
  const trace = (ys, shade, thick, alpha) => {
    ink.strokeStyle = shade;
    ink.lineWidth = thick;
    ink.globalAlpha = alpha;
    ink.beginPath();
    let open = false;
    ys.forEach((y, i) => {
      if (!finite(y)) { open = false; return; }
      const [x, z] = put(data.a[i], scaled(y));
      if (open) ink.lineTo(x, z); else ink.moveTo(x, z);
      open = true;
    });
    ink.stroke();
    ink.globalAlpha = 1;
  };
  ink.save();
  ink.beginPath();
  ink.rect(left, top, wide, tall);
  ink.clip();
  data.splits.forEach((_, s) => {
    const shade = data.colours[s % data.colours.length];
    if (data.values[state.of][s].length > 1) for (const line of data.values[state.of][s]) trace(line, shade, 0.8, 0.45);
    trace(data.mean[state.of][s], shade, 2.2, 1);
  });
  ink.restore();
  data.splits.forEach((name, s) => {
    ink.fillStyle = data.colours[s % data.colours.length];
    ink.fillRect(left, 8 + 16 * s, 14, 4);
    ink.fillStyle = colour("--ink");
    ink.textAlign = "left";
    ink.fillText(`${state.of} on ${name}${data.values[state.of][s].length > 1 ? `, mean of ${data.values[state.of][s].length} directions` : ""}`, left + 20, 14 + 16 * s);
  });
  ink.setLineDash([3, 4]);
  for (const { name, place: [a] } of data.marks) {
    const [x] = put(a, low);
    ink.strokeStyle = colour("--soft");
    ink.lineWidth = 1;
    ink.beginPath();
    ink.moveTo(x, top);
    ink.lineTo(x, top + tall);
    ink.stroke();
    ink.fillStyle = colour("--soft");
    ink.textAlign = x > width / 2 ? "right" : "left";
    ink.fillText(name, x + (x > width / 2 ? -5 : 5), top + 13);
  }
  ink.setLineDash([]);
  data.a.forEach((a, i) => targets.push({ x: put(a, low)[0], y: null, i, j: 0 }));
}

function draw() {
  canvas.classList.toggle("flat", !isPlane || state.view === "map");
  if (!isPlane) lines();
  else if (state.view === "map") map();
  else surface();
  told.textContent = last ? words(last.i, last.j) : "";
}

function inside(points, x, y) {
  let odd = false;
  points.forEach(([x1, y1], k) => {
    const [x2, y2] = points[(k + 1) % points.length];
    if ((y1 > y) !== (y2 > y) && x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)) odd = !odd;
  });
  return odd;
}

function tell(x, y) {
  // Of a surface only what is seen: the corners of the face in front.
  const face = faces.findLast(({ points }) => inside(points, x, y));
  const seen = face ? face.points.map(([px, py], k) => ({ x: px, y: py, i: face.around[k][0], j: face.around[k][1] })) : targets;
  let best = null, least = Infinity;
  for (const target of seen) {
    const far = (target.x - x) ** 2 + (target.y === null ? 0 : (target.y - y) ** 2);
    if (far < least) [best, least] = [target, far];
  }
  last = best && (face || least < 1600) ? best : null;
  told.textContent = last ? words(last.i, last.j) : "";
}

const at = event => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
let held = null;
canvas.addEventListener("pointerdown", event => {
  held = [event.clientX, event.clientY];
  canvas.setPointerCapture(event.pointerId);
  tell(...at(event));  // a finger that taps does not move
});
canvas.addEventListener("pointermove", event => {
  if (held && isPlane && state.view === "surface") {
    state.turn += (event.clientX - held[0]) * 0.01;
    state.tilt = Math.max(0.05, Math.min(1.5, state.tilt + (event.clientY - held[1]) * 0.008));
    held = [event.clientX, event.clientY];
    draw();
  } else tell(...at(event));
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
canvas.addEventListener("keydown", event => {
  const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] };
  const zoom = { "+": 1.1, "-": 1 / 1.1 }[event.key];
  if (zoom) state.zoom = Math.max(0.4, Math.min(4, state.zoom * zoom));
  else if (event.key in turns) {
    state.turn += turns[event.key][0];
    state.tilt = Math.max(0.05, Math.min(1.5, state.tilt + turns[event.key][1]));
    event.preventDefault();
  } else return;
  draw();
});

choices("of", data.of, "loss", name => { state.of = name; });
choices("scale", ["linear", "log"], state.scale, name => { state.scale = name; });
if (isPlane) {
  choices("view", ["surface", "map"], "surface", name => { state.view = name; });
  choices("split", data.splits, 0, (_, i) => { state.split = i; });
} else for (const id of ["view", "split"]) document.getElementById(id).hidden = true;
for (const id of ["controls", "plot", "told"]) document.getElementById(id).hidden = false;
new ResizeObserver(draw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
})();
