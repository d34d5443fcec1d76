// The console's one script: keeps the live part of a page fresh, counts seconds, copies ids. Pages work without it.
"use strict";

(() => {
  const POLL_MS = 1000; // a step takes about half a second: this shows each
  const CALM_MS = 5000; // between looks at an operation that rests, perhaps for days
  const CALMER = 1.2; // times the pause grows by while nothing changes
  const SLOWEST_MS = 10000; // between tries while the server does not answer
  const COPIED_MS = 1500; // how long a button says that it has copied

  const root = document.documentElement;
  const live = document.getElementById("live");
  const said = document.getElementById("said");
  root.classList.add("scripted");

  const seconds = (ms) => {
    const all = Math.max(Math.floor(ms / 1000), 0);
    if (all < 60) return `${all} s`;
    const minutes = Math.floor(all / 60);
    return minutes < 60 ? `${minutes} min ${all % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const count = () => {
    for (const cell of document.querySelectorAll("[data-since]")) {
      cell.textContent = seconds(Date.now() - Date.parse(cell.dataset.since));
    }
    for (const cell of document.querySelectorAll("[data-until]")) {
      const left = Date.parse(cell.dataset.until) - Date.now();
      cell.textContent = left > 0 ? `again in ${seconds(left + 999)}` : "now";
    }
  };

  // A screen reader hears one line, and only when it has changed; the pictures beside it say nothing aloud.
  const say = (words) => {
    if (said && words && said.textContent !== words) said.textContent = words;
  };

  const replace = (html) => {
    const focused = document.activeElement && live.contains(document.activeElement) ? document.activeElement.id : "";
    const opened = [...live.querySelectorAll("details[open][id]")].map((one) => one.id);
    live.innerHTML = html;
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (focused) (document.getElementById(focused) || document.getElementById("main")).focus({ preventScroll: true });
    const sheet = live.querySelector(".sheet");
    live.dataset.open = sheet ? sheet.dataset.open : "no";
    say(sheet ? sheet.dataset.say : "");
    // "… is queued" is no longer true once it is over.
    if (live.dataset.open === "no") document.querySelector(".flash")?.remove();
    count();
  };

  const follow = () => {
    let etag = "";
    let pause = POLL_MS;
    const again = () => window.setTimeout(look, pause);
    const look = async () => {
      if (document.hidden) return again();
      try {
        const headers = etag ? { "X-Poll": "1", "If-None-Match": etag } : { "X-Poll": "1" };
        const answer = await fetch(live.dataset.live, { headers, cache: "no-store", redirect: "error" });
        if (answer.status === 401) return window.location.reload();
        if (answer.status === 304) {
          pause = Math.max(Math.min(pause * CALMER, CALM_MS), POLL_MS);
        } else {
          if (!answer.ok) throw new Error(String(answer.status));
          etag = answer.headers.get("ETag") || "";
          replace(await answer.text());
          pause = POLL_MS;
        }
        root.classList.remove("stale");
      } catch {
        root.classList.add("stale");
        say("The server does not respond. Retrying.");
        pause = Math.min(pause * 2, SLOWEST_MS);
      }
      return live.dataset.open === "yes" ? again() : undefined;
    };
    again();
  };

  const copy = async (button) => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without https there is no clipboard for scripts: select the id, so that the keyboard can copy it.
      window.getSelection().selectAllChildren(button.previousElementSibling);
      return;
    }
    button.textContent = "Copied";
    window.setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  count();
  window.setInterval(count, 1000);
  if (live && live.dataset.open === "yes") follow();
})();
