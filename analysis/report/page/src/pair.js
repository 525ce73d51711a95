// Two runs side by side: for each cell how many times as much the new run has as the old one,
// with its interval, and the margin within which both are the same.

import { axisStyle, bounds, tooltipStyle } from "./axis.js";
import { chartIn } from "./echarts.js";
import { intervalSeries } from "./intervals.js";
import { colorOf, css, symbolOf } from "./marks.js";
import { rowHeight } from "./ranked.js";
import { escape } from "./tip.js";

const axisHeight = 42;

export class Pair {
  constructor(part, element) {
    Object.assign(this, { part, element });
    this.chart = chartIn(element);
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", `${part.pair.new} over ${part.pair.old}, cell by cell; the table has the numbers`);
  }

  draw() {
    const cells = this.part.pair.cells.filter((c) => c.r);
    const height = cells.length * rowHeight(cells.length);
    this.element.style.height = `${height + axisHeight}px`;
    this.chart.resize();
    const { margin } = this.part.pair;
    const within = [1 / (1 + margin), 1 + margin];
    const intervals = cells.map((c, row) => ({ c, row })).filter(({ c }) => c.r[3] > 0);
    const color = (c) => colorOf(this.part.arms[c.a] ?? { structure: "other" });
    const names = Math.min(300, this.element.clientWidth * 0.45);
    this.cells = cells;
    this.chart.setOption({
      animation: false,
      grid: { outerBoundsMode: "none", left: names, right: 16, top: 0, height },
      tooltip: { ...tooltipStyle(), trigger: "item", formatter: (p) => tipOf(cells[p.dataIndex]) },
      xAxis: { type: "value", ...bounds(cells.map((c) => c.r[0]), intervals.map(({ c }) => [c.r[1], c.r[2]]), "lin", [1, ...within]), ...axisStyle(), name: `${this.part.pair.new} over ${this.part.pair.old}`, nameLocation: "middle", nameGap: 26 },
      yAxis: { type: "category", inverse: true, data: cells.map((c) => c.title), axisLine: { show: false }, axisTick: { show: false }, axisLabel: { color: css("--text"), fontSize: 12, interval: 0, width: names - 12, overflow: "truncate" } },
      series: [
        intervalSeries("x", intervals.map(({ c, row }) => [c.r[0], row, c.r[1], c.r[2]]), intervals.map(({ c }) => ({ color: color(c), opacity: 1, width: 2 })), 3.5),
        {
          type: "scatter", z: 4, symbolSize: 10,
          data: cells.map((c, row) => ({ value: [c.r[0], row], symbol: symbolOf(this.part.arms[c.a] ?? {}), itemStyle: { color: color(c), borderColor: css("--card"), borderWidth: 1 } })),
          markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: css("--soft"), width: 1, type: "dashed" }, data: within.map((x) => ({ xAxis: x })) },
        },
      ],
    }, { notMerge: true });
  }

  points() {
    return this.cells.map((c, row) => {
      const [x, y] = this.chart.convertToPixel("grid", [c.r[0], row]);
      const [drawnX, drawnY] = this.chart.convertFromPixel("grid", [x, y]);
      return { arm: c.title, N: c.n, value: c.r[0], low: c.r[3] > 0 ? c.r[1] : null, high: c.r[3] > 0 ? c.r[2] : null, n: c.k, pinned: true, x, y, drawnX, drawnY };
    });
  }
}

function tipOf(cell) {
  return `<div class="tip"><strong>${escape(cell.title)}</strong><div>${escape(cell.text)} <em>${escape(cell.word)}</em></div><div class="soft">${escape(cell.why ?? "")}</div></div>`;
}
