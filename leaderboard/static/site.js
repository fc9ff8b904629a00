// What all pages share: loading of data on demand, menus, definitions, and a fact at random.
"use strict";

const knbench = (() => {
  const root = document.currentScript.dataset.root;
  const waiting = new Map();
  const values = new Map();

  // A page from disk may load scripts, but not JSON. Each data file calls give().
  const give = (name, value) => {
    values.set(name, value);
    waiting.get(name)?.resolve(value);
  };

  const load = (name, path) => {
    if (values.has(name)) return Promise.resolve(values.get(name));
    if (!waiting.has(name)) {
      const found = {};
      found.promise = new Promise((resolve, reject) => {
        found.resolve = resolve;
        const script = document.createElement("script");
        script.src = root + path;
        script.onerror = () => reject(new Error(`${path} cannot be loaded`));
        document.head.append(script);
      });
      waiting.set(name, found);
    }
    return waiting.get(name).promise;
  };

  // Text is always inserted as text: results come from anybody.
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const svg = (tag, attributes = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const fragment = () => new URLSearchParams(location.hash.slice(1));

  const setFragment = (parameters) => {
    const text = parameters.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  };

  // --- menus: one is open at a time; Escape and a click elsewhere close it ---
  const closeMenus = (except) => {
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      if (menu !== except) menu.open = false;
    });
  };
  document.addEventListener("click", (event) => closeMenus(event.target.closest("details.menu")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelector("details.menu[open] > summary")?.focus();
    closeMenus(null);
  });

  // --- definitions ---
  const definitionBox = () => {
    let box = document.getElementById("definition");
    if (!box) {
      box = element("div", { id: "definition", popover: "auto", role: "dialog", "aria-labelledby": "definition-title" });
      document.body.append(box);
    }
    return box;
  };

  const define = async (name) => {
    const found = (await load("definitions", "data/definitions.js"))[name];
    const box = definitionBox();
    const close = element("button", { type: "button" }, "Close");
    close.addEventListener("click", () => box.hidePopover());
    box.replaceChildren(element("h2", { id: "definition-title" }, found.title), close, element("p", {}, found.definition));
    const example = found.example;
    if (example) {
      const quote = (text) => element("q", {}, text);
      box.append(
        element("p", {}, element("b", {}, "Example. "), "Edit ", quote(example.edit), ", asked ", quote(example.question),
          ": before ", quote(example.before), `, after ${example.method} `, quote(example.after), " "),
        element("a", { href: root + example.page }, "The whole case"),
      );
    }
    box.showPopover();
    close.focus();
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.q");
    if (!link || event.ctrlKey || event.metaKey || !HTMLElement.prototype.showPopover) return;
    event.preventDefault();
    define(link.hash.slice(3)).catch(() => { location.href = link.href; });
  });

  // --- a box that stays closed ---
  const how = document.getElementById("how");
  if (how) {
    try {
      how.open = localStorage.getItem("knbench-how") !== "closed";
      how.addEventListener("toggle", () => localStorage.setItem("knbench-how", how.open ? "open" : "closed"));
    } catch { /* storage is switched off: the box is open */ }
  }

  // --- a fact at random ---
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.surprise");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    load("facts", "data/facts.js").then((lists) => {
      const pages = Object.entries(lists).flatMap(([list, { cases }]) => cases.map(([name]) => `${list}/${name}.html`));
      location.href = root + pages[Math.floor(Math.random() * pages.length)];
    }, () => { location.href = link.href; });
  });

  return { root, give, load, element, svg, fragment, setFragment };
})();
