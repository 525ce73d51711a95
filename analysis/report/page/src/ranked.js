// The ranked dot plot: a row for each arm, the best on top, and its interval. The rows' names
// and numbers are HTML, so that they can be read, selected and focused; the plot is behind them.

import { axisStyle, bounds, tooltipStyle } from "./axis.js";
import { chartIn } from "./echarts.js";
import { intervalSeries } from "./intervals.js";
import { colorOf, css, symbolOf } from "./marks.js";
import { axisTitle, estimate, scaled } from "./model.js";
import { onPress } from "./press.js";
import { tip } from "./tip.js";

/** Height of the axis below the rows, in pixels; page.css has it, too. */
const axisHeight = 42;

/** Height of each of n rows, in pixels: few rows have more room. */
export function rowHeight(n) {
  return Math.min(32, Math.max(22, Math.floor(400 / n)));
}

export class Ranked {
  /** A plot in an element; pick(name) is called with the arm of a dot that was pressed. */
  constructor(element, pick) {
    this.element = element;
    this.chart = chartIn(element);
    onPress(this.chart, (event) => (event.seriesId === "dots" ? this.drawn[event.dataIndex].arm.name : undefined), pick);
  }

  /** Draws the rows of a selection that are shown. */
  draw(sel, rows) {
    this.sel = sel;
    this.rows = rows;
    const mode = sel.state.rank;
    this.drawn = rows.map((line, row) => ({ ...line, row })).filter((line) => line.top);
    this.height = rows.length * rowHeight(rows.length);
    this.element.style.height = `${this.height + axisHeight}px`;
    this.chart.resize();
    this.chart.setOption(this.option(mode), { notMerge: true });
  }

  option(mode) {
    const { sel } = this;
    const log = sel.state.scale === "log";
    const value = (line, i = 0) => scaled(sel.view, estimate(line.top, mode)[i], mode);
    const withInterval = this.drawn.filter((line) => estimate(line.top, mode)[3] > 0);
    const range = bounds(this.drawn.map((l) => value(l)), withInterval.map((l) => [value(l, 1), value(l, 2)]), log ? "log" : "lin", mode === "abs" ? [] : [1]);
    const look = (line) => ({ color: colorOf(line.arm), opacity: this.faint(line) ? 0.55 : 1, width: this.faint(line) ? 1.25 : 2 });
    return {
      animation: false,
      grid: { outerBoundsMode: "none", left: 8, right: 12, top: 0, height: this.height },
      tooltip: { ...tooltipStyle(), trigger: "item" },
      xAxis: { type: log ? "log" : "value", ...range, ...axisStyle(), axisLine: { ...axisStyle().axisLine, onZero: false }, name: this.element.clientWidth > 240 ? axisTitle(sel, mode) : "", nameLocation: "middle", nameGap: 26, position: "bottom" },
      yAxis: { type: "value", inverse: true, min: -0.5, max: this.rows.length - 0.5, show: false },
      series: [
        intervalSeries("x", withInterval.map((l) => [value(l), l.row, value(l, 1), value(l, 2)]), withInterval.map(look), 3.5),
        {
          id: "dots",
          type: "scatter",
          z: 4,
          data: this.drawn.map((l) => ({ value: [value(l), l.row], symbol: symbolOf(l.arm), symbolSize: this.faint(l) ? 8 : 11, itemStyle: { ...look(l), borderColor: css("--card"), borderWidth: 1 } })),
          markLine: mode === "abs" ? undefined : one(),
          tooltip: { formatter: (p) => tip(sel, this.drawn[p.dataIndex].arm, this.drawn[p.dataIndex].top) },
          cursor: "pointer",
        },
      ],
    };
  }

  faint(line) {
    return !this.sel.pinned.has(line.arm.name);
  }

  /** Shows the tooltip of an arm, or of none. */
  point(name) {
    const dataIndex = this.drawn.findIndex((l) => l.arm.name === name);
    this.chart.dispatchAction(dataIndex < 0 ? { type: "hideTip" } : { type: "showTip", seriesId: "dots", seriesIndex: 1, dataIndex });
  }

  /** What is drawn, for tests and other programs. */
  points() {
    const mode = this.sel.state.rank;
    return this.drawn.map((line) => {
      const e = estimate(line.top, mode);
      const [x, y] = this.chart.convertToPixel("grid", [scaled(this.sel.view, e[0], mode), line.row]);
      const [drawnX, drawnY] = this.chart.convertFromPixel("grid", [x, y]);
      return { arm: line.arm.name, N: line.top.n, value: e[0], low: e[3] > 0 ? e[1] : null, high: e[3] > 0 ? e[2] : null, n: line.top.k, pinned: !this.faint(line), x, y, drawnX, drawnY };
    });
  }
}

// one is the line of no difference.
function one() {
  return { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: css("--soft"), type: "solid", width: 1 }, data: [{ xAxis: 1 }], animation: false };
}

