// The dashboard opens features, and follows the address.

const show = (f) => {
  opened = f;
  const at = shown.indexOf(f);
  if (at >= 0) start = at - at % ROWS;
  drawRows();
  draw(f);
  shadeTables(byId("page"));
};

const follow = () => {
  const found = /^#feature-(\d+)$/.exec(location.hash);
  if (!found) return false;
  const f = byNumber.get(Number(found[1]));
  if (f) show(f);
  else byId("page").replaceChildren(el("h2", {tabindex: "-1", id: "page-title"}, `Feature ${found[1]}`),
    none(Number(found[1]) < data.width ? "It is active on no token of the texts here, so there is nothing to show." : `There are features 0 to ${data.width - 1}.`));
  byId("page").scrollIntoView({block: "start"});
  byId("page-title").focus({preventScroll: true});
  return true;
};

const go = (number) => {
  const hash = `#feature-${number}`;
  if (location.hash === hash) follow();
  else location.hash = hash;
};

addEventListener("hashchange", follow);
byId("search").addEventListener("input", arrange);
byId("before").addEventListener("click", () => { start = Math.max(0, start - ROWS); drawRows(); });
byId("after").addEventListener("click", () => { start += ROWS; drawRows(); });
byId("table").tHead.addEventListener("click", (event) => {
  const name = event.target.closest("button")?.dataset.column;
  if (!name) return;
  const first = columns.find((column) => column[0] === name)[3];
  sorted = {by: name, direction: sorted.by === name ? -sorted.direction : first};
  arrange();
  byId("table").tHead.querySelector(`[data-column=${name}]`).focus();
});
const pick = (event) => {
  const number = event.target.closest("[data-feature]")?.dataset.feature;
  if (number === undefined) return;
  event.preventDefault();
  go(number);
};
byId("table").tBodies[0].addEventListener("click", pick);
byId("table").tBodies[0].addEventListener("keydown", (event) => { if (event.key === "Enter") pick(event); });
byId("page").addEventListener("click", (event) => { if (event.target.closest("button")) pick(event); });

arrange();
if (!follow()) {
  if (shown.length) show(shown[0]);
  else byId("page").replaceChildren(none("There is no feature to show."));
}
