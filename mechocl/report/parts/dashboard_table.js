// The dashboard's table of features: it is searched and sorted.

const features = data.features.map((f) => {
  const best = f.meanings[0];
  const alone = f.patches.filter((p) => p[2].length === 0);
  const words = [`feature ${f.n}`, ...f.meanings.map((m) => `${S[m[0]]} at ${S[m[2]]} of ${S[m[1]]}s`)];
  for (const patch of alone) words.push(S[patch[0]]);
  for (const example of f.examples) if (example[2] == null) words.push(S[data.texts[example[0]][3]]);
  if (f.retrieval) words.push("retrieval");
  return {
    ...f, alone, words: words.join("\n").toLowerCase(),
    key: {
      n: f.n,
      property: best ? S[best[0]] : null,
      where: best ? `${S[best[1]]}, ${S[best[2]]}` : null,
      auc: best ? best[5] : null,
      q: best ? best[7] : null,
      rate: f.rate,
      direct: f.direct ? f.direct[0] * f.mean : null,
      share: alone.length ? alone[0][4] : null,
      retrieval: alone.length ? Number(f.retrieval) : null,
    },
  };
});
const byNumber = new Map(features.map((f) => [f.n, f]));

const columns = [  // name, title, whether it is a number, direction of the first click
  ["n", "Feature", true, 1], ["property", "Stands for", false, 1], ["where", "Where", false, 1], ["auc", "AUC", true, -1], ["q", "q", true, 1],
  ["rate", "Fires", true, -1], ["direct", "Direct effect (nats)", true, -1], ["share", "Patch share", true, -1],
  ["retrieval", "Retrieval", false, -1],
];
let sorted = {by: "retrieval", direction: -1};
let shown = features, start = 0, opened = null;

const compare = (a, b, direction) => {
  if (a == null || b == null) return (a == null) - (b == null);  // what is not known comes last, whatever the direction
  return direction * (typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a - b);
};
const inOrder = (a, b) => compare(a.key[sorted.by], b.key[sorted.by], sorted.direction)
  || compare(a.key.auc, b.key.auc, -1) || compare(a.key.q, b.key.q, 1) || a.n - b.n;

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&");
// a word of the search begins a word, and a number in it is the whole number: "tag 1" is not in "tag 12"
const pattern = (text) => new RegExp("(?<![\\p{L}\\p{N}_])" + escaped(text) + (/\d$/.test(text) ? "(?!\\d)" : ""), "u");
const matching = (query) => {
  const text = query.trim().toLowerCase().replace(/\s+/g, " ");
  if (!text) return features;
  if (/^\d+$/.test(text) && byNumber.has(Number(text))) return [byNumber.get(Number(text))];
  const phrase = pattern(text);
  const found = features.filter((f) => phrase.test(f.words));
  if (found.length || !text.includes(" ")) return found;
  const all = text.split(" ").map(pattern);
  return features.filter((f) => all.every((word) => word.test(f.words)));
};

const drawHead = () => byId("table").tHead.rows[0].replaceChildren(...columns.map(([name, title, isNumber]) => {
  const direction = sorted.by !== name ? "none" : sorted.direction > 0 ? "ascending" : "descending";
  return el("th", {scope: "col", class: [isNumber ? N : "", name === "n" ? "row-name" : ""].join(" "), "aria-sort": direction},
    el("button", {type: "button", "data-column": name}, title));
}));

const drawRows = () => {
  const rows = shown.slice(start, start + ROWS).map((f) => {
    const best = f.meanings[0];
    return el("tr", {tabindex: "0", "data-feature": f.n, "aria-current": f === opened ? "true" : null},
      el("td", {class: `${N} row-name`}, el("a", {href: `#feature-${f.n}`, tabindex: "-1"}, f.n)),
      best ? cell((best[4] < 0 ? "− " : "") + S[best[0]]) : cell("nothing found", "soft"),
      cell(f.key.where ?? "–", "line"), cell(auc(f.key.auc), N), cell(fmt(f.key.q, 2), N), cell(percent(f.rate), N),
      cell(f.key.direct == null ? "–" : signed(f.key.direct, 2), N), cell(percent(f.key.share), N),
      el("td", {}, f.retrieval ? tag("yes") : !data.tested || !f.alone.length ? el("span", {class: "soft"}, "not tested") : "no"));
  });
  if (!rows.length) rows.push(el("tr", {}, el("td", {colspan: columns.length, class: "none"},
    features.length ? "No feature is found by these words." : "No feature is active on any text.")));
  byId("table").tBodies[0].replaceChildren(...rows);
  byId("before").disabled = start === 0;
  byId("after").disabled = start + ROWS >= shown.length;
  byId("rows").textContent = shown.length ? `rows ${start + 1} to ${Math.min(start + ROWS, shown.length)} of ${shown.length}` : "";
  byId("count").textContent = `${shown.length} of ${features.length} features`;
};

const arrange = () => {
  shown = [...matching(byId("search").value)].sort(inOrder);
  start = 0;
  drawHead();
  drawRows();
};
