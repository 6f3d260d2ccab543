// The page: polls status.json, follows the events, and rests while nobody looks.
import { $, text } from "./dom.js";
import { forgetPairs } from "./history.js";
import { follow, forget, nameNodes, stopFollowing } from "./log.js";
import { refreshPicks } from "./picks.js";
import { refreshCauses, showRegions } from "./regions.js";
import { showRoundTrips } from "./roundtrips.js";

const pollEvery = 500; // ms
const historySeconds = 120;

let started = null; // of the proxy's process
let failures = 0;
let pollTimer = 0;
let answers = []; // [time, requests] of the last seconds, for the rate

async function poll() {
  clearTimeout(pollTimer);
  try {
    const res = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!res.ok) throw new Error(res.statusText);
    show(await res.json());
    failures = 0;
    document.body.classList.remove("loading");
    live("live", "live");
  } catch {
    failures++;
    if (failures > 1) live("lost", "no answer, trying again");
  }
  if (!document.hidden) pollTimer = setTimeout(poll, failures ? 1000 : pollEvery);
}

function live(is, words) {
  $("live").dataset.is = is;
  text($("live").lastElementChild, words);
  document.body.classList.toggle("stale", is === "lost");
}

function show(s) {
  if (s.started !== undefined && started !== s.started) {
    if (started !== null) {
      answers = [];
      past = [];
      recalled = false;
      forget();
      forgetPairs();
      follow();
    }
    started = s.started;
  }
  nameNodes(s.nodes.filter((n) => n.role.includes("edge")).length > 1);
  const hint = s.autostart_off ? "Autostart is off: requests wake no machine." : "Send a request: it wakes a machine.";
  text($("no-log-hint"), hint);
  if (s.also?.includes("history")) recall();
  showFigures(s);
  showRegions(s);
  showRoundTrips(s);
  refreshPicks(s.also?.includes("picks"));
}

function showFigures(s) {
  const count = (...states) => s.machines.filter((m) => states.includes(m.state)).length;
  const running = count("started");
  const starting = count("starting");
  const leaving = count("stopping", "suspending");
  const failed = count("failed");
  const suspended = count("suspended");
  const asleep = count("stopped") + suspended;
  const inFlight = s.in_flight ?? s.machines.reduce((n, m) => n + m.load, 0);

  text($("running"), running);
  text($("running-of"), `of ${s.machines.length}`);
  text($("running-note"), [starting && `${starting} starting`, leaving && `${leaving} going to sleep`, failed && `${failed} failed`].filter(Boolean).join(", ") || "\u00a0");
  text($("asleep"), asleep);
  text($("asleep-note"), suspended ? `${suspended} suspended` : asleep && !running ? (s.autostart_off ? "autostart is off" : "wakes on a request") : "\u00a0");
  text($("inflight"), inFlight);
  text($("rate"), rate(s.requests));
  text($("parked"), s.parked);
  text($("parked-note"), s.parked ? "for a free machine" : "no request is parked");
  $("parked-figure").classList.toggle("wait", s.parked > 0);
  text($("title"), s.title ?? "");
  document.title = `${running}/${s.machines.length} running · ebb`;
  showHistory(inFlight, running, s.machines.length);
}

function rate(requests) {
  if (requests === undefined) return "\u00a0";
  const now = performance.now();
  answers.push([now, requests]);
  while (answers.length > 2 && now - answers[0][0] > 3000) answers.shift();
  const [t, n] = answers[0];
  const perSecond = now > t ? ((requests - n) * 1000) / (now - t) : 0;
  return `${perSecond >= 10 ? Math.round(perSecond) : perSecond.toFixed(1)} requests/s`;
}

/* ---- two minutes back ---- */

let past = []; // {t, load, machines}, oldest first
let recalled = false;

// recall asks once for what was before the page was opened, or came back.
async function recall() {
  if (recalled) return;
  recalled = true;
  try {
    const res = await fetch("history", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!res.ok) return;
    const now = performance.now() / 1000;
    const before = (await res.json()).map((s) => ({ t: now - s.ago, load: s.in_flight, machines: s.running }));
    const oldest = past.length ? past[0].t : Infinity;
    past = [...before.filter((s) => s.t < oldest), ...past];
  } catch {
    recalled = false;
  }
}

function showHistory(load, machines, all) {
  const now = performance.now() / 1000;
  past.push({ t: now, load, machines });
  while (past.length > 1 && past[1].t < now - historySeconds) past.shift();
  const peak = Math.max(...past.map((h) => h.load));
  const top = roundTop(peak);
  text($("history-peak"), peak);
  text($("history-all"), all);
  text($("history-top"), top);
  text($("history-half"), top / 2);
  text($("history-machines-top"), all);
  const x = (h) => (240 * (1 - (now - h.t) / historySeconds)).toFixed(2);
  const y = (v, of) => (39 - (38 * v) / Math.max(1, of)).toFixed(2);
  const loadPath = past.map((h, i) => `${i ? "L" : "M"}${x(h)} ${y(h.load, top)}`).join("");
  let steps = `M${x(past[0])} ${y(past[0].machines, all)}`;
  for (const h of past) steps += `H${x(h)}V${y(h.machines, all)}`;
  $("history-load").setAttribute("d", loadPath);
  $("history-area").setAttribute("d", `${loadPath}L240 40L${x(past[0])} 40Z`);
  $("history-machines").setAttribute("d", steps);
}

// roundTop is where an axis ends: an even number that people read at once, at or above the peak.
function roundTop(peak) {
  let step = 1;
  for (;;) {
    for (const n of [4, 8, 10, 20]) if (n * step >= peak) return n * step;
    step *= 10;
  }
}

/* ---- begin; rest while nobody looks ---- */

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(pollTimer);
    stopFollowing();
    live("paused", "paused");
  } else {
    past = [];
    recalled = false;
    answers = [];
    follow(refreshCauses);
    poll();
  }
});

if (!document.hidden) {
  follow(refreshCauses);
  poll();
}
