// The alias under both tags: in the seed itself, and in the variant in which d1 and d2 have changed places.

/** What is compared, row by row: words, the value under the alias's own tag, and that under the other. @param {View} view
 * @returns {[string, number, number][]} */
function twinRows(view) {
  const { seed, alias, finalArrays: own, twinArrays: other } = view, last = seed.labels.length - 1;
  const first = view.first;
  const place = seed.every.alias.indexOf(alias.alias);
  /** @type {[string, number, number][]} */
  const rows = [];
  for (const name of ["auc", "logit_difference"]) {
    rows.push([name === "auc" ? "AUC" : "right − wrong logit",
      measureNamed(own.measures, name)[place], measureNamed(other.measures, name)[place]]);
  }
  alias.questions.forEach((/** @type {any} */ _, /** @type {number} */ i) => rows.push([view.state.typed ? "logits, what was typed" : `logits, question ${i + 1}`,
    part(own.difference, first + i)[0], part(other.difference, first + i)[0]]));
  const named = seed.roles.lastIndexOf("alias");
  seed.sites.forEach((/** @type {string} */ site, /** @type {number} */ i) => rows.push([`rank: alias, ${site.replace("layer ", "L")}`,
    rankOf(part(own.lens, first, i, named), alias.entity), rankOf(part(other.lens, first, i, named), alias.entity)]));
  rows.push([`rank: ${seed.labels[last]}, ${seed.sites.at(-1).replace("layer ", "L")}`,
    rankOf(part(own.lens, first, seed.sites.length - 1, last), alias.entity), rankOf(part(other.lens, first, seed.sites.length - 1, last), alias.entity)]);
  return rows;
}

/** Whether the alias has a twin: one of d1 or d2, whose run has the variant. @param {View} view @returns {boolean} */
function hasTwin(view) {
  return Boolean(view.twinArrays) && ["d1_consistent", "d2_consistent"].includes(view.alias.subset);
}

/** @param {View} view @param {number} width @returns {SVGElement | null} */
function drawTwin(view, width) {
  if (!hasTwin(view)) return null;
  const { colors } = view, tag = CONTENT.subsets[view.alias.subset].tag, numbers = Math.min(80, width * 0.2);
  const columns = [width - 2.2 * numbers, width - 1.1 * numbers, width - 4];
  const heads = [`tag ${tag} (run)`, `tag ${3 - tag} (twin)`, "difference"];
  const parts = columns.map((x, i) => label(x, 10, heads[i], colors.soft, { "text-anchor": "end", "font-size": 11 }));
  twinRows(view).forEach(([words, own, other], k) => {
    const y = 32 + 22 * k, most = Math.floor((columns[0] - 60) / 6.6);
    parts.push(svg("line", { x1: 0, x2: width, y1: y - 11, y2: y - 11, stroke: colors.line }), label(4, y, cut(words, most), colors.ink));
    const number = words.startsWith("rank") ? plain : shown;
    [number(own), number(other), number(own - other, true)].forEach((text, i) => parts.push(label(columns[i], y, text, colors.ink, { "text-anchor": "end" })));
  });
  return picture(width, 26 + 22 * twinRows(view).length, colors, parts);
}

PANELS.push({
  id: "twin",
  title: () => "Its twin under the other tag",
  how: "The same alias, trained again from the same weights with the other tag in its definition, at the end of training; “Model” above shows all of it in the other panels. Of each question it compares the difference of the answers' logits; ranks are those of what it stands for.",
  size: "third",
  draw: drawTwin,
  absent: () => (CONTENT.seeds.every((/** @type {any} */ one) => one.noTwin) ? `Twins under the other tag are not on this page: ${CONTENT.seeds[0].noTwin}` : ""),
  instead: (view) => view.seed.noTwin || "Aliases of d1_consistent and d2_consistent have twins; this one is of another subset.",
  table: (view) => [["quantity", "own tag", "other tag"], ...twinRows(view)],
});
