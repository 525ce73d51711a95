// Downloads of what is selected. They are made here: nothing is sent anywhere.

import { axisTitle } from "./model.js";
import { escape } from "./tip.js";
import { css } from "./marks.js";

/** Offers text as a file. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const columns = ["scenario", "workload", "metric", "unit", "arm", "structure", "mechanism", "fabric", "policies", "n",
  "estimate", "low", "high", "confidence", "over_zero", "over_zero_low", "over_zero_high", "over_zero_confidence",
  "over_reference", "over_reference_low", "over_reference_high", "over_reference_confidence", "trials"];

/** The selection as CSV, in base units: a line for each point. */
export function csvOf(sel) {
  const four = (e) => (e ? e.map(String) : ["", "", "", ""]);
  const lines = sel.arms.flatMap(({ arm, points }) =>
    points.map((p) => [sel.stratum.name, sel.measure.workload, sel.measure.metric, sel.measure.base, arm.name, arm.structure, arm.mechanism, arm.fabric,
      p.n, p.k, ...four(p.v), ...four(p.z), ...four(p.r), (p.x ?? []).join(" ")]),
  );
  return [columns, ...lines].map((line) => line.map(field).join(",")).join("\n") + "\n";
}

// A spreadsheet takes a text that begins with one of =+-@ for a formula.
function field(value) {
  let text = String(value);
  if (typeof value === "string" && /^[=+@]|^-[^\d.]/.test(text)) text = "'" + text;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** A chart as an SVG document of its own, with what it shows above it. */
export function svgOf(chart, sel, mode) {
  const inner = chart.renderToSVGString();
  const [width, height] = [chart.getWidth(), chart.getHeight()];
  const title = `${axisTitle(sel, mode)} · ${sel.measure.workload} · ${sel.stratum.name}`;
  const font = "font-family=\"system-ui,'Liberation Sans',Arial,sans-serif\"";
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height + 40}" width="${width}" height="${height + 40}" role="img" aria-label="${escape(title)}">
<rect width="100%" height="100%" fill="${css("--card")}"/>
<text x="8" y="25" ${font} font-size="15" font-weight="600" fill="${css("--text")}">${escape(title)}</text>
<g transform="translate(0 40)">${inner}</g></svg>
`;
}

/** A part of a file's name. */
export function slug(text) {
  return text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
}
