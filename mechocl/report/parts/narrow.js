// Figures in little room: panels side by side come one below the other, and what would overlap gets room of its own.

const NARROW = 700;  // width in pixels below which two columns become one
const LETTER = 0.56;  // width of a letter as a share of the size of its font, on average

/** @param {string} text @returns {string[]} Its lines, without tags. */
function linesOf(text) {
  return String(text).split(/<br ?\/?>/).map((line) => line.replace(/<[^>]*>/g, ""));
}

/** @param {string} text @param {number} size @returns {number} Its width in pixels, at the most usual. */
function widthOf(text, size) {
  return Math.max(...linesOf(text).map((line) => [...line.normalize("NFD").replace(/\p{M}/gu, "")].length)) * LETTER * size;
}

/** A text in lines that fit. Tags other than <br> keep a line as it is. @param {string} text @param {number} width @param {number} size @returns {string} */
function wrapped(text, width, size) {
  const most = Math.max(8, Math.floor(width / (LETTER * size)));
  return String(text).split(/<br ?\/?>/).map((line) => {
    if (/<[^>]*>/.test(line) || line.length <= most) return line;
    const lines = [""];
    for (const word of line.split(" ")) {
      if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push("");
      lines.push([lines.pop(), word].filter(Boolean).join(" "));
    }
    return lines.join("<br>");
  }).join("<br>");
}

/** Axes of the layout, as `x2` → its part of the layout. @param {any} layout @param {string} letter */
function axesOf(layout, letter) {
  const names = Object.keys(layout).filter((name) => new RegExp(`^${letter}axis\\d*$`).test(name));
  return Object.fromEntries(names.map((name) => [name.replace("axis", ""), layout[name]]));
}

/** The panels of a figure from the top, of each row from the left. @param {any[]} data @param {any} layout */
function panelsOf(data, layout) {
  const [xs, ys] = [axesOf(layout, "x"), axesOf(layout, "y")], found = new Map();
  for (const trace of data) {
    const [x, y] = [trace.xaxis || "x", trace.yaxis || "y"];
    found.set(x + y, { x: xs[x] || {}, y: ys[y] || {}, traces: [...(found.get(x + y)?.traces || []), trace] });
  }
  const panels = [...found.values()].map((panel) => ({ ...panel, across: panel.x.domain || [0, 1], up: panel.y.domain || [0, 1] }));
  return panels.sort((a, b) => b.up[1] - a.up[1] || a.across[0] - b.across[0]);
}

/** Texts of an axis's ticks, where the figure names them. @param {any} axis @param {any[]} traces @param {"x" | "y"} letter @returns {string[]} */
function tickTexts(axis, traces, letter) {
  if (axis.ticktext) return axis.ticktext.map(String);
  const values = traces.flatMap((trace) => (Array.isArray(trace[letter]) ? trace[letter] : []));
  return [...new Set(values.filter((one) => typeof one === "string"))];
}

/** Turn the names under a panel that have no room beside each other. @param {any} panel @param {number} width @returns {number} The height that they take. */
function turnTicks(panel, width) {
  const texts = tickTexts(panel.x, panel.traces, "x"), size = panel.x.tickfont?.size || 11;
  if (panel.x.showticklabels === false) return 8;
  if (!texts.length) return 24;
  const widest = Math.max(...texts.map((text) => widthOf(text, size)));
  const numeric = panel.x.ticktext && texts.every((text) => /^[\s\d.,+−-]*$/.test(text));
  if (numeric) return 24;
  if (widest * texts.length < 0.92 * width) return 12 + 15 * Math.max(...texts.map((text) => linesOf(text).length));
  if (panel.x.ticktext) panel.x.ticktext = texts.map((text) => linesOf(text).join(" "));
  const longest = Math.max(...texts.map((text) => widthOf(linesOf(text).join(" "), size)));
  panel.x.tickangle = longest > 80 ? -90 : -50;  // a long slanted name would begin left of the page
  return 20 + (longest > 80 ? 1.05 : 0.77) * longest;
}

