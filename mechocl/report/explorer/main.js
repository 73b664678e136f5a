// The page: choices and addresses change the state, and the state is drawn.

/** @type {View | null} What was drawn last. */
let drawnView = null;
/** @type {State} */
let current = stateOf(location.hash).state;
/** @type {string | null} The theme that the reader chose; null follows the system. */
let chosenTheme = null;
/** Counts what is shown, so that a slow picture does not replace a newer one. */
let turn = 0;

const choice = (/** @type {string} */ id) => /** @type {HTMLInputElement & HTMLSelectElement} */ (document.getElementById(id));
const systemDark = matchMedia("(prefers-color-scheme: dark)");

/** @returns {string} */
function theme() {
  return chosenTheme || (systemDark.matches ? "dark" : "light");
}

/** Change what is shown. `kept` replaces the last address instead of adding one. @param {Partial<State>} parts @param {boolean} [kept] */
function change(parts, kept = false) {
  const next = { ...current, ...parts };
  const seed = seedOf(next.seed);
  if (!seed.checkpoints.some((/** @type {any} */ one) => one.key === next.checkpoint)) next.checkpoint = seed.checkpoints.at(-1).key;
  if (seed.noTwin) next.twin = false;
  const alias = aliasOf(seed, next.alias);
  next.alias = alias.alias;
  next.list = clamp(next.list, alias.questions.length);
  next.position = clamp(next.position, seed.labels.length);
  if (parts.alias !== undefined && next.subset && alias.subset !== next.subset) next.subset = "";
  if (fragmentOf(next) === fragmentOf(current)) return;
  if (["seed", "checkpoint", "subset", "alias", "list", "twin"].some((name) => name in parts)) next.story = 0;
  go(next, kept);
}

/** @param {State} state @param {boolean} [kept] */
function go(state, kept = false) {
  history[kept ? "replaceState" : "pushState"](null, "", fragmentOf(state));
  current = state;
  say("");
  show();
}

/** A sentence that the reader must see; "" removes it. @param {string} words */
function say(words) {
  const notice = document.getElementById("notice");
  notice.textContent = words;
  notice.hidden = !words;
}

/** Read the arrays that the state needs, and draw everything. */
async function show() {
  turn += 1;
  const own = turn, state = current, seed = seedOf(state.seed);
  drawChoices(state, seed);
  drawStory(state);
  const load = (/** @type {string} */ key) => loadChunk(`chunk-${state.seed}-${key}`, seed.shapes);
  const arrays = await load(state.twin ? "twin" : state.checkpoint);
  const both = seed.noTwin ? [null, null] : await Promise.all([load("twin"), load(seed.checkpoints.at(-1).key)]);
  if (own !== turn) return;
  const alias = aliasOf(seed, state.alias), index = questionIndex(seed, state);
  const head = state.head ? /** @type {[number, number]} */ (state.head.split(".").map(Number)) : strongestHead(arrays.patterns, index);
  drawnView = { state, seed, alias, question: alias.questions[state.list], index, arrays, head, colors: PALETTES[theme()],
    twinArrays: both[0], finalArrays: both[1], words: CONTENT.words };
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
    + `question ${state.list + 1}, the right answer is ${view.question.right}.`;
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
  document.getElementById("aliases").replaceChildren(...there.map((/** @type {any} */ one) => new Option(one.subset, one.name)));
  fillSelect("list", alias.questions.map((/** @type {any} */ one, /** @type {number} */ i) => [i, questionInWords(seed, one, i)]), state.list);
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
  choice("list").addEventListener("change", () => change({ list: Number(choice("list").value) }));
  choice("model").addEventListener("change", () => change({ twin: choice("model").value === "twin" }));
  choice("choices").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("theme").addEventListener("click", () => { chosenTheme = theme() === "dark" ? "light" : "dark"; redraw(); });
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
