// The dashboard's page of one feature.

const RANKS = {"0.75": "upper quartile", "0.5": "median", "0.25": "lower quartile"};
const examplesOf = (f, kind) => f.examples.filter((example) => data.texts[example[0]][0] === kind);

const strips = (f, kind, most) => {
  const rows = examplesOf(f, kind);
  if (!rows.length) return none(`It is active in no ${kind}.`);
  const labels = data.texts[rows[0][0]][2].map((i) => S[i]);
  const question = kind === "question";
  const head = heads(["largest", N], ["rank"], ...labels.map((label) => [label, "token"]), ["subset"], ["tag", N], ["integer", N],
    question ? ["in list"] : ["defined as", N]);
  return table("strips", [head], rows.map(([at, rank, quantile, peak, active]) => {
    const [, tokens, , name, define, integer, defined, contains] = data.texts[at];
    const value = new Map(active);
    return el("tr", {},
      cell(fmt(value.get(peak)), N),
      el("td", {class: "line", title: `number ${rank} of the ${kind}s on which it is active`},
        quantile == null ? `no. ${rank}` : RANKS[quantile] ?? percent(quantile)),
      tokens.map((token, i) => el("td", {class: `token heat${i === peak ? " peak" : ""}`, "--x": shareOf(value.get(i) ?? 0, most)},
        S[token], el("small", {}, value.has(i) ? fmt(value.get(i), 2) : ""))),
      el("td", {}, subset(S[name])), cell(define || "–", N), cell(integer ?? "–", N),
      question ? cell(contains ? "yes" : "no") : cell(defined ?? "–", N));
  }));
};

const activity = (f, i) => {
  const {kind, subsets, roles} = data.activity[i];
  const [mean, rate] = f.activity[i];
  const most = Math.max(0, ...mean);
  if (most === 0) return el("div", {}, el("h4", {}, `In ${kind}s`), none(`It is active in no ${kind}.`));
  const rows = subsets.map((name, r) => el("tr", {}, el("th", {scope: "row"}, subset(name)), roles.map((_, c) => {
    const at = r * roles.length + c;
    return el("td", {class: "heat", "--x": shareOf(mean[at], most)}, fmt(mean[at], 2), el("small", {}, percent(rate[at])));
  })));
  return el("div", {}, el("h4", {}, `In ${kind}s`), table("activity", [heads([""], ...roles.map((role) => [role]))], rows),
    legend(most, "mean activation"));
};

const legend = (most, what) => el("div", {class: "legend"}, "0", el("i"), `${fmt(most)} ${what}`);

const meanings = (f) => {
  if (!f.meanings.length) return [none("It is not among the surest features of any property that was searched (q < 0.05 on held-out aliases).")];
  return [
    how("Each row is a property that the feature is selective for, at the position where it tells most of it, judged on aliases that neither the SAE nor "
      + "the choice has seen. AUC: how often, of an example with the property and one without, the right one has the larger activation (½ is chance). "
      + "Information: what its activation (off, low, high) tells of the property, in bits. q: share of false findings among all that are at least as sure."),
    table("", [heads(["property"], ["active on examples"], ["in"], ["at"], ["also at"], ["AUC", N], ["information (bits)", N], ["q", N])],
      f.meanings.map(([property, text, position, also, sign, value, bits, q]) => el("tr", {},
        cell(S[property]), cell(sign > 0 ? "with it" : "without it"), cell(`${S[text]}s`), cell(S[position], "line"),
        cell(also.map((i) => S[i]).join(", ") || "–"), cell(auc(value), N), cell(fmt(bits, 2), N), cell(fmt(q, 2), N)))),
  ];
};

const untested = () => none(data.tested
  ? "It is not among the features that were tested: the surest of each property that pairs of questions differ in."
  : "No effects were measured for this dashboard.");

const company = (others) => others.length === 0 ? "the feature alone"
  : others.length < 4 ? `with ${others.join(", ")}` : `with ${others.length} others`;

