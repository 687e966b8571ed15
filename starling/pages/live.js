"use strict";
(() => {
  const parts = (page) => [...page.querySelectorAll("#live, main > section")];
  const boxes = (part) => [...part.querySelectorAll("details")];
  const stops = (part) => [...part.querySelectorAll("a, button, summary")];
  const found = (part) => document.getElementById(part.id);
  const KEPT = "starling-boxes";
  const seen = new Map(parts(document).map((part) => [part.id, part.innerHTML]));  // before anything touches the page
  document.documentElement.style.overflowAnchor = "none";  // `holding` keeps the place

  const open = (part, states) => boxes(part).forEach((box, at) => { box.open = states[at] ?? box.open; });
  const remembered = () => { try { return JSON.parse(sessionStorage.getItem(KEPT)) ?? {}; } catch { return {}; } };
  const remember = (states) => { try { sessionStorage.setItem(KEPT, JSON.stringify(states)); } catch { /* then they close */ } };
  const before = remembered();
  for (const part of parts(document)) { open(part, before[part.id] ?? []); }
  remember({});

  const holding = (change) => {
    const part = parts(document).find((one) => one.getBoundingClientRect().bottom > 0);
    const top = part?.getBoundingClientRect().top;
    change();
    if (part && scrollY > 0) { scrollBy({ top: part.getBoundingClientRect().top - top, behavior: "instant" }); }
  };
  const marked = (part) => { const selection = getSelection(); return !selection.isCollapsed && selection.containsNode(part, true); };
  const renew = (page) => {
    for (const fresh of parts(page)) {
      const old = found(fresh);
      if (seen.get(fresh.id) === fresh.innerHTML || marked(old)) { continue; }
      if (fresh.id === "browser") {  // its search and its filters begin anew with the page
        remember(Object.fromEntries(parts(document).map((part) => [part.id, boxes(part).map((box) => box.open)])));
        location.reload();
        return;
      }
      seen.set(fresh.id, fresh.innerHTML);
      const states = boxes(old).map((box) => box.open);
      const focus = stops(old).indexOf(document.activeElement);
      old.replaceChildren(...fresh.childNodes);
      open(old, states);
      stops(old)[focus]?.focus({ preventScroll: true });
    }
  };
  const tell = (text) => {
    document.getElementById("trouble").textContent = text;
    seen.delete("live");
  };

  const wait = 1000 * Number(document.getElementById("live").dataset.seconds);
  let timer;
  const look = async () => {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      const text = await answer.text();
      if (answer.ok) { holding(() => renew(new DOMParser().parseFromString(text, "text/html"))); } else { tell(text); }
    } catch {
      tell("The server does not answer: this is what it said last. The page goes on once it is back at this address.");
    }
    clearTimeout(timer);  // of a look that was under way at the same time
    if (!document.hidden) { timer = setTimeout(look, wait); }
  };
  document.addEventListener("visibilitychange", () => { if (document.hidden) { clearTimeout(timer); } else { look(); } });
  timer = setTimeout(look, wait);
})();
