// Opens the case that the URL fragment names.
"use strict";

(() => {
  const openCase = () => {
    const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (item instanceof HTMLDetailsElement) {
      item.open = true;
      item.scrollIntoView();
    }
  };
  window.addEventListener("hashchange", openCase);
  openCase();
  document.querySelectorAll("details.case").forEach((item) => {
    item.addEventListener("toggle", () => {
      if (item.open) history.replaceState(null, "", `#${item.id}`);
    });
  });
})();
