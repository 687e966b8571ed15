"use strict";
(() => {
  const root = document.documentElement;
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const remember = (name) => { try { localStorage.setItem("starling-theme", name); } catch { /* a file may not remember */ } };
  const remembered = () => { try { return localStorage.getItem("starling-theme"); } catch { return null; } };
  const setTheme = (name) => {
    if (name === "auto") { delete root.dataset.theme; } else { root.dataset.theme = name; }
    button.textContent = `Colours: ${name}`;
    button.value = name;
  };
  const wished = new URLSearchParams(location.search).get("theme") || remembered();
  setTheme(themes.includes(wished) ? wished : "auto");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(button.value) + 1) % themes.length];
    setTheme(next);
    remember(next);
  });

  const list = document.getElementById("cases");
  if (!list) { return; }
  const tools = document.getElementById("tools");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const cases = [...list.querySelectorAll(".case")];
  const text = new Map(cases.map((one) => [one, one.textContent.toLowerCase()]));
  const PAGE = 20;
  let shown = PAGE;

  const matches = (one) => {
    const field = tools.elements;
    const data = one.dataset;
    const wanted = !field.outcome.value || data.tags.split(" ").includes(field.outcome.value);
    const words = field.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return wanted && (!field.kind.value || data.kind === field.kind.value) && words.every((word) => text.get(one).includes(word));
  };
  const compare = {
    test: (a, b) => a.dataset.place - b.dataset.place,
    gain: (a, b) => b.dataset.gain - a.dataset.gain || a.dataset.place - b.dataset.place,
    loss: (a, b) => a.dataset.gain - b.dataset.gain || a.dataset.place - b.dataset.place,
  };
  let order = "test";
  const update = () => {
    if (tools.elements.order.value !== order) {
      order = tools.elements.order.value;
      cases.sort(compare[order]);
      list.append(...cases);
    }
    const chosen = cases.filter(matches);
    const visible = new Set(chosen.slice(0, shown));
    for (const one of cases) { one.hidden = !visible.has(one); }
    count.textContent = `${chosen.length} of ${cases.length} prompts` + (visible.size < chosen.length ? `, the first ${visible.size} shown` : "");
    more.hidden = visible.size >= chosen.length;
  };
  tools.addEventListener("input", () => { shown = PAGE; update(); });
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.elements.diff.addEventListener("change", (event) => list.classList.toggle("diff", event.target.checked));
  more.addEventListener("click", () => {
    const first = cases.filter(matches)[shown];
    shown += PAGE;
    update();
    first?.querySelector("summary").focus();
  });
  tools.hidden = false;
  update();
})();
