// The explorer of one part: controls, the ranked plot, the lines, and the state that they show.

import { chipGroups, mark, modes, segment } from "./controls.js";
import { make } from "./dom.js";
import { csvOf, save, slug, svgOf } from "./download.js";
import { Lines } from "./lines.js";
import { colorVariable } from "./marks.js";
import { axisTitle, direction, estimate, format, ratioText, select } from "./model.js";
import { Ranked, rowHeight } from "./ranked.js";
import { choose, decode, encode, filters, initial } from "./state.js";

/** Rows of the ranked plot before the rest is folded. */
const rowsFolded = 18;

export class Explorer {
  /** Fills an element. changed() is called when the state has changed. */
  constructor(part, element, changed) {
    Object.assign(this, { part, element, changed });
    this.prefix = part.id ? `${part.id}-` : "";
    this.defaults = initial(part);
    this.state = structuredClone(this.defaults);
    this.build();
  }

  build() {
    const id = (name) => this.prefix + name;
    const set = (key, value) => this.set({ [key]: value });
    const { part } = this;
    const button = (action, text, act) => make("button", { type: "button", class: "plain", "data-action": action, onclick: act }, text);
    this.search = make("input", { type: "search", "data-search": true, placeholder: "Search arms", "aria-label": "Search arms", oninput: () => set("q", this.search.value) });
    this.rows = make("ol", { class: "rows", "data-arms": true, onkeydown: (e) => this.move(e) });
    this.all = button("all", "", () => set("all", !this.state.all));
    this.empty = make("p", { class: "empty", "data-empty": true, hidden: true }, "No arm has all of this. ", button("reset-all", "Show all", () => this.reset()));
    this.status = make("p", { class: "soft status", "data-status": true, "aria-live": "polite" });
    const plot = (name) => make("div", { id: id(name), class: "chart", "data-chart": name, role: "img" });
    this.plots = { ranked: plot("ranked"), lines: plot("lines") };
    this.titles = { ranked: make("h3"), lines: make("h3") };
    this.body = make("div", { class: "panels" },
      make("div", { class: "panel" },
        make("div", { class: "head" }, this.titles.ranked, segment(part, "rank", modes(part), "Rank by", set)),
        make("div", { class: "ranked" }, this.rows, this.plots.ranked), this.all),
      make("div", { class: "panel" },
        make("div", { class: "head" }, this.titles.lines, make("div", { class: "segments" },
          segment(part, "y", ["abs", ...modes(part).filter((m) => m !== "abs")], "Value", set),
          make("div", { class: "scales" }, make("span", { class: "label" }, "scale"), segment(part, "scale", ["lin", "log"], "Scale of values", set),
            make("span", { class: "label" }, "N"), segment(part, "x", ["lin", "log"], "Scale of N", set)))),
        this.plots.lines,
        make("div", { class: "foot" }, button("unpin", "Unpin all", () => set("pin", [])), button("csv", "CSV", () => this.csv()), button("svg", "SVG", () => this.svg()))));
    this.element.append(make("div", { class: "controls" }, chipGroups(part, (key, level) => this.chip(key, level)), make("div", { class: "group" }, this.search, button("reset", "Reset", () => this.reset()), this.status)), this.empty, this.body);
    const pick = (name) => this.pin(name);
    this.ranked = new Ranked(this.plots.ranked, pick);
    this.lines = new Lines(this.plots.lines, pick);
  }

  /** Changes some keys of the state and draws it. */
  set(change) {
    this.state = { ...this.state, ...change };
    this.draw();
    this.changed();
  }

  chip(key, level) {
    if (!filters.includes(key)) {
      this.state = choose(this.part, this.state, key, level);
      return this.set({});
    }
    const now = this.state[key];
    this.set({ [key]: now.includes(level) ? now.filter((l) => l !== level) : [...now, level] });
  }

  /** Pins an arm, or unpins it. */
  pin(name) {
    const now = [...this.sel.pinned];
    this.set({ pin: now.includes(name) ? now.filter((n) => n !== name) : [...now, name] });
  }

  reset() {
    this.set(structuredClone(this.defaults));
  }

  /** Takes the state from the parameters of a hash. */
  read(params) {
    this.state = decode(params, this.defaults, this.part.id ? `${this.part.id}.` : "", this.part);
  }

  /** Writes what is not at its default into the parameters of a hash. */
  write(params) {
    encode(this.state, this.defaults, this.part.id ? `${this.part.id}.` : "", params);
  }

