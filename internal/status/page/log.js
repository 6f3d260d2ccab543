// The log of decisions: follows the events, shows them, and remembers for each machine the last one that gives a cause.
import { $, make, text } from "./dom.js";

const logRows = 200; // of each group

// What kinds of events mean to people. Those with a word for why give the cause of a machine's state.
export const kinds = {
  "start": { tone: "up", why: "Starting" },
  "started": { tone: "up" },
  "delayed": { tone: "warn", why: "Waiting to start" },
  "not-ready": { tone: "bad", why: "Starting" },
  "health": { tone: "warn", why: "Checked" },
  "answers": { tone: "bad", why: "Answers" },
  "resume": { tone: "up", why: "Resuming" },
  "soft-cordon": { tone: "down", why: "Winding down" },
  "uncordon": { tone: "up", why: "Kept" },
  "veto": { tone: "up", why: "Kept" },
  "notify": { tone: "down", why: "Clients told to leave" },
  "drain": { tone: "down", why: "Closed, letting requests end" },
  "stop": { tone: "down", why: "Put to sleep" },
  "stopped": { tone: "down" },
  "suspend": { tone: "down", why: "Suspended" },
  "suspended": { tone: "down" },
  "link": { tone: "" },
  "alarm": { tone: "bad" },
  "exit": { tone: "bad", why: "Exited" },
  "restart": { tone: "bad", why: "Started again" },
  "bounce": { tone: "warn", group: "requests", many: "bounces" },
  "retry": { tone: "warn", group: "requests", many: "retries" },
  "park": { tone: "warn", group: "requests", many: "parks" },
  "failed": { tone: "bad", group: "requests", many: "failures" },
};

// The latest event that gives a cause, by machine: its name is only its app's.
export const causes = new Map();
export const machineKey = (app, id) => JSON.stringify([app, id]);

// settle replaces what a start has lacked, once it is ready, by that.
function settle(key, e) {
  if (["delayed", "not-ready"].includes(causes.get(key)?.kind)) causes.set(key, { ...e, kind: "start" });
}

// nameNodes says whether rows tell which node they are of: one edge needs no name.
export const nameNodes = (several) => $("log").classList.toggle("nodes", several);

let onEvents = () => {};
let lastSeq = 0;
let waiting = []; // events to be shown at the next frame
let source = null;
let retryTimer = 0;

// follow shows the events from where the last call stopped, and calls changed after each change.
export function follow(changed = onEvents) {
  onEvents = changed;
  stopFollowing();
  source = new EventSource(`events?since=${lastSeq}`);
  source.onmessage = (m) => {
    const e = JSON.parse(m.data);
    if (e.seq <= lastSeq) forget(); // the proxy began anew
    lastSeq = e.seq;
    if (kinds[e.kind]?.why && e.machine) causes.set(machineKey(e.app, e.machine), e);
    if (e.kind === "started") settle(machineKey(e.app, e.machine), e);
    waiting.push(e);
    if (waiting.length === 1) requestAnimationFrame(showEvents);
  };
  source.onerror = () => {
    // The browser tries again by itself, except after an answer that is no stream.
    if (source?.readyState === EventSource.CLOSED) {
      stopFollowing();
      retryTimer = setTimeout(() => follow(), 1000);
    }
  };
}

export function stopFollowing() {
  clearTimeout(retryTimer);
  source?.close();
  source = null;
}

export function forget() {
  lastSeq = 0;
  causes.clear();
  waiting = [];
  floods = new Map();
  $("log").replaceChildren();
  $("no-log").hidden = false;
}

function showEvents() {
  const log = $("log");
  const replay = log.childElementCount === 0;
  const rows = [];
  for (const e of waiting) {
    if (!joinFlood(e, rows)) rows.push(eventRow(e, !replay));
  }
  waiting = [];
  const before = log.scrollHeight;
  const reading = log.scrollTop > 8; // someone looks further down: what they see stays where it is
  log.prepend(...rows.reverse());
  if (reading) log.scrollTop += log.scrollHeight - before;
  // Each group has its own bound: a flood of bounces must not wash away why a machine was started.
  for (const group of ["machines", "requests"]) {
    for (const row of [...log.querySelectorAll(`[data-group=${group}]`)].slice(logRows)) row.remove();
  }
  $("no-log").hidden = log.childElementCount > 0;
  onEvents();
}

// Bounces, retries, parks and failures of one machine and node come once a second while a flood lasts. They share a row that counts,
// so that the list does not run away.
let floods = new Map();
const floodGap = 3000; // ms without one end a flood

function joinFlood(e, rows) {
  if (kinds[e.kind]?.group !== "requests") return false;
  const key = JSON.stringify([e.kind, e.app, e.machine, e.node]);
  const flood = floods.get(key);
  const at = Date.parse(e.time);
  if (!flood || at - flood.at > floodGap || !(flood.row.isConnected || rows.includes(flood.row))) {
    const row = eventRow(e, $("log").childElementCount > 0);
    floods.set(key, { row, from: at, at, count: e.count || 1 });
    rows.push(row);
    return true;
  }
  flood.count += e.count || 1;
  flood.at = at;
  const seconds = Math.round((at - flood.from) / 1000);
  const why = e.count > 1 ? e.reason.replace(/^\d+ [a-z]+: /, "") : e.reason;
  text(flood.row.querySelector(".reason"), `${flood.count} ${kinds[e.kind].many}${seconds > 1 ? ` in ${seconds} s` : ""}: ${why}`);
  return true;
}

function eventRow(e, isNew) {
  const kind = kinds[e.kind] ?? {};
  const li = make("li", isNew ? "new" : "");
  li.dataset.tone = kind.tone ?? "";
  li.dataset.group = kind.group ?? "machines";
  text(make("span", "kind", li), e.kind);
  // Where there is no machine, the node that did it.
  text(make("b", "who", li), e.machine || e.node);
  const when = make("time", "", li);
  const t = new Date(e.time);
  when.dateTime = e.time;
  when.title = t.toLocaleString();
  text(when, t.toLocaleTimeString([], { hour12: false }));
  text(make("p", "reason", li), e.reason);
  if (e.machine && e.node) text(make("p", "node", li), `by ${e.node}`);
  li.title = [e.app && `app ${e.app}`, e.node && `node ${e.node}`, `event ${e.seq}`].filter(Boolean).join(" · ");
  return li;
}

const showButtons = document.querySelectorAll("button[data-show]");
for (const button of showButtons) {
  button.addEventListener("click", () => {
    for (const b of showButtons) b.setAttribute("aria-pressed", String(b === button));
    $("log").dataset.show = button.dataset.show;
    $("log").scrollTop = 0;
  });
}
