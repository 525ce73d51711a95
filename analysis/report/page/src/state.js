// What is shown of one part, and its text in the URL's hash.

/** Keys of a state that choose one level of a factor, in the order of the controls. */
export const choices = ["scenario", "kernel", "nic", "streams", "workload"];
/** Keys that may have several levels; none means all. */
export const filters = ["structure", "mechanism", "fabric", "clients"];

/** The state that a part begins with. */
export function initial(part) {
  const view = part.views[part.first];
  const stratum = part.strata[view.stratum];
  const s = { workload: part.measures[view.measure].workload, q: "", pin: null, scale: "lin", all: false };
  for (const key of choices) s[key] ??= stratum.levels[key] ?? "";
  for (const key of filters) s[key] = [];
  s.rank = has(part, "z") ? "zero" : has(part, "r") ? "ref" : "abs";
  s.y = "abs";
  s.x = wide(part) ? "log" : "lin";
  return s;
}

/** Whether any point of a part has a key. */
export function has(part, key) {
  return part.views.some((v) => v.points.some((p) => p[key]));
}

// wide: on a linear axis most of the numbers of policies would be in one place.
function wide(part) {
  const levels = [...new Set(part.views.flatMap((v) => v.points.map((p) => p.n)))].filter((n) => n > 0);
  return levels.length > 2 && Math.max(...levels) / Math.min(...levels) > 20;
}

/** The parameters of a state that are not at their default, each key after a prefix. */
export function encode(state, defaults, prefix, into) {
  for (const [key, value] of Object.entries(state)) {
    const text = asText(value);
    if (text !== asText(defaults[key])) into.set(prefix + key, text);
  }
}

function asText(value) {
  if (value === null || value === undefined) return "\0"; // unlike every text
  if (Array.isArray(value)) return value.map((v) => v.replaceAll("%", "%25").replaceAll(",", "%2C")).join(",");
  if (typeof value === "boolean") return value ? "1" : "";
  return String(value);
}

/** The state of the parameters: what they lack, or what the part does not have, is at its default. */
export function decode(params, defaults, prefix, part) {
  const s = structuredClone(defaults);
  for (const key of Object.keys(defaults)) {
    const text = params.get(prefix + key);
    if (text === null) continue;
    if (filters.includes(key) || key === "pin") s[key] = text === "" ? [] : text.split(",").map(unescaped);
    else if (typeof defaults[key] === "boolean") s[key] = text === "1";
    else s[key] = text;
  }
  return viewOf(part, s) ? s : { ...s, ...only(defaults, choices) };
}

function unescaped(text) {
  return text.replaceAll("%2C", ",").replaceAll("%25", "%");
}

function only(object, keys) {
  return Object.fromEntries(keys.map((key) => [key, object[key]]));
}

/** The view that a state chooses, undefined if there is none. */
export function viewOf(part, state) {
  return part.views.find((v) => {
    const levels = part.strata[v.stratum].levels;
    const fits = choices.every((key) => key === "workload" || (levels[key] ?? "") === state[key]);
    return fits && part.measures[v.measure].workload === state.workload;
  });
}

/**
 * The state with another level of one factor. Where no view has it together with the
 * others, they follow: the first view with the level is taken.
 */
export function choose(part, state, key, level) {
  const next = { ...state, [key]: level };
  if (viewOf(part, next)) return next;
  const v = part.views.find((v) => levelOf(part, v, key) === level);
  if (!v) return state;
  for (const k of choices) next[k] = levelOf(part, v, k);
  return next;
}

/** The level of a factor of a view. */
export function levelOf(part, view, key) {
  if (key === "workload") return part.measures[view.measure].workload;
  return part.strata[view.stratum].levels[key] ?? "";
}
