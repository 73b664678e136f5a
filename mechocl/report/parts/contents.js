// The contents: one tab stop, whose arrow keys move; it marks the section that is read, and is collapsed on small windows.

(() => {
  const contents = document.getElementById("contents");
  if (!contents) return;
  const box = contents.querySelector("details"), place = contents.querySelector("summary span");
  const links = [...contents.querySelectorAll("a")];
  const sections = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  const small = matchMedia("(max-width: 1000px), (max-height: 500px)");

  /** @param {HTMLAnchorElement} chosen */
  const reachable = (chosen) => links.forEach((link) => { link.tabIndex = link === chosen ? 0 : -1; });

  const mark = () => {
    const line = Math.min(160, innerHeight / 4);
    let at = sections.findLastIndex((section) => section && section.getBoundingClientRect().top <= line);
    if (innerHeight + scrollY >= document.documentElement.scrollHeight - 2 && scrollY > 0) at = links.length - 1;
    const now = links[Math.max(0, at)];
    if (now.getAttribute("aria-current")) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    now.setAttribute("aria-current", "true");
    place.textContent = ` · ${now.textContent}`;
    if (!contents.contains(document.activeElement)) reachable(now);
    const top = now.offsetTop, end = top + now.offsetHeight;
    if (!small.matches && (top < contents.scrollTop || end > contents.scrollTop + contents.clientHeight)) contents.scrollTop = top - contents.clientHeight / 2;
  };

  const fold = () => {
    box.open = !small.matches;
    const summary = contents.querySelector("summary");
    summary.tabIndex = small.matches ? 0 : -1;
  };

  contents.addEventListener("keydown", (event) => {
    const from = links.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
    const to = { ArrowDown: from + 1, ArrowUp: from - 1, Home: 0, End: links.length - 1 }[event.key];
    if (event.key === "Escape" && small.matches) { box.open = false; contents.querySelector("summary").focus(); }
    if (from < 0 || to === undefined || !links[to]) return;
    event.preventDefault();
    reachable(links[to]);
    links[to].focus();
  });
  contents.addEventListener("click", (event) => {
    if (/** @type {Element} */ (event.target).closest("a") && small.matches) box.open = false;
  });
  small.addEventListener("change", fold);
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  };
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  reachable(links[0]);
  fold();
  mark();
})();
