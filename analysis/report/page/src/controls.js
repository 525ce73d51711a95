// The controls of an explorer: chips, segments, search. They only say what was chosen.

import { make } from "./dom.js";
import { colorVariable, structureTitles } from "./marks.js";
import { choices, filters, has } from "./state.js";

const titles = { scenario: "Scenario", kernel: "Kernel", nic: "Card", streams: "Streams", workload: "Workload", structure: "Structure", mechanism: "Mechanism", fabric: "Fabric", clients: "Clients" };

/** The levels of a factor that a part has, in the report's order. */
export function levelsOf(part, key) {
  if (key === "workload") return unique(part.views.map((v) => part.measures[v.measure].workload));
  if (choices.includes(key)) return unique(part.views.map((v) => part.strata[v.stratum].levels[key])).filter(Boolean);
  const found = unique(part.arms.map((a) => String(a[key])));
  if (key !== "structure") return found;
  const order = Object.keys(structureTitles);
  return found.sort((a, b) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99));
}

function unique(values) {
  return [...new Set(values)];
}

/** A group of chips for each factor with several levels. chosen(key, level) is called on a click. */
export function chipGroups(part, chosen) {
  const groups = [];
  for (const key of [...choices, ...filters]) {
    const levels = levelsOf(part, key);
    if (levels.length < 2) continue;
    const chips = levels.map((level) =>
      make("button", { class: "chip", type: "button", "data-filter": key, "data-value": level, "aria-pressed": "false", onclick: () => chosen(key, level) },
        key === "structure" && make("i", { class: "swatch", style: `background:var(${colorVariable(level)})` }), titleOf(part, key, level)),
    );
    groups.push(make("div", { class: "group", role: "group", "aria-label": titles[key] }, make("span", { class: "label" }, titles[key]), chips));
  }
  return groups;
}

function titleOf(part, key, level) {
  if (key === "structure") return structureTitles[level] ?? level;
  if (key === "workload") {
    const m = part.measures.find((m) => m.workload === level);
    return `${level} ${m.name}`;
  }
  return level;
}

/** What the segments choose between, of those modes that the part has numbers for. */
export function modes(part) {
  return ["zero", "ref", "abs"].filter((m) => m === "abs" || has(part, m === "zero" ? "z" : "r"));
}

const modeTitles = { zero: "over N = 0", ref: "over reference", abs: "value" };

/** A segmented control: data-set says of what. Nothing where there is no choice. */
export function segment(part, set, values, label, chosen) {
  if (values.length < 2) return null;
  const name = (v) => (v === "ref" ? `over ${part.reference}` : modeTitles[v] ?? v);
  return make("div", { class: "segment", role: "group", "aria-label": label },
    values.map((v) => make("button", { type: "button", "data-set": set, "data-value": v, "aria-pressed": "false", onclick: () => chosen(set, v) }, name(v))));
}

/** Marks what a state has chosen. */
export function mark(root, state) {
  for (const chip of root.querySelectorAll("[data-filter]")) {
    const now = state[chip.dataset.filter];
    chip.setAttribute("aria-pressed", String(Array.isArray(now) ? now.includes(chip.dataset.value) : now === chip.dataset.value));
  }
  for (const button of root.querySelectorAll("[data-set]")) {
    button.setAttribute("aria-pressed", String(state[button.dataset.set] === button.dataset.value));
  }
}
