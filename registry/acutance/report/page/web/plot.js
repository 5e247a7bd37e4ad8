// Elements, scales and axes that the plots of the page share. Text enters as text nodes only, never as markup.
const study = JSON.parse(document.getElementById("study").textContent);
const NAMESPACE = (() => {
  const template = document.createElement("template");
  template.innerHTML = "<svg></svg>";
  return template.content.firstChild.namespaceURI;
})();
// Black is the ink of the page, which is light in the dark.
const CATEGORIES = study.categories.map(colour => colour === "#000000" ? "var(--ink)" : colour);
// Like the figures: circle, square, triangle, diamond, triangle down, plus, cross, star, triangles left and right.
const MARKERS = [
  "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z", "M-4,-4H4V4H-4Z", "M0,-5L4.8,3.8H-4.8Z", "M0,-5.6L5.6,0L0,5.6L-5.6,0Z",
  "M0,5L4.8,-3.8H-4.8Z", "M-1.8,-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
  "M-5,-2.6L-2.6,-5L0,-2.4L2.6,-5L5,-2.6L2.4,0L5,2.6L2.6,5L0,2.4L-2.6,5L-5,2.6L-2.4,0Z",
  "M0,-6L1.5,-2H5.7L2.4,.7L3.6,5L0,2.5L-3.6,5L-2.4,.7L-5.7,-2H-1.5Z", "M-5,0L3.8,-4.8V4.8Z", "M5,0L-3.8,-4.8V4.8Z",
];

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(NAMESPACE, name), attributes, children);

const finite = value => typeof value === "number";
const short = (value, digits = 3) => {
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-4 || size >= 1e6)
    ? Number(value).toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e")
    : String(Number(Number(value).toPrecision(digits)));
  return text.replaceAll("-", "\u2212");
};
const percent = value => short(100 * value) + "%";
const signed = value => finite(value) ? (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2) : "\u2013";
const said = value => value === "inf" ? "infinite" : value === "-inf" ? "\u2212infinite" : value === null ? "none" : short(value, 4);

function steps(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step);
  return ticks.length > 1 || count > 8 ? ticks : steps(low, high, count + 1);
}

function logarithmicTicks(low, high) {
  // Less than a decade and a half is labelled as a linear axis, or it would be crowded.
  if (high / low < 20) return steps(low, high, 3).filter(tick => tick > 0);
  const factors = high / low > 100 ? [1] : [1, 3], ticks = [];
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const stride = Math.max(1, Math.ceil((last - first) / 5));
  for (let decade = first; decade <= last; decade += stride)
    for (const factor of factors) ticks.push(factor * 10 ** decade);
  return ticks.filter(tick => tick >= low && tick <= high);
}

// A scale from values to [from, to]; what is the same for all models is drawn as one column, not as its rounding.
function scale(values, logarithmic, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  if (!values.length) [low, high] = logarithmic ? [0.1, 1] : [0, 1];
  if (high - low <= 1e-6 * Math.abs(high)) [low, high] = low ? [0.8 * low, 1.25 * low].sort((a, b) => a - b) : [-1, 1];
  const on = logarithmic ? Math.log10 : value => value;
  const pad = 0.06 * (on(high) - on(low));
  const start = on(low) - pad, end = on(high) + pad;
  const back = logarithmic ? value => 10 ** value : value => value;
  const ticks = logarithmic ? logarithmicTicks(back(start), back(end)) : steps(start, end, 4);
  return { ticks, at: value => from + (to - from) * (on(value) - start) / (end - start) };
}

// A frame with grid lines and labels; returns the picture and the box that holds the data.
function frame(width, height, box, x, y, words) {
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot" });
  picture.append(svg("rect", { class: "frame", x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }));
  for (const tick of y.ticks) {
    picture.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y.at(tick), y2: y.at(tick) }));
    picture.append(svg("text", { class: "tick", x: box.left - 5, y: y.at(tick) + 3.5, "text-anchor": "end" }, words.y(tick)));
  }
  for (const tick of x.ticks) {
    picture.append(svg("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: box.top, y2: box.bottom }));
    picture.append(svg("text", { class: "tick", x: x.at(tick), y: box.bottom + 14, "text-anchor": "middle" }, words.x(tick)));
  }
  const label = svg("text", { class: "label", x: (box.left + box.right) / 2, y: box.bottom + 30, "text-anchor": "middle" });
  const parts = /^([A-Za-z])_(\w+)$/.exec(words.name);
  if (parts) label.append(parts[1], svg("tspan", { dy: 3, "font-size": "75%" }, parts[2]));
  else label.append(words.name);
  picture.append(label);
  return picture;
}

// Where a pointer is, in the coordinates of a picture.
function within(picture, event) {
  const area = picture.getBoundingClientRect(), size = picture.viewBox.baseVal;
  return [(event.clientX - area.left) * size.width / area.width, (event.clientY - area.top) * size.height / area.height];
}

// Hover, tap and arrow keys over the points of a picture, in the order that the keys go through them.
function listen(picture, points, reach, show, leave, corner) {
  let current = -1;
  const hover = event => {
    const [x, y] = within(picture, event);
    let nearest = -1, least = reach ** 2;
    points.forEach((point, i) => {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [nearest, least] = [i, distance];
    });
    if (nearest < 0) { leave(); return; }
    current = nearest;
    show(points[nearest], event.clientX, event.clientY);
  };
  picture.setAttribute("tabindex", "0");
  picture.setAttribute("role", "group");
  picture.addEventListener("pointermove", hover);
  picture.addEventListener("pointerdown", hover);
  picture.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") leave(); });
  picture.addEventListener("blur", leave);
  picture.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by || !points.length) return;
    event.preventDefault();
    current = current < 0 ? (by > 0 ? 0 : points.length - 1) : (current + by + points.length) % points.length;
    show(points[current], ...corner(points[current]));
  });
}

const tip = document.body.appendChild(html("div", { id: "tip", role: "status", hidden: "" }));
function showTip(x, y, title, lines) {
  const list = html("dl");
  for (const [name, value] of lines) list.append(html("dt", {}, name), html("dd", {}, value));
  tip.replaceChildren(html("strong", {}, title), list);
  tip.hidden = false;
  const width = document.documentElement.clientWidth, height = window.innerHeight;
  tip.style.left = `${Math.max(6, Math.min(x + 14, width - tip.offsetWidth - 6))}px`;
  tip.style.top = `${Math.max(6, y + 16 + tip.offsetHeight < height ? y + 16 : y - tip.offsetHeight - 12)}px`;
}
const hideTip = () => { tip.hidden = true; };
document.addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
document.addEventListener("scroll", hideTip, { passive: true, capture: true });

function menu(label, options, chosen, change) {
  const select = html("select");
  for (const [value, name] of options) select.append(html("option", { value }, name));
  select.value = String(chosen);
  select.addEventListener("change", () => change(Number(select.value)));
  return html("label", { class: "menu" }, html("span", {}, label), select);
}

// One entry of a legend: pressed as long as it is shown.
function entry(mark, name, shown, toggle) {
  const button = html("button", { type: "button", class: "entry", "aria-pressed": shown }, mark, html("span", {}, name));
  button.addEventListener("click", toggle);
  return button;
}
const swatch = (path, colour) => svg("svg", { viewBox: "-7 -7 14 14", class: "swatch", "aria-hidden": "true" },
  svg("path", { d: path, ...(colour ? { fill: colour } : {}) }));