/** Numbers under a panel that would overlap are left out, from the outside. @param {any} axis @param {number} width */
function thinTicks(axis, width) {
  if (!axis.ticktext || !axis.tickvals || !axis.range || !axis.ticktext.every((/** @type {any} */ text) => /^[\s\d.,+−-]*$/.test(text))) return;
  const [low, high] = axis.range, at = axis.tickvals.map((/** @type {number} */ value) => ((value - low) / (high - low)) * width);
  const order = axis.tickvals.map((/** @type {number} */ _, /** @type {number} */ i) => i)
    .sort((/** @type {number} */ a, /** @type {number} */ b) => Math.abs(axis.tickvals[a]) - Math.abs(axis.tickvals[b]));
  const half = (/** @type {number} */ i) => widthOf(axis.ticktext[i], 12) / 2 + 4;
  /** @type {number[]} */
  const kept = [];
  for (const i of order) {
    if (axis.ticktext[i] && kept.every((other) => Math.abs(at[i] - at[other]) > half(i) + half(other))) kept.push(i);
  }
  axis.ticktext = axis.ticktext.map((/** @type {string} */ text, /** @type {number} */ i) => (kept.includes(i) ? text : ""));
}

/** Names of rows that would take more than a third of the width stand above their rows. @param {any} panel @param {string} id @param {number} width
 * @param {any} layout @returns {number} By how much the rows grow. */
function namesAbove(panel, id, width, layout) {
  const { y } = panel;
  if (!y.ticktext || !y.tickvals || Math.max(...y.ticktext.map((/** @type {string} */ text) => widthOf(text, 12))) < 0.33 * width) return 1;
  y.showticklabels = false;
  y.automargin = false;
  layout.annotations.push(...y.ticktext.map((/** @type {string} */ text, /** @type {number} */ i) => ({
    text: linesOf(text).join(" "), x: 0, xref: "paper", xanchor: "left", y: y.tickvals[i], yref: id, yanchor: "bottom", yshift: 8, showarrow: false,
    font: { size: 11 }, borderpad: 0,
  })));
  return 1.4;
}

/** Height of the legend's rows. @param {any[]} data @param {any} layout @param {number} width @returns {number} */
function legendHeight(data, layout, width) {
  const names = data.filter((trace) => trace.name && trace.showlegend !== false && trace.type !== "heatmap").map((trace) => trace.name);
  if (layout.showlegend === false || names.length < 2) return 0;
  const columns = Math.max(1, Math.floor(width / (48 + Math.max(...names.map((name) => widthOf(name, 12))))));
  return 12 + 20 * Math.ceil(names.length / columns);
}

/** The figure for a narrow page, and the notes under its panels, which have no place in it. @param {{data: any[], layout: any}} figure
 * @param {number} room Width in pixels. @returns {{data: any[], layout: any, notes: string[]}} */
function narrowed(figure, room) {
  const { data, layout } = structuredClone(figure);
  const before = { l: 60, r: 20, t: 60, b: 60, ...layout.margin };
  const height = layout.height - before.t - before.b, width = room - 62;
  const notes = takeNotes(data, layout);
  const titled = layout.annotations.filter((/** @type {any} */ one) => one.xref === "paper" && one.yref === "paper");
  for (const one of layout.annotations) one.text = wrapped(one.text, one.xref === "paper" ? room - 30 : width / 2, one.font?.size || 13);
  const panels = panelsOf(data, layout);
  if (panels.length > 1) headColumns(panels, layout, titled);
  const above = panels.map((panel) => 14 + 17 * Math.max(0, ...titled.filter((/** @type {any} */ one) => isOver(one, panel)).map((/** @type {any} */ one) => linesOf(one.text).length)));
  const below = panels.map((panel) => turnTicks(panel, width) + (panel.x.title?.text ? 20 * linesOf(panel.x.title.text).length : 0));
  panels.forEach((panel) => thinTicks(panel.x, width));
  const ids = panels.map((panel) => Object.entries(axesOf(layout, "y")).find(([, axis]) => axis === panel.y)?.[0] || "y");
  const heights = panels.map((panel, i) => height * (panel.up[1] - panel.up[0]) * namesAbove(panel, ids[i], width, layout));
  const stacked = panels.length > 1;
  const inner = heights.reduce((sum, one, i) => sum + one + (i ? above[i] + below[i - 1] : 0), 0);
  if (stacked) stack(panels, heights, above, below, inner, titled);
  const legend = legendHeight(data, layout, room - 20), bar = layBarsAbove(data, layout, above[0] / inner);
  delete layout.title;  // it stands above the figure as text, which wraps
  if (legend) layout.legend = { ...layout.legend, orientation: "h", x: 0, xanchor: "left", y: 1 + above[0] / inner, yanchor: "bottom", font: { size: 11 } };
  layout.margin = { ...before, l: panels.some((panel) => panel.y.title?.text) ? 52 : 14, r: 10, t: above[0] + legend + bar, b: below.at(-1) + 14 };
  layout.height = Math.round(inner + layout.margin.t + layout.margin.b);
  for (const panel of panels) panel.y.automargin = panel.y.showticklabels !== false;
  fitLabels(data, layout, room);
  return { data, layout, notes };
}

