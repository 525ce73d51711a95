// Paper: everything is open, and afterwards as it was.

import { complete, unpack } from "./tables.js";

/** Opens all details while the page is printed. */
export function whilePrinting() {
  let closed = null;
  const open = () => {
    if (closed) return;
    unpack(document, true);
    for (const table of document.querySelectorAll("table")) complete(table);
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const d of closed) d.open = true;
  };
  const close = () => {
    for (const d of closed ?? []) d.open = false;
    closed = null;
  };
  window.addEventListener("beforeprint", open);
  window.addEventListener("afterprint", close);
  window.matchMedia("print").addEventListener("change", (event) => (event.matches ? open() : close()));
}
