// The logits of the answers at the position at which the answer is read.

const MOST_ANSWERS = 12;

/** The answers that are drawn, likeliest first: all, or the likeliest and the right one. @param {View} view @returns {number[]} */
function drawnAnswers(view) {
  const logits = part(view.arrays.logits, view.index);
  const all = Array.from(logits, (_, i) => i).sort((a, b) => logits[b] - logits[a]);
  const right = view.seed.candidates.indexOf(view.question.right), best = all.slice(0, MOST_ANSWERS);
  return right < 0 || best.includes(right) ? best : [...best, right];
}

/** @param {View} view @param {number} width @returns {SVGElement} */
function drawAnswers(view, width) {
  const { colors, seed, question } = view;
  const logits = part(view.arrays.logits, view.index), drawn = drawnAnswers(view);
  const names = drawn.map((i) => seed.candidates[i]);
  const left = Math.min(roomFor(names, 14) + 10, width * 0.35), room = width - left - 70;
  const low = Math.min(0, ...drawn.map((i) => logits[i])), high = Math.max(0, ...drawn.map((i) => logits[i]));
  const scale = (/** @type {number} */ value) => left + ((value - low) / (high - low || 1)) * room;
  /** @type {SVGElement[]} */
  const parts = [];
  drawn.forEach((i, k) => {
    const y = 8 + 27 * k, right = seed.candidates[i] === question.right, from = scale(0), to = scale(logits[i]);
    parts.push(
      label(left - 8, y + 10, cut(names[k], 18), colors.ink, { "text-anchor": "end", "font-size": 14, "font-weight": right ? 700 : 400 }),
      svg("rect", { x: Math.min(from, to), y, width: Math.max(1, Math.abs(to - from)), height: 20, fill: right ? colors.row : colors.high }),
      label(Math.max(from, to) + 5, y + 10, shown(logits[i], true) + (right ? " ✓" : ""), colors.ink, { "font-weight": right ? 700 : 400 }),
    );
  });
  parts.push(svg("line", { x1: scale(0), x2: scale(0), y1: 3, y2: 8 + 27 * drawn.length, stroke: colors.soft }));
  return picture(width, 14 + 27 * drawn.length, colors, parts);
}

/** The logit difference of the shown question, and whether the model is right. @param {View} view @returns {string} */
function verdictOn(view) {
  const difference = part(view.arrays.difference, view.index)[0];
  const right = difference * view.question.sign > 0;
  return `${view.words.difference} = ${shown(difference, true)}: ${right ? "rightly answered" : "wrongly answered"}`;
}

PANELS.push({
  id: "answers",
  title: (view) => `Logits of the answers (${verdictOn(view)})`,
  how: "At the position from which the answer is read. The right answer is orange, and has a ✓.",
  size: "third",
  draw: drawAnswers,
  table: (view) => [["answer", "right", "logit"], ...Array.from(part(view.arrays.logits, view.index), (logit, i) =>
    [view.seed.candidates[i], view.seed.candidates[i] === view.question.right ? 1 : 0, logit])],
});
