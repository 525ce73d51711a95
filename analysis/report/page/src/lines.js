// Lines against the number of policies: all arms faint, those that are pinned bold, with their
// intervals, and named at their ends.

import { axisStyle, bounds, place, placed, tooltipStyle } from "./axis.js";
import { chartIn } from "./echarts.js";
import { intervalSeries } from "./intervals.js";
import { colorOf, css, dashOf, symbolOf } from "./marks.js";
import { axisTitle, estimate, scaled } from "./model.js";
import { onPress } from "./press.js";
import { tip } from "./tip.js";

/** Room for a name, in pixels. */
const nameHeight = 16;

/**
 * Heights near those wanted that are at least gap apart and within low and high, in the same
 * order: neighbours that are too close become a pile around their mean.
 */
export function apart(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const piles = [];
  for (const i of order) {
    let pile = { members: [i], start: within(wanted[i], 1) };
    while (piles.length > 0 && piles.at(-1).start + piles.at(-1).members.length * gap > pile.start) {
      const members = [...piles.pop().members, ...pile.members];
      const mean = members.reduce((sum, m, k) => sum + wanted[m] - k * gap, 0) / members.length;
      pile = { members, start: within(mean, members.length) };
    }
    piles.push(pile);
  }
  const out = [];
  for (const { members, start } of piles) members.forEach((m, k) => (out[m] = start + k * gap));
  return out;

  function within(start, n) {
    return Math.max(low, Math.min(start, high - (n - 1) * gap));
  }
}

export class Lines {
  /** A plot in an element; pick(name) is called with the arm of a line or dot that was pressed. */
  constructor(element, pick) {
    this.element = element;
    this.chart = chartIn(element);
    onPress(this.chart, (event) => (event.seriesId?.startsWith("arm-") ? this.drawn[event.seriesId.slice(4)].arm.name : undefined), pick);
  }

  draw(sel) {
    this.sel = sel;
    const mode = sel.state.y;
    this.drawn = sel.arms
      .map((line) => ({ arm: line.arm, pinned: sel.pinned.has(line.arm.name), points: line.points.filter((p) => estimate(p, mode)) }))
      .filter((line) => line.points.length > 0);
    this.chart.resize();
    this.chart.setOption(this.option(mode), { notMerge: true });
  }

  option(mode) {
    const { sel } = this;
    const { scale, x } = sel.state;
    const value = (p, i = 0) => scaled(sel.view, estimate(p, mode)[i], mode);
    const all = this.drawn.flatMap((l) => l.points);
    const bars = this.drawn.filter((l) => l.pinned).flatMap((l) => l.points.filter((p) => estimate(p, mode)[3] > 0).map((p) => ({ l, p })));
    const range = bounds(all.map((p) => value(p)), bars.map(({ p }) => [value(p, 1), value(p, 2)]), scale, scale === "log" ? [] : mode === "abs" ? [0] : [1]);
    const levels = [...new Set(sel.view.points.map((p) => p.n))].sort((a, b) => a - b);
    const most = levels.at(-1) ?? 0;
    const room = this.room();
    return {
      animation: false,
      grid: { outerBoundsMode: "none", left: 54, right: room, top: 30, bottom: 42 },
      tooltip: { ...tooltipStyle(), trigger: "item" },
      xAxis: {
        type: "value", ...axisStyle(), splitLine: { show: false }, min: -0.02 * (place(most, x) || 1), max: 1.02 * (place(most, x) || 1),
        axisTick: { ...axisStyle().axisTick, customValues: levels.map((n) => place(n, x)) },
        axisLabel: { ...axisStyle().axisLabel, customValues: levels.map((n) => place(n, x)), formatter: (v) => String(Math.round(placed(v, x))) },
        name: "number of policies N", nameLocation: "middle", nameGap: 26,
      },
      yAxis: {
        type: scale === "log" ? "log" : "value", ...range, ...axisStyle(), axisLine: { show: false }, axisTick: { show: false }, name: axisTitle(sel, mode), nameLocation: "end", nameGap: 12,
        nameTextStyle: { ...axisStyle().nameTextStyle, align: "left", padding: [0, 0, 0, -46] },
      },
      series: [...this.drawn.map((line, i) => this.series(line, i, value, most)), this.intervals(bars, value, x), this.names(value, most, room)],
    };
  }

