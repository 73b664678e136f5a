// What is shown, and its form in the address after "#".

/**
 * @typedef {{seed: number, checkpoint: string, subset: string, alias: number, list: number, head: string, position: number,
 *   twin: boolean, story: number, typed: string}} State
 * With `twin`, the model is that of the twin at its end, whatever the checkpoint is. `list` counts from 0; `typed` is what a live page
 * asks in place of a question, and `position` is then `LAST` for its last token; `head` is "LAYER.HEAD", or "" for the one that the page chooses; `story` counts from 1, 0 is none.
 */

/** @type {any} The page's content, without the arrays. */
const CONTENT = JSON.parse(document.getElementById("content").textContent);

/** The position of the last token of what was typed, however long that is. */
const LAST = 1e6;

/** @param {number} number @returns {any} */
function seedOf(number) {
  return CONTENT.seeds.find((/** @type {any} */ one) => one.seed === number) || CONTENT.seeds[0];
}

/** The first view: the last checkpoint of the first seed, the first alias. @param {any} [seed] @returns {State} */
function firstState(seed = CONTENT.seeds[0]) {
  const alias = seed.aliases.find((/** @type {any} */ one) => one.subset === "d1_consistent") || seed.aliases[0];
  return { seed: seed.seed, checkpoint: seed.checkpoints.at(-1).key, subset: "", alias: alias.alias, list: 0, head: "",
    position: seed.labels.length - 1, twin: false, story: 0, typed: "" };
}

/** @param {State} state @returns {string} */
function fragmentOf(state) {
  const seed = seedOf(state.seed);
  const fields = new URLSearchParams();
  fields.set("seed", String(state.seed));
  fields.set("checkpoint", state.checkpoint);
  if (state.subset) fields.set("subset", state.subset);
  fields.set("alias", String(state.alias));
  if (state.typed) fields.set("typed", state.typed);
  else fields.set("question", String(state.list + 1));
  if (state.head) fields.set("head", state.head);
  if (!state.typed) fields.set("position", seed.labels[state.position]);
  else if (state.position !== LAST) fields.set("position", String(state.position));
  if (state.twin) fields.set("twin", "1");
  if (state.story) fields.set("story", String(state.story));
  return `#${fields}`;
}

/** The state that an address names, and a sentence on what it names that the page does not have.
 * @param {string} fragment @returns {{state: State, notice: string}} */
function stateOf(fragment) {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  if (![...fields].length) return { state: CONTENT.story.length ? stateOfView(1) : firstState(), notice: "" };
  /** @type {string[]} */
  const missing = [];
  /** @param {string} name @param {any[]} known @param {any} otherwise @returns {any} */
  const chosen = (name, known, otherwise) => {
    const text = fields.get(name);
    if (text === null) return otherwise;
    const found = known.find((one) => String(one) === text);
    if (found === undefined) missing.push(`${name} ${text}`);
    return found === undefined ? otherwise : found;
  };
  const seed = seedOf(chosen("seed", CONTENT.seeds.map((/** @type {any} */ one) => one.seed), CONTENT.seeds[0].seed));
  const state = firstState(seed);
  state.checkpoint = chosen("checkpoint", seed.checkpoints.map((/** @type {any} */ one) => one.key), state.checkpoint);
  state.subset = chosen("subset", seed.aliases.map((/** @type {any} */ one) => one.subset), "");
  state.alias = chosen("alias", seed.aliases.map((/** @type {any} */ one) => one.alias), state.alias);
  const questions = questionCount(seed, state.alias);
  state.list = chosen("question", Array.from({ length: questions }, (_, i) => i + 1), 1) - 1;
  const [, layers, heads] = seed.shapes.patterns;
  state.head = chosen("head", Array.from({ length: layers * heads }, (_, i) => `${Math.floor(i / heads)}.${i % heads}`), "");
  if (CONTENT.live) state.typed = fields.get("typed") || "";
  if (state.typed) state.position = /^\d+$/.test(fields.get("position") || "") ? Number(fields.get("position")) : LAST;
  else state.position = seed.labels.indexOf(chosen("position", seed.labels, seed.labels.at(-1)));
  state.twin = Boolean(chosen("twin", seed.noTwin ? [] : [1], 0));
  state.story = chosen("story", CONTENT.story.map((/** @type {any} */ _, /** @type {number} */ i) => i + 1), 0);
  const notice = missing.length ? `The link names ${missing.join(", ")}, which this page does not have; it shows something else there.` : "";
  return { state, notice };
}

/** The subset that an alias is of in the shown model: d1 and d2 have changed places in a twin. @param {State} state @param {string} subset
 * @returns {string} */
function subsetIn(state, subset) {
  /** @type {Record<string, string>} */
  const places = { d1_consistent: "d2_consistent", d2_consistent: "d1_consistent" };
  return state.twin && places[subset] ? places[subset] : subset;
}

/** @param {any} seed @param {number} number @returns {any} */
function aliasOf(seed, number) {
  return seed.aliases.find((/** @type {any} */ one) => one.alias === number) || seed.aliases[0];
}

/** How many questions an alias has; a live page learns it when it has asked for them. @param {any} seed @param {number} alias @returns {number} */
function questionCount(seed, alias) {
  return (aliasOf(seed, alias).questions || [0, 1]).length;
}

/** The index of a question along the first axis of the arrays. @param {any} seed @param {State} state @returns {number} */
function questionIndex(seed, state) {
  let index = 0;
  for (const one of seed.aliases) {
    if (one.alias === state.alias) return index + state.list;
    index += one.questions.length;
  }
  return 0;
}

/** The state of a view of the story, which counts from 1. @param {number} number @returns {State} */
function stateOfView(number) {
  const view = CONTENT.story[number - 1];
  const seed = view.seed === undefined ? CONTENT.seeds[0] : seedOf(view.seed);
  const state = firstState(seed);
  if (view.checkpoint === "first") state.checkpoint = seed.checkpoints[0].key;
  else if (view.checkpoint && view.checkpoint !== "last") state.checkpoint = view.checkpoint;
  if (view.subset) state.alias = seed.aliases.find((/** @type {any} */ one) => one.subset === view.subset).alias;
  if (view.alias !== undefined) state.alias = view.alias;
  if (view.question) state.list = view.question - 1;
  if (view.head) state.head = view.head;
  if (view.position) state.position = seed.labels.indexOf(view.position);
  state.story = number;
  return state;
}
