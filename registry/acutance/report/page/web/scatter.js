// The models of a level, a panel for each radius and target; tau in a panel is the table's, whatever is shown.
const MOST = 24; // labels of an attribute that a legend has room for
const FEW = 10; // different numbers that markers tell apart

function labelsOf(attribute) {
  if (attribute.labels) return attribute;
  const known = [...new Set(attribute.values.map(value => value === null ? "" : said(value)))];
  known.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  return { ...attribute, labels: known, values: attribute.values.map(value => known.indexOf(value === null ? "" : said(value))) };
}

function viridis(share) {
  const stops = study.viridis, place = Math.max(0, Math.min(1, share)) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2), rest = place - low;
  const parts = hex => [1, 3, 5].map(start => parseInt(hex.slice(start, start + 2), 16));
  const [from, to] = [parts(stops[low]), parts(stops[low + 1])];
  return `rgb(${from.map((value, i) => Math.round(value + rest * (to[i] - value))).join()})`;
}

// How models are coloured: by label, or on a scale that is logarithmic where lengths span decades.
function colouring(attribute, members) {
  if (!attribute) return { of: () => CATEGORIES[0] };
  if (attribute.labels)
    return { labels: attribute, of: model => CATEGORIES[attribute.values[model] % CATEGORIES.length] };
  const numbers = members.map(model => attribute.values[model]).filter(finite);
  const low = Math.min(...numbers), high = Math.max(...numbers);
  const on = low > 0 && high / low > 10 ? Math.log : value => value;
  const share = value => high > low ? (on(value) - on(low)) / (on(high) - on(low)) : 0;
  return { low, high, logarithmic: on === Math.log, of: model => finite(attribute.values[model]) ? viridis(share(attribute.values[model])) : "#999" };
}

function sizing(attribute, members) {
  if (!attribute || attribute.labels) return () => 1;
  const numbers = members.map(model => finite(attribute.values[model]) ? attribute.values[model] : 0);
  const low = Math.min(...numbers), span = Math.max(...numbers) - low || 1;
  return model => Math.sqrt((16 + 50 * ((finite(attribute.values[model]) ? attribute.values[model] : 0) - low) / span) / 26);
}

class Explorer {
  constructor(place, level) {
    this.level = level;
    this.hidden = new Map(); // attribute: labels that are not shown
    this.state = { definition: 0, target: -1, colour: study.colour, marker: study.marker };
    this.size = sizing(study.attributes[study.size], level.members);
    this.found = new Map(level.correlations.map(row => [row.slice(0, 3).join(), row]));
    this.menus = html("div", { class: "menus" });
    this.legend = html("div", { class: "legend", role: "group", "aria-label": "Legend; press an entry to hide or show its models" });
    this.panels = html("div");
    place.replaceChildren(this.menus, this.legend, this.panels);
    this.fillMenus();
    this.draw();
  }

  fillMenus() {
    const set = name => value => { this.state[name] = value; this.draw(); };
    const all = study.attributes.map((attribute, i) => [i, attribute.name]);
    const colours = all.filter(([i]) => { const a = study.attributes[i]; return !a.labels || a.labels.length <= MOST; });
    const markers = all.filter(([i]) => labelsOf(study.attributes[i]).labels.length <= (study.attributes[i].labels ? MOST : FEW));
    this.definitionMenu = menu("definition", study.definitions.map((d, i) => [i, d.name]), 0, set("definition"));
    this.menus.append(
      this.definitionMenu,
      menu("target", [[-1, "all targets"], ...study.targets.map((t, i) => [i, t.name])], -1, set("target")),
      menu("colour", [[-1, "none"], ...colours], this.state.colour, set("colour")),
      menu("marker", [[-1, "none"], ...markers], this.state.marker, set("marker")),
    );
    for (const name of ["colour", "marker"])
      if (!(name === "colour" ? colours : markers).some(([i]) => i === this.state[name])) this.state[name] = -1;
  }

  choose(definition, target) {
    this.state.definition = definition;
    this.definitionMenu.querySelector("select").value = definition;
    if (target !== undefined) {
      this.state.target = target;
      this.menus.querySelectorAll("select")[1].value = target;
    }
    this.draw();
  }

  shows(model) {
    for (const [index, hidden] of this.hidden)
      if ((index === this.state.colour || index === this.state.marker) && hidden.has(labelsOf(study.attributes[index]).values[model])) return false;
    return true;
  }

