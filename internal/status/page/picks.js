// The latest sampled picks: where requests went and why there. Asked for only while the section is open.
import { $, make, text } from "./dom.js";
import { brief } from "./links.js";

const askEvery = 1000; // ms
const pickRows = 40;

const rows = new Map(); // by key
let askedAt = -Infinity;

export async function refreshPicks(available) {
  $("picks").hidden = !available;
  const box = $("picks-box");
  if (!available || !box.open) return;
  // What someone reads stays where it is.
  const held = $("picks-list").querySelector("details[open]") !== null;
  text($("picks-note"), held ? "held while one is open" : "newest first");
  const now = performance.now();
  if (held || now - askedAt < askEvery) return;
  askedAt = now;
  try {
    const res = await fetch("picks", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (res.ok) showPicks(await res.json());
  } catch {
    // The page says by itself that the proxy does not answer.
  }
}

function showPicks(picks) {
  const keep = new Set();
  for (const p of picks.slice(0, pickRows).reverse()) {
    const key = JSON.stringify([p.time, p.node, p.app, p.machine]);
    keep.add(key);
    if (!rows.has(key)) {
      const row = pickRow(p);
      rows.set(key, row);
      $("picks-list").prepend(row);
    }
  }
  for (const [key, row] of rows) {
    if (keep.has(key)) continue;
    row.remove();
    rows.delete(key);
  }
  $("no-picks").hidden = picks.length > 0;
}

function pickRow(p) {
  const li = make("li");
  const box = make("details", "", li);
  const line = make("summary", "", box);
  const t = new Date(p.time);
  const when = make("time", "", line);
  when.dateTime = p.time;
  text(when, `${t.toLocaleTimeString([], { hour12: false })}.${String(t.getMilliseconds()).padStart(3, "0")}`);
  const who = make("b", p.machine ? "who" : "who none", line);
  text(who, p.machine || "none");
  text(make("span", "reason", line), p.reason);
  line.title = [p.app && `app ${p.app}`, p.node && `picked by ${p.node}`].filter(Boolean).join(" · ");
  // The table is made when it is asked for: most never are.
  box.addEventListener("toggle", () => {
    if (box.open && box.childElementCount === 1) candidates(p, make("div", "candidates", box));
  });
  return li;
}

function candidates(p, parent) {
  text(make("p", "", parent), [p.node && `picked by ${p.node}`, p.app && `for app ${p.app}`, p.region && `in ${p.region}`].filter(Boolean).join(", "));
  if (!p.candidates.length) {
    text(make("p", "", parent), "No candidates.");
    return;
  }
  const table = make("table", "", make("div", "wide", parent));
  const head = make("tr", "", make("thead", "", table));
  for (const name of ["Machine", "Region", "Round trip", "Load", "Soft", "Hard", "Note"]) {
    const th = make("th", "", head);
    th.scope = "col";
    text(th, name);
  }
  const body = make("tbody", "", table);
  for (const c of p.candidates) {
    const tr = make("tr", c.machine === p.machine ? "picked" : "", body);
    const rtt = c.rtt_ms === null ? "not measured" : `${brief(c.rtt_ms)} ms`;
    for (const value of [c.machine, c.region, rtt, brief(c.load), c.soft || "–", c.hard || "–", c.machine === p.machine ? ["picked", c.note].filter(Boolean).join("; ") : c.note]) {
      text(make("td", "", tr), value);
    }
  }
}