  // room is the space right of the plot for names, in pixels.
  room() {
    return Math.min(220, Math.max(96, this.element.clientWidth * 0.29));
  }

  series(line, i, value, most) {
    const { x } = this.sel.state;
    const color = colorOf(line.arm);
    const data = line.points.map((p) => ({ value: [place(p.n, x), value(p)], point: p }));
    const bare = line.arm.bare && line.points.length === 1;
    if (bare && most > 0) data.push({ value: [place(most, x), data[0].value[1]], symbol: "none", point: line.points[0] });
    return {
      id: `arm-${i}`,
      type: "line",
      data,
      z: line.pinned ? 4 : 2,
      symbol: symbolOf(line.arm),
      symbolSize: line.pinned ? 8 : 5,
      triggerLineEvent: true,
      cursor: "pointer",
      lineStyle: { color, width: line.pinned ? 2.5 : 1.25, opacity: line.pinned ? 1 : 0.42, type: dashOf(line.arm) },
      itemStyle: { color, opacity: line.pinned ? 1 : 0.42 },
      emphasis: { lineStyle: { width: 3, opacity: 1 }, itemStyle: { opacity: 1 } },
      tooltip: { formatter: (p) => p.data?.point ? tip(this.sel, line.arm, p.data.point) : "" },
    };
  }

  // names writes the name of each pinned arm right of the plot, at the height where its line
  // ends or, where several end close together, next to it, with a thin line to it.
  names(value, most, room) {
    const { x } = this.sel.state;
    const pinned = this.drawn.filter((l) => l.pinned);
    const ends = pinned.map((l) => [place(l.points.at(-1).n, x), value(l.points.at(-1))]);
    let heights;
    return {
      type: "custom",
      silent: true,
      z: 5,
      data: ends.map(([, y]) => [place(most, x), y]),
      renderItem: (params, api) => {
        heights ??= apart(ends.map((e) => api.coord(e)[1]), nameHeight, params.coordSys.y, params.coordSys.y + params.coordSys.height);
        const i = params.dataIndex;
        const line = pinned[i];
        const right = params.coordSys.x + params.coordSys.width;
        const [endX, endY] = api.coord(ends[i]);
        const from = line.arm.bare ? right : endX;
        return {
          type: "group",
          children: [
            { type: "polyline", shape: { points: [[from + 6, endY], [right + 8, endY], [right + 18, heights[i]]] }, style: { stroke: colorOf(line.arm), lineWidth: 1, opacity: 0.6, fill: "none" } },
            { type: "text", style: { text: line.arm.name, x: right + 22, y: heights[i], fill: css("--text"), font: "600 12px system-ui,'Liberation Sans',Arial,sans-serif", verticalAlign: "middle", width: room - 26, overflow: "truncate" } },
          ],
        };
      },
    };
  }

  intervals(bars, value, x) {
    const style = ({ l }) => ({ color: colorOf(l.arm), opacity: 0.8, width: 1.5 });
    return intervalSeries("y", bars.map(({ p }) => [place(p.n, x), value(p), value(p, 1), value(p, 2)]), bars.map(style), 4);
  }

  /** What is drawn, for tests and other programs. */
  points() {
    const { y, x } = this.sel.state;
    return this.drawn.flatMap((line) =>
      line.points.map((p) => {
        const e = estimate(p, y);
        const at = this.chart.convertToPixel({ gridIndex: 0 }, [place(p.n, x), scaled(this.sel.view, e[0], y)]);
        const back = this.chart.convertFromPixel({ gridIndex: 0 }, at);
        return { arm: line.arm.name, N: p.n, value: e[0], low: e[3] > 0 ? e[1] : null, high: e[3] > 0 ? e[2] : null, n: p.k, pinned: line.pinned, x: at[0], y: at[1], drawnX: placed(back[0], x), drawnY: back[1] };
      }),
    );
  }
}
