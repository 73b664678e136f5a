// The question, token by token, with each token's role.

/** @type {Record<string, string>} */
const ROLE_NAMES = { tag: "tag", alias: "alias", separator: "sign", entity: "entity", list: "list", equals: "answer is read", answer: "answer", word: "word" };

/** @param {View} view @param {number} width @returns {SVGElement} */
function drawTokens(view, width) {
  const { colors, seed, question, state } = view;
  /** @type {SVGElement[]} */
  const parts = [];
  let x = 3, y = 4;
  question.tokens.forEach((/** @type {string} */ token, /** @type {number} */ i) => {
    const words = token.trim() || "␣", role = seed.roles[i], match = isMatch(view, i);
    const said = match ? "own integer" : ROLE_NAMES[role];
    const wide = Math.max(roomFor([words], 15), roomFor([said], 11)) + 8;
    if (x + wide > width && x > 3) { x = 3; y += 56; }
    const answering = role === "equals", chosen = i === state.position;
    const fill = answering ? colors.row : role === "alias" ? colors.high : match ? mix(colors.low, colors.row, 0.35) : colors.wash;
    parts.push(
      svg("rect", { x, y, width: wide, height: 30, rx: 4, fill, stroke: chosen ? colors.ink : colors.line, "stroke-width": chosen ? 3 : 1,
        "data-pick": `position:${i}` }, [svg("title", {}, [`${seed.labels[i]}: ${words}, ${said}`])]),
      label(x + wide / 2, y + 15.5, words, inkOn(fill), { "text-anchor": "middle", "font-size": 15, "font-weight": match || answering ? 700 : 400,
        "pointer-events": "none" }),
      label(x + wide / 2, y + 42, said, colors.soft, { "text-anchor": "middle", "font-size": 11 }),
    );
    x += wide + 6;
  });
  return picture(width, y + 54, colors, parts);
}

PANELS.push({
  id: "tokens",
  title: () => "The question",
  how: "Each token with its role. The answer is read at the orange token. A click, or an arrow key, chooses the position that the lens reads.",
  size: "full",
  draw: drawTokens,
  move: (view, right, down) => movedPosition(view, right || down),
  table: (view) => [["position", "label", "role", "token", "own integer"],
    ...view.question.tokens.map((/** @type {string} */ token, /** @type {number} */ i) =>
      [i, view.seed.labels[i], view.seed.roles[i], token.trim(), isMatch(view, i) ? 1 : 0])],
});
