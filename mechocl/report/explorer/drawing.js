// Pictures: elements of SVG with plain colours, so that a picture looks the same when it is saved.

/**
 * @typedef {{page: string, ink: string, soft: string, line: string, low: string, high: string, row: string, rowLow: string, more: string, less: string,
 *   wash: string}} Palette
 * `high` ends the ramp of ordinary cells, `row` that of the answering row, which begins with `rowLow`; `more` and `less` are those of signed numbers.
 */

/** @type {Record<string, Palette>} Blue and orange are told apart by every kind of colour vision. */
const PALETTES = {
  light: { page: "#ffffff", ink: "#1b2230", soft: "#4a5464", line: "#c9ced7", low: "#f4f6f9", high: "#1f5fa8", row: "#b34700", rowLow: "#fbe3d0",
    more: "#1f5fa8", less: "#c25700", wash: "#eef1f5" },
  dark: { page: "#14181f", ink: "#e6eaf1", soft: "#aab4c3", line: "#3d4756", low: "#1c222b", high: "#7db2f5", row: "#ffa95c", rowLow: "#3b2a1b",
    more: "#7db2f5", less: "#ffa95c", wash: "#222933" },
};

const FONT = 'system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';

/** @param {string} name @param {Record<string, string | number>} attributes @param {(Node | string)[]} [inside] @returns {SVGElement} */
function svg(name, attributes, inside = []) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...inside);
  return made;
}

/** A picture with the page's colour behind it. @param {number} width @param {number} height @param {Palette} colors
 * @param {SVGElement[]} inside @returns {SVGElement} */
function picture(width, height, colors, inside) {
  const back = svg("rect", { width, height, fill: colors.page });
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": FONT, role: "img" }, [back, ...inside]);
}

/** @param {number} x @param {number} y @param {string} words @param {string} fill @param {Record<string, string | number>} [more]
 * @returns {SVGElement} */
function label(x, y, words, fill, more = {}) {
  return svg("text", { x, y, fill, "font-size": 12, "dominant-baseline": "central", ...more }, [words]);
}

/** A colour between two, `share` from 0 to 1. @param {string} from @param {string} to @param {number} share @returns {string} */
function mix(from, to, share) {
  const at = Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0));
  const channel = (/** @type {string} */ color, /** @type {number} */ i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => Math.round(channel(from, i) + at * (channel(to, i) - channel(from, i))));
  return `#${mixed.map((one) => one.toString(16).padStart(2, "0")).join("")}`;
}