const patches = (f) => {
  if (!f.patches.length) return [untested()];
  return [
    how("The feature's activation is exchanged between two runs that differ in the property, and the rest of the model runs on. Effect: how far the logit "
      + "difference (right − wrong answer) moves to that of the other run, in nats. Share: of what exchanging everything at the position does. "
      + "Controls: what 95 % of random features of its firing rate and norm stay below, in nats. Beats: share of these controls with a smaller effect."),
    table("", [heads(["property"], ["at"], ["changed"], ["effect (nats)", N], ["share", N], ["controls (nats)", N], ["beats", N], ["retrieval"])],
      f.patches.map(([property, position, others, effect, share, control, beats, retrieval]) => el("tr", {},
        cell(S[property]), cell(S[position], "line"), el("td", {title: others.join(", ") || null}, company(others)), cell(signed(effect), N), cell(percent(share), N),
        cell(fmt(control), N), cell(percent(beats), N), el("td", {}, retrieval ? tag(others.length ? "yes, together" : "yes") : "no")))),
  ];
};

const changes = (f) => {
  if (!f.changes.length) return [untested()];
  const rows = new Map();
  for (const [intervention, position, name, metric, effect, predicted, control, beats] of f.changes) {
    const key = [position, intervention, name].join(" ");
    if (!rows.has(key)) rows.set(key, {intervention: S[intervention], position: S[position], name: S[name], predicted});
    rows.get(key)[S[metric]] = [effect, control, beats];
  }
  const words = {ablate: "set to 0", clamp: "set to its mean"};
  const three = (found, form) => found ? [cell(form(found[0]), N), cell(fmt(found[1]), N), cell(percent(found[2]), N)] : [cell("–", N), cell("–", N), cell("–", N)];
  const top = heads(["feature", "", {rowspan: 2}], ["at", "", {rowspan: 2}], ["aliases of", "", {rowspan: 2}], ["predicted", "", {rowspan: 2}],
    ["logit difference (nats)", "", {colspan: 3, scope: "colgroup"}], ["within-alias AUC", "", {colspan: 3, scope: "colgroup"}]);
  const below = heads(...[0, 1].flatMap(() => [["effect", N], ["controls", N], ["beats", N]]));
  return [
    how("Questions about held-out aliases of a subset, with the feature alone set to 0, or to its mean where it is active. Effect: change of right − wrong answer in nats, "
      + "and of the within-alias AUC (½ is chance, 1 perfect). Predicted: the direction that its property predicts for the answers; – where it predicts none. "
      + "Controls: what 95 % of matched random features stay below, in that direction, else in size. Beats: share of them with a smaller effect."),
    table("", [top, below], [...rows.values()].map((row) => el("tr", {},
      cell(words[row.intervention] ?? row.intervention), cell(row.position, "line"), cell(row.name),
      cell(row.predicted > 0 ? "better" : row.predicted < 0 ? "worse" : "–"),
      three(row.logit_difference, (x) => signed(x)), three(row.within_alias_auc, (x) => signed(x))))),
  ];
};

const length = (x, most, both) => {
  const size = most > 0 ? Math.abs(x) / most * (both ? 50 : 100) : 0;
  const bar = el("i", {class: x < 0 ? "less" : null});
  bar.style.width = `calc((100% - .8rem) * ${size / 100})`;
  bar.style.left = both ? `calc((100% - .8rem) * ${(x < 0 ? 50 - size : 50) / 100})` : "0";
  return el("td", {class: both ? "length" : "length one"}, bar);
};

const direct = (f) => {
  if (!f.direct) return [none("It writes at a site outside the residual stream, so it has no direct path to the logits.")];
  const [difference, highest, lowest] = f.direct;
  const most = Math.max(...[...highest, ...lowest].map(([, x]) => Math.abs(x))) * f.mean;
  const list = (title, found) => el("div", {}, el("h4", {}, title), table("", [heads(["integer", N], ["nats", N], [""])],
    found.map(([integer, x]) => el("tr", {}, cell(integer, N), cell(signed(x * f.mean, 2), N), length(x * f.mean, most, false)))));
  return [
    how("The decoder row alone through the final layer norm (its scale frozen at the mean over = of questions) and the unembedding: what the feature adds to the logits of its "
      + `own position past all later layers, at its mean activation of ${fmt(f.mean)}. It speaks of answers only where the feature is active at =; what later layers make of it is not in it.`),
    el("p", {}, "True − false logit: ", el("b", {}, `${signed(difference * f.mean)} nats`), ` (${signed(difference)} per unit of activation). Integers, less the mean of all integers:`),
    el("div", {class: "side"}, list("Raised most", highest), list("Lowered most", lowest)),
  ];
};