/** Take the notes under the panels out of the layout: under the ticks of a narrow figure they would need room that nobody knows.
 * @param {any[]} data @param {any} layout @returns {string[]} */
function takeNotes(data, layout) {
  const panels = panelsOf(data, layout);
  const isNote = (/** @type {any} */ one) => one.xref === "paper" && one.yref === "paper" && one.y <= 0 && !panels.some((panel) => isOver(one, panel));
  const all = layout.annotations || [];
  layout.annotations = all.filter((/** @type {any} */ one) => !isNote(one));
  return all.filter(isNote).map((/** @type {any} */ one) => linesOf(one.text).join(" "));
}

/** Whether an annotation is the heading of a panel. @param {any} one @param {any} panel @returns {boolean} */
function isOver(one, panel) {
  return one.x >= panel.across[0] - 0.001 && one.x <= panel.across[1] + 0.001 && Math.abs(one.y - panel.up[1]) < 0.01;
}

/** A panel without a heading takes that of its column, under which it no longer stands. @param {any[]} panels @param {any} layout @param {any[]} titled */
function headColumns(panels, layout, titled) {
  for (const panel of panels.filter((one) => !titled.some((title) => isOver(title, one)))) {
    const column = panels.find((other) => other.across[0] === panel.across[0] && titled.some((title) => isOver(title, other)));
    const heading = column && titled.find((title) => isOver(title, column));
    if (!heading) continue;
    const copy = { ...structuredClone(heading), y: panel.up[1] };
    layout.annotations.push(copy);
    titled.push(copy);
  }
}

/** Put panels one below the other. @param {any[]} panels @param {number[]} heights @param {number[]} above @param {number[]} below @param {number} inner
 * @param {any[]} titled */
function stack(panels, heights, above, below, inner, titled) {
  let top = 1;
  panels.forEach((panel, i) => {
    const up = [Math.max(0, top - heights[i] / inner), top];
    for (const one of titled.filter((each) => isOver(each, panel) && !each.placed)) Object.assign(one, { x: 0.5, y: up[1], placed: true });
    const left = panels.find((other) => other.up[1] === panel.up[1]);
    if (left !== panel && !panel.y.title?.text && left.y.title) panel.y.title = structuredClone(left.y.title);
    Object.assign(panel.x, { domain: [0, 1] });
    Object.assign(panel.y, { domain: up, showticklabels: panel.y.showticklabels === false && left === panel ? false : true });
    top = up[0] - (below[i] + (above[i + 1] || 0)) / inner;
  });
  titled.forEach((one) => delete one.placed);
}

/** Lay colour bars above the panels. @param {any[]} data @param {any} layout @param {number} gap @returns {number} Their height. */
function layBarsAbove(data, layout, gap) {
  const bars = [layout.coloraxis, ...data.filter((trace) => trace.type === "heatmap" && trace.showscale !== false && !trace.coloraxis)].filter(Boolean);
  bars.forEach((one) => {
    one.colorbar = { ...one.colorbar, orientation: "h", thickness: 12, len: 1, x: 0.5, xanchor: "center", y: 1 + gap, yanchor: "bottom", ypad: 4 };
    one.colorbar.title = { ...(typeof one.colorbar.title === "string" ? { text: one.colorbar.title } : one.colorbar.title), side: "top" };
  });
  return bars.length ? 66 : 0;
}
