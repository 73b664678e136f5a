// Tables that are wider than the page scroll inside it: shades and a sentence say that there is more.

const SCROLLS = "This table goes on to the side: scroll it, or use the arrow keys.";

/** Show at which sides of a scrolled box there is more. @param {HTMLElement} box The element that scrolls, inside one of the class `shaded`. */
function shade(box) {
  const frame = box.parentElement, most = box.scrollWidth - box.clientWidth, over = most > 1;
  frame.classList.toggle("overflowing", over);
  frame.classList.toggle("more-left", over && box.scrollLeft > 1);
  frame.classList.toggle("more-right", over && box.scrollLeft < most - 1);
  const name = /** @type {HTMLElement | null} */ (box.querySelector(".row-name"));
  frame.style.setProperty("--kept", over && name ? `${name.offsetWidth}px` : "0px");
  frame.style.setProperty("--window", `${box.clientWidth}px`);
  if (over) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
  const words = frame.previousElementSibling;
  if (words && words.classList.contains("scrolls")) /** @type {HTMLElement} */ (words).hidden = !over;
}

const resized = new ResizeObserver((entries) => entries.forEach((one) => shade(/** @type {HTMLElement} */ (one.target.closest(".wide")))));

/** Give every box of the class `wide` inside an element its shades. @param {ParentNode} [inside] */
function shadeTables(inside = document) {
  for (const box of /** @type {NodeListOf<HTMLElement>} */ (inside.querySelectorAll(".shaded > .wide"))) {
    box.addEventListener("scroll", () => shade(box), { passive: true });
    resized.observe(box);
    if (box.firstElementChild) resized.observe(box.firstElementChild);
    const table = box.querySelector("table");
    if (table && !box.parentElement.previousElementSibling?.classList.contains("scrolls")) {
      const words = document.createElement("p");
      words.className = "scrolls";
      words.textContent = SCROLLS;
      words.hidden = true;
      box.parentElement.before(words);
    }
    shade(box);
  }
}

shadeTables();
