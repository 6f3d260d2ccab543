// The page: polls status.json, follows the events, and rests while nobody looks.
import { $, text } from "./dom.js";
import { forgetPairs } from "./history.js";
import { follow, forget, stopFollowing } from "./log.js";
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
      forget();
      forgetPairs();
      follow();
    }
    started = s.started;
  }
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
  text($("asleep-note"), suspended ? `${suspended} suspended` : asleep && !running ? "wakes on a request" : "\u00a0");
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

let past = []; // {t, load, machines}

function showHistory(load, machines, all) {
  const now = performance.now() / 1000;
  past.push({ t: now, load, machines });
  while (past.length > 1 && past[1].t < now - historySeconds) past.shift();
  const top = Math.max(8, ...past.map((h) => h.load));
  text($("history-peak"), Math.max(...past.map((h) => h.load)));
  const x = (h) => (240 * (1 - (now - h.t) / historySeconds)).toFixed(2);
  const y = (v, of) => (39 - (38 * v) / Math.max(1, of)).toFixed(2);
  const loadPath = past.map((h, i) => `${i ? "L" : "M"}${x(h)} ${y(h.load, top)}`).join("");
  let steps = `M${x(past[0])} ${y(past[0].machines, all)}`;
  for (const h of past) steps += `H${x(h)}V${y(h.machines, all)}`;
  $("history-load").setAttribute("d", loadPath);
  $("history-area").setAttribute("d", `${loadPath}L240 40L${x(past[0])} 40Z`);
  $("history-machines").setAttribute("d", steps);
}

/* ---- begin; rest while nobody looks ---- */

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(pollTimer);
    stopFollowing();
    live("paused", "paused");
  } else {
    past = [];
    answers = [];
    follow(refreshCauses);
    poll();
  }
});

if (!document.hidden) {
  follow(refreshCauses);
  poll();
}
