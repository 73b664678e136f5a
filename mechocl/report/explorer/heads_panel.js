// Every head's pattern in small, and the pinned head's pattern in large.

/** The head whose answering row attends most to other positions than its own. @param {NumberArray} patterns @param {number} question
 * @returns {[number, number]} */
function strongestHead(patterns, question) {
  const [, layers, heads] = patterns.shape;
  /** @type {[number, number]} */
  let best = [0, 0];
  let most = -1;
  for (let layer = 0; layer < layers; layer += 1) {
    for (let head = 0; head < heads; head += 1) {
      const triangle = part(patterns, question, layer, head);
      const own = triangle[triangle.length - 1];
      if (1 - own > most) { most = 1 - own; best = [layer, head]; }
    }
  }
  return best;
}

/** One pattern as a picture of a pixel for each weight. @param {Float32Array} triangle @param {number} length @param {Palette} colors
 * @returns {string} Its data: address. */
function thumbnail(triangle, length, colors) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = length;
  const context = canvas.getContext("2d");
  for (let query = 0; query < length; query += 1) {
    patternRow(triangle, query).forEach((weight, key) => {
      context.fillStyle = query === length - 1 ? mix(colors.rowLow, colors.row, weight) : mix(colors.low, colors.high, weight);
      context.fillRect(key, query, 1, 1);
    });
  }
  return canvas.toDataURL();
}

/** @param {View} view @param {number} width @returns {SVGElement} */
function drawHeads(view, width) {
  const { colors, arrays, seed, index } = view;
  const [, layers, heads] = arrays.patterns.shape, length = seed.labels.length;
  const side = Math.max(22, Math.min(140, (width - 34) / heads - 8)), step = side + 8;
  /** @type {SVGElement[]} */
  const parts = [];
  for (let head = 0; head < heads; head += 1) {
    parts.push(label(34 + head * step + side / 2, 9, `H${head}`, colors.soft, { "text-anchor": "middle" }));
  }
  for (let layer = 0; layer < layers; layer += 1) {
    const y = 20 + layer * step;
    parts.push(label(28, y + side / 2, `L${layer}`, colors.soft, { "text-anchor": "end" }));
    for (let head = 0; head < heads; head += 1) {
      const x = 34 + head * step, pinned = layer === view.head[0] && head === view.head[1];
      const href = thumbnail(part(arrays.patterns, index, layer, head), length, colors);
      parts.push(
        svg("image", { x, y, width: side, height: side, href, preserveAspectRatio: "none", style: "image-rendering: pixelated",
          "data-pick": `head:${layer}.${head}` }, [svg("title", {}, [`layer ${layer}, head ${head}${pinned ? ", pinned" : ""}`])]),
        svg("rect", { x: x - 1, y: y - 1, width: side + 2, height: side + 2, fill: "none", stroke: pinned ? colors.ink : colors.line,
          "stroke-width": pinned ? 3 : 1, "pointer-events": "none" }),
      );
    }
  }
  return picture(Math.max(width, 34 + heads * step), 22 + layers * step, colors, parts);
}

/** @param {View} view @param {number} width @returns {SVGElement} */
function drawPattern(view, width) {
  const { colors, arrays, index, head } = view;
  const triangle = part(arrays.patterns, index, head[0], head[1]), names = positionNames(view), last = names.length - 1;
  const weight = (/** @type {number} */ query, /** @type {number} */ key) => patternRow(triangle, query)[key];
  return drawGrid({
    rows: names, columns: names, width, colors, strongRow: last, chosenRow: view.state.position, pick: "position", picked: (query) => String(query),
    fill: (query, key) => (key > query ? null : query === last ? mix(colors.rowLow, colors.row, weight(query, key)) : mix(colors.low, colors.high, weight(query, key))),
    says: (query, key) => `${names[query]} attends to ${names[key]}: ${weight(query, key).toFixed(3)}`,
    number: (query, key) => weight(query, key).toFixed(2),
  });
}

/** @param {View} view @param {number} right @param {number} down @returns {Partial<State>} */
function movedHead(view, right, down) {
  const [, layers, heads] = view.arrays.patterns.shape;
  return { head: `${clamp(view.head[0] + down, layers)}.${clamp(view.head[1] + right, heads)}` };
}

/** @param {View} view @param {[number, number][]} heads @returns {(string | number)[][]} */
function patternTable(view, heads) {
  const names = positionNames(view);
  const lines = heads.flatMap(([layer, head]) => {
    const triangle = part(view.arrays.patterns, view.index, layer, head);
    return names.flatMap((_, query) => Array.from(patternRow(triangle, query), (weight, key) =>
      [layer, head, query, view.seed.labels[query], key, view.seed.labels[key], weight]));
  });
  return [["layer", "head", "query", "query label", "key", "key label", "attention"], ...lines];
}

PANELS.push({
  id: "heads",
  title: () => "Attention of every head",
  how: "Queries from top to bottom, keys from left to right; the orange last row is that of the answer. A click, or an arrow key, pins a head.",
  size: "",
  draw: drawHeads,
  move: movedHead,
  table: (view) => {
    const [, layers, heads] = view.arrays.patterns.shape;
    return patternTable(view, Array.from({ length: layers * heads }, (_, i) => [Math.floor(i / heads), i % heads]));
  },
}, {
  id: "pattern",
  title: (view) => `Pattern of layer ${view.head[0]}, head ${view.head[1]}`,
  how: "How much each position (row) attends to each before it (column). The orange row is the one from which the answer is read. Arrow keys choose a row.",
  size: "",
  draw: drawPattern,
  move: (view, right, down) => movedPosition(view, right || down),
  table: (view) => patternTable(view, [view.head]),
});
