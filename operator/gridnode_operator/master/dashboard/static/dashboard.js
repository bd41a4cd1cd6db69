// Times in the viewer's zone, colours, and pages that follow what happens. Everything works without it, too.
"use strict";

(() => {
  const content = document.getElementById("content");

  // On a phone the navigation is wider than the screen: show the entry of this page.
  const entry = document.querySelector(".pages [aria-current]");
  if (entry) {
    const pages = entry.closest(".pages");
    pages.scrollLeft = entry.offsetLeft + entry.offsetWidth / 2 - pages.clientWidth / 2;
  }

  // ---- Times -------------------------------------------------------------------------------------------------------

  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });
  const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

  function ago(seconds) {
    if (Math.abs(seconds) < 2) return "now";
    const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
    return relative.format(Math.trunc(seconds / size), unit);
  }

  function showTimes(within) {
    const now = Date.now();
    for (const time of within.querySelectorAll("time[data-time]")) {
      const moment = new Date(time.dateTime);
      if (Number.isNaN(moment.getTime())) continue;
      const style = time.dataset.time;
      const text = style === "clock" ? clock.format(moment) : style === "full" ? full.format(moment)
        : ago((moment - now) / 1000);
      if (time.textContent !== text) time.textContent = text;
      time.title = full.format(moment);
    }
  }

  showTimes(document);
  setInterval(() => showTimes(document), 1000);

  // ---- Colours -----------------------------------------------------------------------------------------------------

  const THEMES = { system: "as the system", light: "light", dark: "dark" };
  const themeSwitch = document.querySelector("[data-theme-switch]");

  function theme() {
    return document.documentElement.dataset.theme ?? "system";
  }

  function nameTheme() {
    const name = `Colours: ${THEMES[theme()]}`;
    themeSwitch.querySelector("[data-theme-name]").textContent = name;
    themeSwitch.title = name;
  }

  if (themeSwitch) {
    themeSwitch.hidden = false;
    nameTheme();
    themeSwitch.addEventListener("click", () => {
      const names = Object.keys(THEMES);
      const next = names[(names.indexOf(theme()) + 1) % names.length];
      if (next === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      try {
        localStorage.setItem("gridnode-theme", next);
      } catch {
        // Not kept, then.
      }
      nameTheme();
    });
  }

  // ---- Forms -------------------------------------------------------------------------------------------------------

  function showFields() {
    const scope = document.querySelector("[data-scope]");
    if (!scope) return;
    for (const field of document.querySelectorAll("[data-for]")) {
      field.hidden = !field.dataset.for.split(" ").includes(scope.value);
    }
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-scope]")) showFields();
  });
  showFields();

  document.addEventListener("submit", (event) => {
    // Sent once, however often it is clicked.
    const button = event.target.method === "post" && event.target.querySelector("button[type=submit]");
    if (button) setTimeout(() => { button.disabled = true; }, 0);
  });

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }

  // One menu is open at a time, and Escape closes it.
  document.addEventListener("keydown", (event) => {
    const menu = document.querySelector(".menu[open]");
    if (event.key === "Escape" && menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  document.addEventListener("click", (event) => {
    const menu = document.querySelector(".menu[open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });

  // ---- Following what happens --------------------------------------------------------------------------------------

  // What the viewer has done to an element, which the server knows nothing of.
  const KEPT = new Set(["open", "title"]);

  function keyOf(node) {
    return node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "";
  }

  function sameKind(old, fresh) {
    return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && keyOf(old) === keyOf(fresh);
  }

  // Make `old` what `fresh` is, and leave alone what is the same: focus, selection and open details stay.
  function morph(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value && name !== "open") old.setAttribute(name, value);
    }
    morphChildren(old, fresh);
  }

  function morphChildren(old, fresh) {
    const keyed = new Map();
    for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
    const wantedKeys = new Set([...fresh.children].map(keyOf));
    let place = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const known = keyOf(wanted) ? keyed.get(keyOf(wanted)) : next(place, wanted);
      if (!known || known.nodeName !== wanted.nodeName) {
        old.insertBefore(wanted, place);
        continue;
      }
      if (!keyOf(known)) {
        // What is passed over is not wanted any more, but for what is found again by its key.
        while (place !== known) place = leave(place, wantedKeys);
      }
      if (known === place) place = place.nextSibling;
      else old.insertBefore(known, place);
      morph(known, wanted);
    }
    while (place) place = leave(place, new Set());
  }

  // The node from `place` on that is of the kind of one without a key; a text only if it is right there.
  function next(place, wanted) {
    if (wanted.nodeType !== Node.ELEMENT_NODE) return place && sameKind(place, wanted) ? place : null;
    while (place && !sameKind(place, wanted)) place = place.nextSibling;
    return place;
  }

  // Remove a node, unless it has one of the keys; gives the one after it.
  function leave(node, keys) {
    const after = node.nextSibling;
    if (!keyOf(node) || !keys.has(keyOf(node))) node.remove();
    return after;
  }

  const sign = document.querySelector(".live");
  const { stream, login, assets } = document.body.dataset;
  if (!stream || !sign) return;

  const STATES = { connecting: "Connecting", live: "Live", paused: "Paused", lost: "Connection lost", out: "Signed out" };
  const pauseSwitch = sign.querySelector("[data-live-switch]");
  const HIDDEN = 10_000;
  const shortest = Number(document.body.dataset.seconds) * 1000;
  let source = null;
  let state = "connecting";
  let dirty = false;
  let reading = false;
  let readAt = Date.now();
  let retryIn = 1000;
  let timer = null;

  function show(next) {
    state = next;
    sign.dataset.live = next;
    const text = sign.querySelector(".live-text");
    if (text.textContent !== STATES[next]) text.textContent = STATES[next];
    pauseSwitch.textContent = next === "paused" ? "Resume" : "Pause";
    pauseSwitch.hidden = next === "out";
  }

  function signedOut() {
    source?.close();
    show("out");
    const link = document.createElement("a");
    link.href = `${login}?next=${encodeURIComponent(location.pathname + location.search)}`;
    link.textContent = "Sign in again";
    sign.append(link);
  }

  async function read() {
    if (reading || state === "paused" || state === "out" || document.hidden) return;
    reading = true;
    dirty = false;
    try {
      const answer = await fetch(location.href, { headers: { "X-Fragment": "1" }, cache: "no-store" });
      if (answer.status === 401) return signedOut();
      if (!answer.ok) throw new Error(`answered ${answer.status}`);
      // Another release has other style sheets: this page's frame is an old one.
      if (answer.headers.get("X-Assets") !== assets) return location.reload();
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
      morphChildren(content, parsed.body);
      showTimes(content);
      showFields();
    } catch {
      dirty = true;
      if (state === "live") show("lost");
    } finally {
      reading = false;
      readAt = Date.now();
    }
    if (dirty) schedule();
  }

  // Not more often than the page asks for, however much happens.
  function schedule() {
    dirty = true;
    if (timer !== null || state === "paused" || state === "out") return;
    timer = setTimeout(() => {
      timer = null;
      if (dirty) read();
    }, Math.max(0, readAt + shortest - Date.now()));
  }

  function connect() {
    if (state === "paused" || state === "out" || (document.hidden && source === null)) return;
    source = new EventSource(stream);
    source.addEventListener("ready", () => {
      retryIn = 1000;
      show("live");
      schedule();
    });
    for (const name of ["changed", "reset"]) source.addEventListener(name, schedule);
    source.addEventListener("error", () => {
      if (state === "paused" || state === "out") return;
      show("lost");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      // Refused: the session may have ended, or too many watch.
      setTimeout(async () => {
        await read();
        connect();
      }, retryIn);
      retryIn = Math.min(30000, retryIn * 2);
    });
  }

  pauseSwitch.addEventListener("click", () => {
    if (state === "paused") {
      show("connecting");
      connect();
    } else {
      source?.close();
      show("paused");
    }
  });
  // A browser opens few connections to one host, and a stream takes one: pages that nobody sees leave them to others.
  let leaving = null;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (document.hidden) {
      leaving = setTimeout(() => {
        source?.close();
        source = null;
      }, HIDDEN);
    } else if (source === null) {
      connect();
    } else if (dirty) {
      schedule();
    }
  });
  addEventListener("pagehide", () => source?.close());

  sign.hidden = false;
  show("connecting");
  connect();
})();
