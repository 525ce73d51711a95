// Elements.

/** An element with attributes and children; children that are no elements become text. */
export function make(tag, attributes = {}, ...children) {
  const out = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) out.addEventListener(name.slice(2), value);
    else if (value === true) out.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) out.setAttribute(name, value);
  }
  out.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return out;
}
