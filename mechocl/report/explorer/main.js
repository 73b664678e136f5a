// The page: choices and addresses change the state, and the state is drawn.

/** @type {View | null} What was drawn last. */
let drawnView = null;
/** @type {State} */
let current = stateOf(location.hash).state;
/** What was drawn last, as the address has it. */
let drawnState = current;
/** @type {string | null} The theme that the reader chose; null follows the system. */
let chosenTheme = null;
/** Counts what is shown, so that a slow picture does not replace a newer one. */
let turn = 0;

const choice = (/** @type {string} */ id) => /** @type {HTMLInputElement & HTMLSelectElement} */ (document.getElementById(id));
const systemDark = matchMedia("(prefers-color-scheme: dark)");

/** Whether the page stands in another one, such as a notebook. Then its state is not in the address, which is that one's. */
const EMBEDDED = location.protocol === "about:";

/** @returns {string} */
function theme() {
  return chosenTheme || (EMBEDDED && outerTheme()) || (systemDark.matches ? "dark" : "light");
}

/** The theme of the notebook around the page, "" where it says none. @returns {string} */
function outerTheme() {
  try {
    const { dataset, classList } = window.parent.document.body;
    if (classList.contains("vscode-dark") || dataset.jpThemeLight === "false") return "dark";
    return classList.contains("vscode-light") || dataset.jpThemeLight === "true" ? "light" : "";
  } catch {
    return "";
  }
}

/** Change what is shown. `kept` replaces the last address instead of adding one. @param {Partial<State>} parts @param {boolean} [kept] */
function change(parts, kept = false) {
  const next = { ...current, ...parts };
  const seed = seedOf(next.seed);
  if (!seed.checkpoints.some((/** @type {any} */ one) => one.key === next.checkpoint)) next.checkpoint = seed.checkpoints.at(-1).key;
  if (seed.noTwin) next.twin = false;
  let alias = aliasOf(seed, next.alias);
  if (parts.seed !== undefined && next.subset && alias.subset !== next.subset) {  // the other seed's first alias of the subset
    alias = seed.aliases.find((/** @type {any} */ one) => one.subset === next.subset) || alias;
    if (alias.subset !== next.subset) next.subset = "";
  }
  if (parts.list !== undefined) next.typed = "";
  if (parts.typed) next.position = LAST;
  if (next.alias !== current.alias && next.typed) next.typed = next.typed.replaceAll(aliasOf(seedOf(current.seed), current.alias).name, alias.name);
  next.alias = alias.alias;
  next.list = clamp(next.list, questionCount(seed, next.alias));
  if (!next.typed) next.position = clamp(next.position, seed.labels.length);
  if (parts.alias !== undefined && next.subset && alias.subset !== next.subset) next.subset = "";
  if (fragmentOf(next) === fragmentOf(current)) return;
  if (["seed", "checkpoint", "subset", "alias", "list", "twin", "typed"].some((name) => name in parts)) next.story = 0;
  go(next, kept);
}

/** @param {State} state @param {boolean} [kept] */
function go(state, kept = false) {
  if (!EMBEDDED) history[kept ? "replaceState" : "pushState"](null, "", fragmentOf(state));
  current = state;
  say("");
  show();
}

/** A sentence that the reader must see; "" removes it. @param {string} words */
function say(words) {
  const notice = document.getElementById("notice");
  fillWords(notice, words);
  notice.hidden = !words;
}

/** Read what the state needs, and draw everything. */
async function show() {
  turn += 1;
  const own = turn, state = current, seed = seedOf(state.seed);
  drawChoices(state, seed);
  drawStory(state);
  const panels = document.getElementById("panels"), last = seed.checkpoints.at(-1).key;
  panels.setAttribute("aria-busy", "true");
  try {
    const loaded = await loadModel(state, state.twin ? "twin" : state.checkpoint);
    const [twin, final] = seed.noTwin ? [null, null] : await Promise.all([loadModel(state, "twin"), loadModel(state, last)]);
    if (own !== turn) return;
    draw(state, loaded, twin && twin.arrays, final && final.arrays);
  } catch (error) {
    if (own !== turn) return;
    current = drawnState;
    if (!EMBEDDED) history.replaceState(null, "", fragmentOf(current));
    document.documentElement.dataset.ready = String(turn);
    say(/** @type {Error} */ (error).message);
  }
  panels.removeAttribute("aria-busy");
  drawChoices(current, seedOf(current.seed));
}

