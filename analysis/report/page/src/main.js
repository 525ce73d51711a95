// The script of report.html. The page is complete without it; with it numbers can be explored.

import { Explorer } from "./explorer.js";
import { Pair } from "./pair.js";
import { whilePrinting } from "./print.js";
import { enhance, reachable, unpack, whenOpened } from "./tables.js";

const data = JSON.parse(document.getElementById("hookbed-data").textContent);
const explorers = new Map();
const pairs = [];
let drawn;

document.documentElement.classList.add("js");
window.hookbed = { ready: new Promise((resolve) => (drawn = resolve)), charts, points, state, set, axis };

start();

function start() {
  for (const part of data.parts) {
    const prefix = part.id ? `${part.id}-` : "";
    const element = document.getElementById(prefix + "explorer");
    if (element && part.views.length > 0) explorers.set(part.id, new Explorer(part, element, writeHash));
    const pair = document.getElementById(prefix + "pair");
    if (pair && part.pair) pairs.push(new Pair(part, pair));
  }
  readHash();
  window.addEventListener("hashchange", readHash);
  window.addEventListener("resize", inFrame(redraw));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // The same figures, still, are in the way of those that move; print.js opens them again.
  for (const still of document.querySelectorAll("details.static")) still.open = false;
  unpack(document);
  enhance(document);
  whenOpened();
  whilePrinting();
  requestAnimationFrame(() => requestAnimationFrame(() => drawn()));
}

function redraw() {
  for (const e of explorers.values()) e.draw();
  for (const p of pairs) p.draw();
  reachable(document);
}

// inFrame calls a function in the next frame, once for all that ask before it.
function inFrame(act) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      act();
    });
  };
}

// A hash with "=" is a state, any other a place in the page.
function readHash() {
  const hash = location.hash.slice(1);
  const params = new URLSearchParams(hash.includes("=") ? hash : "");
  for (const e of explorers.values()) {
    if (hash === "" || hash.includes("=")) e.read(params);
  }
  document.getElementById(hash)?.closest("details")?.setAttribute("open", "");
  redraw();
}

function writeHash() {
  const params = new URLSearchParams();
  for (const e of explorers.values()) e.write(params);
  const text = params.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

// The interface for tests and other programs. The ID of a chart is that of its element.

function plots() {
  const all = new Map();
  for (const e of explorers.values()) {
    all.set(e.prefix + "ranked", e.ranked);
    all.set(e.prefix + "lines", e.lines);
  }
  for (const p of pairs) all.set(p.element.id, p);
  return all;
}

function charts() {
  return [...plots().keys()];
}

function points(id) {
  return plots().get(id).points();
}

function axis(id) {
  const option = plots().get(id).chart.getOption();
  const of = (a) => ({ type: a.type, min: a.min, max: a.max });
  return { x: of(option.xAxis[0]), y: of(option.yAxis[0]) };
}

function state(part = "") {
  return structuredClone(explorers.get(part).state);
}

function set(part, change) {
  explorers.get(part).set(change);
}
