// The explorer is a page of its own inside the report: it is opened in its frame when it comes near, and follows the report's theme.

(() => {
  const frame = /** @type {HTMLIFrameElement | null} */ (document.querySelector("#explorer iframe"));
  if (!frame) return;

  /** The frame's page is spoken to by messages alone. */
  const follow = () => frame.contentWindow.postMessage({ theme: theme() }, "*");
  let height = 0;

  /** On a phone the frame is as high as its page, so that there is one thing to scroll. */
  const fit = () => { frame.style.height = height && frame.clientWidth <= 760 ? `${height + 4}px` : ""; };

  const open = () => {
    const page = JSON.parse(document.getElementById("explorer-page").textContent);
    frame.addEventListener("load", follow);
    frame.srcdoc = page;  // in a frame of a blob on a page from disk, Chromium lets taps fall elsewhere
  };

  addEventListener("message", ({ source, data }) => {
    if (source !== frame.contentWindow || !Number.isFinite(data?.height)) return;
    height = data.height;
    fit();
  });
  document.addEventListener("theme", follow);
  addEventListener("resize", fit);
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((one) => one.isIntersecting)) return;
    near.disconnect();
    open();
  }, { rootMargin: "150% 0px" });
  near.observe(frame);
})();
