// Axes: where numbers go. The same ticks for every selection of one view.

import { css } from "./marks.js";

/** N as a coordinate. The logarithmic axis has N = 0, too: it is of N + 1. */
export function place(n, scale) {
  return scale === "log" ? Math.log10(n + 1) : n;
}

/** The N of a coordinate. */
export function placed(x, scale) {
  return scale === "log" ? 10 ** x - 1 : x;
}

/**
 * Bounds of a value axis around values, with a step that people count in. Intervals
 * ([low, high] each) widen it, but by no more than the values themselves reach, so that
 * one that is almost without bounds does not press all others together.
 */
export function bounds(values, intervals, scale, include) {
  let low = Math.min(...values, ...include);
  let high = Math.max(...values, ...include);
  const reach = scale === "log" ? 1 : Math.max(high - low, Math.abs(high) * 0.02);
  for (const [l, h] of intervals) {
    if (scale === "log") {
      if (l > 0) low = Math.max(Math.min(low, l), low / 2);
      high = Math.min(Math.max(high, h), high * 2);
    }
  }
  if (scale === "log") return { min: low / 1.1, max: high * 1.1 };
  const [first, last] = [low, high];
  for (const [l, h] of intervals) {
    low = Math.max(Math.min(low, l), first - reach);
    high = Math.min(Math.max(high, h), last + reach);
  }
  const step = niceStep((high - low || Math.abs(high) || 1) / 4);
  return { min: Math.floor(low / step) * step, max: Math.ceil(high / step) * step, interval: step };
}

// niceStep is the next of 1, 2, 2.5 and 5 times a power of ten.
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999) * power;
}

/** A tick's text without the noise of floating point. */
export function tick(value) {
  return String(Number(value.toPrecision(6)));
}

/** The look that all axes share. */
export function axisStyle() {
  return {
    axisLine: { show: true, lineStyle: { color: css("--axis") } },
    axisTick: { show: true, length: 4, lineStyle: { color: css("--axis") } },
    axisLabel: { color: css("--soft"), fontSize: 12, hideOverlap: true, formatter: tick },
    splitLine: { show: true, lineStyle: { color: css("--grid"), width: 1 } },
    nameTextStyle: { color: css("--soft"), fontSize: 12 },
  };
}

/** The look of tooltips. */
export function tooltipStyle() {
  return {
    backgroundColor: css("--card"),
    borderColor: css("--line"),
    textStyle: { color: css("--text"), fontSize: 13 },
    extraCssText: "box-shadow:0 4px 16px rgb(0 0 0/.18);max-width:22rem;white-space:normal",
    confine: true,
  };
}