/** Ink that is read on a colour. @param {string} color @returns {string} */
function inkOn(color) {
  const [red, green, blue] = [0, 1, 2].map((i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#101418" : "#ffffff";
}

/** The colour of a signed number. @param {Palette} colors @param {number} value @param {number} most @returns {string} */
function signed(colors, value, most) {
  if (!Number.isFinite(value) || most === 0) return colors.low;
  return mix(colors.low, value > 0 ? colors.more : colors.less, Math.abs(value) / most);
}

/** A number in words: `+1.25`, `–` where there is none. @param {number} value @param {boolean} [plus] @returns {string} */
function shown(value, plus = false) {
  if (!Number.isFinite(value)) return "–";
  const text = value.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", "−");
  return plus && value > 0 && text !== "0.00" ? `+${text}` : text;
}

/** A rank or a difference of ranks in words, without decimals that say nothing. @param {number} value @param {boolean} [plus] @returns {string} */
function plain(value, plus = false) {
  return shown(value, plus).replace(/\.00$/, "").replace(/(\.\d)0$/, "$1");
}

/** Room in pixels for these words. @param {string[]} words @param {number} [size] @returns {number} */
function roomFor(words, size = 12) {
  return Math.ceil(Math.max(0, ...words.map((one) => one.length)) * size * 0.6) + 8;
}

/** Words in lines of at most so many letters. @param {string} words @param {number} most @returns {string[]} */
function wrapped(words, most) {
  const lines = [""];
  for (const word of words.split(" ")) {
    if (lines.at(-1).length + word.length + 1 > most) lines.push(word);
    else lines[lines.length - 1] = `${lines.at(-1)} ${word}`.trim();
  }
  return lines;
}

/** Words cut to a number of letters. @param {string} words @param {number} most @returns {string} */
function cut(words, most) {
  return words.length > most ? `${words.slice(0, most - 1)}…` : words;
}

/**
 * @typedef {{rows: string[], columns: string[], width: number, colors: Palette, fill: (row: number, column: number) => string | null,
 *   says: (row: number, column: number) => string, number?: (row: number, column: number) => string, ends?: string[],
 *   cell?: number, strongRow?: number, strongColumn?: number, chosenRow?: number, chosenColumn?: number, pick?: string,
 *   picked?: (row: number, column: number) => string}} Grid
 * `fill` gives null where there is no cell; `pick` names what a click chooses; strong rows and columns are outlined in the answer's colour.
 */

/** A grid of coloured cells. @param {Grid} grid @returns {SVGElement} */
function drawGrid(grid) {
  const { rows, columns, colors } = grid;
  const left = Math.min(roomFor(rows), Math.floor(grid.width * 0.3)), right = grid.ends ? roomFor(grid.ends) : 2;
  const wide = Math.max(5, Math.min(54, (grid.width - left - right) / columns.length));
  const high = grid.cell || Math.max(14, Math.min(wide, 26));
  const upright = roomFor(columns) <= wide + 8;
  const top = upright ? 22 : Math.min(90, roomFor(columns)) + 6;
  const numbers = rows.map((_, r) => columns.map((_, c) => (grid.number && grid.fill(r, c) !== null ? grid.number(r, c) : "")));
  const fits = Math.max(...numbers.flat().map((one) => one.length)) * 6.5 < wide;
  /** @type {SVGElement[]} */
  const parts = [];
  columns.forEach((name, c) => {
    const x = left + (c + 0.5) * wide, strong = c === grid.strongColumn || c === grid.chosenColumn;
    const style = { fill: strong ? colors.ink : colors.soft, "font-weight": strong ? 700 : 400, "font-size": wide < 12 ? 10 : 12 };
    parts.push(upright ? label(x, 11, name, colors.soft, { ...style, "text-anchor": "middle" })
      : label(0, 0, cut(name, 13), colors.soft, { ...style, transform: `translate(${x} ${top - 5}) rotate(-90)` }));
  });
  rows.forEach((name, r) => {
    const y = top + r * high, strong = r === grid.strongRow || r === grid.chosenRow;
    const most = Math.floor((left - 8) / 7);
    parts.push(label(left - 6, y + high / 2, cut(name, most), strong ? colors.ink : colors.soft,
      { "text-anchor": "end", "font-weight": strong ? 700 : 400 }));
    columns.forEach((_, c) => {
      const fill = grid.fill(r, c);
      if (fill === null) return;
      const cell = svg("rect", { x: left + c * wide, y, width: wide - 1, height: high - 1, fill }, [svg("title", {}, [grid.says(r, c)])]);
      if (grid.pick) cell.setAttribute("data-pick", `${grid.pick}:${grid.picked ? grid.picked(r, c) : c}`);
      parts.push(cell);
      if (fits && numbers[r][c]) {
        parts.push(label(left + (c + 0.5) * wide, y + high / 2, numbers[r][c], inkOn(fill),
          { "text-anchor": "middle", "font-size": 11, "pointer-events": "none" }));
      }
    });
    if (grid.ends) parts.push(label(left + columns.length * wide + 5, y + high / 2, grid.ends[r], colors.ink));
  });
  const all = { w: columns.length * wide, h: rows.length * high };
  const outline = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ w, /** @type {number} */ h, /** @type {string} */ stroke) =>
    parts.push(svg("rect", { x: x - 0.5, y: y - 0.5, width: w, height: h, fill: "none", stroke, "stroke-width": 2, "pointer-events": "none" }));
  if (at(grid.strongRow)) outline(left, top + grid.strongRow * high, all.w, high, colors.row);
  if (at(grid.strongColumn)) outline(left + grid.strongColumn * wide, top, wide, all.h, colors.row);
  if (at(grid.chosenRow) && grid.chosenRow !== grid.strongRow) outline(left, top + grid.chosenRow * high, all.w, high, colors.ink);
  if (at(grid.chosenColumn) && grid.chosenColumn !== grid.strongColumn) {
    outline(left + grid.chosenColumn * wide, top, wide, all.h, colors.ink);
  }
  return picture(Math.max(grid.width, left + all.w + right), top + all.h + 3, colors, parts);
}

/** Whether an optional index is one. @param {number | undefined} index @returns {boolean} */
function at(index) {
  return index !== undefined && index >= 0;
}
