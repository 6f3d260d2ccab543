// The emulated links: their list, and the form that changes the one of the selected pair.
import { $, text } from "./dom.js";

const askEvery = 2000; // ms: others change them too

let links = [];
let askedAt = -Infinity;
let shown = ""; // the link in the form
let typed = false; // someone changed the number: leave it alone

// refreshLinks asks for the list now and then. Without links there is nothing to ask for.
export async function refreshLinks(available) {
  if (!available) links = [];
  const now = performance.now();
  if (!available || now - askedAt < askEvery) return;
  askedAt = now;
  try {
    const res = await fetch("links", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    links = res.ok ? await res.json() : [];
  } catch {
    // The page says by itself that the proxy does not answer.
  }
}

// linkOf returns the link between two regions, if there is one.
export const linkOf = (a, b) => links.find((l) => (l.from === a && l.to === b) || (l.from === b && l.to === a));

export const isChanged = (link) => link !== undefined && Math.abs(link.ms - link.usual_ms) >= 0.01;

export const brief = (ms) => String(ms < 10 ? Math.round(10 * ms) / 10 : Math.round(ms));

// showLink fills the form with the link between two regions, or hides it.
export function showLink(a, b) {
  const link = linkOf(a, b);
  const form = $("link");
  form.hidden = link === undefined;
  if (!link) return;
  const name = `${link.from} – ${link.to}`;
  if (shown !== name) {
    shown = name;
    typed = false;
    says("", "");
  }
  text($("link-name"), name);
  if (!typed && document.activeElement !== $("link-ms")) $("link-ms").value = brief(link.ms);
  $("link-usual").hidden = !isChanged(link);
  text($("link-usual"), `Back to ${brief(link.usual_ms)} ms`);
}

function says(words, tone) {
  text($("link-says"), words);
  $("link-says").dataset.tone = tone;
}

async function set(ms) {
  const [from, to] = shown.split(" – ");
  try {
    const res = await fetch("links", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ from, to, ms }),
      signal: AbortSignal.timeout(4000),
    });
    if (!res.ok) {
      says((await res.text()).replace(/^status: /, ""), "bad");
      return;
    }
    const now = await res.json();
    links = links.map((l) => (l.from === now.from && l.to === now.to ? now : l));
    typed = false;
    $("link-ms").value = brief(now.ms);
    says(`Set to ${brief(now.ms)} ms. What is measured follows within seconds.`, "");
  } catch {
    says("No answer: nothing may have changed.", "bad");
  }
}

$("link").addEventListener("submit", (e) => {
  e.preventDefault();
  if ($("link-ms").value !== "") set(Number($("link-ms").value));
});
$("link-ms").addEventListener("input", () => (typed = true));
$("link-usual").addEventListener("click", () => {
  const [from, to] = shown.split(" – ");
  set(linkOf(from, to).usual_ms);
});