  draw() {
    hideTip();
    const { colour, marker, definition, target } = this.state;
    this.paint = colouring(study.attributes[colour], this.level.members);
    this.marks = marker < 0 ? null : labelsOf(study.attributes[marker]);
    this.drawLegend();
    // Without radii the targets stand side by side.
    this.panels.className = study.definitions[definition].radii.length > 1 ? "" : "side";
    const targets = target < 0 ? study.targets.map((_, i) => i) : [target];
    this.panels.replaceChildren(...targets.map(t => {
      const row = html("div", { class: "panels" });
      study.definitions[definition].radii.forEach((rho, r) => row.append(this.panel(definition, r, t)));
      return html("section", {}, html("h4", {}, study.targets[t].name), row);
    }));
  }

  drawLegend() {
    const { colour, marker } = this.state, parts = [];
    const used = labels => labels.labels.map((_, i) => i).filter(i => this.level.members.some(m => labels.values[m] === i));
    const entries = (index, labels, mark) => {
      const hidden = this.hidden.get(index) ?? new Set();
      const buttons = used(labels).map(i => entry(mark(i), labels.labels[i].replaceAll(";", ", ") || "(none)", !hidden.has(i), () => {
        if (!hidden.delete(i)) hidden.add(i);
        this.hidden.set(index, hidden);
        this.draw();
        this.legend.querySelector(`[data-key="${index}-${i}"]`).focus();
      }));
      buttons.forEach((button, k) => { button.dataset.key = `${index}-${used(labels)[k]}`; });
      return html("div", { class: "entries" }, html("span", { class: "soft" }, study.attributes[index].name), ...buttons);
    };
    if (this.paint.labels) {
      const both = colour === marker;
      parts.push(entries(colour, this.paint.labels, i => swatch(MARKERS[both ? i % MARKERS.length : 0], CATEGORIES[i % CATEGORIES.length])));
    } else if (colour >= 0) {
      const bar = html("div", { class: "bar", style: `background:linear-gradient(to right,${study.viridis.join()})` });
      const note = this.paint.logarithmic ? " (log)" : "";
      parts.push(html("div", { class: "ramp" }, html("span", { class: "soft" }, study.attributes[colour].name + note),
        html("div", {}, html("span", {}, short(this.paint.low)), bar, html("span", {}, short(this.paint.high)))));
    }
    if (this.marks && !(this.paint.labels && colour === marker))
      parts.push(entries(marker, this.marks, i => swatch(MARKERS[i % MARKERS.length])));
    const shown = this.level.members.filter(model => this.shows(model)).length;
    parts.push(html("span", { class: "soft", role: "status" }, `${shown} of ${this.level.members.length} models shown`));
    this.legend.replaceChildren(...parts);
  }

  panel(d, r, t) {
    const definition = study.definitions[d], target = study.targets[t], rho = definition.radii[r];
    const values = definition.values[r], errors = definition.errors[r], logarithmic = this.level.logarithmic[d][r];
    const there = this.level.members.filter(model => finite(target.values[model]) && values[model] !== null);
    const whole = there.filter(model => finite(values[model]));
    const drawn = whole.filter(model => !logarithmic || values[model] > 0);
    const box = { left: 52, right: 312, top: 8, bottom: 186 };
    const x = scale(drawn.map(model => values[model]), logarithmic, box.left, box.right);
    const y = scale(there.map(model => target.values[model]), this.level.scales[t] === "log", box.bottom, box.top);
    const words = { x: tick => short(tick), y: this.level.scales[t] === "percent" ? percent : tick => short(tick), name: definition.symbol };
    const picture = frame(320, 226, box, x, y, words);
    const shown = drawn.filter(model => this.shows(model)).map(model => ({ model, x: x.at(values[model]), y: y.at(target.values[model]) }));
    const clamp = value => Math.max(box.left, Math.min(box.right, value));
    for (const point of shown) {
      if (errors && errors[point.model]) {
        const [low, high] = [-1, 1].map(sign => values[point.model] + sign * errors[point.model]);
        picture.append(svg("line", { class: "error", x1: low > 0 || !logarithmic ? clamp(x.at(low)) : box.left, x2: clamp(x.at(high)), y1: point.y, y2: point.y }));
      }
    }
    for (const point of shown) {
      const size = this.size(point.model), place = `translate(${point.x.toFixed(1)},${point.y.toFixed(1)})`;
      point.mark = picture.appendChild(svg("path", {
        class: "point", "data-model": point.model, d: MARKERS[this.marks ? this.marks.values[point.model] % MARKERS.length : 0],
        fill: this.paint.of(point.model), transform: size === 1 ? place : `${place} scale(${size.toFixed(2)})`,
      }));
    }
    const edge = (words, at, anchor) => picture.append(svg("text", { class: "edge", x: at, y: box.bottom - 5, "text-anchor": anchor }, words));
    if (whole.length > drawn.length) edge(`${whole.length - drawn.length} \u2264 0`, box.left + 4, "start");
    if (there.length > whole.length) edge(`${there.length - whole.length} infinite`, box.right - 4, "end");
    if (!there.length) picture.append(svg("text", { class: "edge", x: 182, y: 100, "text-anchor": "middle" }, "no values"));
    this.listen(picture, shown, d, r, t);
    const title = rho === null ? "" : `\u03c1 = ${short(rho)}`;
    picture.setAttribute("aria-label", `${definition.name} ${title} against ${target.name}, ${shown.length} models. Arrow keys go through them.`);
    return html("figure", { class: "panel" }, this.caption(d, r, t, title), picture);
  }

