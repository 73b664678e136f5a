// The effect of each patch on this question: one activation of it put into the same question about another alias.

/** @param {View} view @returns {Float32Array | null} Effects, patch by patch, of every position; null where there are none. */
function effectsOf(view) {
  return view.arrays.effects && view.question.partner >= 0 ? part(view.arrays.effects, view.index) : null;
}

/** @param {View} view @param {number} width @returns {SVGElement | null} */
function drawPatching(view, width) {
  const effects = effectsOf(view), { colors, seed } = view;
  if (!effects) return null;
  const names = positionNames(view), length = names.length;
  const value = (/** @type {number} */ patch, /** @type {number} */ position) => effects[patch * length + position];
  const most = Math.max(...Array.from(effects, (one) => (Number.isFinite(one) ? Math.abs(one) : 0)));
  const drawn = drawGrid({
    rows: seed.patches, columns: names, width, colors, strongColumn: length - 1, chosenColumn: view.state.position, pick: "position", cell: 22,
    fill: (patch, position) => (Number.isFinite(value(patch, position)) ? signed(colors, value(patch, position), most) : colors.page),
    says: (patch, position) => (Number.isFinite(value(patch, position))
      ? `${seed.patches[patch]} at ${names[position]}: ${shown(value(patch, position), true)} nats`
      : `${seed.patches[patch]} at ${names[position]}: the same in both runs, not measured`),
    number: (patch, position) => (Number.isFinite(value(patch, position)) ? shown(value(patch, position), true) : ""),
  });
  const [clean, corrupted] = part(view.arrays.ends, view.index), high = Number(drawn.getAttribute("height"));
  const line = `right − wrong logit: ${shown(clean, true)} about ${view.alias.name}, ${shown(corrupted, true)} about ${partnerName(view)}`;
  const lines = wrapped(line, Math.floor(width / 6.8));
  return picture(Math.max(width, Number(drawn.getAttribute("width"))), high + 6 + 17 * lines.length, colors,
    [drawn, ...lines.map((words, i) => label(4, high + 10 + 17 * i, words, colors.ink))]);
}

/** @param {View} view @returns {string} */
function partnerName(view) {
  return view.seed.partners[String(view.question.partner)];
}

/** @param {View} view @returns {string} */
function whyNoPatching(view) {
  return view.arrays.effects ? "No other alias of its kind would have another answer to this question, so there is no pair to patch." : CONTENT.noPatching;
}

PANELS.push({
  id: "patching",
  title: (view) => (effectsOf(view) ? `Patching: ${view.alias.name} into ${partnerName(view)}` : "Patching"),
  how: "The same question is asked about another alias, for which another answer is right, and one activation is taken from this one. Blue moves the answer towards this alias's (nats), orange away; empty cells are the same in both.",
  size: "",
  draw: drawPatching,
  instead: whyNoPatching,
  move: (view, right) => movedPosition(view, right),
  table: (view) => [["patch", "position", "effect"], ...view.seed.patches.flatMap((/** @type {string} */ name, /** @type {number} */ patch) =>
    view.seed.labels.map((/** @type {string} */ position, /** @type {number} */ i) => [name, position, effectsOf(view)[patch * view.seed.labels.length + i]]))],
});
