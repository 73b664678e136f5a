// Tables that would be wider than a narrow page: each row becomes a card, whose cells have their column's name. For screen readers they stay tables.

(() => {
  const narrow = matchMedia("(max-width: 700px)");
  const SENTENCE = 40;  // letters from which the cells of a column stand under its name, not beside it
  const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell" };
  /** @type {Map<HTMLElement, number>} The width of its box for which a table was laid out. */
  const laidFor = new Map();

  /** Name each cell, and say what the parts are, since a browser takes no table to be one whose parts are laid out as blocks.
   * @param {HTMLTableElement} table */
  const nameParts = (table) => {
    if (table.hasAttribute("role")) return;
    const columns = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    for (const part of /** @type {HTMLElement[]} */ ([table, ...table.querySelectorAll("thead, tbody, tr, th, td")])) {
      const role = part.localName === "th" ? (part.getAttribute("scope") === "row" ? "rowheader" : "columnheader") : ROLES[part.localName];
      part.setAttribute("role", role);
    }
    const rows = [...table.tBodies[0].rows];
    columns.forEach((column, i) => {
      const cells = rows.map((row) => row.cells[i]), long = cells.some((cell) => cell.textContent.trim().length > SENTENCE);
      cells.forEach((cell) => { cell.dataset.column = column; cell.classList.toggle("sentences", long); });
    });
  };

  /** @param {HTMLTableElement} table */
  const layOut = (table) => {
    const box = /** @type {HTMLElement} */ (table.closest(".wide")), width = box.clientWidth;
    if (laidFor.get(table) === width) return;
    laidFor.set(table, width);
    table.classList.remove("cards");
    if (!narrow.matches || box.scrollWidth - box.clientWidth <= 1) return;
    nameParts(table);
    table.classList.add("cards");
  };

  const tables = /** @type {HTMLTableElement[]} */ ([...document.querySelectorAll("main .wide > table")]);
  const watched = new ResizeObserver((entries) => {
    for (const { target } of entries) target.querySelectorAll("table").forEach(layOut);
  });
  for (const table of tables) {
    layOut(table);
    watched.observe(table.closest(".wide"));
  }
})();
