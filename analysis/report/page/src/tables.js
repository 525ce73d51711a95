// Tables: sorted by a click on a heading, filtered by words, long ones folded. The folded rows of a
// long table remain text until they are shown, sorted, filtered or printed.

import { make } from "./dom.js";

/** Rows from which a table can be filtered, and after which it is folded. */
const filterFrom = 9;
const foldAfter = 12;

// The rows that are still text, by table: {html, count}.
const texts = new WeakMap();

/** Makes every table below an element so that is shown, and others when their details open. */
export function enhance(root) {
  for (const table of root.querySelectorAll(".scroll > table:not([data-enhanced])")) {
    if (closed(table)) continue;
    table.dataset.enhanced = "";
    if (count(table) > 1) sortable(table);
    if (count(table) >= filterFrom) foldable(table);
  }
  reachable(document);
}

function closed(element) {
  return element.closest("details:not([open])") !== null;
}

/**
 * What is folded or long is text in <noscript>: browsers with scripts make no elements of it,
 * others show it. unpack makes elements of what is shown below an element, and of what details
 * hide when hidden is true: of each table the first rows.
 */
export function unpack(root, hidden = false) {
  for (const packed of root.querySelectorAll("noscript")) {
    if (!hidden && closed(packed)) continue;
    const made = document.createElement("template");
    const { html, rest } = abridged(packed.textContent);
    made.innerHTML = html;
    for (const body of made.content.querySelectorAll("tbody[data-rest]")) {
      texts.set(body.parentElement, rest[body.dataset.rest]);
      body.removeAttribute("data-rest");
    }
    packed.replaceWith(made.content);
  }
}

// abridged is HTML without the rows of tables that are folded, and those. The report writes each
// row with its end, and text has no "<".
function abridged(html) {
  const rest = [];
  const shortened = html.replace(/<tbody>([^]*?)<\/tbody>/g, (whole, text) => {
    const rows = text.split(/(?<=<\/tr>)\s*/);
    const folded = rows.slice(foldAfter).filter(Boolean);
    if (folded.length === 0) return whole;
    rest.push({ html: folded.join(""), count: folded.length });
    return `<tbody data-rest="${rest.length - 1}">${rows.slice(0, foldAfter).join("")}</tbody>`;
  });
  return { html: shortened, rest };
}

// count is how many rows a table has, with those that are text.
function count(table) {
  return (table.tBodies[0]?.rows.length ?? 0) + (texts.get(table)?.count ?? 0);
}

/** Makes elements of all rows of a table. Those that were text are folded as before. */
export function complete(table) {
  const { html } = texts.get(table) ?? {};
  if (html === undefined) return;
  texts.delete(table);
  const shown = table.tBodies[0].rows.length;
  table.tBodies[0].insertAdjacentHTML("beforeend", html);
  for (const row of [...table.tBodies[0].rows].slice(shown)) row.classList.add("folded");
}

/** Unpacks and enhances what is opened. */
export function whenOpened() {
  const opened = (event) => {
    if (event.target.tagName !== "DETAILS" || !event.target.open) return;
    unpack(event.target);
    enhance(event.target);
  };
  document.addEventListener("toggle", opened, true); // it does not bubble
}

// sortable puts a button next to each heading: ascending, descending, as it was.
function sortable(table) {
  let rows; // as they were
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((th, column) => {
    const button = make("button", { type: "button", "data-sort": true, "aria-label": `Sort by ${th.textContent}`, title: "Sort" });
    button.addEventListener("click", () => {
      const next = { undefined: "ascending", ascending: "descending" }[th.getAttribute("aria-sort") ?? undefined];
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) th.setAttribute("aria-sort", next);
      complete(table);
      rows ??= [...table.tBodies[0].rows];
      const sorted = next ? rows.toSorted(by(column, next === "descending" ? -1 : 1)) : rows;
      table.tBodies[0].append(...sorted);
      table.dispatchEvent(new Event("sorted"));
    });
    th.append(button);
  });
}

// by compares cells as the numbers that they begin with, else as texts; cells without
// a number are last.
function by(column, sign) {
  const value = (row) => {
    const text = row.cells[column]?.textContent.trim() ?? "";
    const number = Number.parseFloat(text.replace(/^[×±]/, "").replace("−", "-"));
    return { text, number };
  };
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    const [noX, noY] = [Number.isNaN(x.number), Number.isNaN(y.number)];
    if (noX && noY) return sign * x.text.localeCompare(y.text);
    if (noX !== noY) return noX ? 1 : -1;
    return sign * (x.number - y.number);
  };
}

// foldable shows the rows that have all words of a text, and of many only the first.
function foldable(table) {
  const scroll = table.parentElement;
  const filter = make("input", { type: "search", "data-table-filter": true, placeholder: "Filter rows", "aria-label": "Filter rows" });
  const more = make("button", { type: "button", class: "plain", "data-action": "rows", "aria-expanded": "false" });
  let open = false;
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (open || words.length > 0) complete(table);
    let found = texts.get(table)?.count ?? 0;
    for (const row of table.tBodies[0].rows) {
      const text = words.length > 0 ? row.textContent.toLowerCase() : "";
      const fits = words.every((w) => text.includes(w));
      if (fits) found++;
      row.classList.toggle("out", !fits);
      row.classList.toggle("folded", fits && !open && found > foldAfter);
    }
    more.hidden = found <= foldAfter;
    more.textContent = open ? "Show fewer" : `Show all ${found} rows`;
    more.setAttribute("aria-expanded", String(open));
  };
  filter.addEventListener("input", apply);
  table.addEventListener("sorted", apply);
  more.addEventListener("click", () => {
    open = !open;
    apply();
  });
  scroll.before(make("div", { class: "tools" }, filter));
  scroll.after(more);
  apply();
}

/** Lets keys scroll what can be scrolled, and only that. */
export function reachable(root) {
  const taken = new Set();
  for (const box of root.querySelectorAll(".scroll")) {
    if (box.scrollWidth <= box.clientWidth + 1) {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      continue;
    }
    box.setAttribute("tabindex", "0");
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", unlike(taken, box.dataset.label || headingOf(box)));
  }
}

// headingOf is the text of the heading above an element.
function headingOf(element) {
  for (let e = element; e && e.tagName !== "MAIN"; e = e.parentElement) {
    for (let before = e.previousElementSibling; before; before = before.previousElementSibling) {
      if (/^H[1-6]$/.test(before.tagName)) return before.textContent;
    }
  }
  return "table";
}

// unlike numbers a label that is taken, so that no two regions have the same name.
function unlike(taken, label) {
  let text = label;
  for (let n = 2; taken.has(text); n++) text = `${label} (${n})`;
  taken.add(text);
  return text;
}
