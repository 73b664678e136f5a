// When figures are drawn: each as it comes near what is seen, one at a time, so that the page answers in between; all of them before printing.

(() => {
  /** @type {Set<HTMLElement>} Figures that are not drawn yet, or not as they would be now. */
  const old = new Set(plots);
  /** @type {Set<HTMLElement>} */
  const near = new Set();
  let busy = false, paper = false;

  const isDrawn = (/** @type {HTMLElement} */ plot) => drawnFor.has(plot);

  /** @param {HTMLElement} plot @param {number | null} [width] */
  const update = (plot, width = null) => {
    old.delete(plot);
    if (drawnFor.get(plot) === roomOf(plot)) Plotly.react(plot, figureToDraw(plot, width));
    else drawFigure(plot, width);
  };

  /** @param {HTMLElement} plot @returns {number} How far it is from the middle of the window. */
  const distance = (plot) => {
    const box = plot.getBoundingClientRect(), middle = innerHeight / 2;
    return Math.max(0, box.top - middle, middle - box.bottom);
  };

  /** The next figure to draw: the nearest, then those that were drawn otherwise before. */
  const nextOne = () => {
    const waiting = [...old].filter((plot) => plot.clientWidth && (near.has(plot) || isDrawn(plot)));
    return waiting.sort((a, b) => Number(near.has(b)) - Number(near.has(a)) || distance(a) - distance(b))[0];
  };

  const goOn = () => {
    const plot = paper ? undefined : nextOne();
    busy = Boolean(plot);
    if (!plot) return;
    update(plot);
    requestAnimationFrame(() => setTimeout(goOn));  // the page is painted before the next one
  };
  const start = () => { if (!busy) goOn(); };

  const watched = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) near[isIntersecting ? "add" : "delete"](/** @type {HTMLElement} */ (target));
    start();
  }, { rootMargin: "100% 0px" });

  const sized = new ResizeObserver((entries) => {
    for (const plot of entries.map((entry) => /** @type {HTMLElement} */ (entry.target))) {
      if (!plot.clientWidth || paper || roomOf(plot) === placedFor.get(plot)) continue;
      placeFigure(plot);
      old.add(plot);
    }
    start();
  });

  for (const plot of plots) {
    watched.observe(plot);
    sized.observe(plot);
    plot.addEventListener("focus", () => { if (!isDrawn(plot)) update(plot); });
  }
  document.addEventListener("theme", () => {
    plots.filter(isDrawn).forEach((plot) => old.add(plot));
    start();
  });

  // Paper is narrower than the window, and plotly does not notice.
  const most = 660;
  /** @type {Set<HTMLElement>} Figures that were drawn for paper, which plotly does not lay out for a window afterwards. */
  const drawnForPaper = new Set();
  addEventListener("beforeprint", () => {
    paper = true;
    for (const plot of plots) {
      const width = Math.min(plot.clientWidth, most);
      if (drawnFor.get(plot) !== roomOf(plot)) drawnForPaper.add(plot);
      if (old.has(plot)) update(plot, width);
      else Plotly.relayout(plot, { width, autosize: false });
    }
  });
  addEventListener("afterprint", () => {
    paper = false;
    for (const plot of plots) {
      if (!drawnForPaper.has(plot)) Plotly.relayout(plot, { width: null, autosize: true });
      else drawnFor.set(plot, NaN);
    }
    drawnForPaper.forEach((plot) => old.add(plot));
    drawnForPaper.clear();
    start();
  });
})();