  caption(d, r, t, title) {
    const row = this.found.get([d, r, t].join()), parts = [];
    if (title) parts.push(html("span", { class: "rho" }, title));
    if (row) {
      const [, , , tau, low, high, , n, groups, ceiling, holds] = row;
      parts.push(html("strong", {}, `\u03c4 = ${signed(tau)}${holds ? "*" : ""}`));
      if (finite(low)) parts.push(html("span", {}, `[${signed(low)}, ${signed(high)}]`));
      const of = Object.entries(groups).map(([g, value]) => [this.level.groups[g], value]);
      const line = of.map(([name, value]) => `${this.glyph(name)} ${signed(value)}`);
      const perfect = finite(ceiling) ? [`ceiling ${signed(ceiling)}`] : [];
      parts.push(html("small", {}, [`n = ${n}`, ...perfect, ...line].join("\u2002")));
    }
    return html("figcaption", {}, ...parts);
  }

  // A group is its marker where markers show the groups; a single attribute's labels stand without its name.
  glyph(group) {
    const { marks } = this, place = marks && marks.name === study.groups
      ? marks.labels.findIndex(label => label === group || `${marks.name}=${label}` === group) : -1;
    return place < 0 ? group.replaceAll(";", ", ") : study.glyphs[place % study.glyphs.length];
  }

  listen(picture, points, d, r, t) {
    const order = [...points].sort((a, b) => a.x - b.x);
    const show = (point, clientX, clientY) => {
      this.light(point.model);
      const model = point.model, definition = study.definitions[d], target = study.targets[t];
      const value = definition.values[r][model], error = definition.errors[r]?.[model];
      const lines = [[definition.symbol, said(value) + (error ? ` \u00b1 ${short(error, 2)}` : "")],
        [target.name, this.level.scales[t] === "percent" ? percent(target.values[model]) : said(target.values[model])]];
      for (const attribute of study.attributes) {
        if (attribute.combined || attribute.name === target.attribute) continue;
        const given = attribute.labels ? attribute.labels[attribute.values[model]] : attribute.values[model];
        if (given !== null && given !== "") lines.push([attribute.name, attribute.labels ? given : said(given)]);
      }
      showTip(clientX, clientY, study.models[model], lines);
    };
    const corner = point => {
      const area = point.mark.getBoundingClientRect();
      return [area.right, area.bottom];
    };
    listen(picture, order, 14, show, () => { this.light(null); hideTip(); }, corner);
  }

  // The same model in all panels.
  light(model) {
    for (const mark of this.panels.querySelectorAll(".lit")) mark.classList.remove("lit");
    if (model !== null) for (const mark of this.panels.querySelectorAll(`[data-model="${model}"]`)) mark.classList.add("lit");
  }
}

for (const place of document.querySelectorAll(".explore")) {
  const explorer = new Explorer(place, study.levels[place.dataset.level]);
  for (const heat of place.dataset.heat.split(" ")) document.getElementById(heat)?.addEventListener("click", event => {
    const row = event.target.closest("tr[data-definition]"), cell = event.target.closest("td[data-target]");
    if (!row || !(cell || event.target.closest("a"))) return;
    explorer.choose(Number(row.dataset.definition), cell ? Number(cell.dataset.target) : undefined);
    if (cell) place.scrollIntoView();
  });
}
