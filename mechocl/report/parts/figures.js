// Draws the page's figures: in its colours, at its width, with buttons under each that are there when the pointer or the keyboard is at it.

(() => {
  const plots = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".plot")]);
  const given = new Map(plots.map((plot) => [plot, JSON.parse(document.getElementById(`${plot.id}-data`).textContent)]));
  /** @type {Map<HTMLElement, number>} The width for which a figure was laid out; Infinity where it has room. */
  const laidOut = new Map();

  /** @param {HTMLElement} plot */
  const roomOf = (plot) => (plot.clientWidth < NARROW ? plot.clientWidth : Infinity);

  /** A narrow figure's title is text above it, which wraps. @param {HTMLElement} plot @param {string} words "" for none. */
  const head = (plot, words) => {
    const above = plot.previousElementSibling || document.createElement("p");
    above.className = "plot-title";
    above.textContent = words;
    /** @type {HTMLElement} */ (above).hidden = !words;
    if (!above.parentElement) plot.before(above);
  };

  /** @param {HTMLElement} plot */
  const drawn = (plot) => {
    const { data, layout } = given.get(plot), room = roomOf(plot);
    laidOut.set(plot, room);
    head(plot, room === Infinity ? "" : linesOf(layout.title?.text || "").join(" "));
    const figure = themed(room === Infinity ? { data, layout } : narrowed({ data, layout }, room));
    plot.style.height = `${figure.layout.height}px`;
    return { ...figure, layout: { ...figure.layout, uirevision: "kept" }, config: {
      responsive: true,
      displaylogo: false,
      displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      showSendToCloud: false,  // plotly.js 4 has it on: a button that uploads the figure
      plotlyServerURL: "",
      toImageButtonOptions: { format: "svg", filename: plot.id },
    } };
  };

  /** One tab stop for a figure's buttons, whose arrow keys move. @param {HTMLElement} plot */
  const reach = (plot) => {
    const buttons = /** @type {HTMLElement[]} */ ([...plot.querySelectorAll(".modebar-btn")]);
    buttons.forEach((button, i) => {
      button.tabIndex = i ? -1 : 0;
      button.setAttribute("role", "button");
      button.setAttribute("aria-label", button.dataset.title || "");
    });
  };

  /** @param {KeyboardEvent} event */
  const onKey = (event) => {
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
  };

  /** Draw a figure anew, as at a width for which it is laid out otherwise: what is merely changed keeps pieces of the other layout.
   * @param {HTMLElement} plot */
  const draw = (plot) => {
    const any = /** @type {any} */ (plot), finish = () => { reach(plot); inkCells(plot); };
    Plotly.newPlot(plot, drawn(plot)).then(() => {
      finish();
      any.on("plotly_afterplot", finish);
    });
    any.on("plotly_click", (/** @type {any} */ { points }) => {  // a mark whose customdata is a place of this page leads there
      const to = points[0].customdata;
      if (typeof to === "string" && to.startsWith("#")) location.hash = to;
    });
  };

  let paper = false;
  const resized = new ResizeObserver((entries) => entries.forEach((entry) => {
    const plot = /** @type {HTMLElement} */ (entry.target);
    if (plot.clientWidth && !paper && roomOf(plot) !== laidOut.get(plot)) draw(plot);
  }));

  for (const plot of plots) {
    draw(plot);
    plot.addEventListener("keydown", onKey);
    resized.observe(plot);
  }
  document.addEventListener("theme", () => plots.forEach((plot) => Plotly.react(plot, drawn(plot))));

  // Paper is narrower than the window, and plotly does not notice.
  const most = 660;
  addEventListener("beforeprint", () => {
    paper = true;
    for (const plot of plots) Plotly.relayout(plot, { width: Math.min(plot.clientWidth, most), autosize: false });
  });
  addEventListener("afterprint", () => {
    paper = false;
    for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
  });
})();
