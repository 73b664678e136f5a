// Inside the frame of a report: the explorer takes the report's theme, and says how high it is.

(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  /** @type {string} */
  let wanted = "";
  const follow = () => { if (wanted && root.dataset.theme && root.dataset.theme !== wanted) button.click(); };
  button.hidden = true;
  addEventListener("message", ({ source, data }) => {
    if (source !== parent || !["light", "dark"].includes(data?.theme)) return;
    wanted = data.theme;
    follow();
  });
  new MutationObserver(follow).observe(root, { attributes: true, attributeFilter: ["data-theme", "data-ready"] });
  new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);
})();
