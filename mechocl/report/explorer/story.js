// The story: captioned views, one after another.

/** Show the caption of the state's view. @param {State} state */
function drawStory(state) {
  if (!CONTENT.story.length) return;
  const caption = document.getElementById("caption"), place = document.getElementById("story-place");
  fillWords(caption, state.story ? CONTENT.story[state.story - 1].caption : "The page shows another view than those of its story; Next goes to the first one.");
  place.textContent = `${state.story || "–"} of ${CONTENT.story.length}`;
  /** @type {HTMLButtonElement} */ (document.getElementById("story-back")).disabled = state.story <= 1;
  /** @type {HTMLButtonElement} */ (document.getElementById("story-next")).disabled = state.story >= CONTENT.story.length;
}

/** Let the buttons of the story choose views. @param {() => State} now @param {(state: State) => void} go */
function startStory(now, go) {
  if (!CONTENT.story.length) return;
  document.getElementById("story-back").addEventListener("click", () => go(stateOfView(now().story - 1)));
  document.getElementById("story-next").addEventListener("click", () => go(stateOfView(now().story + 1)));
}
