// The tooltip of a point: what it is, its number with the interval, its ratios, its trials.

import { direction, format, textOf } from "./model.js";
import { colorVariable } from "./marks.js";

/** How many trials a tooltip lists before it counts the rest. */
const listed = 12;

/** The tooltip of a point as HTML; all that is not fixed text goes through escape. */
export function tip(sel, arm, point) {
  const { view, measure, part } = sel;
  const rows = [];
  const add = (name, text, word) => text && rows.push(`<tr><th>${name}</th><td>${escape(text)}${word ? ` <em>${escape(word)}</em>` : ""}</td></tr>`);
  add(escape(measure.name), textOf(point, "abs", view) ?? "no valid number");
  add("over N = 0", point.tz, point.wz);
  add(`over ${escape(part.reference)}`, point.tr, point.wr);
  add("trials", `${point.k}${point.x ? `: ${raw(view, point.x)}` : ""}`);
  add("note", point.o);
  const what = [arm.fabric, arm.mechanism !== "none" && arm.mechanism, arm.structure !== "none" && arm.structure].filter(Boolean).join(" · ");
  return `<div class="tip"><strong><i style="background:var(${colorVariable(arm.structure)})"></i>${escape(arm.name)}</strong> N = ${point.n}
    <div class="soft">${escape(what)} · ${direction(sel)}</div><table>${rows.join("")}</table></div>`;
}

function raw(view, values) {
  const texts = values.slice(0, listed).map((v) => format(view, v));
  const more = values.length - texts.length;
  return texts.join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Text as HTML. */
export function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
