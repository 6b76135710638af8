// Keeps a page true while something runs: fetches it again and exchanges the parts that differ. Without it the page
// works as well, on reload.
"use strict";

const EVERY = 1500;

function sameText(part) {
  // A form's key is new in every copy, and what a person has unfolded is theirs.
  return part.outerHTML.replace(/name="key" value="[^"]*"/g, "").replace(/ open=""/g, "");
}

function inUse(part) {
  const typing = part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
  return typing || [...part.querySelectorAll("textarea")].some((field) => field.value !== field.defaultValue);
}

function exchange(old, fresh) {
  const open = new Set([...old.querySelectorAll("details[open][id]")].map((details) => details.id));
  old.replaceWith(fresh);
  for (const details of fresh.querySelectorAll("details[id]")) {
    if (open.has(details.id)) details.open = true;
  }
}

async function refresh() {
  if (document.hidden) return true;
  const answer = await fetch(location.href, { credentials: "same-origin" });
  if (answer.redirected) {
    location.reload();
    return false;
  }
  if (!answer.ok) return true;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const fresh of page.querySelectorAll("[data-part]")) {
    const old = document.getElementById(fresh.id);
    if (old && !inUse(old) && sameText(old) !== sameText(fresh)) exchange(old, document.importNode(fresh, true));
  }
  return page.querySelector("main[data-live]") !== null;
}

async function keepFresh() {
  let running = true;
  try {
    running = await refresh();
  } catch {
    // The network is away: the next try tells.
  }
  if (running) setTimeout(keepFresh, EVERY);
}

if (document.querySelector("main[data-live]")) setTimeout(keepFresh, EVERY);
