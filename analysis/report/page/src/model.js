// What a state selects of a part's data, ready to be drawn. Nothing is estimated or judged here.

import { filters, viewOf } from "./state.js";

/** Up to this many arms, all are drawn bold and named; of more, only those that are pinned. */
export const fewArms = 6;

const keys = { abs: "v", zero: "z", ref: "r" };
const texts = { abs: "t", zero: "tz", ref: "tr" };

/** The estimate [value, low, high, confidence] of a point in a mode: "abs", "zero" or "ref". */
export function estimate(point, mode) {
  return point[keys[mode]];
}

/** The text of a point in a mode, as the tables have it. */
export function textOf(point, mode, view) {
  const text = point[texts[mode]];
  return mode === "abs" && text && view.unit ? `${text} ${view.unit}` : text;
}

/**
 * The selection: its view and measure; `arms`, one {arm, points, top, rank} each, the best first;
 * `pinned`, the set of names. top is the point with the most policies that has a number to rank.
 */
export function select(part, state) {
  const view = viewOf(part, state);
  const measure = part.measures[view.measure];
  const lines = new Map();
  for (const p of view.points) {
    const arm = part.arms[p.a];
    if (!shown(arm, state)) continue;
    if (!lines.has(arm)) lines.set(arm, { arm, points: [], top: null });
    lines.get(arm).points.push(p);
  }
  const arms = [...lines.values()];
  for (const line of arms) {
    line.points.sort((a, b) => a.n - b.n);
    line.top = line.points.findLast((p) => estimate(p, state.rank)) ?? null;
  }
  const better = measure.higher ? -1 : 1;
  const value = (line) => (line.top ? better * estimate(line.top, state.rank)[0] : Infinity);
  arms.sort((a, b) => compare(value(a), value(b)));
  return { part, state, view, measure, stratum: part.strata[view.stratum], arms, pinned: pinned(part, state, view, arms) };
}

// compare also orders infinities, of which the difference is no number.
function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The names of the pinned arms: as the state says, else all of few, else those of the headline. */
function pinned(part, state, view, arms) {
  if (state.pin) return new Set(state.pin);
  if (arms.length <= fewArms) return new Set(arms.map((l) => l.arm.name));
  return new Set((view.pins ?? []).map((i) => part.arms[i].name));
}

/** Whether the filters and the search admit an arm. */
function shown(arm, state) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return words.every((w) => arm.name.toLowerCase().includes(w)) && filters.every((key) => state[key].length === 0 || state[key].includes(String(arm[key])));
}

/** A value in base units as a number of the view's unit. */
export function scaled(view, value, mode) {
  return mode === "abs" ? value / view.divisor : value;
}

/** A value as text, with the digits of the view. */
export function format(view, value) {
  return (value / view.divisor).toFixed(view.decimals);
}

/** A ratio as text, with as many digits as it needs. */
export function ratioText(r) {
  return "×" + (r >= 100 ? r.toFixed(0) : r >= 10 ? r.toFixed(1) : r < 0.01 ? r.toPrecision(2) : r.toFixed(3));
}

/** What an axis in a mode shows: "mean latency, µs" or "mean latency over N = 0". */
export function axisTitle(sel, mode) {
  const name = sel.measure.name;
  if (mode === "zero") return `${name}, × that of N = 0`;
  if (mode === "ref") return `${name}, × that of ${sel.part.reference}`;
  return sel.view.unit ? `${name}, ${sel.view.unit}` : name;
}

/** Which way is better. */
export function direction(sel) {
  return sel.measure.higher ? "higher is better" : "lower is better";
}
