// Panels: their frames, how keys and clicks change what is shown, and what a panel knows.

/**
 * @typedef {{state: State, seed: any, alias: any, question: any, index: number, first: number, arrays: Record<string, NumberArray>,
 *   head: [number, number], colors: Palette, words: {entity: string, difference: string}, twinArrays: Record<string, NumberArray> | null, finalArrays: Record<string, NumberArray> | null}} View
 * All that is shown: the state, the seed, the alias and the question that it names, and the arrays of the model. `index` is the
 * question's place in the arrays, and `first` that of the alias's first one; `twinArrays` and `finalArrays` are those after the end of training, of the twin and of the seed itself.
 */

/**
 * @typedef {{id: string, title: (view: View) => string, how: string, size: string, draw: (view: View, width: number) => SVGElement | null,
 *   table: (view: View) => (string | number)[][], instead?: (view: View) => string,
 *   absent?: () => string, move?: (view: View, right: number, down: number) => Partial<State>}} Panel
 * `draw` gives null where there is nothing to draw; then `instead` says why. Where `absent` says why the page never has it, a line stands
 * in its place. `table` is the numbers behind the picture, with a first row of names.
 */

/** @type {Panel[]} In the order of the page. */
const PANELS = [];

/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

/** Show words, of which those between backticks are code. @param {Element} element @param {string} words */
function fillWords(element, words) {
  element.replaceChildren(...words.split(/`([^`]+)`/).map((part, i) => (i % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part)));
}

/** Say in one line, in the place of a panel, why the page does not have it. @param {Panel} panel */
function addAbsent(panel) {
  const line = document.createElement("p");
  line.className = "absent";
  fillWords(line, panel.absent());
  document.getElementById("panels").append(line);
}

/** Make the frame of a panel. @param {Panel} panel @param {() => View | null} now @param {(change: Partial<State>) => void} change */
function addFrame(panel, now, change) {
  if (panel.absent?.()) return addAbsent(panel);
  const frame = document.createElement("section");
  frame.className = `panel ${panel.size}`;
  frame.id = panel.id;
  frame.innerHTML = '<header><h2></h2><div class="tools" role="toolbar"></div></header><p class="how"></p><div class="figure"></div>';
  const heading = frame.querySelector("h2"), how = frame.querySelector(".how");
  const figure = /** @type {HTMLElement} */ (frame.querySelector(".figure"));
  heading.id = `${panel.id}-title`;
  frame.setAttribute("aria-labelledby", heading.id);
  how.textContent = panel.how;
  addTools(/** @type {HTMLElement} */ (frame.querySelector(".tools")), panel, now);
  figure.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target).closest("[data-pick]");
    if (target) change(pickedChange(target.getAttribute("data-pick")));
  });
  if (panel.move) {
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-labelledby", heading.id);
    figure.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key], view = now();
      if (!arrow || !view || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      change(panel.move(view, ...arrow));
    });
  }
  document.getElementById("panels").append(frame);
}

/** What a click on `name:value` changes. @param {string} picked @returns {Partial<State>} */
function pickedChange(picked) {
  const [name, value] = picked.split(":");
  return name === "head" ? { head: value } : { [name]: Number(value) };
}

/** Draw a panel into its frame. @param {Panel} panel @param {View} view */
function drawPanel(panel, view) {
  if (panel.absent?.()) return;
  const frame = document.getElementById(panel.id);
  const figure = /** @type {HTMLElement} */ (frame.querySelector(".figure"));
  const drawn = panel.draw(view, Math.max(200, Math.floor(figure.clientWidth)));
  frame.querySelector("h2").textContent = panel.title(view);
  if (drawn) {
    drawn.setAttribute("aria-label", panel.title(view));
    figure.replaceChildren(drawn);
  } else {
    const words = document.createElement("p");
    fillWords(words, panel.instead ? panel.instead(view) : "");
    figure.replaceChildren(words);
  }
  /** @type {HTMLElement} */ (frame.querySelector(".tools")).hidden = !drawn;
}

/** A position moved within the example. @param {View} view @param {number} by @returns {Partial<State>} */
function movedPosition(view, by) {
  return { position: clamp(view.state.position + by, view.seed.labels.length) };
}

/** @param {number} index @param {number} length @returns {number} */
function clamp(index, length) {
  return Math.min(length - 1, Math.max(0, index));
}

/** Each position in words: its label, and the token in a list or a text. @param {View} view @returns {string[]} */
function positionNames(view) {
  return view.seed.labels.map((/** @type {string} */ name, /** @type {number} */ i) => {
    const token = view.question.tokens[i].trim();
    return view.seed.roles[i] === "list" ? token : name;
  });
}

/** Whether a position holds the alias's own integer. @param {View} view @param {number} position @returns {boolean} */
function isMatch(view, position) {
  return view.question.matches.includes(position);
}