const near = (f) => {
  if (!f.near.length) return [none("No known direction is at this site.")];
  return [
    how("Cosine of the decoder row with known directions: 1 is the same, 0 at right angles, −1 the opposite. Of random directions 95 % stay within "
      + `±${fmt(data.chance, 2)}. Means: from the mean activation of the second subset to that of the first, of aliases that the SAE has seen. Embedding: the token's row of W_E.`),
    table("", [heads(["direction"], ["cosine", N], [""])],
      f.near.map(([name, cosine]) => el("tr", {}, cell(S[name]), cell(signed(cosine, 2), N), length(cosine, 1, true)))),
  ];
};

const verdict = (f) => {
  const of = f.alone.filter((patch) => patch[7]);
  if (of.length) return el("p", {}, tag("retrieval feature"), ` of ${of.map((patch) => `“${S[patch[0]]}”`).filter((x, i, all) => all.indexOf(x) === i).join(", ")}: `
    + "selective on held-out aliases, and patching it moves the answer more than 95 % of matched random features do.");
  if (f.alone.length) return el("p", {}, "Not a retrieval feature: tested, and no patch of it alone meets the rule.");
  return null;
};

const tile = (value, name, text) => el("div", {}, el("small", {}, name), el("b", {}, value), el("small", {}, text));

const draw = (f) => {
  const most = Math.max(...f.examples.flatMap((example) => example[4].map(([, x]) => x)));
  const at = shown.indexOf(f);
  const step = (text, other) => el("button", {type: "button", "data-feature": other?.n, disabled: other ? null : ""}, text);
  byId("page").replaceChildren(
    el("div", {class: "bar"}, el("h2", {tabindex: "-1", id: "page-title", style: "margin:0"}, `Feature ${f.n}`),
      el("span", {class: "bar screen", style: "margin:0 0 0 auto"}, step("◀ Row above", shown[at - 1]), step("Row below ▶", at < 0 ? null : shown[at + 1]),
        el("a", {href: "#features"}, "Back to the table"))),
    verdict(f) ?? "",
    el("div", {class: "tiles"},
      tile(percent(f.rate), "Fires on", "of all tokens of the texts"),
      tile(fmt(f.mean), "Mean activation", "where it is active"),
      tile(fmt(f.norm), "Decoder norm", "length that a unit of activation adds"),
      tile(f.direct ? `${signed(f.direct[0] * f.mean)} nats` : "–", "Direct effect, true − false", f.direct ? "at its mean activation" : "its site has no direct path")),
    el("h3", {}, "What it stands for"), ...meanings(f),
    el("h3", {}, "Examples"),
    how("Texts with its largest activations, and texts further down: at the quartiles of those on which it is active. The shading and the small number are its activation at each token; "
      + "the outlined token has the largest of the text."),
    el("div", {class: "legend"}, "0", el("i"), `${fmt(most)} activation`),
    el("h4", {}, "Questions"), strips(f, "question", most), el("h4", {}, "Definitions"), strips(f, "definition", most),
    el("h3", {}, "Where it is active"),
    how("By role of the token and subset of the alias, over all texts: mean activation (zeros count), and below it the share of these tokens on which it is active."),
    el("div", {class: "side"}, data.activity.map((_, i) => activity(f, i))),
    el("h3", {}, "What patching it does"), ...patches(f),
    el("h3", {}, "What fixing it does"), ...changes(f),
    el("h3", {}, "Direct effect on the logits"), ...direct(f),
    el("h3", {}, "Nearest known directions"), ...near(f),
  );
};
