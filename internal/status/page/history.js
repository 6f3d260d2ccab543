// What was measured between each two nodes over the last two minutes. The proxy keeps no history: the page gathers it.
const span = 120; // seconds
const gap = 4; // seconds without a sample break the line: the page slept, or the other node was lost

const pairs = new Map(); // key: samples of {t, ms, loss}, oldest first

export const pairKey = (from, to) => JSON.stringify([from, to]);

// remember takes in the round trips of now.
export function remember(rtt) {
  const now = performance.now() / 1000;
  for (const r of rtt) {
    const key = pairKey(r.from, r.to);
    if (!pairs.has(key)) pairs.set(key, []);
    if (r.state !== "lost") pairs.get(key).push({ t: now, ms: r.ms, loss: r.loss });
  }
  for (const [key, samples] of pairs) {
    while (samples.length && samples[0].t < now - span) samples.shift();
    if (!samples.length) pairs.delete(key);
  }
}

export const forgetPairs = () => pairs.clear();

export const samplesOf = (key) => pairs.get(key) ?? [];

// curve returns the two paths of a chart that is 240 wide and 48 high: the line, and the area below it. value picks what is
// drawn of a sample; what lies outside of low to high is cut off.
export function curve(samples, value, low, high) {
  const now = performance.now() / 1000;
  let line = "";
  let area = "";
  let begun = 0; // where the present piece began
  let x = 0;
  samples.forEach((s, i) => {
    const joins = i > 0 && s.t - samples[i - 1].t <= gap;
    if (!joins && i > 0) area += `L${x} 48L${begun} 48Z`;
    x = (240 * (1 - (now - s.t) / span)).toFixed(2);
    if (!joins) begun = x;
    const share = Math.min(1, Math.max(0, (value(s) - low) / (high - low)));
    const step = `${joins ? "L" : "M"}${x} ${(46 - 44 * share).toFixed(2)}`;
    line += step;
    area += step;
  });
  return { line, area: samples.length ? `${area}L${x} 48L${begun} 48Z` : "" };
}

// bounds returns the least and the most of the samples, and what to draw them between: never so close that noise looks like
// a change.
export function bounds(samples, value) {
  const least = Math.min(...samples.map(value));
  const most = Math.max(...samples.map(value));
  const room = Math.max((most - least) * 1.15, most * 0.3, 1);
  const low = Math.max(0, (most + least - room) / 2);
  return { least, most, low, high: low + room };
}
