// Opens the case that the address names.
"use strict";

(() => {
  const open = () => {
    const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (found instanceof HTMLDetailsElement) {
      found.open = true;
      found.scrollIntoView();
    }
  };
  window.addEventListener("hashchange", open);
  open();
  document.querySelectorAll("details.case").forEach((item) => {
    item.addEventListener("toggle", () => {
      if (item.open) history.replaceState(null, "", `#${item.id}`);
    });
  });
})();
