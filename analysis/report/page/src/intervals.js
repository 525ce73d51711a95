// Intervals as bars with caps, one for each datum [x, y, low, high] of a custom series.

/** The series of intervals along one axis, "x" or "y", each in its own style {color, opacity, width}. */
export function intervalSeries(along, data, styles, cap) {
  return {
    type: "custom",
    silent: true,
    clip: true,
    z: 3,
    data,
    renderItem(params, api) {
      const style = styles[params.dataIndex];
      const [x, y, low, high] = [0, 1, 2, 3].map((i) => api.value(i));
      const ends = along === "x" ? [api.coord([low, y]), api.coord([high, y])] : [api.coord([x, low]), api.coord([x, high])];
      return { type: "group", children: bar(ends, along, cap).map((shape) => line(shape, style)) };
    },
    encode: along === "x" ? { x: [0, 2, 3], y: 1 } : { x: 0, y: [1, 2, 3] },
  };
}

// bar is the line between both ends, and a cap across each.
function bar([a, b], along, cap) {
  const across = along === "x" ? [0, cap] : [cap, 0];
  const end = (p) => ({ x1: p[0] - across[0], y1: p[1] - across[1], x2: p[0] + across[0], y2: p[1] + across[1] });
  return [{ x1: a[0], y1: a[1], x2: b[0], y2: b[1] }, end(a), end(b)];
}

function line(shape, style) {
  return { type: "line", shape, style: { stroke: style.color, opacity: style.opacity, lineWidth: style.width } };
}
