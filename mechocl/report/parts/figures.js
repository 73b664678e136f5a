// The page's figures: each in its place, in the page's colours, at its width, with buttons under it that are there when the pointer or the
// keyboard is at it. `nearby.js` says when each is drawn.

/** @typedef {{data: any[], layout: any}} PlotlyFigure */

const plots = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".plot")]);
/** @type {Map<HTMLElement, PlotlyFigure>} Figures as they were given, once they were read. */
const readFigures = new Map();
/** @type {Map<HTMLElement, number>} The room for which a figure has its place; Infinity where it has room. */
const placedFor = new Map();
/** @type {Map<HTMLElement, number>} The room for which a figure was drawn. */
const drawnFor = new Map();

/** @param {HTMLElement} plot @returns {PlotlyFigure} */
function givenFigure(plot) {
  if (!readFigures.has(plot)) readFigures.set(plot, JSON.parse(document.getElementById(`${plot.id}-data`).textContent));
  return readFigures.get(plot);
}

/** @param {HTMLElement} plot @returns {number} Its width in pixels where it is narrow, else Infinity. */
function roomOf(plot) {
  return plot.clientWidth < NARROW ? plot.clientWidth : Infinity;
}

/** What a narrow figure has as text above it, which wraps: its title, and the notes that stood under its panels. @param {HTMLElement} plot
 * @param {string} title "" for none. @param {string[]} notes */
function headFigure(plot, title, notes) {
  const above = plot.previousElementSibling || document.createElement("div");
  above.className = "plot-head";
  above.replaceChildren(...[title, ...notes].filter(Boolean).map((words) => {
    const line = document.createElement("p");
    line.className = words === title ? "plot-title" : "plot-note";
    line.textContent = words;
    return line;
  }));
  /** @type {HTMLElement} */ (above).hidden = !above.childElementCount;
  if (!above.parentElement) plot.before(above);
}

/** Give a figure the height that it has when it is drawn, so that nothing moves then. @param {HTMLElement} plot @returns {PlotlyFigure | null} The
 * figure for its room; null where the page came with the right place for it. */
function placeFigure(plot) {
  const room = roomOf(plot);
  const isAsGiven = room === Infinity && !placedFor.has(plot);
  placedFor.set(plot, room);
  return isAsGiven ? null : laidOut(plot);
}

/** @param {HTMLElement} plot @returns {PlotlyFigure} The figure for its room, for which its place is made. */
function laidOut(plot) {
  const given = givenFigure(plot), room = roomOf(plot), narrow = room !== Infinity;
  const found = narrow ? narrowed(given, room) : { ...given, notes: [] };
  const titles = narrow ? (given.layout.title?.text || "").split(/<br ?\/?>/) : [];  // what is smaller than a title is a note
  const [words, small] = [false, true].map((isSmall) => titles.filter((line) => line.startsWith("<span") === isSmall).flatMap(linesOf).join(" "));
  headFigure(plot, words, [small, ...found.notes]);
  plot.style.height = `${found.layout.height}px`;
  placedFor.set(plot, room);
  return found;
}

/** All that plotly needs of a figure. @param {HTMLElement} plot @param {number | null} [width] In pixels; null follows the page. */
function figureToDraw(plot, width = null) {
  const figure = themed(laidOut(plot));
  drawnFor.set(plot, roomOf(plot));
  return { ...figure, layout: { ...figure.layout, uirevision: "kept", ...(width ? { width, autosize: false } : {}) }, config: {
    responsive: true,
    displaylogo: false,
    displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    showSendToCloud: false,  // plotly.js 4 has it on: a button that uploads the figure
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg", filename: plot.id },
  } };
}

/** One tab stop for a figure's buttons, whose arrow keys move. @param {HTMLElement} plot */
function reachButtons(plot) {
  const buttons = /** @type {HTMLElement[]} */ ([...plot.querySelectorAll(".modebar-btn")]);
  buttons.forEach((button, i) => {
    button.tabIndex = i ? -1 : 0;
    button.setAttribute("role", "button");
    button.setAttribute("aria-label", button.dataset.title || "");
  });
  if (document.activeElement === plot) buttons[0]?.focus();
  plot.removeAttribute("tabindex");
  plot.removeAttribute("role");
  plot.removeAttribute("aria-label");
}

/** @param {KeyboardEvent} event */
function onFigureKey(event) {
  const button = /** @type {HTMLElement} */ (event.target).closest?.(".modebar-btn");
  if (!button) return;
  const all = /** @type {HTMLElement[]} */ ([...button.closest(".modebar").querySelectorAll(".modebar-btn")]), at = all.indexOf(button);
  const next = { ArrowRight: all[at + 1], ArrowLeft: all[at - 1], Home: all[0], End: all.at(-1) }[event.key];
  if (next) {
    all.forEach((one) => { one.tabIndex = one === next ? 0 : -1; });
    next.focus();
  } else if ((event.key === "Enter" || event.key === " ") && button.localName !== "button") {
    /** @type {any} */ (button).dispatchEvent(new MouseEvent("click", { bubbles: true }));
  } else return;
  event.preventDefault();
}

/** Draw a figure anew, as for the first time or for another room: what is merely changed keeps pieces of the other layout.
 * @param {HTMLElement} plot @param {number | null} [width] */
function drawFigure(plot, width = null) {
  const any = /** @type {any} */ (plot), finish = () => { reachButtons(plot); inkCells(plot); };
  Plotly.newPlot(plot, figureToDraw(plot, width)).then(() => {
    finish();
    any.on("plotly_afterplot", finish);
  });
  plot.classList.remove("waiting");
  any.on("plotly_click", (/** @type {any} */ { points }) => {  // a mark whose customdata is a place of this page leads there
    const to = points[0].customdata;
    if (typeof to === "string" && to.startsWith("#")) location.hash = to;
  });
}

/** Until it is drawn, a figure is one stop of the Tab key, as its buttons are afterwards. @param {HTMLElement} plot */
function awaitFigure(plot) {
  plot.classList.add("waiting");
  plot.tabIndex = 0;
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", plot.closest("figure")?.getAttribute("aria-label") || "");
  plot.addEventListener("keydown", onFigureKey);
  placeFigure(plot);
}

plots.forEach(awaitFigure);
