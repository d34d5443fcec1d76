// The console's only script: refreshes the live part of a page in place, shows times in the reader's zone, and copies
// ids. Pages work without it.
"use strict";

(() => {
  const OPEN_POLL_MS = 1000; // while something is in progress: a step takes about half a second, so each one shows
  const IDLE_POLL_MS = 5000; // everything else: a list, an agent at rest, an operation that waits, perhaps for days
  const POLL_GROWTH = 1.2; // factor by which the interval grows from the first to the second while nothing changes
  const ANSWER_MS = 15000; // for one answer: behind a dead connection the page would be old for ever, and say nothing
  const MAX_RETRY_MS = 60000; // between attempts while the server does not respond
  const READING_MS = 500; // between looks whether text is still selected
  const READING_NOTE_MS = 15000; // how long text is selected until a note says that this holds the page back
  const MARK_MS = 2000; // how long a changed row stands out
  const TWICE_MS = 3000; // how long a form that was sent is not sent again: a double click is one request
  const COPIED_MS = 1500; // how long a button shows "Copied"

  const root = document.documentElement;
  const live = document.getElementById("live");
  const announcement = document.getElementById("announcement");
  const note = document.getElementById("refresh-note");
  root.classList.add("scripted");

  // ---- Times

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  const two = (number) => String(number).padStart(2, "0");
  const dayOf = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const clockOf = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;

  const formatDuration = (ms) => {
    const all = Math.max(Math.floor(ms / 1000), 0);
    if (all < 60) return `${all} s`;
    const minutes = Math.floor(all / 60);
    return minutes < 60 ? `${minutes} min ${all % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const formatAgo = (ms) => {
    const minutes = Math.floor(ms / 60000);
    if (minutes < 1) return "just now";
    if (minutes < 60) return `${minutes} min ago`;
    return minutes < 1440 ? `${Math.floor(minutes / 60)} h ago` : `${Math.floor(minutes / 1440)} d ago`;
  };

  // The server writes UTC with the word; here it becomes the zone of the browser, and UTC is shown on hover.
  const showTime = (element) => {
    const at = new Date(element.dateTime);
    const exact = element.dataset.exact !== undefined;
    const seconds = `:${two(at.getSeconds())}`;
    const text = `${dayOf(at)} ${clockOf(at)}${exact ? `${seconds}.${String(at.getMilliseconds()).padStart(3, "0")}` : ""}`;
    element.title = `${dayOf(at)} ${clockOf(at)}${seconds} ${zone} = ${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
    element.textContent = text;
    if (element.dataset.ago === undefined) return;
    const ago = document.createElement("span");
    ago.className = "ago";
    element.append(" ", ago);
  };

  const showTimes = (place) => {
    for (const element of place.querySelectorAll("time[datetime]")) showTime(element);
  };

  const setText = (element, text) => {
    if (element.textContent !== text) element.textContent = text; // an equal text is left alone: somebody may select it
  };

  const updateTimes = (place = document) => {
    const now = Date.now();
    for (const ago of place.querySelectorAll("time > .ago")) setText(ago, `(${formatAgo(now - Date.parse(ago.parentNode.dateTime))})`);
    for (const cell of place.querySelectorAll("[data-since]")) setText(cell, formatDuration(now - Date.parse(cell.dataset.since)));
    for (const cell of place.querySelectorAll("[data-until]")) {
      const left = Date.parse(cell.dataset.until) - now;
      setText(cell, left > 0 ? `retry in ${formatDuration(left + 999)}` : "now");
    }
  };

  // ---- Changing the page in place: what is equal stays the same node, with its focus, selection and what was typed

  const isTyped = (field) => {
    if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
    if (field.localName === "select") {
      const options = [...field.options];
      const preset = options.findIndex((one) => one.defaultSelected); // none: a browser takes the first
      return field.selectedIndex !== Math.max(preset, 0);
    }
    return field.type !== "hidden" && field.value !== field.defaultValue;
  };

  const isKept = (element) =>
    element.hasAttribute("data-keep") ||
    (element.matches("input, textarea, select") && (element === document.activeElement || isTyped(element)));

  const copyAttributes = (from, to) => {
    for (const { name } of [...from.attributes]) {
      // Whether details are open is the reader's; the mark of a changed row is the script's.
      if (name !== "open" && name !== "data-changed" && !to.hasAttribute(name)) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (name !== "open" && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
  };

  const change = (from, to) => {
    if (from.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
    } else if (from.nodeType === Node.ELEMENT_NODE && !isKept(from) && !from.isEqualNode(to)) {
      copyAttributes(from, to);
      changeChildren(from, to);
    }
  };

  const changeChildren = (from, to) => {
    const wanted = new Set([...to.children].map((child) => child.id).filter(Boolean));
    const byId = new Map();
    for (const child of [...from.children]) {
      if (!child.id) continue;
      if (wanted.has(child.id)) byId.set(child.id, child);
      else child.remove();
    }
    let at = from.firstChild;
    for (const next of [...to.childNodes]) {
      const known = next.id ? byId.get(next.id) : at && !at.id && at.nodeName === next.nodeName ? at : undefined;
      if (known === undefined || known.nodeName !== next.nodeName) {
        from.insertBefore(next, at);
        continue;
      }
      // Blanks before it go, not the node: what is moved loses its focus.
      while (at !== known && at && !at.id) {
        const blank = at;
        at = at.nextSibling;
        blank.remove();
      }
      if (at === known) at = at.nextSibling;
      else from.insertBefore(known, at);
      change(known, next);
    }
    while (at) {
      const rest = at;
      at = at.nextSibling;
      rest.remove();
    }
  };

  const rowTexts = () => new Map([...live.querySelectorAll("tbody > tr[id]")].map((row) => [row.id, row.textContent]));

  // ---- What people are told: one line, and only when something has changed

  const announce = (text) => {
    if (announcement && text && announcement.textContent !== text) announcement.textContent = text;
  };

  const markRows = (before) => {
    const after = rowTexts();
    const added = [...after.keys()].filter((id) => !before.has(id));
    const changed = [...after].filter(([id, text]) => before.has(id) && before.get(id) !== text).map(([id]) => id);
    const gone = [...before.keys()].filter((id) => !after.has(id));
    for (const id of [...added, ...changed]) {
      const row = document.getElementById(id);
      row.dataset.changed = "";
      window.setTimeout(() => { delete row.dataset.changed; }, MARK_MS);
    }
    const parts = [[added.length, "new"], [changed.length, "changed"], [gone.length, "gone"]].filter(([count]) => count);
    return parts.length ? `List updated: ${parts.map(([count, word]) => `${count} ${word}`).join(", ")}.` : "";
  };

  const say = (text) => {
    if (!note) return;
    setText(note, text);
    note.hidden = text === "";
  };

  // ---- Refreshing

  const firstVisibleRow = () => {
    if (window.scrollY === 0) return undefined;
    return [...live.querySelectorAll("[id]")].find((one) => one.getBoundingClientRect().top >= 0);
  };

  const replace = (html) => {
    const next = document.createElement("div");
    next.innerHTML = html;
    showTimes(next);
    updateTimes(next);
    updateTimes(live);
    const anchor = firstVisibleRow();
    const top = anchor ? anchor.getBoundingClientRect().top : 0;
    const hadFocus = live.contains(document.activeElement);
    const wasOpen = live.dataset.open === "yes";
    const before = rowTexts();
    changeChildren(live, next);
    if (anchor && anchor.isConnected) window.scrollBy(0, anchor.getBoundingClientRect().top - top);
    if (hadFocus && !live.contains(document.activeElement)) document.getElementById("main").focus({ preventScroll: true });
    const content = live.querySelector(".page-content");
    live.dataset.open = content ? content.dataset.open : "no";
    announce((content && content.dataset.announce) || markRows(before));
    // A message like "… is queued" is outdated once the operation has finished.
    if (wasOpen && live.dataset.open === "no") document.querySelector(".flash")?.remove();
  };

  const isBeingRead = () => {
    const selection = window.getSelection();
    return selection !== null && !selection.isCollapsed && selection.rangeCount > 0 && selection.getRangeAt(0).intersectsNode(live);
  };

  const startPolling = () => {
    const base = () => (live.dataset.open === "yes" ? OPEN_POLL_MS : IDLE_POLL_MS);
    let etag = "";
    let interval = base();
    let timer = 0;
    let isAsking = false;
    let refreshedAt = new Date();
    const schedule = (ms = interval) => {
      window.clearTimeout(timer);
      timer = window.setTimeout(poll, ms);
    };
    const sayStale = (why) => say(`Not refreshed since ${clockOf(refreshedAt)}: ${why}`);
    const failed = (retryAfter) => {
      interval = Math.max(Math.min(interval * 2, MAX_RETRY_MS), retryAfter);
      root.classList.add("stale");
      sayStale("the server does not respond. Trying again.");
    };
    const signedOut = () => {
      if (![...document.querySelectorAll("input, textarea, select")].some(isTyped)) return window.location.reload();
      return say("You are signed out: nothing is refreshed. Copy what you have typed, then reload the page.");
    };
    const poll = async () => {
      if (document.hidden || isAsking) return undefined; // `visibilitychange` goes on
      if (isBeingRead()) {
        if (Date.now() - refreshedAt > READING_NOTE_MS) sayStale("text is selected.");
        return schedule(READING_MS);
      }
      isAsking = true;
      const stop = new AbortController();
      const late = window.setTimeout(() => stop.abort(), ANSWER_MS);
      try {
        const headers = etag ? { "X-Poll": "1", "If-None-Match": etag } : { "X-Poll": "1" };
        const { signal } = stop;
        const response = await fetch(live.dataset.live, { headers, signal, cache: "no-store", redirect: "error" });
        if (response.status === 401) return signedOut();
        if (response.status === 304) {
          interval = Math.min(Math.max(interval * POLL_GROWTH, base()), IDLE_POLL_MS);
        } else if (response.ok) {
          const html = await response.text();
          if (isBeingRead()) return schedule(READING_MS);
          etag = response.headers.get("ETag") || "";
          replace(html);
          interval = base();
        } else {
          failed(Number(response.headers.get("Retry-After") || 0) * 1000);
          return schedule();
        }
        refreshedAt = new Date();
        root.classList.remove("stale");
        say("");
      } catch {
        failed(0);
      } finally {
        window.clearTimeout(late);
        isAsking = false;
      }
      return schedule();
    };
    document.addEventListener("visibilitychange", () => { if (!document.hidden) schedule(0); });
    window.addEventListener("online", () => schedule(0));
    schedule();
  };

  // ---- Copying

  const copy = async (button) => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Scripts have no clipboard without https: select the id, so that it can be copied from the keyboard.
      window.getSelection().selectAllChildren(button.parentNode.querySelector("code"));
      return;
    }
    button.textContent = "Copied";
    window.setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
  };

  // ---- Signing in by a link: its token stands behind the #, which no browser sends, and leaves the address at once.
  // It takes a click, so that no page of somebody else's can sign a browser in with a link of theirs.

  const readLink = (form) => {
    const token = new URLSearchParams(window.location.hash.slice(1)).get("link");
    if (!token) return;
    window.history.replaceState(null, "", window.location.pathname + window.location.search);
    form.elements.link.value = token;
    form.elements.key.required = false;
    for (const one of [form.elements.key, form.querySelector("label")]) one.hidden = true;
    document.getElementById("by-link").hidden = false;
    form.querySelector("button").focus();
  };

  // ---- Sending a form once: of a double click every server would carry out both

  const sentAt = new WeakMap();
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.timeStamp - (sentAt.get(event.target) ?? -TWICE_MS) < TWICE_MS) event.preventDefault();
    else sentAt.set(event.target, event.timeStamp);
  });
  window.addEventListener("pageshow", () => { for (const form of document.forms) sentAt.delete(form); });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  showTimes(document);
  for (const named of document.querySelectorAll("[data-zone]")) named.textContent = zone;
  updateTimes();
  window.setInterval(() => updateTimes(), 1000);
  document.querySelector('main [aria-invalid="true"]')?.focus(); // a form that was refused: its first error is read out
  if (live) startPolling();
  const signIn = document.getElementById("sign-in");
  if (signIn) readLink(signIn);
})();