  draw() {
    const sel = (this.sel = select(this.part, this.state));
    mark(this.element, this.state);
    if (this.search.value !== this.state.q) this.search.value = this.state.q;
    const none = sel.arms.length === 0;
    this.empty.hidden = !none;
    this.body.hidden = none;
    this.status.textContent = `${sel.arms.length} of ${this.armsOfView(sel)} arms`;
    this.headline(sel);
    if (none) return;
    const most = Math.max(...sel.arms.map((l) => l.top?.n ?? 0));
    this.titles.ranked.textContent = this.state.rank === "abs" ? `${upper(sel.measure.name)}${most ? ` at N = ${most}` : ""}` : `N = ${most} over ${this.state.rank === "zero" ? "N = 0" : this.part.reference}`;
    this.titles.lines.textContent = `${upper(sel.measure.name)} against N`;
    this.fill(sel);
    this.ranked.draw(sel, this.shown(sel));
    this.lines.draw(sel);
    this.plots.ranked.setAttribute("aria-label", `${axisTitle(sel, this.state.rank)}, ${direction(sel)}; the list of arms has the numbers`);
    this.plots.lines.setAttribute("aria-label", `${axisTitle(sel, this.state.y)} against the number of policies, ${sel.stratum.name}; the tables below have the numbers`);
  }

  // The answer follows the view, so that it is never of other numbers than those shown.
  headline(sel) {
    const text = document.getElementById(this.prefix + "headline");
    if (text) text.textContent = sel.view.headline;
  }

  armsOfView(sel) {
    return new Set(sel.view.points.map((p) => p.a)).size;
  }

  folded(sel) {
    return !this.state.all && sel.arms.length > rowsFolded + 2;
  }

  // shown are the rows of a folded list: the best, the worst, and those that are pinned.
  shown(sel) {
    if (!this.folded(sel)) return sel.arms;
    const pinned = sel.arms.filter((l) => sel.pinned.has(l.arm.name)).slice(0, rowsFolded);
    const chosen = new Set(pinned);
    for (let i = 0; chosen.size < rowsFolded; i++) {
      chosen.add(sel.arms[i % 2 === 0 ? i / 2 : sel.arms.length - (i + 1) / 2]);
    }
    return sel.arms.filter((l) => chosen.has(l));
  }

  // fill makes the rows. The one that has the focus keeps it.
  fill(sel) {
    const focused = document.activeElement?.closest?.("[data-arms]") === this.rows ? document.activeElement.dataset.arm : null;
    const rows = this.shown(sel);
    this.rows.style.setProperty("--row", `${rowHeight(rows.length)}px`);
    this.rows.replaceChildren(...rows.map((line, i) => this.row(sel, line, i)));
    this.all.hidden = sel.arms.length <= rowsFolded + 2;
    this.all.textContent = this.state.all ? "Show fewer" : `Show all ${sel.arms.length}, not only the best and the worst`;
    this.all.setAttribute("aria-expanded", String(this.state.all));
    const back = focused !== null && this.rows.querySelector(`[data-arm="${CSS.escape(focused)}"]`);
    if (back) {
      for (const b of this.rows.querySelectorAll("[data-arm]")) b.tabIndex = b === back ? 0 : -1;
      back.focus({ preventScroll: true });
    }
  }

  row(sel, line, i) {
    const { arm, top } = line;
    const mode = this.state.rank;
    const e = top && estimate(top, mode);
    const text = e ? (mode === "abs" ? format(sel.view, e[0]) : ratioText(e[0])) : "–";
    const word = mode === "zero" ? top?.wz : mode === "ref" ? top?.wr : "";
    const said = e ? `${text}${word ? `, ${word}` : ""}` : "no number";
    const button = make("button", {
      type: "button", class: "arm", "data-arm": arm.name, "data-structure": arm.structure, title: arm.name, tabindex: i === 0 ? "0" : "-1",
      "aria-pressed": String(sel.pinned.has(arm.name)), "aria-label": `${arm.name}: ${said}`,
      onclick: () => this.pin(arm.name), onfocus: () => this.ranked.point(arm.name), onblur: () => this.ranked.point(null),
    }, make("i", { class: "swatch", style: `background:var(${colorVariable(arm.structure)})` }), make("span", { class: "name" }, arm.name));
    return make("li", {}, button, make("span", { class: `amount ${classOf(word)}`, "aria-hidden": "true" }, text));
  }

  // move takes the focus along the rows.
  move(event) {
    const all = [...this.rows.querySelectorAll("[data-arm]")];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || !all[to]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  }

  csv() {
    save(`${this.fileName()}.csv`, "text/csv", csvOf(this.sel));
  }

  svg() {
    save(`${this.fileName()}.svg`, "image/svg+xml", svgOf(this.lines.chart, this.sel, this.state.y));
  }

  fileName() {
    return slug(`${this.prefix}${this.sel.measure.workload}-${this.sel.measure.name}-${this.sel.stratum.name}`);
  }
}

// classOf is the class of a verdict's word, as in the tables.
function classOf(word) {
  return { slower: "slower", faster: "faster" }[word] ?? "same";
}

function upper(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

