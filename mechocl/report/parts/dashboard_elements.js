// The dashboard's data, and elements and numbers in words.

const data = JSON.parse(document.getElementById("data").textContent);
const S = data.strings;
const ROWS = 12;
const byId = (id) => document.getElementById(id);

const el = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("--")) made.style.setProperty(key, value);
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null).map((child) => child instanceof Node ? child : String(child)));
  return made;
};
const minus = (text) => text.replaceAll("-", "−");
const fmt = (x, digits = 3) => {
  if (x == null) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-4 || size >= 1e6) return minus(x.toExponential(1));
  return minus(String(Number(x.toPrecision(digits))));
};
const signed = (x, digits) => (x > 0 ? "+" : "") + fmt(x, digits);
const percent = (x) => x == null ? "–" : x > 0 && x < 1e-4 ? "<0.01 %" : `${fmt(100 * x, Math.abs(x) < .1 ? 2 : 3)} %`;
const auc = (x) => x == null ? "–" : x.toFixed(3);
const shareOf = (x, most) => `${most > 0 ? Math.round(100 * Math.max(0, x) / most) : 0}%`;
const cell = (text, kind) => el("td", {class: kind}, text);
const none = (text) => el("p", {class: "none"}, text);
const how = (...text) => el("p", {class: "how"}, ...text);
const tag = (text) => el("span", {class: "tag"}, text);
const subset = (name) => {
  const known = data.subsets[name];
  if (!known) return el("span", {class: "subset"}, name);
  const swatch = el("span", {class: "swatch"});
  swatch.style.background = known.color;
  return el("span", {class: "subset"}, swatch, known.notation + " ", el("small", {}, name));
};
const table = (kind, head, rows) => el("div", {class: "shaded"}, el("div", {class: "wide", role: "region", "aria-label": "Table"},
  el("table", {class: kind}, el("thead", {}, ...head), el("tbody", {}, ...rows))));
const heads = (...names) => el("tr", {}, names.map(([text, kind, more = {}]) => el("th", {scope: "col", class: kind, ...more}, text)));
const N = "number";
