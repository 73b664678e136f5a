// The colours of figures on a light or a dark page: what is text is read on it, and what was drawn for white paper is seen on dark.

const TEXT = 4.5;  // least contrast of text (WCAG AA)
const MARK = 3.5;  // least contrast of lines and marks on a dark page, which WCAG puts at 3

const painted = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** @typedef {[number, number, number, number]} Channels Red, green and blue from 0 to 255, and opacity from 0 to 1. */

/** @param {string} color Any colour of CSS. @returns {Channels | null} null where it is none. */
function channels(color) {
  painted.fillStyle = "#010203";
  painted.fillStyle = color;
  const text = String(painted.fillStyle);
  if (text === "#010203" && color !== "#010203") return null;
  const hex = /^#(..)(..)(..)$/.exec(text);
  if (hex) return /** @type {Channels} */ ([...hex.slice(1).map((one) => parseInt(one, 16)), 1]);
  return /** @type {Channels} */ (text.match(/[\d.]+/g).map(Number));
}

/** Relative luminance (WCAG). @param {Channels} color @returns {number} */
function luminance(color) {
  const [red, green, blue] = color.slice(0, 3).map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** @param {Channels} one @param {Channels} other @returns {number} */
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** A colour of the same kind that has at least this contrast on the ground. @param {string} color @param {string} ground @param {number} least
 * @returns {string} */
function readable(color, ground, least) {
  const own = channels(color), below = channels(ground);
  if (!own || own[3] === 0) return color;
  const to = luminance(below) > 0.18 ? 0 : 255;
  let mixed = own;
  for (let share = 0; share <= 1 && contrast(mixed, below) < least; share += 0.05) {
    mixed = /** @type {Channels} */ ([...own.slice(0, 3).map((one) => Math.round(one + share * (to - one))), own[3]]);
  }
  return mixed === own ? color : `rgba(${mixed.join(", ")})`;
}

/** What a colour of a figure becomes. @param {string} color @param {boolean} isText @returns {string} */
function onPage(color, isText) {
  const page = pageColor("--page"), own = channels(color);
  if (!own) return color;
  if (theme() === "light") return isText ? readable(color, page, TEXT) : color;
  if (luminance(own) > 0.9 && !isText) return `rgba(${[...channels(page).slice(0, 3), own[3]].join(", ")})`;  // white is the paper's colour
  return readable(color, page, isText ? TEXT : MARK);
}

const COLORS = /^(color|.*color)$/;
const KEPT = new Set(["template", "colorscale", "colorway", "meta", "customdata"]);

/** Every colour inside a part of a figure, as it is on the page. @param {any} part @param {boolean} [isText] @returns {any} */
function recolored(part, isText = false) {
  if (Array.isArray(part)) return part.map((one) => (one && typeof one === "object" ? recolored(one, isText) : one));
  if (!part || typeof part !== "object" || ArrayBuffer.isView(part)) return part;
  return Object.fromEntries(Object.entries(part).map(([name, value]) => {
    if (KEPT.has(name)) return [name, value];
    if (COLORS.test(name) && typeof value === "string") return [name, onPage(value, isText)];
    if (COLORS.test(name) && Array.isArray(value)) return [name, value.map((one) => (typeof one === "string" ? onPage(one, isText) : one))];
    return [name, recolored(value, isText || /font$/.test(name))];
  }));
}

/** A figure in the colours of the page. @param {{data: any[], layout: any}} figure @returns {{data: any[], layout: any}} */
function themed({ data, layout }) {
  const [page, ink, line, rule] = ["--page", "--ink", "--line", "--rule"].map(pageColor);
  const shown = { ...recolored(layout), paper_bgcolor: page, plot_bgcolor: page };
  shown.font = { ...shown.font, color: ink };
  shown.modebar = { ...shown.modebar, bgcolor: "rgba(0, 0, 0, 0)" };
  for (const name of new Set([...Object.keys(layout), "xaxis", "yaxis"])) {
    if (/^[xy]axis\d*$/.test(name)) shown[name] = { gridcolor: line, zerolinecolor: rule, showline: false, linecolor: rule, ...shown[name] };
  }
  return { data: data.map((trace) => recolored(trace)), layout: shown };
}

/** Black or white, whichever is read on a heatmap's cells: one of them has a contrast of at least 4.5 on every colour. @param {HTMLElement} plot */
function inkCells(plot) {
  for (const text of plot.querySelectorAll(".heatmap-label text")) {
    const group = text.closest(".hm"), cell = /** @type {any} */ (text).__data__, of = /** @type {any} */ (group)?.__data__?.[0]?.trace;
    if (!cell || !of) continue;
    const axis = of.coloraxis ? /** @type {any} */ (plot)._fullLayout[of.coloraxis] : of;
    const [low, high] = of.coloraxis ? [axis.cmin, axis.cmax] : [axis.zmin, axis.zmax];
    const ground = scaleColor(axis.colorscale, (cell.z - low) / (high - low), axis.reversescale);
    const black = /** @type {Channels} */ ([0, 0, 0, 1]), white = /** @type {Channels} */ ([255, 255, 255, 1]);
    /** @type {SVGElement} */ (text).style.fill = contrast(ground, black) > contrast(ground, white) ? "#000000" : "#ffffff";
  }
}

/** The colour at a share of a colour scale. @param {[number, string][]} scale @param {number} share @param {boolean} [reversed] @returns {Channels} */
function scaleColor(scale, share, reversed = false) {
  const within = Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0)), at = reversed ? 1 - within : within;
  const next = Math.max(1, scale.findIndex(([place]) => place >= at));
  const [[from, first], [to, second]] = [scale[next - 1], scale[next]];
  const [one, other] = [channels(first), channels(second)], part = to > from ? (at - from) / (to - from) : 0;
  return /** @type {Channels} */ (one.map((value, i) => value + part * (other[i] - value)));
}
