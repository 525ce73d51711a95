// How an arm looks: its colour is that of its structure and its symbol and dashes that of its
// mechanism, so that an arm looks the same in every report.

// Structures of the catalog that have a colour of their own. The colours are CSS variables
// (page.css), one set for light and one for dark pages.
const structures = {
  linear: "--c-linear",
  hash: "--c-hash",
  prefixes: "--c-prefixes",
  "hash and list": "--c-both",
  none: "--c-none",
};

const symbols = { netfilter: "circle", tc: "rect", xdp: "triangle", proxy: "diamond", socket: "roundRect", none: "circle" };
const dashes = { netfilter: "solid", tc: [7, 3], xdp: [2, 3], proxy: [9, 3, 2, 3], socket: [4, 4], none: [5, 4] };

/** What the legend calls the levels, in its order. */
export const structureTitles = {
  linear: "list",
  hash: "hash",
  prefixes: "prefixes",
  "hash and list": "hash and list",
  none: "no policies",
  other: "other",
};

/** The CSS variable of a structure's colour. */
export function colorVariable(structure) {
  return structures[structure] ?? "--c-other";
}

/** The value of a CSS variable on the page as it is now, light or dark. */
export function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The colour of an arm. */
export function colorOf(arm) {
  return css(colorVariable(arm.structure));
}

/** The ECharts symbol of an arm. */
export function symbolOf(arm) {
  return symbols[arm.mechanism] ?? "circle";
}

/** The dashes of an arm's line. */
export function dashOf(arm) {
  return dashes[arm.mechanism] ?? "solid";
}
