// Presses of a button or a finger on the marks of a chart. The browser's click event is not enough: it
// is lost when the node under the pointer is moved or replaced between down and up, and a chart moves
// the node of a mark that the pointer comes upon above the others, and replaces all when it is drawn.

/** How far the pointer may move between down and up, in pixels. */
const slack = 4;

/**
 * Calls pick(name) when a button goes down and up on marks of one arm. armOf(event) is the arm's
 * name for an event of ECharts, undefined if what it is of can not be picked.
 */
export function onPress(chart, armOf, pick) {
  let down;
  // Before the chart has it: ECharts has no event of what is on no mark.
  chart.getDom().addEventListener("pointerdown", () => (down = undefined), { capture: true });
  chart.on("mousedown", (event) => (down = placeOf(event)));
  chart.on("mouseup", (event) => {
    const [from, to] = [down, placeOf(event)];
    down = undefined;
    if (from?.name === undefined || from.name !== to?.name) return;
    if (Math.hypot(to.x - from.x, to.y - from.y) <= slack) pick(to.name);
  });

  // placeOf is where an event of the first button or of a finger, which has none, is.
  function placeOf(event) {
    const { offsetX, offsetY, event: native } = event.event;
    return (native.button ?? 0) === 0 ? { name: armOf(event), x: offsetX, y: offsetY } : undefined;
  }
}
