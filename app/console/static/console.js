// The console's only script: refreshes the live part of a page, counts seconds and copies ids. Pages work without it.
"use strict";

(() => {
  const POLL_MS = 1000; // a step takes about half a second: short enough to show each one
  const MAX_POLL_MS = 5000; // between polls of an operation that is waiting, perhaps for days
  const POLL_GROWTH = 1.2; // factor by which the interval grows while nothing changes
  const MAX_RETRY_MS = 10000; // between attempts while the server does not respond
  const COPIED_MS = 1500; // how long a button shows "Copied"

  const root = document.documentElement;
  const live = document.getElementById("live");
  const announcement = document.getElementById("announcement");
  root.classList.add("scripted");

  const formatDuration = (ms) => {
    const all = Math.max(Math.floor(ms / 1000), 0);
    if (all < 60) return `${all} s`;
    const minutes = Math.floor(all / 60);
    return minutes < 60 ? `${minutes} min ${all % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const updateTimes = () => {
    for (const cell of document.querySelectorAll("[data-since]")) {
      cell.textContent = formatDuration(Date.now() - Date.parse(cell.dataset.since));
    }
    for (const cell of document.querySelectorAll("[data-until]")) {
      const left = Date.parse(cell.dataset.until) - Date.now();
      cell.textContent = left > 0 ? `retry in ${formatDuration(left + 999)}` : "now";
    }
  };

  // Screen readers get one line, and only when it has changed; the diagrams are hidden from them.
  const announce = (text) => {
    if (announcement && text && announcement.textContent !== text) announcement.textContent = text;
  };

  const replace = (html) => {
    const focused = document.activeElement && live.contains(document.activeElement) ? document.activeElement.id : "";
    const opened = [...live.querySelectorAll("details[open][id]")].map((one) => one.id);
    live.innerHTML = html;
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    if (focused) (document.getElementById(focused) || document.getElementById("main")).focus({ preventScroll: true });
    const content = live.querySelector(".page-content");
    live.dataset.open = content ? content.dataset.open : "no";
    announce(content ? content.dataset.announce : "");
    // A message like "… is queued" is outdated once the operation has finished.
    if (live.dataset.open === "no") document.querySelector(".flash")?.remove();
    updateTimes();
  };

  const startPolling = () => {
    let etag = "";
    let interval = POLL_MS;
    const schedule = () => window.setTimeout(poll, interval);
    const poll = async () => {
      if (document.hidden) return schedule();
      try {
        const headers = etag ? { "X-Poll": "1", "If-None-Match": etag } : { "X-Poll": "1" };
        const response = await fetch(live.dataset.live, { headers, cache: "no-store", redirect: "error" });
        if (response.status === 401) return window.location.reload();
        if (response.status === 304) {
          interval = Math.max(Math.min(interval * POLL_GROWTH, MAX_POLL_MS), POLL_MS);
        } else {
          if (!response.ok) throw new Error(String(response.status));
          etag = response.headers.get("ETag") || "";
          replace(await response.text());
          interval = POLL_MS;
        }
        root.classList.remove("stale");
      } catch {
        root.classList.add("stale");
        announce("The server does not respond. Retrying.");
        interval = Math.min(interval * 2, MAX_RETRY_MS);
      }
      return live.dataset.open === "yes" ? schedule() : undefined;
    };
    schedule();
  };

  const copy = async (button) => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Scripts have no clipboard without https: select the id, so that it can be copied from the keyboard.
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
  updateTimes();
  window.setInterval(updateTimes, 1000);
  if (live && live.dataset.open === "yes") startPolling();
})();
