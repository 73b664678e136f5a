// Where the alias stands among all aliases of its seed.

const SCATTER_HEIGHT = 300;

/** @param {NumberArray} measures @param {string} name @returns {Float32Array} One value for each alias of the seed. */
function measureNamed(measures, name) {
  const column = CONTENT.measures.findIndex((/** @type {any} */ one) => one.name === name), width = measures.shape[1];
  return Float32Array.from({ length: measures.shape[0] }, (_, i) => measures.data[i * width + column]);
}

/** Smallest and largest finite value, with a margin. @param {Float32Array} values @returns {[number, number]} */
function rangeOf(values) {
  const there = Array.from(values).filter(Number.isFinite);
  const low = Math.min(...there), high = Math.max(...there), margin = (high - low || 1) * 0.06;
  return [low - margin, high + margin];
}

/** A few round numbers within a range. @param {[number, number]} range @returns {number[]} */
function ticks([low, high]) {
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((one) => one * power >= rough) || 10);
  return Array.from({ length: 12 }, (_, i) => (Math.ceil(low / step) + i) * step).filter((one) => one <= high);
}

/** @param {View} view @param {number} width @returns {SVGElement | null} */
function drawScatter(view, width) {
  const { colors, seed, state } = view, every = seed.every;
  const xs = measureNamed(view.arrays.measures, "logit_difference"), ys = measureNamed(view.arrays.measures, "auc");
  const [left, low] = [rangeOf(xs), rangeOf(ys)];
  const x = (/** @type {number} */ value) => 46 + ((value - left[0]) / (left[1] - left[0])) * (width - 56);
  const y = (/** @type {number} */ value) => SCATTER_HEIGHT - 40 - ((value - low[0]) / (low[1] - low[0])) * (SCATTER_HEIGHT - 50);
  const onPage = new Set(seed.aliases.map((/** @type {any} */ one) => one.alias));
  /** @type {SVGElement[]} */
  const parts = [];
  for (const tick of ticks(left)) {
    parts.push(svg("line", { x1: x(tick), x2: x(tick), y1: 10, y2: SCATTER_HEIGHT - 38, stroke: colors.line }),
      label(x(tick), SCATTER_HEIGHT - 28, String(+tick.toFixed(2)).replace("-", "−"), colors.soft, { "text-anchor": "middle", "font-size": 11 }));
  }
  for (const tick of ticks(low)) {
    parts.push(svg("line", { x1: 46, x2: width - 8, y1: y(tick), y2: y(tick), stroke: colors.line }),
      label(40, y(tick), String(+tick.toFixed(2)).replace("-", "−"), colors.soft, { "text-anchor": "end", "font-size": 11 }));
  }
  /** @type {SVGElement[]} */
  const front = [];
  /** @type {SVGElement[]} */
  const ring = [];
  every.alias.forEach((/** @type {number} */ alias, /** @type {number} */ i) => {
    if (!Number.isFinite(xs[i]) || !Number.isFinite(ys[i])) return;
    const there = onPage.has(alias), chosen = alias === state.alias;
    const subset = subsetIn(state, every.subset[i]);
    const says = `${nameOf(seed, alias)}, ${subset}: ${shown(xs[i], true)}, AUC ${shown(ys[i])}`;
    const dot = mark(subset, x(xs[i]), y(ys[i]), chosen ? 8 : !there ? 2.6 : onPage.size > 300 ? 3.4 : 5, colors, says, there);
    if (there) dot.setAttribute("data-pick", `alias:${alias}`);
    (chosen ? ring : there ? front : parts).push(dot);
    if (chosen) ring.push(svg("circle", { cx: x(xs[i]), cy: y(ys[i]), r: 13, fill: "none", stroke: colors.ink, "stroke-width": 3, "pointer-events": "none" }));
  });
  const legend = drawLegend(seed, width, colors);
  const axis = [label(width / 2, SCATTER_HEIGHT - 8, "right − wrong logit, mean of its questions (nats)", colors.soft, { "text-anchor": "middle" }),
    label(0, 0, "AUC", colors.soft, { "text-anchor": "middle", transform: `translate(10 ${SCATTER_HEIGHT / 2}) rotate(-90)` })];
  return picture(width, SCATTER_HEIGHT + legend.height, colors, [...parts, ...front, ...ring, ...axis, ...legend.parts]);
}

/** The mark of an alias: shape by tag, colour by subset, hollow where training asked about it. @param {string} subset @param {number} x @param {number} y @param {number} size
 * @param {Palette} colors @param {string} says @param {boolean} there @returns {SVGElement} */
function mark(subset, x, y, size, colors, says, there) {
  const { tag, asked, color } = CONTENT.subsets[subset];
  const paint = colors === PALETTES.dark ? mix(color, "#ffffff", 0.3) : color;
  const style = { fill: asked ? colors.page : paint, stroke: asked ? paint : there ? colors.page : "none",
    "stroke-width": asked && there ? 2 : 1, opacity: there ? 1 : 0.45 };
  const title = svg("title", {}, [says]);
  if (tag === 1) return svg("circle", { cx: x, cy: y, r: size, ...style }, [title]);
  if (tag === 2) return svg("path", { d: `M${x} ${y - 1.25 * size}l${1.2 * size} ${2.1 * size}h${-2.4 * size}z`, ...style }, [title]);
  return svg("rect", { x: x - 0.9 * size, y: y - 0.9 * size, width: 1.8 * size, height: 1.8 * size, ...style }, [title]);
}

/** @param {any} seed @param {number} width @param {Palette} colors @returns {{parts: SVGElement[], height: number}} */
function drawLegend(seed, width, colors) {
  /** @type {SVGElement[]} */
  const parts = [];
  let x = 8, y = SCATTER_HEIGHT + 12;
  for (const subset of Object.keys(CONTENT.subsets).filter((name) => seed.every.subset.includes(name))) {
    const wide = roomFor([subset]) + 22;
    if (x + wide > width && x > 8) { x = 8; y += 20; }
    parts.push(mark(subset, x + 5, y, 5, colors, subset, true), label(x + 16, y, subset, colors.ink));
    x += wide;
  }
  return { parts, height: y - SCATTER_HEIGHT + 14 };
}

/** @param {any} seed @param {number} alias @returns {string} */
function nameOf(seed, alias) {
  const found = seed.aliases.find((/** @type {any} */ one) => one.alias === alias);
  return found ? found.name : `alias ${alias} (not on the page)`;
}

/** The next alias of the page, among those of the chosen subset. @param {View} view @param {number} by @returns {Partial<State>} */
function movedAlias(view, by) {
  const { seed, state } = view;
  const there = seed.aliases.filter((/** @type {any} */ one) => !state.subset || one.subset === state.subset);
  const now = there.findIndex((/** @type {any} */ one) => one.alias === state.alias);
  return { alias: there[clamp(now + by, there.length)].alias };
}

PANELS.push({
  id: "scatter",
  title: () => "This alias among all",
  how: "Each mark is an alias, answered better further to the right and up; circles have tag 1, triangles tag 2, squares another or none; hollow ones were asked about in training. The ringed one is shown. A click, or an arrow key, chooses another; the smallest ones are not on the page.",
  size: "",
  draw: drawScatter,
  move: (view, right, down) => movedAlias(view, right || down),
  table: (view) => [["alias", "subset", ...CONTENT.measures.map((/** @type {any} */ one) => one.name)],
    ...view.seed.every.alias.map((/** @type {number} */ alias, /** @type {number} */ i) =>
      [alias, subsetIn(view.state, view.seed.every.subset[i]), ...part(view.arrays.measures, i)])],
});
