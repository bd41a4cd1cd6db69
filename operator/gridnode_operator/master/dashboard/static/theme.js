// Before the page is drawn, so that it is never drawn in the other colours first.
"use strict";
try {
  const chosen = localStorage.getItem("gridnode-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's colours it is.
}
document.documentElement.dataset.scripts = "on";