/** Draw what was loaded. @param {State} state @param {Loaded} loaded @param {Record<string, NumberArray> | null} twinArrays
 * @param {Record<string, NumberArray> | null} finalArrays */
function draw(state, loaded, twinArrays, finalArrays) {
  const { seed, alias, list, first, arrays } = loaded, index = first + list;
  const head = state.head ? /** @type {[number, number]} */ (state.head.split(".").map(Number)) : strongestHead(arrays.patterns, index);
  drawnState = state;
  drawnView = { state: { ...state, list, position: clamp(state.position, seed.labels.length) }, seed, alias, question: alias.questions[list],
    index, first, arrays, head, colors: PALETTES[theme()], twinArrays, finalArrays, words: CONTENT.words };
  redraw();
}

/** Draw everything again, as after a change of the window or of the theme. */
function redraw() {
  document.documentElement.dataset.theme = theme();
  document.getElementById("theme").textContent = theme() === "dark" ? "Light" : "Dark";
  if (!drawnView) return;
  drawnView.colors = PALETTES[theme()];
  for (const panel of PANELS) drawPanel(panel, drawnView);
  document.getElementById("said").textContent = inWords(drawnView);
  document.documentElement.dataset.ready = String(turn);
}

/** What is shown, as one sentence. @param {View} view @returns {string} */
function inWords(view) {
  const { alias, seed, state } = view, subset = subsetIn(state, alias.subset), notation = CONTENT.subsets[subset];
  const tag = notation.tag ? `defined with tag ${notation.tag}` : "not defined";
  const when = state.twin ? "twin at its end" : checkpointOf(seed, state).label;
  return `Seed ${state.seed}, ${when}: ${alias.name} (${subset}, ${tag}) stands for ${view.words.entity} ${seed.entities[alias.entity]}; `
    + `${state.typed ? "what was typed" : `question ${state.list + 1}`}, the right answer is ${view.question.right}.`;
}

/** @param {any} seed @param {State} state @returns {any} */
function checkpointOf(seed, state) {
  return seed.checkpoints.find((/** @type {any} */ one) => one.key === state.checkpoint);
}

/** @param {string} id @param {[string | number, string][]} options @param {string | number} chosen */
function fillSelect(id, options, chosen) {
  choice(id).replaceChildren(...options.map(([value, words]) => new Option(words, String(value), false, String(value) === String(chosen))));
}

/** @param {State} state @param {any} seed */
function drawChoices(state, seed) {
  fillSelect("seed", CONTENT.seeds.map((/** @type {any} */ one) => [one.seed, String(one.seed)]), state.seed);
  const slider = choice("checkpoint"), at = seed.checkpoints.findIndex((/** @type {any} */ one) => one.key === state.checkpoint);
  slider.max = String(seed.checkpoints.length - 1);
  slider.value = String(at);
  slider.disabled = state.twin;
  slider.setAttribute("aria-valuetext", seed.checkpoints[at].label);
  document.getElementById("checkpoint-name").textContent = state.twin ? "the twin at its end" : seed.checkpoints[at].label;
  const subsets = [...new Set(seed.aliases.map((/** @type {any} */ one) => one.subset))];
  fillSelect("subset", [["", "all"], ...subsets.map((name) => /** @type {[string, string]} */ ([name, `${CONTENT.subsets[name].notation} ${name}`]))], state.subset);
  fillSelect("model", [["", "of the run"], ["twin", "its twin"]], state.twin ? "twin" : "");
  choice("model").closest("label").hidden = Boolean(seed.noTwin);
  const alias = aliasOf(seed, state.alias);
  choice("alias").value = alias.name;
  const there = seed.aliases.filter((/** @type {any} */ one) => !state.subset || one.subset === state.subset);
  const listed = document.getElementById("aliases"), group = `${state.seed} ${state.subset}`;
  if (listed.dataset.group !== group) listed.replaceChildren(...there.map((/** @type {any} */ one) => new Option(one.subset, one.name)));
  listed.dataset.group = group;
  if (alias.questions) {
    /** @type {[string | number, string][]} */
    const options = alias.questions.map((/** @type {any} */ one, /** @type {number} */ i) => [i, questionInWords(seed, one, i)]);
    fillSelect("list", state.typed ? [...options, ["typed", `typed: ${state.typed}`]] : options, state.typed ? "typed" : state.list);
  }
  if (!CONTENT.live) return;
  choice("typed").value = state.typed;
  document.getElementById("typed-hint").textContent = seed.typed;
  choice("typed").closest("label").hidden = !seed.typed;
}

