// Light and dark: the system's, until the reader chooses. Whoever draws with colours of its own listens for "theme" on the document.

const systemDark = matchMedia("(prefers-color-scheme: dark)");

/** @type {"light" | "dark" | null} What the reader chose. */
let chosenTheme = null;
let onPaper = false;

/** @returns {"light" | "dark"} */
function theme() {
  if (onPaper) return "light";
  return chosenTheme || (systemDark.matches ? "dark" : "light");
}

/** Show the theme, and tell those who draw. */
function showTheme() {
  const root = document.documentElement, now = theme();
  if (root.dataset.theme === now) return;
  root.dataset.theme = now;
  const button = document.getElementById("theme");
  if (button) button.textContent = now === "dark" ? "Light" : "Dark";
  document.dispatchEvent(new Event("theme"));
}

/** The value of one of the page's colours, such as "--ink". @param {string} name @returns {string} */
function pageColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

systemDark.addEventListener("change", showTheme);
addEventListener("beforeprint", () => { onPaper = true; showTheme(); });
addEventListener("afterprint", () => { onPaper = false; showTheme(); });
document.getElementById("theme")?.addEventListener("click", () => { chosenTheme = theme() === "dark" ? "light" : "dark"; showTheme(); });
showTheme();
