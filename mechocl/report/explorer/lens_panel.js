// The logit lens: what the residual stream would say of every entity at the chosen position.

const MOST_ENTITIES = 36;
const SHOWN_ENTITIES = 18;

/** Rank of an entity among all: 1 is the largest logit, ties take their mean rank. @param {Float32Array} logits @param {number} entity
 * @returns {number} */
function rankOf(logits, entity) {
  const own = logits[entity];
  const above = logits.filter((one) => one > own).length, tied = logits.filter((one) => one === own).length - 1;
  return 1 + above + tied / 2;
}

/** The entities that are drawn: all, or the likeliest at the last site and the alias's own. @param {View} view @returns {number[]} */
function drawnEntities(view) {
  const { sites, entities } = view.seed;
  const all = entities.map((/** @type {string} */ _, /** @type {number} */ i) => i);
  if (all.length <= MOST_ENTITIES) return all;
  const logits = lensAt(view, sites.length - 1, view.state.position);
  const best = all.slice().sort((/** @type {number} */ a, /** @type {number} */ b) => logits[b] - logits[a]).slice(0, SHOWN_ENTITIES);
  return best.includes(view.alias.entity) ? best : [...best, view.alias.entity];
}

/** @param {View} view @param {number} site @param {number} position @returns {Float32Array} */
function lensAt(view, site, position) {
  return part(view.arrays.lens, view.index, site, position);
}

/** @param {View} view @param {number} width @returns {SVGElement} */
function drawLens(view, width) {
  const { colors, state, seed, alias } = view;
  const drawn = drawnEntities(view), own = drawn.indexOf(alias.entity);
  const logits = seed.sites.map((/** @type {string} */ _, /** @type {number} */ site) => lensAt(view, site, state.position));
  const ranges = logits.map((/** @type {Float32Array} */ one) => [Math.min(...one), Math.max(...one)]);
  const listed = new Set(view.question.tokens.filter((/** @type {string} */ _, /** @type {number} */ i) => seed.roles[i] === "list"));
  const names = drawn.map((i) => seed.entities[i] + (listed.has(seed.entities[i]) ? "*" : ""));
  const ends = logits.map((/** @type {Float32Array} */ one) => `rank ${plain(rankOf(one, alias.entity))} of ${one.length}`);
  /** @param {number} site @param {number} entity @returns {string} */
  const fill = (site, entity) => {
    const [low, high] = ranges[site];
    return mix(colors.low, entity === own ? colors.row : colors.high, (logits[site][drawn[entity]] - low) / (high - low || 1));
  };
  /** @param {number} site @param {number} entity @returns {string} */
  const says = (site, entity) => `${seed.sites[site]}, ${names[entity]}: logit ${shown(logits[site][drawn[entity]], true)}`;
  if (width > 560) {
    return drawGrid({ rows: seed.sites, columns: names, width, colors, fill, says, ends, strongColumn: own, cell: 24 });
  }
  const turned = drawGrid({ rows: names, columns: seed.sites, width, colors, strongRow: own, cell: 15,
    fill: (entity, site) => fill(site, entity), says: (entity, site) => says(site, entity),
    number: (entity, site) => shown(logits[site][drawn[entity]], true) });
  const high = Number(turned.getAttribute("height"));
  const lines = ends.map((/** @type {string} */ one, /** @type {number} */ i) => label(4, high + 12 + 18 * i, `${seed.sites[i]}: own ${view.words.entity} ${one}`, colors.ink));
  return picture(width, high + 6 + 18 * ends.length, colors, [turned, ...lines]);
}

/** @param {View} view @param {number} width @returns {SVGElement} */
function drawRanks(view, width) {
  const { colors, seed, alias } = view, names = positionNames(view), count = seed.entities.length;
  const rank = (/** @type {number} */ site, /** @type {number} */ position) => rankOf(lensAt(view, site, position), alias.entity);
  return drawGrid({
    rows: seed.sites, columns: names, width, colors, strongColumn: names.length - 1, chosenColumn: view.state.position, pick: "position", cell: 24,
    fill: (site, position) => mix(colors.high, colors.low, Math.log(rank(site, position)) / Math.log(Math.max(2, count))),
    says: (site, position) => `${seed.sites[site]}, ${names[position]}: rank ${rank(site, position)} of ${count}`,
    number: (site, position) => plain(rank(site, position)),
  });
}

PANELS.push({
  id: "lens",
  title: (view) => `Logit lens at ${view.seed.labels[view.state.position]}: every ${view.words.entity}`,
  how: "The residual stream, if it were the last one: the stronger the colour, the larger the logit in its row. Outlined in orange is what the alias stands for; * marks what is in a list. Arrow keys change the position.",
  size: "full",
  draw: drawLens,
  move: (view, right, down) => movedPosition(view, right || down),
  table: (view) => [["site", "position", view.words.entity, "own", "logit"],
    ...view.seed.sites.flatMap((/** @type {string} */ name, /** @type {number} */ site) =>
      Array.from(lensAt(view, site, view.state.position), (logit, i) =>
        [name, view.seed.labels[view.state.position], view.seed.entities[i], i === view.alias.entity ? 1 : 0, logit]))],
}, {
  id: "ranks",
  title: (view) => `Rank of its own ${view.words.entity}, everywhere`,
  how: "The same lens at every position: rank of what the alias stands for, where 1 is before all others. A click chooses the position above.",
  size: "third",
  draw: drawRanks,
  move: (view, right) => movedPosition(view, right),
  table: (view) => [["site", "position", "rank"],
    ...view.seed.sites.flatMap((/** @type {string} */ name, /** @type {number} */ site) =>
      view.seed.labels.map((/** @type {string} */ position, /** @type {number} */ i) => [name, position, rankOf(lensAt(view, site, i), view.alias.entity)]))],
});