/** @param {any} seed @param {any} question @param {number} i @returns {string} */
function questionInWords(seed, question, i) {
  const listed = question.tokens.filter((/** @type {string} */ _, /** @type {number} */ k) => seed.roles[k] === "list");
  return `${i + 1}: ${listed.length ? listed.join(" ") : question.tokens.join("").trim()} → ${question.right}`;
}

/** The alias that the reader typed: by its whole name, or the first whose name has what was typed. */
function chooseTyped() {
  const typed = choice("alias").value.trim().toLowerCase(), seed = seedOf(current.seed);
  const there = seed.aliases.filter((/** @type {any} */ one) => !current.subset || one.subset === current.subset);
  const found = there.find((/** @type {any} */ one) => one.name.toLowerCase() === typed)
    || there.find((/** @type {any} */ one) => one.name.toLowerCase().split(/\s+/).includes(typed))
    || there.find((/** @type {any} */ one) => one.name.toLowerCase().includes(typed));
  if (typed && found) change({ alias: found.alias });
  else say(`No alias of this page ${current.subset ? `in ${current.subset} ` : ""}is called “${typed}”; the arrow beside the field lists them.`);
  choice("alias").value = aliasOf(seed, current.alias).name;
}

/** @param {string} subset */
function chooseSubset(subset) {
  const seed = seedOf(current.seed), now = aliasOf(seed, current.alias);
  const first = subset && now.subset !== subset ? seed.aliases.find((/** @type {any} */ one) => one.subset === subset) : now;
  change({ subset, alias: first.alias });
}

function start() {
  if (typeof DecompressionStream === "undefined") {
    say("This browser cannot unpack the page's numbers, since it has no DecompressionStream; open the page in a browser of 2023 or later.");
    return;
  }
  choice("seed").addEventListener("change", () => change({ seed: Number(choice("seed").value) }));
  const slide = (/** @type {boolean} */ kept) => change({ checkpoint: seedOf(current.seed).checkpoints[Number(choice("checkpoint").value)].key }, kept);
  let sliding = false;
  choice("checkpoint").addEventListener("input", () => { slide(sliding); sliding = true; });
  choice("checkpoint").addEventListener("change", () => { sliding = false; });
  choice("subset").addEventListener("change", () => chooseSubset(choice("subset").value));
  choice("alias").addEventListener("change", chooseTyped);
  choice("alias").addEventListener("focus", () => choice("alias").select());
  choice("list").addEventListener("change", () => { if (choice("list").value !== "typed") change({ list: Number(choice("list").value) }); });
  if (CONTENT.live) choice("typed").addEventListener("change", () => change({ typed: choice("typed").value.trim() }));
  choice("model").addEventListener("change", () => change({ twin: choice("model").value === "twin" }));
  choice("choices").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("theme").addEventListener("click", () => { chosenTheme = theme() === "dark" ? "light" : "dark"; redraw(); });
  document.getElementById("links").hidden = EMBEDDED;
  systemDark.addEventListener("change", redraw);
  window.addEventListener("hashchange", arrive);
  window.addEventListener("popstate", arrive);
  let before = "";
  window.addEventListener("beforeprint", () => { before = chosenTheme || ""; chosenTheme = "light"; redraw(); });
  window.addEventListener("afterprint", () => { chosenTheme = before || null; redraw(); });
  for (const panel of PANELS) addFrame(panel, () => drawnView, change);
  startStory(() => current, go);
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; redraw(); } });
  arrive();
}

/** Show what the address names. */
function arrive() {
  const { state, notice } = stateOf(location.hash);
  current = state;
  say(notice);
  show();
}

start();
