// What is shown of a model: from the page itself, or from the server of a live page.

/**
 * @typedef {{seed: any, alias: any, list: number, first: number, arrays: Record<string, NumberArray>}} Loaded
 * The seed and the alias as they are shown, which question of the alias it is, the place of its first question in the arrays, and the arrays.
 */

/** The questions and arrays of a model. `key` is a checkpoint, or "twin". Throws an Error, whose message the reader sees.
 * @param {State} state @param {string} key @returns {Promise<Loaded>} */
async function loadModel(state, key) {
  const seed = seedOf(state.seed), alias = aliasOf(seed, state.alias);
  if (!CONTENT.live) {
    const arrays = await keptModel(`chunk-${state.seed}-${key}`, (id) => decodeChunk(document.getElementById(id).textContent, seed.shapes));
    return { seed, alias, list: state.list, first: questionIndex(seed, { ...state, list: 0 }), arrays };
  }
  const fields = new URLSearchParams({ seed: String(state.seed), checkpoint: key, alias: String(state.alias), typed: state.typed });
  const found = await keptModel(`model?${fields}`, askServer);
  if (!state.typed) alias.questions = found.questions;
  else if (!alias.questions) await loadModel({ ...state, typed: "" }, key);
  const { labels, roles, partners, shapes, questions } = found;
  return { seed: { ...seed, labels, roles, partners, shapes }, alias: { ...alias, questions }, first: 0, arrays: found.arrays,
    list: state.typed ? 0 : clamp(state.list, questions.length) };
}

/** @param {string} address @returns {Promise<any>} */
async function askServer(address) {
  const response = await fetch(address).catch(() => /** @type {Response | null} */ (null));
  if (!response) throw new Error("The server does not answer; start `mechocl serve` again, and open the address that it prints.");
  if (!response.ok) throw new Error((await response.text()).trim());
  const found = await response.json();
  if (found.error) throw new Error(`${found.error}.`);
  return { ...found, arrays: await decodeChunk(found.packed, found.shapes) };
}
