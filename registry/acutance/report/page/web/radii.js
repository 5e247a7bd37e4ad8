// Tau with its interval against the radius, one line a definition.
const LINES = 12; // that are shown at first
const BANDS = 6; // lines up to which all bands are drawn; above, only that of the line pointed at

class Radii {
  constructor(place, level) {
    this.level = level;
    this.hidden = new Set();
    this.lines = study.definitions.map((definition, d) => ({ d, definition })).filter(({ definition }) => definition.radii.length > 1);
    this.lines.forEach((line, i) => {
      line.colour = CATEGORIES[i % CATEGORIES.length];
      line.marker = MARKERS[i % MARKERS.length];
      line.dashes = ["", "6 3", "2 3"][Math.floor(i / CATEGORIES.length) % 3];
    });
    this.lines.slice(LINES).forEach(line => this.hidden.add(line.d));
    this.legend = html("div", { class: "legend", role: "group", "aria-label": "Legend; press an entry to hide or show its line" });
    this.panels = html("div", { class: "panels" });
    place.replaceChildren(this.legend, this.panels);
    this.draw();
  }

  draw() {
    hideTip();
    this.legend.replaceChildren(html("div", { class: "entries" }, ...this.lines.map(line => {
      const button = entry(swatch(line.marker, line.colour), line.definition.name, !this.hidden.has(line.d), () => {
        if (!this.hidden.delete(line.d)) this.hidden.add(line.d);
        this.draw();
        this.legend.querySelector(`[data-key="${line.d}"]`).focus();
      });
      button.dataset.key = line.d;
      button.addEventListener("pointerenter", () => this.light(line.d));
      button.addEventListener("pointerleave", () => this.light(null));
      return button;
    })));
    const shown = this.lines.length - this.hidden.size;
    if (this.lines.length > LINES) this.legend.append(this.switches(shown));
    this.panels.classList.toggle("crowded", shown > BANDS);
    this.panels.replaceChildren(...study.targets.map((_, t) => this.panel(t)));
  }

  // More definitions than can be told apart: how many are shown, and all or none at once.
  switches(shown) {
    const button = (words, hidden) => {
      const made = html("button", { type: "button", class: "copier" }, words);
      made.addEventListener("click", () => { this.hidden = new Set(hidden); this.draw(); });
      return made;
    };
    return html("div", { class: "entries" }, html("span", { class: "soft", role: "status" }, `${shown} of ${this.lines.length} definitions shown`),
      button("Show all", []), button("Hide all", this.lines.map(line => line.d)));
  }

  panel(t) {
    const box = { left: 46, right: 412, top: 8, bottom: 236 };
    const radii = this.lines.flatMap(({ definition }) => definition.radii);
    const x = scale(radii, Math.min(...radii) > 0, box.left, box.right);
    const span = box.bottom - box.top;
    const y = { ticks: [-1, -0.5, 0, 0.5, 1], at: value => box.bottom - span * (value + 1.05) / 2.1 };
    const picture = frame(420, 276, box, x, y, { x: tick => short(tick), y: tick => short(tick), name: "\u03c1" });
    picture.append(svg("line", { class: "zero", x1: box.left, x2: box.right, y1: y.at(0), y2: y.at(0) }));
    const points = [];
    for (const line of this.lines) {
      if (this.hidden.has(line.d)) continue;
      const rows = this.level.correlations.filter(row => row[0] === line.d && row[2] === t && finite(row[3])).sort((a, b) => a[1] - b[1]);
      if (!rows.length) continue;
      const at = row => x.at(line.definition.radii[row[1]]);
      const bounded = rows.filter(row => finite(row[4]));
      const group = picture.appendChild(svg("g", { class: "line", "data-line": line.d, style: `--shade:${line.colour}` }));
      const edge = [...bounded.map(row => [at(row), y.at(row[5])]), ...[...bounded].reverse().map(row => [at(row), y.at(row[4])])];
      if (bounded.length > 1) group.append(svg("polygon", { class: "band", points: edge.map(p => p.map(v => v.toFixed(1)).join()).join(" ") }));
      group.append(svg("polyline", { class: "curve", "stroke-dasharray": line.dashes, points: rows.map(row => `${at(row).toFixed(1)},${y.at(row[3]).toFixed(1)}`).join(" ") }));
      for (const row of rows) {
        group.append(svg("path", { class: "knot", d: line.marker, transform: `translate(${at(row).toFixed(1)},${y.at(row[3]).toFixed(1)})` }));
        points.push({ line, row, x: at(row), y: y.at(row[3]) });
      }
    }
    this.listen(picture, points);
    picture.setAttribute("aria-label", `\u03c4 with ${study.targets[t].name} against \u03c1. Arrow keys go through the points.`);
    return html("figure", { class: "panel" }, html("figcaption", {}, html("strong", {}, study.targets[t].name)), picture);
  }

  listen(picture, points) {
    const show = (point, x, y) => {
      const [, r, , tau, low, high, adjusted, n] = point.row;
      const lines = [["\u03c1", short(point.line.definition.radii[r])], ["\u03c4", signed(tau)]];
      if (finite(low)) lines.push(["95% interval", `[${signed(low)}, ${signed(high)}]`]);
      if (finite(adjusted)) lines.push(["adjusted p", short(adjusted)]);
      showTip(x, y, point.line.definition.name, [...lines, ["n", String(n)]]);
      this.light(point.line.d);
    };
    const corner = point => {
      const area = picture.getBoundingClientRect(), size = area.width / 420;
      return [area.left + point.x * size, area.top + point.y * size];
    };
    listen(picture, points, 16, show, () => { this.light(null); hideTip(); }, corner);
  }

  light(d) {
    this.panels.classList.toggle("dim", d !== null);
    for (const line of this.panels.querySelectorAll(".line")) line.classList.toggle("lit", d !== null && line.dataset.line === String(d));
  }
}

for (const place of document.querySelectorAll(".radii")) new Radii(place, study.levels[place.dataset.level]);
