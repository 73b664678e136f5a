// Pictures and numbers as files, made in the page.

/** The buttons of a panel: one stop of the Tab key, arrow keys between them. @param {HTMLElement} tools @param {Panel} panel
 * @param {() => View | null} now */
function addTools(tools, panel, now) {
  tools.setAttribute("aria-label", "Save this panel");
  const kinds = { SVG: saveSvg, PNG: savePng, CSV: saveCsv };
  const buttons = Object.entries(kinds).map(([name, save], i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.title = `Save this panel as ${name}`;
    button.tabIndex = i === 0 ? 0 : -1;
    button.addEventListener("click", () => {
      const view = now();
      if (view) save(panel, view);
    });
    return button;
  });
  tools.append(...buttons);
  tools.addEventListener("keydown", (event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    const next = buttons[clamp(buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement)) + step, buttons.length)];
    buttons.forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
    next.focus();
    event.preventDefault();
  });
}

/** The picture of a panel with a caption that says what it is of. @param {Panel} panel @param {View} view @returns {SVGElement} */
function captioned(panel, view) {
  const drawn = panel.draw(view, 760), width = Math.max(760, Number(drawn.getAttribute("width"))), high = Number(drawn.getAttribute("height"));
  const lines = wrapped(inWords(view), 105), top = 34 + 17 * lines.length;
  drawn.setAttribute("y", String(top));
  const words = [label(4, 14, panel.title(view), view.colors.ink, { "font-size": 15, "font-weight": 700 }),
    ...lines.map((line, i) => label(4, 34 + 17 * i, line, view.colors.soft))];
  const whole = picture(width, top + high + 4, view.colors, [...words, drawn]);
  whole.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return whole;
}

/** @param {Panel} panel @param {View} view */
function saveSvg(panel, view) {
  saveFile(new Blob([new XMLSerializer().serializeToString(captioned(panel, view))], { type: "image/svg+xml" }), fileName(panel, view, "svg"));
}

/** @param {Panel} panel @param {View} view */
function savePng(panel, view) {
  const drawn = captioned(panel, view), image = new Image();
  const width = Number(drawn.getAttribute("width")), height = Number(drawn.getAttribute("height"));
  image.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = 2 * width;
    canvas.height = 2 * height;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => { if (blob) saveFile(blob, fileName(panel, view, "png")); });
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(drawn))}`;
}

/** @param {Panel} panel @param {View} view */
function saveCsv(panel, view) {
  const cell = (/** @type {string | number} */ value) => {
    const text = typeof value === "number" && !Number.isFinite(value) ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const text = panel.table(view).map((line) => line.map(cell).join(",")).join("\n");
  saveFile(new Blob([`${text}\n`], { type: "text/csv" }), fileName(panel, view, "csv"));
}

/** @param {Blob} blob @param {string} name */
function saveFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** @param {Panel} panel @param {View} view @param {string} ending @returns {string} */
function fileName(panel, view, ending) {
  const { state } = view;
  return `${panel.id}-seed-${state.seed}-${state.twin ? "twin" : `checkpoint-${state.checkpoint}`}-alias-${state.alias}-question-${state.typed ? "typed" : state.list + 1}.${ending}`;
}
